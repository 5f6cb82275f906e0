"""load_weights: heads, and parts that one side has not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from support.swin.models import build, images
from support.swin.weights import V1, V2, arrays_of, refused

from swinpy import load_weights, save_weights
from swinpy.weights.dialects import DialectError, from_official

if TYPE_CHECKING:
    from pathlib import Path


# ---- heads


@pytest.mark.parametrize("head", ["drop", "zero"])
def test_heads_that_are_not_the_files(head: str) -> None:
    model = build(V1.with_changes(num_classes=3))
    before, source = arrays_of(model), build(V1, seed=1)
    report = load_weights(model, source.state_dict(), head=head)
    own = np.zeros_like(before["head.weight"]) if head == "zero" else before["head.weight"]
    assert np.array_equal(model.state_dict()["head.weight"], own)
    assert np.array_equal(model.state_dict()["norm.weight"], source.state_dict()["norm.weight"])
    assert set(report.ignored) == set(report.missing) == {"head.weight", "head.bias"}
    assert set(report.ignored.values()) == {f"head={head!r}"}


def test_a_head_of_other_classes_is_refused_with_the_ways_out() -> None:
    text = refused(
        build(V1.with_changes(num_classes=3)),
        from_official(build(V1).state_dict(), "timm").arrays,
        "head.fc.weight: expected (3, 16); got (6, 16). Pass head='drop'",
        "head='zero'",
        "map file",
        "num_classes=6",
    )
    assert "layers" not in text


def test_a_model_without_a_head_leaves_it() -> None:
    report = load_weights(build(V1.with_changes(num_classes=0)), build(V1).state_dict())
    assert report.ignored == dict.fromkeys(("head.weight", "head.bias"), "the model has no head")


def test_a_file_without_a_head() -> None:
    state = build(V1.with_changes(num_classes=0)).state_dict()
    refused(build(V1), state, "head.weight, head.bias: expected in the file; got nothing", "head='drop'", "head='zero'")
    report = load_weights(build(V1), state, head="zero")
    assert set(report.missing) == {"head.weight", "head.bias"}


def test_a_head_by_a_class_map(tmp_path: Path) -> None:
    source, model = build(V1.with_changes(num_classes=9)), build(V1.with_changes(num_classes=4), seed=1)
    rows = [8, 0, 3, 3]
    (tmp_path / "map.txt").write_text("".join(f"{row}\n" for row in rows))
    report = load_weights(model, from_official(source.state_dict(), "timm").arrays, head=tmp_path / "map.txt")
    for name in ("head.weight", "head.bias"):
        assert np.array_equal(model.state_dict()[name], source.state_dict()[name][rows])
        assert report.resized[name] == f"9 to 4 classes by {tmp_path / 'map.txt'}"
    assert {"head.weight", "head.bias"} <= set(report.used)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("1\n2\n3\n", ("expected 4 class numbers", "got 3", "num_classes=3")),
        ("1\n2\n9\n3\n", ("from 0 to 8", "got '9' in line 3")),
        ("1\n2\n-1\n3\n", ("from 0 to 8", "got '-1' in line 3")),
        ("1\n2\nx\n3\n", ("got 'x' in line 3",)),
        (b"\xff\xfe\n2\n3\n4", ("keep, drop, zero or a text file",)),
        (None, ("keep, drop, zero or a text file", "a file that does not exist")),
    ],
)
def test_class_maps_are_checked(content: Any, words: tuple[str, ...], tmp_path: Path) -> None:
    path = tmp_path / "map.txt"
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    state = build(V1.with_changes(num_classes=9)).state_dict()
    refused(build(V1.with_changes(num_classes=4)), state, *words, head=path)


def test_a_class_map_needs_both_heads(tmp_path: Path) -> None:
    (tmp_path / "map.txt").write_text("0\n")
    headless = V1.with_changes(num_classes=0)
    refused(build(headless), build(V1).state_dict(), "expected a model with a head", head=tmp_path / "map.txt")
    refused(
        build(V1.with_changes(num_classes=1)),
        build(headless).state_dict(),
        "a head in the file",
        head=tmp_path / "map.txt",
    )


# ---- parts that one side has not


def test_norms_of_stages_may_be_new_or_not_needed() -> None:
    plain, features = build(V1), build(V1.with_changes(feature_norms=(0, 1)), seed=1)
    report = load_weights(features, plain.state_dict())
    assert set(report.missing) == {f"norm{s}.{k}" for s in (0, 1) for k in ("weight", "bias")}
    report = load_weights(plain, features.state_dict())
    assert {why.partition(";")[0] for why in report.ignored.values()} == {"norm of a stage's output"}


def test_a_backbone_file_into_a_backbone(tmp_path: Path) -> None:
    model = build(V1.with_changes(feature_norms=(0, 1), num_classes=0))
    save_weights(model, tmp_path / "w.pth", "detection")
    other = build(model.config, seed=1)
    report = load_weights(other, tmp_path / "w.pth")
    assert set(report.missing) == {"norm.weight", "norm.bias"}
    x = images(32)
    for got, want in zip(other.features(x), model.features(x), strict=True):
        assert np.array_equal(got.numpy(), want.numpy())


def test_key_biases_of_torchvision_presets(tmp_path: Path) -> None:
    """q_bias and v_bias to a model with qkv.bias and back; a key bias that counts has no place."""
    plain, zeroed = build(V2), build(V2.with_changes(key_bias="zeroed"), seed=1)
    load_weights(zeroed, plain.state_dict())
    x = images(32)
    assert np.array_equal(zeroed(x).numpy(), plain(x).numpy())
    zeroed.layers[0].blocks[0].attn.qkv.bias.assign_(np.arange(24.0))
    save_weights(zeroed, tmp_path / "w.safetensors", "official")
    load_weights(plain, tmp_path / "w.safetensors")
    assert np.array_equal(plain.state_dict()["layers.0.blocks.0.attn.v_bias"], np.arange(16.0, 24.0))
    assert np.array_equal(zeroed(x).numpy(), plain(x).numpy())
    full = build(V2.with_changes(key_bias="full"))
    with pytest.raises(DialectError, match=r"no key bias in layers\.0\.blocks\.0\.attn\.qkv\.bias"):
        save_weights(full, tmp_path / "full.safetensors", "timm")
    assert not (tmp_path / "full.safetensors").exists()
