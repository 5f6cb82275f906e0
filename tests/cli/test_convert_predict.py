"""``python -m swinpy convert`` and ``predict``."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image
from support.image_files import picture, write_truncated
from support.swin.models import build

import autograd as ag
import swinpy
from swinpy import load_weights, save_weights
from swinpy.cli import main
from swinpy.data import prepare
from swinpy.io import read_checkpoint, read_weights, write_tensors
from swinpy.models import model_config
from swinpy.preparation import Preparation
from swinpy.weights import ModelInfo
from swinpy.weights.dialects import from_official

if TYPE_CHECKING:
    from pathlib import Path

NANO = model_config("swin_cifar_nano")


@pytest.fixture
def nano(tmp_path: Path) -> Path:
    """Official weights of a small known model."""
    save_weights(build(NANO, "float32"), tmp_path / "nano.pth")
    return tmp_path / "nano.pth"


def _run(capsys: Any, *arguments: object) -> tuple[int, str, str]:
    code = main([str(a) for a in arguments])
    out = capsys.readouterr()
    assert "Traceback" not in out.err
    return code, out.out, out.err


# ---- convert


@pytest.mark.parametrize("suffix", [".safetensors", ".pth", ".bin", ".pt"])
@pytest.mark.parametrize("dialect", ["timm", "torchvision", "hf", "simmim", "detection", "timm-old"])
def test_convert_there_and_back(dialect: str, suffix: str, nano: Path, tmp_path: Path, capsys: Any) -> None:
    code, out, _ = _run(capsys, "convert", nano, tmp_path / f"there{suffix}", "--to", dialect)
    assert code == 0
    assert "was official" in out
    assert read_checkpoint(tmp_path / f"there{suffix}").form == ("safetensors" if "safe" in suffix else "torch zip")
    code, out, _ = _run(capsys, "convert", tmp_path / f"there{suffix}", tmp_path / "back.pth", "--to", "official")
    assert code == 0
    want, got = read_weights(nano), read_weights(tmp_path / "back.pth")
    gone = {"simmim": ("head.",), "detection": ("head.", "norm.")}.get(dialect, ())
    assert set(got) == {k for k in want if not k.startswith(gone)} if gone else set(got) == set(want)
    for key, array in got.items():
        assert array.dtype == want[key].dtype
        assert array.tobytes() == want[key].tobytes(), key


def test_convert_says_what_it_drops(nano: Path, tmp_path: Path, capsys: Any) -> None:
    arrays = read_weights(nano)
    extra = {"mask_token": np.ones((1, 1, 16), np.float32), "norm0.weight": np.ones(16, np.float32)}
    write_tensors(tmp_path / "in.safetensors", {**arrays, **extra, "ema_decay": np.ones(1)})
    code, out, _ = _run(capsys, "convert", tmp_path / "in.safetensors", tmp_path / "out.pth", "--to", "timm")
    assert code == 0
    dropped = next(line for line in out.splitlines() if line.startswith("dropped"))
    assert dropped.split()[1] == "3"
    for word in ("ema_decay", "mask_token", "norm0.weight", "no key of the dialect official", "no such part"):
        assert word in dropped


def test_convert_keeps_dtypes(tmp_path: Path, capsys: Any) -> None:
    save_weights(build(NANO, "float16"), tmp_path / "half.pth", "timm")
    assert _run(capsys, "convert", tmp_path / "half.pth", tmp_path / "x.safetensors", "--to", "hf")[0] == 0
    assert {v.dtype for v in read_weights(tmp_path / "x.safetensors").values()} == {np.dtype("float16")}


def test_convert_says_that_bfloat16_became_float32(nano: Path, tmp_path: Path, capsys: Any) -> None:
    import json

    header, data = {}, b""
    for name, array in read_weights(nano).items():
        if array.dtype == np.float32:
            half = (array.view(np.uint32) >> 16).astype("<u2").tobytes()
            spot = [len(data), len(data) + len(half)]
            header[name], data = {"dtype": "BF16", "shape": array.shape, "data_offsets": spot}, data + half
    text = json.dumps(header).encode()
    (tmp_path / "bf.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + data)
    code, out, _ = _run(capsys, "convert", tmp_path / "bf.safetensors", tmp_path / "x.pth", "--to", "timm")
    assert code == 0
    assert "tensors are written as float32 instead of bfloat16" in out


def _v2_files(folder: Path) -> tuple[Path, Path]:
    """Official and transformers' files of a V2 that has two known windows, cut to zeros for speed."""
    config = model_config("swinv2_tiny_window8_256")
    model = build(config, "float32")
    save_weights(model, folder / "official.pth")
    save_weights(model, folder / "hf.bin", "hf")
    return folder / "official.pth", folder / "hf.bin"


