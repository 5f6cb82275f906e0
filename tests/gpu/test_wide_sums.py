"""cuBLAS adds up in float32: its handle, of which every thread has one for each device, is told so before a product.

The stand-in refuses a product of 16 bits that the engine makes by a handle that was not told, so that every test of a
model in 16 bits on the stand-in tests this too.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from support.gpu import fake_cupy
from support.gpu.kernel_checks import dtype_named

import autograd as ag
from autograd import backend
from autograd.kernels import kernel_mode

if TYPE_CHECKING:
    from collections.abc import Iterator

DISALLOWED = 16


@pytest.fixture
def cupy() -> Iterator[Any]:
    with fake_cupy.installed(devices=2) as module:
        yield module


def _handle(cupy: Any, device: int) -> int:
    with cupy.cuda.Device(device):
        return cupy.cuda.device.get_cublas_handle()


def _mode(cupy: Any, device: int) -> int:
    return cupy.cuda.cublas.getMathMode(_handle(cupy, device))


def _product(cupy: Any, device: int, dtype: Any = np.float16) -> None:
    with cupy.cuda.Device(device):
        x = cupy.ones((4, 4), dtype)
    ag.matmul(x, x)


def _linear(cupy: Any, device: int) -> None:
    from autograd.kernels.linear import linear_fwd

    with cupy.cuda.Device(device):
        x = cupy.ones((4, 4), np.float16)
    with kernel_mode("reference"):
        linear_fwd(x, x, None)


def _backward(cupy: Any, device: int) -> None:
    with cupy.cuda.Device(device):
        x = ag.Tensor(cupy.ones((4, 4), np.float16), requires_grad=True)
    y = ag.matmul(x, x)
    backend._handles.ready.clear()  # as in a thread that runs backward alone
    cupy.cuda.cublas.setMathMode(_handle(cupy, device), 0)
    y.backward(y.data)


@pytest.mark.parametrize("device", [0, 1])
@pytest.mark.parametrize("work", [_product, _linear, _backward])
def test_each_device_and_thread(cupy: Any, work: Any, device: int) -> None:
    def on_a_thread() -> tuple[int, int]:
        before = _mode(cupy, device)
        work(cupy, device)
        return before, _mode(cupy, device)

    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(on_a_thread).result() == (0, DISALLOWED)
    assert on_a_thread() == (0, DISALLOWED)
    assert _mode(cupy, 1 - device) == 0


def test_what_else_a_program_asked_of_its_handle_stays(cupy: Any) -> None:
    cupy.cuda.cublas.setMathMode(_handle(cupy, 0), 3)  # TF32
    _product(cupy, 0)
    assert _mode(cupy, 0) == 3 | DISALLOWED


def test_asked_once(cupy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[int, int]] = []
    right = cupy.cuda.cublas.setMathMode
    monkeypatch.setattr(cupy.cuda.cublas, "setMathMode", lambda *a: (calls.append(a), right(*a)))
    for device in (0, 1, 0, 1):
        _product(cupy, device)
    assert calls == [(0, DISALLOWED), (1, DISALLOWED)]


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_the_stand_in_refuses_a_handle_that_was_not_told(
    cupy: Any, monkeypatch: pytest.MonkeyPatch, dtype: str
) -> None:
    low = dtype_named(dtype)
    monkeypatch.setattr(backend, "_wide_sums", lambda device: None)
    with pytest.raises(AssertionError, match=r"linalg\.py:\d+: __matmul__ on cuda:1 by a handle that may add up in 16"):
        _product(cupy, 1, low)
    with cupy.cuda.Device(0):
        x = cupy.ones((4, 4), np.float32)
        ag.matmul(x, x)  # no sums in 16 bits there
