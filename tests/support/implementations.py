"""Running a test once for each implementation of the kernels: the references, and the compiled twins."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import pytest

import autograd as ag

from . import skips
from .rows.table import KERNEL_ROWS

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

__all__ = ["COMPILED_OPS", "IMPLEMENTATIONS", "needs_numba", "using"]

needs_numba = pytest.mark.skipif(find_spec("numba") is None, reason=skips.NO_NUMBA)

# "compiled" is mode auto: 16-bit floats, which no kernel is compiled for, still go to the reference.
IMPLEMENTATIONS = ("reference", pytest.param("compiled", marks=needs_numba))

# Ops whose kernels have compiled twins.
COMPILED_OPS = frozenset(row.op for row in KERNEL_ROWS.values() if row.op is not None)


def using(implementation: str) -> AbstractContextManager[Any]:
    """The kernel mode of an implementation."""
    return ag.kernel_mode("auto" if implementation == "compiled" else "reference")
