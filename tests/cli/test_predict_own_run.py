"""Weights of a run say how they are used: ``predict`` sees what the run's evaluation saw, to the bit."""

from __future__ import annotations

import json
import shlex
import shutil
import warnings
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image
from support.image_files import picture, write_folder
from support.predictions import answers, predict

import autograd as ag
import swinpy
from swinpy.cli import main as command
from swinpy.data import catalog, open_image, prepare, write_cifar_binary
from swinpy.data.cifar.layouts import CIFAR10, CIFAR100
from swinpy.io import read_tensors, write_weights
from swinpy.preparation import Preparation
from swinpy.snapshots.store import SnapshotStore, load_snapshot
from swinpy.train.main import main as train
from swinpy.train.options import parse_options
from swinpy.train.setup import build_run
from swinpy.weights import ModelInfo, load_model, read_model_info, save_weights
from swinpy.weights.info import METADATA, info_of_metadata

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from swinpy.train.setup import Run

NANO = "--model swin_cifar_nano -b 4 --epochs 1 --warmup-epochs 0 --no-plots --progress none"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Every dataset, but small: a few records of CIFAR, 15 scenes, three classes of files."""
    root = tmp_path_factory.mktemp("data")
    write_folder(root)
    formats = {}
    rng = np.random.default_rng(0)
    for fmt in (CIFAR10, CIFAR100):
        small = replace(fmt, train_records=6, test_records=4)
        archive = small.archives[0]
        (root / archive.folder).mkdir()
        for name in (*archive.train, *archive.test):
            records = 4 if name in archive.test else 6
            path = root / archive.folder / name
            write_cifar_binary(path, rng.integers(0, 256, (records, 3, 32, 32), np.uint8), rng.integers(0, 10, records))
            if fmt.coarse_classes:
                rows = np.frombuffer(path.read_bytes(), np.uint8).reshape(records, -1)
                path.write_bytes(np.insert(rows, 0, 1, axis=1).tobytes())
        formats[fmt.name] = small
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(catalog, "CIFAR10", formats["cifar10"])
        patch.setattr(catalog, "CIFAR100", formats["cifar100"])
        patch.setattr(catalog, "load_scenes", partial(catalog.load_scenes, train=10, test=5))
        yield root


def _argv(data: Path, options: str) -> list[str]:
    return [*shlex.split(options), "--data-dir", str(data)]


def _files(run: Run, folder: Path) -> list[Path]:
    """The first test images as files: those of a folder, others written at their own size."""
    images = run.test.images
    if not isinstance(images, np.ndarray):
        return list(images.paths[:5])
    paths = [folder / f"{i}.png" for i in range(min(5, len(images)))]
    for path, image in zip(paths, images, strict=False):
        Image.fromarray(image.transpose(1, 2, 0)).save(path)
    return paths


# Every dataset, and every option that changes what a model is shown or what it is.
OPTIONS = [
    *(f"--dataset {name} {NANO}" for name in ("digits", "scenes", "cifar10", "cifar100", "folder")),
    f"--dataset digits {NANO} --val-subset 3 --train-subset 8",
    f"--dataset cifar10 {NANO} --no-aug",
    f"--dataset scenes {NANO} --overfit-batches 1",
    f"--dataset folder {NANO} --overfit-batches 1",
    f"--dataset folder {NANO} --no-aug",
    f"--dataset folder {NANO} --num-classes 5",
    *(f"--dataset folder {NANO} --img-size {size}" for size in (16, 33, 40, 64, 96, 384)),
    f"--dataset folder {NANO} --depths 1,1 --num-heads 2,4 --img-size 48",
    f"--dataset folder {NANO} --embed-dim 8 --num-heads 1,2,4",
    f"--dataset folder {NANO} --window-size 3 --patch-size 4 --img-size 50",
    f"--dataset folder {NANO} --drop 0.1 --drop-path 0.2 --grad-checkpointing",
    "--dataset folder --model swin_tiny_patch4_window7_224 --depths 1,1,1,1 --embed-dim 12 --num-heads 1,1,1,1 -b 4",
    "--dataset folder --model swinv2_tiny_window8_256 --depths 1,1 --embed-dim 12 --num-heads 1,1 -b 4 --img-size 100",
]


@pytest.mark.parametrize("options", OPTIONS)
def test_evaluation_and_prediction_see_the_same_pixels(options: str, data: Path, tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # about small maps
        run = build_run(parse_options(_argv(data, options)))
    info = info_of_metadata(run.info.metadata(1 << 20), 1 << 20, "memory")
    assert info == run.info
    assert info.config == run.model.config
    assert info.class_names == run.test.class_names
    assert info.preparation is not None
    seen = next(run.eval_loader.epoch(0)).images
    for want, path in zip(seen, _files(run, tmp_path), strict=False):
        given = prepare(open_image(path), info.preparation)
        assert given.dtype == want.dtype
        np.testing.assert_array_equal(given.view(np.uint32), want.view(np.uint32))


# ---- a run from its first command to an answer

SHAPE = "--depths 1,1 --num-heads 2,4 --patch-size 4 --img-size 48 --max-steps 2 --experiment run"


@pytest.fixture(scope="module")
def trained(data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str], Any]:
    """Folder of a run of changed depths, heads, patches and size; its command; what it evaluated to, by file."""
    output = tmp_path_factory.mktemp("out")
    argv = _argv(data, f"--dataset folder {NANO} {SHAPE} --output {output}")
    assert train(argv, prog="x") == 0
    run = build_run(parse_options(argv))
    state, _ = read_tensors(output / "run" / "snapshots" / "step-00000002" / "model.safetensors")
    run.model.load_state_dict(state)
    run.model.eval()
    with ag.no_grad():
        batches = [ag.softmax(run.model(batch.images)).numpy() for batch in run.eval_loader.epoch(0)]
    probabilities = np.concatenate(batches)
    return output / "run", argv, list(zip(run.test.images.paths, probabilities, strict=True))


def _check(answer: tuple[int, str, str], probabilities: Any) -> None:
    """The classes by their names, with the probabilities of the run's evaluation."""
    code, out, err = answer
    assert code == 0, err
    order = np.argsort(-probabilities, kind="stable")
    want = [(f"{100 * float(probabilities[i]):.2f}", ("Bee", "ant", "cat")[i]) for i in order]
    assert [(f"{p:.2f}", name) for p, name in answers(out)] == want


