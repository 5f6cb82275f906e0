"""Softmax and cross-entropy on CUDA, thread by thread in the stand-in for CuPy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.gpu import fake_cupy
from support.gpu.kernel_checks import (
    agrees_with_float64,
    dtype_named,
    every_schedule_gives_the_same_bits,
    run_cuda,
    same_specials,
    to_gpu,
)

import autograd as ag
from autograd.kernels import KERNELS, explain, kernel_mode
from autograd.kernels.cuda.launch import counting

if TYPE_CHECKING:
    from collections.abc import Iterator

Rng = np.random.Generator
CASES = [("float32", 5), ("float32", 49), ("float32", 64), ("float32", 1000), ("float32", 1100)]
CASES += [("float16", 49), ("float16", 64), ("bfloat16", 64)]


@pytest.fixture
def cupy() -> Iterator[Any]:
    with fake_cupy.installed() as module:
        yield module


def _softmax_bwd(rng: Rng, shape: tuple[int, ...], dtype: Any) -> tuple[Any, ...]:
    y = np.exp(rng.standard_normal(shape))
    return rng.standard_normal(shape).astype(dtype), (y / y.sum(axis=-1, keepdims=True)).astype(dtype)


@pytest.mark.parametrize(("dtype", "length"), CASES)
def test_values(cupy: Any, dtype: str, length: int) -> None:
    kind, shape = dtype_named(dtype), (3, 5, length)
    agrees_with_float64(cupy, "softmax_fwd", lambda rng: ((3 * rng.standard_normal(shape)).astype(kind),))
    agrees_with_float64(cupy, "softmax_bwd", lambda rng: _softmax_bwd(rng, shape, kind))


def test_rows_wider_than_a_blocks_registers(cupy: Any) -> None:
    agrees_with_float64(cupy, "softmax_fwd", lambda rng: (rng.standard_normal((2, 10_001)).astype(np.float32),))


@settings(max_examples=15)
@given(
    lead=st.lists(st.integers(1, 4), min_size=1, max_size=5),
    length=st.sampled_from([1, 3, 5, 49]),
    kept=st.lists(st.booleans(), min_size=6, max_size=6),
    dropped=st.integers(0, 2),
)
def test_any_mask_that_broadcasts(lead: list[int], length: int, kept: list[bool], dropped: int) -> None:
    """Axes of size 1 anywhere, and missing ones in front; the last is there."""
    shape = (*lead, length)
    mask = tuple(n if keep else 1 for n, keep in zip(shape, kept, strict=False))[min(dropped, len(lead)) :]

    def draw(rng: Rng) -> tuple[Any, ...]:
        values = np.where(rng.random(mask) < 0.3, -100, rng.standard_normal(mask))
        return rng.standard_normal(shape).astype(np.float32), values.astype(np.float32)

    with fake_cupy.installed() as cupy:
        agrees_with_float64(cupy, "softmax_fwd", draw, variants=4)


@settings(max_examples=15)
@given(
    lead=st.lists(st.integers(1, 5), min_size=1, max_size=3).map(tuple),
    length=st.one_of(st.integers(1, 40), st.sampled_from([49, 64, 257])),
    dtype=st.sampled_from(["float32", "float16"]),
)
def test_gradients_of_any_rows(lead: tuple[int, ...], length: int, dtype: str) -> None:
    with fake_cupy.installed() as cupy:
        agrees_with_float64(cupy, "softmax_bwd", lambda rng: _softmax_bwd(rng, (*lead, length), np.dtype(dtype)))


def test_the_mask_of_shifted_windows(cupy: Any) -> None:
    """(B, nW, heads, N, N) scores of 16 bits and a mask (1, nW, 1, N, N) in float32, read where it lies."""

    def draw(rng: Rng) -> tuple[Any, ...]:
        mask = np.where(rng.random((1, 3, 1, 5, 5)) < 0.3, -100, 0).astype(np.float32)
        return rng.standard_normal((2, 3, 2, 5, 5)).astype(np.float16), mask

    with counting() as counts:
        agrees_with_float64(cupy, "softmax_fwd", draw)
    assert counts.copies == 0


def test_rows_with_no_place_left_give_zeros(cupy: Any) -> None:
    x = np.random.default_rng(0).standard_normal((3, 7)).astype(np.float32)
    mask = np.zeros((3, 7), np.float32)
    mask[1], mask[2, 3] = -np.inf, -np.inf
    (y,) = run_cuda(cupy, "softmax_fwd", x, mask)
    np.testing.assert_array_equal(y[1], 0)
    assert y[2, 3] == 0
    np.testing.assert_allclose(y[[0, 2]].sum(axis=1), 1, rtol=1e-6)


@pytest.mark.parametrize("special", [np.nan, np.inf, -np.inf])
def test_nan_and_infinity_as_in_the_reference(cupy: Any, special: float) -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((3, 7)).astype(np.float32)
    x[1, 2] = special
    same_specials(cupy, "softmax_fwd", x)
    same_specials(cupy, "softmax_bwd", x, _softmax_bwd(rng, (3, 7), np.float32)[1])
    same_specials(cupy, "cross_entropy_fwd", x, np.array([0, 2, 1]), 0.0)
    same_specials(cupy, "cross_entropy_fwd", x, np.array([0, 1, 1]), 0.1)


@pytest.mark.parametrize("length", [5, 49, 1100])
def test_bits_do_not_depend_on_the_order_of_threads(cupy: Any, length: int) -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((3, length)).astype(np.float32)
    every_schedule_gives_the_same_bits(cupy, "softmax_fwd", x, x[:1])
    every_schedule_gives_the_same_bits(cupy, "softmax_bwd", *_softmax_bwd(rng, (3, length), np.float32))


def test_nothing_gives_nothing(cupy: Any) -> None:
    empty = np.ones((0, 7), np.float32)
    with counting() as counts:
        results = [
            *run_cuda(cupy, "softmax_fwd", empty, np.ones((1, 7), np.float32)),
            *run_cuda(cupy, "softmax_bwd", empty, empty),
            *run_cuda(cupy, "cross_entropy_fwd", empty, np.ones(0, np.int64), 0.1),
            *run_cuda(cupy, "cross_entropy_bwd", empty[:, 0], empty, empty, 0.1),
        ]
    assert counts.launches == {}
    assert [r.shape for r in results] == [(0, 7), (0, 7), (0,), (0, 7), (0, 7)]


def test_other_layouts_are_copied_and_counted(cupy: Any) -> None:
    x = np.random.default_rng(0).standard_normal((5, 7)).astype(np.float32)
    (want,) = run_cuda(cupy, "softmax_fwd", x)
    flat = cupy.empty(36, "float32")
    flat[1:] = cupy.asarray(x).reshape(-1)
    for odd in (flat[1:].reshape(5, 7), cupy.asarray(np.ascontiguousarray(x.T)).T):
        with counting() as counts, kernel_mode("cuda"):
            got = KERNELS["softmax_fwd"](odd)
        assert counts.copies == 1
        np.testing.assert_array_equal(got.get(), want)


def test_what_is_refused_and_why(cupy: Any) -> None:
    x = cupy.ones((3, 7), "float32")
    assert "got float64" in explain("softmax_fwd", x.astype("float64"))
    assert "a mask of x's dtype or float32; got float64" in explain("softmax_fwd", x, x.astype("float64"))
    assert "expected a mask that broadcasts to (3, 7); got (2, 7)" in explain("softmax_fwd", x, x[:2])
    assert "expected labels of shape (3,); got (2,)" in explain("cross_entropy_fwd", x, cupy.zeros(2, "int64"), 0.1)
    assert "up to float32; got float64" in explain("cross_entropy_fwd", x, x.astype("float64"), 0.1)
    assert "takes float32 there; g is float16" in explain(
        "cross_entropy_bwd", x[:, 0].astype("float16"), x, cupy.zeros(3, "int64"), 0.1
    )


# ---- cross-entropy


def _target(rng: Rng, kind: str, rows: int, classes: int) -> Any:
    if kind == "soft":
        values = rng.random((rows, classes)) * (rng.random((rows, classes)) < 0.6)  # some classes without any
        return values.astype(np.float32)
    return rng.integers(0, classes, rows).astype(kind)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize(
    ("dtype", "classes", "kind"),
    [
        ("float32", 5, "int64"),
        ("float32", 5, "int32"),
        ("float32", 5, "soft"),
        ("float32", 1000, "int64"),
        ("float32", 1000, "soft"),
        ("float16", 1000, "soft"),
        ("bfloat16", 5, "int64"),
    ],
)
def test_cross_entropy(cupy: Any, dtype: str, classes: int, kind: str, smoothing: float) -> None:
    _cross_entropy_agrees(cupy, dtype_named(dtype), (5, classes), kind, smoothing)


@settings(max_examples=15)
@given(
    rows=st.integers(1, 20),
    classes=st.one_of(st.integers(1, 40), st.sampled_from([100, 257])),
    dtype=st.sampled_from(["float32", "float16"]),
    kind=st.sampled_from(["int64", "int32", "soft"]),
    smoothing=st.sampled_from([0.0, 0.1, 0.9]),
)
def test_cross_entropy_of_any_rows(rows: int, classes: int, dtype: str, kind: str, smoothing: float) -> None:
    with fake_cupy.installed() as cupy:
        _cross_entropy_agrees(cupy, np.dtype(dtype), (rows, classes), kind, smoothing)


def _cross_entropy_agrees(cupy: Any, dtype: Any, shape: tuple[int, int], kind: str, smoothing: float) -> None:
    rows, classes = shape

    def forward(rng: Rng) -> tuple[Any, ...]:
        return (3 * rng.standard_normal(shape)).astype(dtype), _target(rng, kind, rows, classes), smoothing

    def backward(rng: Rng) -> tuple[Any, ...]:
        z = rng.standard_normal(shape)
        log_probs = (z - np.log(np.exp(z).sum(axis=1, keepdims=True))).astype(np.float32)
        return rng.standard_normal(rows).astype(np.float32), log_probs, _target(rng, kind, rows, classes), smoothing

    agrees_with_float64(cupy, "cross_entropy_fwd", forward)
    agrees_with_float64(cupy, "cross_entropy_bwd", backward)


def test_a_class_without_probability_adds_nothing(cupy: Any) -> None:
    logits = np.array([[0.0, -np.inf, 1.0]], np.float32)
    loss, _ = run_cuda(cupy, "cross_entropy_fwd", logits, np.array([2]), 0.0)
    np.testing.assert_allclose(loss, np.log1p(np.exp(-1.0)), rtol=1e-6)


BAD_LABELS = (-1, 7, 2**31, 2**40, -(2**63))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("label", BAD_LABELS)
@pytest.mark.parametrize("mode", ["cuda", "reference"])
def test_a_label_that_is_no_class_gives_nan(cupy: Any, mode: str, label: int, smoothing: float) -> None:
    """The op checks labels on the host; what slips by must be seen, and touch no other row."""
    x = np.random.default_rng(0).standard_normal((3, 7)).astype(np.float32)
    bad, right = np.array([1, label, 2]), np.array([1, 0, 2])
    g = np.ones(3, np.float32)

    def both(labels: Any) -> list[Any]:
        with kernel_mode(mode):
            loss, log_probs = KERNELS["cross_entropy_fwd"](*to_gpu(cupy, (x, labels)), smoothing)
            grad = KERNELS["cross_entropy_bwd"](cupy.asarray(g), log_probs, cupy.asarray(labels), smoothing)
        return [a.get() for a in (loss, log_probs, grad)]

    (loss, log_probs, grad), want = both(bad), both(right)
    assert np.isnan(loss[1])
    assert np.isnan(grad[1]).all()
    np.testing.assert_array_equal(log_probs, want[1])
    for got, sound in ((loss, want[0]), (grad, want[2])):
        np.testing.assert_array_equal(got[[0, 2]], sound[[0, 2]])


@pytest.mark.parametrize("dtype", ["uint8", "int8", "int32", "uint64"])
@pytest.mark.parametrize("mode", ["cuda", "reference"])
def test_labels_on_the_gpu_are_not_looked_at(cupy: Any, mode: str, dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A value that the host reads would wait for the GPU: forward and backward read none, and say NaN instead."""
    x = np.random.default_rng(0).standard_normal((3, 7)).astype(np.float32)
    labels = np.array([1, 0, 2]).astype(dtype)
    labels[1] = np.iinfo(dtype).max
    on_gpu, target = ag.Tensor(cupy.asarray(x), requires_grad=True), cupy.asarray(labels)

    def reads(self: Any, *_: Any) -> Any:
        raise AssertionError("the host read a value of the GPU")

    with monkeypatch.context() as patch, kernel_mode(mode):
        for name in ("get", "__int__", "__float__", "__bool__"):
            patch.setattr(fake_cupy.ndarray, name, reads)
        losses = ag.cross_entropy(on_gpu, target, reduction="none")
        losses.sum().backward()
    np.testing.assert_array_equal(np.isnan(losses.numpy()), [False, True, False])
    np.testing.assert_array_equal(np.isnan(on_gpu.grad.get()), np.repeat([[False], [True], [False]], 7, axis=1))


