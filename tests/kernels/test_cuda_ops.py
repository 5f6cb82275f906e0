"""Ops on GPU arrays run the CUDA kernels, values and gradients as on the CPU, without a hidden copy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from support.gpu import fake_cupy
from support.runner import largest
from support.tolerances import ONE32

import autograd as ag
from autograd.kernels import explain, kernel_mode
from autograd.kernels.cuda.launch import Counts, counting

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture
def cupy() -> Iterator[Any]:
    with fake_cupy.installed() as module:
        yield module


def _normal(*shape: int) -> Any:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)


X, ROWS, BIAS = _normal(2, 3, 7), _normal(2, 3, 7)[::-1].copy(), _normal(7)
WEIGHT = np.linspace(0.5, 1.5, 7, dtype=np.float32)
KEEP = np.float32([1.25, 0])
MASK = np.where(_normal(3, 7) < -1, -np.inf, 0).astype(np.float32)
LABELS, PROBABILITIES = np.array([1, 4]), np.full((2, 7), 1 / 7, np.float32)

# name: function of Tensors (and of one that puts an array on their device), Tensors, kernels that have to run
OPS: dict[str, tuple[Callable[..., Any], tuple[Any, ...], set[str]]] = {
    "layer_norm": (
        lambda _, x, w, b: ag.layer_norm(x, w, b),
        (X, WEIGHT, BIAS),
        {"layer_norm_fwd", "layer_norm_bwd", "column_sum"},
    ),
    "residual_layer_norm": (
        lambda put, x, r, w, b: ag.residual_layer_norm(x, r, put(KEEP), w, b),
        (X, ROWS, WEIGHT, BIAS),
        {"residual_layer_norm_fwd", "layer_norm_bwd", "column_sum"},
    ),
    "residual_layer_norm_branch_bias": (
        lambda put, x, r, w, b, c: ag.residual_layer_norm(x, r, put(KEEP), w, b, branch_bias=c),
        (X, ROWS, WEIGHT, BIAS, _normal(7)),
        {"residual_layer_norm_fwd", "layer_norm_branch_bias_bwd", "column_sum"},
    ),
    "gelu": (lambda _, x: ag.gelu(x), (X,), {"gelu_fwd", "gelu_bwd"}),
    "bias_gelu": (lambda _, x, b: ag.bias_gelu(x, b), (X, BIAS), {"gelu_fwd", "bias_gelu_bwd", "column_sum"}),
    "softmax": (lambda _, x: ag.softmax(x), (X,), {"softmax_fwd", "softmax_bwd"}),
    "masked_softmax": (lambda put, x: ag.masked_softmax(x, put(MASK)), (X,), {"softmax_fwd", "softmax_bwd"}),
    "cross_entropy": (
        lambda put, x: ag.cross_entropy(x, put(LABELS), label_smoothing=0.1),
        (X[0, :2],),
        {"cross_entropy_fwd", "cross_entropy_bwd"},
    ),
    "soft_cross_entropy": (
        lambda put, x: ag.cross_entropy(x, put(PROBABILITIES)),
        (X[0, :2],),
        {"cross_entropy_fwd", "cross_entropy_bwd"},
    ),
    "linear": (lambda _, x, w, b: ag.linear(x, w, b), (X, _normal(4, 7), _normal(4)), {"column_sum"}),
    "mlp": (
        lambda _, *args: ag.mlp(*args),
        (X, _normal(8, 7), _normal(8), _normal(5, 8), _normal(5)),
        {"gelu_fwd", "bias_gelu_bwd", "column_sum"},
    ),
}


def _run(name: str, put: Callable[[Any], Any]) -> list[Any]:
    """Values and gradients, on the device that ``put`` puts arrays on."""
    function, arrays, _ = OPS[name]
    tensors = [ag.Tensor(put(np.ascontiguousarray(a)), requires_grad=True) for a in arrays]
    result = function(put, *tensors)
    outputs = result if isinstance(result, tuple) else (result,)
    total = sum((out * put(np.cos(np.arange(out.data.size, dtype="f4")).reshape(out.shape))).sum() for out in outputs)
    total.backward()
    return [out.numpy() for out in outputs] + [ag.Tensor(t.grad).numpy() for t in tensors]


def _run_on_gpu(cupy: Any, name: str) -> tuple[list[Any], Counts]:
    with counting() as counts, kernel_mode("cuda"):
        return _run(name, cupy.asarray), counts


@pytest.mark.parametrize("name", sorted(OPS))
def test_values_and_gradients_as_on_the_cpu(cupy: Any, name: str) -> None:
    got, counts = _run_on_gpu(cupy, name)
    assert set(counts.launches) == OPS[name][2]
    assert counts.copies == 0
    with kernel_mode("reference"):
        want = _run(name, lambda a: a)
    for g, w in zip(got, want, strict=True):
        assert (g.shape, g.dtype) == (w.shape, w.dtype)
        assert abs(g - w).max() <= ONE32 * max(largest(w), 1)
    again, _ = _run_on_gpu(cupy, name)
    for g, a in zip(got, again, strict=True):
        assert g.tobytes() == a.tobytes()


@pytest.mark.parametrize("name", ["linear", "mlp"])
def test_products_are_of_two_dimensions(cupy: Any, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """CuPy makes float32 copies of 16-bit operands of more."""
    seen = []
    matmul = fake_cupy.ndarray.__matmul__

    def watched(x: Any, y: Any) -> Any:
        seen.append((x.ndim, y.ndim))
        return matmul(x, y)

    monkeypatch.setattr(fake_cupy.ndarray, "__matmul__", watched)
    _run_on_gpu(cupy, name)
    assert set(seen) == {(2, 2)}
    assert len(seen) == {"linear": 3, "mlp": 6}[name]


def test_a_block_in_autocast_keeps_16_bits_between_its_products(cupy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A linear layer and an MLP on half precision: operands of every product are float16 matrices."""
    seen = []
    matmul = fake_cupy.ndarray.__matmul__

    def watched(x: Any, y: Any) -> Any:
        seen.append((x.ndim, y.ndim, str(x.dtype), str(y.dtype)))
        return matmul(x, y)

    monkeypatch.setattr(fake_cupy.ndarray, "__matmul__", watched)
    with kernel_mode("cuda"), ag.autocast("float16"):
        tensors = [ag.Tensor(cupy.asarray(a), requires_grad=True) for a in OPS["mlp"][1]]
        out = ag.linear(ag.mlp(*tensors), cupy.asarray(_normal(3, 5)), cupy.asarray(_normal(3)))
        out.sum().backward()
    assert set(seen) == {(2, 2, "float16", "float16")}
    assert tensors[0].grad.dtype == np.float32


