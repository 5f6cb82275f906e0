"""load_weights and save_weights: what is refused, with which words, and that nothing is left half done."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from support.swin.models import build
from support.swin.weights import TABLE, V1, V2, arrays_of, assert_equal, refused

from swinpy import WeightsError, load_weights, save_weights
from swinpy.io import read_weights, write_tensors
from swinpy.nn import Parameter
from swinpy.weights.dialects import DialectError

if TYPE_CHECKING:
    from pathlib import Path


# ---- refusals


def test_another_network_is_described() -> None:
    text = refused(
        build(V1),
        build(V1.with_changes(embed_dim=16, depths=(2, 4), num_classes=9)).state_dict(),
        "Swin V1, patch 2, 16 channels, depths 2,4, heads 2,4, windows 4,4, 9 classes",
        "Swin V1, patch 2, 8 channels, depths 2,2, heads 2,4, windows 4,4, 6 classes",
        "create the network of the file",
    )
    assert len(text.splitlines()) < 12


def _check_fit(text: str, letter: str) -> None:
    assert letter * 201 not in text  # a name is cut
    assert text.replace("\n", "").isprintable()


@pytest.mark.parametrize("letter", ["k", "\x1b", "\u4e00"])
def test_what_a_file_chose_is_short_and_printable(letter: str) -> None:
    """Keys under a prefix of a thousand letters, of which some do not fit, some are lacking and some are others."""
    prefix = letter * 1000
    state = {f"{prefix}.{name}": array for name, array in build(V1).state_dict().items()}
    good = dict(state)
    state |= {f"{prefix}.patch_embed.proj.bias": np.ones(3), f"{prefix}.x{letter * 900}": np.ones(2)}
    del state[f"{prefix}.norm.weight"]
    text = refused(build(V1), state, "expected (8,); got (3,)", "norm.weight", "under ")
    _check_fit(text, letter)
    twice = {**good, f"{prefix}.module.norm.weight": good[f"{prefix}.norm.weight"]}
    _check_fit(refused(build(V1), twice, "expected one key for norm.weight"), letter)
    _check_fit(str(load_weights(build(V1), {**good, f"other.{letter * 1000}": np.ones(2)})), letter)


def test_v1_into_v2_and_back() -> None:
    refused(build(V2), build(V1).state_dict(), "the network of the file (Swin V1", "(Swin V2")
    refused(build(V1), build(V2).state_dict(), "the network of the file (Swin V2", "(Swin V1", "a V2 model has it")


@pytest.mark.parametrize(
    ("changes", "key", "hint"),
    [
        ({"position": "absolute"}, TABLE, "position='relative' or 'both'"),
        ({"position": "relative"}, "absolute_pos_embed", "position='absolute' or 'both'"),
        ({"position": "both", "qkv_bias": False}, "layers.0.blocks.0.attn.qkv.bias", "qkv_bias=True"),
    ],
)
def test_tensors_that_the_model_was_built_without(changes: dict[str, Any], key: str, hint: str) -> None:
    state = build(V1.with_changes(position="both")).state_dict()
    model = build(V1.with_changes(**changes))
    refused(model, state, f"{key}: no parameter of the model ({hint}", "strict=False")
    report = load_weights(model, state, strict=False)
    assert key in report.unexpected


def test_missing_and_unexpected_keys() -> None:
    state: dict[str, Any] = dict(build(V1).state_dict())
    del state["layers.1.blocks.0.norm1.bias"]
    state["extra.weight"] = np.ones(3)
    model = build(V1, seed=1)
    refused(
        model,
        state,
        "extra.weight: no key of the dialect official",
        "layers.1.blocks.0.norm1.bias: expected in the file; got nothing",
        "strict=False keeps the model's own",
        "strict=False leaves unexpected keys out",
    )
    before = model.state_dict()["layers.1.blocks.0.norm1.bias"].copy()
    report = load_weights(model, state, strict=False)
    assert report.missing == {"layers.1.blocks.0.norm1.bias": "not in the file: the model's own"}
    assert report.unexpected == {"extra.weight": "no key of the dialect official"}
    assert np.array_equal(model.state_dict()["layers.1.blocks.0.norm1.bias"], before)
    assert np.array_equal(model.state_dict()["norm.bias"], state["norm.bias"])


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_weights_that_are_not_finite_are_refused(value: float, dtype: str, strict: bool) -> None:
    state = arrays_of(build(V1))
    state["layers.0.blocks.1.mlp.fc1.weight"][3, 2] = value
    refused(
        build(V1, dtype),
        state,
        "layers.0.blocks.1.mlp.fc1.weight: expected finite numbers; got 1 NaN or infinite of 128 in the file",
        strict=strict,
    )


def test_values_that_a_dtype_cannot_hold_are_refused() -> None:
    state = arrays_of(build(V1))
    state["norm.bias"][0] = 1e6
    refused(build(V1, "float16"), state, "norm.bias", "after casting float64 to float16", "dtype='float32'")


@pytest.mark.parametrize("dtype", [np.int64, np.bool_, np.complex64])
def test_what_is_no_float_is_refused(dtype: Any) -> None:
    state = arrays_of(build(V1))
    state["norm.bias"] = np.ones(16, dtype)
    refused(build(V1), state, f"norm.bias: expected floats; got {np.dtype(dtype)}")


@pytest.mark.parametrize("shape", [(), (16, 1), (8,), (0,)])
def test_other_shapes_are_refused(shape: tuple[int, ...]) -> None:
    state = arrays_of(build(V1))
    state["norm.bias"] = np.ones(shape)
    refused(build(V1), state, f"norm.bias: expected (16,); got {shape}", strict=False)


@pytest.mark.parametrize("shape", [(48, 2), (49, 4), (16, 2), (49,), (0, 2)])
def test_tables_of_no_square_window_are_refused(shape: tuple[int, ...]) -> None:
    state = arrays_of(build(V1))
    state[TABLE] = np.ones(shape)
    refused(
        build(V1), state, f"{TABLE}: expected (49, 2), or a table of another square window for 2 heads; got {shape}"
    )


def test_saving_refuses_what_is_not_finite_and_leaves_the_file(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    write_tensors(path, {"x": np.ones(1)})
    model = build(V1)
    model.norm.bias.assign_(np.full(16, np.nan))
    with pytest.raises(ValueError, match=r"finite weights; got NaN or infinity in norm\.bias"):
        save_weights(model, path)
    assert set(read_weights(path)) == {"x"}


@pytest.mark.parametrize(
    ("name", "dialect", "word"), [("w.npz", "timm", r"ends in \.safetensors"), ("w.pth", "x", "got 'x'")]
)
def test_saving_names_suffixes_and_dialects(name: str, dialect: str, word: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=word):
        save_weights(build(V1), tmp_path / name, dialect)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("model", [None, "swin_tiny", object()])
def test_what_is_no_model_is_named(model: Any) -> None:
    with pytest.raises(
        TypeError, match=rf"expected a model of swinpy; got {type(model).__name__}\. Pass the model first"
    ):
        load_weights(model, {})


def test_words_for_head_and_resize_are_listed(tmp_path: Path) -> None:
    (tmp_path / "map.bin").write_bytes(bytes(range(256)))
    state = build(V1).state_dict()
    refused(build(V1), state, "got 'foo', a file that does not exist. Choose one of the words", head="foo")
    text = refused(build(V1), state, "map.bin', which is no text. Choose", head=tmp_path / "map.bin")
    assert "codec" not in text
    refused(build(V1), state, "got 'nearest'. Leave it out for 'bicubic'", resize="nearest")


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_missing_folder_is_told_by_the_path_that_was_asked_for(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / "none" / f"w{suffix}"
    with pytest.raises(FileNotFoundError) as caught:
        save_weights(build(V1), path)
    assert str(caught.value) == (
        f"write_weights: expected to write {path}; got no folder {path.parent}. Make it first, or choose another."
    )


def test_v2_for_a_library_without_it(tmp_path: Path) -> None:
    with pytest.raises(
        DialectError, match=r"expected V1 for the dialect mmdet.* official, .*timm, .*torchvision, hf, mmpretrain-v2\.$"
    ):
        save_weights(build(V2), tmp_path / "w.pth", "mmdet")


# ---- all or nothing


@pytest.mark.parametrize("at", [0, 1, 17, -1])
@pytest.mark.parametrize("error", [MemoryError, KeyboardInterrupt, ValueError])
def test_a_fault_in_the_middle_of_writing_undoes_it(
    at: int, error: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, state = build(V1), build(V1, seed=1).state_dict()
    before = arrays_of(model)
    assign, calls, count = Parameter.assign_, [], len(before)

    def faulty(self: Any, value: Any) -> Any:
        calls.append(None)
        if len(calls) == at % count + 1:
            self.data.reshape(-1)[: self.size // 2] = 7.0  # half of it was written
            raise error
        return assign(self, value)

    monkeypatch.setattr(Parameter, "assign_", faulty)
    with pytest.raises(error):
        load_weights(model, state)
    monkeypatch.undo()
    assert len(calls) > at % count
    assert_equal(model, before)


def test_parameters_that_cannot_be_written_to() -> None:
    model = build(V1)
    model.norm.bias.data.flags.writeable = False
    refused(model, build(V1, seed=1).state_dict(), "got read-only norm.bias")


def test_sources_are_not_kept_or_changed() -> None:
    """The model's arrays are its own: a later write to the source does not reach it, nor the other way."""
    source = arrays_of(build(V1))
    copies = {k: v.copy() for k, v in source.items()}
    model = build(V1, seed=1)
    load_weights(model, source)
    for array in source.values():
        array += 1
    assert_equal(model, copies)


def test_weights_error_is_a_value_error() -> None:
    assert issubclass(WeightsError, ValueError)
    assert issubclass(DialectError, ValueError)
