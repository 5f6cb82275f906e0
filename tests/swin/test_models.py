"""Names, configurations, parameter counts and key sets."""

from __future__ import annotations

import math
import re
import warnings
from typing import Any

import numpy as np
import pytest
from support.swin.models import TINY, shapes_only, tiny

import swinpy
from swinpy import SwinConfig, SwinTransformer, create_model, list_models
from swinpy.models import model_config
from swinpy.models.cost import parameters_of

COUNTS = {
    "swin_tiny_patch4_window7_224": 28_288_354,
    "swin_small_patch4_window7_224": 49_606_258,
    "swin_base_patch4_window7_224": 87_768_224,
    "swin_large_patch4_window7_224": 196_532_476,
    "swin_base_patch4_window12_384": 87_903_584,
    "swin_large_patch4_window12_384": 196_735_516,
    "swinv2_tiny_window8_256": 28_347_154,
    "swinv2_tiny_window16_256": 28_347_154,
    "swinv2_small_window8_256": 49_728_418,
    "swinv2_base_window8_256": 87_918_816,
    "swinv2_base_window12to24_192to384": 87_918_816,
}
# To the digits that papers and repositories print.
ROUGH = {
    "swinv2_large_window12_192": "196.7M",
    "swinv2_huge": "658.0M",
    "swinv2_giant": "3001.9M",
    "swin_s3_tiny_224": "28.3M",
    "swin_s3_small_224": "49.7M",
    "swin_s3_base_224": "71.1M",
    "swin_mlp_tiny_c24_patch4_window8_256": "20.4M",
    "swin_mlp_tiny_c12_patch4_window8_256": "21.2M",
    "swin_mlp_tiny_c6_patch4_window8_256": "22.7M",
    "swin_mlp_base_patch4_window7_224": "60.7M",
}


@pytest.mark.parametrize("name", COUNTS)
def test_parameter_counts_are_the_official_ones(name: str) -> None:
    with shapes_only():
        assert create_model(name).num_parameters() == parameters_of(model_config(name)) == COUNTS[name]


@pytest.mark.parametrize("name", ROUGH)
def test_parameter_counts_of_the_other_variants(name: str) -> None:
    with shapes_only():
        assert f"{create_model(name).num_parameters() / 1e6:.1f}M" == ROUGH[name]


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("swinv2_tiny_window8_256", 28_351_570),
        ("swinv2_small_window8_256", 49_737_442),
        ("swinv2_base_window8_256", 87_930_848),
    ],
)
def test_torchvision_keeps_the_key_bias(name: str, count: int) -> None:
    with shapes_only():
        assert create_model(name, key_bias="zeroed").num_parameters() == count


# ---- names


