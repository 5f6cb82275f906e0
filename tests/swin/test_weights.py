"""load_weights and save_weights: what is used, ignored, resized, cast, missing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from support.swin.models import build, images, shapes_only
from support.swin.weights import HEADLESS, TABLE, USABLE, V1, V2, arrays_of, assert_equal, refused

import autograd as ag
import swinpy
from swinpy import load_weights, save_weights
from swinpy.io import read_checkpoint, read_weights, write_torch_file
from swinpy.io.entries import ENTRIES
from swinpy.models.resample import resize_absolute_position, resize_bias_table
from swinpy.weights.describe import geometry_of
from swinpy.weights.dialects import from_official

if TYPE_CHECKING:
    from pathlib import Path


# ---- there and back through files

# Layouts for one version alone, and what stands in for them.
OTHER = {
    ("hf5", "v2"): "hf",
    ("mmdet", "v2"): "mmpretrain-v2",
    ("mmpretrain", "v2"): "mmpretrain-v2",
    ("mmpretrain-v2", "v1"): "mmpretrain",
}


@pytest.mark.parametrize("suffix", [".safetensors", ".pth", ".bin"])
@pytest.mark.parametrize("dialect", USABLE)
@pytest.mark.parametrize("version", ["v1", "v2"])
def test_files_of_every_dialect_load(dialect: str, version: str, suffix: str, tmp_path: Path) -> None:
    dialect = OTHER.get((dialect, version), dialect)
    model = build(V1 if version == "v1" else V2, "float32")
    saved = save_weights(model, tmp_path / f"w{suffix}", dialect)
    other = build(model.config, "float32", seed=7)
    report = load_weights(other, tmp_path / f"w{suffix}", head="drop" if dialect in HEADLESS else "keep")
    assert report.dialect == saved.dialect == dialect
    assert report.source == saved.path == str(tmp_path / f"w{suffix}")
    assert not report.unexpected
    assert not report.cast
    assert not report.resized
    kept = set(report.missing)
    assert kept == set(saved.dropped)
    assert {*report.used, *kept} == set(model.state_dict())
    for name, array in model.state_dict().items():
        assert np.array_equal(other.state_dict()[name], array) == (name not in kept), name


@pytest.mark.parametrize(
    ("dialect", "wrapper"), [("official", "model"), ("detection", "state_dict"), ("torchvision", "")]
)
def test_torch_files_have_the_wrapper_of_the_dialect(dialect: str, wrapper: str, tmp_path: Path) -> None:
    save_weights(build(V1, "float32"), tmp_path / "w.pth", dialect)
    assert read_checkpoint(tmp_path / "w.pth").entry == wrapper


@pytest.mark.parametrize(("name", "keys"), [("swin_tiny_patch4_window7_224", 190), ("swinv2_tiny_window8_256", 250)])
def test_official_files_have_the_published_number_of_keys(name: str, keys: int) -> None:
    with shapes_only():
        model = swinpy.create_model(name)
    arrays = from_official(model.state_dict(), "official", geometry_of(model.config)).arrays
    assert len(arrays) == keys


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_every_dtype_of_a_model_is_saved(dtype: str, tmp_path: Path) -> None:
    model = build(V2, dtype)
    save_weights(model, tmp_path / "w.safetensors", "torchvision")
    floats = {v.dtype for v in read_weights(tmp_path / "w.safetensors").values() if v.dtype.kind == "f"}
    assert floats == {np.dtype(dtype)}


def test_a_swin_mlp_is_saved_and_loaded(tmp_path: Path) -> None:
    model = build(V1.with_changes(architecture="mlp"))
    save_weights(model, tmp_path / "w.pth")
    other = build(model.config, seed=3)
    assert not load_weights(other, tmp_path / "w.pth").missing
    assert_equal(other, arrays_of(model))


# ---- the report


def test_the_report_of_an_official_file() -> None:
    model = build(V1)
    source = from_official(model.state_dict(), "official", geometry_of(model.config)).arrays
    report = load_weights(build(V1, "float32"), source)
    assert len(report.used) == len(model.state_dict())
    assert set(report.ignored) == set(source) - set(model.state_dict())
    assert set(report.cast) == set(report.used)
    assert set(report.cast.values()) == {"float64 to float32"}
    lines = str(report).splitlines()
    assert lines[0] == "weights of memory (dialect official)"
    assert [line.split()[0] for line in lines[1:]] == ["used", "ignored", "resized", "cast", "missing", "unexpected"]
    assert lines[2].split(maxsplit=2)[1] == str(len(report.ignored))
    assert "a buffer: computed from the geometry" in lines[2]
    assert all(len(line) < 250 for line in lines)


def test_the_report_of_a_save(tmp_path: Path) -> None:
    report = save_weights(build(V1.with_changes(img_size=36)), tmp_path / "w.safetensors", "simmim")
    text = str(report)
    assert "dropped" in text
    assert "head.weight, head.bias: simmim models have no such part" in text
    assert "note: no attn_mask in stage 0: its map of 18x18 is not whole windows of 4x4" in text


def test_bfloat16_is_widened_and_reported(tmp_path: Path) -> None:
    """Written by hand: NumPy has no such type."""
    import json

    model = build(V1, "float32")
    header, data = {}, b""
    for name, array in model.state_dict().items():
        half = (array.view(np.uint32) >> 16).astype("<u2").tobytes()
        header[name] = {"dtype": "BF16", "shape": list(array.shape), "data_offsets": [len(data), len(data) + len(half)]}
        data += half
    text = json.dumps(header).encode()
    (tmp_path / "w.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + data)
    other = build(V1, "float32", seed=5)
    report = load_weights(other, tmp_path / "w.safetensors")
    assert set(report.cast.values()) == {"bfloat16 to float32"}
    assert set(report.cast) == set(model.state_dict())
    for name, array in model.state_dict().items():
        assert np.array_equal(other.state_dict()[name], (array.view(np.uint32) >> 16 << 16).view(np.float32)), name


# ---- what is accepted as a source


WRAPPERS = [*((name,) for name in ENTRIES), ("state_dict", "module"), ("model", "net"), ("module", "model", "params")]


@pytest.mark.parametrize("place", ["memory", "file"])
@pytest.mark.parametrize("names", WRAPPERS, ids=".".join)
def test_dicts_that_hold_the_weights_under_a_name(names: tuple[str, ...], place: str, tmp_path: Path) -> None:
    """Whatever a training program keeps its weights under, a file and what was read from it mean the same."""
    model = build(V1)
    tree: dict[str, Any] = dict(model.state_dict())
    for name in reversed(names):
        tree = {name: tree, "epoch": 300, "optimizer": {"state": {}}}
    other = build(V1, seed=4)
    write_torch_file(tmp_path / "w.pth", tree)
    load_weights(other, tree if place == "memory" else tmp_path / "w.pth")
    assert_equal(other, arrays_of(model))


@pytest.mark.parametrize("place", ["memory", "file"])
def test_which_of_several_dicts_is_loaded(place: str, tmp_path: Path) -> None:
    first, second = build(V1), build(V1, seed=8)

    def loaded(names: tuple[str, str], entry: str | None) -> dict[str, Any]:
        tree = {names[0]: second.state_dict(), names[1]: first.state_dict()}
        write_torch_file(tmp_path / "w.pth", tree)
        model = build(V1, seed=4)
        load_weights(model, tree if place == "memory" else tmp_path / "w.pth", entry=entry)
        return arrays_of(model)

    for names, entry, source in (
        (("model_ema", "model"), None, first),
        (("model_ema", "model"), "model_ema", second),
        (("teacher", "student"), None, second),
        (("teacher", "student"), "student", first),
    ):
        found, wanted = loaded(names, entry), arrays_of(source)
        assert all(np.array_equal(found[name], wanted[name]) for name in wanted)
    with pytest.raises(ValueError, match=r"expected one set of tensors in .*; got 2\. Choose one with entry="):
        loaded(("generator", "discriminator"), None)
    with pytest.raises(ValueError, match=r"expected an entry 'ema' in .*; got none at 'ema'"):
        loaded(("generator", "discriminator"), "ema")


def test_tensors_parameters_and_lists_of_them() -> None:
    model, other = build(V1), build(V1, seed=4)
    load_weights(other, dict(model.named_parameters()))
    assert_equal(other, arrays_of(model))
    load_weights(other, {k: ag.Tensor(v) for k, v in build(V1, seed=6).state_dict().items()})
    assert_equal(other, arrays_of(build(V1, seed=6)))


def test_a_model_loads_its_own_weights() -> None:
    model = build(V1)
    before = arrays_of(model)
    load_weights(model, model.state_dict())
    assert_equal(model, before)


@pytest.mark.parametrize(
    ("source", "word"),
    [
        (3, "expected a path or a dict of arrays; got int"),
        ({}, "expected arrays in memory; got none"),
        ({"norm.weight": "text"}, "expected arrays in memory; got str for 'norm.weight'"),
        ({"norm.weight": {"a": 1}}, "expected arrays in memory; got dict for 'norm.weight'"),
        ("no such file.pth", "no such file.pth"),
        ({"patch_embed.weight": np.ones(3)}, "fit none: patch_embed.weight"),
    ],
)
def test_what_is_no_source(source: Any, word: str) -> None:
    refused(build(V1), source, word)


def test_part_of_a_torch_file(tmp_path: Path) -> None:

    first, second = build(V1), build(V1, seed=8)
    write_torch_file(tmp_path / "w.pth", {"model": first.state_dict(), "model_ema": second.state_dict(), "epoch": 3})
    model = build(V1, seed=9)
    load_weights(model, tmp_path / "w.pth")
    assert_equal(model, arrays_of(first))
    load_weights(model, tmp_path / "w.pth", entry="model_ema")
    assert_equal(model, arrays_of(second))


# ---- resizing


@pytest.mark.parametrize("method", ["bicubic", "geometric"])
@pytest.mark.parametrize("window", [2, 3, 8])
def test_tables_of_another_window_are_resized(method: str, window: int) -> None:
    model = build(V1)
    other = build(V1.with_changes(window_size=window), seed=1)
    report = load_weights(other, model.state_dict(), resize=method)
    tables = [n for n in model.state_dict() if "bias_table" in n]
    assert sorted(report.resized) == sorted(tables)
    assert set(report.resized.values()) == {f"window 4x4 to {window}x{window}, {method}"}
    for name in tables:
        want = resize_bias_table(model.state_dict()[name], (4, 4), (window, window), method)
        assert np.array_equal(other.state_dict()[name], want)
    rest = {n: a for n, a in model.state_dict().items() if n not in tables}
    assert all(np.array_equal(other.state_dict()[n], a) for n, a in rest.items())


@pytest.mark.parametrize("dialect", ["official", "detection", "hf"])
def test_positions_of_another_resolution_are_resized(dialect: str) -> None:
    model = build(V1.with_changes(position="both"))
    source = from_official(model.state_dict(), dialect, geometry_of(model.config)).arrays
    other = build(V1.with_changes(position="both", img_size=(48, 40)), seed=1)
    report = load_weights(other, source, head="drop")
    assert report.resized == {"absolute_pos_embed": "map 16x16 to 24x20, bicubic"}
    want = resize_absolute_position(model.state_dict()["absolute_pos_embed"], (16, 16), (24, 20))
    assert np.array_equal(other.state_dict()["absolute_pos_embed"], want)


def test_positions_of_an_oblong_map() -> None:
    """As many positions, another map: only a layout that has them as a map can tell."""
    model = build(V1.with_changes(position="both", img_size=(16, 64)))
    source = from_official(model.state_dict(), "detection", geometry_of(model.config)).arrays
    report = load_weights(build(V1.with_changes(position="both"), seed=1), source, head="drop")
    assert report.resized == {"absolute_pos_embed": "map 8x32 to 16x16, bicubic"}
    refused(
        build(V1.with_changes(position="both", img_size=24)),
        build(V1.with_changes(position="both", img_size=(16, 48))).state_dict(),
        "absolute_pos_embed: expected the positions of a square map; got 192 positions",
        "12x12 cannot be reached",
        "img_size",
    )


def test_v2_needs_nothing_at_another_window() -> None:
    model = build(V2)
    other = build(V2.with_changes(img_size=64, window_size=8, pretrained_window_sizes=(4, 4)), seed=1)
    report = load_weights(other, model.state_dict(), resize=None)
    assert not report.resized
    want = swinpy.resize_model(model, img_size=64, window_size=8)
    x = images(64)
    assert np.array_equal(other(x).numpy(), want(x).numpy())


@pytest.mark.parametrize("dialect", ["official", "torchvision"])
def test_v2_in_other_coordinates_is_said_aloud(dialect: str) -> None:
    """At another window the same weights are another function, unless the model knows where they come from."""
    model = build(V2)
    source = from_official(model.state_dict(), dialect, geometry_of(model.config)).arrays
    larger = V2.with_changes(img_size=64, window_size=8)
    report = load_weights(build(larger, seed=1), source)
    said = "positions learned at window 4, read at 8: set pretrained_window_sizes"
    assert report.notes == (f"stage 0, 1: {said}",)
    assert str(report).splitlines()[-1] == f"ATTENTION: stage 0, 1: {said}"
    for config in (V2, larger.with_changes(pretrained_window_sizes=(4, 4))):
        report = load_weights(build(config, seed=1), source)
        assert report.notes == ()
        assert set(report.ignored.values()) == {"a buffer: computed from the geometry"}


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize(("learned", "read"), [("paper", "code"), ("code", "paper")])
def test_coordinates_by_another_formula_are_said_aloud(learned: str, read: str, dtype: str, tmp_path: Path) -> None:
    """The parameters fit either way, and the outputs differ."""
    config = V2.with_changes(coordinates=learned)
    saved = save_weights(build(config, dtype), tmp_path / "w.pth")
    assert ("coordinates='paper'" in str(saved)) == (learned == "paper")
    assert load_weights(build(config, dtype, seed=1), tmp_path / "w.pth").notes == ()
    (note,) = load_weights(build(V2.with_changes(coordinates=read), dtype, seed=1), tmp_path / "w.pth").notes
    assert f"learned in the coordinates of the {learned}, read in those of the {read}" in note
    assert f"coordinates='{learned}'" in note


@pytest.mark.parametrize("dialect", ["official", "timm", "torchvision", "hf"])
def test_saving_says_that_a_layout_has_no_place_for_coordinates(dialect: str, tmp_path: Path) -> None:
    model = build(V2.with_changes(coordinates="paper"), "float32")
    (note,) = save_weights(model, tmp_path / "w.safetensors", dialect).notes
    assert note.startswith("ATTENTION: the positions were learned in the coordinates of the paper")
    assert ("no place for that" in note) == (dialect in ("timm", "hf"))
    assert not save_weights(build(V2, "float32"), tmp_path / "w.safetensors", dialect).notes


class _TorchTensor:
    """What NumPy sees of a torch tensor: a graph or bfloat16 is refused until the tensor is detached and widened."""

    def __init__(self, array: np.ndarray, dtype: str, requires_grad: bool = False) -> None:
        self.array, self.dtype, self.requires_grad = array, f"torch.{dtype}", requires_grad
        self.shape = array.shape

    def detach(self) -> _TorchTensor:
        return _TorchTensor(self.array, self.dtype.removeprefix("torch."))

    def cpu(self) -> _TorchTensor:
        return self

    def float(self) -> _TorchTensor:
        return _TorchTensor(self.array, "float32", self.requires_grad)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        if self.requires_grad:
            raise RuntimeError("Can't call numpy() on Tensor that requires grad.")
        if self.dtype == "torch.bfloat16":
            raise TypeError("Got unsupported ScalarType BFloat16")
        return self.array


def test_torch_tensors_in_memory_are_detached_and_widened() -> None:
    """As a file of bfloat16 is, and as named_parameters() gives them."""
    want = arrays_of(build(V1, "float32"))
    halves = {k: (v.view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32) for k, v in want.items()}
    model = build(V1, "float32", seed=1)
    report = load_weights(model, {k: _TorchTensor(v, "bfloat16", requires_grad=True) for k, v in halves.items()})
    assert_equal(model, halves)
    assert set(report.cast.values()) == {"bfloat16 to float32"}
    assert len(report.cast) == len(want)
    report = load_weights(model, {k: _TorchTensor(v, "float32", requires_grad=True) for k, v in want.items()})
    assert_equal(model, want)
    assert not report.cast


@pytest.mark.parametrize("dialect", ["official", "timm", "hf"])
def test_the_prefix_of_a_training_programs_module_is_taken_off(dialect: str) -> None:
    source = from_official(build(V1).state_dict(), dialect, geometry_of(V1)).arrays
    model = build(V1, seed=1)
    report = load_weights(model, {f"model.{k}": v for k, v in source.items()})
    assert report.dialect == dialect
    assert_equal(model, arrays_of(build(V1)))


def test_resizing_can_be_refused() -> None:
    model = build(V1.with_changes(position="both"))
    state = build(V1.with_changes(position="both", window_size=3, img_size=24)).state_dict()
    refused(
        model,
        state,
        f"{TABLE}: expected (49, 2) (window 4x4); got (25, 2) (window 3x3). Pass resize='bicubic' or 'geometric'",
        "window_size=3",
        "absolute_pos_embed: expected (1, 256, 8) (map 16x16); got (1, 144, 8) (map 12x12). Pass resize='bicubic'",
        "Nothing was loaded",
        resize=None,
    )
    refused(model, state, "expected resize to be 'bicubic', 'geometric' or None; got 'nearest'", resize="nearest")
