"""The feature pyramid against torchvision's, forward and backward, at sizes that are no halves."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from detection.test_fpn import CHANNELS, SIZES, build, maps_of, run
from support.detection.tv import load_tv_detection
from support.swin.parity import import_or_skip

pytestmark = pytest.mark.parity

torch = import_or_skip(load_tv_detection).torch


def assert_equal(fpn: Any, arrays: list[Any], peer: Any, call: Any, names: dict[str, str]) -> None:
    """Same maps and gradients as a torch module, whose parameters ``names`` maps to ours."""
    ours = dict(fpn.named_parameters())
    theirs = dict(peer.double().named_parameters())
    assert sorted(names) == sorted(theirs)
    assert sorted(names.values()) == sorted(ours)
    with torch.no_grad():
        for name, parameter in theirs.items():
            parameter.copy_(torch.from_numpy(ours[names[name]].data))
    out, gx, gw = run(fpn, arrays)
    maps = [torch.tensor(x, requires_grad=True) for x in arrays]
    want = call(maps)
    rng = np.random.default_rng(1)
    sum((y * torch.from_numpy(rng.standard_normal(y.shape))).sum() for y in want).backward()
    for got, right in zip([*out, *gx], [*(y.detach() for y in want), *(x.grad for x in maps)], strict=True):
        np.testing.assert_allclose(got, right.numpy(), rtol=0, atol=1e-12)
    for name, parameter in theirs.items():
        np.testing.assert_allclose(gw[names[name]], parameter.grad.numpy(), rtol=0, atol=1e-11)


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("extra", ["none", "pool", "input", "output"])
def test_is_torchvisions(extra: str, sizes: str) -> None:
    from torchvision.ops import feature_pyramid_network as theirs

    blocks = {
        "pool": lambda: theirs.LastLevelMaxPool(),
        "input": lambda: theirs.LastLevelP6P7(CHANNELS[-1], 12),
        "output": lambda: theirs.LastLevelP6P7(12, 12),
    }
    peer = theirs.FeaturePyramidNetwork(list(CHANNELS), 12, blocks[extra]() if extra in blocks else None)
    names = {}
    for i in range(len(CHANNELS)):
        for kind in ("weight", "bias"):
            names[f"inner_blocks.{i}.0.{kind}"] = f"lateral.{i}.{kind}"
            names[f"layer_blocks.{i}.0.{kind}"] = f"output.{i}.{kind}"
    if extra in ("input", "output"):
        names |= {f"extra_blocks.p{i + 6}.{kind}": f"extra.{i}.{kind}" for i in (0, 1) for kind in ("weight", "bias")}
    call = lambda maps: list(peer({str(i): x for i, x in enumerate(maps)}).values())  # noqa: E731
    assert_equal(build(extra=extra, relu=True), maps_of(SIZES[sizes]), peer, call, names)
