"""Pieces against torch: bicubic resampling of absolute positions and bias tables."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from support import tolerances
from support.swin.parity import import_or_skip

import autograd as ag
from swinpy.models.resample import bicubic_matrix, resize_bias_table, resize_map

pytestmark = pytest.mark.parity


def _load() -> Any:
    import torch

    return torch


torch = import_or_skip(_load)

SIZES = [(1, 1), (1, 4), (2, 7), (4, 2), (5, 5), (7, 13), (13, 7), (14, 56), (56, 16), (3, 100)]


def _torch_resize(x: Any, size: tuple[int, int]) -> Any:
    planes = x.permute(2, 0, 1)[None]
    resized = torch.nn.functional.interpolate(planes, size=size, mode="bicubic", align_corners=False)
    return resized[0].permute(1, 2, 0)


@pytest.mark.parametrize(("source", "target"), SIZES)
def test_bicubic_matrix(source: int, target: int) -> None:
    columns = torch.eye(source, dtype=torch.float64).reshape(source, 1, source)
    expected = _torch_resize(columns, (target, 1)).numpy()[:, 0, :]
    np.testing.assert_allclose(bicubic_matrix(source, target), expected, rtol=0, atol=tolerances.BICUBIC)


@pytest.mark.parametrize(("source", "target"), [((7, 5), (10, 4)), ((4, 4), (9, 2))])
def test_resize_map_and_its_gradient(source: tuple[int, int], target: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    values, g = rng.standard_normal((*source, 3)), rng.standard_normal((*target, 3))
    x, y = ag.Tensor(values, requires_grad=True), torch.tensor(values, requires_grad=True)
    ours, theirs = resize_map(x, target), _torch_resize(y, target)
    ours.backward(g)
    theirs.backward(torch.tensor(g))
    np.testing.assert_allclose(ours.numpy(), theirs.detach().numpy(), rtol=0, atol=tolerances.BICUBIC * 10)
    assert x.grad is not None
    np.testing.assert_allclose(x.grad, y.grad.numpy(), rtol=0, atol=tolerances.BICUBIC * 10)


@pytest.mark.parametrize(
    ("window", "target"), [((7, 7), (12, 12)), ((12, 12), (7, 7)), ((3, 5), (4, 2)), ((1, 1), (4, 4))]
)
def test_bias_table_at_another_window(window: tuple[int, int], target: tuple[int, int]) -> None:
    """As the official code resizes it: rows of the table as an image, one channel a head."""
    old, new = ((2 * h - 1, 2 * w - 1) for h, w in (window, target))
    table = np.random.default_rng(0).standard_normal((old[0] * old[1], 3))
    expected = _torch_resize(torch.tensor(table).reshape(*old, 3), new).numpy()
    got = resize_bias_table(table, window, target)
    np.testing.assert_allclose(got, expected.reshape(-1, 3), rtol=0, atol=tolerances.BICUBIC * 10)
