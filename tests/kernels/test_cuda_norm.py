"""Layer norm and residual + layer norm on CUDA, thread by thread in the stand-in for CuPy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from support.gpu import fake_cupy
from support.gpu.kernel_checks import (
    agrees_with_float64,
    dtype_named,
    every_schedule_gives_the_same_bits,
    run_cuda,
    same_specials,
    to_gpu,
    to_host,
)
from support.precision import FEW
from support.runner import largest
from support.tolerances import ONE32

import autograd as ag
from autograd.kernels import KERNELS, explain, kernel_mode
from autograd.kernels.cuda.launch import counting
from autograd.kernels.cuda.layout import LONGEST_ROW, row_layout, vector_widths

if TYPE_CHECKING:
    from collections.abc import Iterator

Rng = np.random.Generator
# Each layout of threads: 8 lanes and single values; 8, 16 and 32 lanes; a block a row. 100 leaves lanes idle.
CASES = [("float32", width) for width in (1, 3, 7, 96, 100, 192, 384, 768, 1536)]
CASES += [("float16", 96), ("float16", 7), ("float16", 1536), ("bfloat16", 96)]
NAMES = (
    "layer_norm_fwd",
    "layer_norm_bwd",
    "residual_layer_norm_fwd",
    "residual_layer_norm_bwd",
    "residual_layer_norm_fwd+bias",  # with a bias of the branch
    "residual_layer_norm_bwd+bias",
)


@pytest.fixture
def cupy() -> Iterator[Any]:
    with fake_cupy.installed() as module:
        yield module


def _row(name: str) -> str:
    """The row of the registry that an entry of NAMES is of."""
    return name.partition("+")[0]


def _arguments(
    name: str, rng: Rng, shape: tuple[int, ...], dtype: Any, offset: float = 0.0, keep: bool = True
) -> tuple[Any, ...]:
    """Positional arguments of a row, statistics as forward rounds them.

    Values of a row are spread out: where three of them happen to be nearly equal, whatever rounding there is counts
    some hundred times, and comparing two such errors compares luck.
    """
    x, g, other = (0.5 * rng.standard_normal(shape) for _ in range(3))
    x = x + offset + np.linspace(-2, 2, shape[-1])
    x, g, other = x.astype(dtype), g.astype(dtype), other.astype(dtype)
    weight, bias = rng.uniform(0.5, 1.5, shape[-1]).astype(dtype), rng.standard_normal(shape[-1]).astype(dtype)
    scales = rng.choice([0.0, 1.25], shape[0]).astype(dtype) if keep else None
    wide = x.reshape(-1, shape[-1]).astype(np.float64)
    mean, rstd = (a.astype(np.float32) for a in (wide.mean(axis=1), 1 / np.sqrt(wide.var(axis=1) + 1e-5)))
    branch_bias = rng.standard_normal(shape[-1]).astype(dtype)
    return {
        "layer_norm_fwd": (x, weight, bias, 1e-5),
        "layer_norm_bwd": (g, x, weight, mean, rstd),
        "residual_layer_norm_fwd": (x, other, scales, weight, bias, 1e-5),
        "residual_layer_norm_bwd": (other, g, x, scales, weight, mean, rstd),
        "residual_layer_norm_fwd+bias": (x, other, scales, weight, bias, 1e-5, branch_bias),
        "residual_layer_norm_bwd+bias": (other, g, x, scales, weight, mean, rstd, True),
    }[name]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("dtype", "width"), CASES)
def test_values(cupy: Any, name: str, dtype: str, width: int) -> None:
    kind = dtype_named(dtype)
    rows = 3 if width > 256 else 7
    agrees_with_float64(cupy, _row(name), lambda rng: _arguments(name, rng, (rows, 2, width), kind))


@settings(max_examples=12)
@given(
    lead=st.lists(st.integers(1, 6), min_size=1, max_size=3).map(tuple),
    width=st.sampled_from([1, 3, 7, 96, 100]),
    name=st.sampled_from(NAMES),
    keep=st.booleans(),
)
@example(lead=(1,), width=96, name="layer_norm_fwd", keep=False)
def test_any_number_of_rows(lead: tuple[int, ...], width: int, name: str, keep: bool) -> None:
    with fake_cupy.installed() as cupy:
        agrees_with_float64(
            cupy,
            _row(name),
            lambda rng: _arguments(name, rng, (*lead, width), np.float32, keep=keep),
            variants=24 if int(np.prod(lead)) < FEW else 3,  # few means: their errors are luck
        )


@pytest.mark.parametrize("name", ["residual_layer_norm_fwd+bias", "residual_layer_norm_bwd+bias"])
def test_rows_wider_than_a_blocks_registers(cupy: Any, name: str) -> None:
    agrees_with_float64(cupy, _row(name), lambda rng: _arguments(name, rng, (2, 10_004), np.float32), variants=3)


def test_gradients_of_more_rows_than_the_blocks_have_at_a_time(cupy: Any) -> None:
    """16 rows a block, 8 blocks on the stand-in's two multiprocessors."""
    for rows, name in ((128, "layer_norm_bwd"), (129, "residual_layer_norm_bwd+bias"), (300, "layer_norm_bwd")):
        args = lambda rng, rows=rows, name=name: _arguments(name, rng, (rows, 7), np.float32)  # noqa: E731
        agrees_with_float64(cupy, _row(name), args, variants=2)


