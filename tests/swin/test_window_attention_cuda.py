"""Window attention's tensor-core kernels, thread by thread on the CPU (see support.gpu.host_cuda), against float64."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import strategies
from support.gpu import fake_cupy
from support.gpu.attention import Call, check, check_logit_scale, low_dtype, run
from support.gpu.host_cuda.raw_module import SCHEDULES
from support.layouts import relayout
from support.rows.opinfo import Source
from support.rows.swin import Case, make
from support.runner import error_of, identical
from support.swin.naive import naive_attention

import autograd as ag
from autograd.kernels import explain
from autograd.kernels.cuda import launch
from swinpy.geometry import geometry
from swinpy.kernels.window_attention import mma, window_attention_bwd, window_attention_fwd
from swinpy.ops import AttentionSpec, window_attention

# One program each: it takes a second or two to compile one.
SMALL = [
    ((7, 7), "float16", False),
    ((7, 7), "bfloat16", False),
    ((8, 8), "bfloat16", True),
    ((4, 4), "float16", True),
    ((3, 5), "bfloat16", False),
]
LARGE = [((12, 12), "float16", False), ((9, 9), "bfloat16", True)]
WIDE = [
    ((16, 16), "float16", False),
    ((16, 16), "bfloat16", True),
    ((24, 24), "float16", False),
    ((24, 24), "bfloat16", True),
    ((11, 13), "float16", True),
    ((8, 8), "float16", True),
    ((6, 6), "bfloat16", False),
]


@st.composite
def calls(draw: st.DrawFn, programs: list[Any], windows: int) -> Call:
    """Any map of up to ``windows`` windows an axis, whole or not, smaller than the window too."""
    window, dtype, cosine = draw(st.sampled_from(programs))
    case = Case(
        size=tuple(draw(st.integers(max(1, w - 3), windows * w)) for w in window),  # type: ignore[arg-type]
        window=window,
        shift=tuple(draw(st.integers(0, w - 1)) for w in window),  # type: ignore[arg-type]
        heads=draw(st.integers(1, 2)),
        head_dim=mma.HEAD_DIM,
        batch=draw(st.integers(1, 2)),
        bias=draw(st.booleans()),
        qkv_bias=draw(st.booleans()),
        mask_value=draw(st.sampled_from([-100.0, -math.inf])),
        cosine=cosine,
        small_map="pad",  # the window stays what it is
    )
    return Call.of(case, dtype, draw(strategies.seeds))


@given(calls(SMALL, 2))
@settings(max_examples=15)
def test_small_windows(call: Call) -> None:
    check(call)


@given(calls(LARGE, 1))
@settings(max_examples=6)
def test_large_windows(call: Call) -> None:
    check(call)


@pytest.mark.slow
@given(calls(SMALL + LARGE + WIDE, 2))
@settings(max_examples=60)
def test_widely(call: Call) -> None:
    check(call)


SEAM = Case(size=(9, 10), window=(7, 7), shift=(3, 2), heads=2, head_dim=32, batch=1)
UNIT = replace(SEAM, window=(4, 4), size=(7, 6), shift=(1, 2), cosine=True)
BIG = replace(SEAM, window=(12, 12), size=(12, 13), shift=(4, 5), heads=1)
CASES = {"small": SEAM, "cosine": UNIT, "large": BIG}


@pytest.mark.parametrize("name", CASES)
def test_every_order_of_threads_gives_the_same_bits(name: str) -> None:
    """And so do repeats, and random orders."""
    call = Call.of(CASES[name], "float16")
    first = run(call)
    for schedule in (*SCHEDULES, "random"):
        for got, want in zip(run(call, schedule, seed=len(schedule)), first, strict=True):
            identical(got, want, schedule)


@pytest.mark.parametrize("name", ["small", "cosine"])
def test_the_naive_computation_is_right(name: str) -> None:
    """What the kernels are held against, without its roundings."""
    call = Call.of(CASES[name], "float16")
    args = call.sample.cast(np.float64).args
    g = call.g.astype(np.float64)
    want = [window_attention_fwd.reference(*args, call.spec), *window_attention_bwd.reference(g, *args, call.spec)]
    for got, right in zip(naive_attention(args, call.spec, g), want, strict=True):
        assert (got is None) == (right is None)
        assert right is None or error_of(got, right) <= 1e-11 * np.abs(right).max()


@pytest.mark.parametrize("name", CASES)
def test_the_op_runs_these_kernels(name: str) -> None:
    """From the public op to the kernels and back, with nothing copied on the way."""
    call = Call.of(CASES[name], "float16", seed=3)
    kind = "large" if name == "large" else "small"
    with fake_cupy.installed() as cupy, ag.kernel_mode("cuda"), launch.counting() as counts:
        leaves = [None if a is None else ag.Tensor(cupy.asarray(a), True) for a in call.sample.args]
        out = window_attention(*leaves, spec=call.spec)  # type: ignore[arg-type]
        out.backward(cupy.asarray(call.g))
        check(call, [out.numpy(), *(None if leaf is None else leaf.grad.get() for leaf in leaves)])  # type: ignore[union-attr]
    assert counts.copies == 0
    ran = {kernel for kernel in counts.launches if kernel.startswith("window_attention")}
    backward = ("bwd_queries", "bwd_keys") if kind == "large" else ("bwd",)
    assert ran == {f"window_attention_{kind}_{part}" for part in ("fwd", *backward)}


@pytest.mark.parametrize("layout", ["fortran", "sliced"])
def test_other_layouts_are_copied(layout: str) -> None:
    """And the copies are counted."""
    call = Call.of(UNIT, "float16")
    expected = run(call)
    with fake_cupy.installed() as cupy, ag.kernel_mode("cuda"), launch.counting() as counts:
        args = [None if a is None else cupy.asarray(a) for a in call.sample.args]
        odd = cupy.ndarray._made(relayout(call.sample.args[0], layout), 0)
        got = mma.mma_fwd(odd, *args[1:], call.spec)
        np.testing.assert_array_equal(got.get(), expected[0])
    assert counts.copies == 1


@pytest.mark.parametrize(("window", "dtype"), [((4, 4), "float16"), ((9, 9), "bfloat16")])
def test_gradient_of_logit_scale(window: tuple[int, int], dtype: str) -> None:
    case = replace(UNIT, window=window, size=(window[0], window[1] + 2), heads=1)
    made = [Call.of(case, dtype, seed) for seed in range(24)]
    for call in made:
        call.sample.args[3][:] = np.minimum(call.sample.args[3], 3)  # not clamped
    check_logit_scale(made)


# ---- what is not usual


def test_rows_of_zeros_have_no_direction() -> None:
    """V2's keys of padded tokens, and any query of zeros: no NaN, no gradient, the reference's values."""
    call = Call.of(replace(UNIT, qkv_bias=False), "float16")
    call.sample.args[0][:, 2, 3, : 2 * 64] = 0
    results = run(call)
    assert all(np.isfinite(r).all() for r in results if r is not None)
    assert not results[1][:, 2, 3, : 2 * 64].any()
    check(call, results)


@pytest.mark.parametrize("size", [2.0**-20, 2.0**7])
def test_short_and_long_rows_keep_their_direction(size: float) -> None:
    """Cosine attention does not depend on the length of q and k: lengths near float16's limits lose nothing."""
    call = Call.of(replace(UNIT, qkv_bias=False, size=(4, 4), shift=(0, 0)), "float16")
    qk = call.sample.args[0][..., : 2 * 64]
    qk[...] = np.sign(qk)  # so that the short ones are exact, too
    expected = run(call)
    qk *= np.float16(size)
    got = run(call)
    np.testing.assert_array_equal(got[0], expected[0])
    for index in (2, 4):  # bias and logit_scale
        np.testing.assert_array_equal(got[index], expected[index])


