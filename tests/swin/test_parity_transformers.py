"""Swin V1 against transformers, in float64: logits, features, and the gradient of every parameter.

The attention there is "sdpa": "eager" casts its softmax to float32 and so is no oracle in float64. Configurations stay
where the two are the same model: maps larger than the window in every stage (transformers clamps the window for good
when it first meets a smaller map), or exactly one window.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from support import tolerances
from support.swin.hf_names import from_hf, to_hf
from support.swin.models import build, images
from support.swin.parity import assert_gradients_agree, assert_no_idle_gradient, import_or_skip, loss_and_gradients
from support.swin.twins import hf_twin, load_hf

import autograd as ag
from swinpy import SwinConfig
from swinpy.models.presets import preset_options

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.parity


torch, _, _ = import_or_skip(load_hf)

BASE = SwinConfig(
    img_size=(44, 36),
    patch_size=2,
    num_classes=7,
    embed_dim=12,
    depths=(2, 2),
    num_heads=(2, 3),
    window_size=3,
    drop_path_rate=0.0,
)
CONFIGS = {
    "swin_t_224": SwinConfig(drop_path_rate=0.0),
    "padded": BASE,  # maps 22x18, 11x9: rows padded in both stages, columns in none
    "odd_merging": BASE.with_changes(img_size=(34, 46)),  # 17x23: odd before merging, 9x12 after
    "whole_windows": BASE.with_changes(img_size=48, window_size=4),  # 24x24, 12x12: nothing padded
    "one_window_last": BASE.with_changes(img_size=32, patch_size=4, window_size=4),  # 8x8, then one window: no shift
    "one_window_down": BASE.with_changes(  # 4x12 with windows of 4: no shift, across neither
        img_size=(8, 24), window_size=4, depths=(2,), num_heads=(2,), **preset_options("hf", "v1")
    ),
    "three_stages": BASE.with_changes(
        img_size=(34, 26), depths=(1, 3, 2), num_heads=(1, 4, 6), window_size=2, mlp_ratio=2.0
    ),
    "no_qkv_bias": BASE.with_changes(qkv_bias=False, img_size=(34, 40)),
    "absolute": BASE.with_changes(position="both", img_size=(44, 34)),
    "odd_pixels": BASE.with_changes(patch_size=3, img_size=(43, 59), window_size=5),  # not whole patches; 15x20, 8x10
    "one_head_dim_odd": BASE.with_changes(embed_dim=10, num_heads=(2, 4), window_size=4, img_size=(36, 42)),
}


def _their_gradients(twin: Any, x: Any, loss: Callable[[Any], Any]) -> tuple[Any, dict[str, Any]]:
    pixels = torch.tensor(x, requires_grad=True)
    logits = twin(pixels).logits
    loss(logits).backward()
    grads = {name: p.grad.numpy() for name, p in twin.named_parameters()}
    return logits.detach().numpy(), {**from_hf(grads), "input": pixels.grad.numpy()}


def _agree(got: Any, want: Any, tolerance: float) -> None:
    error = float(np.abs(got - want).max() / np.abs(want).max())
    assert error <= tolerance, f"off by {error:.2e}, allowed {tolerance:.0e}"


def _batch(config: SwinConfig) -> int:
    return 1 if config.image[0] > 100 else 2


@pytest.mark.parametrize("name", CONFIGS)
def test_logits_and_every_gradient(name: str) -> None:
    config = CONFIGS[name]
    model = build(config)
    x = images(config.image, _batch(config))
    weights = np.random.default_rng(1).standard_normal((len(x), config.num_classes))
    logits, ours = loss_and_gradients(model, x, lambda z: (z * weights).sum())
    expected, theirs = _their_gradients(hf_twin(model, torch.float64), x, lambda z: (z * torch.tensor(weights)).sum())
    _agree(logits, expected, tolerances.PARITY)
    assert_no_idle_gradient(theirs)
    assert_gradients_agree(ours, theirs, tolerances.PARITY)


@pytest.mark.parametrize("name", ["padded", "odd_merging", "three_stages"])
@pytest.mark.parametrize("attention", ["fused", "composite"])
def test_cross_entropy_gradients(name: str, attention: str) -> None:
    config = CONFIGS[name].with_changes(attention=attention)
    model = build(config, seed=3)
    x, labels = images(config.image, 3, seed=4), np.array([1, 6, 2])
    _, ours = loss_and_gradients(model, x, lambda z: ag.cross_entropy(z, labels, label_smoothing=0.1))
    _, theirs = _their_gradients(
        hf_twin(model, torch.float64),
        x,
        lambda z: torch.nn.functional.cross_entropy(z, torch.tensor(labels), label_smoothing=0.1),
    )
    assert_no_idle_gradient(theirs)
    assert_gradients_agree(ours, theirs, tolerances.PARITY)


@pytest.mark.parametrize("name", ["padded", "odd_merging", "three_stages", "absolute"])
def test_features_of_every_stage(name: str) -> None:
    model = build(CONFIGS[name])
    x = images(model.config.image)
    twin = hf_twin(model, torch.float64)
    with torch.no_grad():
        out = twin.swin(torch.tensor(x), output_hidden_states=True, output_hidden_states_before_downsampling=True)
    expected = [h.numpy() for h in out.reshaped_hidden_states[1:]]
    found = [f.numpy() for f in model.features(x, norm=False)]
    assert [f.shape for f in found] == [e.shape for e in expected]
    for got, want in zip(found, expected, strict=True):
        _agree(got, want, tolerances.PARITY)
    last = model.features(x, out_indices=[-1], layout="NHWC")[0].numpy()
    _agree(last.reshape(len(x), -1, last.shape[-1]), out.last_hidden_state.numpy(), tolerances.PARITY)


@pytest.mark.parametrize("name", ["padded", "three_stages"])
def test_float32(name: str) -> None:
    config = CONFIGS[name]
    model = build(config, "float32")
    x = images(config.image, dtype=np.float32)
    weights = np.random.default_rng(1).standard_normal((len(x), config.num_classes)).astype(np.float32)
    logits, ours = loss_and_gradients(model, x, lambda z: (z * weights).sum())
    expected, theirs = _their_gradients(hf_twin(model, torch.float32), x, lambda z: (z * torch.tensor(weights)).sum())
    _agree(logits, expected, tolerances.PARITY32)
    assert_gradients_agree(ours, theirs, tolerances.PARITY32)


def test_other_image_size_than_built() -> None:
    """The same weights on a larger, non-square image."""
    model = build(CONFIGS["padded"])
    x = images((50, 62))
    with torch.no_grad():
        expected = hf_twin(model, torch.float64)(torch.tensor(x)).logits.numpy()
    _agree(model(x).numpy(), expected, tolerances.PARITY)


def test_absolute_position_at_another_size() -> None:
    """Bicubic, from a square built-in size as theirs must be."""
    model = build(CONFIGS["absolute"].with_changes(img_size=40))
    x = images((46, 52))
    with torch.no_grad():
        expected = hf_twin(model, torch.float64)(torch.tensor(x), interpolate_pos_encoding=True).logits.numpy()
    _agree(model(x).numpy(), expected, tolerances.PARITY)


def test_name_map_is_a_bijection() -> None:
    model = build(CONFIGS["absolute"])
    state = model.state_dict()
    back = from_hf(to_hf(state))
    assert set(back) == set(state)
    for name, array in state.items():
        np.testing.assert_array_equal(back[name], array)