@pytest.mark.parametrize("width", [7, 96, 1536])
def test_a_large_mean_costs_no_digits_of_the_variance(cupy: Any, width: int) -> None:
    """Two passes: with E[x^2] - E[x]^2 the variance 1 of values around 1000 would be off by some percent."""
    x, weight, bias, eps = _arguments("layer_norm_fwd", np.random.default_rng(0), (3, width), np.float32, offset=1e3)
    _, mean, rstd = run_cuda(cupy, "layer_norm_fwd", x, weight, bias, eps)
    wide = x.astype(np.float64)
    np.testing.assert_allclose(mean, wide.mean(axis=1), rtol=4e-7)
    np.testing.assert_allclose(rstd, 1 / np.sqrt(wide.var(axis=1) + eps), rtol=2e-6)
    agrees_with_float64(
        cupy, "layer_norm_fwd", lambda rng: _arguments("layer_norm_fwd", rng, (3, width), np.float32, offset=1e3)
    )


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_rows_of_zeros_give_the_bias_and_no_nan(cupy: Any, dtype: str) -> None:
    rng, kind = np.random.default_rng(0), dtype_named(dtype)
    _, weight, bias, eps = _arguments("layer_norm_fwd", rng, (2, 96), kind)
    y, mean, rstd = run_cuda(cupy, "layer_norm_fwd", np.zeros((2, 96), kind), weight, bias, eps)
    np.testing.assert_array_equal(y, np.broadcast_to(bias, (2, 96)))
    np.testing.assert_array_equal(mean, 0)
    np.testing.assert_allclose(rstd, 1e5**0.5, rtol=1e-6)
    gx, *_ = run_cuda(cupy, "layer_norm_bwd", rng.standard_normal((2, 96)).astype(kind), 0 * y, weight, mean, rstd)
    assert np.isfinite(gx).all()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("special", [np.nan, np.inf, -np.inf])
def test_nan_and_infinity_as_in_the_reference(cupy: Any, name: str, special: float) -> None:
    args = list(_arguments(name, np.random.default_rng(0), (3, 7), np.float32, keep=False))
    for i in (0, 1):
        args[i] = args[i].copy()
        args[i].flat[3 + 7 * i if args[i].ndim > 1 else 3] = special
    same_specials(cupy, _row(name), *args)


def test_a_branch_that_is_dropped_is_not_read(cupy: Any) -> None:
    x, branch, _, weight, bias, eps = _arguments("residual_layer_norm_fwd", np.random.default_rng(0), (2, 3, 7), "f4")
    branch[1] = np.nan
    for shift in ((), (np.linspace(-1, 1, 7, dtype="f4"),)):
        keep = np.float32([2, 0])
        total, y, _, _ = run_cuda(cupy, "residual_layer_norm_fwd", x, branch, keep, weight, bias, eps, *shift)
        np.testing.assert_array_equal(total[1], x[1])
        np.testing.assert_allclose(total[0], x[0] + 2 * (branch[0] + sum(shift)), rtol=0, atol=1e-6)
        assert np.isfinite(y).all()


def test_a_branch_that_is_dropped_gives_its_bias_no_gradient(cupy: Any) -> None:
    args = list(_arguments("residual_layer_norm_bwd+bias", np.random.default_rng(0), (3, 2, 7), "f4"))
    args[3] = np.float32([0, 2, 0])
    gx, gbranch, _, _, gshift = run_cuda(cupy, "residual_layer_norm_bwd", *args)
    np.testing.assert_array_equal(gbranch[[0, 2]], 0)
    np.testing.assert_allclose(gshift, 2 * gx[1].sum(axis=0), rtol=1e-6)


