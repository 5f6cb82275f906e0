"""Window attention on CUDA cores (swinpy/kernels/cuda/window_attention_general*), thread by thread on the CPU.

Each row of PROGRAMS is one set of macros, so that few programs are compiled; hypothesis draws everything else.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import runner, strategies, tolerances
from support.gpu import fake_cupy
from support.gpu.host_cuda.raw_module import SCHEDULES, scheduled
from support.rows.opinfo import Sample, Source
from support.rows.swin import Case, make
from support.swin.models import images, tiny
from support.swin.strategies import cotangent

import autograd as ag
from autograd.kernels import KERNELS, explain
from autograd.kernels.cuda.launch import counting
from swinpy.kernels.window_attention import window_attention_bwd, window_attention_fwd
from swinpy.kernels.window_attention.general import general_bwd, general_fwd
from swinpy.ops import window_attention

if TYPE_CHECKING:
    from collections.abc import Iterator

FLOAT32, FLOAT16, BFLOAT16 = np.float32, np.float16, ml_dtypes.bfloat16


@pytest.fixture
def cupy() -> Iterator[Any]:
    with fake_cupy.installed() as module:
        yield module


@dataclass(frozen=True)
class Row:
    """What programs are compiled for."""

    window: tuple[int, int]
    head_dim: int
    dtype: Any
    cosine: bool = False

    def __str__(self) -> str:
        return f"{self.window}-{self.head_dim}-{np.dtype(self.dtype).name}{'-cosine' * self.cosine}"


PROGRAMS = (
    Row((1, 1), 8, FLOAT32),
    Row((2, 3), 16, FLOAT16, cosine=True),
    Row((3, 3), 33, FLOAT32, cosine=True),
    Row((5, 5), 24, BFLOAT16),
    Row((5, 7), 33, FLOAT16),
    Row((7, 7), 32, FLOAT32),
    Row((7, 7), 32, FLOAT32, cosine=True),
    Row((7, 7), 64, FLOAT16),  # several tiles backward, one forward
    Row((8, 8), 32, FLOAT32),
    Row((8, 8), 16, BFLOAT16, cosine=True),
    Row((12, 12), 8, FLOAT32, cosine=True),
)
LARGE = (
    Row((12, 12), 32, FLOAT16),
    Row((16, 16), 32, FLOAT32),
    Row((16, 16), 64, BFLOAT16, cosine=True),
    Row((24, 24), 32, FLOAT32, cosine=True),
    Row((24, 20), 128, FLOAT16),
    Row((24, 24), 33, FLOAT32),
)


@st.composite
def cases(draw: st.DrawFn, row: Row) -> tuple[Case, int]:
    """A map of up to three windows an axis, one of them whole, part of one or smaller than one; and a seed."""
    wh, ww = row.window
    case = Case(
        size=(draw(st.integers(1, 2 * wh + 1)), draw(st.integers(1, 2 * ww + 1))),
        window=row.window,
        shift=(draw(st.integers(0, wh - 1)), draw(st.integers(0, ww - 1))),
        heads=draw(st.integers(1, 3)),
        head_dim=row.head_dim,
        batch=draw(st.integers(1, 2)),
        bias=draw(st.booleans()),
        qkv_bias=draw(st.booleans()),
        mask_value=draw(st.sampled_from([-100.0, -np.inf])),
        cosine=row.cosine,
        small_map="pad",  # the window, and so the program, stays what the row says
    )
    return case, draw(strategies.seeds)


def reference(sample: Sample, g: Any) -> list[Any]:
    """Output and gradients of what exists, by the reference in the sample's precision."""
    args = (*sample.args, sample.kwargs["spec"])
    return [
        x for x in (window_attention_fwd.reference(*args), *window_attention_bwd.reference(g, *args)) if x is not None
    ]


