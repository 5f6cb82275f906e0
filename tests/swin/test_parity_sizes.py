"""Every preset against its library at built-in sizes and others, in float64: odd, even, not square, no whole patches,
smaller than a window. Where a library does not run, the test knows the words of its error (docs/differences.md).

The official code is no package; where it runs (maps even at every merging) its rules are the ones of "clamp" and "map".
"""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from support import tolerances
from support.swin.models import build, images
from support.swin.parity import import_or_skip
from support.swin.tv import load_tv, tv_twin
from support.swin.twins import hf_twin, hf_v2_twin, load_hf, load_timm, timm_twin

from swinpy import SwinConfig
from swinpy.models.presets import preset_options

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.parity

torch = import_or_skip(lambda: (load_tv(), load_timm(), load_hf()))[0][0]

TWINS: dict[tuple[Any, Any], Any] = {
    ("timm", "v1"): timm_twin,
    ("timm", "v2"): timm_twin,
    ("torchvision", "v1"): tv_twin,
    ("torchvision", "v2"): tv_twin,
    ("hf", "v1"): lambda model: hf_twin(model, torch.float64),
    ("hf", "v2"): hf_v2_twin,
}
# In pixels, of patches of 2: 18 are maps of 9, 5 and 3; 17 are 9 patches, of which 8 are whole.
BUILT = (8, 10, 14, (17, 17), 18, 22, 26, (30, 10), (10, 30), (14, 26), (26, 14), (21, 33), (33, 19), 34)
OTHER = ((13, 22), (22, 13), (52, 50))
QUICK = ((2, 18), (3, (30, 10)), (5, (21, 33)), (7, 22), (8, (10, 30)))  # (window, built)

# What a library does not run, by the words of its error.
REFUSED: dict[tuple[Any, Any], tuple[str, ...]] = {
    ("timm", "v1"): ("should be divisible by patch size",),
    ("timm", "v2"): ("should be divisible by patch size",),
    ("hf", "v1"): (
        "The size of tensor a",
        "doesn't match the broadcast shape",
    ),  # a bias of another size than the clamped window
}


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Of many small models: torch's threads would wait for each other most of the time."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def _pixels(size: Any) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else size


def _config(preset: Any, architecture: Any, window: int, built: Any) -> SwinConfig:
    return SwinConfig(
        architecture=architecture,
        img_size=built,
        patch_size=2,
        num_classes=3,
        embed_dim=4,
        depths=(2, 2, 2),
        num_heads=(1, 2, 2),
        window_size=window,
        drop_path_rate=0.0,
        **preset_options(preset, architecture),
    )


def _theirs(twin: Any, x: Any) -> Any:
    with torch.no_grad():
        out = twin(torch.tensor(x))
    return (out if torch.is_tensor(out) else out.logits).numpy()


def _compare(preset: Any, architecture: Any, cases: list[tuple[int, Any]]) -> None:
    ran, total, refused = 0, 0, REFUSED.get((preset, architecture), ())
    for window, built in cases:
        model = build(_config(preset, architecture, window, built))
        for size in (_pixels(built), *OTHER):
            total += 1
            x, twin = images(size, 1), TWINS[preset, architecture](model)  # transformers' V1 changes when it runs
            try:
                want = _theirs(twin, x)
            except (AssertionError, RuntimeError) as error:
                if not any(words in str(error) for words in refused):
                    raise
                model(x)
                continue
            ran += 1
            off = float(np.abs(model(x).numpy() - want).max() / np.abs(want).max())
            assert off <= tolerances.PARITY_SMALL, (
                f"window {window}, built for {built}, run at {size}: off by {off:.2e}"
            )
    assert 4 * ran >= total, f"only {ran} of {total} ran"


@pytest.mark.parametrize(("preset", "architecture"), TWINS)
def test_sizes(preset: Any, architecture: Any) -> None:
    _compare(preset, architecture, list(QUICK))


@pytest.mark.slow
@pytest.mark.parametrize(("preset", "architecture"), TWINS)
def test_every_size(preset: Any, architecture: Any) -> None:
    windows = (2, 3, 4, 5, 7, 8) if preset == "torchvision" else (1, 2, 3, 4, 5, 7, 8)  # there a window of 1 is NaN
    _compare(preset, architecture, list(product(windows, BUILT)))
