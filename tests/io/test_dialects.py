"""The tables of layouts: every dialect there and back to the bit, recognised by its keys, and what fits none."""

from __future__ import annotations

import numpy as np
import pytest
from support.swin.models import build

from swinpy import SwinConfig
from swinpy.weights.describe import geometry_of
from swinpy.weights.dialects import (
    ALIASES,
    DIALECTS,
    DialectError,
    ModelGeometry,
    detect,
    find_dialect,
    from_official,
    has_place,
    to_official,
)

V1 = SwinConfig(
    img_size=32,
    patch_size=2,
    num_classes=5,
    embed_dim=8,
    depths=(2, 3, 1),
    num_heads=(2, 4, 2),
    window_size=4,
    mlp_ratio=2.0,
    drop_path_rate=0.0,
)
CONFIGS = {
    "v1": V1,
    "absolute": V1.with_changes(position="both"),
    "absolute_alone": V1.with_changes(position="absolute"),
    "no_position": V1.with_changes(position="none"),
    "no_qkv_bias": V1.with_changes(qkv_bias=False),
    "no_patch_norm": V1.with_changes(patch_norm=False),
    "headless": V1.with_changes(num_classes=0),
    "feature_norms": V1.with_changes(feature_norms=(0, 1, 2), num_classes=0),
    "some_feature_norms": V1.with_changes(feature_norms=(2,)),
    "oblong": V1.with_changes(img_size=(32, 16), position="both"),
    "v2": V1.with_changes(architecture="v2"),
    "v2_pretrained": V1.with_changes(architecture="v2", pretrained_window_sizes=(6, 6, 3)),
    "v2_no_qkv_bias": V1.with_changes(architecture="v2", qkv_bias=False),
    "v2_feature_norms": V1.with_changes(architecture="v2", feature_norms=(0, 1, 2), num_classes=0),
    "v2_extra_norms": V1.with_changes(architecture="v2", extra_norm_every=2),
    "mlp": V1.with_changes(architecture="mlp"),
}
USABLE = [name for name, dialect in DIALECTS.items() if not dialect.refused]
ABSOLUTE = ("absolute", "absolute_alone", "oblong")
FEATURES = ("feature_norms", "some_feature_norms", "v2_feature_norms")
# What a library's models do not have; everything else must go there and back.
V2_CONFIGS = {name for name in CONFIGS if name.startswith("v2")}
TIMMS = {*ABSOLUTE, *FEATURES, "v2_extra_norms", "mlp"}
IMPOSSIBLE = {
    "timm": TIMMS,
    "timm-features": TIMMS,
    "torchvision": TIMMS,
    "hf": {"v2_extra_norms", "mlp"},
    "hf5": {*V2_CONFIGS, "mlp"},
    "mmdet": {*V2_CONFIGS, "mlp"},
    "mmpretrain": {*V2_CONFIGS, *FEATURES, "mlp"},
    "mmpretrain-v2": {*(set(CONFIGS) - V2_CONFIGS), *FEATURES, "mlp"},
}
# OpenMMLab's backbone with the norm of the last stage alone is its classifier without a head.
ALIKE = {("mmdet", "some_feature_norms")}
POSSIBLE = [(d, c) for d in USABLE for c in CONFIGS if c not in IMPOSSIBLE.get(d, ()) and (d, c) not in ALIKE]


def _state(name: str) -> tuple[dict[str, np.ndarray], ModelGeometry]:
    model = build(CONFIGS[name])
    return dict(model.state_dict()), geometry_of(model.config, "float64")


def _arrays(dialect: str) -> dict[str, np.ndarray]:
    """A model of V1 where the dialect has names for it, else of V2."""
    state, geometry = _state("v2" if dialect == "mmpretrain-v2" else "v1")
    return from_official(state, dialect, geometry).arrays


def _assert_same(got: dict[str, np.ndarray], want: dict[str, np.ndarray]) -> None:
    assert set(got) == set(want)
    for name, array in want.items():
        assert got[name].dtype == array.dtype, name
        assert got[name].shape == array.shape, name
        assert got[name].tobytes() == array.tobytes(), name


