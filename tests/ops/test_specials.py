"""What the table cannot say in one line: NumPy's behaviour at the edges, extreme values, views, options."""

import numpy as np
import pytest
import scipy.special

import autograd as ag

FLOATS = (np.float64, np.float32, np.float16)


def leaf(values, dtype=np.float64):
    return ag.Tensor(np.array(values, dtype), requires_grad=True)


# ---- size 0, as in NumPy


@pytest.mark.parametrize("op", ["max", "min", "argmax", "mean", "var", "logsumexp", "softmax", "log_softmax"])
def test_without_a_value_over_nothing(op):
    with pytest.raises(ValueError, match=f"^{op}: expected"):
        getattr(ag, op)(np.ones((2, 0)), axis=1)


def test_sum_over_nothing_is_zero():
    x = leaf(np.ones((2, 0)))
    out = ag.sum(x, axis=1)
    np.testing.assert_array_equal(out.data, [0, 0])
    (grad,) = ag.grad(out, x, np.ones(2))
    assert grad.shape == (2, 0)


def test_masked_softmax_over_nothing_raises():
    with pytest.raises(ValueError, match=r"^masked_softmax: expected a non-empty axis"):
        ag.masked_softmax(np.ones((2, 0)), np.zeros((2, 0)))


def test_l2_normalize_over_nothing_is_nothing():
    assert ag.l2_normalize(np.ones((2, 0))).shape == (2, 0)


# ---- extreme values


@pytest.mark.parametrize("dtype", FLOATS)
def test_softmax_of_extremes(dtype):
    big = float(np.finfo(dtype).max) / 2
    x = np.array([[big, big, -big], [-big, -big, -big]], dtype)
    np.testing.assert_allclose(ag.softmax(x).data, [[0.5, 0.5, 0], [1 / 3] * 3], rtol=float(np.finfo(dtype).eps))


def test_log_softmax_does_not_underflow():
    out = ag.log_softmax(np.array([[0.0, 1000.0]]))
    np.testing.assert_array_equal(out.data, [[-1000.0, 0.0]])


def test_logsumexp_of_extremes():
    x = np.array([[1000.0, 1000.0], [-np.inf, -np.inf], [-np.inf, 3.0]])
    t = leaf(x)
    out = ag.logsumexp(t, axis=1)
    np.testing.assert_array_equal(out.data, scipy.special.logsumexp(x, axis=1))
    (grad,) = ag.grad(out, t, np.ones(3))
    np.testing.assert_array_equal(grad, [[0.5, 0.5], [0, 0], [0, 1]])


def test_sigmoid_and_gelu_do_not_overflow():
    x = np.array([-1e4, -800.0, 800.0, 1e4])
    np.testing.assert_array_equal(ag.sigmoid(x).data, [0, 0, 1, 1])
    np.testing.assert_array_equal(ag.gelu(x).data, [0, 0, 800, 1e4])
    t = leaf(x)
    np.testing.assert_array_equal(ag.grad(ag.gelu(t), t, np.ones(4))[0], [0, 0, 1, 1])
    low = np.array([-6e4, 6e4], np.float16)
    np.testing.assert_array_equal(ag.sigmoid(low).data, [0, 1])


def test_l2_normalize_of_zeros_is_zeros():
    for dtype in FLOATS:
        x = leaf(np.zeros((2, 3)), dtype)
        out = ag.l2_normalize(x)
        assert not out.data.any()
        assert not ag.grad(out, x, np.ones((2, 3), dtype))[0].any()


def test_l2_normalize_with_eps_given_has_the_formula_s_slope():
    x = leaf(np.zeros((2, 3)))
    np.testing.assert_array_equal(ag.grad(ag.l2_normalize(x, eps=0.25), x, np.ones((2, 3)))[0], np.full((2, 3), 4.0))


def test_layer_norm_of_a_constant_row_is_the_bias():
    y = ag.layer_norm(np.full((2, 4), 7.5), np.ones(4), np.arange(4.0))
    np.testing.assert_array_equal(y.data, [[0, 1, 2, 3]] * 2)


def test_layer_norm_keeps_a_small_spread_on_a_large_offset():
    """One pass E[x^2] - E[x]^2 would lose every digit here."""
    row = np.array([1.0, 2.0, 3.0, 4.0], np.float32)
    near, far = (ag.layer_norm(row + offset, np.ones(4, np.float32), np.zeros(4, np.float32)) for offset in (0, 4096))
    np.testing.assert_allclose(far.data, near.data, atol=1e-6)