def test_statistics_are_of_the_sum_as_it_is_stored(cupy: Any) -> None:
    args = _arguments("residual_layer_norm_fwd", np.random.default_rng(0), (3, 2, 96), np.float16, keep=False)
    total, y, mean, rstd = run_cuda(cupy, "residual_layer_norm_fwd", *args)
    again = run_cuda(cupy, "layer_norm_fwd", total, *args[3:])
    for got, want in zip((y, mean, rstd), again, strict=True):
        np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("width", [7, 96, 1536])
def test_bits_do_not_depend_on_the_order_of_threads(cupy: Any, name: str, width: int) -> None:
    rows = 2 if width > 96 else 17
    every_schedule_gives_the_same_bits(
        cupy, _row(name), *_arguments(name, np.random.default_rng(0), (rows, width), np.float32)
    )


@pytest.mark.parametrize("name", NAMES)
def test_no_rows(cupy: Any, name: str) -> None:
    args = _arguments(name, np.random.default_rng(0), (0, 4, 7), np.float32)
    with counting() as counts:
        results = run_cuda(cupy, _row(name), *args)
    assert counts.launches == {}
    assert results[0].shape == (0, 4, 7)
    if "bwd" in name:
        for total in results[-3 if "bias" in name else -2 :]:
            np.testing.assert_array_equal(total, np.zeros(7, np.float32))


@pytest.mark.parametrize("name", NAMES)
def test_other_layouts_are_copied_and_counted(cupy: Any, name: str) -> None:
    args = _arguments(name, np.random.default_rng(0), (3, 4, 7), np.float32)
    want = run_cuda(cupy, _row(name), *args)
    x = cupy.asarray(args[0])
    flat = cupy.empty(x.size + 1, "float32")
    flat[1:] = x.reshape(-1)
    swapped = cupy.ascontiguousarray(x.swapaxes(0, 1)).swapaxes(0, 1)
    for odd in (flat[1:].reshape(x.shape), swapped):
        with counting() as counts, kernel_mode("cuda"):
            got = to_host(KERNELS[_row(name)](odd, *to_gpu(cupy, args[1:])))
        assert counts.copies == 1
        for g, w in zip(got, want, strict=True):
            np.testing.assert_array_equal(g, w)
    with counting() as counts:
        run_cuda(cupy, _row(name), *args)
    assert counts.copies == 0


@pytest.mark.parametrize("name", [name for name in NAMES if "bwd" in name])
@pytest.mark.parametrize("spread", [(2, 1, 1), (2, 3, 1), (1, 1, 1)], ids=str)
def test_a_gradient_that_was_spread_over_rows_is_not_copied(cupy: Any, name: str, spread: tuple[int, ...]) -> None:
    """As from a mean over the axes that are 1 here: results as of the same gradient in full."""
    args = list(_arguments(name, np.random.default_rng(0), (2, 3, 5, 7), np.float32))
    at = 0 if name == "layer_norm_bwd" else 1
    small = np.random.default_rng(1).standard_normal((*spread, 7)).astype(np.float32)
    args[at] = np.broadcast_to(small, (2, 3, 5, 7)).copy()
    want = run_cuda(cupy, _row(name), *args)
    on_gpu = list(to_gpu(cupy, args))
    on_gpu[at] = cupy.broadcast_to(cupy.asarray(small), (2, 3, 5, 7))
    with counting() as counts, kernel_mode("cuda"):
        got = to_host(KERNELS[_row(name)](*on_gpu))
    assert counts.copies == 0
    for g, w in zip(got, want, strict=True):
        np.testing.assert_array_equal(g, w)


def test_a_gradient_spread_over_channels_too_is_copied_as_one_row(cupy: Any) -> None:
    args = list(_arguments("layer_norm_bwd", np.random.default_rng(0), (2, 3, 7), np.float32))
    args[0] = np.full((2, 3, 7), 0.3, np.float32)
    want = run_cuda(cupy, "layer_norm_bwd", *args)
    one = cupy.broadcast_to(cupy.asarray(np.float32(0.3).reshape(1)), (2, 3, 7))
    with counting() as counts, kernel_mode("cuda"):
        got = to_host(KERNELS["layer_norm_bwd"](one, *to_gpu(cupy, args)[1:]))
    assert counts.copies == 1
    for g, w in zip(got, want, strict=True):
        np.testing.assert_array_equal(g, w)


