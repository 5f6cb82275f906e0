"""The training program on a folder of images, and from weights of other libraries."""

from __future__ import annotations

import json
import shlex
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from support.image_files import picture, write_folder, write_truncated
from support.swin.models import build

from swinpy import save_weights
from swinpy.data import ImageDataset
from swinpy.models import model_config
from swinpy.train.evaluate import Evaluation
from swinpy.train.main import main
from swinpy.train.options import parse_options
from swinpy.train.plots import plot_curves, plot_errors
from swinpy.train.setup import banner, build_run

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Run = Callable[..., tuple[int, str, str]]
SMALL = shlex.split(
    "--dataset folder --model swin_cifar_nano --depths 2,1 --num-heads 2,4 --patch-size 4 -b 5 --epochs 2 "
    "--warmup-epochs 1 --no-plots --log-interval 1 --img-size 16"
)


@pytest.fixture
def run(tmp_path: Path, capsys: Any) -> Run:
    write_folder(tmp_path / "pictures")

    def call(*arguments: object, name: str = "run") -> tuple[int, str, str]:
        places = ["--data-dir", str(tmp_path / "pictures"), "--output", str(tmp_path / "out"), "--experiment", name]
        code = main([*SMALL, *places, *map(str, arguments)], prog="examples/train_cifar.py")
        text = capsys.readouterr()
        return code, text.out, text.err

    return call


