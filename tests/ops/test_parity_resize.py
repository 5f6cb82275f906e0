"""Interpolation and pooling against torch, at drawn sizes and layouts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from support import tolerances
from support.swin.parity import import_or_skip

import autograd as ag

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.parity


def _load() -> Any:
    import torch

    return torch


torch = import_or_skip(_load)


def _agree(ours: Callable[..., Any], theirs: Callable[..., Any], x: Any, last: bool) -> None:
    leaf, peer = ag.Tensor(x, requires_grad=True), torch.tensor(np.ascontiguousarray(x), requires_grad=True)
    out, want = ours(leaf), theirs(peer)
    g = np.random.default_rng(1).standard_normal(want.shape)
    pairs = (
        (out.data, want.detach().numpy()),
        (ag.grad(out, leaf, g)[0], torch.autograd.grad(want, peer, torch.tensor(g))[0].numpy()),
    )
    for a, b in pairs:
        assert a.shape == b.shape
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerances.FORWARD * max(abs(b[np.isfinite(b)]).max(), 1))
    if last and out is not leaf:
        assert out.data.transpose(0, 2, 3, 1).flags.c_contiguous


def _map(rng: Any, shape: tuple[int, ...], last: bool) -> Any:
    """Rounded values, so that some are equal."""
    values = np.round(rng.standard_normal(shape), 1)
    return np.ascontiguousarray(values.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2) if last else values


@pytest.mark.parametrize("last", [False, True], ids=["channels_first", "channels_last"])
@pytest.mark.parametrize("seed", range(40))
def test_resizing(seed: int, last: bool) -> None:
    rng = np.random.default_rng(seed)
    height, width, *size = rng.integers(1, 20, 4).tolist()
    x = _map(rng, (2, 3, height, width), last)
    f = torch.nn.functional
    _agree(lambda t: ag.interpolate(t, size), lambda t: f.interpolate(t, size), x, last)
    for corners in (False, True):
        options = {"mode": "bilinear", "align_corners": corners}
        _agree(
            lambda t, o=options: ag.interpolate(t, size, **o), lambda t, o=options: f.interpolate(t, size, **o), x, last
        )
    _agree(lambda t: ag.adaptive_avg_pool2d(t, size), lambda t: f.adaptive_avg_pool2d(t, size), x, last)


@pytest.mark.parametrize("last", [False, True], ids=["channels_first", "channels_last"])
@pytest.mark.parametrize("seed", range(40))
def test_maxima(seed: int, last: bool) -> None:
    rng = np.random.default_rng(seed)
    kernel, stride = rng.integers(1, 6, 2).tolist(), rng.integers(1, 6, 2).tolist()
    padding = [int(rng.integers(0, k // 2 + 1)) for k in kernel]
    x = _map(rng, (2, 3, *(int(rng.integers(k, k + 12)) for k in kernel)), last)
    x[rng.random(x.shape) < 0.3] = -np.inf
    x[rng.random(x.shape) < 0.03] = np.nan
    _agree(
        lambda t: ag.max_pool2d(t, kernel, stride, padding),
        lambda t: torch.nn.functional.max_pool2d(t, kernel, stride, padding),
        x,
        last,
    )


def test_nearest_takes_torch_s_pixels() -> None:
    """Of float32, at sizes where rounding decides."""
    for n in (*range(1, 40), 54, 80, 84, 96, 104, 120, 333):
        row = np.arange(n, dtype=np.float32).reshape(1, 1, 1, n)
        for size in (*range(1, 60), 97, 148, 162, 183, 190, 333, 400):
            want = torch.nn.functional.interpolate(torch.tensor(row), (1, size)).numpy()
            np.testing.assert_array_equal(ag.interpolate(row, (1, size)).data, want, err_msg=f"{n} to {size}")
