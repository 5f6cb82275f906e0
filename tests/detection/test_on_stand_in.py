"""The plain functions on the stand-in for CuPy: the same results as on the host."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from support.gpu import fake_cupy
from support.gpu.fake_cupy import to_device

import autograd as ag
from swinpy.detection import (
    Anchors,
    BoxCoder,
    Draw,
    LevelRule,
    MaskTargetRule,
    MatchRule,
    SampleRule,
    assign,
    box_giou,
    grouped_nms,
    inside_border,
    mask_targets,
    paste_masks,
    roi_levels,
    sample,
    top_k,
)
from swinpy.ops import pool_levels


def _arrays() -> dict[str, Any]:
    rng = np.random.default_rng(0)
    low = rng.uniform(0, 15, (9, 2))
    boxes = np.concatenate([low, low + rng.uniform(2, 30, (9, 2))], axis=1)
    return {
        "truth": boxes[:4],
        "boxes": boxes,
        "scores": rng.permutation(9) / 9,
        "groups": rng.integers(0, 3, 9),
        "maps": [rng.standard_normal((2, 3, 16, 18)), rng.standard_normal((2, 3, 8, 9))],
        "images": rng.integers(0, 2, 9),
        "levels": rng.integers(0, 2, 9),
        "masks": rng.random((4, 40, 50)) < 0.5,
        "which": rng.integers(0, 4, 9),
        "probabilities": rng.random((9, 7, 7)),
    }


def _everything(a: dict[str, Any], xp: Any) -> list[Any]:
    coder, found = BoxCoder((0.1, 0.1, 0.2, 0.2), True), assign(a["truth"], a["boxes"], MatchRule(0.5, 0.3, "object"))
    results = [*found, assign(a["truth"], a["boxes"], MatchRule(0.5, 0.3, "nearest")).truth]
    results += sample(found.truth, SampleRule(12, 0.25), Draw(1, 2, 3))
    offsets = coder.encode(a["boxes"], a["boxes"][::-1])
    results += [offsets, coder.decode(offsets, a["boxes"], (40, 50)), box_giou(a["truth"], a["boxes"])]
    results += [*Anchors((8,), ((16,),)).on([(3, 4)], (24, 32), np.float64, xp), inside_border(a["boxes"], (40, 50), 0)]
    results += [grouped_nms(a["boxes"], a["scores"], a["groups"], 0.3), top_k(a["scores"], 7)]
    results += [roi_levels(a["boxes"], 3, LevelRule("torchvision", canonical_size=16, canonical_level=3))]
    results += [mask_targets(a["masks"], a["boxes"], a["which"], 6, MaskTargetRule(threshold=None))]
    results += [w.values for w in paste_masks(a["probabilities"], a["boxes"], (40, 50), threshold=None)]
    maps = [ag.Tensor(x, requires_grad=True) for x in a["maps"]]
    pooled = pool_levels(maps, a["boxes"], a["images"], a["levels"], 3, scales=(0.25, 0.125))
    pooled.backward(pooled.data * 2)
    return [*results, pooled.data, *(x.grad for x in maps)]


@pytest.mark.parametrize("mode", ["auto", "reference"])
def test_same_as_on_the_host(mode: Any) -> None:
    with ag.kernel_mode(mode):
        want = _everything(_arrays(), np)
    with fake_cupy.installed() as cupy, ag.kernel_mode(mode):
        found = _everything({k: to_device(v) for k, v in _arrays().items()}, cupy)
        assert all(isinstance(array, cupy.ndarray) for array in found)
        found = [array.get() for array in found]
    for got, expected in zip(found, want, strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-12, atol=1e-12)
