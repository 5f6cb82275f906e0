"""CUDA kernels in the stand-in for CuPy, held to their references in float64 by DESIGN's rule for low precision."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from autograd.kernels import KERNELS, kernel_mode

from .. import skips
from ..precision import Errors
from .fake_cupy import ndarray
from .host_cuda.raw_module import SCHEDULES, scheduled

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    "agrees_with_float64",
    "dtype_named",
    "every_schedule_gives_the_same_bits",
    "run_cuda",
    "same_specials",
    "to_gpu",
    "to_host",
]

Arguments = tuple[Any, ...]
VARIANTS = 8  # of the arguments, so that luck in the roundings of a small array decides nothing


def dtype_named(name: str) -> Any:
    """The dtype; skips the test for bfloat16 without ml_dtypes."""
    if name != "bfloat16":
        return np.dtype(name)
    return np.dtype(pytest.importorskip("ml_dtypes", reason=skips.NO_ML_DTYPES).bfloat16)


def to_gpu(cupy: Any, args: Any) -> Any:
    """NumPy arrays among ``args`` on the stand-in's device."""
    return tuple(cupy.asarray(a) if isinstance(a, np.ndarray) else a for a in args)


def to_host(result: Any) -> list[Any]:
    """The arrays of a kernel's result, in NumPy."""
    return [r.get() for r in (result if isinstance(result, tuple) else (result,)) if isinstance(r, ndarray)]


def run_cuda(cupy: Any, name: str, *args: Any) -> list[Any]:
    """The results of the CUDA kernel ``name`` on NumPy arguments; an error if it refuses them."""
    with kernel_mode("cuda"):
        return to_host(KERNELS[name](*to_gpu(cupy, args)))


def _reference(name: str, args: Arguments, wide: bool) -> list[Any]:
    if wide:
        args = tuple(a.astype(np.float64) if _is_float(a) else a for a in args)
    with np.errstate(all="ignore"):
        result = KERNELS[name].reference(*args)
    return [r for r in (result if isinstance(result, tuple) else (result,)) if isinstance(r, np.ndarray)]


def _is_float(a: Any) -> bool:
    return isinstance(a, np.ndarray) and (a.dtype.kind == "f" or a.dtype.name == "bfloat16")


def agrees_with_float64(
    cupy: Any, name: str, draw: Callable[[np.random.Generator], Arguments], variants: int = VARIANTS
) -> None:
    """The kernel's results against the reference in float64 on the same numbers: off by at most twice what the
    reference in the arguments' dtype is off, and one unit in the last place of the largest value.

    Args:
        cupy: the stand-in.
        name: the kernel.
        draw: positional arguments from a generator; drawn several times.
        variants: how often.
    """
    errors: dict[int, Errors] = {}
    dtypes: dict[int, Any] = {}
    for seed in range(variants):
        args = draw(np.random.default_rng(seed))
        got, naive, want = run_cuda(cupy, name, *args), _reference(name, args, False), _reference(name, args, True)
        assert [(g.shape, g.dtype) for g in got] == [(n.shape, n.dtype) for n in naive]
        for i, (g, n, w) in enumerate(zip(got, naive, want, strict=True)):
            dtypes[i] = g.dtype
            errors.setdefault(i, Errors()).add(0, g, [n], w)
    for i, seen in errors.items():
        seen.judge(f"{name}: result {i},", dtypes[i])


def every_schedule_gives_the_same_bits(cupy: Any, name: str, *args: Any) -> None:
    """Threads in any order, and a second run, change no bit."""
    first = [a.tobytes() for a in run_cuda(cupy, name, *args)]
    assert first
    for schedule in SCHEDULES:
        with scheduled(schedule, seed=3):
            assert [a.tobytes() for a in run_cuda(cupy, name, *args)] == first, schedule


def same_specials(cupy: Any, name: str, *args: Any) -> None:
    """NaN and infinities are where the reference has them."""
    for got, want in zip(run_cuda(cupy, name, *args), _reference(name, args, False), strict=True):
        np.testing.assert_array_equal(np.isnan(got), np.isnan(want))
        np.testing.assert_array_equal(np.isinf(got), np.isinf(want))
        np.testing.assert_array_equal(np.sign(got[np.isinf(got)]), np.sign(want[np.isinf(want)]))
