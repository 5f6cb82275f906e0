"""Rows of autograd/ops/indexing.py and logic.py."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

import autograd as ag

from .opinfo import BadCall, OpInfo, Sample, register

if TYPE_CHECKING:
    from collections.abc import Callable

    from .opinfo import Source

X = np.ones((2, 3))


def _at(shape: tuple[int, ...], index: Any) -> Callable[[Source], Sample]:
    return lambda s: Sample((s.normal(shape),), {"index": index})


def _one_hot_product(table: Any, index: Any) -> Any:
    """A look-up as a product with a one-hot matrix."""
    hot = np.eye(table.shape[0], dtype=table.dtype)[index]
    flat = ag.reshape(table, (table.shape[0], int(np.prod(table.shape[1:]))))
    return ag.reshape(ag.matmul(ag.Tensor(hot), flat), (*index.shape, *table.shape[1:]))


def _take_drawn(s: Source) -> Sample:
    shape, axis = s.shape(3), s.axis(3)
    n = shape[axis]
    return Sample((s.normal(shape),), {"indices": s.integers(-n, n, s.shape(2)), "axis": axis})


def _gather_drawn(s: Source) -> Sample:
    shape, axis = s.shape(3), s.axis(3)
    n = shape[axis]
    picked = list(shape)
    picked[axis] = s.integer(0, 6)
    return Sample((s.normal(shape),), {"axis": axis, "indices": s.integers(-n, n, tuple(picked))})


def _table_drawn(s: Source) -> Sample:
    rows = s.integer(1, 5)
    return Sample((s.normal((rows, *s.shape(1))),), {"index": s.integers(-rows, rows, s.shape(2, high=5))})


register(
    OpInfo(
        "getitem",
        ag.ops.getitem,
        {
            "integer": _at((3, 4), 1),
            "integers": _at((3, 4), (-1, 2)),
            "slice": _at((5, 4), (slice(1, 4), slice(None, None, 2))),
            "backwards": _at((5, 4), slice(None, None, -2)),
            "new_axis": _at((3, 4), (slice(None), None, 2)),
            "dots": _at((2, 3, 4), (..., 1)),
            "repeated": _at((4, 3), np.array([[0, 2, 2], [-1, 2, 0]])),
            "list": _at((4, 3), [0, 0, -1]),
            "pairs": _at((4, 3), (np.array([0, 1, 0, 0]), np.array([2, 1, 2, 0]))),
            "mixed": _at((4, 3, 2), (slice(None), np.array([2, 2]), 0)),
            "mask": _at((2, 3), np.array([[True, False, True], [False, False, True]])),
            "scalar": _at((), ()),
            "scalar_dots": _at((), ...),
            "empty": _at((0, 3), (slice(None), np.array([1, 1]))),
        },
        lambda x, index: x[index],
        linear=True,
        errors=(
            BadCall(lambda: ag.ops.getitem(ag.Tensor(X), 2), IndexError, "(2, 3)"),
            BadCall(lambda: ag.ops.getitem(ag.Tensor(X), (0, 0, 0)), IndexError, "(2, 3)"),
            BadCall(lambda: ag.ops.getitem(ag.Tensor(X), np.array([5])), IndexError, "(2, 3)"),
        ),
    ),
    OpInfo(
        "take",
        ag.take,
        {
            "drawn": _take_drawn,
            "flat": lambda s: Sample((s.normal((2, 3)),), {"indices": np.array([5, 0, 0, -1])}),
            "one": lambda s: Sample((s.normal((2, 3)),), {"indices": 1, "axis": 1}),
            "nothing": lambda s: Sample((s.normal((2, 3)),), {"indices": np.zeros((0,), int), "axis": 0}),
            "scalar": lambda s: Sample((s.normal(()),), {"indices": [0, 0]}),
            "empty": lambda s: Sample((s.normal((0, 3)),), {"indices": [1, 1], "axis": 1}),
        },
        np.take,
        linear=True,
        errors=(
            BadCall(lambda: ag.take(X, [3], axis=1), IndexError, "[-3, 2]"),
            BadCall(lambda: ag.take(X, [-4], axis=1), IndexError, "[-3, 2]"),
            BadCall(lambda: ag.take(X, [0.5], axis=1), TypeError, "integer indices"),
            BadCall(lambda: ag.take(X, [0], axis=2), IndexError, "got 2"),
        ),
    ),
    OpInfo(
        "gather",
        ag.gather,
        {
            "drawn": _gather_drawn,
            "drawn_again": lambda s: _gather_drawn(s),
            "repeated": lambda s: Sample((s.normal((2, 3)),), {"axis": 1, "indices": np.array([[2, 2], [0, -3]])}),
            "empty": lambda s: Sample((s.normal((0, 3)),), {"axis": 1, "indices": np.zeros((0, 2), int)}),
        },
        lambda x, axis, indices: np.take_along_axis(x, indices, axis),
        linear=True,
        exempt={"scalar": "needs an axis"},
        errors=(
            BadCall(lambda: ag.gather(X, 1, np.zeros((3, 1), int)), ValueError, "but for axis 1"),
            BadCall(lambda: ag.gather(X, 1, np.zeros(2, int)), ValueError, "but for axis 1"),
            BadCall(lambda: ag.gather(X, 1, np.full((2, 1), 3)), IndexError, "[-3, 2]"),
            BadCall(lambda: ag.gather(X, 1, np.zeros((2, 1))), TypeError, "integer indices"),
            BadCall(lambda: ag.gather(X, 2, np.zeros((2, 1), int)), IndexError, "got 2"),
        ),
    ),
    OpInfo(
        "table_gather",
        ag.table_gather,
        {
            "drawn": _table_drawn,
            "drawn_again": lambda s: _table_drawn(s),
            "bias": lambda s: Sample((s.normal((9, 2)),), {"index": s.integers(0, 9, (4, 4))}),
            "unused_rows": lambda s: Sample((s.normal((5, 2)),), {"index": np.array([1, 1, 3])}),
            "vector": lambda s: Sample((s.normal((4,)),), {"index": np.array([[0, 0], [3, -1]])}),
            "one": lambda s: Sample((s.normal((4, 2)),), {"index": np.array(2)}),
            "empty": lambda s: Sample((s.normal((4, 2)),), {"index": np.zeros((0, 3), int)}),
            "empty_rows": lambda s: Sample((s.normal((4, 0)),), {"index": np.array([1, 2])}),
        },
        lambda table, index: table[index],
        composite=_one_hot_product,
        linear=True,
        exempt={"scalar": "a table has rows; the error is checked"},
        errors=(
            BadCall(lambda: ag.table_gather(X, [2]), IndexError, "[-2, 1]"),
            BadCall(lambda: ag.table_gather(X, [0.0]), TypeError, "integer indices"),
            BadCall(lambda: ag.table_gather(np.ones(()), [0]), ValueError, "0-d"),
        ),
    ),
)


# ---- choice, comparisons, casts


def _choice(s: Source) -> Sample:
    shape = s.shape(3)
    return Sample((s.normal(s.part_of(shape)), s.normal(shape)), {"condition": s.booleans(s.part_of(shape))})


register(
    OpInfo(
        "where",
        lambda x, y, *, condition: ag.where(condition, x, y),
        {
            "drawn": _choice,
            "condition_widest": lambda s: Sample((s.normal((3,)), s.normal(())), {"condition": s.booleans((2, 3))}),
            "number": lambda s: Sample((s.normal((2, 3)), 0.0), {"condition": s.booleans((2, 3))}),
            "number_left": lambda s: Sample((-1.0, s.normal((2, 3))), {"condition": s.booleans((3,))}),
            "scalar": lambda s: Sample((s.normal(()), s.normal(())), {"condition": np.array(True)}),
            "empty": lambda s: Sample((s.normal((0, 3)), s.normal((3,))), {"condition": s.booleans((1, 3))}),
        },
        lambda x, y, condition: np.where(condition, x, y),
        linear=True,
        elementwise=True,
        errors=(
            BadCall(lambda: ag.where(X, X, X), TypeError, "boolean condition"),
            BadCall(lambda: ag.where(X > 0, X, np.ones(4)), ValueError, "(2, 3) and (4,)"),
            BadCall(lambda: ag.where(np.ones(5, bool), X, X), ValueError, "(5,)"),
        ),
    ),
    OpInfo(
        "astype",
        ag.ops.astype,
        {
            "matrix": lambda s: Sample((s.normal((2, 3)),), {"dtype": "float64"}),
            "scalar": lambda s: Sample((s.normal(()),), {"dtype": "float64"}),
            "empty": lambda s: Sample((s.normal((0, 3)),), {"dtype": "float64"}),
        },
        lambda x, dtype: x.astype(dtype),
        linear=True,
        result_dtype=lambda dtype: np.dtype(np.float64),
        errors=(BadCall(lambda: ag.ops.astype("x", "float32"), TypeError, "str"),),
    ),
    OpInfo(
        "to_device",
        ag.ops.to_device,
        {
            "matrix": lambda s: Sample((s.normal((2, 3)),), {"device": "cpu"}),
            "scalar": lambda s: Sample((s.normal(()),), {"device": "cpu"}),
            "empty": lambda s: Sample((s.normal((0, 3)),), {"device": "cpu"}),
        },
        lambda x, device: x.copy(),
        linear=True,
        errors=(BadCall(lambda: ag.ops.to_device(X, "tpu"), ValueError, "cpu, gpu, cuda, cuda:N or auto"),),
    ),
)

for _name in ("equal", "not_equal", "less", "less_equal", "greater", "greater_equal"):
    _op = getattr(ag, _name)
    register(
        OpInfo(
            _name,
            _op,
            {
                "lattice": lambda s: Sample((np.round(s.normal((3, 4))), np.round(s.normal((4,))))),
                "number": lambda s: Sample((np.round(s.normal((3, 4))), 1)),
                "number_left": lambda s: Sample((0.0, np.round(s.normal((3, 4))))),
                "scalar": lambda s: Sample((np.array(1.0), np.array(1.0))),
                "empty": lambda s: Sample((s.normal((0, 3)), s.normal((3,)))),
            },
            getattr(np, _name),
            differentiable=False,
            result_dtype=lambda dtype: np.dtype(bool),
            errors=(BadCall(lambda op=_op: op(X, np.ones(4)), ValueError, "(2, 3) and (4,)"),),
        )
    )

register(
    OpInfo(
        "isfinite",
        ag.isfinite,
        {
            "specials": lambda s: Sample((np.array([1.0, np.inf, -np.inf, np.nan]),)),
            "scalar": lambda s: Sample((np.array(np.inf),)),
            "empty": lambda s: Sample((s.normal((0, 3)),)),
        },
        np.isfinite,
        differentiable=False,
        result_dtype=lambda dtype: np.dtype(bool),
        errors=(BadCall(lambda: ag.isfinite("x"), TypeError, "str"),),
    )
)