@pytest.mark.parametrize(("dialect", "name"), POSSIBLE)
def test_there_and_back_is_bitwise(dialect: str, name: str) -> None:
    state, geometry = _state(name)
    before = {k: v.copy() for k, v in state.items()}
    written = from_official(state, dialect, geometry)
    assert detect(written.arrays) == dialect
    read = to_official(written.arrays)
    assert read.dialect == dialect
    assert read.unknown == ()
    absent = DIALECTS[dialect].absent
    assert {k.split(".")[0] for k in written.dropped} <= set(absent)
    _assert_same(read.arrays, {k: v for k, v in state.items() if k.split(".")[0] not in absent})
    _assert_same(state, before)


@pytest.mark.parametrize(("dialect", "name"), POSSIBLE)
def test_what_is_written_is_written_again(dialect: str, name: str) -> None:
    """Dialect -> ours -> dialect, buffers too."""
    state, geometry = _state(name)
    first = from_official(state, dialect, geometry).arrays
    second = from_official(to_official(first).arrays, dialect, geometry).arrays
    _assert_same(second, first)


@pytest.mark.parametrize(("dialect", "name"), [(d, c) for d, cs in IMPOSSIBLE.items() for c in sorted(cs)])
def test_what_a_library_has_no_place_for_is_refused(dialect: str, name: str) -> None:
    state, geometry = _state(name)
    with pytest.raises(DialectError, match=r"save_weights: expected .*; got .*\. .*"):
        from_official(state, dialect, geometry)


def test_every_tensor_of_every_model_has_an_official_place() -> None:
    official = DIALECTS["official"]
    for name in CONFIGS:
        assert all(has_place(official, key) for key in _state(name)[0])


@pytest.mark.parametrize("dialect", USABLE)
@pytest.mark.parametrize("wrapper", ["module.", "_orig_mod.", "module._orig_mod."])
def test_wrappers_of_models_are_taken_off(dialect: str, wrapper: str) -> None:
    arrays = _arrays(dialect)
    read = to_official({wrapper + k: v for k, v in arrays.items()})
    assert read.dialect == dialect
    _assert_same(read.arrays, to_official(arrays).arrays)
    assert all(key.startswith(wrapper) for key in read.source.values())


# ---- buffers


def _named(arrays: dict[str, np.ndarray], part: str) -> dict[str, np.ndarray]:
    return {k: v for k, v in arrays.items() if k.endswith(part)}


def test_official_buffers_are_those_of_the_published_files() -> None:
    """SWIN.md's lists: 190 keys for V1-T at 224 and 250 for V2-T at 256, masks in five blocks."""
    v1 = ModelGeometry((2, 2, 6, 2), ((56, 56), (28, 28), (14, 14), (7, 7)), ((7, 7),) * 4)
    made = from_official({}, "official", v1).arrays
    assert len(_named(made, "relative_position_index")) == 12
    masked = ("0.blocks.1", "1.blocks.1", "2.blocks.1", "2.blocks.3", "2.blocks.5")
    assert sorted(_named(made, "attn_mask")) == sorted(f"layers.{b}.attn_mask" for b in masked)
    assert len(made) == 190 - 173
    index = made["layers.3.blocks.1.attn.relative_position_index"]
    assert (index.shape, index.dtype) == ((49, 49), np.int64)
    assert made["layers.0.blocks.1.attn_mask"].shape == (64, 49, 49)
    v2 = ModelGeometry((2, 2, 6, 2), ((64, 64), (32, 32), (16, 16), (8, 8)), ((8, 8),) * 4, ((8, 8),) * 4, "v2")
    made = from_official({}, "official", v2).arrays
    assert len(made) == 250 - 221
    table = made["layers.0.blocks.0.attn.relative_coords_table"]
    assert (table.shape, table.dtype) == ((1, 15, 15, 2), np.float32)


