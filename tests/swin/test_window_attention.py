"""Fused window attention against the composite and the literal reference, and what must hold of attention in windows.

The row in ``support.ops_swin`` puts the op through the generic checks of tests/ops as well.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import checks, fake_cupy, strategies, swin_references, tolerances
from support.layouts import relayout
from support.opinfo import Sample, Source
from support.ops_swin import Case, make
from support.swin_strategies import at_least, samples
from support.table import find

import autograd as ag
from autograd.kernels import KERNELS
from swinpy.geometry import Geometry, relative_position_index, shift_regions, window_tokens
from swinpy.ops import AttentionSpec, window_attention, window_attention_composite

INFO = find("window_attention")
LN_100 = math.log(100.0)


def _run(sample: Sample, fn: Any = INFO.fn) -> Any:
    return checks.outputs(fn, sample)[0]


def _gradients(sample: Sample, g: Any, fn: Any = INFO.fn) -> list[Any]:
    return checks.gradients(fn, sample, [g])


def _g(sample: Sample, seed: int = 0) -> Any:
    qkv = sample.args[0]
    return np.random.default_rng(seed).standard_normal((*qkv.shape[:3], qkv.shape[3] // 3)).astype(qkv.dtype)


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
    np.testing.assert_array_equal(_run(odd), _run(plain))
    g = relayout(_g(sample), g_layout)
    for got, want in zip(_gradients(odd, g), _gradients(plain, g.copy(order="C")), strict=True):
        checks.identical(got, want, f"{layout} {g_layout}")


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
    found = [_run(sample, fn), *_gradients(sample, g, fn)]
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
        g = _g(low, seed)
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


# ---- regions


def _by_region(case: Case, sample: Sample) -> Any:
    """Attention run separately for the tokens of each region of each window: no mask anywhere."""
    qkv, bias, qkv_bias, logit_scale = sample.args
    spec = case.spec
    cut, channels = spec.cut, case.heads * case.head_dim
    out = np.zeros((case.batch, *case.size, channels))
    flat = out.reshape(case.batch, -1, channels)
    pixels = qkv.reshape(case.batch, -1, 3 * channels)
    for tokens, regions in zip(window_tokens(cut), shift_regions(cut), strict=True):
        for region in np.unique(regions):
            inside = np.flatnonzero(regions == region)
            real = tokens[inside] >= 0
            rows = np.where(real[:, None], pixels[:, tokens[inside]], 0)
            rows = rows if qkv_bias is None else rows + qkv_bias
            parts = rows.reshape(case.batch, len(inside), 3, case.heads, case.head_dim)
            for b, head in np.ndindex(case.batch, case.heads):
                q, k, v = parts[b, :, :, head].swapaxes(0, 1)
                added = None if bias is None else bias[head][np.ix_(inside, inside)]
                tau = None if logit_scale is None else logit_scale.reshape(-1)[head]
                result = swin_references.attend(q, k, v, added, spec, tau)[real]
                flat[b, tokens[inside[real]], head * case.head_dim : (head + 1) * case.head_dim] = result
    return out


@given(samples(mask_value=-np.inf))
@at_least(40)
def test_masked_is_attention_region_by_region(drawn: tuple[Case, Sample]) -> None:
    case, sample = drawn
    checks.close(_run(sample), _by_region(case, sample), tolerances.COMPOSITE, "per region")


def _moderate(case: Case, sample: Sample) -> Sample:
    """Scores within +-10: |scale q k| <= 9 and |bias| <= 1."""
    qkv, bias, qkv_bias, _ = sample.args
    bound = math.sqrt(9 / (case.head_dim * case.spec.scale)) / 2
    squash = [None if a is None else np.tanh(a) for a in (qkv, bias, qkv_bias)]
    return replace(sample, args=(squash[0] * bound, squash[1], None if qkv_bias is None else squash[2] * bound, None))


@given(samples(mask_value=-100.0, cosine=False))
def test_minus_100_is_exact_for_moderate_scores(drawn: tuple[Case, Sample]) -> None:
    """What leaks is exp(-100 + 20) of the largest term, far below rounding: the same bits as -inf."""
    case, sample = drawn
    sample = _moderate(case, sample)
    forbidden = replace(sample, kwargs={"spec": replace(case.spec, mask_value=-np.inf)})
    np.testing.assert_array_equal(_run(sample), _run(forbidden))


def test_minus_100_leaks_less_than_1e_30() -> None:
    """Measured by what a token of another region does when its value is 1e40 and every other value is 0."""
    spec = AttentionSpec(Geometry((4, 4), (4, 4), (0, 0)), 1, 1.0)
    spec = replace(spec, cut=Geometry((8, 8), (4, 4), (2, 2)))
    rng = np.random.default_rng(0)
    qkv = np.concatenate([rng.uniform(-3, 3, (1, 8, 8, 2)), np.zeros((1, 8, 8, 1))], axis=3)
    qkv[0, 0, 0, 2] = 1.0
    out = window_attention(ag.Tensor(qkv), None, None, spec=spec).numpy()
    outside = _outside(spec.cut, 0, 0)
    assert out[0][~outside].max() > 1e-10
    assert 0 < out[0][outside].max() < tolerances.LEAK


def _outside(cut: Geometry, row: int, column: int) -> Any:
    """Which pixels are in another region of windows than the given one."""
    tokens, regions = window_tokens(cut), shift_regions(cut)
    (window,), (place,) = np.nonzero(tokens == row * cut.size[1] + column)
    inside = tokens[window][regions[window] == regions[window, place]]
    outside = np.ones(cut.size[0] * cut.size[1], bool)
    outside[inside[inside >= 0]] = False
    return outside.reshape(cut.size)


@given(samples(mask_value=-np.inf), st.data(), st.sampled_from([INFO.fn, window_attention_composite]))
@at_least(40)
def test_nothing_leaks_out_of_a_region(drawn: tuple[Case, Sample], data: st.DataObject, fn: Any) -> None:
    """Perturbing one token moves no bit of outputs outside its region, nor of their gradients."""
    case, sample = drawn
    row, column = (data.draw(st.integers(0, n - 1)) for n in case.size)
    outside = _outside(case.spec.cut, row, column)
    changed = sample.args[0].copy()
    changed[:, row, column] += 1.5
    other = replace(sample, args=(changed, *sample.args[1:]))
    np.testing.assert_array_equal(_run(sample, fn)[:, outside], _run(other, fn)[:, outside])
    g = _g(sample)
    before, after = _gradients(sample, g, fn)[0], _gradients(other, g, fn)[0]
    np.testing.assert_array_equal(before[:, outside], after[:, outside])
    g[:, row, column] += 1
    moved = _gradients(sample, g, fn)[0]
    np.testing.assert_array_equal(before[:, outside], moved[:, outside])


def _leak(mask_value: float, logit_scale: float) -> float:
    """Largest output outside a token's region that comes from its value, in cosine attention.

    Every query and every key of the token's region point opposite ways (score -100), the token's key points along the
    queries (score +100): the mask of -100 leaves 0 for it, as much as for a region's own 100 - 200.
    """
    spec = AttentionSpec(Geometry((4, 4), (2, 2), (1, 1)), 1, 1.0, mask_value, cosine=True)
    qkv = np.zeros((1, 4, 4, 3))
    qkv[..., 0], qkv[..., 1] = 1.0, -1.0
    qkv[0, 0, 0, 1:] = 1.0  # its key along the queries, and the only value that is not 0
    out = window_attention(ag.Tensor(qkv), None, None, ag.Tensor(np.full((1, 1, 1), logit_scale)), spec=spec).numpy()
    return float(out[0][_outside(spec.cut, 0, 0)].max())


def test_minus_100_leaks_with_cosine_at_its_largest_scale() -> None:
    """V2's published mask: scores reach +-100, and what is forbidden gets all the attention."""
    assert _leak(-100.0, LN_100) > 0.9
    assert _leak(-100.0, math.log(10)) < 1e-30
    assert _leak(-np.inf, LN_100) == 0.0


