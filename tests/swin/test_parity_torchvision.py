"""Swin V1 against torchvision's, in float64, where transformers is no oracle: maps smaller than the window are padded
up to it (``small_map="pad"``), and only the axis that has one window is not shifted."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from support import tolerances
from support.swin_models import build, images
from support.swin_parity import assert_gradients_agree, assert_no_idle_gradient, import_or_skip, loss_and_gradients
from support.swin_tv_names import TV_BASE, load_tv, to_tv, tv_cases, tv_name

if TYPE_CHECKING:
    from swinpy import SwinTransformer

pytestmark = pytest.mark.parity


torch, torchvision_swin = import_or_skip(load_tv)

CASES = tv_cases(TV_BASE)


def _twin(model: SwinTransformer) -> Any:
    config = model.config
    window = [config.window_size] * 2
    twin = torchvision_swin.SwinTransformer(
        patch_size=[config.patch_size] * 2,
        embed_dim=config.embed_dim,
        depths=list(config.depths),
        num_heads=list(config.num_heads),
        window_size=window,
        mlp_ratio=config.mlp_ratio,
        stochastic_depth_prob=0.0,
        num_classes=config.num_classes,
        block=partial(
            torchvision_swin.SwinTransformerBlock,
            attn_layer=partial(torchvision_swin.ShiftedWindowAttention, qkv_bias=config.qkv_bias),
        ),
    )
    state = {k: torch.tensor(np.array(v)) for k, v in to_tv(model.state_dict()).items()}
    missing, unexpected = twin.double().load_state_dict(state, strict=False)
    assert not unexpected
    assert all(name.endswith("relative_position_index") for name in missing), missing
    return twin.eval()


@pytest.mark.parametrize("name", CASES)
def test_logits_and_every_gradient(name: str) -> None:
    config, size = CASES[name]
    model = build(config)
    x = images(size, 2)
    weights = np.random.default_rng(1).standard_normal((len(x), config.num_classes))
    logits, ours = loss_and_gradients(model, x, lambda z: (z * weights).sum())
    twin, pixels = _twin(model), torch.tensor(x, requires_grad=True)
    expected = twin(pixels)
    (expected * torch.tensor(weights)).sum().backward()
    names = {tv_name(n): n for n in model.state_dict()}
    theirs = {names[n]: p.grad.numpy() for n, p in twin.named_parameters()} | {"input": pixels.grad.numpy()}
    want = expected.detach().numpy()
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
        for i, layer in enumerate(_twin(model).features):
            h = layer(h)
            if i % 2:
                stages.append(h.numpy())
    for got, want in zip(model.features(x, norm=False, layout="NHWC"), stages, strict=True):
        assert got.shape == want.shape
        assert float(np.abs(got.numpy() - want).max() / np.abs(want).max()) <= tolerances.PARITY
