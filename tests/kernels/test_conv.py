"""Convolutions, compiled: each way against the reference in float64, their bits, and who goes which way."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from support.implementations import needs_numba

import autograd as ag
from autograd.kernels import KERNELS, blocks, explain, kernel_mode

ONE, THREE = ((1, 1), (0, 0)), ((1, 1), (1, 1))
# images, channels, height, width, outputs, kernel, stride, padding
WINOGRAD = [
    (1, 16, 16, 16, 16, (3, 3), *THREE),
    (2, 32, 17, 19, 48, (3, 3), *THREE),  # no side is whole tiles; a panel is half full
    (3, 288, 18, 15, 32, (3, 3), *THREE),  # more channels than are multiplied at a time
    (1, 48, 40, 52, 16, (3, 3), *THREE),  # more tiles than a block
]
DIRECT = [
    (2, 5, 9, 11, 7, (3, 3), *THREE),
    (2, 16, 9, 8, 16, (3, 3), *THREE),
    (1, 3, 20, 21, 33, (3, 3), (2, 2), (1, 1)),
    (1, 8, 13, 8, 4, (5, 2), (1, 3), (2, 0)),
    (1, 70, 30, 33, 40, (3, 3), (1, 1), (0, 2)),
    (1, 4, 8, 9, 3, (2, 2), (1, 1), (3, 3)),  # more padding than kernel
]
ROWS = [(2, 24, 9, 11, 40, (1, 1), *ONE), (1, 96, 40, 40, 200, (1, 1), *ONE)]
REFERENCE = [(2, 4, 3, 5, 6, (3, 3), *THREE), (0, 16, 16, 16, 16, (3, 3), *THREE)]


def _case(case: tuple[Any, ...], dtype: Any = np.float32) -> tuple[Any, ...]:
    """x, weight, bias, the output's gradient, stride, padding."""
    batch, channels, height, width, outputs, kernel, stride, padding = case
    rng = np.random.default_rng(0)
    x = rng.standard_normal((batch, channels, height, width)).astype(dtype)
    weight = (rng.standard_normal((outputs, channels, *kernel)) / np.sqrt(channels * np.prod(kernel))).astype(dtype)
    bias = rng.standard_normal(outputs).astype(dtype)
    shape = KERNELS["conv2d_fwd"].reference(x, weight, bias, stride, padding).shape
    return x, weight, bias, rng.standard_normal(shape).astype(dtype), stride, padding


def _results(case: tuple[Any, ...]) -> list[Any]:
    x, weight, bias, g, stride, padding = case
    out = KERNELS["conv2d_fwd"](x, weight, bias, stride, padding)
    return [out, *KERNELS["conv2d_bwd"](g, x, weight, stride, padding, (True,) * 3)]