@pytest.mark.parametrize("label", BAD_LABELS)
def test_labels_on_either_side_of_the_host_are_checked(cupy: Any, label: int) -> None:
    x, labels = np.zeros((3, 7), np.float32), np.array([1, label, 2])
    for logits, target in ((cupy.asarray(x), labels), (x, cupy.asarray(labels)), (x, labels)):
        with pytest.raises(ValueError, match=rf"labels in \[0, 6\]; got .*{label}"):
            ag.cross_entropy(ag.Tensor(logits), target)


def test_the_gradient_of_a_mean_is_not_copied(cupy: Any) -> None:
    x = cupy.asarray(np.random.default_rng(0).standard_normal((3, 7)).astype(np.float32))
    g, target = cupy.asarray(np.float32([0.3])), cupy.asarray(np.array([0, 1, 2]))
    with counting() as counts, kernel_mode("cuda"):
        got = KERNELS["cross_entropy_bwd"](cupy.broadcast_to(g, (3,)), x, target, 0.1)
        want = KERNELS["cross_entropy_bwd"](cupy.full(3, 0.3, "float32"), x, target, 0.1)
    assert counts.copies == 0
    np.testing.assert_array_equal(got.get(), want.get())


@pytest.mark.parametrize("kind", ["int64", "soft"])
def test_bits_of_losses_do_not_depend_on_the_order_of_threads(cupy: Any, kind: str) -> None:
    rng = np.random.default_rng(0)
    x, target = rng.standard_normal((3, 5)).astype(np.float32), _target(rng, kind, 3, 5)
    every_schedule_gives_the_same_bits(cupy, "cross_entropy_fwd", x, target, 0.1)
    every_schedule_gives_the_same_bits(cupy, "cross_entropy_bwd", x[:, 0].copy(), x, target, 0.1)