def test_convert_tells_v2_by_its_buffers_or_asks(tmp_path: Path, capsys: Any) -> None:
    """Files of transformers do not say what the window is; official ones do by their buffers."""
    official, hf = _v2_files(tmp_path)
    code, out, _ = _run(capsys, "convert", official, tmp_path / "tv.pth", "--to", "torchvision")
    assert code == 0
    assert "several models" not in out
    assert len(read_weights(tmp_path / "tv.pth")) == 221 - 12 + 24  # q_bias and v_bias are one; index and coordinates
    code, out, _ = _run(capsys, "convert", hf, tmp_path / "x.pth", "--to", "official")
    assert code == 0
    assert "note: several models fit (swinv2_tiny_window8_256, swinv2_tiny_window16_256): no buffers" in out
    assert len(read_weights(tmp_path / "x.pth")) == 221
    named = ("--model", "swinv2_tiny_window8_256")
    assert _run(capsys, "convert", hf, tmp_path / "x.pth", "--to", "official", *named)[0] == 0
    got, want = read_weights(tmp_path / "x.pth"), read_weights(official)
    assert len(got) == 250
    assert all(np.array_equal(got[k], want[k]) for k in want)


def test_convert_refuses(nano: Path, tmp_path: Path, capsys: Any) -> None:
    for arguments, word in (
        ((nano, tmp_path / "x.npz", "--to", "timm"), "ends in .safetensors"),
        ((tmp_path / "none.pth", tmp_path / "x.pth", "--to", "timm"), "none.pth"),
        ((nano, tmp_path / "x.pth", "--to", "timm", "--from", "hf"), "expected a whole Swin in the dialect hf; got"),
        ((nano, tmp_path / "x.pth", "--to", "official", "--model", "swin_nano"), "swin_cifar_nano"),
    ):
        code, _, err = _run(capsys, "convert", *arguments)
        assert code == 2, arguments
        assert err.startswith("error: ")
        assert word in err
        assert not (tmp_path / "x.pth").exists()
    with pytest.raises(SystemExit):
        main(["convert", str(nano), "x.pth", "--to", "timm-v2-cr"])


@pytest.mark.parametrize("dialect", ["official", "torchvision", "hf", "timm"])
@pytest.mark.parametrize("name", ["swin_tiny_patch4_window7_224", "swinv2_tiny_window8_256"])
def test_convert_compares_the_model_with_the_weights(
    name: str, dialect: str, nano: Path, tmp_path: Path, capsys: Any
) -> None:
    """Buffers of the wrong model's shapes, for blocks that are not there, would be written without a word."""
    code, _, err = _run(capsys, "convert", nano, tmp_path / "x.pth", "--to", dialect, "--model", name)
    assert code == 2
    assert f"--model: expected weights of {name} (depths 2,2,6,2, 96 channels" in err
    assert "got Swin V1, patch 2" in err
    assert "These weights fit swin_cifar_nano." in err
    assert not (tmp_path / "x.pth").exists()
    assert _run(capsys, "convert", nano, tmp_path / "x.pth", "--to", dialect, "--model", "swin_cifar_nano")[0] == 0


