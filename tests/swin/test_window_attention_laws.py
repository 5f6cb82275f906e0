"""What must hold of attention in windows: regions, the mask and what leaks through it, offsets, cosine attention."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import checks, runner, strategies, tolerances
from support.rows.opinfo import Sample, Source
from support.rows.swin import Case, make
from support.swin import references as swin_references
from support.swin.strategies import INFO, at_least, cotangent, gradients, output, samples

import autograd as ag
from swinpy.geometry import Geometry, relative_position_index, shift_regions, window_tokens
from swinpy.ops import AttentionSpec, window_attention, window_attention_composite

LN_100 = math.log(100.0)


# ---- regions


def _by_region(case: Case, sample: Sample) -> Any:
    """Attention run separately for the tokens of each region of each window: no mask anywhere."""
    qkv, bias, qkv_bias, logit_scale = sample.args
    spec = case.spec
    cut, channels = spec.geometry, case.heads * case.head_dim
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
    runner.close(output(sample), _by_region(case, sample), tolerances.COMPOSITE, "per region")


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
    np.testing.assert_array_equal(output(sample), output(forbidden))


def test_minus_100_leaks_less_than_1e_30() -> None:
    """Measured by what a token of another region does when its value is 1e40 and every other value is 0."""
    spec = AttentionSpec(Geometry((4, 4), (4, 4), (0, 0)), 1, 1.0)
    spec = replace(spec, geometry=Geometry((8, 8), (4, 4), (2, 2)))
    rng = np.random.default_rng(0)
    qkv = np.concatenate([rng.uniform(-3, 3, (1, 8, 8, 2)), np.zeros((1, 8, 8, 1))], axis=3)
    qkv[0, 0, 0, 2] = 1.0
    out = window_attention(ag.Tensor(qkv), None, None, spec=spec).numpy()
    outside = _outside(spec.geometry, 0, 0)
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
    outside = _outside(case.spec.geometry, row, column)
    changed = sample.args[0].copy()
    changed[:, row, column] += 1.5
    other = replace(sample, args=(changed, *sample.args[1:]))
    np.testing.assert_array_equal(output(sample, fn)[:, outside], output(other, fn)[:, outside])
    g = cotangent(sample)
    before, after = gradients(sample, g, fn)[0], gradients(other, g, fn)[0]
    np.testing.assert_array_equal(before[:, outside], after[:, outside])
    g[:, row, column] += 1
    moved = gradients(sample, g, fn)[0]
    np.testing.assert_array_equal(before[:, outside], moved[:, outside])


def _leak(mask_value: float, logit_scale: float) -> float:
    """Largest output outside a token's region that comes from its value, in cosine attention.

    Queries and keys point opposite ways everywhere (scores of -100), only that token's key points along the queries:
    its score of +100 is 0 after a mask of -100, still 100 above what a query sees in its own region.
    """
    spec = AttentionSpec(Geometry((4, 4), (2, 2), (1, 1)), 1, 1.0, mask_value, cosine=True)
    qkv = np.zeros((1, 4, 4, 3))
    qkv[..., 0], qkv[..., 1] = 1.0, -1.0
    qkv[0, 0, 0, 1:] = 1.0  # its key along the queries, and the only value that is not 0
    out = window_attention(ag.Tensor(qkv), None, None, ag.Tensor(np.full((1, 1, 1), logit_scale)), spec=spec).numpy()
    return float(out[0][_outside(spec.geometry, 0, 0)].max())


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
    runner.close(output(other, fn), output(sample, fn), tolerances.COMPOSITE, "stretched")


@given(samples(cosine=True, qkv_bias=False))
def test_cosine_gradient_is_across_q_and_k(drawn: tuple[Case, Sample]) -> None:
    """As the length has no effect, the gradients of q and k have no part along them."""
    case, sample = drawn
    g = gradients(sample, cotangent(sample))[0]
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
    np.testing.assert_allclose(output(near, fn), output(far, fn), rtol=0, atol=1e-12)
    g = gradients(near, cotangent(sample), fn)[3].reshape(-1)
    assert g[1] == 0
    assert (np.abs(g[[0, 2]]) > 1e-6).all()


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16])
def test_cosine_of_rows_of_zeros(dtype: Any) -> None:
    """A token added by padding has q = k = 0 where V2 has no k bias: finite, and no gradient lost."""
    case = Case(size=(5, 4), window=(3, 3), shift=(1, 1), cosine=True, qkv_bias=False)
    sample = make(case, Source(1)).cast(dtype)
    out, grads = output(sample), gradients(sample, cotangent(sample))
    assert np.isfinite(out).all()
    assert all(g is None or np.isfinite(g).all() for g in grads)
    if dtype is np.float64:
        checks.composite(INFO, sample)