# ---- invariances


def test_bias_depends_on_the_offset_alone() -> None:
    """Pairs of tokens at the same offset share a row of the table; the sum over an offset gives the row's gradient."""
    window, heads = (3, 4), 2
    rng = np.random.default_rng(0)
    index = relative_position_index(window, window)
    table = ag.Tensor(rng.standard_normal((5 * 7, heads)), requires_grad=True)
    bias = ag.table_gather(table, index).transpose(2, 0, 1)
    y, x = np.indices(window).reshape(2, -1)
    dy, dx = y[:, None] - y[None], x[:, None] - x[None]
    spec = AttentionSpec(Geometry((3, 4), window, (0, 0)), heads, 0.7)
    free = ag.Tensor(bias.numpy().copy(), requires_grad=True)
    qkv, g = ag.Tensor(rng.standard_normal((2, 3, 4, 12))), rng.standard_normal((2, 3, 4, 4))
    window_attention(qkv, bias, None, spec=spec).backward(g)
    window_attention(qkv, free, None, spec=spec).backward(g)
    assert table.grad is not None
    assert free.grad is not None
    for a in range(-2, 3):
        for b in range(-3, 4):
            same = (dy == a) & (dx == b)
            assert (np.ptp(bias.numpy()[:, same], axis=1) == 0).all()
            row = (a + 2) * 7 + b + 3
            np.testing.assert_allclose(table.grad[row], free.grad[:, same].sum(axis=1), rtol=0, atol=1e-14)


