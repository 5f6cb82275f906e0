"""The page's recipe for other frameworks, on torchvision's Swin: its snippet writes the file that diff reads."""

from __future__ import annotations

import re
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from repo.sources import ROOT
from support.swin.models import build, images
from support.swin.parity import import_or_skip
from support.swin.tv import TV_BASE, load_tv

from swinpy.verify import Trace, diff, trace

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = pytest.mark.parity


torch, torchvision_swin = import_or_skip(load_tv)

CONFIG = TV_BASE.with_changes(window_size=4)
# Ours to theirs, modules and parameters alike.
_RULES = (
    (r"^patch_embed\.proj\b", "features.0.0"),
    (r"^patch_embed\.norm\b(?!\.input)", "features.0.2"),
    (r"^layers\.(\d+)\.blocks\.", lambda m: f"features.{2 * int(m[1]) + 1}."),
    (r"^layers\.(\d+)\.downsample\b", lambda m: f"features.{2 * int(m[1]) + 2}"),
    (r"^layers\.(\d+)$", lambda m: f"features.{2 * int(m[1]) + 1}"),
    (r"\.mlp\.fc1\b", ".mlp.0"),
    (r"\.mlp\.act$", ".mlp.1"),
    (r"\.mlp\.fc2\b", ".mlp.3"),
)


def _theirs(name: str) -> str:
    for pattern, replacement in _RULES:
        name = re.sub(pattern, replacement, name)
    return name


def _dump() -> Callable[..., None]:
    """The function in the document."""
    text = (ROOT / "docs" / "verifying.md").read_text(encoding="utf-8")
    (source,) = re.findall(r"```python\n(def dump\(.*?)```", text, re.DOTALL)
    scope: dict[str, Any] = {"torch": torch, "numpy": np}
    exec(source, scope)
    return scope["dump"]  # type: ignore[no-any-return]


def _pair() -> tuple[Any, Any]:
    ours = build(CONFIG)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = torchvision_swin.SwinTransformer(
            patch_size=[4, 4],
            embed_dim=12,
            depths=[2, 2],
            num_heads=[2, 3],
            window_size=[4, 4],
            stochastic_depth_prob=0.0,
            num_classes=7,
        )
    state = {_theirs(n): torch.from_numpy(a.copy()) for n, a in ours.state_dict().items()}
    missing, unexpected = theirs.double().eval().load_state_dict(state, strict=False)
    assert not unexpected
    assert all("relative_position_index" in n for n in missing)
    return ours, theirs


def _compare(ours: Any, theirs: Any, path: Path, size: tuple[int, int] = (72, 92)) -> Any:
    x = images(size)
    _dump()(theirs, torch.from_numpy(x), path)
    assert Trace.load(path).gradients
    return diff(trace(ours, x), path, names=_theirs, layouts={"patch_embed.proj": lambda got, shape: got})


def test_torchvision_agrees_in_every_value_that_both_have(tmp_path: Path) -> None:
    result = _compare(*_pair(), tmp_path / "port.npz")
    assert result.same, str(result)
    for name in ("layers.0.blocks.1.norm1", "layers.0.blocks.1.attn", "layers.1.blocks.0.mlp.act", "layers.0", "head"):
        assert name in result.compared
    assert len(result.compared) > 100
    assert len(result.compared_gradients) > 100


@pytest.mark.parametrize(
    ("fault", "name", "words"),
    [
        ("shift", "layers.0.blocks.1.attn", "differ"),
        ("eps", "layers.1.blocks.0.norm2", "differ"),
        ("weights", "layers.0.downsample.reduction.weight", "axis 1: blocks of 12 in the order 0, 2, 1, 3"),
        ("gelu", "layers.0.blocks.0.mlp.act", "the tanh approximation of GELU"),
    ],
)
def test_faults_in_torchvisions_model(tmp_path: Path, fault: str, name: str, words: str) -> None:
    ours, theirs = _pair()
    block = theirs.features[1][1]
    if fault == "shift":
        block.attn.shift_size = [0, 0]
    elif fault == "eps":
        theirs.features[3][0].norm2.eps = 1e-3
    elif fault == "gelu":
        theirs.features[1][0].mlp[1] = torch.nn.GELU("tanh")
    else:
        weight = theirs.features[2].reduction.weight
        with torch.no_grad():
            weight.copy_(weight.reshape(24, 4, 12)[:, [0, 2, 1, 3]].reshape(24, 48))
    result = _compare(ours, theirs, tmp_path / "port.npz")
    assert result.forward is not None
    assert result.forward.name == name
    assert words in str(result.forward)
