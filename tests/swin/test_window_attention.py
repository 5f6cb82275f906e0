"""Fused window attention against the composite and the literal reference, its padding, kernels and devices.

The row in ``support.rows.swin`` puts the op through the generic checks of tests/ops as well.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import checks, runner, strategies, tolerances
from support.gpu import fake_cupy
from support.layouts import relayout
from support.rows.opinfo import Sample, Source
from support.rows.swin import Case, make
from support.swin.strategies import INFO, at_least, cotangent, gradients, output, samples

import autograd as ag
from autograd.kernels import KERNELS
from swinpy.geometry import Geometry
from swinpy.ops import window_attention, window_attention_composite

# ---- fused = composite = the definition


@given(samples())
@at_least(60)
def test_fused_is_composite(drawn: tuple[Case, Sample]) -> None:
    """Outputs and every gradient."""
    checks.composite(INFO, drawn[1])


@given(samples())
@at_least(30)
def test_fused_is_the_definition(drawn: tuple[Case, Sample]) -> None:
    checks.forward(INFO, drawn[1])


@pytest.mark.slow
@given(samples(largest=16))
@at_least(400)
def test_fused_is_composite_and_definition_widely(drawn: tuple[Case, Sample]) -> None:
    checks.composite(INFO, drawn[1])
    checks.forward(INFO, drawn[1])


@given(samples(), strategies.layouts, strategies.layouts)
def test_any_layout(drawn: tuple[Case, Sample], layout: str, g_layout: str) -> None:
    """Of qkv and of the output's gradient."""
    _, sample = drawn
    qkv = relayout(sample.args[0], layout)
    odd = replace(sample, args=(qkv, *sample.args[1:]))
    plain = replace(sample, args=(qkv.copy(order="C"), *sample.args[1:]))
    np.testing.assert_array_equal(output(odd), output(plain))
    g = relayout(cotangent(sample), g_layout)
    for got, want in zip(gradients(odd, g), gradients(plain, g.copy(order="C")), strict=True):
        runner.identical(got, want, f"{layout} {g_layout}")


# Large enough that the naive computation's largest error is no accident.
_LARGE = Case(size=(11, 14), window=(4, 5), shift=(2, 2), heads=3, head_dim=8, batch=4)
LOW = {
    "padded": _LARGE,
    "forbidden": replace(_LARGE, mask_value=-np.inf, head_dim=7),
    "whole": replace(_LARGE, size=(12, 10), shift=(0, 0), head_dim=32, batch=2),
    "bare": replace(_LARGE, bias=False, qkv_bias=False),
    "cosine": replace(_LARGE, cosine=True),
    "cosine_whole": replace(_LARGE, cosine=True, size=(8, 10), qkv_bias=False, mask_value=-np.inf),
}


def _results(sample: Sample, g: Any, fn: Any) -> list[Any]:
    """The output and every gradient, in float64."""
    found = [output(sample, fn), *gradients(sample, g, fn)]
    return [x.astype(np.float64) for x in found if x is not None]


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("name", LOW)
def test_low_precision(dtype: Any, name: str) -> None:
    """By the low-precision rule, forward and every gradient, with the composite as the naive computation.

    Over several calls together: a single gradient of logit_scale is three numbers, whose errors are a matter of luck.
    """
    errors, largest = [], 0.0
    for seed in range(6):
        low = make(LOW[name], Source(seed)).cast(dtype)
        g = cotangent(low, seed)
        exact = _results(low.cast(np.float64), g.astype(np.float64), window_attention_composite)
        pair = [_results(low, g, fn) for fn in (INFO.fn, window_attention_composite)]
        errors.append([[np.abs(x - y).max() for x, y in zip(one, exact, strict=True)] for one in pair])
        largest = np.maximum(largest, [np.abs(x).max() for x in exact])
    fused, naive = np.max(errors, axis=0)
    ulps = [tolerances.spacing(x, dtype) for x in largest]
    assert (fused <= tolerances.LOW_FACTOR * naive + ulps).all(), (fused, naive, ulps)


@given(samples(largest=6))
def test_gradients_do_not_depend_on_who_asks(drawn: tuple[Case, Sample]) -> None:
    checks.needs(INFO, drawn[1])


# ---- padding


@given(samples(largest=7, qkv_bias=True), st.sampled_from([INFO.fn, window_attention_composite]))
def test_a_padded_token_is_the_qkv_bias(drawn: tuple[Case, Sample], fn: Any) -> None:
    """Padding written out: rows equal to the qkv bias joined to the map, and a map of whole windows without bias.

    The qkv bias then receives what its copies receive: everywhere, padding included.
    """
    case, sample = drawn
    cut = case.spec.geometry
    (h, w), (padded_h, padded_w) = cut.size, cut.padded
    qkv, bias, qkv_bias, logit_scale = (None if a is None else ag.Tensor(a, True) for a in sample.args)
    assert qkv is not None
    assert qkv_bias is not None
    row = qkv_bias.reshape(1, 1, 1, -1)
    below = ag.broadcast_to(row, (case.batch, padded_h - h, w, row.shape[3]))
    right = ag.broadcast_to(row, (case.batch, padded_h, padded_w - w, row.shape[3]))
    whole = ag.concatenate([ag.concatenate([qkv + row, below], axis=1), right], axis=2)
    spec = replace(case.spec, geometry=Geometry((padded_h, padded_w), cut.window, cut.shift))
    expected = fn(whole, bias, None, logit_scale, spec=spec)[:, :h, :w]
    runner.close(output(sample, fn), expected.numpy(), tolerances.COMPOSITE, "padded")
    g = cotangent(sample)
    tensors = [t for t in (qkv, bias, qkv_bias, logit_scale) if t is not None]
    wanted = ag.grad([expected], tensors, [g])
    found = [x for x in gradients(sample, g, fn) if x is not None]
    scale = max(float(np.abs(x).max()) for x in wanted if x is not None)
    for got, want in zip(found, wanted, strict=True):
        assert want is not None
        runner.close(got, want, tolerances.COMPOSITE, "gradient", scale=scale)


