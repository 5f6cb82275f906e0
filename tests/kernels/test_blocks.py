"""References and products cut into pieces: the values of one piece, and the same bits with any number of threads."""

import numpy as np
import pytest
from support.rows.table import KERNEL_ROWS
from support.tolerances import COMPOSITE

import autograd as ag
from autograd.kernels import KERNELS, blocks
from autograd.kernels import product as products
from autograd.kernels.validate import arrays_in

every_kernel = pytest.mark.parametrize("name", sorted(KERNEL_ROWS))


@pytest.fixture
def cut(monkeypatch):
    """Work in pieces of a row or so, on so many threads."""

    def call(threads, piece_bytes=64):
        monkeypatch.setattr(blocks, "BLOCK_BYTES", piece_bytes)
        monkeypatch.setattr(products, "_LARGE", 1)
        monkeypatch.setattr(products, "blas_is_single", lambda: True)
        ag.set_num_threads(threads)

    before = ag.get_num_threads()
    yield call
    ag.set_num_threads(before)


def _results(name):
    """Whatever the reference returns or writes."""
    args, options = KERNEL_ROWS[name].arguments(np.random.default_rng(0), np.float64)
    result = KERNELS[name].reference(*args, **options)
    return arrays_in(result) + arrays_in([args[i] for i in KERNELS[name].writes])


@every_kernel
def test_pieces_make_the_whole(name, cut):
    whole = _results(name)
    cut(threads=1)
    for got, want in zip(_results(name), whole, strict=True):
        np.testing.assert_allclose(got, want, rtol=COMPOSITE, atol=COMPOSITE)


@every_kernel
def test_bits_do_not_depend_on_threads(name, cut):
    found = []
    for threads in (1, 2, 3, 7):
        cut(threads)
        found.append([r.tobytes() for r in _results(name)])
    assert all(f == found[0] for f in found)


def _linear(rows):
    """Output and gradients of a linear layer over so many rows."""
    rng = np.random.default_rng(1)
    x, w, b = (ag.Tensor(rng.standard_normal(s), requires_grad=True) for s in ((2, rows, 5), (6, 5), (6,)))
    out = ag.linear(x, w, b)
    out.backward(rng.standard_normal(out.shape))
    return [out.data, x.grad, w.grad, b.grad]


@pytest.mark.parametrize("rows", [1, 2, 3, 9, 40])  # fewer rows than pieces, one pass with 4 pieces, with 8
def test_linear_in_pieces(rows, cut):
    whole = _linear(rows)
    found = []
    for threads in (1, 2, 3):
        cut(threads)
        found.append(_linear(rows))
    for got, want in zip(found[0], whole, strict=True):
        np.testing.assert_allclose(got, want, rtol=COMPOSITE, atol=COMPOSITE)
    assert all(a.tobytes() == b.tobytes() for other in found[1:] for a, b in zip(found[0], other, strict=True))


@pytest.mark.parametrize("shape", [(3, 4, 2), (4, 3, 2), (20, 2, 3), (2, 20, 3), (1, 1, 1), (0, 3, 2), (3, 0, 2)])
def test_product_in_pieces(shape, cut):
    rows, terms, columns = shape
    rng = np.random.default_rng(2)
    x, y = rng.standard_normal((rows, terms)), rng.standard_normal((terms, columns))
    cut(threads=2)
    np.testing.assert_allclose(products.product(x, y), x @ y, rtol=COMPOSITE, atol=COMPOSITE)


def test_a_fault_in_any_piece_is_raised(cut):
    cut(threads=3)

    def piece(block):
        if block.start == 4:
            raise ZeroDivisionError("in the middle")

    with pytest.raises(ZeroDivisionError, match="in the middle"):
        blocks.run_blocks(piece, 9, 64)
