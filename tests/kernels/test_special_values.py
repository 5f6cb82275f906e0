"""Every twin of every kernel at the ends of the floats: NaN, infinities and finite where the reference is.

Each operand of each row gets each special value, in one place and everywhere, and mixed in a row. A new kernel's row is
swept as it is.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from support.implementations import needs_numba
from support.rows.kernels import KERNEL_ROWS
from support.rows.table import find

from autograd.kernels import KERNELS
from autograd.kernels.validate import arrays_in

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

Arguments = tuple[tuple[Any, ...], dict[str, Any]]

# Of the largest value of any result, where the specials are small: sums of some ten terms in another order. Where they
# are large, what is left of a sum is rounding, and only the kinds are compared.
TOLERANCE = {np.float32: 1e-5, np.float64: 1e-12}

# Sums of products of sums: whether inf and -inf meet, and whether a probability is 0 or 1e-40 before it meets inf,
# depends on the order. There NaN and both infinities count as one.
IN_SEVERAL_STEPS = {"window_attention_fwd", "window_attention_bwd"}


def _specials(dtype: Any) -> tuple[list[list[Any]], list[list[Any]]]:
    """Values that are small, and values that are not, each list written over and over into an operand.

    The largest float itself is not among them: what overflows on the way depends on the order of a sum. Its root is,
    whose squares overflow in a sum of them.
    """
    limits, inf, nan = np.finfo(dtype), np.inf, np.nan
    small = [[0.0], [-0.0], [limits.smallest_subnormal], [-limits.tiny], [0.0, -0.0, -limits.smallest_subnormal, 1.0]]
    large = float(np.sqrt(limits.max))
    return small, [[large], [inf], [-inf], [nan], [large, -large, 1.0, 0.0], [inf, -inf], [1.0, inf, 0.0, nan, -inf]]


def _floats(args: tuple[Any, ...]) -> list[Any]:
    return [a for a in arrays_in(list(args)) if a.dtype.kind == "f"]


def _cases(name: str, dtype: Any) -> Iterator[tuple[str, Arguments, bool]]:
    """What is where, the arguments, and whether it is small."""
    row = KERNEL_ROWS[name]
    small, large = _specials(dtype)
    for i in range(len(_floats(row.arguments(np.random.default_rng(0), dtype)[0]))):
        for values in small + large:
            for everywhere in (False, True):
                args, options = row.arguments(np.random.default_rng(0), dtype)
                flat = _floats(args)[i].reshape(-1)
                at = slice(0 if everywhere else flat.size // 2, None if everywhere else flat.size // 2 + len(values))
                flat[at] = np.resize(values, flat[at].size)
                where = "everywhere" if everywhere else "in one place"
                yield f"{values} {where} in operand {i}", (args, options), values in small


def _results(name: str, run: Callable[..., Any], case: Arguments) -> list[Any]:
    args, options = case
    with np.errstate(all="ignore"):
        result = run(*args, **options)
    return [*arrays_in(result), *arrays_in([args[i] for i in KERNELS[name].writes])]


def _difference(want: Any, got: Any, error: float = np.inf, alike: bool = False) -> str | None:
    """What is another kind of number in ``got``, or further off than ``error``; None if nothing.

    NaN and infinities are one kind if they are ``alike``.
    """
    want, got = np.asarray(want, np.float64), np.asarray(got, np.float64)
    other = (np.isnan(want) != np.isnan(got)) | (np.isinf(want) & (want != got)) | (np.isinf(got) & (want != got))
    other = np.isfinite(want) != np.isfinite(got) if alike else other
    if other.any():
        at = tuple(np.argwhere(other)[0])
        return f"expected {want[at]} at {tuple(map(int, at))}; got {got[at]} ({np.count_nonzero(other)} in all)"
    finite = np.isfinite(want)
    found = np.abs(want[finite] - got[finite]).max(initial=0.0) if error < np.inf else 0.0
    return f"expected the reference's numbers to {error}; got a difference of {found}" if found > error else None


def _largest(arrays: list[Any]) -> float:
    return max(float(np.abs(np.asarray(a, np.float64)[np.isfinite(a)]).max(initial=0.0)) for a in arrays)


def sweep(name: str, dtype: Any, twin: Callable[..., Any]) -> list[str]:
    """The differences of a twin from its reference, in words."""
    found = []
    for label, case, small in _cases(name, dtype):
        expected = _results(name, KERNELS[name].reference, copy.deepcopy(case))
        results = _results(name, twin, case)
        error = TOLERANCE[dtype] * _largest(expected) + float(np.finfo(np.float32).tiny) if small else np.inf
        for i, (want, got) in enumerate(zip(expected, results, strict=True)):
            difference = _difference(want, got, error, name in IN_SEVERAL_STEPS)
            if difference:
                found.append(f"{label}: output {i}: {difference}")
    return found


@needs_numba
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("name", sorted(KERNEL_ROWS))
def test_compiled_twins(name: str, dtype: Any) -> None:
    twin = KERNELS[name].cpu
    if twin is not None:
        found = sweep(name, dtype, twin.run)
        assert not found, "\n".join(found)


def test_the_rows_of_swin_are_swept_too() -> None:
    assert find("window_attention")
    assert {name for name in KERNELS if KERNELS[name].cpu is not None} <= KERNEL_ROWS.keys()
    assert KERNEL_ROWS.keys() >= IN_SEVERAL_STEPS


@pytest.mark.parametrize(
    ("want", "got", "differs"),
    [
        ([np.nan], [np.inf], True),
        ([np.inf], [np.nan], True),
        ([1.0], [np.nan], True),
        ([np.inf], [-np.inf], True),
        ([np.inf], [1.0], True),
        ([1.0], [-np.inf], True),
        ([1.0, 1.0], [1.0, 1.1], True),
        ([np.nan, np.inf, -np.inf, 1.0], [np.nan, np.inf, -np.inf, 1.0], False),
    ],
)
def test_the_comparison_sees_what_differs(want: list[float], got: list[float], differs: bool) -> None:
    assert bool(_difference(want, got, 1e-12)) == differs
