"""Launches sum_parts.cu: adds up the partial sums of window attention's backward kernels."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from autograd.extend import FLOAT_NAMES, Budget, array_module, launch, program

if TYPE_CHECKING:
    from collections.abc import Sequence

    from autograd.extend import Array, Program

__all__ = ["BUDGETS", "sum_parts", "variants"]

BUDGETS = {"sum_parts": Budget(registers=48)}
_FILE = Path(__file__).with_name("sum_parts.cu")
_VALUES, _THREADS, _MOST = 32, 256, 3


def variants() -> list[Program]:
    """The programs to compile: each type."""
    return [program(_FILE, T=kind) for kind in FLOAT_NAMES.values()]


def sum_parts(parts: Sequence[Array | None], like: Sequence[Array | None]) -> list[Array | None]:
    """Add up to three arrays of float32 partial sums over their first axes, in order, in one launch.

    Args:
        parts: (count, ...) each; the counts may differ. None for a sum that is not wanted.
        like: an array with the shape and dtype of each sum, one dtype for all; None where ``parts`` is.

    Returns:
        The sums; None where there are no partial sums.
    """
    pairs = [(p, a) for p, a in zip(parts, like, strict=True) if p is not None and a is not None]
    totals = [array_module(p).empty(a.shape, a.dtype) for p, a in pairs]
    args: list[Any] = [x for (p, a), t in zip(pairs, totals, strict=True) for x in (p, t, p.shape[0], a.size)]
    blocks = sum(-(-a.size // _VALUES) for _, a in pairs)
    if blocks:
        args += [None, None, 0, 0] * (_MOST - len(pairs))
        code = program(_FILE, T=FLOAT_NAMES[totals[0].dtype.name])
        launch(code, "sum_parts", blocks, _THREADS, args, 4 * _THREADS)
    left = iter(totals)
    return [None if p is None or a is None else next(left) for p, a in zip(parts, like, strict=True)]
