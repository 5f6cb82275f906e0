"""Swin V2 against torchvision's, in float64: padded, non-square, odd and small maps.

Coordinates are computed in float32 there, so that their buffers are replaced by ours; transformers' test compares them.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from support import tolerances
from support.swin_models import build, images
from support.swin_parity import assert_gradients_agree, import_or_skip, loss_and_gradients, put_exact_coordinates
from support.swin_tv_names import TV_BASE, load_tv, to_tv, tv_cases, tv_name

if TYPE_CHECKING:
    from swinpy import SwinTransformer

pytestmark = pytest.mark.parity


torch, torchvision_swin = import_or_skip(load_tv)

BASE = TV_BASE.with_changes(architecture="v2", key_bias="zeroed")
CASES = tv_cases(BASE)


def _twin(model: SwinTransformer) -> Any:
    config = model.config
    twin = torchvision_swin.SwinTransformer(
        patch_size=[config.patch_size] * 2,
        embed_dim=config.embed_dim,
        depths=list(config.depths),
        num_heads=list(config.num_heads),
        window_size=list(config.window(0)),
        mlp_ratio=config.mlp_ratio,
        stochastic_depth_prob=0.0,
        num_classes=config.num_classes,
        block=partial(
            torchvision_swin.SwinTransformerBlockV2,
            attn_layer=partial(torchvision_swin.ShiftedWindowAttentionV2, qkv_bias=config.qkv_bias),
        ),
        downsample_layer=torchvision_swin.PatchMergingV2,
    ).double()
    state = {k: torch.tensor(np.array(v)) for k, v in to_tv(model.state_dict()).items()}
    missing, unexpected = twin.load_state_dict(state, strict=False)
    assert not unexpected
    assert all("relative" in name for name in missing), missing
    for module in twin.modules():
        if isinstance(module, torchvision_swin.ShiftedWindowAttentionV2):
            put_exact_coordinates(module, config.window(0), config.window(0))
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
    grads = {n: p.grad.numpy() for n, p in twin.named_parameters()}
    theirs = {n: grads[tv_name(n)] for n in model.state_dict()} | {"input": pixels.grad.numpy()}
    want = expected.detach().numpy()
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