def _mask_by_hand(size: tuple[int, int], window: int) -> np.ndarray:
    """Which pairs of a window's tokens come from different sides of the seam, token by token."""
    height, width = size
    shift = window // 2

    def region(n: int, side: int) -> int:
        return 0 if n < side - window else 1 if n < side - shift else 2

    masks = []
    for top in range(0, height, window):
        for left in range(0, width, window):
            cells = [(region(top + y, height), region(left + x, width)) for y in range(window) for x in range(window)]
            masks.append([[0.0 if a == b else -100.0 for b in cells] for a in cells])
    return np.array(masks, np.float32)


@pytest.mark.parametrize(("size", "window"), [((8, 8), 4), ((6, 12), 3), ((15, 10), 5)])
def test_masks_and_index_token_by_token(size: tuple[int, int], window: int) -> None:
    made = from_official({}, "official", ModelGeometry((2,), (size,), ((window, window),))).arrays
    np.testing.assert_array_equal(made["layers.0.blocks.1.attn_mask"], _mask_by_hand(size, window))
    index = made["layers.0.blocks.0.attn.relative_position_index"]
    for i in range(window**2):
        for j in range(window**2):
            dy, dx = i // window - j // window, i % window - j % window
            assert index[i, j] == (dy + window - 1) * (2 * window - 1) + dx + window - 1


def test_no_mask_where_one_window_covers_a_side() -> None:
    """The original code then shifts neither axis."""
    made = from_official({}, "official", ModelGeometry((2,), ((4, 8),), ((4, 4),))).arrays
    assert not _named(made, "attn_mask")


def test_maps_of_no_whole_windows_have_no_mask_and_a_note() -> None:
    written = from_official({}, "official", ModelGeometry((2,), ((9, 8),), ((4, 4),)))
    assert not _named(written.arrays, "attn_mask")
    assert "not whole windows" in written.notes[0]


def test_coordinates_of_a_window_of_one_token_are_finite() -> None:
    geometry = ModelGeometry((1,), ((1, 1),), ((1, 1),), ((1, 1),), "v2")
    table = from_official({}, "official", geometry).arrays["layers.0.blocks.0.attn.relative_coords_table"]
    np.testing.assert_array_equal(table, np.zeros((1, 1, 1, 2)))


def test_torchvision_flattens_the_index() -> None:
    geometry = ModelGeometry((1,), ((4, 4),), ((4, 4),))
    flat = from_official({}, "torchvision", geometry).arrays["features.1.0.attn.relative_position_index"]
    square = from_official({}, "official", geometry).arrays["layers.0.blocks.0.attn.relative_position_index"]
    assert flat.shape == (256,)
    np.testing.assert_array_equal(flat, square.reshape(-1))


def test_buffers_are_ignored_on_reading_and_handed_out() -> None:
    state, geometry = _state("v2")
    written = from_official(state, "official", geometry).arrays
    read = to_official(written)
    assert len(read.ignored) == len(written) - len(state) == len(read.buffers)
    assert set(read.ignored.values()) == {"a buffer: computed from the geometry"}


def test_without_a_layout_buffers_are_left_out_with_a_note() -> None:
    state, _ = _state("v1")
    written = from_official(state, "official")
    assert set(written.arrays) == set(state)
    assert "without the buffers" in written.notes[0]
    assert from_official(state, "timm").notes == ()


# ---- arrays that change


def test_keys_of_torchvision_have_a_bias_of_zero() -> None:
    state, geometry = _state("v2")
    bias = from_official(state, "torchvision", geometry).arrays["features.1.0.attn.qkv.bias"]
    np.testing.assert_array_equal(bias[8:16], 0)
    np.testing.assert_array_equal(bias[:8], state["layers.0.blocks.0.attn.q_bias"])
    arrays = {"features.1.0.attn.qkv.bias": np.arange(24.0), "features.1.0.attn.logit_scale": np.zeros((2, 1, 1))}
    read = to_official(arrays, "torchvision").arrays
    np.testing.assert_array_equal(read["layers.0.blocks.0.attn.v_bias"], np.arange(16.0, 24.0))
    assert "layers.0.blocks.0.attn.qkv.bias" not in read