@given(samples(cosine=True, qkv_bias=False), st.sampled_from([INFO.fn, window_attention_composite]), strategies.seeds)
def test_cosine_does_not_see_the_length_of_q_or_k(drawn: tuple[Case, Sample], fn: Any, seed: int) -> None:
    case, sample = drawn
    rng = np.random.default_rng(seed)
    shape = (*sample.args[0].shape[:3], 3, case.heads, case.head_dim)
    lengths = np.exp(rng.uniform(-3, 3, (*shape[:-1], 1)))
    lengths[..., 2, :, :] = 1
    stretched = (sample.args[0].reshape(shape) * lengths).reshape(sample.args[0].shape)
    other = replace(sample, args=(stretched, *sample.args[1:]))
    checks.close(_run(other, fn), _run(sample, fn), tolerances.COMPOSITE, "stretched")


@given(samples(cosine=True, qkv_bias=False))
def test_cosine_gradient_is_across_q_and_k(drawn: tuple[Case, Sample]) -> None:
    """As the length has no effect, the gradients of q and k have no part along them."""
    case, sample = drawn
    g = _gradients(sample, _g(sample))[0]
    shape = (*g.shape[:3], 3, case.heads, case.head_dim)
    along = (g * sample.args[0]).reshape(shape)[..., :2, :, :].sum(axis=-1)
    size = float(np.abs(g * sample.args[0]).max())
    assert float(np.abs(along).max(initial=0)) <= tolerances.COMPOSITE * max(size, 1e-3)


@pytest.mark.parametrize("fn", [INFO.fn, window_attention_composite])
def test_logit_scale_is_clamped_at_ln_100(fn: Any) -> None:
    """Above, it changes nothing and gets no gradient; at the bound the gradient passes, as with torch's clamp."""
    sample = make(Case(cosine=True, heads=3, head_dim=2), Source(0))
    scales = [np.array([LN_100, x, 2.0]).reshape(3, 1, 1) for x in (LN_100 + 1e-9, 7.0)]
    near, far = (replace(sample, args=(*sample.args[:3], s)) for s in scales)
    np.testing.assert_allclose(_run(near, fn), _run(far, fn), rtol=0, atol=1e-12)
    g = _gradients(near, _g(sample), fn)[3].reshape(-1)
    assert g[1] == 0
    assert (np.abs(g[[0, 2]]) > 1e-6).all()


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16])
def test_cosine_of_rows_of_zeros(dtype: Any) -> None:
    """A token added by padding has q = k = 0 where V2 has no k bias: finite, and no gradient lost."""
    case = Case(size=(5, 4), window=(3, 3), shift=(1, 1), cosine=True, qkv_bias=False)
    sample = make(case, Source(1)).cast(dtype)
    out, grads = _run(sample), _gradients(sample, _g(sample))
    assert np.isfinite(out).all()
    assert all(g is None or np.isfinite(g).all() for g in grads)
    if dtype is np.float64:
        checks.composite(INFO, sample)


# ---- padding


@given(samples(largest=7, qkv_bias=True), st.sampled_from([INFO.fn, window_attention_composite]))
def test_a_padded_token_is_the_qkv_bias(drawn: tuple[Case, Sample], fn: Any) -> None:
    """Padding written out: rows equal to the qkv bias joined to the map, and a map of whole windows without bias.

    The qkv bias then receives what its copies receive: everywhere, padding included.
    """
    case, sample = drawn
    cut = case.spec.cut
    (h, w), (padded_h, padded_w) = cut.size, cut.padded
    qkv, bias, qkv_bias, logit_scale = (None if a is None else ag.Tensor(a, True) for a in sample.args)
    assert qkv is not None
    assert qkv_bias is not None
    row = qkv_bias.reshape(1, 1, 1, -1)
    below = ag.broadcast_to(row, (case.batch, padded_h - h, w, row.shape[3]))
    right = ag.broadcast_to(row, (case.batch, padded_h, padded_w - w, row.shape[3]))
    whole = ag.concatenate([ag.concatenate([qkv + row, below], axis=1), right], axis=2)
    spec = replace(case.spec, cut=Geometry((padded_h, padded_w), cut.window, cut.shift))
    expected = fn(whole, bias, None, logit_scale, spec=spec)[:, :h, :w]
    checks.close(_run(sample, fn), expected.numpy(), tolerances.COMPOSITE, "padded")
    g = _g(sample)
    tensors = [t for t in (qkv, bias, qkv_bias, logit_scale) if t is not None]
    wanted = ag.grad([expected], tensors, [g])
    found = [x for x in _gradients(sample, g, fn) if x is not None]
    scale = max(float(np.abs(x).max()) for x in wanted if x is not None)
    for got, want in zip(found, wanted, strict=True):
        assert want is not None
        checks.close(got, want, tolerances.COMPOSITE, "gradient", largest=scale)


