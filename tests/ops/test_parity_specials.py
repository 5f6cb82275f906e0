"""Every op of the table against torch at special values: 0, ties, NaN, infinities, nothing, 0-d, booleans, integers.

What differs is in DOCUMENTED and in docs/differences.md, "The engine". A difference that is not there fails the test,
and so does one that is no more.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from support.rows.table import rows
from support.swin.parity import import_or_skip
from support.torch_ops import BINARY, CALLS, NOT_COMPARED, PAIRS, ROWWISE, UNARY, differences

pytestmark = pytest.mark.parity


def _load() -> Any:
    import torch

    return torch


torch = import_or_skip(_load)

COMPARED = (*UNARY, *BINARY, *ROWWISE, *CALLS)
_FLOATS = (
    *("cos", "erf", "exp", "expm1", "log", "log1p", "sigmoid", "sin", "sqrt", "tanh", "clip", "divide"),
    *("logsumexp", "masked_softmax"),
)
_EMPTY = ("mean", "var", "softmax", "log_softmax", "masked_softmax", "layer_norm")
_HERE_ALONE = {
    "absolute booleans": "[ True False]",
    "argmax booleans": "0",
    "cross_entropy booleans": "0.313",
    "cross_entropy integers": "5.05",
    "gelu booleans": "[0.841 0]",
    "gelu integers": "[-0.0455 0 3]",
    "l2_normalize booleans": "[1 0]",
    "l2_normalize integers": "[-0.555 0 0.832]",
    "log_softmax booleans": "[-0.313 -1.31]",
    "log_softmax integers": "[-5.05 -3.05 -0.055]",
    "mean booleans": "0.5",
    "mean integers": "0.333",
    "power booleans": "[1 1]",
    "relu booleans": "[1 0]",
    "softmax booleans": "[0.731 0.269]",
    "softmax integers": "[0.00638 0.0471 0.946]",
    "softplus booleans": "[1.31 0.693]",
    "softplus integers": "[0.127 0.693 3.05]",
    "var booleans": "0.25",
    "var integers": "4.22",
}
_SHAPES = {name: ("()", "()") if name == "logsumexp" else ("(2,)", "(3,)") for name in _FLOATS}
DOCUMENTED: dict[str, str] = {
    # a gradient that is a number where the value is none would hide it
    "absolute (nan)": "gradient [nan]; torch [0]",
    "l1_loss at special values": "gradient 1 [0 0 nan 4 -5 6]; torch [0 0 0 4 -5 6]",
    # nothing left to choose from: zeros, not NaN
    "softmax (-inf, -inf, -inf)": "value [0 0 0]; torch [nan nan nan]",
    "masked_softmax (-inf, -inf, -inf)": "value [0 0 0]; torch [nan nan nan]",
    "logsumexp (-inf, -inf, -inf)": "gradient [0 0 0]; torch [nan nan nan]",
    # torch takes exp(x - logsumexp), which has lost log 2 beside 1e308
    "logsumexp (1e+308, 1e+308, -1e+308)": "gradient [0.5 0.5 0]; torch [1 1 0]",
    # the variance overflows, and 1 / sqrt(inf) is 0
    "layer_norm (1e+308, 1e+308, -1e+308)": "value [0 0 0]; torch [nan nan nan]",
    "l2_normalize (0, 0, -0)": "gradient [0 0 0]; torch [1e+12 2e+12 3e+12]",
    # the gradient of an exponent is 0 where the base is not positive
    **{
        f"power ({x:g}, {y:g})": f"gradient 2 [0]; torch [{np.nan if x < 0 or np.isnan(y) else slope:.3g}]"
        for x, y in PAIRS
        for slope in [np.inf if np.signbit(x) and y == -1 else -np.inf]
        if x < 0 or (x == 0 and not y >= 0)
    },
    # NumPy's rules, not torch's
    "take 0-d": "value float64 (1,); torch float64 ()",
    "square booleans": "value int8 (2,); torch int64 (2,)",
    "power integers": "refused; torch [ 0  1 27]",
    **{
        f"{name} {kind}": f"value float64 {shape}; torch float32 {shape}"
        for name in _FLOATS
        for kind, shape in zip(("booleans", "integers"), _SHAPES[name], strict=True)
    },
    **{call: f"{value}; torch refused" for call, value in _HERE_ALONE.items()},
    # nothing has no mean, and a number no axis to choose along
    **{f"{name} empty": f"refused; torch {'[nan nan]' if name in ('mean', 'var') else '[]'}" for name in _EMPTY},
    "logsumexp empty": "refused; torch [-inf -inf]",
    "softmax 0-d": "refused; torch 1",
    "masked_softmax 0-d": "refused; torch 1",
    "l2_normalize 0-d": "refused; torch 1",
    "log_softmax 0-d": "refused; torch 0",
}


def test_every_op_is_compared_or_excused() -> None:
    assert set(COMPARED) | set(NOT_COMPARED) == {info.name for info in rows()}
    assert not set(COMPARED) & set(NOT_COMPARED)


@pytest.mark.parametrize("name", COMPARED)
def test_op_at_special_values(name: str) -> None:
    assert differences(name) == {k: v for k, v in DOCUMENTED.items() if k.partition(" ")[0] == name}


def test_documented_differences_are_of_ops_that_are_compared() -> None:
    assert {k.partition(" ")[0] for k in DOCUMENTED} <= set(COMPARED)