def test_positions_of_backbones_are_maps() -> None:
    state, geometry = _state("oblong")
    table = from_official(state, "detection", geometry).arrays["backbone.absolute_pos_embed"]
    assert table.shape == (1, 8, 16, 8)
    np.testing.assert_array_equal(table[0, :, 3, 5], state["absolute_pos_embed"][0, 3 * 8 + 5])
    assert to_official({"absolute_pos_embed": table}, "official").position_map == (16, 8)
    with pytest.raises(DialectError, match=r"map of 11x11 tokens; got 128 tokens"):
        from_official(state, "detection")


def test_merging_by_unfold_is_channel_major() -> None:
    """Index 4c + k of mmdet is channel c of the neighbour k, row by row; ours is n C + c, column by column."""
    channels = 3
    ours = np.arange(4.0 * channels)
    names = {f"layers.0.downsample.{k}": ours for k in ("norm.weight", "norm.bias")}
    state = {"layers.0.downsample.reduction.weight": np.stack([ours, -ours]), **names}
    arrays = from_official(state, "mmdet").arrays
    theirs = arrays["backbone.stages.0.downsample.norm.weight"]
    ours_of = {(0, 0): 0, (1, 0): 1, (0, 1): 2, (1, 1): 3}
    for c in range(channels):
        for k, cell in enumerate([(0, 0), (0, 1), (1, 0), (1, 1)]):
            assert theirs[4 * c + k] == ours[ours_of[cell] * channels + c]
    np.testing.assert_array_equal(arrays["backbone.stages.0.downsample.reduction.weight"][1], -theirs)


def test_older_simmim_files_say_rpe_mlp() -> None:
    state, geometry = _state("v2")
    for dialect in ("simmim", "official"):
        arrays = from_official(state, dialect, geometry).arrays
        older = {k.replace("cpb_mlp", "rpe_mlp"): v for k, v in arrays.items()}
        assert set(older) != set(arrays)
        _assert_same(to_official(older).arrays, to_official(arrays).arrays)


def test_pretraining_parts_are_kept_in_translation() -> None:
    state, geometry = _state("headless")
    extra = {
        "mask_token": np.ones((1, 1, 8)),
        "decoder.0.weight": np.ones((12, 32, 1, 1)),
        "decoder.0.bias": np.ones(12),
    }
    for dialect in ("simmim", "hf", "hf5"):
        arrays = from_official({**state, **extra}, dialect, geometry).arrays
        assert "decoder.0.weight" in arrays
        _assert_same(to_official(arrays).arrays, {**state, **extra})


# ---- which dialect


def test_older_timm_is_official() -> None:
    assert find_dialect("timm-old") is DIALECTS["official"]
    assert all(target in DIALECTS for target in ALIASES.values())


def test_headless_timm_is_told_by_its_merging() -> None:
    state, _ = _state("headless")
    assert detect(from_official(state, "timm").arrays) == "timm"
    assert detect(state) == "official"


def test_single_stage_models_are_official_but_for_the_head() -> None:
    state = dict(build(V1.with_changes(depths=(2,), num_heads=(2,))).state_dict())
    assert detect(state) == "official"
    assert detect(from_official(state, "timm").arrays) == "timm"


def test_other_parts_of_a_detector_are_ignored() -> None:
    state, geometry = _state("feature_norms")
    arrays = from_official(state, "detection", geometry).arrays
    other = {f"{part}.conv.weight": np.ones(1) for part in ("neck", "rpn_head", "roi_head", "decode_head")}
    read = to_official({**arrays, **other})
    assert read.dialect == "detection"
    assert {read.ignored[key] for key in other} == {"of another part of the file's model: not under backbone."}