def test_convert_compares_the_models_window_with_buffers(tmp_path: Path, capsys: Any) -> None:
    """V2's parameters do not depend on the window; only the buffers of official files tell."""
    official, _ = _v2_files(tmp_path)
    arguments = ("convert", official, tmp_path / "x.pth", "--to", "torchvision", "--model")
    code, _, err = _run(capsys, *arguments, "swinv2_tiny_window16_256")
    assert code == 2
    assert "whose buffers are those of another window or image size. These weights fit swinv2_tiny_window8_256." in err
    assert not (tmp_path / "x.pth").exists()
    assert _run(capsys, *arguments, "swinv2_tiny_window8_256")[0] == 0


def test_convert_does_not_write_over_its_input(nano: Path, tmp_path: Path, capsys: Any) -> None:
    before = nano.read_bytes()
    (tmp_path / "link.pth").symlink_to(nano)
    for target in (nano, tmp_path / "link.pth"):
        code, _, err = _run(capsys, "convert", nano, target, "--to", "simmim")
        assert code == 2
        assert f"expected a file to write other than the source; got {target} for both" in err
        assert nano.read_bytes() == before


def test_convert_speaks_of_itself_and_of_the_path_asked_for(nano: Path, tmp_path: Path, capsys: Any) -> None:
    _, hf = _v2_files(tmp_path)
    write_tensors(tmp_path / "other.safetensors", {"x": np.ones(1, np.float32)})
    for arguments, words in (
        ((hf, tmp_path / "x.pth", "--to", "mmdet"), "expected V1 for the dialect mmdet"),
        ((tmp_path / "other.safetensors", tmp_path / "x.pth", "--to", "timm"), "expected the keys of a Swin"),
        ((tmp_path / "none.pth", tmp_path / "x.pth", "--to", "timm"), "none.pth"),
    ):
        code, _, err = _run(capsys, "convert", *arguments)
        assert code == 2
        assert err.startswith("error: convert_weights: ")
        assert words in err
    code, _, err = _run(capsys, "convert", nano, tmp_path / "no" / "x.pth", "--to", "timm")
    assert code == 2
    assert f"expected to write {tmp_path / 'no' / 'x.pth'}; got no folder {tmp_path / 'no'}. Make it first" in err


# ---- predict


def _lines(out: str) -> list[tuple[float, str]]:
    return [(float(m[1]), m[2]) for m in re.finditer(r"^ +([\d.]+)%  (.*)$", out, re.M)]


def test_predict_prints_the_best_five(nano: Path, tmp_path: Path, capsys: Any) -> None:
    picture(3).save(tmp_path / "a.png")
    code, out, err = _run(capsys, "predict", tmp_path / "a.png", "--weights", nano)
    assert code == 0
    assert err == (
        f"note: {nano} does not say how its images were prepared; assumed, as with preset 'official' for 32x32: "
        "resized to 32x32 (bicubic), mean 0.4914, 0.4822, 0.4465, std 0.247, 0.2435, 0.2616\n"
    )
    assert out.splitlines()[0] == str(tmp_path / "a.png")
    found = _lines(out)
    model = build(NANO, "float32", seed=2)
    load_weights(model, nano)
    x = prepare(Image.open(tmp_path / "a.png").convert("RGB"), swinpy.eval_config("swin_cifar_nano"))
    want = ag.softmax(model(x[None])).numpy()[0]
    order = np.argsort(-want)[:5]
    assert [name for _, name in found] == [f"class {i}" for i in order]
    np.testing.assert_allclose([p for p, _ in found], 100 * want[order], atol=0.006)