def test_the_mean_of_a_normed_map_trains_without_a_copy(cupy: Any) -> None:
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal(shape).astype(np.float32) for shape in ((2, 3, 5, 7), (7,), (7,), (2, 7))]
    grads = []
    for put in (np.asarray, cupy.asarray):
        x, weight, bias = (ag.Tensor(put(a), requires_grad=True) for a in arrays[:3])
        with counting() as counts:
            ag.layer_norm(x, weight, bias).mean(axis=(1, 2)).backward(put(arrays[3]))
        assert counts.copies == 0
        grads.append([ag.Tensor(t.grad).numpy() for t in (x, weight, bias)])
    assert counts.launches["layer_norm_bwd"] == 1
    for want, got in zip(*grads, strict=True):
        assert abs(got - want).max() <= ONE32 * max(largest(want), 1)


def test_what_is_refused_and_why(cupy: Any) -> None:
    x, weight, bias, eps = to_gpu(cupy, _arguments("layer_norm_fwd", np.random.default_rng(0), (3, 7), np.float32))
    for args, reason in (
        ((x.astype("float64"), weight.astype("float64"), bias.astype("float64"), eps), "got float64"),
        ((x.astype("float16"), weight, bias, eps), "got float16, float32"),
        ((x, weight[:3], bias, eps), r"expected weight of shape (7,); got (3,)"),
        ((cupy.ones((1, LONGEST_ROW + 1), "float32"), weight, bias, eps), f"rows of 1 to {LONGEST_ROW} values"),
    ):
        assert reason in explain("layer_norm_fwd", *args)
    g, x, weight, mean, rstd = to_gpu(cupy, _arguments("layer_norm_bwd", np.random.default_rng(0), (3, 7), np.float32))
    reason = "takes float32 there; mean is float64"
    assert reason in explain("layer_norm_bwd", g, x, weight, mean.astype("float64"), rstd)
    assert "expected branch_bias of shape (7,); got (3,)" in explain(
        "residual_layer_norm_fwd", x, x, None, weight, weight, eps, weight[:3]
    )
    assert "expected keep of shape (3,); got (2,)" in explain(
        "residual_layer_norm_fwd", x, x, weight[:2], weight, weight, eps
    )


def test_every_width_has_a_layout_that_covers_it() -> None:
    for itemsize in (2, 4):
        for columns in (*range(1, 2100), 3072, 8191, 8192, LONGEST_ROW - 1, LONGEST_ROW):
            layout = row_layout(columns, vector_widths(itemsize))
            assert layout.lanes * layout.width * layout.per >= columns
            assert layout.lanes * layout.width * (layout.per - 1) < columns
            assert columns % layout.width == 0
            assert layout.lanes == layout.threads or 32 % layout.lanes == 0
    lanes = {columns: row_layout(columns, (8, 4)).lanes for columns in (96, 128, 192, 256, 384, 768, 1024)}
    assert lanes == {96: 8, 128: 8, 192: 16, 256: 16, 384: 32, 768: 32, 1024: 32}


# ---- 16-bit branches beside a float32 stream, as under autocast


def _beside(
    name: str, width: int, keep: bool, low: Any, lead: tuple[int, ...] = (3, 2)
) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """Arguments with a 16-bit branch (or gradient of the norm), and the same in float32. The second result (the norm,
    or the gradient of the branch) is in 16 bits."""
    args = list(_arguments(name, np.random.default_rng(0), (*lead, width), np.float32, keep=keep))
    args[1] = args[1].astype(low)
    wide = [*args]
    wide[1] = args[1].astype(np.float32)
    defaults = (None,) if name == "residual_layer_norm_fwd" else (False,) if name == "residual_layer_norm_bwd" else ()
    return (*args, *defaults, np.dtype(low)), tuple(wide)


@pytest.mark.parametrize("name", [name for name in NAMES if "residual" in name])
@pytest.mark.parametrize("width", [7, 96, 1536])
@pytest.mark.parametrize("keep", [False, True], ids=["all", "keep"])
def test_a_16_bit_branch_gives_the_bits_of_casts_before_and_after(cupy: Any, name: str, width: int, keep: bool) -> None:
    _is_as_casts(cupy, name, *_beside(name, width, keep, np.float16))


