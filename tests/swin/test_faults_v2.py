"""Planted faults of V2, Swin-MLP and window transfer: each makes the check that it names fail, clean code passes."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
from support.faults import Fault, assert_caught, generic, plant_global, plant_kernel
from support.swin import checks as swin_checks
from support.swin.models import TINY, build, images, tiny

import autograd as ag
from swinpy import resize_model
from swinpy.kernels.window_attention import reference as kernels
from swinpy.models import resample
from swinpy.models.parts import PatchMerging, Stream
from swinpy.models.swin_mlp import SwinMlpBlock
from swinpy.models.swin_v2 import CosineAttention, PositionMlp, SwinBlockV2
from swinpy.ops import attention as composite

FORWARD, COMPOSITE = generic("forward", "window_attention"), generic("composite", "window_attention")
GOLDEN, GOLDEN_MLP = (partial(swin_checks.golden, name) for name in ("swinv2_window8", "swin_mlp"))


def _in_class(cls: type, name: str, value: Any) -> Any:
    return lambda patch: patch.setattr(cls, name, value)


def _zero_rows() -> None:
    """A padded model as it is initialised, with a key bias of 0: keys of padding are zeros with finite gradients."""
    config = TINY.with_changes(architecture="v2", res_post_norm_init=1.0, key_bias="full")
    model = build(config, "float16", seed=None)
    with np.errstate(over="ignore", invalid="ignore"):
        model(images((18, 23)).astype(np.float16)).sum().backward()
    for name, p in model.named_parameters():
        assert p.grad is not None
        assert np.isfinite(p.grad).all(), name


def _transfer() -> None:
    """V2's biases of an offset at another window; V1's tables by the spline, near offsets kept."""
    model = tiny(architecture="v2", img_size=32)
    small, large = (m.layers[0].blocks[0].attn for m in (model, resize_model(model, window_size=5)))
    before, after = small.position_bias((3, 3)).numpy(), large.position_bias((5, 5)).numpy()
    assert float(np.abs(after[:, 0, 1] - before[:, 0, 1]).max()) < 1e-12
    table = np.random.default_rng(0).standard_normal((169, 1))
    wide = resample.resize_bias_table(table, (7, 7), (12, 12), "geometric").reshape(23, 23)
    assert float(np.abs(wide[10:13, 10:13] - table.reshape(13, 13)[5:8, 5:8]).max()) < 1e-12


def _pre_norm(self: SwinBlockV2, stream: Stream, checkpoint: bool = False) -> Stream:
    keep, mlp_keep = self.draw_keeps(stream)
    stream = stream.add(self.attn(self.norm1(stream.value())), keep)
    return stream.add(self.norm2(self.mlp(stream.value())), mlp_keep)


def _norm_of_the_sum(self: SwinBlockV2, stream: Stream, checkpoint: bool = False) -> Stream:
    keep, mlp_keep = self.draw_keeps(stream)
    x = self.norm1(stream.add(self.attn(stream.value()), keep).value())
    return Stream(x).add(self.norm2(self.mlp(x)), mlp_keep)


def _bias_unbounded(self: PositionMlp, coordinates: Any) -> Any:
    layers = dict(self.children())
    return layers["2"](ag.relu(layers["0"](coordinates)))


def _with_key_bias(self: CosineAttention) -> Any:
    """q_bias where the keys have none."""
    if self.q_bias is None or self.v_bias is None:
        return self.qkv.bias
    return ag.concatenate([self.q_bias, self.q_bias, self.v_bias])


def _linear_coordinates(right: Any) -> Any:
    def coordinates(*args: Any) -> Any:
        log = right(*args)
        return np.sign(log) * (8 ** np.abs(log) - 1) / 8

    return coordinates


def _merge_norm_first(self: PatchMerging, x: Any) -> Any:
    cells = self.gather(x)
    channels = self.norm.weight.shape[0]
    halves = [self.norm(cells[..., i * channels : (i + 1) * channels]) for i in range(cells.shape[-1] // channels)]
    return self.reduction(ag.concatenate(halves, axis=-1))


def _without_clamp(right: Any) -> Any:
    return lambda logit_scale, acc, xp: xp.exp(logit_scale.astype(acc)).reshape(-1, 1, 1)


def _log2_clamp(right: Any) -> Any:
    return lambda logit_scale, acc, xp: xp.exp(xp.minimum(logit_scale.astype(acc), math.log2(100))).reshape(-1, 1, 1)


def _gradient_above_the_clamp(right: Any) -> Any:
    def bwd(gtau: Any, logit_scale: Any, acc: Any, xp: Any) -> Any:
        return (gtau * kernels._tau(logit_scale, acc, xp).reshape(-1)).reshape(logit_scale.shape)

    return bwd


def _as_constant(windows: Any, qkv: Any, go: Any, grads: Any, tau: Any) -> Any:
    """As _cosine_bwd, with |q| and |k| taken for constants."""
    q, k, v = qkv
    xp = windows.xp
    inverse_q, inverse_k = kernels._inverse_norm(q, xp)[0], kernels._inverse_norm(k, xp)[0]
    ds = kernels._scores_bwd(windows, q * inverse_q * tau, k * inverse_k, v, go, grads)
    gtau = (grads[0] * q * inverse_q).sum(axis=(0, 1, 3, 4))
    grads[0][...] *= tau * inverse_q
    grads[1][...] *= inverse_k
    return ds, gtau


def _keys_not_normalised(right: Any) -> Any:
    calls: list[int] = []

    def inverse_norm(x: Any, xp: Any) -> Any:
        calls.append(1)
        inverse, free = right(x, xp)
        return (inverse, free) if len(calls) % 2 else (inverse * 0 + 1, free)

    return inverse_norm


def _slope_over_eps(right: Any) -> Any:
    """Every row counts as longer than eps, so that a gradient is divided by it."""

    def inverse_norm(x: Any, xp: Any) -> Any:
        inverse, free = right(x, xp)
        return inverse, xp.ones_like(free)

    return inverse_norm


def _stretched(patch: Any) -> None:
    right = resample._progression
    patch.setattr(resample, "_progression", lambda source, target: right(source, target) * 1.1)
    patch.setattr(resample, "geometric_matrix", resample.geometric_matrix.__wrapped__)  # nothing from the cache


_padding = SwinMlpBlock.padding


def _shift_the_other_way(self: SwinMlpBlock, size: Any) -> Any:
    """By window // 2 at the top and left: of windows of odd size, or where the map is no whole number of them."""
    return [(d, b) if b else (b, d) for b, d in _padding(self, size)]


