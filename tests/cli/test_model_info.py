"""What files of weights say of themselves: every configuration comes back, and what is said wrongly is refused."""

from __future__ import annotations

import json
import os
import tracemalloc
import warnings
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from safetensors.numpy import save_file
from support.image_files import picture
from support.predictions import answers, predict
from support.swin.models import TINY, build

import autograd as ag
import swinpy
from swinpy.cli import main as command
from swinpy.io import read_tensors, write_torch_file, write_weights
from swinpy.models import SwinConfig, SwinTransformer
from swinpy.preparation import Preparation
from swinpy.weights import ModelInfo, WeightsError, load_model, load_weights, read_model_info, save_weights
from swinpy.weights.info import METADATA, info_of_metadata

if TYPE_CHECKING:
    from pathlib import Path


GOOD = ModelInfo(
    swinpy.SwinConfig(
        img_size=12, patch_size=2, num_classes=4, embed_dim=8, depths=(2,), num_heads=(2,), window_size=3
    ),
    Preparation(14, (12, 12), "bicubic", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    ("a", "b"),
    "swin_cifar_nano",
    "folder",
)


# ---- what a file says rightly

VARIED = [
    {"architecture": "v1"},
    {"architecture": "v2"},
    {"architecture": "mlp"},
    {"position": "absolute"},
    {"position": "both"},
    {"position": "none"},
    {"img_size": (20, 28), "window_size": (3, 2)},
    {"img_size": (9, 40), "small_map": "clamp_axis", "window_size": 4},
    {"img_size": (9, 40), "small_map": "pad", "window_size": 4},
    {"img_size": (9, 40), "architecture": "mlp", "window_size": 4},
    {"architecture": "v2", "pretrained_window_sizes": (6, 3)},
    {"architecture": "v2", "coordinates": "paper", "extra_norm_every": 1, "key_bias": "zeroed"},
    {"architecture": "v2", "img_size": 64, "window_size": 7},
    {"in_chans": 1, "patch_norm": False, "qkv_bias": False},
    {"mlp_ratio": 1.3, "qk_scale": 0.3, "patch_rule": "crop", "shift": False},
    {"windows": "fixed", "shift_rule": "never", "pad_order": "roll_pad", "mask_value": float("-inf")},
    {"attention": "composite", "attn_drop_rate": 0.1, "drop_rate": 0.1, "drop_path_rate": 0.3},
    {"mask_value": -1e30, "drop_path_rate": 0},
    {"feature_norms": (0, 1), "layer_norm_eps": 1e-6},
    {"depths": (1,), "num_heads": (2,), "num_classes": 1},
]


def test_the_words_are_found_whichever_entry_is_taken(tmp_path: Path, capsys: Any) -> None:
    """Where a file has several sets of weights, which alone are no answer."""
    sets = [{k: np.asarray(v) for k, v in SwinTransformer(GOOD.config).state_dict().items()} for _ in range(2)]
    tree = {"left": sets[0], "right": sets[1], **GOOD.metadata(1 << 20)}
    write_torch_file(tmp_path / "w.pth", tree)
    picture(3).save(tmp_path / "a.png")
    assert predict(capsys, tmp_path / "a.png", "--weights", tmp_path / "w.pth")[0] == 2
    code, out, err = predict(capsys, tmp_path / "a.png", "--weights", tmp_path / "w.pth", "--entry", "right")
    assert (code, err) == (0, "")
    assert {"a", "b", "class 2", "class 3"} == {name for _, name in answers(out)}
    assert command(["inspect", str(tmp_path / "w.pth"), "--entry", "right"]) == 0
    assert "classes: a, b" in capsys.readouterr().out.splitlines()


def test_loading_into_another_model_says_what_no_array_shows(tmp_path: Path) -> None:
    model = SwinTransformer(GOOD.config)
    save_weights(model, tmp_path / "w.safetensors", info=GOOD)
    assert load_weights(SwinTransformer(GOOD.config), tmp_path / "w.safetensors").notes == ()
    others = {
        "shift": False,
        "qk_scale": 0.5,
        "patch_rule": "crop",
        "small_map": "pad",
        "shift_rule": "map",
        "windows": "fixed",
        "pad_order": "roll_pad",
        "mask_value": -200.0,
        "layer_norm_eps": 1e-6,
    }
    shapes = {"architecture", "patch_size", "in_chans", "num_classes", "embed_dim", "depths", "num_heads", "mlp_ratio"}
    shapes |= {"window_size", "qkv_bias", "key_bias", "position", "patch_norm", "extra_norm_every", "feature_norms"}
    training = {"drop_rate", "attn_drop_rate", "drop_path_rate", "drop_path_branches", "checkpoint"}
    first = {"initialisation", "res_post_norm_init"}
    # the same function by another way; what a transfer to another size changes on purpose
    same, size = {"attention"}, {"img_size", "pretrained_window_sizes"}
    assert {field.name for field in fields(SwinConfig)} == (
        shapes | training | first | same | size | others.keys() | {"coordinates"}
    )
    for name, value in others.items():
        other = SwinTransformer(GOOD.config.with_changes(**{name: value}))
        (note,) = load_weights(other, tmp_path / "w.safetensors").notes
        assert note == (
            f"the weights are of a model with {name}={getattr(GOOD.config, name)!r}, this one has {name}={value!r}"
        )
        assert load_weights(other, model.state_dict()).notes == ()
    v2 = GOOD.config.with_changes(architecture="v2")
    save_weights(SwinTransformer(v2), tmp_path / "v2.safetensors", "timm", info=replace(GOOD, config=v2))
    (note,) = load_weights(SwinTransformer(v2.with_changes(coordinates="paper")), tmp_path / "v2.safetensors").notes
    assert "coordinates='code', this one has coordinates='paper'" in note


@pytest.mark.parametrize("changes", VARIED, ids=str)
@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_every_configuration_comes_back(changes: dict[str, Any], suffix: str, tmp_path: Path) -> None:
    config = TINY.with_changes(**changes)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # about small maps
        model = build(config).eval()
    save_weights(model, tmp_path / f"w{suffix}")
    loaded = load_model(tmp_path / f"w{suffix}", dtype="float64")
    assert loaded.model.config == config
    assert loaded.report.notes == ()
    x = np.random.default_rng(0).standard_normal((1, config.in_chans, *config.image))
    with ag.no_grad():
        np.testing.assert_array_equal(loaded.model(x).numpy(), model(x).numpy())


def test_save_weights_says_what_the_model_is(tmp_path: Path, capsys: Any) -> None:
    """Without a word about images: assumed, and said so."""
    model = swinpy.create_model("swin_cifar_nano", 3, depths=(1, 2), num_heads=(1, 4), mask_value=float("-inf"))
    for suffix in (".safetensors", ".pth"):
        file = tmp_path / f"w{suffix}"
        save_weights(model, file)
        assert load_model(file).model.config == model.config
        picture(3).save(tmp_path / "a.png")
        code, out, err = predict(capsys, tmp_path / "a.png", "--weights", file)
        assert code == 0
        assert {name for _, name in answers(out)} == {"class 0", "class 1", "class 2"}
        assert err.startswith(
            f"note: {file} does not say how its images were prepared; assumed, as with preset 'official' for 32x32: "
        )


# ---- and wrongly


def _changed(**changes: Any) -> str:
    values = json.loads(GOOD.metadata(1 << 20)[METADATA])
    for path, value in changes.items():
        *above, last = path.split("__")
        place = values
        for key in above:
            place = place[key]
        place[last] = value
    return json.dumps(values)


DAMAGED = {
    "no JSON": ("{", ""),
    "no object": ("[1]", "no version"),
    "empty": ("", ""),
    "deep": ("[" * 50_000, ""),
    "wide": ("[" + "[]," * 200_000 + "1]", "it is long"),
    "digits": ('{"version": 1' + "0" * 5000 + "}", ""),
    "NaN": ('{"version": NaN}', "NaN is no number"),
    "twice": ('{"version": 1, "version": 1}', "a key comes twice"),
    "newer": (_changed(version=2), "of version 2, written by another version of swinpy"),
    "version of text": (_changed(version="1"), "no version"),
    "version of bool": (_changed(version=True), "no version"),
    "unknown key": (_changed(ema=1), "other keys than it should: 'ema'"),
    "names of numbers": (_changed(class_names=[1, 2]), "class_names is no list"),
    "names as text": (_changed(class_names="ab"), "class_names is no list"),
    "a long name": (_changed(class_names=["a" * 5000]), "class_names is no list"),
    "too many names": (_changed(class_names=["a"] * 5), "at most 4 class names"),
    "synthetic": (_changed(synthetic=1), "true or false"),
    "model": (_changed(model=None), "two names"),
    "config": (_changed(config=[]), "config is no object"),
    "an option of later": (_changed(config__rope=True), "config has an unknown option 'rope'"),
    "a config of text": (_changed(config__embed_dim="8"), "embed_dim"),
    "a huge number": (_changed(config__embed_dim=10**30), "too large a value for 'embed_dim'"),
    "many stages": (_changed(config__depths=[1] * 1000), "too large a value for 'depths'"),
    "an infinite ratio": (_changed(config__mlp_ratio=1e300), "too large a value for 'mlp_ratio'"),
    "a nested list": (_changed(config__depths=[[1]]), "too large a value for 'depths'"),
    "heads that do not divide": (_changed(config__num_heads=[3]), "num_heads"),
    "preparation": (_changed(preparation=7), "Preparation: expected crop, interpolation"),
    "no mean": (_changed(preparation__mean=[]), "mean to be three numbers"),
    "std of 0": (_changed(preparation__std=[0, 1, 1]), "std to be three positive"),
    "std of text": (_changed(preparation__std=["1", "1", "1"]), "std to be three positive"),
    "a huge crop": (_changed(preparation__crop=[10**9, 10**9]), "crop to be (H, W)"),
    "a wide crop": (_changed(preparation__crop=[1 << 14, 1 << 14]), "crop to be (H, W)"),
    "a negative size": (_changed(preparation__resize=-1), "resize to be"),
    "a size of bool": (_changed(preparation__resize=True), "resize to be"),
    "no crop": (_changed(preparation__crop=None), "resize to be (H, W), or one number and a crop"),
    "interpolation": (_changed(preparation__interpolation="lanczos"), "'bicubic' or 'bilinear'"),
    "interpolation of a list": (_changed(preparation__interpolation=["bicubic"]), "'bicubic' or 'bilinear'"),
}


@pytest.mark.parametrize("case", DAMAGED)
@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_damaged_words_are_one_message(case: str, suffix: str, tmp_path: Path, capsys: Any) -> None:
    text, reason = DAMAGED[case]
    model = SwinTransformer(GOOD.config)
    file = tmp_path / f"w{suffix}"
    arrays = {k: np.asarray(v) for k, v in model.state_dict().items()}
    picture(3).save(tmp_path / "a.png")
    if case == "wide" and suffix == ".safetensors":
        reason = ""  # its reader has a budget of its own, which our writer keeps to
        save_file(arrays, file, {METADATA: text})
    else:
        write_weights(file, arrays, "model", {METADATA: text})
    code, out, err = predict(capsys, tmp_path / "a.png", "--weights", file)
    assert (code, out) == (2, "")
    assert len(err.splitlines()) == 1
    assert err.startswith("error: ")
    assert reason in err
    assert len(err) < 1000
    if case not in ("wide", "deep"):
        assert "--model" in err
        assert command(["inspect", str(file)]) == 0


GREEDY = {
    "lists": "[" + "[]," * 25_000 + "1]",
    "objects": "[" + '{"a":1},' * 15_000 + "1]",
    "strings": "[" + '"ab",' * 40_000 + "1]",
    "wide letters": "[" + '"\U0001f701bcdefgh",' * 40_000 + "1]",
    "an option": _changed(**{"config__" + "x" * 1_000_000: 1}),
    "a value": _changed(config__depths="y" * 1_000_000),
    "names": _changed(class_names=[f"n{i}" for i in range(20_000)]),
}


@pytest.mark.parametrize("case", GREEDY)
def test_what_words_take_is_bounded_by_the_file(case: str) -> None:
    """An option's name of a megabyte, looked up among the known ones, once took 36 MiB and three seconds."""
    size = 1 << 20
    tracemalloc.start()
    try:
        with pytest.raises(WeightsError, match=r"^model info: expected what swinpy writes of a model in file; got"):
            info_of_metadata({METADATA: GREEDY[case]}, size, "file")
        assert tracemalloc.get_traced_memory()[1] < size + (4 << 20)
    finally:
        tracemalloc.stop()


CONTRADICTIONS = {
    "embed_dim": (GOOD.config.with_changes(embed_dim=16), "embed_dim=16, 16 along axis 0 of patch_embed.proj.weight"),
    "huge": (GOOD.config.with_changes(embed_dim=1 << 30), "embed_dim"),
    "depths": (GOOD.config.with_changes(depths=(3,)), "depths=(3,) where the arrays have (2,)"),
    "a huge depth": (GOOD.config.with_changes(depths=(1 << 30,)), "depths"),
    "num_heads": (GOOD.config.with_changes(num_heads=(4,)), "num_heads"),
    "window_size": (GOOD.config.with_changes(window_size=4), "window_size=4, 49 along axis 0"),
    "mlp_ratio": (GOOD.config.with_changes(mlp_ratio=1e8), "mlp_ratio"),
    "in_chans": (GOOD.config.with_changes(in_chans=1), "in_chans=1"),
    "patch_size": (GOOD.config.with_changes(patch_size=4), "patch_size=4"),
    "num_classes": (
        GOOD.config.with_changes(num_classes=5),
        "num_classes=5, 5 along axis 0 of head.weight; got shape (4",
    ),
    "architecture": (GOOD.config.with_changes(architecture="v2"), "num_heads"),
    "absolute": (
        GOOD.config.with_changes(position="both"),
        "img_size=12, 36 along axis 1 of absolute_pos_embed; got nothing",
    ),
    "a window without end": (
        GOOD.config.with_changes(window_size=1 << 20, img_size=1 << 16, architecture="v2"),
        "num_heads",
    ),
}


@pytest.mark.parametrize("case", CONTRADICTIONS)
def test_words_that_contradict_the_arrays_are_refused_before_a_model_is_made(
    case: str, tmp_path: Path, capsys: Any
) -> None:
    config, reason = CONTRADICTIONS[case]
    arrays = {k: np.asarray(v) for k, v in SwinTransformer(GOOD.config).state_dict().items()}
    told = replace(GOOD, config=config).metadata(1 << 20)
    write_weights(tmp_path / "w.safetensors", arrays, metadata=told)
    picture(3).save(tmp_path / "a.png")
    code, out, err = predict(capsys, tmp_path / "a.png", "--weights", tmp_path / "w.safetensors")
    assert (code, out) == (2, "")
    assert err.startswith("error: model info: expected the configuration of the arrays in ")
    assert reason in err
    code = command(["convert", str(tmp_path / "w.safetensors"), str(tmp_path / "x.safetensors"), "--to", "timm"])
    assert code == 2
    assert not (tmp_path / "x.safetensors").exists()


def test_a_window_of_v2_is_bounded_although_no_array_shows_it(tmp_path: Path, capsys: Any) -> None:
    config = GOOD.config.with_changes(architecture="v2")
    arrays = {k: np.asarray(v) for k, v in SwinTransformer(config).state_dict().items()}
    far = config.with_changes(window_size=1 << 20, img_size=1 << 16)
    write_weights(tmp_path / "w.safetensors", arrays, metadata=replace(GOOD, config=far).metadata(1 << 20))
    code, _, err = predict(capsys, "a.png", "--weights", tmp_path / "w.safetensors")
    assert code == 2
    assert "a window of 32768 tokens a side, beyond 90" in err


def test_names_that_could_garble_a_terminal_are_escaped(tmp_path: Path, capsys: Any) -> None:
    names = ("\x1b[2J", "Käfer", "a\nb", os.fsdecode(b"\xff" * 40))
    save_weights(SwinTransformer(GOOD.config), tmp_path / "w.safetensors", info=replace(GOOD, class_names=names))
    picture(3).save(tmp_path / "a.png")
    code, out, _ = predict(capsys, tmp_path / "a.png", "--weights", tmp_path / "w.safetensors")
    assert code == 0
    assert {name for _, name in answers(out)} == {"'\\x1b[2J'", "Käfer", "'a\\nb'", "\\xff" * 40}


def test_names_that_no_reader_would_take_are_left_out(tmp_path: Path) -> None:
    """The budget of a reader is twice the file and 8 MiB; the names of classes may need no more."""
    config = GOOD.config.with_changes(num_classes=5_000)
    model = SwinTransformer(config)
    for length, kept in ((60, True), (1000, False)):
        names = tuple(f"{i:0{length}}" for i in range(5_000))
        save_weights(model, tmp_path / "w.safetensors", info=ModelInfo(config, GOOD.preparation, names))
        info = read_model_info(tmp_path / "w.safetensors")
        assert info is not None
        assert info.class_names == (names if kept else ())
        assert info.preparation == GOOD.preparation


def test_answers_that_are_not_finite_are_no_answers(tmp_path: Path, capsys: Any) -> None:
    """Weights that overflow: finite themselves."""
    model = SwinTransformer(GOOD.config)
    save_weights(model, tmp_path / "good.safetensors", info=GOOD)
    arrays, metadata = read_tensors(tmp_path / "good.safetensors")
    arrays["head.weight"] = np.full_like(arrays["head.weight"], 3e38)
    arrays["norm.weight"] = np.full_like(arrays["norm.weight"], 3e38)
    write_weights(tmp_path / "w.safetensors", arrays, metadata={METADATA: metadata[METADATA]})
    for i in range(2):
        picture(i).save(tmp_path / f"{i}.png")
    code, out, err = predict(capsys, tmp_path / "0.png", tmp_path / "1.png", "--weights", tmp_path / "w.safetensors")
    assert (code, out) == (2, "")
    assert [line.partition(";")[0] for line in err.splitlines()] == [
        f"error: predict: expected finite answers for {tmp_path / name}" for name in ("0.png", "1.png")
    ]


def test_images_of_other_channels_are_refused(tmp_path: Path, capsys: Any) -> None:
    save_weights(SwinTransformer(GOOD.config.with_changes(in_chans=1)), tmp_path / "w.safetensors")
    code, _, err = predict(capsys, "a.png", "--weights", tmp_path / "w.safetensors")
    assert code == 2
    assert "expected a model of images with 3 channels; got 1" in err


def test_a_preparation_is_checked_when_it_is_made() -> None:
    by = Preparation((4, 6), None, "bicubic", (np.float32(0.5),) * 3, (1, 1, 1))
    assert by.size == (4, 6)
    assert Preparation.from_dict(json.loads(json.dumps(by.to_dict()))) == by
    assert str(by) == "resized to 4x6 (bicubic), mean 0.5, 0.5, 0.5, std 1, 1, 1"
    for changes in ({"mean": (0.5, 0.5)}, {"std": (0, 1, 1)}, {"mean": (float("nan"),) * 3}, {"crop": (0, 1)}):
        with pytest.raises(ValueError, match=rf"Preparation: expected {next(iter(changes))} to be"):
            replace(by, **changes)