@settings(max_examples=12)
@given(
    lead=st.lists(st.integers(1, 6), min_size=1, max_size=3).map(tuple),
    width=st.one_of(st.integers(1, 40), st.sampled_from([96, 100, 768])),
    name=st.sampled_from([name for name in NAMES if "residual" in name]),
    keep=st.booleans(),
)
def test_any_rows_of_a_16_bit_branch(lead: tuple[int, ...], width: int, name: str, keep: bool) -> None:
    with fake_cupy.installed() as cupy:
        args, _ = _beside(name, width, keep, np.float16, lead)
        _is_as_reference(name, run_cuda(cupy, _row(name), *args), args)


def _is_as_casts(cupy: Any, name: str, args: tuple[Any, ...], wide: tuple[Any, ...]) -> None:
    """To the bit at widths for which both are cut alike."""
    got = run_cuda(cupy, _row(name), *args)
    want = list(run_cuda(cupy, _row(name), *wide))
    want[1] = want[1].astype(np.float16)
    for g, w in zip(got, want, strict=True):
        assert g.dtype == w.dtype
        np.testing.assert_array_equal(g, w)
    _is_as_reference(name, got, args)


def _is_as_reference(name: str, got: list[Any], args: tuple[Any, ...]) -> None:
    with kernel_mode("reference"):
        reference = [w for w in KERNELS[_row(name)](*args) if w is not None]
    for g, w in zip(got, reference, strict=True):
        assert g.dtype == w.dtype
        ulp = np.spacing(w.dtype.type(largest(w))) if w.dtype == np.float16 else 0  # float32 sums round to either side
        assert abs(g.astype(np.float64) - w).max() <= ulp + ONE32 * max(largest(w), 1)


@pytest.mark.parametrize("name", ["residual_layer_norm_fwd", "residual_layer_norm_bwd"])
def test_a_16_bit_branch_of_a_float32_norm_is_cast_first(cupy: Any, name: str) -> None:
    """The kernel has one 16-bit dtype for both; where only one of them is meant, the other is cast."""
    args, wide = _beside(name, 7, True, np.float16)
    want = run_cuda(cupy, name, *wide)
    for more, change in (((), None), ((np.dtype(np.float16),), 1)):
        given = (*(wide if more else args[:-1]), *((args[-2], *more) if more else ()))
        got = run_cuda(cupy, name, *given)
        for i, (g, w) in enumerate(zip(got, want, strict=True)):
            np.testing.assert_array_equal(g, w.astype(np.float16) if i == change else w)


@pytest.mark.parametrize("device", ["cpu", "gpu"])
@pytest.mark.parametrize("to_low", [False, True])
def test_under_autocast_the_op_is_the_one_with_casts(cupy: Any, device: str, to_low: bool) -> None:
    rng, put = np.random.default_rng(0), cupy.asarray if device == "gpu" else np.asarray
    shapes = ((3, 5, 8), (3, 5, 8), (8,), (8,), (8,))
    arrays = [rng.standard_normal(shape).astype(np.float32) for shape in shapes]
    g_sum, g = (rng.standard_normal(shapes[0]).astype(np.float32) for _ in range(2))
    found = []
    for by_hand in (False, True):
        x, branch, *rest = (ag.Tensor(put(a), requires_grad=True) for a in arrays)
        keep = put(np.float32([1.25, 0, 1.25]))
        with ag.autocast("float16"):
            low = branch.astype("float16")
            taken = low.astype("float32") if by_hand else low
            total, y = ag.residual_layer_norm(
                x, taken, keep, *rest[:2], branch_bias=rest[2], y_dtype=low.dtype if to_low and not by_hand else None
            )
            y = y.astype("float16") if to_low and by_hand else y
        assert (total.dtype, y.dtype) == (np.float32, np.float16 if to_low else np.float32)
        total.backward(put(g_sum), retain_graph=True)
        y.backward(put(g).astype(y.dtype))
        found.append([ag.Tensor(t).numpy() for t in (total.data, y.data, *(p.grad for p in (x, branch, *rest)))])
    for got, want in zip(*found, strict=True):
        np.testing.assert_array_equal(got, want)


def test_mixed_dtypes_outside_of_autocast_are_refused() -> None:
    x, c = np.ones((2, 3), np.float32), np.ones(3, np.float32)
    with pytest.raises(TypeError, match="one dtype"):
        ag.residual_layer_norm(ag.Tensor(x), ag.Tensor(x.astype(np.float16)), None, c, c)