def test_logit_scale_is_clamped() -> None:
    """Above ln 100 it changes nothing and gets no gradient."""
    call = Call.of(replace(UNIT, heads=2), "float16")
    results = []
    for value in (4.75, 9.0):
        call.sample.args[3][0] = value
        call.sample.args[3][1] = 1.5
        results.append(run(call))
    for low, high in zip(*results, strict=True):
        np.testing.assert_array_equal(low, high)
    assert results[0][4][0] == 0
    assert results[0][4][1] != 0


def test_forbidden_regions_do_not_leak() -> None:
    """With -inf, a token of another region changes nothing, to the last bit."""
    call = Call.of(replace(SEAM, mask_value=-math.inf, size=(14, 14), qkv_bias=False), "float16")
    before = run(call)
    call.sample.args[0][0, 13, 13] += 1  # the last token of its region: rows and columns 11 to 13 are seen with it
    after = run(call)
    moved = (before[0] != after[0]).any(axis=(0, 3))
    assert moved.any()
    ys, xs = np.nonzero(moved)
    assert ys.min() >= 10
    assert xs.min() >= 9


@pytest.mark.parametrize("cosine", [False, True])
def test_empty_batch(cosine: bool) -> None:
    call = Call.of(replace(SEAM, batch=0, cosine=cosine), "float16")
    results = run(call)
    assert results[0].shape == (0, 9, 10, 64)
    assert results[1].shape == (0, 9, 10, 192)
    assert not any(r.any() for r in results[2:] if r is not None)


