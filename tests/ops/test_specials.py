"""What the table cannot say in one line: NumPy's behaviour at the edges, extreme values, constants and casts."""

from dataclasses import replace

import numpy as np
import pytest
import scipy.special
from support.runner import as_tuple, outputs
from support.table import rows

import autograd as ag
from autograd.primitive import PRIMITIVES

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


# ---- lists and NumPy scalars


@pytest.mark.parametrize("op", [ag.sum, ag.mean, ag.max, ag.var, ag.logsumexp])
def test_reductions_take_lists(op):
    assert op([[1.0, 2.0], [3.0, 5.0]]).shape == ()
    assert op([[1.0, 2.0], [3.0, 5.0]], axis=1).shape == (2,)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("constant", [2, 2.5, True, np.float64(2.5), np.float32(2.5), np.int64(2)])
@pytest.mark.parametrize("op", [ag.add, ag.multiply, ag.divide, ag.power, ag.maximum])
def test_constants_do_not_widen(op, constant, dtype):
    x = leaf([1.0, 2.0], dtype)
    for out in (op(x, constant), op(constant, x), op(ag.Tensor(x.data.reshape(2, 1)), constant)):
        assert out.dtype == dtype


@pytest.mark.parametrize("dtype", FLOATS)
def test_integers_do_not_widen_floats(dtype):
    assert ag.add(np.ones(2, dtype), np.arange(2)).dtype == dtype
    assert ag.where(np.array([True, False]), np.ones(2, dtype), np.arange(2)).dtype == dtype


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("op", [ag.add, ag.divide, ag.power, ag.maximum, lambda x, y: ag.where([[True, False]], x, y)])
def test_0d_arrays_are_constants_unless_they_are_tensors(op, dtype):
    x = leaf([1.0, 2.0], dtype)
    for out in (op(x, np.array(2.0)), op(np.array(2.0), x), op([0.5], np.array(2, dtype))):
        assert out.dtype == (dtype if out.requires_grad else np.float64)
    assert op(x, ag.Tensor(np.array(2.0))).dtype == np.float64
    assert op(np.array(3, dtype), np.array(2, dtype)).dtype == dtype


@pytest.mark.parametrize("dtype", FLOATS)
def test_bounds_of_clip_do_not_widen(dtype):
    x = leaf([1.0, 3.0], dtype)
    for bound in (np.float64(2), np.int64(2), np.array(2.0), True):
        assert ag.clip(x, 0, bound).dtype == ag.clip(x, bound).dtype == dtype
    with pytest.raises(TypeError, match=r"^clip: expected a number; got ndarray"):
        ag.clip(x, np.zeros(2))


def test_mixed_floats_go_to_the_widest_and_gradients_come_back():
    x, y = leaf([1.0, 2.0], np.float16), leaf([3.0, 4.0], np.float32)
    out = x * y
    assert out.dtype == np.float32
    gx, gy = ag.grad(out, [x, y], np.ones(2, np.float32))
    assert (gx.dtype, gy.dtype) == (np.float16, np.float32)
    np.testing.assert_array_equal(gx, [3, 4])


# ---- casts


@pytest.mark.parametrize("start", FLOATS)
@pytest.mark.parametrize("target", FLOATS)
def test_astype_casts_the_gradient_back(start, target):
    x = leaf([1.1, -2.3], start)
    out = x.astype(target)
    np.testing.assert_array_equal(out.data, x.data.astype(target))
    (grad,) = ag.grad(out, x, np.array([0.1, 0.2], target))
    assert grad.dtype == start
    np.testing.assert_array_equal(grad, np.array([0.1, 0.2], target).astype(start))


@pytest.mark.parametrize("target", [np.int64, bool])
def test_a_cast_off_the_floats_has_no_gradient(target):
    assert not leaf([1.5, 0.0]).astype(target).requires_grad


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


# ---- integers and booleans

FLOAT_RESULTS = [info for info in rows() if info.name in PRIMITIVES and PRIMITIVES[info.name].floats]
# isfinite's sample holds infinities; window_attention is the model's, which never sees integers.
INTEGER_ROWS = [info for info in rows() if info.name not in ("isfinite", "window_attention")]


@pytest.mark.parametrize(
    ("info", "dtype"),
    [
        *((info, dtype) for info in INTEGER_ROWS for dtype in (np.int64, np.int8)),
        *((info, bool) for info in FLOAT_RESULTS),  # + and @ of booleans are logic, as in NumPy
    ],
    ids=lambda p: getattr(p, "name", getattr(p, "__name__", None)),
)
def test_integers_are_not_cut_off(info, dtype):
    """Every op on integers gives what its reference says, as float64 where it declares floats."""
    sample = info.sample(next(iter(info.samples)))
    args = tuple(np.ceil(abs(a)).astype(dtype) if isinstance(a, np.ndarray) else a for a in sample.args)
    got = outputs(info.fn, replace(sample, args=args))
    want = info.reference(*replace(sample, args=args).cast(np.float64).args, **sample.kwargs)
    for g, w in zip(got, as_tuple(want), strict=True):
        np.testing.assert_allclose(g, w, rtol=1e-12, atol=1e-12)
        assert info not in FLOAT_RESULTS or g.dtype == np.float64


