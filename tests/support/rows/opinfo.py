"""The table of ops: one row for every public function and primitive of the engine.

A row says how to call the op, how to make arguments for it, and what NumPy or SciPy in float64 says the result is. The
generic checks in ``support.checks`` run over all rows. Rows live in ``support.rows``; importing ``support.rows.table``
fills the list.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["BadCall", "Kink", "OpInfo", "Sample", "Source", "find", "register", "rows"]

DTYPES = (np.float64, np.float32, np.float16)


class Source:
    """Where a sample's shape and values come from. Structure and values are drawn by different methods, so that
    hypothesis can choose (and shrink) the structure while the values come from a seed alone.

    Args:
        seed: of the values.
        scale: multiplies values that may be of any size.
    """

    def __init__(self, seed: int, scale: float = 1.0) -> None:
        self.rng = np.random.default_rng(seed)
        self.scale = scale

    # ---- structure

    def integer(self, low: int, high: int) -> int:
        """An integer in [low, high]."""
        return int(self.rng.integers(low, high + 1))

    def choice(self, options: Sequence[Any]) -> Any:
        return options[self.integer(0, len(options) - 1)]

    def shape(self, ndim: int, low: int = 1, high: int = 4) -> tuple[int, ...]:
        return tuple(self.integer(low, high) for _ in range(ndim))

    def part_of(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """A shape that broadcasts to ``shape``."""
        kept = shape[self.integer(0, len(shape)) :]
        return tuple(self.choice((1, n)) for n in kept)

    def axis(self, ndim: int) -> int:
        return self.integer(-ndim, ndim - 1)

    # ---- values

    def normal(self, shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
        return np.asarray(self.rng.standard_normal(shape)) * self.scale

    def between(self, low: float, high: float, shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
        return np.asarray(self.rng.uniform(low, high, shape))

    def away(self, shape: tuple[int, ...], gap: float = 0.2) -> np.ndarray[Any, Any]:
        """Both signs, at least ``gap`` away from 0: no kink at 0 within the reach of a finite difference."""
        return self.between(gap, gap + 2, shape) * self.rng.choice([-1.0, 1.0], shape)

    def spread(self, shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
        """Distinct values at least 0.1 apart, in random order: no ties within the reach of a finite difference."""
        size = int(np.prod(shape))
        values = (np.arange(size) - size / 2) * 0.25 + self.rng.uniform(-0.07, 0.07, size)
        return self.rng.permutation(values).reshape(shape)

    def integers(self, low: int, high: int, shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
        """Values in [low, high)."""
        return self.rng.integers(low, high, shape)

    def booleans(self, shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
        return np.asarray(self.rng.random(shape) < 0.5)


@dataclass(frozen=True)
class Sample:
    """One call: differentiable operands (float64 arrays, numbers or None) and static keywords."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        # arithmetic on 0-d arrays gives NumPy scalars, which are constants to the engine
        args = tuple(np.asarray(a) if isinstance(a, np.generic) else a for a in self.args)
        object.__setattr__(self, "args", args)

    def cast(self, dtype: Any) -> Sample:
        """The float operands rounded to ``dtype``; static arrays stay as they are."""
        return replace(self, args=tuple(a.astype(dtype) if isinstance(a, np.ndarray) else a for a in self.args))

    def arrays(self) -> list[int]:
        """Indices of the array operands."""
        return [i for i, a in enumerate(self.args) if isinstance(a, np.ndarray)]


@dataclass(frozen=True)
class Kink:
    """A point where the derivative is a convention, and that convention: gradients for output gradients of 1."""

    args: tuple[Any, ...]
    grads: tuple[Any, ...]
    kwargs: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class BadCall:
    """A call that must raise, and words that its message must contain."""

    call: Callable[[], Any]
    error: type[Exception]
    words: str


@dataclass(frozen=True)
class OpInfo:
    """One row.

    Attributes:
        name: the public function's name (the primitive's, where there is one of that name).
        fn: takes Tensors and the sample's keywords; deterministic.
        samples: by case name, builders of arguments. Kinks are avoided by construction. ``empty`` has a size 0 and
            ``scalar`` a 0-d operand, unless exempt.
        reference: the same on float64 arrays, independent of our code. In low precision it is the "naive" computation.
        composite: the same from simpler ops of the engine.
        linear: affine in all operands together.
        kinks: conventions at points without a derivative.
        dtypes: that the op takes.
        errors: calls that must fail.
        exempt: name of a check, layout or expected case -> why it does not apply.
        differentiable: False for comparisons and their like.
        elementwise: every result element is exact to a few ulp of its own, not only of the largest one.
        joint: vjp computes all gradients in one pass, wanted or not.
        naive_slope: the derivative of a function of one array by NumPy in the array's precision, where the choice of
            formula (from the result, not the input) decides what precision can be had.
        low_bound: absolute error in lower precision that the op's docstring allows, whatever naive would reach.
        result_dtype: the output dtype for an input dtype (default: the same).
    """

    name: str
    fn: Callable[..., Any]
    samples: dict[str, Callable[[Source], Sample]]
    reference: Callable[..., Any]
    composite: Callable[..., Any] | None = None
    linear: bool = False
    kinks: tuple[Kink, ...] = ()
    dtypes: tuple[Any, ...] = DTYPES
    errors: tuple[BadCall, ...] = ()
    exempt: dict[str, str] = field(default_factory=dict)
    differentiable: bool = True
    elementwise: bool = False
    joint: bool = False
    naive_slope: Callable[[Any], Any] | None = None
    low_bound: float = 0.0
    result_dtype: Callable[[Any], Any] = np.dtype

    def sample(self, case: str, seed: int = 0) -> Sample:
        """The fixed sample of a case (any process makes the same)."""
        return self.samples[case](Source(zlib.crc32(f"{self.name}/{case}/{seed}".encode())))


_ROWS: dict[str, OpInfo] = {}


def register(*infos: OpInfo) -> None:
    """Add rows.

    Raises:
        ValueError: for a name that has a row.
    """
    for info in infos:
        if info.name in _ROWS:
            raise ValueError(f"register: expected a new row; got {info.name!r}, which exists.")
        _ROWS[info.name] = info


def rows() -> list[OpInfo]:
    return list(_ROWS.values())


def find(name: str) -> OpInfo:
    return _ROWS[name]