def _official_keys(depths: tuple[int, ...]) -> set[str]:
    """By the naming rules of the official code."""
    layers = ["patch_embed.proj", "patch_embed.norm", "norm", "head"]
    keys = set()
    for s, depth in enumerate(depths):
        for b in range(depth):
            root = f"layers.{s}.blocks.{b}"
            layers += [f"{root}.{part}" for part in ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2")]
            keys.add(f"{root}.attn.relative_position_bias_table")
        if s < len(depths) - 1:
            layers.append(f"layers.{s}.downsample.norm")
            keys.add(f"layers.{s}.downsample.reduction.weight")
    return keys | {f"{layer}.{kind}" for layer in layers for kind in ("weight", "bias")}


def _official_buffers(depths: tuple[int, ...], windows: tuple[int, ...]) -> dict[str, Any]:
    """The geometry that official files carry; a stage of one window has no mask."""
    buffers = {}
    for s, depth in enumerate(depths):
        for b in range(depth):
            buffers[f"layers.{s}.blocks.{b}.attn.relative_position_index"] = np.zeros((49, 49), np.int64)
            if b % 2 and windows[s] > 1:
                buffers[f"layers.{s}.blocks.{b}.attn_mask"] = np.zeros((windows[s], 49, 49), np.float32)
    return buffers


def test_swin_tiny_has_the_official_keys() -> None:
    keys = _official_keys((2, 2, 6, 2))
    with shapes_only():
        own = dict(create_model("swin_tiny_patch4_window7_224").named_parameters())
    assert set(own) == keys
    assert len(keys) == 173
    assert len(_official_buffers((2, 2, 6, 2), (64, 16, 4, 1))) == 190 - 173
    shapes = {name: own[name].shape for name in own}
    assert shapes["patch_embed.proj.weight"] == (96, 3, 4, 4)
    assert shapes["layers.2.blocks.5.attn.qkv.weight"] == (3 * 384, 384)
    assert shapes["layers.2.blocks.5.attn.relative_position_bias_table"] == (169, 12)
    assert shapes["layers.1.downsample.reduction.weight"] == (384, 768)
    assert shapes["layers.1.downsample.norm.bias"] == (768,)


def test_official_buffers_are_ignored() -> None:
    """A state dict with the index and mask buffers loads as one without."""
    source, target = tiny(), tiny(seed=1)
    state = {**source.state_dict(), **_official_buffers((2, 2), (16, 4))}
    target.load_state_dict(state)
    for name, array in source.state_dict().items():
        np.testing.assert_array_equal(target.state_dict()[name], array)


def test_list_models() -> None:
    assert list_models() == sorted(list_models())
    assert set(COUNTS) < set(list_models())
    assert list_models("swin_[tsbl]*_patch4_window7_224") == sorted(n for n in COUNTS if n.endswith("window7_224"))
    assert list_models("nothing*") == []


def test_cifar_models() -> None:
    with shapes_only():
        assert create_model("swin_cifar_nano").num_parameters() <= 300_000
    config = model_config("swin_cifar_tiny")
    assert config.depths == (2, 6, 4)
    assert config.num_heads == (3, 6, 12)
    assert (config.mlp_ratio, config.window_size, config.patch_size, config.image) == (2, 4, 2, (32, 32))
    assert [config.map_size(s) for s in range(3)] == [(16, 16), (8, 8), (4, 4)]
    assert config.drop_path_rate == 0.1


@pytest.mark.parametrize("name", list_models())
def test_every_named_model_is_built_without_a_warning(name: str) -> None:
    with shapes_only(), warnings.catch_warnings():
        warnings.simplefilter("error")
        assert create_model(name).config == model_config(name)


# ---- create_model


def test_create_model_options() -> None:
    model = create_model("swin_cifar_nano", num_classes=7, dtype="float64", depths=(1, 2), num_heads=(2, 4))
    assert (model.num_classes, model.dtype, model.device) == (7, np.float64, "cpu")
    assert model.training
    assert model.config.depths == (1, 2)
    assert create_model("swin_cifar_nano").num_classes == 10
    assert create_model("swin_cifar_nano", num_classes=0).head is None
    assert create_model("swin_cifar_nano", device="auto").device == "cpu"


def test_create_model_refuses_an_unknown_name_and_suggests() -> None:
    with pytest.raises(ValueError, match=r"got 'swin_tiny_patch4_window7'. Did you mean swin_tiny_patch4_window7_224"):
        create_model("swin_tiny_patch4_window7")
    with pytest.raises(ValueError, match=r"got 'resnet'. See swinpy.list_models\(\)"):
        create_model("resnet")


@pytest.mark.parametrize(
    ("option", "hint"),
    [
        ("dept", "Did you mean depths?"),
        ("windw_size", "Did you mean window_size or windows?"),
        ("pretrained", "Weights are loaded from a file: swinpy.load_weights(model, path)."),
        ("features_only", "Every model has features(x, out_indices)."),
        ("zzz", "See help(swinpy.SwinConfig)."),
    ],
)
def test_create_model_refuses_an_unknown_option_and_says_what_is_meant(option: str, hint: str) -> None:
    text = re.escape(f"SwinConfig: expected one of its options; got '{option}'. {hint}")
    with pytest.raises(ValueError, match=text):
        create_model("swin_cifar_nano", **{option: 1})


def test_names_with_weights_are_refused_with_the_way_to_load() -> None:
    with pytest.raises(ValueError, match="Weights have no names here: create 'swin_tiny_patch4_window7_224' and load"):
        create_model("swin_tiny_patch4_window7_224.ms_in1k")


def test_repr_is_the_tree() -> None:
    text = repr(create_model("swin_cifar_nano", depths=(1, 1, 1)))
    assert text.startswith(
        "SwinTransformer(\n  (patch_embed): PatchEmbed(\n    (proj): Conv2d(weight(16, 3, 2, 2), bias(16,))"
    )
    assert text.count("(blocks): ModuleList(") == 3


def test_forward_features_and_head() -> None:
    model, x = create_model("swin_cifar_nano").eval(), np.ones((2, 3, 32, 32), np.float32)
    features = model.forward_features(x)
    assert features.shape == (2, 4, 4, 64)
    np.testing.assert_array_equal(model.forward_head(features, layout="NHWC").numpy(), model(x).numpy())
    pooled = model.forward_head(features, layout="NHWC", pre_logits=True)
    np.testing.assert_array_equal(pooled.numpy(), features.mean(axis=(1, 2)).numpy())


@pytest.mark.parametrize(
    ("shape", "hint"),
    [((3, 32, 32), r"Add a batch axis: x\[None\]"), ((1, 32, 32, 3), r"x.transpose\(0, 3, 1, 2\)")],
)
def test_images_of_another_layout_get_the_fix(shape: tuple[int, ...], hint: str) -> None:
    with pytest.raises(ValueError, match=hint):
        create_model("swin_cifar_nano")(np.zeros(shape, np.float32))


def test_out_indices_are_a_sequence() -> None:
    with pytest.raises(TypeError, match=r"expected out_indices as a sequence; got 1. Pass \(1,\)"):
        create_model("swin_cifar_nano").features(np.zeros((1, 3, 32, 32), np.float32), out_indices=1)


def test_create_model_refuses_devices_and_dtypes() -> None:
    with pytest.raises(ValueError, match="device: expected cpu, gpu, cuda, cuda:N or auto; got 'tpu'"):
        create_model("swin_cifar_nano", device="tpu")
    with pytest.raises(TypeError, match="expected float64, float32 or float16 for a module; got int32"):
        create_model("swin_cifar_nano", dtype="int32")
    with pytest.raises(TypeError, match="expected float64, float32 or float16 for a module; got bfloat16"):
        create_model("swin_cifar_nano", dtype="bfloat16")


def test_initialisation() -> None:
    """trunc-normal .02 for linear layers and tables, 0 and 1 for norms and biases, uniform for the convolution."""
    model = create_model("swin_cifar_nano", embed_dim=48)
    for name, p in model.named_parameters():
        x = p.numpy()
        if name.startswith("patch_embed.proj"):
            bound = 1 / math.sqrt(3 * 2 * 2)
            assert np.abs(x).max() <= bound
            assert np.abs(x).max() > bound / 2
        elif "norm" in name:
            assert (x == (1 if name.endswith("weight") else 0)).all()
        elif name.endswith("bias"):
            assert (x == 0).all()
        else:
            assert abs(x.std() / 0.02 - 1) < 5 / math.sqrt(x.size)
            assert np.abs(x).max() < 2


def test_initialisation_follows_the_seed() -> None:
    import autograd as ag

    states = []
    for seed in (1, 1, 2):
        ag.manual_seed(seed)
        states.append(tiny("float32", seed=None).state_dict()["head.weight"])
    np.testing.assert_array_equal(states[0], states[1])
    assert not np.array_equal(states[0], states[2])


# ---- configuration


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"depths": ()}, "depths, num_heads: expected one positive number a stage in each; got"),
        ({"depths": (1,) * 33, "num_heads": (1,) * 33}, "depths: expected at most 32 stages, as channels double"),
        ({"depths": (2, 2, 2)}, "depths, num_heads: expected one positive number a stage"),
        ({"depths": (2, 0)}, "depths, num_heads: expected one positive number a stage"),
        ({"num_heads": (3, 4)}, "num_heads: expected a divisor of the 8 channels of stage 0; got 3. Change embed_dim"),
        ({"num_heads": (2, 0)}, "num_heads: expected a divisor of the 16 channels of stage 1; got 0"),
        ({"patch_size": 0}, "patch_size: expected 1 or more; got 0"),
        ({"in_chans": 0}, "in_chans: expected 1 or more; got 0"),
        ({"embed_dim": 0}, "embed_dim: expected 1 or more; got 0"),
        ({"window_size": 0}, "window_size: expected 1 or more; got 0"),
        ({"img_size": (0, 4)}, "expected img_size >= 1"),
        ({"img_size": (4, 4, 4)}, r"img_size: expected one number or \(H, W\); got \(4, 4, 4\)"),
        ({"num_classes": -1}, "num_classes >= 0"),
        ({"mlp_ratio": 0.0}, "mlp_ratio > 0"),
        ({"mlp_ratio": 0.1}, "mlp_ratio: expected at least one hidden channel; got 0.1 of 8"),
        ({"position": "sinus"}, "position: expected one of relative, absolute, both, none; got 'sinus'"),
        (
            {"small_map": "crop"},
            "small_map: expected one of clamp, clamp_axis, clamp_height, clamp_forward, pad; got 'crop'",
        ),
        ({"attention": "flash"}, "attention: expected one of fused, composite; got 'flash'"),
        ({"layer_norm_eps": float("nan")}, "layer_norm_eps: expected a finite number; got nan"),
        ({"layer_norm_eps": 0}, "layer_norm_eps: expected a small positive number; got 0"),
        ({"mlp_ratio": float("inf")}, "mlp_ratio: expected a finite number; got inf"),
        ({"checkpoint": "all"}, "checkpoint: expected one of none, block, stage; got 'all'"),
        ({"drop_rate": 1.0}, r"drop_rate: expected a rate in \[0, 1\); got 1.0"),
        ({"drop_path_rate": -0.1}, "drop_path_rate: expected a rate"),
        ({"attn_drop_rate": 0.1}, "attn_drop_rate: expected 0 with attention='fused'.*Use attention='composite'"),
        ({"mask_value": 0.0}, "mask_value: expected a negative number; got 0.0"),
        ({"mask_value": math.nan}, "mask_value: expected a finite number; got nan"),
        ({"feature_norms": (2,)}, r"feature_norms: expected stages 0 to 1; got \(2,\)"),
        ({"widow_size": 3}, "expected one of its options; got 'widow_size'. Did you mean window_size"),
    ],
)
def test_configurations_that_do_not_fit(changes: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        TINY.with_changes(**changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"img_size": 1, "patch_size": 1},
        {"in_chans": 1},
        {"embed_dim": 1, "num_heads": (1, 1)},
        {"window_size": 1},
        {"num_classes": 0},
        {"drop_rate": 0.0},
        {"depths": (1,) * 32, "num_heads": (1,) * 32},
    ],
)
def test_configurations_that_just_fit(changes: dict[str, Any]) -> None:
    config = TINY.with_changes(**changes)
    assert all(getattr(config, name) == value for name, value in changes.items())