def test_padding_reaches_the_qkv_bias() -> None:
    """Without the padded tokens' share the gradient would be the sum over the map of qkv's own."""
    sample = make(Case(size=(5, 4), window=(3, 3)), Source(0))
    gqkv, _, gbias, _ = gradients(sample, cotangent(sample))
    assert np.abs(gbias - gqkv.sum(axis=(0, 1, 2))).max() > 1e-3 * np.abs(gbias).max()


# ---- kernels, dropout, devices


def test_validate_mode_compares_with_the_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    """A faster implementation that is wrong is named, whether forward or backward."""
    from autograd.kernels import Implementation, KernelMismatchError

    sample = make(Case(), Source(0))
    with ag.kernel_mode("reference"):
        expected, grads = output(sample), gradients(sample, cotangent(sample))
    for name in ("window_attention_fwd", "window_attention_bwd"):
        right = KERNELS[name].reference

        def wrong(*args: Any, right: Any = right) -> Any:
            result = right(*args)
            return result * 1.001 if isinstance(result, np.ndarray) else (result[0] * 1.001, *result[1:])

        for run, fails in ((right, False), (wrong, True)):
            with monkeypatch.context() as patch, ag.kernel_mode("validate"):
                for other in ("window_attention_fwd", "window_attention_bwd"):
                    patch.setattr(KERNELS[other], "cpu", None)
                patch.setattr(KERNELS[name], "cpu", Implementation(run, lambda *a: None))
                if fails:
                    with pytest.raises(KernelMismatchError, match=name):
                        gradients(sample, cotangent(sample))
                    continue
                np.testing.assert_array_equal(output(sample), expected)
                for got, want in zip(gradients(sample, cotangent(sample)), grads, strict=True):
                    runner.identical(got, want, name)


def test_kernel_costs() -> None:
    """Products: 2 forward and 5 backward of 2 N N C operations a window."""
    sample = make(Case(size=(5, 6), window=(2, 3), batch=3, heads=2, head_dim=4), Source(0))
    spec = sample.kwargs["spec"]
    forward = KERNELS["window_attention_fwd"].cost(*sample.args, spec)
    backward = KERNELS["window_attention_bwd"].cost(cotangent(sample), *sample.args, spec)
    one = 2 * 3 * (3 * 2) * 6**2 * 8
    assert (forward.flops, backward.flops) == (2 * one, 5 * one)
    pixels = 3 * 5 * 6 * 8 * 8
    assert (forward.bytes, backward.bytes) == (4 * pixels, 7 * pixels)


def test_composite_drops_probabilities() -> None:
    """Kept ones are scaled by 1 / (1 - p), so that the mean over draws is the output without."""
    sample = make(Case(size=(2, 3), batch=1), Source(0))
    plain = output(sample, window_attention_composite)
    draws = [
        output(replace(sample, kwargs={**sample.kwargs, "dropout": 0.5}), window_attention_composite)
        for _ in range(400)
    ]
    assert not np.array_equal(draws[0], draws[1])
    spread = np.std(draws, axis=0).max() / math.sqrt(len(draws))
    assert np.abs(np.mean(draws, axis=0) - plain).max() < 6 * spread


@pytest.mark.parametrize("fn", [INFO.fn, window_attention_composite])
@pytest.mark.parametrize("cosine", [False, True])
def test_on_the_gpu(fn: Any, cosine: bool) -> None:
    case = Case(size=(5, 4), window=(3, 3), shift=(1, 1), cosine=cosine)
    sample = make(case, Source(0))
    g = cotangent(sample)
    with ag.kernel_mode("reference"):
        out, expected = output(sample, fn), gradients(sample, g, fn)
    with fake_cupy.installed() as cupy, ag.kernel_mode("reference"):
        leaves = [None if a is None else ag.Tensor(cupy.asarray(a), True) for a in sample.args]
        got = fn(*leaves, **sample.kwargs)
        assert got.device == "cuda:0"
        np.testing.assert_array_equal(got.numpy(), out)
        got.backward(cupy.asarray(g))
        for leaf, want in zip(leaves, expected, strict=True):
            if leaf is not None:
                assert leaf.grad is not None
                runner.close(leaf.grad.get(), want, tolerances.COMPOSITE, "gradient")


def test_devices_do_not_mix() -> None:
    sample = make(Case(), Source(0))
    with fake_cupy.installed() as cupy:
        qkv, bias = ag.Tensor(cupy.asarray(sample.args[0])), ag.Tensor(sample.args[1])
        with pytest.raises(ValueError, match=r"window_attention: expected operands on one device; got cpu and cuda:0"):
            window_attention(qkv, bias, None, **sample.kwargs)


def test_errors_of_the_composite_name_it() -> None:
    sample = make(Case(), Source(0))
    with pytest.raises(ValueError, match="window_attention_composite: expected qkv"):
        window_attention_composite(ag.Tensor(np.zeros((1, 3, 3, 18))), None, None, **sample.kwargs)
