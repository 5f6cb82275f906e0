"""Presets: each switch that differs between libraries, and how each evaluates. What the switches do is tested against
the libraries themselves in test_parity_*.py, and here where they do not run."""

from __future__ import annotations

import warnings
from dataclasses import fields
from typing import Any

import numpy as np
import pytest
from support.swin.models import TINY, build, images, shapes_only

import autograd as ag
from swinpy import SwinConfig, create_model, eval_config
from swinpy.geometry import dropped_shift, geometry
from swinpy.models.presets import preset_options

V1, V2 = "swin_tiny_patch4_window7_224", "swinv2_tiny_window8_256"
COMMON = {
    "windows": "adaptive",
    "pad_order": "pad_roll",
    "mask_value": -100.0,
    "key_bias": "none",
    "coordinates": "code",
    "initialisation": "official",
    "res_post_norm_init": 0.0,
    "drop_path_branches": "both",
}
EXPECTED: dict[tuple[str, str], dict[str, Any]] = {
    ("official", V1): {"small_map": "clamp", "shift_rule": "map"},
    ("official", V2): {"small_map": "clamp", "shift_rule": "map"},
    ("timm", V1): {"small_map": "clamp_axis", "shift_rule": "axis", "windows": "fixed", "pad_order": "roll_pad"},
    ("timm", V2): {"small_map": "clamp_axis", "shift_rule": "axis", "windows": "fixed", "pad_order": "roll_pad"},
    ("torchvision", V1): {"small_map": "pad", "shift_rule": "axis", "patch_rule": "crop"},
    ("torchvision", V2): {
        "small_map": "pad",
        "shift_rule": "axis",
        "patch_rule": "crop",
        "key_bias": "zeroed",
        "res_post_norm_init": 1.0,
    },
    ("hf", V1): {
        "small_map": "clamp_forward",
        "shift_rule": "map",
        "initialisation": "hf",
        "drop_path_branches": "attention",
    },
    ("hf", V2): {
        "small_map": "clamp_height",
        "shift_rule": "height",
        "windows": "fixed",
        "mask_value": -200.0,
        "initialisation": "hf",
        "res_post_norm_init": 1.0,
    },
}


def _quietly(name: str, **options: Any) -> Any:
    with shapes_only(), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return create_model(name, **options)


@pytest.mark.parametrize(("preset", "name"), EXPECTED)
def test_every_switch(preset: str, name: str) -> None:
    config = _quietly(name, preset=preset, depths=(1, 1, 1, 1)).config
    want = {**COMMON, **EXPECTED[preset, name]}
    assert {key: getattr(config, key) for key in want} == want


def test_torchvision_scales_coordinates_by_the_window_alone() -> None:
    name = "swinv2_base_window12to16_192to256"
    assert _quietly(name, preset="torchvision", depths=(1, 1, 1, 1)).config.pretrained_window_sizes == ()
    assert _quietly(name, preset="timm", depths=(1, 1, 1, 1)).config.pretrained_window_sizes == (12, 12, 12, 6)


def test_options_win_over_the_preset() -> None:
    assert _quietly(V1, preset="timm", pad_order="pad_roll").config.pad_order == "pad_roll"


def test_without_a_preset_options_are_the_variants() -> None:
    assert _quietly(V1).config == SwinConfig()


@pytest.mark.parametrize(
    ("preset", "name", "fault"), [("timm", V1, "across"), ("timm", V2, "across"), ("hf", V2, "twice")]
)
def test_faults_are_reproduced_with_a_warning(preset: Any, name: str, fault: str) -> None:
    with shapes_only(), pytest.warns(UserWarning, match=f"preset='{preset}' reproduces a fault: .*{fault}") as caught:
        create_model(name, preset=preset)
    assert caught[0].filename == __file__


@pytest.mark.parametrize(("preset", "name"), [("official", V1), ("torchvision", V2), ("official", V2)])
def test_the_others_say_nothing(preset: Any, name: str) -> None:
    with shapes_only():
        create_model(name, preset=preset)


def test_refusals() -> None:
    with pytest.raises(ValueError, match="preset: expected one of official, timm, torchvision, hf; got 'keras'"):
        create_model(V1, preset="keras")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="preset: expected 'official' for Swin-MLP"):
        create_model("swin_mlp_base_patch4_window7_224", preset="timm")


def test_options_of_a_preset_are_fields() -> None:
    known = {f.name for f in fields(SwinConfig)}
    for preset in ("official", "timm", "torchvision", "hf"):
        for architecture in ("v1", "v2"):
            assert set(preset_options(preset, architecture)) <= known  # type: ignore[arg-type]


# ---- the switches


@pytest.mark.parametrize(
    ("size", "rule", "shift"),
    [
        ((8, 4), "axis", (2, 0)),
        ((8, 4), "map", (0, 0)),
        ((8, 4), "height", (2, 2)),
        ((8, 4), "never", (2, 2)),
        ((4, 8), "axis", (0, 2)),
        ((4, 8), "height", (0, 0)),
        ((3, 3), "never", (2, 2)),
        ((8, 8), "map", (2, 2)),
    ],
)
def test_shift_rules(size: Any, rule: Any, shift: Any) -> None:
    assert dropped_shift(size, (4, 4), (2, 2), rule) == shift
    assert geometry(size, (4, 4), (2, 2), "pad", rule).shift == shift