def _model_file(run: Path) -> Path:
    return run / "snapshots" / "step-00000002" / "model.safetensors"


def test_a_file_that_was_copied_answers_as_the_evaluation_did(trained: Any, tmp_path: Path, capsys: Any) -> None:
    run, _, evaluated = trained
    shutil.copy(_model_file(run), tmp_path / "mine.safetensors")
    for image, probabilities in evaluated:
        answer = predict(capsys, image, "--weights", tmp_path / "mine.safetensors")
        _check(answer, probabilities)
        assert answer[2] == ""


@pytest.mark.parametrize("where", ["", "snapshots", "snapshots/latest", "snapshots/step-00000002", "link"])
def test_folders_stand_for_the_file(where: str, trained: Any, tmp_path: Path, capsys: Any) -> None:
    run, _, evaluated = trained
    weights = run / where
    if where == "link":
        weights = tmp_path / "link"
        weights.symlink_to(run / "snapshots" / "step-00000002")
    image, probabilities = evaluated[0]
    answer = predict(capsys, image, "--weights", weights)
    _check(answer, probabilities)
    said = f"note: {run}: its snapshot step-00000002 is taken, the newest, as none is marked as best\n"
    assert answer[2] == (said if where in ("", "snapshots") else "")


def test_a_run_whose_last_epoch_was_cut_short_gives_its_best_snapshot(data: Path, tmp_path: Path, capsys: Any) -> None:
    """The newest one is said where none was evaluated; a damaged one is passed over and said."""
    argv = _argv(data, f"--dataset digits --train-subset 12 --val-subset 4 {NANO} --output {tmp_path} --experiment r")
    assert train([*argv, "--max-steps", "3"]) == 0
    store = SnapshotStore(tmp_path / "r")
    model = store.load().groups["model"]
    metadata = {"model": {METADATA: read_tensors(_one(tmp_path / "r", 3))[1][METADATA]}}
    store.save(7, {"model": model}, {}, metadata=metadata)
    digit = tmp_path / "digit.png"
    picture(1, (32, 32)).save(digit)
    _, _, err = predict(capsys, digit, "--weights", tmp_path / "r")
    assert "its snapshot step-00000003 is taken, the best by top-1" in err
    _one(tmp_path / "r", 3).write_bytes(b"")
    code, _, err = predict(capsys, digit, "--weights", tmp_path / "r")
    assert code == 0
    assert "its snapshot step-00000007 is taken, the newest, as none is marked as best" in err
    assert "step-00000003 skipped" in err
    _one(tmp_path / "r", 7).write_bytes(b"")
    code, _, err = predict(capsys, digit, "--weights", tmp_path / "r")
    assert code == 2
    assert err.startswith("error: load snapshot: expected a good one in")


