"""Swins against timm's, in float64: divisible maps, and its order of roll and padding where it is reproduced."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from support import tolerances
from support.swin.models import build, images
from support.swin.parity import assert_gradients_agree, import_or_skip, loss_and_gradients
from support.swin.twins import load_timm, timm_name, timm_twin

import autograd as ag
from swinpy import SwinConfig, SwinTransformer
from swinpy.models.parts import Stream
from swinpy.models.presets import preset_options

pytestmark = pytest.mark.parity


torch, _, _ = import_or_skip(load_timm)

V1 = SwinConfig(
    img_size=64,
    patch_size=2,
    num_classes=7,
    embed_dim=12,
    depths=(2, 2),
    num_heads=(2, 3),
    window_size=4,
    drop_path_rate=0.0,
    **preset_options("timm", "v1"),
)
V2 = V1.with_changes(architecture="v2")
THREE: dict[str, Any] = {"depths": (2, 2, 2), "num_heads": (2, 3, 4)}
SHAPES: dict[str, dict[str, Any]] = {
    "divisible": {},
    "padded": {"img_size": (44, 36), "window_size": 3},  # 22x18, 11x9
    "odd_merging": {"img_size": (34, 46), "window_size": 5},  # 17x23, 9x12
    "clamped_by_axis": {"img_size": (12, 40), "window_size": 8},  # 6x20 with a window of 6x8, 3x10 with 3x8
    "clamped_to_one": {"img_size": (20, 4), "window_size": 4, **THREE},  # 10x2, 5x1, 3x1
    "stage_windows": {"img_size": 96, "window_size": (4, 6, 8), **THREE},
}
CASES = {
    **{f"v1_{name}": V1.with_changes(**shape) for name, shape in SHAPES.items()},
    **{f"v2_{name}": V2.with_changes(**shape) for name, shape in SHAPES.items()},
    "v2_pretrained": V2.with_changes(pretrained_window_sizes=(3, 6), window_size=5),
}


@pytest.mark.parametrize("name", CASES)
def test_logits_and_every_gradient(name: str) -> None:
    model = build(CASES[name])
    x = images(model.config.image, 2)
    weights = np.random.default_rng(1).standard_normal((len(x), 7))
    logits, ours = loss_and_gradients(model, x, lambda z: (z * weights).sum())
    twin, pixels = timm_twin(model), torch.tensor(x, requires_grad=True)
    expected = twin(pixels)
    (expected * torch.tensor(weights)).sum().backward()
    grads = {n: p.grad.numpy() for n, p in twin.named_parameters()}
    theirs = {n: grads[timm_name(n)] for n in model.state_dict()} | {"input": pixels.grad.numpy()}
    want = expected.detach().numpy()
    error = float(np.abs(logits - want).max() / np.abs(want).max())
    assert error <= tolerances.PARITY, f"logits off by {error:.2e}"
    assert_gradients_agree(ours, theirs, tolerances.PARITY)


@pytest.mark.parametrize("size", [(20, 28), (6, 70), (50, 10)])
@pytest.mark.parametrize("architecture", ["v1", "v2"])
def test_another_size_than_built(architecture: str, size: tuple[int, int]) -> None:
    """Windows and shifts stay as built, smaller maps are padded."""
    model = build(V1.with_changes(architecture=architecture, window_size=7))
    x = images(size)
    with torch.no_grad():
        want = timm_twin(model)(torch.tensor(x)).numpy()
    np.testing.assert_allclose(model(x).numpy(), want, rtol=0, atol=tolerances.PARITY * np.abs(want).max())


@pytest.mark.parametrize("architecture", ["v1", "v2"])
def test_roll_before_pad_is_another_model(architecture: str) -> None:
    """The smallest case: a block with shifted windows of 7 on a map of 8x8, where the last token sees the first."""
    config = V1.with_changes(architecture=architecture, img_size=16, window_size=7, depths=(2,), num_heads=(2,))
    model, right = build(config), build(config.with_changes(pad_order="pad_roll"))
    twin = timm_twin(model)
    x = np.random.default_rng(0).standard_normal((1, 8, 8, 12))
    changed = x.copy()
    changed[:, 0, 0] += np.linspace(-1, 1, 12)

    def theirs(v: Any) -> Any:
        with torch.no_grad():
            return twin.layers[0].blocks[1](torch.tensor(v)).numpy()

    def ours(net: SwinTransformer) -> Any:
        return lambda v: net.layers[0].blocks[1](Stream(ag.Tensor(v))).value().numpy()

    def moved(run: Any) -> float:
        """How far the last token goes when the first one changes."""
        return float(np.abs(run(changed) - run(x))[:, -1, -1].max())

    want = theirs(x)
    np.testing.assert_allclose(ours(model)(x), want, rtol=0, atol=tolerances.PARITY * np.abs(want).max())
    assert moved(theirs) > 1e-6
    assert moved(ours(model)) > 1e-6
    assert moved(ours(right)) == 0