def test_predict_names_classes_and_models(nano: Path, tmp_path: Path, capsys: Any) -> None:
    picture(3).save(tmp_path / "a.png")
    (tmp_path / "names.txt").write_text("\n".join(f"animal {i}" for i in range(10)))
    arguments = ("predict", tmp_path / "a.png", "--weights", nano, "--model", "swin_cifar_nano")
    code, out, _ = _run(capsys, *arguments, "--classes", tmp_path / "names.txt")
    assert code == 0
    assert all(name.startswith("animal ") for _, name in _lines(out))
    (tmp_path / "names.txt").write_text("one\ntwo\n")
    code, _, err = _run(capsys, *arguments, "--classes", tmp_path / "names.txt")
    assert code == 2
    assert "expected 10 lines, one for each class of the weights; got 2" in err


@pytest.mark.parametrize("classes", [1, 3])
def test_predict_with_fewer_than_five_classes(classes: int, tmp_path: Path, capsys: Any) -> None:
    save_weights(build(NANO.with_changes(num_classes=classes), "float32"), tmp_path / "w.safetensors", "hf")
    picture(3).save(tmp_path / "a.png")
    code, out, _ = _run(capsys, "predict", tmp_path / "a.png", "--weights", tmp_path / "w.safetensors")
    assert code == 0
    assert len(_lines(out)) == classes
    assert sum(p for p, _ in _lines(out)) == pytest.approx(100, abs=0.02)


def test_predict_goes_on_after_a_bad_image(nano: Path, tmp_path: Path, capsys: Any) -> None:
    good = tmp_path / "good.png"
    picture(3).save(good)
    (tmp_path / "text.jpg").write_text("no image")
    (tmp_path / "empty.png").write_bytes(b"")
    bad = [write_truncated(tmp_path / "cut.jpg"), tmp_path / "text.jpg", tmp_path / "empty.png", tmp_path / "none.jpg"]
    code, out, err = _run(capsys, "predict", *bad, good, tmp_path, "--weights", nano)
    assert code == 2
    assert str(good) in out
    messages = err.splitlines()[1:]  # after the note of what is assumed
    assert len(messages) == len(bad) + 1
    for message, path in zip(messages, [*bad, tmp_path], strict=True):
        assert message.startswith(f"error: image: expected a whole image in {path}; got ")