def test_float16_sums_do_not_overflow_or_stall():
    ones = np.ones(60_000, np.float16)
    assert ag.sum(ones).item() == np.float16(60_000)
    assert ag.mean(np.full(60_000, 3.0, np.float16)).item() == 3.0
    x = leaf(np.ones((4096, 1)), np.float16)
    (grad,) = ag.grad(x * ag.Tensor(np.ones((1, 8), np.float16)), x, np.ones((4096, 8), np.float16))
    np.testing.assert_array_equal(grad, np.full((4096, 1), 8))
    w = leaf(np.ones(1), np.float16)
    (grad,) = ag.grad(ag.Tensor(np.ones(4096, np.float16)) * w, w, np.ones(4096, np.float16))
    assert grad[0] == 4096


def test_mean_of_a_float16_table_row_adds_up_in_float32():
    table = leaf(np.zeros((2, 1)), np.float16)
    out = ag.table_gather(table, np.zeros(5000, int))
    (grad,) = ag.grad(out, table, np.ones((5000, 1), np.float16))
    np.testing.assert_array_equal(grad, np.array([[5000], [0]], np.float16))


# ---- ops with an option that changes what they are


@pytest.mark.parametrize("op", [ag.dropout, ag.drop_path])
def test_dropout_off_is_the_same_tensor(op):
    x = leaf([1.0, 2.0])
    assert op(x, 0.0) is x
    assert op(x, 0.5, training=False) is x
    assert ag.drop_path_keep(x, 0.0) is None
    assert ag.drop_path_keep(x, 0.5, training=False) is None


def test_drop_path_keep_is_the_draw_of_drop_path():
    x = ag.Tensor(np.ones((32, 3)))
    keep = ag.drop_path_keep(x, 0.3, generator=ag.Generator(5))
    dropped = ag.drop_path(x, 0.3, generator=ag.Generator(5))
    np.testing.assert_array_equal(keep, dropped.data[:, 0])
    assert set(np.unique(keep)) == {0, 1 / 0.7}


def test_views_are_views():
    x = ag.Tensor(np.arange(24.0).reshape(2, 3, 4))
    for view in (
        x.reshape(6, 4),
        x.transpose(2, 0, 1),
        x[1:, ::2],
        ag.flip(x, 1),
        ag.broadcast_to(x, (5, 2, 3, 4)),
        ag.sliding_window_view(x, (2, 2), (1, 2)),
        *ag.split(x, 3, axis=1),
    ):
        assert np.shares_memory(view.data, x.data)


def test_overlapping_views_are_read_only():
    x = ag.Tensor(np.arange(4.0))
    assert not ag.sliding_window_view(x, 2).data.flags.writeable
    assert not ag.broadcast_to(x, (2, 4)).data.flags.writeable


def test_cross_entropy_takes_labels_of_any_integer_dtype():
    logits = np.random.default_rng(0).standard_normal((3, 4))
    want = ag.cross_entropy(logits, np.array([0, 3, 1])).item()
    for dtype in (np.int8, np.uint8, np.int32):
        assert ag.cross_entropy(logits, np.array([0, 3, 1], dtype)).item() == want


def test_table_gather_backward_is_in_index_order():
    """The sum of a row is made in the order of the indices: the same bits as a plain loop."""
    rng = np.random.default_rng(2)
    index = rng.integers(0, 5, 300)
    g = rng.standard_normal((300, 2)) * 10.0 ** rng.integers(-8, 8, (300, 1))
    table = leaf(np.zeros((5, 2)))
    (grad,) = ag.grad(ag.table_gather(table, index), table, g)
    want = np.zeros((5, 2))
    np.add.at(want, index, g)
    np.testing.assert_allclose(grad, want, rtol=1e-13, atol=1e-6)
    for permutation in (np.argsort(index, kind="stable"),):
        again = ag.grad(ag.table_gather(table, index[permutation]), table, g[permutation])[0]
        np.testing.assert_array_equal(again, grad)


def test_float16_mean_and_ties_over_more_elements_than_float16_counts():
    """65,536 is inf in float16, and g / inf is 0."""
    n = 1 << 16
    x = leaf(np.ones(n), np.float16)
    for op in (ag.mean, ag.max, ag.min):
        (grad,) = ag.grad(op(x), x, np.array(64, np.float16))
        assert grad.dtype == np.float16
        np.testing.assert_array_equal(grad, np.full(n, 2.0**-10, np.float16))