def _one(run: Path, step: int) -> Path:
    return run / "snapshots" / f"step-{step:08d}" / "model.safetensors"


def test_folders_that_hold_no_weights_are_refused(trained: Any, tmp_path: Path, capsys: Any) -> None:
    image = trained[2][0][0]
    code, _, err = predict(capsys, image, "--weights", tmp_path)
    assert code == 2
    assert f"expected a file, a snapshot's folder or a run's; got the folder {tmp_path}" in err
    (tmp_path / "snapshots").mkdir()
    code, _, err = predict(capsys, image, "--weights", tmp_path)
    assert code == 2
    assert f"expected a good one in {tmp_path / 'snapshots'}; got none" in err


def test_the_closing_line_is_the_command_to_predict(trained: Any, data: Path, tmp_path: Path, capsys: Any) -> None:
    assert train(_argv(data, f"--dataset folder {NANO} {SHAPE} --output '{tmp_path}/a b'")) == 0
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("to predict: "))
    words = shlex.split(line.removeprefix("to predict: "))
    assert words[:3] == ["python", "-m", "swinpy"]
    assert words[-1] == "IMAGE..."
    assert command([*words[3:-1], str(trained[2][0][0])]) == 0


CONVERSIONS = [
    ("timm", ".safetensors"),
    ("official", ".safetensors"),
    ("hf", ".safetensors"),
    ("torchvision", ".safetensors"),
    ("official", ".pth"),
]


@pytest.mark.parametrize(("dialect", "suffix"), CONVERSIONS)
def test_what_is_converted_answers_as_before(
    dialect: str, suffix: str, trained: Any, tmp_path: Path, capsys: Any
) -> None:
    run, _, evaluated = trained
    target = tmp_path / f"w{suffix}"
    assert command(["convert", str(run), str(target), "--to", dialect]) == 0
    assert "no place for configuration" not in capsys.readouterr().out
    again = tmp_path / f"again{suffix}"
    assert command(["convert", str(target), str(again), "--to", "official"]) == 0
    assert read_model_info(target) == read_model_info(again) == read_model_info(run)
    image, probabilities = evaluated[1]
    for file in (target, again):
        answer = predict(capsys, image, "--weights", file)
        _check(answer, probabilities)
        assert answer[2] == ""


def test_a_layout_without_a_place_says_so(trained: Any, tmp_path: Path, capsys: Any) -> None:
    run, _, _ = trained
    assert command(["convert", str(run), str(tmp_path / "w.pth"), "--to", "timm"]) == 0
    assert "note: a torch file of this layout has no place for configuration" in capsys.readouterr().out
    assert read_model_info(tmp_path / "w.pth") is None
    loaded = load_model(run)
    report = save_weights(loaded.model, tmp_path / "v.pth", "timm", info=loaded.info)
    assert "no place for configuration" in str(report)
    report = save_weights(loaded.model, tmp_path / "v.safetensors", "simmim", info=loaded.info)
    info = read_model_info(tmp_path / "v.safetensors")
    assert info is not None
    assert (info.config.num_classes, info.class_names) == (0, ())
    assert info.preparation == loaded.preparation


