"""The feature pyramid: sizes, what it starts with, what it refuses."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import autograd as ag
from swinpy.detection import FPN

CHANNELS = (8, 16, 24)
SIZES = {"even": [(16, 20), (8, 10), (4, 5)], "odd": [(13, 21), (7, 11), (3, 5)], "thin": [(2, 33), (1, 17), (1, 9)]}


def maps_of(sizes: list[tuple[int, int]]) -> list[Any]:
    rng = np.random.default_rng(0)
    return [rng.standard_normal((2, c, *size)) for c, size in zip(CHANNELS, sizes, strict=True)]


def run(fpn: FPN, arrays: list[Any]) -> tuple[list[Any], list[Any], dict[str, Any]]:
    """The pyramid; gradients of the maps and of the parameters, for fixed gradients of the pyramid."""
    maps = [ag.Tensor(x, requires_grad=True) for x in arrays]
    out = fpn(maps)
    rng = np.random.default_rng(1)
    sum((y * rng.standard_normal(y.shape)).sum() for y in out).backward()  # type: ignore[union-attr]
    return [y.data for y in out], [x.grad for x in maps], {name: p.grad for name, p in fpn.named_parameters()}


def build(**options: Any) -> FPN:
    ag.manual_seed(0)
    fpn = FPN(CHANNELS, 12, **options).astype(np.float64)
    rng = np.random.default_rng(2)
    for parameter in fpn.parameters():
        parameter.assign_(rng.standard_normal(parameter.shape) * 0.2)
    return fpn


def test_sizes_and_channels() -> None:
    out, _, _ = run(build(), maps_of(SIZES["odd"]))
    assert [y.shape for y in out] == [(2, 12, 13, 21), (2, 12, 7, 11), (2, 12, 3, 5), (2, 12, 2, 3)]
    out, _, _ = run(build(extra="input", extra_maps=3), maps_of(SIZES["odd"]))
    assert [y.shape[2:] for y in out[3:]] == [(2, 3), (1, 2), (1, 1)]


def test_weights_start_as_mmdetections() -> None:
    fpn = FPN((64, 128), 96)
    for layer, fans in ((fpn.lateral[0], 64 + 96), (fpn.output[1], 9 * (96 + 96))):
        bound = (6 / fans) ** 0.5
        assert 0.98 * bound < abs(layer.weight.data).max() <= bound
        assert not layer.bias.data.any()


def test_what_does_not_fit() -> None:
    with pytest.raises(ValueError, match="FPN: expected 3 maps; got 2"):
        build()([ag.Tensor(x) for x in maps_of(SIZES["odd"])[:2]])
    with pytest.raises(ValueError, match="expected extra as one of none, pool, input, output; got 'max'"):
        FPN((8,), 8, extra="max")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="expected positive channels"):
        FPN((8, 0), 8)