def test_integers_and_booleans_by_name():
    assert ag.erf([0, 1, 2]).data.tolist() == ag.erf([0.0, 1, 2]).data.tolist()
    assert ag.drop_path_keep(ag.Tensor(np.ones(8, int)), 0.5).dtype == np.float64
    assert ag.square([1, 2]).dtype == ag.relu([1, 2]).dtype == np.int64
    with ag.autocast("float16"):
        assert ag.softmax([1, 2]).dtype == np.float64


# ---- integers that are NumPy's


@pytest.mark.parametrize(
    ("call", "shape"),
    [
        (lambda x, n: ag.sum(x, axis=n(1)), (4, 6)),
        (lambda x, n: ag.softmax(x, axis=n(1)), (4, 4, 6)),
        (lambda x, n: ag.roll(x, n(1), n(1)), (4, 4, 6)),
        (lambda x, n: ag.roll(x, n(1), (n(0), n(1))), (4, 4, 6)),
        (lambda x, n: ag.split(x, n(2), n(2))[0], (4, 4, 3)),
        (lambda x, n: ag.split(x, [n(1), n(2)], 2)[1], (4, 4, 1)),
        (lambda x, n: ag.reshape(x, n(96)), (96,)),
        (lambda x, n: x.reshape(n(96)), (96,)),
        (lambda x, n: x.reshape(n(16), n(6)), (16, 6)),
        (lambda x, n: x.transpose(n(0), n(2), n(1)), (4, 6, 4)),
        (lambda x, n: ag.broadcast_to(x, (n(2), 4, 4, 6)), (2, 4, 4, 6)),
        (lambda x, n: ag.sliding_window_view(x, n(2), n(0), n(2)), (2, 4, 6, 2)),
        (lambda x, n: ag.avg_pool2d(x[None], n(2), n(2)), (1, 4, 2, 3)),
        (lambda x, n: ag.flip(ag.squeeze(ag.expand_dims(x, n(0)), n(0)), n(1)), (4, 4, 6)),
    ],
)
@pytest.mark.parametrize("integer", [int, np.int64, np.uint8, np.array])
def test_numpy_integers_are_integers(call, shape, integer):
    assert call(leaf(np.ones((4, 4, 6))), integer).shape == shape


@pytest.mark.parametrize(
    "call",
    [
        lambda x: ag.sum(x, axis=1.0),
        lambda x: ag.softmax(x, axis=None),
        lambda x: ag.reshape(x, 4.0),
        lambda x: ag.reshape(x, "4"),
        lambda x: ag.roll(x, 0.5, 0),
        lambda x: ag.split(x, 2.0),
        lambda x: ag.sliding_window_view(x, 1.5),
        lambda x: ag.broadcast_to(x, 2.0),
    ],
)
def test_floats_are_not_integers(call):
    with pytest.raises(TypeError, match=r"^\w+: expected \w+ as an integer; got "):
        call(leaf(np.ones((2, 2))))


# ---- operands of the wrong kind


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda x: x + None, TypeError, "add: expected a Tensor, an array or a number; got None"),
        (lambda x: ag.where(np.array([True]), None, x), TypeError, "where: expected a Tensor, .*; got None"),
        (lambda x: ag.linear(x, 3.0), TypeError, "linear: expected Tensors or arrays; got the number 3.0"),
        (lambda x: ag.layer_norm(x, 1.0, 0.0), TypeError, "layer_norm: expected Tensors or arrays; got the number 1.0"),
        (lambda x: ag.bias_gelu(x, 1.0), TypeError, "bias_gelu: expected Tensors or arrays; got the number 1.0"),
        (lambda x: x.to(None), TypeError, "device: expected cpu, gpu, .*; got None"),
        (lambda x: ag.softmax(ag.sum(x)), IndexError, "softmax: expected at least one dimension; got a 0-d tensor"),
        (lambda x: ag.autocast("junk"), TypeError, "dtype: expected a NumPy dtype or its name; got 'junk'"),
        (lambda x: x.astype("junk"), TypeError, "dtype: expected a NumPy dtype or its name; got 'junk'"),
    ],
)
def test_messages_for_the_wrong_kind(call, error, words):
    with pytest.raises(error, match=f"^{words}"):
        call(leaf(np.ones((2, 3))))


def test_keep_as_a_list():
    x, one = np.ones((2, 3)), np.ones(3)
    got = ag.residual_layer_norm(x, x, [0.0, 2.0], one, one)[0]
    np.testing.assert_array_equal(got.data, [[1] * 3, [3] * 3])
    with pytest.raises(ValueError, match=r"^residual_layer_norm: expected keep of shape \(2,\); got \(3,\)"):
        ag.residual_layer_norm(x, x, [0.0, 2.0, 1.0], one, one)


def test_table_gather_takes_narrow_indices_into_a_long_table():
    table = leaf(np.zeros((300, 2)))
    (grad,) = ag.grad(ag.table_gather(table, np.array([255, 255, 0], np.uint8)), table, np.ones((3, 2)))
    np.testing.assert_array_equal(grad[[0, 255]], [[1, 1], [2, 2]])
    assert grad.sum() == 6


def test_an_empty_list_picks_nothing():
    x = leaf(np.ones((3, 2)))
    out = x[[]]
    assert out.shape == (0, 2)
    np.testing.assert_array_equal(ag.grad(out, x, np.ones((0, 2)))[0], np.zeros((3, 2)))
    assert x[:, []].shape == (3, 0)