def test_padding_reaches_the_qkv_bias() -> None:
    """Without the padded tokens' share the gradient would be the sum over the map of qkv's own."""
    sample = make(Case(size=(5, 4), window=(3, 3)), Source(0))
    gqkv, _, gbias, _ = _gradients(sample, _g(sample))
    assert np.abs(gbias - gqkv.sum(axis=(0, 1, 2))).max() > 1e-3 * np.abs(gbias).max()


# ---- kernels, dropout, devices


def test_validate_mode_compares_with_the_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    """A faster implementation that is wrong is named, whether forward or backward."""
    from autograd.kernels.registry import Implementation, KernelMismatchError

    sample = make(Case(), Source(0))
    with ag.kernel_mode("reference"):
        expected, grads = _run(sample), _gradients(sample, _g(sample))
    for name in ("window_attention_fwd", "window_attention_bwd"):
        right = KERNELS[name].reference

        def wrong(*args: Any, right: Any = right) -> Any:
            result = right(*args)
            return result * 1.001 if isinstance(result, np.ndarray) else (result[0] * 1.001, *result[1:])

        for run, fails in ((right, False), (wrong, True)):
            with monkeypatch.context() as patch, ag.kernel_mode("validate"):
                patch.setitem(KERNELS, name, replace(KERNELS[name], cpu=Implementation(run, lambda *a: None)))
                if fails:
                    with pytest.raises(KernelMismatchError, match=name):
                        _gradients(sample, _g(sample))
                    continue
                np.testing.assert_array_equal(_run(sample), expected)
                for got, want in zip(_gradients(sample, _g(sample)), grads, strict=True):
                    checks.identical(got, want, name)


def test_kernel_costs() -> None:
    """Products: 2 forward and 5 backward of 2 N N C operations a window."""
    sample = make(Case(size=(5, 6), window=(2, 3), batch=3, heads=2, head_dim=4), Source(0))
    spec = sample.kwargs["spec"]
    forward = KERNELS["window_attention_fwd"].cost(*sample.args, spec)
    backward = KERNELS["window_attention_bwd"].cost(_g(sample), *sample.args, spec)
    one = 2 * 3 * (3 * 2) * 6**2 * 8
    assert (forward.flops, backward.flops) == (2 * one, 5 * one)
    pixels = 3 * 5 * 6 * 8 * 8
    assert (forward.bytes, backward.bytes) == (4 * pixels, 7 * pixels)


def test_composite_drops_probabilities() -> None:
    """Kept ones are scaled by 1 / (1 - p), so that the mean over draws is the output without."""
    sample = make(Case(size=(2, 3), batch=1), Source(0))
    plain = _run(sample, window_attention_composite)
    draws = [_run(replace(sample, kwargs={**sample.kwargs, "dropout": 0.5}), window_attention_composite) for _ in range(400)]
    assert not np.array_equal(draws[0], draws[1])
    spread = np.std(draws, axis=0).max() / math.sqrt(len(draws))
    assert np.abs(np.mean(draws, axis=0) - plain).max() < 6 * spread


@pytest.mark.parametrize("fn", [INFO.fn, window_attention_composite])
@pytest.mark.parametrize("cosine", [False, True])
def test_on_the_gpu(fn: Any, cosine: bool) -> None:
    case = Case(size=(5, 4), window=(3, 3), shift=(1, 1), cosine=cosine)
    sample = make(case, Source(0))
    g = _g(sample)
    out, expected = _run(sample, fn), _gradients(sample, g, fn)
    with fake_cupy.installed() as cupy, ag.kernel_mode("reference"):
        leaves = [None if a is None else ag.Tensor(cupy.asarray(a), True) for a in sample.args]
        got = fn(*leaves, **sample.kwargs)
        assert got.device == "cuda:0"
        np.testing.assert_array_equal(got.numpy(), out)
        got.backward(cupy.asarray(g))
        for leaf, want in zip(leaves, expected, strict=True):
            if leaf is not None:
                assert leaf.grad is not None
                checks.close(leaf.grad.get(), want, tolerances.COMPOSITE, "gradient")


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