def test_inspect_shows_what_a_file_says(trained: Any, tmp_path: Path, capsys: Any) -> None:
    run, _, _ = trained
    for path in (run, _model_file(run)):
        assert command(["inspect", str(path)]) == 0
        out = capsys.readouterr().out
        for line in (
            "trained on: folder",
            "classes: Bee, ant, cat",
            "images: shorter side resized to 54 (bicubic), 48x48 cropped from the centre, mean 0.485, 0.456, 0.406, "
            "std 0.229, 0.224, 0.225",
        ):
            assert line in out.splitlines()
        assert "model: swin_cifar_nano, SwinConfig(img_size=48, num_classes=3, " in out
        assert '"config"' not in out, "as text and not as JSON"


def test_load_model_gives_the_model_and_its_preparation(trained: Any) -> None:
    run, _, evaluated = trained
    loaded = load_model(run, dtype="float64")
    assert loaded.model.dtype == np.float64
    assert not loaded.model.training
    image, probabilities = evaluated[0]
    x = prepare(open_image(image), loaded.preparation)[None].astype(np.float64)
    np.testing.assert_allclose(ag.softmax(loaded.model(x)).numpy()[0], probabilities, atol=1e-5)
    assert len(loaded.report.used) == len(dict(loaded.model.named_parameters()))


def test_a_name_or_a_preset_goes_before_what_the_file_says(trained: Any, tmp_path: Path, capsys: Any) -> None:
    model = swinpy.create_model("swin_cifar_nano", 3)
    by = Preparation((16, 16), None, "bilinear", (0.1, 0.2, 0.3), (1.0, 1.0, 1.0))
    save_weights(model, tmp_path / "w.safetensors", info=ModelInfo(model.config, by, ("a", "b", "c")))
    assert load_model(tmp_path / "w.safetensors").preparation == by
    for options in ({"name": "swin_cifar_nano"}, {"preset": "timm"}):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            loaded = load_model(tmp_path / "w.safetensors", **options)
        assert loaded.preparation.size == (32, 32)
        assert "what it says of itself is not used" in loaded.notes[0]


def test_snapshots_of_before_use_the_state_beside_them(trained: Any, tmp_path: Path, capsys: Any) -> None:
    run, _, evaluated = trained
    old = SnapshotStore(tmp_path / "old")
    snapshot = load_snapshot(_model_file(run).parent)
    config = json.loads(read_tensors(_model_file(run))[1][METADATA])["config"]
    snapshot.state["model_config"] = config
    folder = old.save(2, snapshot.groups, snapshot.state)
    image, probabilities = evaluated[0]
    code, out, err = predict(capsys, image, "--weights", folder / "model.safetensors")
    assert (code, err) == (0, "")
    want = np.sort(100 * probabilities)[::-1]
    np.testing.assert_allclose([p for p, _ in answers(out)], want, atol=0.006)
    assert {name for _, name in answers(out)} == {"class 0", "class 1", "class 2"}
    digits = {**snapshot.state, "options": {**snapshot.state["options"], "dataset": "digits"}}
    folder = old.save(3, snapshot.groups, digits)
    code, _, err = predict(capsys, image, "--weights", folder)
    assert code == 0
    assert "does not say how its images were prepared; assumed" in err
    folder = old.save(4, snapshot.groups, {"options": [], "model_config": {}})
    code, _, err = predict(capsys, image, "--weights", folder)
    assert code == 2
    assert err.startswith(f"error: model info: expected the state of a run in {folder / 'state.json'}")


# ---- the training program, which evaluates and starts from such weights


def _trains(capsys: Any, *arguments: object) -> tuple[int, str, str]:
    capsys.readouterr()
    code = train([str(a) for a in arguments], prog="x")
    said = capsys.readouterr()
    assert "Traceback" not in said.err
    return code, said.out, said.err


def _score(out: str) -> str:
    return next(line for line in reversed(out.splitlines()) if line.startswith("test loss "))


