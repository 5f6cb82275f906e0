"""What operands may be: lists, NumPy scalars, integers, mixed dtypes; casts; and what is refused."""

from dataclasses import replace

import numpy as np
import pytest
from support.rows.table import cases, find, rows
from support.runner import as_tuple, identical, outputs

import autograd as ag
from autograd.primitive import PRIMITIVES
from swinpy.ops import window_attention_composite, window_partition, window_reverse

FLOATS = (np.float64, np.float32, np.float16)


def leaf(values, dtype=np.float64):
    return ag.Tensor(np.array(values, dtype), requires_grad=True)


# ---- arrays, lists and NumPy scalars

REFUSED = {"checkpoint": r"^checkpoint: expected Tensors as inputs; got (ndarray|list)\. Wrap it in ag\.Tensor\.$"}


def _call(fn, args, kwargs):
    return [np.asarray(getattr(t, "data", t)) for t in as_tuple(fn(*args, **kwargs))]


def _raw(args, give, places):
    """The arrays at ``places`` by ``give``, the others as Tensors."""
    arrays = [i for i, a in enumerate(args) if isinstance(a, np.ndarray)]
    return [(give if i in places else ag.Tensor)(a) if i in arrays else a for i, a in enumerate(args)]


@pytest.mark.parametrize("give", [np.asarray, np.ndarray.tolist], ids=["arrays", "lists"])
@pytest.mark.parametrize(("info", "case"), cases(), ids=lambda p: getattr(p, "name", p))
def test_what_is_no_tensor_counts_as_one(info, case, give):
    """All operands, and each alone beside Tensors: the same bits, or one message."""
    sample = info.sample(case)
    arrays = sample.arrays()
    if any(np.shape(give(sample.args[i])) != sample.args[i].shape for i in arrays):
        return  # a list of no rows does not tell how long they are
    for places in (arrays, *([i] for i in arrays)):
        args = _raw(sample.args, give, places)
        if info.name in REFUSED:
            with pytest.raises(TypeError, match=REFUSED[info.name]):
                info.fn(*args, **sample.kwargs)
            continue
        for got, want in zip(_call(info.fn, args, sample.kwargs), outputs(info.fn, sample), strict=True):
            identical(got, want, f"{places}")


@pytest.mark.parametrize("give", [np.asarray, np.ndarray.tolist], ids=["arrays", "lists"])
def test_the_ops_of_swin_take_what_is_no_tensor(give):
    sample = find("window_attention").sample("cosine")
    fused = _call(window_attention_composite, _raw(sample.args, ag.Tensor, ()), sample.kwargs)
    for places in (sample.arrays(), *([i] for i in sample.arrays())):
        composite = _call(window_attention_composite, _raw(sample.args, give, places), sample.kwargs)
        np.testing.assert_array_equal(composite, fused)
    x = np.arange(48.0).reshape(1, 4, 6, 2)
    windows = window_partition(give(x), (2, 3))
    np.testing.assert_array_equal(windows.data, window_partition(ag.Tensor(x), (2, 3)).data)
    np.testing.assert_array_equal(window_reverse(give(windows.data)).data, x)


@pytest.mark.parametrize(("outputs", "inputs"), [(np.ones(()), leaf([1.0])), (leaf([1.0]), np.ones(1)), ([1.0], [2.0])])
def test_grad_is_of_tensors(outputs, inputs):
    with pytest.raises(TypeError, match=r"^grad: expected Tensors as outputs and inputs; got "):
        ag.grad(outputs, inputs)


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
    with pytest.raises(ValueError, match=r"^residual_layer_norm: expected keep of shape \(2,\) .* got \(3,\)"):
        ag.residual_layer_norm(x, x, [0.0, 2.0, 1.0], one, one)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("special", [np.nan, np.inf])
def test_a_branch_that_is_dropped_is_not_read(dtype, special):
    x = np.arange(24, dtype=dtype).reshape(2, 3, 4)
    branch, shift, one = np.full_like(x, special), np.full(4, special, dtype), np.ones(4, dtype)
    for branch_bias in (None, shift):
        with np.errstate(all="ignore"):
            total, normed = ag.residual_layer_norm(x, branch, [0.0, 2.0], one, one, branch_bias=branch_bias)
        np.testing.assert_array_equal(total.data[0], x[0])
        np.testing.assert_array_equal(normed.data[0], ag.layer_norm(x[0], one, one).data)
        assert not np.isfinite(total.data[1]).any()


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


# ---- autocast

FLOAT32_UNDER_AUTOCAST = (
    *("adaptive_avg_pool2d", "batch_norm", "batch_norm_eval", "binary_cross_entropy_with_logits", "cross_entropy"),
    *("giou_loss", "group_norm", "l1_loss", "sigmoid_focal_loss", "smooth_l1_loss"),
)
AS_THEY_COME = ("dropout2d", "interpolate", "max_pool2d", "pixel_shuffle", "pixel_unshuffle")


@pytest.mark.parametrize("name", [*FLOAT32_UNDER_AUTOCAST, *AS_THEY_COME])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_losses_and_norms_are_float32_under_autocast(name, dtype):
    """From 16-bit operands, too; moves and resizing keep the dtype."""
    info = find(name)
    sample = info.sample(next(iter(info.samples))).cast(dtype)
    with ag.autocast("float16"):
        for out in outputs(info.fn, sample):
            assert out.dtype == (dtype if name in AS_THEY_COME else np.float32)