@pytest.mark.parametrize("soft", [False, True])
def test_cross_entropy_with_a_class_that_is_ruled_out(soft):
    """-inf for another class than the label's: 0 * -inf must not make NaN. torch gives 1.3133 here."""
    logits = leaf([[-np.inf, 0, 1]])
    loss = ag.cross_entropy(logits, np.array([[0.0, 1, 0]] if soft else [1]))
    np.testing.assert_allclose(loss.item(), np.log(1 + np.e), rtol=1e-15)
    (grad,) = ag.grad(loss, logits)
    p = 1 / (1 + np.e)
    np.testing.assert_allclose(grad, [[0, p - 1, 1 - p]], rtol=1e-15)
    assert ag.cross_entropy(logits, np.array([0])).item() == np.inf


@pytest.mark.parametrize("bad", [np.inf, -np.inf, np.nan])
@pytest.mark.parametrize(
    ("op", "point"),
    [
        (lambda x: ag.where(np.array([True, False]), x, 0.0), [1.0, 2]),
        (lambda x: ag.where(np.array([False, True]), 0.0, x), [1.0, 2]),
        (lambda x: ag.clip(x, 0.0, 1.5), [1.0, 2]),
        (ag.relu, [1.0, -1]),
        (lambda x: ag.maximum(x, 0.0), [1.0, -1]),
        (lambda x: ag.maximum(0.0, x), [1.0, -1]),
        (lambda x: ag.minimum(x, 1.5), [1.0, 2]),
    ],
)
def test_what_was_not_selected_gets_no_gradient_however_bad(op, point, bad):
    x = leaf(point)
    (grad,) = ag.grad(op(x), x, np.array([3.0, bad]))
    np.testing.assert_array_equal(grad, [3, 0])


@pytest.mark.parametrize(("op", "values"), [(ag.max, [1.0, 2]), (ag.min, [2.0, 1])])
def test_extremes_send_a_bad_gradient_to_the_extreme_alone(op, values):
    x = leaf(values)
    np.testing.assert_array_equal(ag.grad(op(x), x, np.array(np.inf))[0], [0, np.inf])


@pytest.mark.parametrize("bad", [np.inf, -np.inf, np.nan])
def test_power_zero_is_constant_whatever_arrives(bad):
    x = leaf([0.0, 2.0, np.inf])
    (x ** np.array([0.0, 0.0, 0.0])).backward(np.full(3, bad))
    assert x.grad.tolist() == [0, 0, 0]


# ---- NaN, and what nothing is


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("op", [ag.max, ag.min])
def test_extremes_of_a_slice_with_nan(op, dtype):
    """torch.amax: NaN for all of the slice, so that a check of the gradient's norm finds it."""
    x = leaf([[np.nan, 1, 2], [3, 3, 3]], dtype)
    out = op(x, axis=1)
    np.testing.assert_array_equal(out.data, [np.nan, 3])
    (grad,) = ag.grad(out, x, np.ones(2, dtype))
    assert grad.dtype == dtype
    np.testing.assert_array_equal(grad, np.array([[np.nan] * 3, [1 / 3] * 3]).astype(dtype))


@pytest.mark.parametrize("op", [ag.maximum, ag.minimum])
@pytest.mark.parametrize(("x", "y"), [(np.nan, 1.0), (1.0, np.nan), (np.nan, np.nan)])
def test_extremes_of_two_with_nan(op, x, y):
    """torch: neither is the smaller one, so both get all of the gradient."""
    a, b = leaf([x]), leaf([y])
    out = op(a, b)
    assert np.isnan(out.data).all()
    for grad in ag.grad(out, (a, b), np.array([3.0])):
        np.testing.assert_array_equal(grad, [3])
    np.testing.assert_array_equal(ag.grad(op(a, 1.0), a, np.array([3.0]))[0], [1.5 if x == 1 else 3])


def test_slopes_at_nan():
    x = leaf([np.nan, 1.0])
    for op, slope in ((ag.relu, 1), (ag.absolute, np.nan), (lambda t: ag.clip(t, 0.0, 2.0), 0)):
        np.testing.assert_array_equal(ag.grad(op(x), x, np.ones(2))[0], [slope, 1])


