"""load_weights: networks within other models and training programs, in every layout; and what must not be accepted."""

from __future__ import annotations

import zlib
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from safetensors.numpy import save
from support.swin.models import build, images
from support.swin.weights import HEADLESS, USABLE, V1, V2, arrays_of, assert_equal, refused

from swinpy import convert_weights, load_weights
from swinpy.io import read_weights, torch_file_bytes
from swinpy.weights import model_of
from swinpy.weights.describe import geometry_of
from swinpy.weights.dialects import DIALECTS, find_place, from_official, places, to_official

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from swinpy import SwinTransformer

Arrays = dict[str, np.ndarray]


@cache
def _source(dialect: str) -> tuple[SwinTransformer, Arrays]:
    """A model, and its file in a layout, buffers included."""
    model = build(V2 if dialect == "mmpretrain-v2" else V1, seed=5)
    return model, from_official(model.state_dict(), dialect, geometry_of(model.config, "float64")).arrays


def _fresh(dialect: str) -> SwinTransformer:
    return build(_source(dialect)[0].config, seed=9)


def _head(dialect: str) -> str:
    return "drop" if dialect in HEADLESS else "keep"


@cache
def _plain(dialect: str) -> tuple[Arrays, np.ndarray]:
    """What the file gives as it is, and the outputs with that."""
    model = _fresh(dialect)
    load_weights(model, _source(dialect)[1], head=_head(dialect))
    return arrays_of(model), model(images(32)).numpy()


# ---- wrappers and prefixes

INNER = ("module", "_orig_mod", "_fsdp_wrapped_module", "_fpw_module", "_checkpoint_wrapped_module", "_forward_module")
OUTER = ("model", "net", "swin_net", "model.backbone", "student.encoder.model", "image_encoder.0")


def _within(key: str, parts: str) -> str:
    """A key with more parts at a place of its own."""
    there = key.split(".")
    at = 1 + zlib.crc32(key.encode()) % (len(there) - 1)
    return ".".join([*there[:at], parts, *there[at:]])


RENAMED: dict[str, Callable[[str, str], str]] = {
    "outside": lambda key, wrapper: f"{wrapper}.{key}",
    "inside": _within,
    "twice outside": lambda key, wrapper: f"{wrapper}.{wrapper}.{key}",
    "twice inside": lambda key, wrapper: _within(key, f"{wrapper}._fsdp_wrapped_module"),
    "both": lambda key, wrapper: f"net.{wrapper}.{_within(key, wrapper)}",
}


def _write(path: Path, arrays: Mapping[str, Any]) -> Path:
    """Without waiting for the disk."""
    path.write_bytes(save(dict(arrays)) if path.suffix == ".safetensors" else torch_file_bytes(dict(arrays)))
    return path


def _forms(arrays: Mapping[str, Any], folder: Path, files: bool) -> list[Any]:
    """The dict, and both kinds of file of it."""
    written = [_write(folder / name, arrays) for name in ("w.safetensors", "w.pth")] if files else []
    return [arrays, *written]


