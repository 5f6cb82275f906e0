"""Layers of few channels: values where widths and rows are and are not whole tiles, and who takes which layer."""

import numpy as np
import pytest
from support.implementations import needs_numba
from support.tolerances import LAYER

import autograd as ag
from autograd.kernels import KERNELS

pytestmark = needs_numba

ROWS = [0, 1, 5, 47, 48, 49, 300]
WIDTHS = [(1, 1), (3, 5), (16, 48), (17, 33), (64, 32)]


def _normal(rng, dtype, *shapes):
    return [rng.standard_normal(shape).astype(dtype) for shape in shapes]


def _agree(got, want):
    for a, b in zip(got, want, strict=True):
        assert a.shape == b.shape
        if a.size:
            assert float(abs(a - b).max()) <= LAYER * np.finfo(a.dtype).eps * max(1.0, float(abs(b).max()))


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("widths", WIDTHS)
def test_linear_backward(dtype, rows, widths):
    from autograd.kernels.compiled import narrow

    inputs, outputs = widths
    rng = np.random.default_rng(0)
    x, w, g = _normal(rng, dtype, (rows, inputs), (outputs, inputs), (rows, outputs))
    want = KERNELS["linear_bwd"].reference(*(a.astype(np.float64) for a in (g, x, w)), (True,) * 3)
    _agree(narrow.linear_backward(g, x, w, True), want)
    gx, *others = narrow.linear_backward(g, x, w, False)
    assert gx is None
    _agree(others, want[1:])


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("widths", WIDTHS)
def test_mlp(dtype, rows, widths):
    """Also with an output of another width than the input."""
    from autograd.kernels.compiled import narrow

    inputs, middle = widths
    rng, outputs = np.random.default_rng(0), inputs + 2
    shapes = ((rows, inputs), (middle, inputs), (middle,), (outputs, middle), (outputs,), (rows, outputs))
    x, w1, b1, w2, b2, g = _normal(rng, dtype, *shapes)
    wide = [a.astype(np.float64) for a in (x, w1, b1, w2, b2, g)]
    out, hidden = KERNELS["mlp_fwd"].reference(*wide[:5], True)
    got = narrow.mlp_forward(x, w1, b1, w2, b2, True)
    _agree(got, (out, hidden))
    alone, none = narrow.mlp_forward(x, w1, b1, w2, b2, False)
    assert none is None
    np.testing.assert_array_equal(alone, got[0])
    want = KERNELS["mlp_bwd"].reference(wide[5], wide[0], hidden, *wide[1:4], (True,) * 5)
    _agree(narrow.mlp_backward(g, x, got[1], w1, b1, w2), want)


def test_who_takes_a_layer(monkeypatch):
    """Few weights and many rows come here, through the registry; the others go to BLAS."""
    from autograd.kernels.compiled import narrow
    from autograd.kernels.linear import cpu as linear
    from autograd.kernels.mlp import cpu as mlp

    taken = []
    for module, name in ((linear, "linear_backward"), (mlp, "mlp_forward"), (mlp, "mlp_backward")):
        real = getattr(narrow, name)
        monkeypatch.setattr(module, name, lambda *a, _real=real, _name=name: (taken.append(_name), _real(*a))[1])

    def run(rows, channels):
        taken.clear()
        shapes = ((rows, channels), (channels, channels), (channels,))
        x, w, b = (ag.Tensor(np.ones(s, np.float32), requires_grad=True) for s in shapes)
        ag.linear(x, w, b).sum().backward()
        ag.mlp(x, w, b, w, b).sum().backward()
        return taken

    assert run(256, 16) == ["linear_backward", "mlp_forward", "mlp_backward"]
    assert run(255, 16) == []
    assert run(256, 96) == []