@pytest.mark.filterwarnings(
    "ignore:.* encountered in :RuntimeWarning"
)  # NumPy's, of 0 ** -1 and (-2) ** 0.5 themselves
def test_the_gradient_of_an_exponent_is_zero_where_the_base_is_not_positive():
    x, y = leaf([0.0, 0.0, -2.0, -2.0, -np.inf, np.nan, 2.0]), leaf([-1.0, -np.inf, 0.5, 2.0, 2.0, 2.0, 3.0])
    out = x**y
    np.testing.assert_array_equal(out.data, [np.inf, np.inf, np.nan, 4, np.inf, np.nan, 8])
    gx, gy = ag.grad(out, (x, y), np.ones(7))
    np.testing.assert_array_equal(gy, [0, 0, 0, 0, 0, np.nan, 8 * np.log(2)])
    np.testing.assert_array_equal(gx, [-np.inf, -np.inf, np.nan, -4, -np.inf, np.nan, 12])
    np.testing.assert_array_equal(ag.grad(0.0**y, y, np.ones(7))[0], np.zeros(7))


@pytest.mark.parametrize("op", [ag.softmax, lambda x: ag.masked_softmax(x, np.zeros((2, 3)))])
def test_softmax_of_nothing_left_is_zeros_without_a_gradient(op):
    x = leaf([[-np.inf] * 3, [-np.inf, 0, 0]])
    out = op(x)
    np.testing.assert_array_equal(out.data, [[0, 0, 0], [0, 0.5, 0.5]])
    np.testing.assert_array_equal(ag.grad(out, x, np.array([[1.0, 2, 3]] * 2))[0], [[0, 0, 0], [0, -0.25, 0.25]])


@pytest.mark.filterwarnings("ignore:invalid value encountered in subtract:RuntimeWarning")
def test_log_softmax_of_nothing_left_is_nan():
    """log(0 / 0): as torch, and so is the cross-entropy."""
    row = leaf([[-np.inf] * 3])
    for out in (ag.log_softmax(row), ag.cross_entropy(row, np.array([0]))):
        assert np.isnan(out.data).all()
        assert np.isnan(ag.grad(out, row, np.ones(out.shape))[0]).all()


# ---- the axis of a 0-d array, as in torch


@pytest.mark.parametrize("axis", [0, -1])
@pytest.mark.parametrize("op", ["sum", "mean", "var", "max", "min", "logsumexp", "squeeze", "flip"])
def test_a_0d_array_has_the_axes_0_and_minus_1(op, axis):
    function, x = getattr(ag, op), leaf(3.0)
    out = function(x, axis=axis)
    assert out.shape == ()
    assert out.item() == (0 if op == "var" else 3)
    assert ag.grad(out, x, np.array(2.0))[0] == (0 if op == "var" else 2)
    for wrong in (1, -2):
        with pytest.raises(IndexError, match=rf"^{op}: expected an axis in \[-1, 0\]; got {wrong}"):
            function(x, axis=wrong)
    with pytest.raises(ValueError, match=f"^{op}: expected distinct axes"):
        function(x, axis=(0, -1))


@pytest.mark.parametrize("axis", [0, -1])
def test_argmax_and_take_of_a_0d_array(axis):
    x = leaf(3.0)
    assert ag.argmax(x, axis=axis).item() == np.argmax(3.0, axis=axis) == 0
    assert ag.argmax(x, axis=axis, keepdims=True).shape == ()
    for indices in (0, [0, -1, 0], np.zeros((2, 1), int)):
        out = ag.take(x, indices, axis=axis)
        np.testing.assert_array_equal(out.data, np.take(np.array(3.0), indices, axis=axis))
        assert ag.grad(out, x, np.ones(out.shape))[0] == np.size(indices)
    for call in (lambda: ag.argmax(x, axis=1), lambda: ag.take(x, 0, axis=1)):
        with pytest.raises(IndexError, match=r"expected an axis in \[-1, 0\]; got 1"):
            call()


@pytest.mark.parametrize("name", ["square", "absolute", "relu", "sum", "max", "min", "argmax", "multiply", "power"])
def test_booleans_are_numpy_s(name):
    x = np.array([True, False])
    reference = (lambda v: np.maximum(v, 0)) if name == "relu" else getattr(np, name)
    arguments = (x, x) if name in ("multiply", "power") else (x,)
    got, want = getattr(ag, name)(*arguments), reference(*arguments)
    assert got.dtype == want.dtype
    np.testing.assert_array_equal(got.data, want)