def test_predict_refuses_an_image_that_would_fill_the_memory(nano: Path, tmp_path: Path, capsys: Any) -> None:
    """A file of some hundred bytes: with a shorter side of 1 pixel, the longer one grows without bounds."""
    by = Preparation(36, (32, 32), "bicubic", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    save_weights(build(NANO, "float32"), nano, info=ModelInfo(NANO, by))
    Image.new("RGB", (1, 60000)).save(tmp_path / "narrow.png")
    Image.new("RGB", (20, 400)).save(tmp_path / "tall.png")
    code, out, err = _run(capsys, "predict", tmp_path / "narrow.png", tmp_path / "tall.png", "--weights", nano)
    assert code == 2
    assert err.startswith(f"error: image: expected a whole image in {tmp_path / 'narrow.png'}; got one of 1x60000")
    assert "too long and narrow" in err
    assert len(err.splitlines()) == 1
    assert str(tmp_path / "tall.png") in out
    assert len(_lines(out)) == 5


def test_predict_names_a_missing_list_of_classes(nano: Path, tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "names.bin").write_bytes(b"\xff\xfe")
    for name, words in (("none.txt", "No such file"), ("names.bin", "no text in UTF-8")):
        code, _, err = _run(capsys, "predict", "a.png", "--weights", nano, "--classes", tmp_path / name)
        assert code == 2
        assert f"\nerror: --classes: expected a text file with one class name a line in {tmp_path / name}" in err
        assert words in err


def test_predict_needs_a_head_and_a_known_model(tmp_path: Path, capsys: Any) -> None:
    picture(3).save(tmp_path / "a.png")
    for config, word in (
        (NANO.with_changes(num_classes=0), "expected weights with a head"),
        (NANO.with_changes(depths=(2, 2), num_heads=(1, 2)), "expected weights of a known model; got Swin V1, patch 2"),
    ):
        save_weights(build(config, "float32"), tmp_path / "w.pth", "timm")  # which has no place to say what it is
        code, _, err = _run(capsys, "predict", tmp_path / "a.png", "--weights", tmp_path / "w.pth")
        assert code == 2
        assert word in err


def test_predict_says_which_faults_a_preset_has(nano: Path, tmp_path: Path, capsys: Any) -> None:
    picture(3).save(tmp_path / "a.png")
    code, _, err = _run(capsys, "predict", tmp_path / "a.png", "--weights", nano, "--preset", "timm")
    assert code == 0
    assert err.startswith("note: preset='timm' reproduces a fault")


def test_prepare_resizes_crops_and_normalises() -> None:
    image = picture(1, (90, 120))
    config = Preparation(40, (32, 24), "bilinear", (0.5, 0.4, 0.3), (0.2, 0.25, 0.5))
    x = prepare(image, config)
    small = image.resize((53, 40), Image.Resampling.BILINEAR).crop((14, 4, 38, 36))
    want = (np.asarray(small, np.float64).transpose(2, 0, 1) / 255 - np.reshape(config.mean, (3, 1, 1))) / np.reshape(
        config.std, (3, 1, 1)
    )
    assert x.dtype == np.float32
    np.testing.assert_allclose(x, want, atol=1e-5)
    direct = prepare(image, Preparation((32, 24), None, "bicubic", config.mean, config.std))
    assert direct.shape == (3, 32, 24)


def test_without_pillow_the_extra_is_named(nano: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "PIL", None)
    code, _, err = _run(capsys, "predict", "a.png", "--weights", nano)
    assert code == 2
    assert "pip install 'swinpy[image]'" in err


def test_every_published_model_is_told_apart_by_its_official_file() -> None:
    """By shapes and buffers; of those that say nothing of the window, several fit."""
    from support.swin.models import shapes_only

    from swinpy.weights.describe import geometry_of
    from swinpy.weights.dialects import to_official
    from swinpy.weights.identify import matching_models

    for name in swinpy.list_models("swin*_[ts]*_*"):
        with shapes_only():
            model = swinpy.create_model(name)
        arrays = from_official(model.state_dict(), "official", geometry_of(model.config)).arrays
        assert matching_models(to_official(arrays)) == [name]


# ---- a network in another model


def test_convert_and_inspect_take_a_prefix(nano: Path, tmp_path: Path, capsys: Any) -> None:
    state = {f"{part}.net.{k}": v for part in ("student", "teacher") for k, v in read_weights(nano).items()}
    state["n_averaged"] = np.array(3)
    write_tensors(tmp_path / "two.safetensors", state)
    arguments = ("convert", tmp_path / "two.safetensors", tmp_path / "one.safetensors", "--to", "timm")
    code, _, err = _run(capsys, *arguments)
    assert code == 2
    assert "got 2, under 'student.net.', 'teacher.net.'. Choose one with prefix= (--prefix of 'python -m swinpy" in err
    code, out, _ = _run(capsys, *arguments, "--prefix", "teacher")
    assert code == 0
    assert "of another part of the file's model: not under teacher.net." in out
    assert "an integer or a counter, no weight" in out
    model = build(NANO, "float32", seed=3)
    load_weights(model, tmp_path / "one.safetensors")
    assert all(np.array_equal(a, read_weights(nano)[k]) for k, a in model.state_dict().items())
    _, out, _ = _run(capsys, "inspect", tmp_path / "two.safetensors")
    assert "dialect:" not in out
    _, out, _ = _run(capsys, "inspect", tmp_path / "two.safetensors", "--prefix", "student.")
    assert "dialect: official, under student.net.; model: swin_cifar_nano, 10 classes" in out