def test_masks_and_scales_of_the_host_go_to_the_gpu(cupy: Any) -> None:
    x = np.random.default_rng(0).standard_normal((2, 3)).astype(np.float32)
    on_gpu, ones = ag.Tensor(cupy.asarray(x)), np.ones(3, np.float32)
    masked = ag.masked_softmax(on_gpu, [True, False, True])
    np.testing.assert_allclose(masked.numpy(), ag.masked_softmax(x, [True, False, True]).numpy(), rtol=0, atol=ONE32)
    weight = ag.Tensor(cupy.asarray(ones))
    total, _ = ag.residual_layer_norm(on_gpu, on_gpu, [2.0, 0.0], weight, weight)
    np.testing.assert_allclose(total.numpy(), x * np.float32([[3], [1]]), rtol=ONE32)


@pytest.mark.parametrize(
    ("name", "shapes", "options", "reason"),
    [
        ("residual_layer_norm_fwd", ((3,), (3,), (3,), (3,), (3,), 1e-5), {}, "keep is of samples"),
        ("linear_fwd", ((2, 3), (4, 2), None), {}, "expected a weight (O, 3) for x (2, 3); got (4, 2)"),
        ("linear_fwd", ((2, 3), (4, 3), (3,)), {}, "expected bias of shape (4,); got (3,)"),
        ("linear_bwd", ((1, 2, 4), (2, 3), (4, 3), [True] * 3), {}, "expected g (..., O) for x (2, 3); got (1, 2, 4)"),
        ("mlp_fwd", ((2, 3), (4, 3), (3,), (3, 4), None, True), {}, "expected bias of shape (4,); got (3,)"),
        ("mlp_fwd", ((2, 3), (4, 3), (4,), (3, 3), None, True), {}, "expected a second weight (O, 4); got (3, 3)"),
        ("dropout", ((12,),), {"together": 5}, "`together` to divide the 12 values"),
        ("dropout", ((12,),), {"together": 0}, "`together` to divide the 12 values"),
        ("dropout", ((12,),), {"p": 1.0}, "p in [0, 1)"),
        ("keep_scale", ((),), {}, "0-d"),
        ("bias_gelu_bwd", ((), (), None), {}, "0-d"),
    ],
)
def test_shapes_that_do_not_fit_are_not_for_the_kernels(
    cupy: Any, name: str, shapes: Any, options: dict[str, Any], reason: str
) -> None:
    args = [cupy.ones(s, np.float32) if isinstance(s, tuple) else s for s in shapes]
    if name in ("dropout", "keep_scale"):
        options = {"seed": 0, "offset": 0, "p": 0.5, **options}
    said = explain(name, *args, **options)
    assert said.startswith(f"{name}: runs reference")
    assert reason in said