def test_one_token() -> None:
    """A window of one token attends to itself."""
    case = replace(SEAM, window=(1, 1), shift=(0, 0), size=(2, 3))
    check(Call.of(case, "float16"))


# ---- what goes elsewhere


def _explain(case: Case, dtype: str) -> str:
    sample = make(case, Source(0)).cast(low_dtype(dtype))
    with fake_cupy.installed() as cupy:
        args = [None if a is None else cupy.asarray(a) for a in sample.args]
        return explain("window_attention_fwd", *args, case.spec)


def test_who_takes_what(monkeypatch: pytest.MonkeyPatch) -> None:
    sample = make(SEAM, Source(0)).cast(np.float16)

    def refusal(case: Case, dtype: Any) -> str | None:
        sample = make(case, Source(0)).cast(dtype)
        with fake_cupy.installed() as cupy:
            return mma.can_run(cupy.asarray(sample.args[0]), case.spec)

    assert refusal(SEAM, np.float16) is None
    assert "take 32 channels a head; got 16" in str(refusal(replace(SEAM, head_dim=16), np.float16))
    assert "take float16 and bfloat16; got float32" in str(refusal(SEAM, np.float32))
    wide = replace(SEAM, window=(25, 24), size=(25, 24), heads=1, batch=1)
    assert "windows of up to 576 tokens; got 600" in str(refusal(wide, np.float16))
    monkeypatch.setattr(mma, "capability", lambda x: 75)
    assert "need compute capability 8.0; got 7.5" in str(refusal(SEAM, np.float16))
    with fake_cupy.installed() as cupy, ag.kernel_mode("cuda"), launch.counting() as counts:
        args = [None if a is None else cupy.asarray(a) for a in sample.args]
        ag.kernels.KERNELS["window_attention_fwd"](*args, SEAM.spec)
    assert set(counts.launches) == {"window_attention_general_fwd"}


def test_float64_goes_to_the_reference() -> None:
    assert _explain(SEAM, "float16").startswith("window_attention_fwd: runs cuda")
    text = _explain(SEAM, "float64")
    assert text.startswith("window_attention_fwd: runs reference")
    assert "CUDA kernels take arrays of one dtype out of float32, float16, bfloat16; got float64" in text


def test_chunks() -> None:
    """A large window is padded as little as may be, and then cut into as few chunks as may be."""
    sizes = (64, 48, 32)
    assert [mma.chunk_size(n, sizes) for n in (65, 81, 144, 256, 576)] == [48, 48, 48, 64, 64]


def test_seams() -> None:
    """Tokens of a window behind the seams, as bits."""
    cut = replace(SEAM, window=(2, 3), shift=(1, 2), size=(4, 6)).spec.geometry
    assert mma.seams(cut) == (0b111000, 0b110110)
    assert mma.seams(replace(cut, shift=(0, 0))) == (0, 0)


def test_shapes_that_do_not_fit_are_refused() -> None:
    """Whoever calls the kernel past the op gets the reason, not what lies behind an array."""
    cut = geometry((8, 8), (4, 4), (2, 2))
    spec = AttentionSpec(cut, 2, 0.1)
    cosine = AttentionSpec(cut, 2, 1.0, cosine=True)
    with fake_cupy.installed() as cupy:

        def zeros(*shape: int) -> Any:
            return cupy.zeros(shape, "f4")

        qkv, bias, qkv_bias = zeros(1, 8, 8, 48), zeros(2, 16, 16), zeros(48)
        wrong = {
            "expected qkv (B, 8, 8, 3C) for 2 heads; got (1, 6, 8, 48)": (zeros(1, 6, 8, 48), bias, None, None, spec),
            "expected qkv (B, 8, 8, 3C) for 2 heads; got (1, 8, 8, 51)": (zeros(1, 8, 8, 51), bias, None, None, spec),
            "expected qkv (B, 8, 8, 3C) for 2 heads; got (1, 8, 8, 0)": (zeros(1, 8, 8, 0), bias, None, None, spec),
            "expected a bias of shape (2, 16, 16); got (2, 9, 9)": (qkv, zeros(2, 9, 9), qkv_bias, None, spec),
            "expected a qkv bias of shape (48,); got (24,)": (qkv, bias, zeros(24), None, spec),
            "expected a logit scale of 2 numbers": (qkv, bias, qkv_bias, None, cosine),
        }
        for reason, args in wrong.items():
            assert reason in explain("window_attention_fwd", *args)
        told = explain("window_attention_bwd", zeros(1, 4, 4, 16), qkv, bias, qkv_bias, None, spec)
        assert "expected a gradient of shape (1, 8, 8, 16); got (1, 4, 4, 16)" in told
        assert "runs cuda" in explain("window_attention_bwd", zeros(1, 8, 8, 16), qkv, bias, qkv_bias, None, spec)
