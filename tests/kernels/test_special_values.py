"""Every twin of every kernel at the ends of the floats: NaN, infinities and finite where the reference is.

Each operand of each row gets each special value, in one place and everywhere, and mixed in a row. A new kernel's row is
swept as it is: its Numba twin, and its CUDA kernel on the stand-in.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from support.gpu import fake_cupy
from support.gpu.checks import on_device
from support.gpu.rows import ATTENTION_ROWS, GPU_ROWS, arguments_of
from support.implementations import needs_numba
from support.rows.table import KERNEL_ROWS, find

import autograd as ag
from autograd.kernels import KERNELS, kernel_mode
from autograd.kernels.validate import arrays_in

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

Arguments = tuple[tuple[Any, ...], dict[str, Any]]

# Of the largest value of any result, where the specials are small: sums of some ten terms in another order. Where they
# are large, what is left of a sum is rounding, and only the kinds are compared.
TOLERANCE = {np.float16: 4e-3, np.float32: 1e-5, np.float64: 1e-12}

# Sums of products of sums, where inf and -inf meet in one order and not in another: with both among the values, NaN and
# both infinities count as one.
IN_SEVERAL_STEPS = {"window_attention_fwd", "window_attention_bwd"}

# The same for any infinity in an operand, by its number.
NAN_OR_INF = {
    ("window_attention_bwd", 0): "exp(-100), the mask's, is 4e-44 in float32 or flushed to 0, before it meets the inf",
}

# Kernels that are not given the largest float, and what decides about them whether it overflows on the way.
_ORDER = "the order of a sum"
_ROWS = "the order of a sum; rows with their own mean and deviation: test_norms_of_rows_of_any_size"
_WIDE = "the order of a sum, or that it is made in float64"
NOT_THE_LARGEST = {
    "batch_norm_bwd": _WIDE,
    "batch_norm_fwd": _WIDE,
    "adamw": "whether the moment is divided by its root before it is multiplied by the step size",
    "bias_gelu_bwd": _ORDER,
    "layer_norm_bwd": _ROWS,
    "layer_norm_fwd": _ROWS,
    "linear_bwd": _ORDER,
    "linear_fwd": _ORDER,
    "mlp_bwd": _ORDER,
    "mlp_fwd": _ORDER,
    "multi_adamw": "as in adamw",
    "position_bias_bwd": _ORDER,
    "residual_layer_norm_bwd": _ROWS,
    "roi_align_bwd": _ORDER,
    "roi_align_fwd": _ORDER,
    "residual_layer_norm_fwd": _ROWS,
    "softmax_bwd": _ORDER,
    "window_attention_bwd": _ORDER,
    "window_attention_fwd": _ORDER,
}

# Rows whose numbers are not compared in float16: only their kinds are.
_TENSOR_CORES = "P and dS are rounded to float16 for the tensor cores: what is subnormal is off by some units"
KINDS_IN_FLOAT16 = {
    "multi_adamw": "the reference rounds (1 - beta2) g^2 to float16, which may leave 0 under the root",
    **{row: _TENSOR_CORES for row in ATTENTION_ROWS if "_bwd" in row},
}

# CUDA kernels swept by default: one elementwise, one of sums along rows, one across rows, one of several steps.
CUDA_BY_DEFAULT = {"gelu_bwd", "softmax_fwd", "layer_norm_bwd", "window_attention_bwd"}
CUDA_KERNELS = sorted(name for name in KERNEL_ROWS if KERNELS[name].cuda is not None)


def _specials(name: str, dtype: Any) -> tuple[list[list[Any]], list[list[Any]]]:
    """Values that are small, and values that are not, each list written over and over into an operand.

    The root of the largest float is given to every kernel: squares overflow in a sum of them, whatever the order.
    """
    limits, inf, nan = np.finfo(dtype), np.inf, np.nan
    small = [[0.0], [-0.0], [limits.smallest_subnormal], [-limits.tiny], [0.0, -0.0, -limits.smallest_subnormal, 1.0]]
    large, most = float(np.sqrt(limits.max)), float(limits.max)
    others = [[large], [inf], [-inf], [nan], [large, -large, 1.0, 0.0], [inf, -inf], [1.0, inf, 0.0, nan, -inf]]
    return small, others + ([] if name in NOT_THE_LARGEST else [[most], [-most], [most, -most, 1.0, 0.0]])


def _floats(args: tuple[Any, ...]) -> list[Any]:
    return [a for a in arrays_in(list(args)) if a.dtype.kind == "f"]


def _alike(name: str, operand: int, values: list[Any]) -> bool:
    """Whether NaN and both infinities count as one."""
    several = name in IN_SEVERAL_STEPS and np.inf in values and -np.inf in values
    return several or ((name, operand) in NAN_OR_INF and bool(np.isinf(values).any()))


def _cases(row: str, dtype: Any) -> Iterator[tuple[str, Arguments, bool, bool]]:
    """What is where, the arguments, whether it is small, and whether NaN and both infinities are one kind."""
    name, (args, _) = arguments_of(row, np.random.default_rng(0), dtype)
    small, large = _specials(name, dtype)
    for i in range(len(_floats(args))):
        for values in small + large:
            for everywhere in (False, True):
                args, options = arguments_of(row, np.random.default_rng(0), dtype)[1]
                flat = _floats(args)[i].reshape(-1)
                at = slice(0 if everywhere else flat.size // 2, None if everywhere else flat.size // 2 + len(values))
                flat[at] = np.resize(values, flat[at].size)
                where = "everywhere" if everywhere else "in one place"
                yield f"{values} {where} in operand {i}", (args, options), values in small, _alike(name, i, values)


def _results(name: str, run: Callable[..., Any], case: Arguments) -> list[Any]:
    args, options = case
    with np.errstate(all="ignore"):
        result = run(*args, **options)
    return [*arrays_in(result), *arrays_in([args[i] for i in KERNELS[name].writes])]


def _cuda_results(name: str, case: Arguments) -> list[Any]:
    with fake_cupy.installed() as cupy, kernel_mode("cuda"):
        return [a.get() for a in _results(name, KERNELS[name], on_device(cupy, case))]


def _difference(want: Any, got: Any, error: float = np.inf, alike: bool = False) -> str | None:
    """What is another kind of number in ``got``, or further off than ``error``; None if nothing.

    NaN and infinities are one kind if they are ``alike``.
    """
    want, got = np.asarray(want, np.float64), np.asarray(got, np.float64)
    other = (np.isnan(want) != np.isnan(got)) | (np.isinf(want) & (want != got)) | (np.isinf(got) & (want != got))
    other = np.isfinite(want) != np.isfinite(got) if alike else other
    if other.any():
        at = tuple(np.argwhere(other)[0])
        return f"expected {want[at]} at {tuple(map(int, at))}; got {got[at]} ({np.count_nonzero(other)} in all)"
    finite = np.isfinite(want)
    found = np.abs(want[finite] - got[finite]).max(initial=0.0) if error < np.inf else 0.0
    return f"expected the reference's numbers to {error}; got a difference of {found}" if found > error else None


def _largest(arrays: list[Any]) -> float:
    return max(float(np.abs(np.asarray(a, np.float64)[np.isfinite(a)]).max(initial=0.0)) for a in arrays)


def sweep(row: str, dtype: Any, run: Callable[[str, Arguments], list[Any]]) -> list[str]:
    """The differences of a twin's results from its reference's, in words."""
    found = []
    name, kinds = row.partition(" at ")[0], dtype == np.float16 and row in KINDS_IN_FLOAT16
    for label, case, small, alike in _cases(row, dtype):
        expected = _results(name, KERNELS[name].reference, copy.deepcopy(case))
        numbers = small and not kinds
        error = TOLERANCE[dtype] * _largest(expected) + float(np.finfo(np.float32).tiny) if numbers else np.inf
        for i, (want, got) in enumerate(zip(expected, run(name, case), strict=True)):
            difference = _difference(want, got, error, alike)
            if difference:
                found.append(f"{label}: output {i}: {difference}")
    return found


@needs_numba
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("name", sorted(KERNEL_ROWS))
def test_compiled_twins(name: str, dtype: Any) -> None:
    twin = KERNELS[name].cpu
    if twin is not None:
        found = sweep(name, dtype, lambda name, case: _results(name, twin.run, case))
        assert not found, "\n".join(found)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize(
    "row",
    [pytest.param(r, marks=[] if r in CUDA_BY_DEFAULT else pytest.mark.slow) for r in (*CUDA_KERNELS, *GPU_ROWS)],
)
def test_cuda_kernels(row: str, dtype: Any) -> None:
    found = sweep(row, dtype, _cuda_results)
    assert not found, "\n".join(found)


@pytest.mark.parametrize("dtau", [np.nan, np.inf, -np.inf])
def test_a_clamped_logit_scale_has_no_gradient_whatever_comes(dtau: float) -> None:
    """torch's clamp gives 0 there, too; NaN * 0 would be NaN."""
    x = ag.Tensor(np.array([4.0, 5.0]), requires_grad=True)
    args, options = KERNEL_ROWS["window_attention_bwd"].arguments(np.random.default_rng(0), np.float64)
    args[0][:] = dtau
    args[4][:] = np.reshape([4.0, 5.0], args[4].shape)
    gradient = _results("window_attention_bwd", KERNELS["window_attention_bwd"].reference, (args, options))[3].ravel()
    (composite,) = ag.grad(ag.clip(x, max=float(np.log(100.0))), x, np.full(2, dtau))
    assert (np.isfinite(gradient).tolist(), gradient[1]) == ([False, True], 0)
    assert (np.isfinite(composite).tolist(), composite[1]) == ([False, True], 0)