def _losses(tmp_path: Path, name: str) -> list[tuple[int, float]]:
    lines = (tmp_path / "out" / name / "metrics.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    return [(r["step"], r["loss"]) for r in records if r["kind"] == "step"]


def test_a_run_and_its_evaluation(run: Run, tmp_path: Path) -> None:
    code, out, err = run()
    assert (code, err) == (0, "")
    assert f"data folder (real) from {tmp_path / 'pictures'}: 18 train, 6 test, 16x16, 3 classes" in out
    assert "best top-1" in out
    code, again, _ = run("--eval", "--resume")
    assert code == 0
    last = next(line for line in out.splitlines() if line.startswith("epoch 1") and "top-1" in line)
    assert again.splitlines()[-1].split("top-1")[1].split()[0] == last.split("top-1")[1].split()[0]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_resumed_run_continues_to_the_bit(workers: int, run: Run, tmp_path: Path) -> None:
    assert run("-j", 0, name="whole")[0] == 0
    assert run("-j", workers, "--max-steps", 2, name="parts")[0] == 0
    assert run("-j", workers, "--resume", name="parts")[0] == 0
    whole, parts = _losses(tmp_path, "whole"), _losses(tmp_path, "parts")
    assert len(whole) == 6
    assert whole == parts


def test_another_list_of_files_is_not_resumed(run: Run, tmp_path: Path) -> None:
    assert run("--max-steps", 2)[0] == 0
    picture(9).save(tmp_path / "pictures" / "train" / "cat" / "new.png")
    code, _, err = run("--resume")
    assert code == 2
    assert "--resume: expected the images that" in err
    assert "another list of files" in err


def test_sizes_come_from_the_model_or_the_option(run: Run) -> None:
    assert "16x16, 3 classes" in run("--max-steps", 1)[1]
    code, out, _ = run("--max-steps", 1, "--img-size", 24, name="larger")
    assert code == 0
    assert "24x24, 3 classes" in out


def test_plain_images_for_no_augmentation(run: Run, tmp_path: Path) -> None:
    """Without augmentation, every epoch shows the same pixels: the same batch has the same loss at lr 0."""
    frozen = ("--lr", "1e-30", "--warmup-lr", "0", "--min-lr", "0", "--weight-decay", "0", "-b", "18")
    assert run(*frozen, "--no-aug", name="plain")[0] == 0
    first, second = (loss for _, loss in _losses(tmp_path, "plain"))
    assert first == pytest.approx(second, rel=1e-6)
    assert run(*frozen, name="cropped")[0] == 0
    first, second = (loss for _, loss in _losses(tmp_path, "cropped"))
    assert first != pytest.approx(second, rel=1e-6)


def test_faults_have_one_message(run: Run, tmp_path: Path) -> None:
    code, _, err = run("--num-classes", 2)
    assert code == 2
    assert "--num-classes: expected at least the 3 classes of folder; got 2" in err
    bad = write_truncated(tmp_path / "pictures" / "train" / "ant" / "0.jpg")
    code, _, err = run()
    assert code == 2
    assert str(bad) in err
    assert "Traceback" not in err
    (tmp_path / "pictures" / "val" / "ant").rename(tmp_path / "pictures" / "val" / "emu")
    code, _, err = run()
    assert code == 2
    assert "not in val: ant; only in val: emu" in err


# ---- weights of other libraries


@pytest.mark.parametrize(("dialect", "suffix"), [("timm", ".pth"), ("hf", ".safetensors"), ("torchvision", ".bin")])
def test_initial_checkpoints_of_other_libraries(dialect: str, suffix: str, run: Run, tmp_path: Path) -> None:
    config = model_config("swin_cifar_nano").with_changes(
        depths=(2, 1), num_heads=(2, 4), patch_size=4, img_size=16, num_classes=7
    )
    file = tmp_path / f"w{suffix}"
    save_weights(build(config, "float32"), file, dialect)
    code, _, err = run("--initial-checkpoint", file)
    assert code == 2
    assert err.startswith("error: --initial-checkpoint: load_weights: expected weights for")
    assert "head='drop'" in err
    assert "--initial-head" in err
    code, out, _ = run("--initial-checkpoint", file, "--initial-head", "zero", "--max-steps", 1, "--lr", 1e-9)
    assert code == 0
    under = ", under swin." if dialect == "hf" else ""
    assert f"weights of {file} (dialect {dialect}{under})" in out
    assert "head='zero'" in out
    # a head of zeros says that all three classes are as likely
    assert _losses(tmp_path, "run")[0][1] == pytest.approx(np.log(3), abs=1e-3)


def test_initial_head_by_a_class_map(run: Run, tmp_path: Path) -> None:
    config = model_config("swin_cifar_nano").with_changes(
        depths=(2, 1), num_heads=(2, 4), patch_size=4, img_size=16, num_classes=7
    )
    save_weights(build(config, "float32"), tmp_path / "w.pth")
    (tmp_path / "map.txt").write_text("6\n0\n3\n")
    code, out, _ = run("--initial-checkpoint", tmp_path / "w.pth", "--initial-head", tmp_path / "map.txt", "--eval")
    assert code == 0
    assert "top-1" in out


def test_evaluation_of_weights_needs_val_alone(run: Run, tmp_path: Path) -> None:
    """Fewer images than --batch-size will do as well: nothing is trained."""
    config = model_config("swin_cifar_nano").with_changes(
        depths=(2, 1), num_heads=(2, 4), patch_size=4, img_size=16, num_classes=3
    )
    save_weights(build(config, "float32"), tmp_path / "w.pth")
    arguments = ("--initial-checkpoint", tmp_path / "w.pth", "-b", 16, "--eval")
    code, out, _ = run(*arguments)
    assert code == 0
    want = out.splitlines()[-1]
    (tmp_path / "pictures" / "train").rename(tmp_path / "elsewhere")
    code, out, err = run(*arguments)
    assert (code, err) == (0, "")
    assert out.splitlines()[-1] == want
    assert run(*arguments[:-1])[0] == 2  # training needs train


# ---- what was left out, and subsets


def test_what_was_left_out_is_said(run: Run, tmp_path: Path) -> None:
    for name in ("a.gif", "b.jfif"):
        (tmp_path / "pictures" / "train" / "cat" / name).write_bytes(b"GIF89a")
    (tmp_path / "pictures" / "val" / "ant" / "c.jpe").write_bytes(b"")
    code, out, _ = run("--max-steps", 1)
    assert code == 0
    assert f"data note: left out of {tmp_path / 'pictures' / 'train'}: 1 .gif, 1 .jfif (images are .jpg," in out
    assert f"data note: left out of {tmp_path / 'pictures' / 'val'}: 1 .jpe (images are .jpg," in out


@pytest.mark.parametrize("options", ["--train-subset 9 --val-subset 3 -b 3", "--overfit-batches 2 -b 3"])
def test_subsets_have_every_class_and_are_drawn_by_the_seed(options: str, tmp_path: Path) -> None:
    write_folder(tmp_path / "pictures")

    def built(seed: int) -> Any:
        given = [
            *SMALL,
            "--data-dir",
            str(tmp_path / "pictures"),
            *options.split(),
            "--seed",
            str(seed),
            "--window-size",
            "2",
        ]
        return build_run(parse_options(given))

    one, same, other = built(1), built(1), built(2)
    for part in ("train", "test"):
        first, again = (getattr(r, part) for r in (one, same))
        assert len(set(np.bincount(first.labels, minlength=3).tolist())) == 1, "three classes, alike"
        assert first.images.paths == again.images.paths
        assert first.identity == again.identity
    assert one.train.identity != other.train.identity
    assert one.train.images.paths != other.train.images.paths
    if "overfit" in options:
        assert one.train is one.test
        assert len(one.train) == 6
    notes = [line for line in banner(one, parse_options([*SMALL, *options.split()]), "x", None) if "drawn by" in line]
    assert notes[0].startswith("data note: ")
    assert len(notes) == (1 if "overfit" in options else 2)


def test_a_subset_is_resumed_to_the_bit(run: Run, tmp_path: Path) -> None:
    part = ("--train-subset", 10)
    assert run(*part, name="whole")[0] == 0
    assert run(*part, "--max-steps", 1, name="parts")[0] == 0
    assert run(*part, "--resume", name="parts")[0] == 0
    assert _losses(tmp_path, "whole") == _losses(tmp_path, "parts")


def test_plots_name_classes_that_the_data_has_not(tmp_path: Path) -> None:
    """--num-classes may exceed the data's: an answer beyond them once ended the run in its last line."""
    images, labels = np.zeros((1, 3, 2, 2), np.uint8), np.zeros(1, np.int64)
    data = ImageDataset("x", images, labels, ("a",), True, "", (0.5,) * 3, (0.2,) * 3)
    result = Evaluation(1.0, 0.0, None, np.zeros((1, 1), np.int64), [(0, 0, 6, 0.5)])
    plot_errors(result, data, tmp_path / "errors.png")
    evaluations = [{"step": 1, "eval_loss": 1.0, "eval_top1": 0.0, "eval_top5": None}]
    steps = [{"step": 1, "loss": 1.0, "lr": 0.1, "grad_norm": None}]
    plot_curves(steps, evaluations, data, tmp_path / "curves.png")
    assert {p.name for p in tmp_path.iterdir()} == {"errors.png", "curves.png"}
