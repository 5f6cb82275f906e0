"""What mixed operands become: constants never widen, integers never widen floats."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import autograd as ag
from autograd import dtypes

FLOATS = [np.float16, np.float32, np.float64]
SCALARS = [2, 2.5, True, np.float64(2.5), np.float32(2.5), np.float16(2.5), np.int64(2), np.uint8(2), np.bool_(True)]


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("scalar", SCALARS, ids=lambda s: type(s).__name__)
@pytest.mark.parametrize("op", [ag.add, ag.subtract, ag.multiply, ag.divide, ag.power, ag.maximum])
def test_scalars_never_widen(op: Any, scalar: Any, dtype: Any) -> None:
    x = ag.Tensor(np.full((2, 3), 3, dtype), requires_grad=True)
    for y in (op(x, scalar), op(scalar, x)):
        assert y.dtype == dtype
    op(x, scalar).sum().backward()
    assert x.grad.dtype == dtype


@pytest.mark.parametrize("scalar", SCALARS, ids=lambda s: type(s).__name__)
def test_scalars_never_widen_a_0d_tensor(scalar: Any) -> None:
    x = ag.Tensor(np.array(3, np.float32), requires_grad=True)
    y = (scalar - x) * x / scalar
    assert y.dtype == np.float32
    assert isinstance(y.data, np.ndarray)
    y.backward()
    assert x.grad.dtype == np.float32
    assert x.grad.shape == ()


@pytest.mark.parametrize("integer", [np.int64, np.uint8, np.bool_])
@pytest.mark.parametrize("dtype", FLOATS)
def test_integer_tensors_never_widen(integer: Any, dtype: Any) -> None:
    x = ag.Tensor(np.ones(3, dtype), requires_grad=True)
    n = ag.Tensor(np.ones(3, integer))
    assert (x * n).dtype == dtype
    assert (n + x).dtype == dtype


def test_wider_tensors_do_widen() -> None:
    """As in NumPy, also if the wider one is 0-d; the gradient comes back in the leaf's own dtype."""
    x = ag.Tensor(np.ones(3, np.float32), requires_grad=True)
    y = x * ag.Tensor(np.array(2.0))
    assert y.dtype == np.float64
    y.sum().backward()
    assert x.grad.dtype == np.float32


@pytest.mark.parametrize(
    ("operands", "result"),
    [
        (("float32", "float64"), "float64"),
        (("float16", "float32"), "float32"),
        (("int64", "float16"), "float16"),
        (("bool", "float32"), "float32"),
        (("int32", "int64"), "int64"),
        (("uint8", "int8"), "int16"),
        (("bool", "bool"), "bool"),
    ],
)
def test_promote(operands: tuple[str, str], result: str) -> None:
    for pair in (operands, operands[::-1]):
        assert dtypes.promote(map(np.dtype, pair)) == result


def test_integer_arithmetic_is_numpys() -> None:
    n = ag.Tensor(np.array([1, 2, 3]))
    assert (n + n).dtype == np.int64
    assert (n / 2).dtype == np.float64
    assert (n * 0.5).dtype == np.float64
    assert not (n / 2).requires_grad


def test_accumulator() -> None:
    assert dtypes.accumulator(np.dtype("float16")) == np.float32
    for dtype in ("float32", "float64", "int64"):
        assert dtypes.accumulator(np.dtype(dtype)) == dtype
    many = ag.Tensor(np.ones(4096, np.float16), requires_grad=True)
    assert (many * 1.001).sum().item() > 4000  # float16 sums would stop at 2048
    assert many.sum().dtype == np.float16


def test_unbroadcast_sums_float16_in_float32() -> None:
    bias = ag.Tensor(np.zeros(1, np.float16), requires_grad=True)
    (ag.Tensor(np.zeros((4096, 1), np.float16)) + bias).backward(np.ones((4096, 1), np.float16))
    assert bias.grad.tolist() == [4096]


def test_requires_grad_is_for_floats() -> None:
    for array in (np.ones(2, np.int64), np.ones(2, bool)):
        with pytest.raises(TypeError, match=r"requires_grad: expected a float dtype; got .* Cast with .astype first"):
            ag.Tensor(array, requires_grad=True)


def test_astype_to_integers_ends_the_graph() -> None:
    x = ag.Tensor(np.array([1.7]), requires_grad=True)
    assert not x.astype("int64").requires_grad
    assert x.astype("float32").requires_grad


def test_bfloat16_without_ml_dtypes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "ml_dtypes", None)
    with pytest.raises(ImportError, match=r"bfloat16: expected ml_dtypes; it is not installed. pip install ml_dtypes"):
        ag.Tensor(np.ones(2)).astype("bfloat16")