@pytest.fixture(scope="module")
def elsewhere(trained: Any, data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[list[str], Path]:
    """What evaluates a folder of images without a word about the model, and the run's weights under another name."""
    folder = tmp_path_factory.mktemp("elsewhere")
    shutil.copy(_model_file(trained[0]), folder / "mine.safetensors")
    return _argv(data, f"--dataset folder --eval --output {folder}"), folder / "mine.safetensors"


@pytest.mark.parametrize("by", ["file", "resume", "run"])
def test_eval_does_as_the_weights_say(by: str, trained: Any, elsewhere: Any, capsys: Any) -> None:
    """Of the model, the size and the normalisation, of which the command line says nothing."""
    run, argv, _ = trained
    code, out, _ = _trains(capsys, *argv, "--eval", "--resume")
    assert code == 0
    want = _score(out)
    bare, file = elsewhere
    given = {
        "file": ("--initial-checkpoint", file),
        "resume": ("--resume", _model_file(run).parent),
        "run": ("--output", run.parent, "--experiment", "run"),
    }[by]
    code, out, err = _trains(capsys, *bare, *given)
    assert (code, err) == (0, "")
    assert _score(out) == want
    assert "says that it is a swin_cifar_nano: evaluated as that, not as swin_tiny_patch4_window7_224" in out
    assert "\nmodel swin_cifar_nano: " in out
    assert "48x48, 3 classes" in out


def test_an_option_goes_before_what_the_weights_say(elsewhere: Any, capsys: Any) -> None:
    bare, file = elsewhere
    bare = [*bare, "--initial-checkpoint", file, "--model", "swin_cifar_nano"]
    scores = {}
    for size in (48, 32):
        code, out, _ = _trains(capsys, *bare, "--img-size", size)
        assert code == 0
        assert f"{size}x{size}, 3 classes" in out
        scores[size] = _score(out)
    assert _score(_trains(capsys, *bare)[1]) == scores[48] != scores[32]


def test_eval_says_that_classes_are_others(elsewhere: Any, data: Path, tmp_path: Path, capsys: Any) -> None:
    _, file = elsewhere
    for names, told in (
        (("ant", "bat", "cat"), "class 0 is Bee, not ant"),
        (("Bee", "ant", "cat", "dog"), "3 classes, not 4"),
    ):
        write_folder(tmp_path / str(len(names)), 4, 1, names)
        argv = ["--dataset", "folder", "--data-dir", tmp_path / str(len(names)), "--eval", "--output", tmp_path]
        code, out, err = _trains(capsys, *argv, "--initial-checkpoint", file)
        assert code == (0 if len(names) == 3 else 2)
        if code == 0:
            assert f"note: the weights were trained on other classes: {told}" in out
        else:
            assert "head" in err


def test_a_run_that_starts_from_weights_says_what_it_does_otherwise(
    elsewhere: Any, data: Path, tmp_path: Path, capsys: Any
) -> None:
    _, file = elsewhere
    start = ("--initial-checkpoint", file, "--output", tmp_path, "--max-steps", 1)
    shape = f"--dataset folder {NANO} --depths 1,1 --num-heads 2,4 --patch-size 4"
    code, out, _ = _trains(capsys, *_argv(data, f"{shape} --img-size 32 --experiment other"), *start)
    assert code == 0
    assert "note: the weights were trained on images normalised otherwise: by mean (0.485, 0.456, 0.406)" in out
    code, out, _ = _trains(capsys, *_argv(data, f"{shape} --img-size 48 --experiment same"), *start)
    assert code == 0
    assert "otherwise" not in out
    arrays, _ = read_tensors(file)
    write_weights(tmp_path / "bad.safetensors", arrays, metadata={METADATA: "{"})
    start = ("--initial-checkpoint", tmp_path / "bad.safetensors", *start[2:])
    code, out, _ = _trains(capsys, *_argv(data, f"{shape} --img-size 48 --experiment bad"), *start)
    assert code == 0, "training needs no more than the arrays"
    assert "ATTENTION: model info: expected what swinpy writes of a model in" in out
    code, _, err = _trains(capsys, *_argv(data, f"{shape} --img-size 48 --experiment bad2 --eval"), *start)
    assert code == 2
    assert err.startswith("error: model info: expected what swinpy writes of a model in")


def test_a_run_starts_from_a_folder(trained: Any, data: Path, tmp_path: Path, capsys: Any) -> None:
    run, _, _ = trained
    shape = f"--dataset folder {NANO} --depths 1,1 --num-heads 2,4 --patch-size 4 --img-size 48"
    argv = _argv(data, f"{shape} --max-steps 1 --output {tmp_path} --initial-checkpoint {run}")
    code, out, _ = _trains(capsys, *argv)
    assert code == 0
    assert f"weights of {_model_file(run)} (dialect official)" in out