@pytest.mark.parametrize(
    ("small_map", "window"), [("clamp", (3, 3)), ("clamp_axis", (3, 7)), ("clamp_height", (3, 3)), ("pad", (7, 7))]
)
def test_windows_as_built(small_map: Any, window: Any) -> None:
    flat = TINY.with_changes(img_size=(6, 20), window_size=7, small_map=small_map)
    assert flat.window(0) == window
    tall = TINY.with_changes(img_size=(20, 6), window_size=7, small_map=small_map)
    assert tall.window(0) == ((7, 7) if small_map in ("clamp_height", "pad") else window[::-1])


@pytest.mark.parametrize(
    ("small_map", "image", "maps"),
    [
        ("clamp", 18, (9, 5, 3)),
        ("clamp_axis", 18, (9, 5, 3)),
        ("clamp_height", 18, (9, 4, 2)),
        ("clamp", 17, (9, 5, 3)),
        ("clamp_axis", 17, (8, 4, 2)),
        ("clamp_height", 23, (11, 5, 2)),
        ("clamp_axis", 23, (11, 6, 3)),
        ("clamp_height", 5, (2, 1, 1)),  # they divide by the last one, which is 0 there
    ],
)
def test_the_map_that_decides(small_map: Any, image: int, maps: Any) -> None:
    """It chooses windows and shifts; the maps themselves are rounded up."""
    config = TINY.with_changes(
        img_size=image, depths=(2, 2, 2), num_heads=(2, 2, 2), small_map=small_map, windows="fixed", window_size=8
    )
    assert tuple(config.judged_size(stage)[0] for stage in range(3)) == maps
    assert tuple(config.window(stage)[0] for stage in range(3)) == tuple(min(8, n) for n in maps)
    assert tuple(config.window_shift(stage)[0] > 0 for stage in range(3)) == tuple(n > 8 for n in maps)
    assert config.map_size(0) == (-(-image // 2),) * 2


def test_windows_that_are_clamped_in_forward() -> None:
    """transformers' V1 keeps the nominal tables, and clamps when a smaller map comes."""
    model = build(TINY.with_changes(img_size=8, window_size=5, small_map="clamp_forward"))
    assert model.layers[1].blocks[0].attn.window == (5, 5)
    assert model(images(8)).shape == (2, 5)
    padded = build(TINY.with_changes(img_size=8, window_size=5, small_map="pad"))
    np.testing.assert_array_equal(model(images(40)).numpy(), padded(images(40)).numpy())
    assert float(np.abs(model(images(8)).numpy() - padded(images(8)).numpy()).max()) > 1e-3


def test_adaptive_and_fixed_windows() -> None:
    """The same for maps larger than the window, two models for smaller ones."""
    adaptive, fixed = (build(TINY.with_changes(window_size=4, windows=w)) for w in ("adaptive", "fixed"))
    np.testing.assert_array_equal(adaptive(images(30)).numpy(), fixed(images(30)).numpy())
    assert float(np.abs(adaptive(images(6)).numpy() - fixed(images(6)).numpy()).max()) > 1e-3


@pytest.mark.parametrize("name", [V1, V2])
def test_initialisation_of_transformers(name: str) -> None:
    """Weights normal .02, the convolution too; tables and biases zeros; norms 1 and 0."""
    ag.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        model = create_model(name, preset="hf", embed_dim=48, depths=(1, 1), num_heads=(2, 2), position="both")
    for key, p in model.named_parameters():
        x = p.numpy()
        if key.endswith("logit_scale"):
            assert (x == np.float32(np.log(10))).all()
        elif "norm" in key:
            assert (x == (1 if key.endswith("weight") else 0)).all(), key
        elif key.endswith("weight"):
            assert abs(x.std() / 0.02 - 1) < 5 / np.sqrt(x.size), key
        else:
            assert not x.any(), key


# ---- evaluation


@pytest.mark.parametrize(
    ("name", "preset", "resize", "crop"),
    [
        (V1, "official", 256, (224, 224)),
        (V1, "timm", 248, (224, 224)),
        (V1, "torchvision", 232, (224, 224)),
        (V1, "hf", (224, 224), None),
        (V2, "official", 292, (256, 256)),
        (V2, "timm", 284, (256, 256)),
        (V2, "torchvision", 260, (256, 256)),
        ("swin_base_patch4_window12_384", "official", (384, 384), None),
        ("swin_base_patch4_window12_384", "timm", 384, (384, 384)),
        ("swinv2_large_window12to24_192to384", "official", (384, 384), None),
        ("swinv2_base_window12_192", "official", 219, (192, 192)),
        ("swin_cifar_nano", "official", (32, 32), None),
    ],
)
def test_evaluation(name: str, preset: Any, resize: Any, crop: Any) -> None:
    config = eval_config(name, preset)
    assert (config.resize, config.crop, config.interpolation) == (resize, crop, "bicubic")
    assert len(config.mean) == len(config.std) == 3
    if "cifar" not in name:
        assert (config.mean, config.std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def test_evaluation_refusals() -> None:
    with pytest.raises(ValueError, match=r"eval_config: expected a model that torchvision has \(swin_tiny.*; got"):
        eval_config("swinv2_base_window16_256", "torchvision")
    with pytest.raises(ValueError, match="preset: expected one of"):
        eval_config(V1, "keras")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="create_model: expected a known model"):
        eval_config("resnet")