FAULTS = (
    Fault("norm before attention in V2", GOLDEN, _in_class(SwinBlockV2, "forward", _pre_norm)),
    Fault("norm of the sum instead of the branch", GOLDEN, _in_class(SwinBlockV2, "forward", _norm_of_the_sum)),
    Fault("16 sigmoid forgotten", GOLDEN, _in_class(PositionMlp, "forward", _bias_unbounded)),
    Fault("a key bias where there is none", GOLDEN, _in_class(CosineAttention, "qkv_bias", _with_key_bias)),
    Fault(
        "linear coordinates",
        GOLDEN,
        plant_global(CosineAttention.position_bias, "coordinates_like", _linear_coordinates),
    ),
    Fault(
        "coordinates scaled by the present window",
        _transfer,
        plant_global(
            CosineAttention.position_bias, "coordinates_like", lambda right: lambda w, p, f, like: right(w, w, f, like)
        ),
    ),
    Fault("merging norms before the projection", GOLDEN, _in_class(PatchMerging, "forward", _merge_norm_first)),
    Fault(
        "logit scale not clamped",
        FORWARD,
        lambda patch: patch.setattr(kernels, "_tau", _without_clamp(kernels._tau)),
    ),
    Fault(
        "logit scale clamped elsewhere",
        FORWARD,
        lambda patch: patch.setattr(kernels, "_tau", _log2_clamp(kernels._tau)),
    ),
    Fault(
        "logit scale: gradient above the clamp",
        COMPOSITE,
        lambda patch: patch.setattr(kernels, "_logit_scale_bwd", _gradient_above_the_clamp(None)),
    ),
    Fault(
        "cosine: the length taken for a constant",
        COMPOSITE,
        lambda patch: patch.setattr(kernels, "_cosine_bwd", _as_constant),
    ),
    Fault(
        "cosine: keys not normalised",
        FORWARD,
        lambda patch: patch.setattr(kernels, "_inverse_norm", _keys_not_normalised(kernels._inverse_norm)),
    ),
    Fault(
        "cosine dropped in backward",
        COMPOSITE,
        plant_kernel(
            "window_attention_bwd",
            lambda right: lambda *a: (*right(*a[:-1], replace(a[-1], cosine=False))[:3], right(*a)[3]),
        ),
    ),
    Fault(
        "zero rows: gradient over eps",
        _zero_rows,
        lambda patch: patch.setattr(kernels, "_inverse_norm", _slope_over_eps(kernels._inverse_norm)),
    ),
    Fault("the progression stretched", _transfer, _stretched),
    Fault("Swin-MLP: shift the other way", GOLDEN_MLP, _in_class(SwinMlpBlock, "padding", _shift_the_other_way)),
    Fault(
        "composite: cosine without the clamp",
        COMPOSITE,
        lambda patch: patch.setattr(composite, "MAX_LOGIT_SCALE", 100.0),
    ),
)


@pytest.mark.parametrize("fault", FAULTS, ids=[f.name for f in FAULTS])
def test_fault_is_caught(fault: Fault) -> None:
    assert_caught(fault)
