"""Swin V1 against torchvision's, in float64, where transformers is no oracle: maps smaller than the window are padded
up to it (``small_map="pad"``), and only the axis that has one window is not shifted."""

from __future__ import annotations

import numpy as np
import pytest
from support import tolerances
from support.swin.models import build, images
from support.swin.parity import assert_gradients_agree, assert_no_idle_gradient, import_or_skip, loss_and_gradients
from support.swin.tv import TV_BASE, load_tv, tv_cases, tv_gradients, tv_twin

pytestmark = pytest.mark.parity


torch, torchvision_swin = import_or_skip(load_tv)

CASES = tv_cases(TV_BASE)


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
    if name != "all_small":  # its maps of one token have little to attend to
        assert_no_idle_gradient(theirs)
    assert_gradients_agree(ours, theirs, tolerances.PARITY)


@pytest.mark.parametrize("name", ["padded", "shrinking"])
def test_features(name: str) -> None:
    config, size = CASES[name]
    model = build(config)
    x = images(size)
    h, stages = torch.tensor(x), []
    with torch.no_grad():
        for i, layer in enumerate(tv_twin(model).features):
            h = layer(h)
            if i % 2:
                stages.append(h.numpy())
    for got, want in zip(model.features(x, norm=False, layout="NHWC"), stages, strict=True):
        assert got.shape == want.shape
        assert float(np.abs(got.numpy() - want).max() / np.abs(want).max()) <= tolerances.PARITY