@pytest.mark.parametrize("all_files", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize("where", RENAMED)
@pytest.mark.parametrize("dialect", USABLE)
def test_wrappers_are_taken_off_wherever_they_are(dialect: str, where: str, all_files: bool, tmp_path: Path) -> None:
    """The same from memory and from both kinds of file, to the bit; of the wrappers one is written to files."""
    want, outputs = _plain(dialect)
    chosen = INNER[(USABLE.index(dialect) + [*RENAMED].index(where)) % len(INNER)]
    for wrapper in INNER:
        arrays = {RENAMED[where](key, wrapper): a for key, a in _source(dialect)[1].items()}
        assert len(arrays) == len(_source(dialect)[1])
        for source in _forms(arrays, tmp_path, all_files or wrapper == chosen):
            model = _fresh(dialect)
            report = load_weights(model, source, head=_head(dialect))
            assert_equal(model, want)
            assert report.dialect == dialect
            assert not report.unexpected
    assert model(images(32)).numpy().tobytes() == outputs.tobytes()


@pytest.mark.parametrize("all_files", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize("dialect", USABLE)
def test_prefixes_are_found_among_other_tensors(dialect: str, all_files: bool, tmp_path: Path) -> None:
    """Also twice, and behind a wrapper; whatever is beside the network is counted."""
    want, outputs = _plain(dialect)
    beside = {"decode_head.conv.weight": np.ones(3), "aux.norm.weight": np.ones(16), "classes": np.ones(2)}
    for outer in (*OUTER, "module.net", "a.b.c.d.e.f.g.h", "model.model"):
        arrays = {f"{outer}.{key}": a for key, a in _source(dialect)[1].items()} | beside
        for source in _forms(arrays, tmp_path, all_files or outer == OUTER[USABLE.index(dialect) % len(OUTER)]):
            model = _fresh(dialect)
            report = load_weights(model, source, head=_head(dialect))
            assert_equal(model, want)
            assert {report.ignored[key] for key in beside} == {
                f"of another part of the file's model: not under {report.prefix}"
            }
            assert report.prefix.startswith(outer.removeprefix("module."))
            assert f"under {report.prefix})" in str(report)
    assert model(images(32)).numpy().tobytes() == outputs.tobytes()


@pytest.mark.parametrize("dialect", USABLE)
def test_a_prefix_of_one_part_of_the_network_does_not_make_a_whole(dialect: str) -> None:
    """Half under a prefix and half without: never filled up."""
    _, arrays = _source(dialect)
    halves = {(f"net.{k}" if i % 2 else k): a for i, (k, a) in enumerate(arrays.items())}
    refused(_fresh(dialect), halves, head=_head(dialect))


def test_deep_long_and_many_names_take_time_in_proportion(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nested prefixes, each with an anchor, are the worst: every name lies under many of them."""
    deep = ["a." * depth + "patch_embed.proj.weight" for depth in range(64)]
    see, seen = places._Candidate.see, []

    def counting(self: Any, name: str) -> None:
        seen.append(len(name))
        see(self, name)

    monkeypatch.setattr(places._Candidate, "see", counting)
    for count in (1_000, 2_000):
        names = [*deep, *("a." * 64 + f"layers.0.blocks.{i}.norm9.weight" for i in range(count))]
        seen.clear()
        with pytest.raises(ValueError, match="fit none"):
            find_place(names)
        assert len(seen) <= len(names) * 12 * len(DIALECTS)
        assert max(seen) <= 200
    with pytest.raises(ValueError, match="fit none"):
        find_place([*deep, "x." * 500_000 + "y", "y" * 1_000_000])
    with pytest.raises(ValueError, match=r"at most 64 networks in one dict; got 65"):
        find_place([*deep, "b.patch_embed.proj.weight"])


# ---- several networks


def _pair(first: str, second: str) -> tuple[SwinTransformer, SwinTransformer, Arrays]:
    one, two = build(V1), build(V1, seed=8)
    state = {first + k: a for k, a in one.state_dict().items()} | {second + k: a for k, a in two.state_dict().items()}
    return one, two, state


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("student.", "teacher."),
        ("model.", "ema_model."),
        ("generator.net.", "discriminator.net."),
        ("", "ema."),
        ("module.student.backbone.", "module.teacher.backbone."),
        ("a.b.", "a.c."),
    ],
)
@pytest.mark.parametrize("strict", [True, False])
def test_of_two_networks_one_must_be_chosen(first: str, second: str, strict: bool, tmp_path: Path) -> None:
    one, two, state = _pair(first, second)
    bare = [prefix.removeprefix("module.") for prefix in (first, second)]
    refused(build(V1), state, f"got 2, under {bare[0]!r}, {bare[1]!r}. Choose one with prefix=", strict=strict)
    path = _write(tmp_path / "w.pth", state)
    for prefix, source in ((first, one), (second, two), (second.removesuffix("."), two), (bare[0], one)):
        for given in (state, path):
            model = build(V1, seed=1)
            load_weights(model, given, prefix=prefix, strict=strict)
            assert_equal(model, arrays_of(source))
    with pytest.raises(ValueError, match=r"got 2, under .*--prefix"):
        convert_weights(path, tmp_path / "out.safetensors", "timm")
    convert_weights(path, tmp_path / "out.safetensors", "timm", prefix=second)
    load_weights(model, tmp_path / "out.safetensors")
    assert_equal(model, arrays_of(two))


def test_networks_of_two_layouts_are_two() -> None:
    state = {f"a.{k}": v for k, v in _source("timm")[1].items()} | {f"b.{k}": v for k, v in _source("hf")[1].items()}
    refused(build(V1), state, "got 2, under 'a.', 'b.swin.'")
    for prefix, dialect in (("a.", "timm"), ("b.", "hf"), ("b.swin.", "hf")):
        assert load_weights(build(V1), state, prefix=prefix).dialect == dialect


def test_a_prefix_without_a_network() -> None:
    state = {f"net.{k}": v for k, v in build(V1).state_dict().items()}
    refused(build(V1), state, "a network under the prefix 'model.'; got none there, but under 'net.'", prefix="model.")
    refused(build(V1), state, "a network under the prefix ''; got none there", prefix="")


@pytest.mark.parametrize("outer", ["", "module.", "model."])
def test_the_momentum_encoder_of_moby_is_left_out(outer: str) -> None:
    """As in its own programs' utils.py; encoder_k is an average of encoder."""
    one, _, state = _pair(f"{outer}encoder.", f"{outer}encoder_k.")
    beside = {f"{outer}queue1": np.ones((4, 4)), f"{outer}queue_ptr": np.zeros(1, np.int64)}
    model = build(V1, seed=1)
    report = load_weights(model, state | beside)
    assert_equal(model, arrays_of(one))
    assert {k for k in report.ignored if "encoder_k" in k} == {k for k in state if "encoder_k" in k}
    assert beside.keys() <= report.ignored.keys()


# ---- numbers that are no weights

COUNTERS = {
    "n_averaged": np.array(7),
    "num_updates": np.array([3], np.int32),
    "initted": np.array(True),
    "decay": np.array(0.999, np.float32),
    "bn.num_batches_tracked": np.array(5),
}


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("dialect", USABLE)
def test_counters_of_averaged_weights_are_counted_and_left_out(dialect: str, prefix: str, tmp_path: Path) -> None:
    arrays = {prefix + k: a for k, a in _source(dialect)[1].items()} | COUNTERS
    for source in _forms(arrays, tmp_path, files=True):
        model = _fresh(dialect)
        report = load_weights(model, source, head=_head(dialect))
        assert {report.ignored[key] for key in COUNTERS} == {"an integer or a counter, no weight"}
        assert_equal(model, _plain(dialect)[0])


def test_a_float_that_is_no_counter_is_in_the_way() -> None:
    refused(build(V1), dict(build(V1).state_dict()) | {"scale": np.array(0.5)}, "scale: no key of the dialect official")


@pytest.mark.parametrize("value", [3, 0.5, None, "text", [1, 2], {"a": 1}, np.float64(0.999)])
def test_what_is_no_tensor_is_left_out_of_files_and_dicts_alike(value: Any, tmp_path: Path) -> None:
    source = build(V1)
    tree = {**source.state_dict(), "beside": value}
    reports = []
    given: list[Any] = [tree]
    if not isinstance(value, np.generic):
        given.append(_write(tmp_path / "w.pth", tree))
    for which in given:
        model = build(V1, seed=1)
        reports.append(load_weights(model, which))
        assert_equal(model, arrays_of(source))
    assert all(list(report.ignored) == ["beside"] for report in reports)
    assert all(report.ignored["beside"].startswith("no tensor but ") for report in reports)


def test_a_parameter_that_is_no_tensor_is_missing() -> None:
    state = {**build(V1).state_dict(), "norm.bias": [0.0] * 16}
    refused(build(V1), state, "norm.bias: expected in the file; got nothing", "norm.bias: no tensors, but list")


# ---- what must not be accepted


def test_a_deeper_network_is_not_cut() -> None:
    deeper = build(V1.with_changes(depths=(2, 6))).state_dict()
    for prefix in ("", "module.", "net.", "backbone."):
        state = {prefix + k: v for k, v in deeper.items()}
        refused(build(V1), state, "depths 2,6", "depths 2,2", f"{prefix}layers.1.blocks.2.norm1.weight: no parameter")


@pytest.mark.parametrize("dialect", USABLE)
@pytest.mark.parametrize("kept", ["first", "second"])
def test_half_a_file_is_not_a_file(dialect: str, kept: str) -> None:
    arrays = list(_source(dialect)[1].items())
    half = dict(arrays[: len(arrays) // 2] if kept == "first" else arrays[len(arrays) // 2 :])
    refused(_fresh(dialect), half, head="drop")
    refused(_fresh(dialect), {f"net.{k}": v for k, v in half.items()}, head="drop")


@pytest.mark.parametrize("dialect", ["hf", *(pytest.param(d, marks=pytest.mark.slow) for d in ("timm", "torchvision"))])
def test_every_missing_parameter_is_named(dialect: str) -> None:
    """One at a time, but for the embedding, without which there is no network."""
    _, arrays = _source(dialect)
    for gone in [k for k in arrays if "patch_embed" not in k and "norm1" not in k and "layernorm_before" not in k]:
        if to_official(arrays).ignored.get(gone):
            continue
        refused(_fresh(dialect), {f"net.{k}": v for k, v in arrays.items() if k != gone}, head="keep")


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("dialect", ["official", "torchvision", "hf", "mmpretrain"])
def test_nothing_used_is_no_success(dialect: str, strict: bool) -> None:
    state = {f"resnet.{i}.weight": np.ones(3) for i in range(5)}
    refused(build(V1), state, "is none of them" if not strict else "do not fit", dialect=dialect, strict=strict)


def test_a_head_alone_is_no_success() -> None:
    refused(build(V1), {"x.weight": np.ones(3)}, "is none of them", dialect="official", strict=False, head="zero")


def test_why_a_parameter_is_missing_is_the_truth() -> None:
    """A norm outside the prefix is not that of the network, and one that is there is not said to be absent."""
    state = {
        f"backbone.{k}": v for k, v in build(V1.with_changes(num_classes=0)).state_dict().items() if k[:5] != "norm."
    }
    report = load_weights(build(V1), state, strict=False)
    assert report.missing["norm.weight"] == "a backbone without a final norm: the model's own"
    assert report.missing["head.bias"] == "not in the file, under backbone.: the model's own"


# ---- OpenMMLab


def _without(arrays: Arrays, *starts: str) -> Arrays:
    return {k: v for k, v in arrays.items() if not k.startswith(starts)}


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_classifiers_of_mmpretrain(version: str) -> None:
    """Their final norm is named as the last stage's; V2's merging belongs to the stage after it."""
    dialect = "mmpretrain" if version == "v1" else "mmpretrain-v2"
    source, arrays = _source(dialect)
    assert {"backbone.norm1.weight", "head.fc.weight"} <= arrays.keys()
    assert f"backbone.stages.{int(version == 'v2')}.downsample.norm.weight" in arrays
    for strict in (True, False):
        model = _fresh(dialect)
        report = load_weights(model, {"state_dict": arrays, "meta": {}}, strict=strict)
        assert_equal(model, arrays_of(source))
        assert (report.dialect, report.entry, dict(report.missing)) == (dialect, "state_dict", {})


def test_first_files_of_mmcls() -> None:
    """The final norm by its own name, and masks in the attention."""
    source, arrays = _source("mmpretrain")
    older = {k.replace("backbone.norm1.", "backbone.norm."): v for k, v in arrays.items()}
    older["backbone.stages.0.blocks.1.attn.attn_mask"] = np.zeros((4, 16, 16))
    model = _fresh("mmpretrain")
    report = load_weights(model, older)
    assert_equal(model, arrays_of(source))
    assert report.ignored["backbone.stages.0.blocks.1.attn.attn_mask"] == "a buffer: computed from the geometry"


def test_pretraining_files_of_mmsegmentation() -> None:
    """tools/model_converters/swin2mmseg.py: no backbone., the final norm by its own name, masks in the blocks."""
    source, arrays = _source("mmdet")
    state = source.state_dict()
    file = {k.removeprefix("backbone."): v for k, v in arrays.items()}
    file |= {"norm.weight": state["norm.weight"], "norm.bias": state["norm.bias"]}
    file["stages.0.blocks.1.attn_mask"] = np.zeros((4, 16, 16))
    for strict in (True, False):
        model = _fresh("mmdet")
        report = load_weights(model, file, head="drop", strict=strict)
        assert np.array_equal(model.state_dict()["norm.weight"], state["norm.weight"])
        assert set(report.missing) == {"head.weight", "head.bias"}
    backbone = build(V1.with_changes(num_classes=0, feature_norms=(0, 1)), seed=3)
    report = load_weights(backbone, file)
    assert {name for name in report.missing if name.startswith("norm")} == {
        f"norm{s}.{leaf}" for s in (0, 1) for leaf in ("weight", "bias")
    }


def test_simmim_of_mmpretrain() -> None:
    source, arrays = _source("mmpretrain")
    file = _without(arrays, "head.") | {
        "backbone.mask_token": np.ones((1, 1, 8)),
        "neck.decoder.0.weight": np.ones((12, 16, 1, 1)),
        "neck.decoder.0.bias": np.ones(12),
    }
    model = _fresh("mmpretrain")
    report = load_weights(model, file, head="drop")
    assert np.array_equal(model.state_dict()["norm.weight"], source.state_dict()["norm.weight"])
    assert {report.ignored[k] for k in file if "decoder" in k or "mask" in k} == {"for masked-image pretraining"}


def test_one_norm_is_what_the_model_has_it_for() -> None:
    """A classifier's into a backbone with norms of stages and back; a detector's stay norms of stages."""
    classifier, arrays = _source("mmpretrain")
    for norms in ((1,), (0, 1)):
        backbone = build(V1.with_changes(num_classes=0, feature_norms=norms), seed=3)
        report = load_weights(backbone, arrays)
        for name in ("norm1.weight", "norm.weight"):
            assert np.array_equal(backbone.state_dict()[name], classifier.state_dict()["norm.weight"]), name
            assert name in report.used
        assert ("norm0.weight" in report.missing) == (0 in norms)
    four = arrays | {"backbone.norm0.weight": np.ones(8), "backbone.norm0.bias": np.zeros(8)}
    model = _fresh("mmpretrain")
    load_weights(model, four)
    assert_equal(model, arrays_of(classifier))
    detector = build(V1.with_changes(num_classes=0, feature_norms=(0, 1)), seed=4)
    file = from_official(detector.state_dict(), "mmdet", geometry_of(detector.config)).arrays
    report = load_weights(_fresh("mmdet"), file, head="drop")
    assert report.missing["norm.weight"] == "a backbone without a final norm: the model's own"


def test_openmmlabs_files_become_other_layouts(tmp_path: Path) -> None:
    for dialect in ("mmpretrain", "mmpretrain-v2"):
        source, arrays = _source(dialect)
        path = _write(tmp_path / "w.pth", {"state_dict": arrays | {"n_averaged": np.array(3)}})
        saved = convert_weights(path, tmp_path / "w.safetensors", "timm")
        assert saved.dropped == {"n_averaged": "an integer or a counter, no weight"}
        model = _fresh(dialect)
        load_weights(model, tmp_path / "w.safetensors")
        assert_equal(model, arrays_of(source))
        assert any(k.startswith("head.fc") for k in read_weights(tmp_path / "w.safetensors"))


# ---- timm's feature extractors


def test_feature_extractors_of_timm_within_a_segmentation_model() -> None:
    source, arrays = _source("timm-features")
    state = {f"encoder.model.{k}": v for k, v in arrays.items()} | {"decoder.conv.weight": np.ones(3)}
    model = _fresh("timm-features")
    report = load_weights(model, state, head="drop")
    assert report.dialect == "timm-features"
    assert set(report.missing) == {"norm.weight", "norm.bias", "head.weight", "head.bias"}
    for name in set(arrays_of(source)) - set(report.missing):
        assert np.array_equal(model.state_dict()[name], source.state_dict()[name])


def test_timms_names_under_backbone() -> None:
    """Not the original detectors', whose merging is the stage's before it."""
    source, arrays = _source("timm")
    model = _fresh("timm")
    report = load_weights(model, {f"backbone.{k}": v for k, v in arrays.items()})
    assert report.dialect == "timm"
    assert_equal(model, arrays_of(source))


def test_swin2sr_is_recognised_and_refused() -> None:
    keys = (
        "embeddings.patch_embeddings.projection.weight",
        "encoder.stages.0.layers.0.attention.self.query.weight",
    )
    refused(build(V1), {f"swin2sr.{k}": np.ones(1) for k in keys}, "Swin2SR", "another network")


# ---- input channels


@pytest.mark.parametrize("channels", [1, 2, 4, 6, 11])
def test_other_input_channels_by_timms_rule(channels: int) -> None:
    """Grey pictures, and three channels shown again and again, give what colours gave."""
    source, model = build(V1), build(V1.with_changes(in_chans=channels), seed=1)
    for strict in (True, False):
        refused(model, source.state_dict(), "Pass in_chans='repeat'", "build the model with in_chans=3", strict=strict)
    report = load_weights(model, source.state_dict(), in_chans="repeat")
    mine, theirs = (m.state_dict()["patch_embed.proj.weight"] for m in (model, source))
    assert f"3 input channels to {channels}" in report.resized["patch_embed.proj.weight"]
    for c in range(channels):
        want = theirs.sum(axis=1) if channels == 1 else theirs[:, c % 3] * (3 / channels)
        assert np.array_equal(mine[:, c], want)
    rest = {k: v for k, v in arrays_of(source).items() if not k.startswith("patch_embed.proj.w")}
    assert all(np.array_equal(model.state_dict()[k], v) for k, v in rest.items())


def test_channels_that_no_rule_is_for() -> None:
    four = build(V1.with_changes(in_chans=4)).state_dict()
    refused(build(V1), four, "for 3 input channels; got (8, 4, 2, 2), for 4: build the model with", in_chans="repeat")
    refused(build(V1), four, "expected in_chans to be 'keep' or 'repeat'; got 1", in_chans=1)
    assert not load_weights(build(V1), build(V1).state_dict(), in_chans="repeat").resized
    other = build(V1.with_changes(patch_size=4, img_size=64)).state_dict()
    refused(build(V1), other, "patch_embed.proj.weight: expected (8, 3, 2, 2); got (8, 3, 4, 4)", in_chans="repeat")


# ---- which model it is


def test_the_model_is_told_from_a_network_in_another(tmp_path: Path) -> None:
    import swinpy

    state = swinpy.create_model("swin_cifar_nano", 7).state_dict()
    path = _write(tmp_path / "w.safetensors", {f"a.{k}": v for k, v in state.items()} | {"n_averaged": np.array(3)})
    assert model_of(path) == ("swin_cifar_nano", 7)
    _write(path, {f"{p}.{k}": v for p in "ab" for k, v in state.items()})
    assert model_of(path, prefix="b") == ("swin_cifar_nano", 7)
    with pytest.raises(ValueError, match="Choose one with prefix="):
        model_of(path)
