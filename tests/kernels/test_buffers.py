"""Large arrays from memory that is used again: never while anything still looks at it."""

import gc

import numpy as np
import pytest

from autograd.kernels import buffers

BIG = (buffers.SMALLEST // 8,)  # in float64


@pytest.fixture(autouse=True)
def _clean():
    gc.collect()
    buffers.release()
    yield
    buffers.release()


def _address(x):
    return x.__array_interface__["data"][0]


def test_memory_comes_back():
    x = buffers.empty(BIG, np.float64)
    place = _address(x)
    del x
    assert buffers.retained() >= buffers.SMALLEST
    y = buffers.empty((2, BIG[0]), np.float32)
    assert _address(y) == place
    assert buffers.retained() == 0


@pytest.mark.parametrize(
    "view",
    [lambda x: x[3:], lambda x: x.reshape(2, -1).T, lambda x: x.view(np.int64), lambda x: x[::-1][5:6], memoryview],
)
def test_a_view_keeps_it(view):
    x = buffers.empty(BIG, np.float64)
    x[:] = 7.0
    kept = view(x)
    want = bytes(kept) if isinstance(kept, memoryview) else kept.copy()
    del x
    assert buffers.retained() == 0
    other = buffers.empty(BIG, np.float64)
    other[:] = 0
    assert (bytes(kept) if isinstance(kept, memoryview) else kept.tolist()) == (
        want if isinstance(want, bytes) else want.tolist()
    )


def test_arrays_of_the_same_time_do_not_overlap():
    arrays = [buffers.empty(BIG, np.float64) for _ in range(3)]
    del arrays[1]
    arrays.append(buffers.empty(BIG, np.float64))
    assert not any(np.shares_memory(a, b) for i, a in enumerate(arrays) for b in arrays[:i])


def test_small_arrays_are_numpys():
    x = buffers.empty((10, 10), np.float32)
    del x
    assert buffers.retained() == 0


def test_form():
    x = buffers.empty((3, buffers.SMALLEST), np.float32)
    assert (x.shape, x.dtype, x.flags.carray) == ((3, buffers.SMALLEST), np.float32, True)
    x[...] = 1
    assert x.sum(dtype=np.float64) == x.size


def test_memory_of_other_sizes_goes_back_to_the_system():
    """Or a change of batch size would keep both working sets."""
    for size in (1, 2, 4, 8):
        x = buffers.empty((size * BIG[0],), np.float64)
        del x
        assert buffers.retained() <= size * buffers.SMALLEST
