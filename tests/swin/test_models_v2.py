"""Swin V2 and Swin-MLP: names, options, both attention paths, any size, low precision, checkpointing, features."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from support import tolerances
from support.gpu import fake_cupy
from support.swin import checks as swin_checks
from support.swin.models import TINY, build, images, shapes_only, tiny
from support.swin.parity import assert_gradients_agree, loss_and_gradients, worst

import autograd as ag
from swinpy import create_model
from swinpy.models.parts import Stream

V2: dict[str, Any] = {"architecture": "v2"}
MLP: dict[str, Any] = {"architecture": "mlp"}
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "no_shift": {"shift": False},
    "no_qkv_bias": {"qkv_bias": False},
    "zeroed_key_bias": {"key_bias": "zeroed"},
    "full_bias": {"key_bias": "full"},
    "both_positions": {"position": "both"},
    "no_position": {"position": "none"},
    "pretrained": {"pretrained_window_sizes": (5, 2)},
    "paper": {"coordinates": "paper"},
    "forbidden": {"mask_value": -np.inf},
    "extra_norms": {"extra_norm_every": 2},
    "pad": {"small_map": "pad", "window_size": 7},
    "clamp": {"window_size": 7},
    "clamp_axis": {"small_map": "clamp_axis", "window_size": 7, "img_size": (8, 20)},
    "height": {"small_map": "clamp_height", "shift_rule": "height", "windows": "fixed", "img_size": (20, 8)},
    "one_token": {"window_size": 1},
    "stage_windows": {"window_size": (4, 3)},
    "roll_first": {"pad_order": "roll_pad"},
}


def _loss(z: ag.Tensor) -> ag.Tensor:
    weights = np.random.default_rng(9).standard_normal(z.shape).astype(z.dtype)
    return (z * weights).sum()


def _off(a: Any, b: Any) -> float:
    return float(np.abs(a - b).max())


# ---- names


def test_the_official_keys() -> None:
    with shapes_only():
        model = create_model("swinv2_tiny_window8_256")
    shapes = {name: p.shape for name, p in model.named_parameters()}
    assert len(shapes) == 221  # 250 keys of the official file, less 29 buffers
    attention = {n.removeprefix("layers.2.blocks.3.attn."): s for n, s in shapes.items() if "2.blocks.3.attn" in n}
    assert attention == {
        "logit_scale": (12, 1, 1),
        "q_bias": (384,),
        "v_bias": (384,),
        "cpb_mlp.0.weight": (512, 2),
        "cpb_mlp.0.bias": (512,),
        "cpb_mlp.2.weight": (12, 512),
        "qkv.weight": (1152, 384),
        "proj.weight": (384, 384),
        "proj.bias": (384,),
    }
    assert shapes["layers.1.downsample.norm.weight"] == (384,)


def test_the_official_keys_of_swin_mlp() -> None:
    with shapes_only():
        shapes = {n: p.shape for n, p in create_model("swin_mlp_tiny_c24_patch4_window8_256").named_parameters()}
    assert shapes["layers.1.blocks.0.spatial_mlp.weight"] == (8 * 64, 64, 1)
    assert shapes["layers.1.blocks.0.spatial_mlp.bias"] == (8 * 64,)
    assert not any("attn" in name for name in shapes)


def test_extra_norms_follow_every_sixth_block_of_a_stage() -> None:
    with shapes_only():
        names = {n for n, _ in create_model("swinv2_giant").named_parameters() if "norm3.weight" in n}
    assert names == {f"layers.2.blocks.{i}.norm3.weight" for i in range(5, 42, 6)}


def test_official_buffers_are_ignored() -> None:
    source, target = tiny(**V2), tiny(seed=1, **V2)
    state = source.state_dict() | {
        "layers.0.blocks.0.attn.relative_coords_table": np.zeros((1, 5, 5, 2)),
        "layers.0.blocks.0.attn.relative_position_index": np.zeros((9, 9), np.int64),
        "layers.0.blocks.1.attn_mask": np.zeros((16, 9, 9)),
    }
    target.load_state_dict(state)
    for name, array in source.state_dict().items():
        np.testing.assert_array_equal(target.state_dict()[name], array)


def test_no_weight_decay() -> None:
    model = tiny(**V2, position="both")
    decayed = {n for n, _ in model.named_parameters()} - model.no_weight_decay()
    kinds = {".".join(n.split(".")[4:]) for n in decayed if ".blocks." in n}
    assert kinds == {"attn.qkv.weight", "attn.proj.weight", "mlp.fc1.weight", "mlp.fc2.weight"}


def test_initialisation() -> None:
    model = create_model("swinv2_tiny_window8_256", embed_dim=32, depths=(2,), num_heads=(4,))
    block = model.layers[0].blocks[1]
    state = {n: p.numpy() for n, p in block.named_parameters()}
    assert (state["attn.logit_scale"] == np.float32(math.log(10))).all()
    for name in ("norm1.weight", "norm1.bias", "norm2.weight", "norm2.bias", "attn.q_bias", "attn.v_bias"):
        assert not state[name].any(), name
    assert abs(state["attn.cpb_mlp.0.weight"].std() / 0.02 - 1) < 0.2
    assert not state["attn.cpb_mlp.0.bias"].any()
    x = np.random.default_rng(0).standard_normal((1, 8, 8, 32)).astype(np.float32)
    np.testing.assert_array_equal(block(Stream(ag.Tensor(x))).value().numpy(), x)  # the identity, to begin with
    one = create_model("swinv2_tiny_window8_256", depths=(2,), num_heads=(4,), embed_dim=32, res_post_norm_init=1.0)
    assert (one.layers[0].blocks[1].norm2.weight.numpy() == 1).all()


# ---- both paths, every option


@pytest.mark.parametrize("size", [20, (13, 22)])
@pytest.mark.parametrize("name", OPTIONS)
def test_fused_and_composite_models_agree(name: str, size: Any) -> None:
    x = images(size)
    options = {**V2, **OPTIONS[name]}
    (logits, fused), (expected, composite) = (
        loss_and_gradients(tiny(attention=a, **options), x, _loss) for a in ("fused", "composite")
    )
    assert _off(logits, expected) <= tolerances.COMPOSITE_COSINE * np.abs(expected).max()
    # Some of these models are so sensitive that rounding the pixels alone moves a gradient by more than the tolerance;
    # of such roundings there are some hundred on the way, with either sign.
    ulp = 1 + tolerances.EPS * np.where(np.random.default_rng(0).random(x.shape) < 0.5, -1, 1)
    _, moved = loss_and_gradients(tiny(attention="composite", **options), x * ulp, _loss)
    spread, _ = worst(moved, composite)
    assert spread < 1e-9, "a model that is fit to compare with"
    assert_gradients_agree(fused, composite, tolerances.COMPOSITE_COSINE + 16 * spread)


@pytest.mark.parametrize(
    "name", ["no_shift", "no_position", "both_positions", "pretrained", "paper", "one_token", "roll_first"]
)
def test_every_option_matters(name: str) -> None:
    """The same parameters where both have them, another result."""
    changed, plain, x = tiny(**V2, **OPTIONS[name]), tiny(**V2), images((21, 18))
    plain.load_state_dict(changed.state_dict(), strict=False)
    assert _off(plain(x).numpy(), changed(x).numpy()) > 1e-3


def test_extra_norm_is_on_the_stream() -> None:
    model, x = tiny(**V2, extra_norm_every=2, depths=(2,), num_heads=(2,)), images(20)
    raw = model.features(x, norm=False, layout="NHWC")[0].numpy()
    norm = model.layers[0].blocks[1].norm3
    standard = (raw - norm.bias.numpy()) / norm.weight.numpy()
    np.testing.assert_allclose(standard.mean(axis=-1), 0, atol=1e-12)
    np.testing.assert_allclose(standard.var(axis=-1), 1, atol=1e-4)


def test_a_block_is_norms_after_branches() -> None:
    """x + norm(attention(x)), then the same with the MLP, written out."""
    block = tiny(**V2).layers[0].blocks[1]
    x = np.random.default_rng(0).standard_normal((2, 7, 5, 8))
    y = x + block.norm1(block.attn(ag.Tensor(x))).numpy()
    y = y + block.norm2(block.mlp(ag.Tensor(y))).numpy()
    np.testing.assert_allclose(block(Stream(ag.Tensor(x))).value().numpy(), y, rtol=0, atol=1e-13)


# ---- any size


@pytest.mark.parametrize("options", [V2, {**V2, "small_map": "pad"}, {**V2, "windows": "fixed"}, MLP], ids=str)
def test_any_input_size_runs(options: dict[str, Any]) -> None:
    model = tiny("float32", **options, window_size=4, depths=(2, 1), num_heads=(1, 2))
    with ag.no_grad():
        for size in [(n, n) for n in range(1, 41, 3)] + [(1, 50), (50, 1), (41, 6)]:
            x = images(size, 1, np.float32)
            assert np.isfinite(model(x).numpy()).all(), size
            h, w = (-(-n // 2) for n in size)
            assert [f.shape for f in model.features(x)] == [(1, 8, h, w), (1, 16, -(-h // 2), -(-w // 2))]


def test_nothing_is_cached_from_size_to_size() -> None:
    for options in (V2, MLP):
        config = TINY.with_changes(**options, img_size=64, patch_size=4, window_size=7)
        fresh = {size: build(config)(images(size, 1)).numpy() for size in (24, 64)}
        model = build(config)
        for size in (24, 64, 24, 64):
            np.testing.assert_array_equal(model(images(size, 1)).numpy(), fresh[size])


@pytest.mark.parametrize("options", [V2, MLP], ids=str)
def test_forward_changes_no_attribute(options: dict[str, Any]) -> None:
    model = tiny(**options).train()
    before = {name: dict(vars(m)) for name, m in model.named_modules()}
    for size in (20, 11, (7, 30)):
        model(images(size)).sum().backward()
        model.features(images(size))
    for name, m in model.named_modules():
        assert vars(m) == before[name], name


# ---- low precision


@pytest.mark.parametrize("attention", ["fused", "composite"])
@pytest.mark.parametrize("bias", [True, False])
def test_float16(attention: str, bias: bool) -> None:
    """Padded tokens have k = 0, without biases q = 0 too: no NaN, no infinity, no warning, in forward or backward."""
    options = {**V2, "attention": attention, "qkv_bias": bias}
    x = images((18, 23))
    exact = tiny(**options)
    exact.load_state_dict(tiny("float16", **options).state_dict())
    want = exact(x.astype(np.float16).astype(np.float64)).numpy()
    got, grads = loss_and_gradients(tiny("float16", **options), x.astype(np.float16), _loss)
    assert got.dtype == np.float16
    assert all(np.isfinite(g).all() for g in grads.values())
    assert _off(got, want) <= tolerances.FLOAT16_COSINE * np.abs(want).max()


def test_autocast_float16() -> None:
    model, x = tiny("float32", **V2), images((18, 23), dtype=np.float32)
    with ag.autocast("float16"):
        logits, grads = loss_and_gradients(model, x, lambda z: _loss(z.astype("float32")))
    assert np.isfinite(logits).all()
    assert all(g.dtype == np.float32 and np.isfinite(g).all() for g in grads.values())


@pytest.mark.parametrize("attention", ["fused", "composite"])
@pytest.mark.parametrize("key_bias", ["none", "full"])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_freshly_initialised_padded_model_trains(dtype: str, key_bias: str, attention: str) -> None:
    """Biases are 0, so that q, k and v of padding are: no gradient is 1e12 times too large."""
    config = TINY.with_changes(**V2, res_post_norm_init=1.0, key_bias=key_bias, attention=attention)
    model = build(config, dtype, seed=None).train()
    _, grads = loss_and_gradients(model, images((18, 23), dtype=np.dtype(dtype)), _loss)
    assert all(np.isfinite(g).all() and np.abs(g.astype(np.float64)).max() < 1e6 for g in grads.values())


# ---- training, features, devices


@pytest.mark.parametrize("mode", ["block", "stage"])
@pytest.mark.parametrize("options", [V2, {**V2, "extra_norm_every": 2}, MLP], ids=str)
def test_checkpointing_changes_no_bit(mode: str, options: dict[str, Any]) -> None:
    swin_checks.checkpointing(mode, **options)


def test_drop_path_on_the_attention_alone() -> None:
    """As transformers' V1: the MLP's branch is never dropped."""
    for branches, dropped in (("both", 2), ("attention", 1)):
        model, seen = tiny(drop_path_rate=0.5, drop_path_branches=branches).train(), []
        with ag.observe(lambda event, seen=seen: seen.append(event)):
            model.layers[1].blocks[1](Stream(ag.Tensor(np.ones((4, 5, 5, 16)))), False)
        assert sum(e.name == "residual_layer_norm" and e.static["keep"] is not None for e in seen) == 1
        stream = model.layers[1].blocks[1](Stream(ag.Tensor(np.ones((4, 5, 5, 16)))))
        assert 1 + (stream.keep is not None) == dropped


@pytest.mark.parametrize("options", [V2, MLP], ids=str)
def test_features(options: dict[str, Any]) -> None:
    model, x = tiny(**options, feature_norms=(0,)), images((18, 25))
    maps = model.features(x, layout="NHWC")
    assert [f.shape for f in maps] == [(2, 9, 13, 8), (2, 5, 7, 16)]
    np.testing.assert_allclose(model.forward_head(maps[-1], "NHWC").numpy(), model(x).numpy(), rtol=0, atol=1e-12)
    raw = model.features(x, out_indices=[0], norm=False, layout="NHWC")[0]
    np.testing.assert_allclose(model.norm0(raw).numpy(), maps[0].numpy(), rtol=0, atol=1e-12)


@pytest.mark.parametrize("options", [V2, {**V2, "attention": "composite"}, MLP], ids=str)
def test_on_the_gpu(options: dict[str, Any]) -> None:
    x, g = images((19, 14)), np.random.default_rng(0).standard_normal((2, 5))
    model = tiny(**options)
    logits = model(x)
    logits.backward(g)
    expected = {name: p.grad for name, p in model.named_parameters()}
    with fake_cupy.installed() as cupy, ag.kernel_mode("reference"):
        model.to("gpu")
        got = model(cupy.asarray(x))
        np.testing.assert_allclose(got.numpy(), logits.numpy(), rtol=0, atol=1e-12)
        got.backward(cupy.asarray(g))
        for name, p in model.named_parameters():
            want = expected[name]
            assert p.grad is not None
            assert want is not None
            assert _off(p.grad.get(), want) <= tolerances.COMPOSITE * max(1.0, float(np.abs(want).max())), name
