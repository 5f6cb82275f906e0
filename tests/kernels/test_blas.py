"""NumPy's BLAS: what it says of itself; every product holds it to one thread, so that no bit depends on its threads."""

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from support import skips

import autograd as ag
from autograd.kernels import blas, threads
from autograd.kernels import product as products
from autograd.kernels.adamw import grad_norm
from autograd.kernels.product import product


class Pool:
    """A BLAS whose number of threads is the process's."""

    threading_layer = "pthreads"

    def __init__(self):
        self.threads = 5

    def get_num_threads(self):
        return self.threads

    def set_num_threads(self, n):
        self.threads = n


class OwnPool(Pool, threading.local):
    """A BLAS whose number of threads is the calling thread's, as that of OpenMP."""

    threading_layer = "openmp"


@pytest.fixture(params=[Pool, OwnPool])
def pool(request, monkeypatch):
    pool, before = request.param(), ag.get_num_threads()
    monkeypatch.setattr(blas, "blas_pools", lambda: (pool,))
    threads._forget_helpers()  # those to come see this pool
    ag.set_num_threads(2)
    yield pool
    ag.set_num_threads(before)
    threads._forget_helpers()


def test_blas_is_put_back(pool):
    """Held to one thread while pieces run, blocks inside each other included; then as many as before."""
    seen = threads.map_pieces(lambda _: (threads.map_pieces(lambda _: pool.threads, [0, 1]), pool.threads), [0, 1, 2])
    assert seen == [([1, 1], 1)] * 3
    assert pool.threads == 5
    with pytest.raises(ZeroDivisionError), blas.one_blas_thread():
        raise ZeroDivisionError
    assert pool.threads == 5


def test_blas_is_held_on_every_thread(pool):
    """Two threads hold it at overlapping times: each sees one thread until it is done."""
    both, seen = threading.Barrier(2, timeout=60), []

    def hold(first):
        with blas.one_blas_thread():
            both.wait()
            seen.append(pool.threads)
            if first:
                both.wait()  # the other one has left
                seen.append(pool.threads)
        if not first:
            both.wait()

    with ThreadPoolExecutor(2) as executor:
        list(executor.map(hold, [True, False]))
    assert seen == [1, 1, 1]
    assert pool.threads == 5


SHAPES = [((3, 4), (4, 2)), ((4,), (4,)), ((4,), (4, 2)), ((3, 4), (4,)), ((5, 3, 4), (4, 2)), ((1, 3, 4), (5, 4, 2))]


@pytest.mark.parametrize("large", [1, 1 << 30])
@pytest.mark.parametrize("shapes", SHAPES)
def test_every_product_holds_blas(monkeypatch, shapes, large):
    seen = []

    class Watched(np.ndarray):
        def __array_ufunc__(self, ufunc, method, *inputs, out=None, **options):
            seen.append((ufunc.__name__, held()))
            return getattr(ufunc, method)(*(np.asarray(i) for i in inputs), out=out, **options)

    def held():
        return blas._held._shared.depth > 0 or blas._held._own.depth > 0

    monkeypatch.setattr(products, "_LARGE", large)
    x, y = (np.ones(shape).view(Watched) for shape in shapes)
    product(x, y)
    assert {name for name, _ in seen} == {"matmul"}
    assert all(held for _, held in seen)


needs_openblas = pytest.mark.skipif(blas.openblas() is None, reason=skips.NO_OPENBLAS)


@needs_openblas
def test_openblas_is_numpys():
    found = blas.openblas()
    assert found.config.startswith("OpenBLAS ")
    assert found.core in found.config or found.core
    assert found.threading_layer in ("disabled", "pthreads", "openmp")
    before = found.get_num_threads()
    with blas.one_blas_thread():
        assert found.get_num_threads() == 1
    assert found.get_num_threads() == before


@needs_openblas
def test_bits_do_not_depend_on_the_threads_of_blas():
    """A matrix times a vector in float32, a stack of matrices and a norm: sums that OpenBLAS divides among threads."""
    rng, found = np.random.default_rng(0), []
    x, y = rng.standard_normal((1, 1000)).astype("f4"), rng.standard_normal((1000, 1000)).astype("f4")
    a, b = rng.standard_normal((2, 4, 300, 400)).astype("f4"), rng.standard_normal((4, 400, 300)).astype("f4")
    before = blas.openblas().get_num_threads()
    try:
        for n in (1, 2, 3):
            blas.openblas().set_num_threads(n)
            results = [product(x, y), product(x[0], y), product(a, b), grad_norm.reference([y])]
            found.append([r.tobytes() for r in results])
    finally:
        blas.openblas().set_num_threads(before)
    assert found[0] == found[1] == found[2]


@pytest.mark.parametrize(
    "shapes", [((3, 4, 5), (5, 2)), ((3, 1, 4, 5), (2, 5, 6)), ((1, 4, 5), (7, 5, 2)), ((0, 2, 3), (3, 2))]
)
def test_values_of_stacks_in_pieces(monkeypatch, shapes):
    monkeypatch.setattr(products, "_LARGE", 1)
    x, y = (np.random.default_rng(i).standard_normal(shape) for i, shape in enumerate(shapes))
    np.testing.assert_array_equal(product(x, y), x @ y)


@pytest.mark.parametrize("gone", ["openblas_get_config", "openblas_set_num_threads"])
def test_a_library_that_cannot_be_asked_is_none(monkeypatch, gone):
    class Library:
        def __getattr__(self, name):
            if gone in name:
                raise AttributeError(name)
            return lambda *_: 1

    monkeypatch.setattr(blas.ctypes, "CDLL", lambda _: Library())
    assert blas.openblas.__wrapped__() is None


def test_no_numpy_module_to_ask(monkeypatch):
    monkeypatch.setattr(blas.sys, "modules", {})
    assert blas.openblas.__wrapped__() is None
