"""What a piece of code asks of a GPU, counted on the stand-in for CuPy: launches, waits and uploads, by calling line.

    with fake_cupy.installed() as cupy, launches.counted() as counts:
        step()
    print(counts)

A call counts once, also where CuPy launches several kernels for it (argsort, bincount, a product that is split); a
product whose operand no BLAS takes as it lies counts the copy too. Views, allocations and empty arrays count nothing.
Without ``values`` kernels and products leave their results as they are, so that large models are counted in seconds.
"""

from __future__ import annotations

import sys
from collections import Counter
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["Counts", "Event", "call", "counted", "has_work", "note", "places", "wants_values"]

ROOT = Path(__file__).resolve().parents[3]
PRODUCTS = {"matmul", "dot", "__matmul__", "__rmatmul__", "tensordot", "vdot", "inner"}
WAITS = {"item", "tolist"}
_NO_KERNEL = {"empty", "empty_like"}
_THROUGH = ("kernels/cuda/launch.py", "kernels/product.py", "autograd/backend.py")  # called from everywhere


class Event(NamedTuple):
    """Calls of one kind at one place.

    Attributes:
        kind: "handwritten", "product", "other" (CuPy's own kernels, copies and fills), "wait" or "upload".
        name: of the kernel, function or method.
        line: of autograd or swinpy that asked for it.
        model: the line of swinpy that this line was called from, or "".
    """

    kind: str
    name: str
    line: str
    model: str


class Counts(Counter[Event]):
    """How often each :class:`Event` happened; printed, the most frequent first."""

    def of(self, *kinds: str) -> int:
        """How many of some kinds."""
        return sum(n for event, n in self.items() if event.kind in kinds)

    @property
    def launches(self) -> int:
        return self.of("handwritten", "product", "other")

    def __str__(self) -> str:
        kinds = ("handwritten", "product", "other", "wait", "upload")
        lines = [f"{self.launches} launches: " + ", ".join(f"{self.of(kind)} {kind}" for kind in kinds)]
        ordered = sorted(self.items(), key=lambda item: (kinds.index(item[0].kind), -item[1], item[0]))
        lines += [f"{n:5} {e.kind:11} {e.name:34} {e.line}{e.model and f'  from {e.model}'}" for e, n in ordered]
        return "\n".join(lines)


_active: list[tuple[Counts, bool]] = []


@contextmanager
def counted(values: bool = False) -> Iterator[Counts]:
    """Count what happens in a block; with ``values`` kernels and products are also computed."""
    counts = Counts()
    _active.append((counts, values))
    try:
        yield counts
    finally:
        _active.pop()


def wants_values() -> bool:
    """Whether kernels are to run: always, but in a block that only counts."""
    return not _active or _active[-1][1]


def note(kind: str, name: str) -> None:
    """Count one event, if someone counts."""
    if _active:
        _active[-1][0][Event(kind, name, *places())] += 1


def places() -> tuple[str, str]:
    """The innermost line of the two packages that is no mere door to CuPy, and the innermost line of swinpy above."""
    frame, line = sys._getframe(2), ""
    while frame is not None:
        path = frame.f_code.co_filename
        if path.startswith((f"{ROOT}/autograd/", f"{ROOT}/swinpy/")):
            here = f"{path.removeprefix(f'{ROOT}/')}:{frame.f_lineno}"
            if not line and not path.endswith(_THROUGH):
                line = here
            elif line and here.startswith("swinpy/"):
                return line, here
        frame = frame.f_back  # type: ignore[assignment]
    return line, ""


def call(name: str, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """``function(*args, **kwargs)`` of NumPy, counted as CuPy's ``name`` would be."""
    if not _active:
        return function(*args, **kwargs)
    result = _no_product(*args[:2]) if name in PRODUCTS and not wants_values() else function(*args, **kwargs)
    if name in WAITS:
        note("wait", name)
    elif has_work(name, args, kwargs, result):
        if name in PRODUCTS:
            for x in args[:2]:
                if not (x.flags.c_contiguous or x.flags.f_contiguous):
                    note("other", "copy for a product")
        note("product" if name in PRODUCTS else "other", name)
    return result


def _no_product(x: Any, y: Any) -> Any:
    if x.ndim < 2 or y.ndim < 2:
        return np.matmul(x, y)
    batch = np.broadcast_shapes(x.shape[:-2], y.shape[:-2])
    return np.zeros((*batch, x.shape[-2], y.shape[-1]), np.result_type(x, y))


def has_work(name: str, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> bool:
    """Whether a GPU has something to do: not for views, fresh memory, empty arrays and questions about shapes."""
    arrays = [a for a in args if isinstance(a, np.ndarray)]
    if name in _NO_KERNEL or (name == "__getitem__" and _is_basic(args[1])):
        return False
    if result is None:  # an assignment, or a method that works in place
        return arrays[0].size > 0
    writes = kwargs.get("out") is not None or (name.startswith("__i") and name != "__invert__")
    results = [
        r for r in (result if isinstance(result, tuple) else (result,)) if isinstance(r, (np.ndarray, np.generic))
    ]
    return any(r.size and (writes or not any(np.may_share_memory(r, a) for a in arrays)) for r in results)


def _is_basic(index: Any) -> bool:
    parts = index if isinstance(index, tuple) else (index,)
    return all(p is None or p is Ellipsis or isinstance(p, (int, slice, np.integer)) for p in parts)