def kernels(cupy: Any, sample: Sample, g: Any) -> list[Any]:
    """The same by the kernels under test."""
    args = [None if a is None else cupy.asarray(a) for a in sample.args]
    spec = sample.kwargs["spec"]
    found = (general_fwd(*args, spec), *general_bwd(cupy.asarray(g), *args, spec))
    assert [x is None for x in found[2:]] == [a is None for a in sample.args[1:]]
    return [x.get() for x in found if x is not None]


def check(case: Case, seed: int, dtype: Any) -> None:
    """float32 to rounding; 16 bits by the low-precision rule, the reference at that precision being the naive one."""
    sample = make(case, Source(seed)).cast(dtype)
    g = cotangent(sample, seed)
    exact = reference(sample.cast(np.float64), g.astype(np.float64))
    with fake_cupy.installed() as cupy:
        got = kernels(cupy, sample, g)
    naive = reference(sample, g)
    # A gradient that cancels rounds by what it is made of: that of qkv, which all come from.
    made_of = max(runner.largest(x) for x in exact[1:])
    for i, (have, low, want) in enumerate(zip(got, naive, exact, strict=True)):
        assert have.dtype == sample.args[0].dtype, i
        assert have.shape == want.shape, i
        scale = made_of if i else runner.largest(want)
        if dtype is FLOAT32:
            limit = (tolerances.ATTENTION32_COSINE if case.cosine else tolerances.ATTENTION32) * scale
        else:
            limit = tolerances.LOW_FACTOR * runner.error_of(low, want) + tolerances.spacing(runner.largest(want), dtype)
        assert runner.error_of(have, want) <= limit, f"{i}: {runner.error_of(have, want)} beyond {limit}"


@pytest.mark.parametrize("row", PROGRAMS, ids=str)
def test_agrees_with_the_reference(row: Row) -> None:
    @given(cases(row))
    @settings(max_examples=8)
    def run(drawn: tuple[Case, int]) -> None:
        check(*drawn, row.dtype)

    run()


