"""The evaluation within a run: what it takes, what happens where it cannot be, and which of them count."""

from __future__ import annotations

import json
import shlex
import tracemalloc
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from swinpy.train import main as program
from swinpy.train import tasks
from swinpy.train.evaluate import evaluate
from swinpy.train.main import main
from swinpy.train.options import parse_options
from swinpy.train.setup import build_run

if TYPE_CHECKING:
    from pathlib import Path

SMALL = shlex.split(
    "--dataset digits --train-subset 64 --val-subset 32 -b 32 --epochs 4 --warmup-epochs 0 --patch-size 4 "
    "--embed-dim 12 --depths 1 --num-heads 2 --no-plots --progress log"
)


def _evaluations(folder: Path) -> list[dict[str, Any]]:
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [r for r in records if r["kind"] == "eval"]


def _call(tmp_path: Path, name: str, *arguments: object) -> int:
    return main([*SMALL, "--output", str(tmp_path), "--experiment", name, *map(str, arguments)], prog="x")


# ---- memory


@pytest.mark.parametrize(
    ("option", "batch"), [("", 4), ("-vb 3", 3), ("--val-batch-size 3", 3), ("--validation-batch-size 300", 300)]
)
def test_the_batch_of_the_evaluation(option: str, batch: int) -> None:
    options = parse_options([*SMALL, "-b", "4", *option.split()])
    assert build_run(options).eval_loader.batch_size == batch


@pytest.mark.parametrize("extra", ["", "--use-checkpoint", "--depths 2,2 --num-heads 2,4"])
def test_an_evaluation_needs_no_more_memory_than_a_training_step(extra: str) -> None:
    run = build_run(parse_options([*SMALL, "-b", "8", "-j", "0", "--val-subset", "360", *extra.split()]))
    next(run.trainer.epoch())  # what is made once, for all steps
    evaluate(run.model, run.eval_loader)

    def peak(action: Any) -> int:
        tracemalloc.start()
        action()
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most

    assert peak(lambda: evaluate(run.model, run.eval_loader)) <= peak(lambda: next(run.trainer.epoch()))


def test_memory_that_is_full_in_the_evaluation(tmp_path: Path, capsys: Any, monkeypatch: Any) -> None:
    """The epoch is saved, the advice can be followed, and the resumed run is the one that had memory."""

    def full(*_: Any, **options: Any) -> Any:
        raise MemoryError("Unable to allocate 9 GiB")

    assert _call(tmp_path, "whole", "--epochs", 2) == 0
    with monkeypatch.context() as patch:
        patch.setattr(program, "evaluate", full)
        assert _call(tmp_path, "parts", "--epochs", 2) == 2
        _, err = capsys.readouterr()
        snapshot = tmp_path / "parts" / "snapshots" / "step-00000002"
        assert err == (
            "error: out of memory: Unable to allocate 9 GiB. Lower --val-batch-size (it is 32; a run may be resumed "
            f"with another). The last good snapshot is {snapshot}.\n"
        )
        assert _call(tmp_path, "parts", "--epochs", 2, "--eval", "--resume", "-vb", 1) == 2
        assert "Choose a smaller --model or --img-size" in capsys.readouterr().err
    assert _call(tmp_path, "parts", "--epochs", 2, "--resume", "-vb", 16) == 0
    whole, parts = (_evaluations(tmp_path / name) for name in ("whole", "parts"))
    assert [(e["step"], e["eval_top1"]) for e in whole] == [(e["step"], e["eval_top1"]) for e in parts]
    np.testing.assert_allclose(*([e["eval_loss"] for e in part] for part in (whole, parts)), rtol=1e-5)


@pytest.mark.parametrize(
    ("given", "advice"),
    [
        ("-b 8", "Add --grad-checkpointing (a run may be resumed with it). Or: Lower --batch-size (it is 8)"),
        ("-b 8 --use-checkpoint", "Lower --batch-size (it is 8) and raise --grad-accum-steps by as much."),
        ("-b 1 --use-checkpoint", "Choose a smaller --model or --img-size, or a device with more memory."),
        ("-b 8 --throughput", "Add --grad-checkpointing (a run may be resumed with it). Or: Lower --batch-size (it is"),
    ],
)
def test_the_advice_for_a_training_step(given: str, advice: str, tmp_path: Path, capsys: Any, monkeypatch: Any) -> None:
    def full(*_: Any, **options: Any) -> Any:
        raise MemoryError

    monkeypatch.setattr("swinpy.train.trainer.Trainer.loss", full)
    assert _call(tmp_path, "run", *given.split()) == 2
    assert f"error: out of memory. {advice}" in capsys.readouterr().err


def test_memory_that_is_full_before_anything_runs(tmp_path: Path, capsys: Any, monkeypatch: Any) -> None:
    def full(*_: Any, **options: Any) -> Any:
        raise MemoryError

    monkeypatch.setattr(program, "build_run", full)
    assert _call(tmp_path, "run") == 2
    assert capsys.readouterr().err == (
        "error: out of memory. Choose a smaller --model or --img-size, or a device with more memory.\n"
    )


# ---- logits that are not finite


