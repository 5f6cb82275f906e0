"""Products: no copies of transposed operands, biases, cuts."""

import numpy as np
import pytest
from support.tolerances import COMPOSITE

import autograd as ag
import swinpy
from autograd.kernels import product as products
from autograd.kernels.product import operand_copies, product


@pytest.fixture
def always_cut(monkeypatch):
    monkeypatch.setattr(products, "_LARGE", 1)
    monkeypatch.setattr(products, "blas_is_single", lambda: True)


SHAPES = [(2, 3, 4), (1500, 3, 2), (900, 3, 7), (2, 3, 900), (3, 500, 2), (1, 1, 1), (0, 3, 2), (3, 0, 2), (3, 2, 0)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("layout", [(False, False), (True, False), (False, True), (True, True)])
def test_values_of_every_cut_and_orientation(always_cut, shape, layout):
    m, k, n = shape
    rng = np.random.default_rng(0)
    x = rng.standard_normal((k, m)).T if layout[0] else rng.standard_normal((m, k))
    y = rng.standard_normal((n, k)).T if layout[1] else rng.standard_normal((k, n))
    bias, before = rng.standard_normal(n), operand_copies()
    np.testing.assert_allclose(product(x, y, bias), x @ y + bias, rtol=COMPOSITE, atol=COMPOSITE)
    assert operand_copies() == before


@pytest.mark.parametrize("x", [np.ones((6, 8))[:, ::2], np.ones((6, 4))[::-1], np.broadcast_to(np.ones(4), (6, 4))])
def test_what_blas_cannot_take_is_copied_and_counted(x):
    before = operand_copies()
    np.testing.assert_array_equal(product(x, np.ones((4, 2))), np.full((6, 2), 4.0))
    assert operand_copies() == before + 1


def test_a_training_step_copies_no_operand():
    model = swinpy.create_model("swin_cifar_nano", num_classes=10).train()
    images = np.random.default_rng(0).standard_normal((4, 3, 32, 32)).astype(np.float32)
    before = operand_copies()
    ag.cross_entropy(model(images), np.arange(4)).backward()
    assert operand_copies() == before
