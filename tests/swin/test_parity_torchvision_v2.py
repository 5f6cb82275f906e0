"""Swin V2 against torchvision's, in float64: padded, non-square, odd and small maps.

Coordinates are computed in float32 there, so that their buffers are replaced by ours; transformers' test compares them.
"""

from __future__ import annotations

import numpy as np
import pytest
from support import tolerances
from support.swin.models import build, images
from support.swin.parity import assert_gradients_agree, import_or_skip, loss_and_gradients
from support.swin.tv import TV_BASE, load_tv, tv_cases, tv_gradients

pytestmark = pytest.mark.parity


torch, torchvision_swin = import_or_skip(load_tv)

BASE = TV_BASE.with_changes(architecture="v2", key_bias="zeroed")
CASES = tv_cases(BASE)


@pytest.mark.parametrize("name", CASES)
def test_logits_and_every_gradient(name: str) -> None:
    config, size = CASES[name]
    model = build(config)
    x = images(size, 2)
    weights = np.random.default_rng(1).standard_normal((len(x), config.num_classes))
    logits, ours = loss_and_gradients(model, x, lambda z: (z * weights).sum())
    want, theirs = tv_gradients(model, x, weights)
    error = float(np.abs(logits - want).max() / np.abs(want).max())
    assert error <= tolerances.PARITY, f"logits off by {error:.2e}"
    assert_gradients_agree(ours, theirs, tolerances.PARITY)
    for bias in (g for n, g in ours.items() if n.endswith("qkv.bias")):
        assert not np.split(bias, 3)[1].any()  # the key bias is not used


def test_key_bias_matters_only_when_it_is_used() -> None:
    """v2_cr and other ports use all of the bias."""
    x = images((68, 92))
    full, zeroed = (build(BASE.with_changes(key_bias=k)) for k in ("full", "zeroed"))
    assert float(np.abs(full(x).numpy() - zeroed(x).numpy()).max()) > 1e-3


def test_their_window_of_one_token_is_nan() -> None:
    """Coordinates 0 / 0; here the one offset is 0."""
    attention = torchvision_swin.ShiftedWindowAttentionV2(8, [1, 1], [0, 0], 2)
    assert torch.isnan(attention.relative_coords_table).all()
    model = build(BASE.with_changes(window_size=1))
    assert np.isfinite(model(images(12)).numpy()).all()