def test_nan_has_exit_code_2_and_is_not_saved(tmp_path: Path, capsys: Any, monkeypatch: Any) -> None:
    assert _call(tmp_path, "run", "--max-steps", 2) == 0
    capsys.readouterr()

    def diverged(model: Any, loader: Any, **options: Any) -> Any:
        model.head.bias.assign_(np.full(10, np.nan, np.float32))
        return evaluate(model, loader, **options)

    monkeypatch.setattr(program, "evaluate", diverged)
    assert _call(tmp_path, "run", "--eval", "--resume") == 2
    out, err = capsys.readouterr()
    assert "top-1" not in out
    assert err == "error: evaluate: expected finite logits; got NaN or infinity for 32 of 32 images (0, 1, 2, 3 ...).\n"
    assert _call(tmp_path, "run", "--resume") == 2
    err = capsys.readouterr().err
    assert "for 32 of 32 images" in err
    assert "after step 4 (epoch 1): the weights have diverged and are not saved" in err
    assert [p.name for p in (tmp_path / "run" / "snapshots").glob("step-*")] == ["step-00000002"]


# ---- which evaluations count


@pytest.mark.parametrize("steps", [1, 2, 3, 5, 6])
def test_an_evaluation_made_because_the_run_was_cut_short_is_no_best(steps: int, tmp_path: Path, capsys: Any) -> None:
    """Two steps an epoch, an evaluation every two epochs: only that after step 4 is one of the run's."""
    every = ("--val-interval", 2)
    assert _call(tmp_path, "parts", *every, "--max-steps", steps) == 0
    best = "best top-1" in capsys.readouterr().out
    assert best == (steps > 4)
    cut = _evaluations(tmp_path / "parts")[-1]
    assert (cut["step"], cut["partial"]) == (steps, True)
    manifests = (tmp_path / "parts" / "snapshots").glob("step-*/MANIFEST.json")
    pinned = [p.parent.name for p in manifests if json.loads(p.read_text())["pinned"]]
    assert pinned == ["step-00000004"] * best
    assert _call(tmp_path, "parts", *every, "--resume") == 0
    assert [(e["step"], e["partial"]) for e in _evaluations(tmp_path / "parts")] == [(4, False), (8, False)]


def test_the_last_epoch_of_a_run_counts_whatever_the_interval(tmp_path: Path, capsys: Any) -> None:
    assert _call(tmp_path, "run", "--val-interval", 3, "--epochs", 2) == 0
    assert "best top-1" in capsys.readouterr().out
    assert [(e["step"], e["partial"]) for e in _evaluations(tmp_path / "run")] == [(4, False)]


@pytest.mark.parametrize("reason", ["signal", "time"])
def test_a_signal_or_the_time_limit_asks_for_no_evaluation(reason: str, tmp_path: Path, monkeypatch: Any) -> None:
    """At the end of an epoch that the run would not have evaluated, either."""
    right = program.Session._over

    def over(session: Any, stop: Any) -> bool:
        if session.run.trainer.position.step >= 2:
            if reason == "signal":
                stop.code, stop.name = 143, "SIGTERM"
            else:
                session.options.time_limit = 0.0
        return right(session, stop)

    monkeypatch.setattr(program.Session, "_over", over)
    assert _call(tmp_path, "run", "--val-interval", 2) == (143 if reason == "signal" else 0)
    assert _evaluations(tmp_path / "run") == []
    assert (tmp_path / "run" / "snapshots" / "step-00000002").is_dir()


# ---- sizes, modes


@pytest.mark.parametrize("size", [31, 224])
def test_images_of_one_size_are_not_enlarged(size: int, tmp_path: Path, capsys: Any) -> None:
    assert _call(tmp_path, "run", "--img-size", size) == 2
    assert capsys.readouterr().err == (
        "error: --img-size: expected the 32x32 pixels of digits, whose images are of one size and are not resized; got "
        f"{size}. Leave it out; --dataset folder resizes the images of a folder.\n"
    )
    assert build_run(parse_options([*SMALL, "--img-size", "32"])).model.config.image == (32, 32)


@pytest.mark.parametrize("fault", [None, "__call__", "loss"])
def test_throughput_leaves_every_mode_as_it_was(fault: str | None, capsys: Any, monkeypatch: Any) -> None:
    run = build_run(parse_options([*SMALL, "-b", "2"]))
    run.model.train()
    run.model.patch_embed.eval()
    before = [part.training for _, part in run.model.named_modules()]

    def broken(*_: Any) -> Any:
        raise RuntimeError("broken")

    if fault:
        monkeypatch.setattr(type(run.model) if fault == "__call__" else type(run.trainer), fault, broken)
        with pytest.raises(RuntimeError, match="broken"):
            tasks.throughput(run)
    else:
        tasks.throughput(run)
        assert "train step" in capsys.readouterr().out
    assert [part.training for _, part in run.model.named_modules()] == before
    assert len(set(before)) == 2


def test_the_loss_of_an_epoch_is_a_mean_over_images(tmp_path: Path) -> None:
    """The last step of an epoch may accumulate fewer batches."""
    assert _call(tmp_path, "run", "-b", 16, "--grad-accum-steps", 3, "--epochs", 1) == 0
    records = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    (first, last), evaluation = records[:2], records[-1]
    assert (first["images"], last["images"]) == (48, 16)
    assert evaluation["train_loss"] == pytest.approx((3 * first["loss"] + last["loss"]) / 4, rel=1e-12)