def test_the_rows_of_swin_are_swept_too() -> None:
    assert find("window_attention")
    assert {name for name in KERNELS if KERNELS[name].cpu is not None} <= KERNEL_ROWS.keys()
    named = IN_SEVERAL_STEPS | {name for name, _ in NAN_OR_INF} | NOT_THE_LARGEST.keys()
    assert named <= KERNEL_ROWS.keys()
    assert KINDS_IN_FLOAT16.keys() <= KERNEL_ROWS.keys() | GPU_ROWS.keys()
    assert set(CUDA_KERNELS) >= CUDA_BY_DEFAULT


@pytest.mark.parametrize(
    ("want", "got", "differs"),
    [
        ([np.nan], [np.inf], True),
        ([np.inf], [np.nan], True),
        ([1.0], [np.nan], True),
        ([np.inf], [-np.inf], True),
        ([np.inf], [1.0], True),
        ([1.0], [-np.inf], True),
        ([1.0, 1.0], [1.0, 1.1], True),
        ([np.nan, np.inf, -np.inf, 1.0], [np.nan, np.inf, -np.inf, 1.0], False),
    ],
)
def test_the_comparison_sees_what_differs(want: list[float], got: list[float], differs: bool) -> None:
    assert bool(_difference(want, got, 1e-12)) == differs