def _wide(case: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(a.astype(np.float64) if isinstance(a, np.ndarray) else a for a in case)


@needs_numba
@pytest.mark.parametrize(
    ("way", "case"),
    [(way, case) for way, of in (("winograd", WINOGRAD), ("direct", DIRECT), ("rows", ROWS)) for case in of]
    + [("reference", case) for case in REFERENCE],
)
@pytest.mark.parametrize("channels_last", [False, True])
def test_each_way_is_the_reference(way: str, case: tuple[Any, ...], channels_last: bool) -> None:
    x, weight, bias, g, *geometry = _case(case)
    if channels_last:
        x, g = (np.ascontiguousarray(a.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2) for a in (x, g))
    assert explain("conv2d_fwd", x, weight, bias, *geometry).startswith(f"conv2d_fwd: runs cpu, {way}")
    assert explain("conv2d_bwd", g, x, weight, *geometry, (True,) * 3).startswith(f"conv2d_bwd: runs cpu, {way}")
    with kernel_mode("reference"):
        want = _results(_wide((x, weight, bias, g, *geometry)))
    for got, right in zip(_results((x, weight, bias, g, *geometry)), want, strict=True):
        assert (got.shape, got.dtype) == (right.shape, np.float32)
        assert abs(got - right).max(initial=0) <= 4e-6 * abs(right).max(initial=0)


@needs_numba
@pytest.mark.parametrize("case", [WINOGRAD[1], WINOGRAD[3], DIRECT[4], ROWS[1]])
def test_bits_depend_neither_on_threads_nor_on_the_batch(case: tuple[Any, ...]) -> None:
    x, weight, bias, g, *geometry = _case((3, *case[1:]))
    before = ag.get_num_threads()
    try:
        every = []
        for threads in (1, 2, 3):
            ag.set_num_threads(threads)
            every.append(_results((x, weight, bias, g, *geometry)))
        for results in every[1:]:
            for one, other in zip(every[0], results, strict=True):
                assert np.array_equal(one, other)
        alone = [_results((x[i : i + 1], weight, bias, g[i : i + 1], *geometry))[:2] for i in range(3)]
        for n in range(2):  # the output, and the map's gradient
            assert np.array_equal(np.concatenate([results[n] for results in alone]), every[0][n])
    finally:
        ag.set_num_threads(before)


@needs_numba
def test_the_direct_way_is_a_choice() -> None:
    case = _case(WINOGRAD[0])
    x, weight, bias, _, *geometry = case
    assert explain("conv2d_fwd", x, weight, bias, *geometry).startswith("conv2d_fwd: runs cpu, winograd")
    with ag.conv_algorithm("direct"):
        assert explain("conv2d_fwd", x, weight, bias, *geometry).startswith("conv2d_fwd: runs cpu, direct")
        direct = _results(case)
        with ag.conv_algorithm("auto"):
            fast = _results(case)
    assert not np.array_equal(direct[0], fast[0])
    wide = _wide(case)
    assert explain("conv2d_fwd", wide[0], wide[1], wide[2], *geometry).startswith("conv2d_fwd: runs cpu, reference")
    with pytest.raises(ValueError, match="expected 'auto' or 'direct'; got 'fft'"), ag.conv_algorithm("fft"):  # type: ignore[arg-type]
        pass


@needs_numba
@pytest.mark.parametrize("value", [np.inf, np.nan, 1e30])
def test_directly_a_pixel_reaches_the_outputs_that_see_it(value: float) -> None:
    x, weight, bias, _, *geometry = _case(WINOGRAD[0])
    clean = KERNELS["conv2d_fwd"].reference(x, weight, bias, *geometry)
    x[0, 3, 8, 9] = value
    with ag.conv_algorithm("direct"):
        out = KERNELS["conv2d_fwd"](x, weight, bias, *geometry)
    touched = np.zeros((16, 16), bool)
    touched[7:10, 8:11] = True
    assert np.array_equal((abs(out - clean) > 1e-4).any(axis=(0, 1)) | ~np.isfinite(out).all(axis=(0, 1)), touched)


def test_the_reference_in_blocks_is_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    cases = [_case(case, np.float64) for case in (*WINOGRAD[:2], *DIRECT)]
    with kernel_mode("reference"):
        whole = [_results(case) for case in cases]
        monkeypatch.setattr(blocks, "BLOCK_BYTES", 2000)
        for case, wants in zip(cases, whole, strict=True):
            for got, want in zip(_results(case), wants, strict=True):
                np.testing.assert_allclose(got, want, rtol=1e-13, atol=1e-13)


def test_memory_is_a_block_beside_the_maps() -> None:
    """Not the whole matrix of fields, which would be nine times the map."""
    import tracemalloc

    x, weight, bias, g, *geometry = _case((1, 64, 128, 128, 64, (3, 3), *THREE))
    with kernel_mode("reference"):
        _results((x, weight, bias, g, *geometry))
        tracemalloc.start()
        _results((x, weight, bias, g, *geometry))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 6 * x.nbytes