@pytest.mark.parametrize("first", USABLE)
@pytest.mark.parametrize("second", USABLE)
def test_keys_of_two_models_are_refused_or_named(first: str, second: str) -> None:
    """Never a silent choice: either the mixture is refused, or the keys of the second are unknown."""
    if first == second:
        return
    one, two = _arrays(first), _arrays(second)
    if set(two) <= set(one) or set(one) <= set(two):
        return
    mixed = {**one, **two}
    try:
        read = to_official(mixed)
    except DialectError:
        return
    rest = set(two) - set(one) if read.dialect == first else set(one) - set(two)
    assert rest
    assert rest <= {*read.unknown, *read.ignored}


@pytest.mark.parametrize(
    "keys",
    [
        [],
        ["weight", "bias"],
        ["conv1.weight", "bn1.weight", "layer1.0.conv1.weight", "fc.weight"],
        ["patch_embed.proj.weight", "blocks.0.norm1.weight", "head.weight"],
        ["features.0.weight"],
        ["layers.0.blocks.0.norm1.weight"],
        ["encoder.layers.0.blocks.0.norm1.weight"],
    ],
)
def test_garbage_fits_no_dialect(keys: list[str]) -> None:
    with pytest.raises(DialectError, match=rf"got {len(keys)} keys that fit none: .*dialect="):
        detect(keys)


def test_swinv2_cr_is_recognised_and_refused() -> None:
    keys = [
        "patch_embed.proj.weight",
        "stages.0.blocks.0.attn.meta_mlp.fc1.weight",
        "stages.0.blocks.0.attn.logit_scale",
    ]
    assert detect(keys) == "timm-v2-cr"
    with pytest.raises(DialectError, match="another network than V2"):
        to_official(dict.fromkeys(keys, np.ones(1)))
    with pytest.raises(DialectError, match="another network than V2"):
        from_official({}, "timm-v2-cr")


def test_unknown_dialects_are_listed() -> None:
    with pytest.raises(DialectError, match=r"expected one of official, .*, tv, .*; got 'keras'"):
        to_official({"x": np.ones(1)}, "keras")


def test_two_keys_for_one_tensor_are_refused() -> None:
    state, _ = _state("v1")
    with pytest.raises(DialectError, match=r"one key for norm\.weight; got norm\.weight and module\.norm\.weight"):
        to_official({**state, "module.norm.weight": state["norm.weight"]})


@pytest.mark.parametrize("part", ["query", "key", "value"])
def test_a_missing_third_of_qkv_is_named(part: str) -> None:
    state, _ = _state("v1")
    arrays = from_official(state, "hf").arrays
    del arrays[f"swin.encoder.layers.1.blocks.2.attention.self.{part}.weight"]
    with pytest.raises(
        DialectError, match=rf"query, key and value weight in layers\.1\.blocks\.2\.attn; got none for {part}"
    ):
        to_official(arrays)


def test_thirds_of_other_sizes_are_refused() -> None:
    state, _ = _state("v1")
    arrays = from_official(state, "hf").arrays
    arrays["swin.encoder.layers.0.blocks.0.attention.self.key.weight"] = np.ones((4, 8))
    with pytest.raises(DialectError, match=r"one shape .*\(8, 8\), \(4, 8\), \(8, 8\)"):
        to_official(arrays)
    with pytest.raises(DialectError, match=r"query, key and value of one size; got \(7, 8\)"):
        from_official({"layers.0.blocks.0.attn.qkv.weight": np.ones((7, 8))}, "hf")


@pytest.mark.parametrize(
    "key", ["features.2.0.norm1.weight", "features.1.0.norm1.running_mean", "features.01.0.norm1.bias"]
)
def test_keys_next_to_a_row_are_unknown(key: str) -> None:
    """An even number is no stage, a leaf is weight or bias, numbers have no leading zero."""
    state, _ = _state("v1")
    arrays = from_official(state, "torchvision").arrays
    assert to_official({**arrays, key: np.ones(8)}).unknown == (key,)