OVERFLOWING = [
    [3e38, -3e38, 3e38, -3e38],
    [3.4e38, -1e38, 0, 0],
    [1.7e38, 1.7e38, -1.7e38, -1.7e38],
    [1e30, -1e30, 1, 0],
    [1e34, -1e34, 1e34, 0],
    [1e19, -1e19, 3e19, 0],
    [np.inf, -np.inf, 1, 0],
    [np.inf, 1e38, -1e38, 0],
]


def _norms(x: Any, g: Any) -> list[Any]:
    """The norm of rows and of sums, and all their gradients."""
    results = []
    for name in ("layer_norm", "residual_layer_norm"):
        rows = ag.Tensor(x, requires_grad=True)
        weight, bias = (ag.Tensor(np.full(x.shape[-1], v, x.dtype), requires_grad=True) for v in (1.5, 0.25))
        if name == "layer_norm":
            y = ag.layer_norm(rows, weight, bias)
        else:
            y = ag.residual_layer_norm(rows, np.zeros_like(x), None, weight, bias)[1]
        (y * g).sum().backward()
        results += [y.data, rows.grad, weight.grad, bias.grad]
    return results


@needs_numba
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("scale", [1.0, 65536.0])
def test_norms_of_rows_of_any_size(scale: float) -> None:
    """Values whose squares, sums or products with the gradient are too large for float32: the reference's kinds."""
    rng = np.random.default_rng(0)
    pool = np.array([0, 1, -1, *(s * v for s in (1, -1) for v in (1e19, 1e30, 1.8e38, 3.4e38)), 1e-45], np.float32)
    several = [rng.choice(pool, (3, int(rng.integers(2, 40)))) for _ in range(200)]
    for x in [np.array([row], np.float32) for row in OVERFLOWING] + several:
        g = (rng.standard_normal(x.shape) * scale).astype(np.float32)
        with kernel_mode("reference"):
            want = _norms(x, g)
        for got, right in zip(_norms(x, g), want, strict=True):
            np.testing.assert_array_equal(np.isnan(got), np.isnan(right), err_msg=str(x))