@pytest.mark.parametrize(("every", "blocks"), [(0, []), (1, [0, 1, 2, 3]), (2, [1, 3]), (3, [2]), (4, [3]), (5, [])])
def test_every_so_manieth_block_has_a_norm_more(every: int, blocks: list[int]) -> None:
    config = TINY.with_changes(architecture="v2", depths=(4, 1), extra_norm_every=every)
    stage = SwinTransformer(config).layers[0]
    assert [i for i, block in enumerate(stage.blocks) if block.norm3 is not None] == blocks


def test_at_most_three_models_are_proposed() -> None:
    with pytest.raises(ValueError, match="Did you mean") as caught:
        create_model("swin_base_patch4_window12_22")
    assert str(caught.value).count(" or ") == 2


def test_configuration_is_plain_values() -> None:
    import json

    config = TINY.with_changes(depths=[1, 2], feature_norms=[0], img_size=(20, 30))
    assert SwinConfig(**config.to_dict()) == config
    again = SwinConfig(**json.loads(json.dumps(config.to_dict())))
    assert again.image == (20, 30)
    assert (again.depths, again.feature_norms) == ((1, 2), (0,))
    assert hash(again) == hash(config)
    assert again == config


def test_drop_path_rates_grow_linearly() -> None:
    config = SwinConfig(drop_path_rate=0.22)
    rates = [r for stage in config.drop_path() for r in stage]
    np.testing.assert_allclose(rates, np.linspace(0, 0.22, 12), atol=1e-15)
    assert [len(stage) for stage in config.drop_path()] == [2, 2, 6, 2]
    assert SwinConfig(depths=(1,), num_heads=(3,), drop_path_rate=0.3).drop_path() == [[0.0]]
    with shapes_only():
        model = SwinTransformer(config)
    assert [block.drop_path for stage in model.layers for block in stage.blocks] == rates


