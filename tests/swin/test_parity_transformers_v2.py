"""Swin V2 against transformers' Swinv2, in float64: logits, features, and the gradient of every parameter.

Two things there are not float64 or not the published model, and are met half-way (docs/differences.md): coordinates
are computed in float32, so that their buffers are replaced by ours after a comparison; and the mask is added twice,
which is ``mask_value=-200`` here.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from support import tolerances
from support.swin.hf_names_v2 import from_hf
from support.swin.models import build, images
from support.swin.parity import (
    assert_gradients_agree,
    assert_no_idle_gradient,
    import_or_skip,
    loss_and_gradients,
)
from support.swin.twins import hf_v2_twin, load_hf

from swinpy import SwinConfig, SwinTransformer
from swinpy.models import model_config
from swinpy.models.presets import preset_options

pytestmark = pytest.mark.parity


torch, _, swinv2 = import_or_skip(load_hf)

TWICE: dict[str, Any] = {"mask_value": -200.0, "drop_path_rate": 0.0}
PRESET = {**preset_options("hf", "v2"), "drop_path_rate": 0.0}
BASE = SwinConfig(
    architecture="v2",
    img_size=(44, 36),
    patch_size=2,
    num_classes=7,
    embed_dim=12,
    depths=(2, 2),
    num_heads=(2, 3),
    window_size=3,
    **TWICE,
)
CONFIGS = {
    "swinv2_t_w8_256": model_config("swinv2_tiny_window8_256").with_changes(**TWICE),
    "swinv2_t_w16_256": model_config("swinv2_tiny_window16_256").with_changes(**TWICE),
    "padded": BASE,  # maps 22x18, 11x9: rows padded in both stages, columns in none
    "odd_merging": BASE.with_changes(img_size=(34, 46)),  # 17x23: odd before merging, 9x12 after
    "whole_windows": BASE.with_changes(img_size=48, window_size=4),
    "one_window_last": BASE.with_changes(img_size=32, patch_size=4, window_size=4),  # 8x8, then one window: no shift
    "clamped_last": BASE.with_changes(img_size=24, window_size=8),  # 12x12, then 6x6: the window shrinks to it
    "pretrained": BASE.with_changes(img_size=48, window_size=6, pretrained_window_sizes=(4, 3)),
    "pretrained_larger": BASE.with_changes(img_size=(40, 44), window_size=3, pretrained_window_sizes=(8, 6)),
    "three_stages": BASE.with_changes(
        img_size=(34, 26), depths=(1, 3, 2), num_heads=(1, 4, 6), window_size=2, mlp_ratio=2.0
    ),
    "no_qkv_bias": BASE.with_changes(qkv_bias=False, img_size=(34, 40)),
    # by the preset: the height alone decides, here on windows of 8 and a shift of 4 for maps 16x4, 8x2
    "narrow": BASE.with_changes(img_size=(32, 8), window_size=8, **PRESET),
    "flat": BASE.with_changes(img_size=(8, 32), window_size=8, **PRESET),  # on windows of 4 for 4x16, of 2 for 2x8
    "one_head_dim_odd": BASE.with_changes(embed_dim=10, num_heads=(2, 4), window_size=4, img_size=(36, 42)),
}


def _agree(got: Any, want: Any) -> None:
    error = float(np.abs(got - want).max() / np.abs(want).max())
    assert error <= tolerances.PARITY, f"off by {error:.2e}"


@pytest.mark.parametrize("name", CONFIGS)
def test_logits_and_every_gradient(name: str) -> None:
    config = CONFIGS[name]
    model = build(config)
    x = images(config.image, 1 if config.image[0] > 100 else 2)
    weights = np.random.default_rng(1).standard_normal((len(x), config.num_classes))
    logits, ours = loss_and_gradients(model, x, lambda z: (z * weights).sum())
    twin, pixels = hf_v2_twin(model), torch.tensor(x, requires_grad=True)
    expected = twin(pixels).logits
    (expected * torch.tensor(weights)).sum().backward()
    theirs = from_hf({n: p.grad.numpy() for n, p in twin.named_parameters()}, model.state_dict())
    theirs["input"] = pixels.grad.numpy()
    _agree(logits, expected.detach().numpy())
    assert_no_idle_gradient({n: g for n, g in theirs.items() if not clamped(n, model)})
    assert_gradients_agree(ours, theirs, tolerances.PARITY)


def clamped(name: str, model: SwinTransformer) -> bool:
    """A logit scale all of whose heads are above ln 100 has no gradient."""
    return name.endswith("logit_scale") and bool((model.state_dict()[name] > np.log(100)).all())


@pytest.mark.parametrize("name", ["padded", "odd_merging", "three_stages"])
def test_features_of_every_stage(name: str) -> None:
    model = build(CONFIGS[name])
    x = images(model.config.image)
    twin, stages = hf_v2_twin(model), []
    for layer in twin.swinv2.encoder.layers:
        layer.register_forward_hook(lambda module, args, out: stages.append(out[1]))  # before downsampling
    with torch.no_grad():
        twin(torch.tensor(x))
    for got, want in zip(model.features(x, norm=False, layout="NHWC"), stages, strict=True):
        _agree(got.numpy().reshape(want.shape), want.numpy())


def test_their_absolute_position_does_not_run() -> None:
    """One row too many, as if there were a class token."""
    config = swinv2.Swinv2Config(image_size=32, depths=[1], num_heads=[2], embed_dim=8, use_absolute_embeddings=True)
    with pytest.raises(RuntimeError, match="must match the size"):
        swinv2.Swinv2ForImageClassification(config)(torch.zeros(1, 3, 32, 32))


@pytest.mark.parametrize("size", [(12, 20), (4, 44), (60, 6)])
def test_another_size_than_built(size: tuple[int, int]) -> None:
    """Windows and shifts stay as built, smaller maps are padded."""
    model = build(BASE.with_changes(img_size=48, window_size=8, **PRESET))
    x = images(size)
    with torch.no_grad():
        _agree(model(x).numpy(), hf_v2_twin(model)(torch.tensor(x)).logits.numpy())


def test_their_mask_is_added_twice() -> None:
    """With scores of up to 100 a mask of -100 lets tokens of other regions through, one of -200 does not."""
    model = build(CONFIGS["padded"].with_changes(mask_value=-100.0))
    x = images(model.config.image)
    with torch.no_grad():
        theirs = hf_v2_twin(model)(torch.tensor(x)).logits.numpy()
    _agree(build(CONFIGS["padded"])(x).numpy(), theirs)
    assert float(np.abs(model(x).numpy() - theirs).max()) > 1e-6 * float(np.abs(theirs).max())