@pytest.mark.slow
@pytest.mark.parametrize("row", LARGE, ids=str)
def test_agrees_with_the_reference_in_large_windows(row: Row) -> None:
    size = (row.window[0] + 3, 2 * row.window[1])
    shift = (row.window[0] // 2, row.window[1] // 3)
    check(Case(size, row.window, shift, 2, row.head_dim, 1, cosine=row.cosine, mask_value=-np.inf), 0, row.dtype)


SHIFTED = Case(size=(9, 13), window=(7, 7), shift=(3, 2), heads=2, head_dim=32, batch=2)
REPEATED = {
    "whole": (SHIFTED, FLOAT32),
    "cosine": (replace(SHIFTED, cosine=True), FLOAT32),
    "tiled": (replace(SHIFTED, size=(12, 14), window=(12, 12), head_dim=8, cosine=True), FLOAT32),
    "half": (replace(SHIFTED, head_dim=64), FLOAT16),
}


@pytest.mark.parametrize("name", REPEATED)
def test_the_same_bits_in_every_schedule(cupy: Any, name: str) -> None:
    case, dtype = REPEATED[name]
    sample = make(case, Source(0)).cast(dtype)
    g = cotangent(sample)
    first = kernels(cupy, sample, g)
    for schedule in SCHEDULES:
        with scheduled(schedule, seed=3):
            for got, want in zip(kernels(cupy, sample, g), first, strict=True):
                runner.identical(got, want, schedule)


# ---- values that are easy to get wrong


@pytest.mark.parametrize("dtype", [FLOAT32, FLOAT16])
def test_rows_of_zeros_have_no_gradient_with_cosine(cupy: Any, dtype: Any) -> None:
    """A query and a key of zeros in the map, and V2's keys of padded tokens: no NaN."""
    sample = make(replace(SHIFTED, cosine=True, qkv_bias=False), Source(1)).cast(dtype)
    qkv = sample.args[0]
    qkv[0, 2, 3, :64], qkv[1, 4, 4, 64:128] = 0, 0
    g = cotangent(sample)
    out, gqkv, *rest = kernels(cupy, sample, g)
    assert all(np.isfinite(x).all() for x in (out, gqkv, *rest))
    assert not gqkv[0, 2, 3, :64].any()
    assert not gqkv[1, 4, 4, 64:128].any()
    limit = tolerances.ATTENTION32_COSINE if dtype is FLOAT32 else tolerances.FLOAT16_COSINE
    for got, want in zip((out, gqkv, *rest), reference(sample, g), strict=True):
        runner.close(got, want, limit, "zeros", scale=max(1.0, runner.largest(want)))


def test_logit_scale_is_clamped(cupy: Any) -> None:
    """Above ln 100: attention of ln 100, and no gradient."""
    sample = make(replace(SHIFTED, cosine=True), Source(2)).cast(FLOAT32)
    above, at = (np.array([2.0, x], FLOAT32).reshape(2, 1, 1) for x in (9.0, np.log(100)))
    g = cotangent(sample)
    clamped = kernels(cupy, replace(sample, args=(*sample.args[:3], above)), g)
    plain = kernels(cupy, replace(sample, args=(*sample.args[:3], at)), g)
    assert clamped[-1][1] == 0
    assert plain[-1][1] != 0
    for got, want in zip(clamped[:-1], plain[:-1], strict=True):
        runner.identical(got, want, "clamped")


@pytest.mark.parametrize("dtype", [FLOAT32, FLOAT16])
def test_a_logit_scale_of_nan_is_seen(cupy: Any, dtype: Any) -> None:
    """By the head that it is of, forward and backward, as in the reference."""
    sample = make(replace(SHIFTED, cosine=True), Source(4)).cast(dtype)
    sample = replace(sample, args=(*sample.args[:3], np.array([2.0, np.nan], dtype).reshape(2, 1, 1)))
    g = cotangent(sample)
    with np.errstate(invalid="ignore"):
        wanted = reference(sample, g)
    for got, want in zip(kernels(cupy, sample, g), wanted, strict=True):
        assert np.isnan(want).any()
        np.testing.assert_array_equal(np.isnan(got), np.isnan(want))


def test_forbidden_neighbours_change_nothing(cupy: Any) -> None:
    """With -inf a token of another region has no weight at all: the output keeps its bits."""
    case = replace(SHIFTED, size=(14, 14), shift=(3, 3), mask_value=-np.inf)
    sample = make(case, Source(3)).cast(FLOAT32)
    moved = sample.args[0].copy()
    moved[:, :3] += 100  # rolled into the last windows, beside rows 11 to 13
    spec = sample.kwargs["spec"]
    rest = [cupy.asarray(a) for a in sample.args[1:3]]
    before, after = (general_fwd(cupy.asarray(x), *rest, None, spec).get() for x in (sample.args[0], moved))
    runner.identical(after[:, 3:], before[:, 3:], "other regions")
    assert not np.array_equal(after[:, :3], before[:, :3])


def test_empty_batch(cupy: Any) -> None:
    sample = make(replace(SHIFTED, batch=0), Source(0)).cast(FLOAT32)
    with counting() as counts:
        out, gqkv, gbias, gqkv_bias = kernels(cupy, sample, cotangent(sample))
    assert counts.launches == {}
    assert (out.shape, gqkv.shape) == ((0, 9, 13, 64), (0, 9, 13, 192))
    assert not gbias.any()
    assert not gqkv_bias.any()


# ---- through the registry, the op and models


def _on_gpu(cupy: Any, sample: Sample) -> list[Any]:
    return [None if a is None else ag.Tensor(cupy.asarray(a), True) for a in sample.args]


@pytest.mark.parametrize("cosine", [False, True])
def test_the_op_runs_it(cupy: Any, cosine: bool) -> None:
    sample = make(replace(SHIFTED, cosine=cosine), Source(4)).cast(FLOAT32)
    g = cotangent(sample)
    leaves = _on_gpu(cupy, sample)
    with ag.kernel_mode("cuda"), counting() as counts:
        out = window_attention(*leaves, **sample.kwargs)
        out.backward(cupy.asarray(g))
    assert counts.copies == 0
    assert counts.launches["window_attention_general_fwd"] == counts.launches["window_attention_general_bwd"] == 1
    found = [out.numpy(), *(t.grad.get() for t in leaves if t is not None)]
    exact = reference(sample.cast(np.float64), g.astype(np.float64))
    limit = tolerances.ATTENTION32_COSINE if cosine else tolerances.ATTENTION32
    for got, want in zip(found, exact, strict=True):
        runner.close(got, want.astype(FLOAT32), limit, "op", scale=max(map(runner.largest, exact)))


def _trained(model: Any, x: Any, g: Any) -> dict[str, Any]:
    """Logits and every gradient, in float64."""
    for parameter in model.parameters():
        parameter.grad = None
    logits = model(x)
    logits.backward(g)
    found = {"logits": logits.numpy(), **{n: ag.Tensor(p.grad).numpy() for n, p in model.named_parameters()}}
    return {name: value.astype(np.float64) for name, value in found.items()}


def _worst(found: dict[str, Any], exact: dict[str, Any], idle: float = tolerances.PARITY_IDLE) -> float:
    floor = idle * float(np.median([np.abs(x).max() for x in exact.values()]))
    return max(np.abs(found[n] - x).max() / max(np.abs(x).max(), floor) for n, x in exact.items())


LIMITS = {"v1": tolerances.PARITY32, "v2": tolerances.PARITY32_COSINE}


def _errors(cupy: Any, architecture: str, seed: int) -> tuple[float, float, float]:
    """Of one model on the GPU, and of the references on the CPU in float32; and the first's, where none but gradients
    of the usual size are judged by their own."""
    x, g = images((19, 14), seed=seed), np.random.default_rng(seed).standard_normal((2, 5))
    exact = _trained(tiny(seed=seed, architecture=architecture), x, g)
    model = tiny("float32", seed, architecture=architecture)
    with ag.kernel_mode("reference"):
        naive = _trained(model, x.astype(FLOAT32), g.astype(FLOAT32))
    model.to("gpu")
    with counting() as counts:
        got = _trained(model, cupy.asarray(x.astype(FLOAT32)), cupy.asarray(g.astype(FLOAT32)))
    assert counts.launches["window_attention_general_fwd"] == counts.launches["window_attention_general_bwd"] == 4
    return _worst(got, exact), _worst(naive, exact), _worst(got, exact, idle=1)


def _share(errors: list[tuple[float, float, float]]) -> float:
    return float(np.mean([got**2 / (got**2 + naive**2) for got, naive, _ in errors]))


@pytest.mark.parametrize("architecture", ["v1", "v2"])
def test_a_model_runs_it(cupy: Any, architecture: str) -> None:
    """By the low-precision rule for all gradients together, over many models: see ``ERROR_SHARE``."""
    errors = [_errors(cupy, architecture, seed) for seed in range(tolerances.ERROR_DRAWS)]
    assert max(usual for *_, usual in errors) <= LIMITS[architecture]
    assert _share(errors) <= tolerances.ERROR_SHARE


@pytest.mark.parametrize("architecture", ["v1", "v2"])
def test_a_model_notices_a_less_exact_kernel(cupy: Any, monkeypatch: pytest.MonkeyPatch, architecture: str) -> None:
    """An output of 17 bits instead of 24: each model by itself is within its limit."""
    kernel = KERNELS["window_attention_fwd"]
    exact = kernel.cuda
    assert exact is not None

    def rough(*args: Any) -> Any:
        out = exact.run(*args)
        return (out.view(np.int32) + 64 & -128).view(FLOAT32)

    monkeypatch.setattr(kernel, "cuda", replace(exact, run=rough))
    errors = [_errors(cupy, architecture, seed) for seed in range(16)]
    assert max(usual for *_, usual in errors) <= LIMITS[architecture]
    assert _share(errors) > tolerances.ERROR_SHARE


# ---- what it does not take


@pytest.mark.parametrize(
    ("change", "dtype", "reason"),
    [
        ({"head_dim": 256, "heads": 1}, FLOAT32, "head_dim is at most 128; got 256"),
        ({"window": (25, 2), "size": (25, 3)}, FLOAT32, r"a window has at most 24 tokens a side; got \(25, 2\)"),
        ({}, np.float64, "float32, float16, bfloat16; got float64"),
    ],
)
def test_refused_with_the_reason(cupy: Any, change: dict[str, Any], dtype: Any, reason: str) -> None:
    sample = make(replace(SHIFTED, shift=(0, 0), **change), Source(0)).cast(dtype)
    leaves = _on_gpu(cupy, sample)
    args = [None if t is None else t.data for t in leaves]
    spec = sample.kwargs["spec"]
    g = cupy.asarray(cotangent(sample))
    for text in (explain("window_attention_fwd", *args, spec), explain("window_attention_bwd", g, *args, spec)):
        assert "runs reference" in text
        assert pytest.approx(1) == len([line for line in text.splitlines() if line.startswith("  cuda: ")])
    with ag.kernel_mode("cuda"), pytest.raises(ag.kernels.KernelUnavailableError, match=reason):
        window_attention(*leaves, **sample.kwargs)
    expected = window_attention_fwd.reference(*sample.args, spec)
    runner.close(window_attention(*leaves, **sample.kwargs).numpy(), expected, tolerances.COMPOSITE, "reference")


def test_mixed_dtypes_are_refused(cupy: Any) -> None:
    sample = make(SHIFTED, Source(0)).cast(FLOAT32)
    qkv, bias, qkv_bias, _ = (None if a is None else cupy.asarray(a) for a in sample.args)
    text = explain("window_attention_fwd", qkv, bias.astype(FLOAT16), qkv_bias, None, sample.kwargs["spec"])
    assert "one dtype out of float32, float16, bfloat16; got float16, float32" in text


def test_other_layouts_are_copied_and_counted(cupy: Any) -> None:
    sample = make(SHIFTED, Source(5)).cast(FLOAT32)
    args = [None if a is None else cupy.asarray(a) for a in sample.args]
    spec = sample.kwargs["spec"]
    wide = cupy.asarray(np.concatenate([sample.args[0]] * 2, axis=2))
    with counting() as counts:
        got = general_fwd(wide[:, :, :13], *args[1:], spec)
    assert counts.copies == 1
    runner.identical(got.get(), general_fwd(*args, spec).get(), "a view")


@pytest.mark.parametrize("window", [(3, 3), (7, 7), (9, 9)])
def test_scores_far_below_zero(cupy: Any, window: tuple[int, int]) -> None:
    """Some -140 throughout: a row that is the tile's padding, whose scores are 0, is not e^140."""
    sample = make(Case(size=window, window=window, heads=1, head_dim=32, batch=1), Source(0)).cast(FLOAT32)
    qkv, bias, qkv_bias, _ = sample.args
    qkv_bias = np.concatenate([qkv_bias[:32] + FLOAT32(5), qkv_bias[32:64] - FLOAT32(5), qkv_bias[64:]])
    args = (cotangent(sample).astype(FLOAT32), qkv, bias, qkv_bias, None, sample.kwargs["spec"])
    on_gpu = [cupy.asarray(a) if isinstance(a, np.ndarray) else a for a in args]
    for got, want in zip(general_bwd(*on_gpu)[:3], window_attention_bwd.reference(*args)[:3], strict=True):
        runner.close(got.get(), want, 1e-4, "gradient")