def test_windows_are_clamped_at_construction() -> None:
    """As the official code: table and shift of a stage have the size of its map where that is smaller."""
    with shapes_only(), pytest.warns(UserWarning, match="shrunk to the map, not shifted") as caught:
        model = create_model("swin_tiny_patch4_window7_224", img_size=64)  # maps 16, 8, 4, 2
    tables = [stage.blocks[1].attn.relative_position_bias_table.shape[0] for stage in model.layers]
    assert tables == [13**2, 13**2, 7**2, 3**2]
    assert [str(w.message).partition(":")[0] for w in caught] == ["stage 2", "stage 3"]
    with shapes_only(), pytest.warns(UserWarning, match=r"stage 3: .* kept, the map padded up to it, not shifted"):
        model = create_model("swin_tiny_patch4_window7_224", img_size=160, small_map="pad")  # maps 40, 20, 10, 5
    assert [stage.blocks[1].attn.relative_position_bias_table.shape[0] for stage in model.layers] == [13**2] * 4


def test_the_warning_points_at_the_caller() -> None:
    with pytest.warns(UserWarning, match="stage 2: window 4 is larger than its map of 2x2 tokens") as caught:
        create_model("swin_cifar_nano", img_size=16)
    assert caught[0].filename == __file__


def test_public_names() -> None:
    for name in swinpy.__all__:
        assert hasattr(swinpy, name)
    assert swinpy.__version__


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"embed_dim": "96"}, "embed_dim: expected a whole number; got '96'"),
        ({"embed_dim": None}, "embed_dim: expected a whole number; got None"),
        ({"num_classes": True}, "num_classes: expected a whole number; got True"),
        ({"img_size": 224.0}, "img_size: expected a whole number; got 224.0"),
        ({"depths": "22"}, "depths: expected a sequence of whole numbers; got '22'"),
        ({"depths": 2}, "depths: expected a sequence of whole numbers; got 2"),
        ({"depths": (2, 1.5)}, "depths: expected a whole number; got 1.5"),
        ({"drop_rate": "0.1"}, "drop_rate: expected a number; got '0.1'"),
        ({"shift": 1}, "shift: expected True or False; got 1"),
    ],
)
def test_options_of_the_wrong_kind(option: dict[str, Any], message: str) -> None:
    with pytest.raises(TypeError, match=message):
        swinpy.SwinConfig(**option)


def test_numbers_of_numpy_become_pythons() -> None:
    config = swinpy.SwinConfig(embed_dim=np.int64(96), depths=np.array([2, 2, 6, 2]), drop_rate=np.float32(0.5))
    assert [type(v) for v in (config.embed_dim, config.depths[0], config.drop_rate)] == [int, int, float]
