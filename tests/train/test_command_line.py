"""The training program as its users meet it: what it prints, writes, refuses, and how it ends."""

import csv
import json
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import autograd as ag
from swinpy.io import write_tensors
from swinpy.train.main import main

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "examples" / "train_cifar.py"
SMALL = shlex.split(
    "--dataset digits --train-subset 96 --val-subset 40 -b 32 --epochs 2 --warmup-epochs 1 --patch-size 4 "
    "--embed-dim 12 --depths 2,1 --num-heads 2,4 --drop-path 0.2 --drop 0.1 --mixup 0.8 --mixup-prob 0.5 --reprob 0.3 "
    "--no-plots --log-interval 2"
)


@pytest.fixture
def run(tmp_path, capsys):
    """Run the program in this process; returns (exit code, standard output, standard error)."""

    def call(*arguments, small=True):
        argv = [*(SMALL if small else []), "--output", str(tmp_path / "out"), *map(str, arguments)]
        code = main(argv, prog="examples/train_cifar.py")
        text = capsys.readouterr()
        return code, text.out, text.err

    call.folder = tmp_path / "out" / "digits-swin_cifar_nano-seed42"
    return call


def _steps(folder):
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    keep = ("step", "epoch", "loss", "lr", "grad_norm")
    return [tuple(r[k] for k in keep) for r in records if r["kind"] == "step"], records


def _summary(folder):
    return list(csv.DictReader((folder / "summary.csv").read_text().splitlines()))


def _refused(result, *words):
    code, _, err = result
    assert code == 2
    assert "Traceback" not in err
    assert err.startswith("error: ")
    for word in words:
        assert word in err, err
    return err


# ---- a run


def test_a_run_prints_its_setting_writes_its_files_and_says_how_to_go_on(run):
    code, out, err = run()
    assert code == 0
    for word in ("numpy", "device cpu", "(real)", "parameters", "GFLOPs", "batch 32 (32 x 1)", "scaled from", "MiB"):
        assert word in out, word
    assert "3 steps an epoch, 2 epochs" in out
    assert "best top-1" in out
    assert "img/s in this session" in out
    assert "peak memory" in out
    assert err == "", "no bar where standard error is no terminal"
    steps, records = _steps(run.folder)
    assert [s[0] for s in steps] == [1, 2, 3, 4, 5, 6]
    rows = _summary(run.folder)
    assert [row["epoch"] for row in rows] == ["0", "1"]
    evaluations = [r for r in records if r["kind"] == "eval"]
    assert float(rows[1]["eval_top1"]) == evaluations[1]["eval_top1"]
    assert [r["partial"] for r in evaluations] == [False, False], "the run's last epoch is a whole one, too"
    best = max(evaluations, key=lambda r: r["eval_top1"])
    assert f"best top-1 {best['eval_top1']:.2f}% in epoch {best['epoch']}" in out
    options = json.loads((run.folder / "args.json").read_text())
    assert options["depths"] == [2, 1]
    evaluate = next(line for line in out.splitlines() if line.startswith("to evaluate: "))
    again = shlex.split(evaluate.removeprefix("to evaluate: "))[2:]
    assert main(again, prog="examples/train_cifar.py") == 0


def test_the_command_to_evaluate_gives_the_same_accuracy(run, capsys):
    _, out, _ = run()
    last = [line for line in out.splitlines() if "top-1" in line and line.startswith("epoch")][-1]
    command = next(line for line in out.splitlines() if line.startswith("to evaluate: "))
    assert main(shlex.split(command)[4:], prog="x") == 0
    text = capsys.readouterr().out
    top1 = last.split("top-1 ")[1].split("%")[0]
    assert f"top-1 {top1}%" in text


def test_plots_are_drawn(run):
    code, out, _ = run("--max-steps", 3, "--dataset", "digits", "--train-subset", 64, "-b", 32, small=False)
    assert code == 0
    for name in ("curves", "confusion", "augmented_batch"):
        image = run.folder / "plots" / f"{name}.png"
        assert image.read_bytes().startswith(b"\x89PNG"), name
        assert image.name in out


@pytest.mark.parametrize("stop", [1, 3, 4])
def test_a_run_stopped_at_a_step_and_resumed_is_the_uninterrupted_one(run, stop):
    assert run("--experiment", "whole")[0] == 0
    whole = run.folder.parent / "whole"
    parts = run.folder.parent / "parts"
    assert run("--experiment", "parts", "--max-steps", stop)[0] == 0
    code, out, _ = run("--experiment", "parts", "--resume", "auto", "--workers", 3)
    assert code == 0
    assert f"step-{stop:08d}" in out
    assert _steps(parts)[0] == _steps(whole)[0]
    last = [{k: v for k, v in _summary(f)[-1].items() if k != "seconds"} for f in (whole, parts)]
    assert last[0] == last[1]


def test_scenes_run_from_files_in_the_cifar_format_and_are_stamped_synthetic(run, tmp_path):
    code, out, _ = run(
        "--dataset", "scenes", "--data-dir", tmp_path / "data", "--max-steps", 2, "--experiment", "scenes"
    )
    assert code == 0
    assert "(SYNTHETIC)" in out
    assert "(synthetic data)" in out
    files = sorted(p.name for p in (tmp_path / "data").rglob("*.bin"))
    assert "test_batch.bin" in files
    snapshot = next((run.folder.parent / "scenes" / "snapshots").glob("step-*"))
    assert json.loads((snapshot / "state.json").read_text())["synthetic"] is True


def test_a_config_file_sets_options_and_the_command_line_wins(run, tmp_path):
    config = tmp_path / "run.toml"
    config.write_text('epochs = 2\ndepths = [1, 1]\n"batch-size" = 48\nno_plots = true\nseed = 7\n')
    given = "--dataset digits --train-subset 96 --embed-dim 12 --num-heads 2,4 --patch-size 4 --seed 9 --max-steps 1"
    code, _, _ = run("-c", config, "--experiment", "x", *given.split(), small=False)
    assert code == 0
    options = json.loads((run.folder.parent / "x" / "args.json").read_text())
    assert (options["epochs"], options["depths"], options["batch_size"], options["seed"]) == (2, [1, 1], 48, 9)


def test_check_runs_one_step_gradcheck_save_and_load(run):
    code, out, _ = run("--check")
    assert code == 0
    assert "agree with numerical derivatives" in out
    assert "equal to the bit" in out


def test_throughput_and_list_models(run):
    code, out, _ = run("--throughput", "-b", 8)
    assert code == 0
    assert "inference" in out
    assert "train step" in out
    code, out, _ = run("--list-models")
    assert code == 0
    assert "swin_tiny_patch4_window7_224" in out.split()


def test_overfit_batches_evaluates_what_it_trains_on(run):
    code, out, _ = run("--overfit-batches", 1, "--epochs", 3)
    assert code == 0
    assert "32 train, 32 test" in out


def test_initial_checkpoint_and_evaluation_only(run, tmp_path):
    run("--max-steps", 1)
    snapshot = next((run.folder / "snapshots").glob("step-*"))
    code, out, _ = run("--eval", "--initial-checkpoint", snapshot / "model.safetensors", "--experiment", "other")
    assert code == 0
    assert "top-1" in out


def test_grad_checkpointing_gives_the_same_curve(run):
    run("--experiment", "a", "--max-steps", 2)
    run("--experiment", "b", "--max-steps", 2, "--use-checkpoint")
    assert _steps(run.folder.parent / "a")[0] == _steps(run.folder.parent / "b")[0]


# ---- mistakes


def test_missing_cifar_ends_with_the_command_that_fetches_it(tmp_path):
    command = [sys.executable, str(SCRIPT), "--device", "gpu"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    for word in ("cifar-10-binary.tar.gz", "c4a38c50a1bc5f3a", "https://", "--dataset scenes", "--dataset digits"):
        assert word in done.stderr, word
    assert done.stderr.splitlines()[-1] == f"python {SCRIPT} --device gpu --dataset-download"
    assert not list(tmp_path.iterdir()), "nothing is written"


def test_no_gpu_says_what_is_missing_and_how_to_get_it(run, monkeypatch):
    monkeypatch.setattr("autograd.backend.gpu_problem", lambda: "expected CuPy; it is not installed. Use --device cpu.")
    _refused(run("--device", "gpu"), "device 'gpu'", "--device cpu")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--epochs", "many"], ["--epochs", "many"]),
        (["--no-such-option"], ["--no-such-option"]),
        (["--dataset", "imagenet"], ["imagenet", "cifar10"]),
        (["--model", "swin_tny_patch4_window7_224"], ["Did you mean swin_tiny_patch4_window7_224"]),
        (["--embed-dim", "10", "--num-heads", "3,5"], ["divisor of the 10 channels", "embed_dim"]),
        (["--depths", "2,2,2"], ["depths, num_heads"]),
        (["--depths", "two"], ["integers separated by commas"]),
        (["--num-classes", "4"], ["at least the 10 classes"]),
        (["--lr", "0"], ["--lr", "positive"]),
        (["--warmup-epochs", "9"], ["Lower --warmup-epochs"]),
        (["--smoothing", "1.5"], ["--smoothing"]),
        (["--device", "tpu"], ["cpu, gpu, cuda"]),
        (["--resume", "/nonexistent/step-00000001"], ["snapshot", "nonexistent"]),
        (["--initial-checkpoint", "/nonexistent.safetensors"], ["nonexistent"]),
        (["--eval"], ["trained weights", "--initial-checkpoint"]),
        (["-c", "/nonexistent.toml"], ["--config", "nonexistent"]),
        (["--batch-size", "0"], ["--batch-size"]),
        (["--batch-size", "97"], ["at most the 96 training images", "Lower --batch-size"]),
        (["--eval", "--resume", "auto"], ["trained weights", "--initial-checkpoint"]),
    ],
)
def test_a_wrong_option_is_one_message_and_exit_code_2(run, arguments, words):
    _refused(run(*arguments), *words)
    assert not run.folder.exists()


@pytest.mark.parametrize(
    "text", ["epochs = [", "colour = 3\n", "[model]\nname = 1\n", "epochs = 'x'\n", "no-plots = 'no'\n", "config = 'x'"]
)
def test_a_wrong_config_file_is_one_message(run, tmp_path, text):
    config = tmp_path / "bad.toml"
    config.write_text(text)
    _refused(run("-c", config))


def test_a_head_that_does_not_fit_is_named(run, tmp_path):
    run("--max-steps", 1)
    snapshot = next((run.folder / "snapshots").glob("step-*"))
    weights = snapshot / "model.safetensors"
    err = _refused(run("--initial-checkpoint", weights, "--num-classes", 12, "--experiment", "y"), "head.weight")
    assert "Nothing was loaded" in err
    other = tmp_path / "other.safetensors"
    write_tensors(other, {"stem.weight": np.zeros(3, np.float32)})
    _refused(run("--initial-checkpoint", other, "--experiment", "z"), "--initial-checkpoint: ", "fit none: stem.weight")


def test_resume_commands_are_made_of_the_command_that_ran(run):
    run("--max-steps", 1)
    _, out, _ = run("--resume", "auto", "--max-steps", 2)
    evaluate = next(line for line in out.splitlines() if line.startswith("to evaluate: "))
    assert " auto" not in evaluate
    assert evaluate.count("--resume") == 1


def test_a_run_resumed_right_after_an_evaluation_does_not_write_it_twice(run):
    run("--max-steps", 3)
    run("--resume", "auto", "--max-steps", 3)
    run("--resume", "auto")
    assert [row["step"] for row in _summary(run.folder)] == ["3", "6"]


def test_damaged_metrics_end_where_the_damage_begins(run):
    run("--max-steps", 3)
    path = run.folder / "metrics.jsonl"
    path.write_bytes(path.read_bytes() + b'[1]\n{"kind": "step"}\n\xff\n')
    assert run("--resume", "auto")[0] == 0
    assert [s[0] for s in _steps(run.folder)[0]] == [1, 2, 3, 4, 5, 6]


def test_evaluating_on_another_dataset_is_said(run, tmp_path):
    run("--max-steps", 1)
    snapshot = next((run.folder / "snapshots").glob("step-*"))
    code, out, _ = run("--dataset", "scenes", "--data-dir", tmp_path / "data", "--eval", "--resume", snapshot)
    assert code == 0
    assert "was trained on digits, not on scenes" in out


def test_a_second_run_into_the_same_folder_is_refused_and_harms_nothing(run):
    run("--max-steps", 2)
    before = {p: p.read_bytes() for p in run.folder.rglob("*") if p.is_file()}
    _refused(run("--max-steps", 2), "--resume auto", "--experiment")
    assert {p: p.read_bytes() for p in run.folder.rglob("*") if p.is_file()} == before


def test_resume_with_other_options_names_the_difference(run):
    run("--max-steps", 2)
    _refused(run("--resume", "auto", "--lr", "0.5", "--drop-path", "0.4"), "drop_path: saved 0.2, now 0.4", "lr:")


def test_resume_under_other_numerics_says_once_what_differs(run):
    run("--max-steps", 2)
    with ag.kernel_mode("reference"):
        code, out, _ = run("--resume", "auto", "--max-steps", 3)
    assert code == 0
    notes = [line for line in out.splitlines() if "other numerics" in line]
    assert len(notes) == 1
    assert "(kernels: saved 'auto, " in notes[0]
    assert "now 'reference')" in notes[0]


def test_resume_auto_without_a_snapshot_says_that_it_starts_anew(run):
    code, out, _ = run("--resume", "auto", "--max-steps", 1)
    assert code == 0
    assert "no snapshot" in out


def test_a_damaged_snapshot_is_passed_over_and_said(run):
    run("--experiment", "w")
    run("--max-steps", 4)
    newest = max((run.folder / "snapshots").glob("step-*"))
    weights = newest / "model.safetensors"
    raw = bytearray(weights.read_bytes())
    raw[-1] ^= 1
    weights.write_bytes(bytes(raw))
    _refused(run("--resume", newest), newest.name)
    code, out, _ = run("--resume", "auto")
    assert code == 0
    assert f"{newest.name} skipped" in out
    assert _steps(run.folder)[0] == _steps(run.folder.parent / "w")[0]


def test_output_that_cannot_be_written_is_one_message(tmp_path, capsys):
    blocker = tmp_path / "file"
    blocker.write_text("in the way")
    code = main([*SMALL, "--output", str(blocker)], prog="x")
    err = capsys.readouterr().err
    assert code == 2
    assert str(blocker) in err
    assert blocker.read_text() == "in the way"


def test_a_run_that_diverges_is_named_and_its_weights_are_not_saved(run):
    with np.errstate(all="ignore"):
        result = run("--lr", "1e30", "--warmup-epochs", 0, "--clip-grad", 0, "--weight-decay", 0)
    _refused(result, "finite", "step", "--lr", "No snapshot yet")
    assert not list(run.folder.glob("snapshots/step-*"))


def test_a_loss_that_is_not_finite_names_step_batch_and_the_last_good_snapshot(run, monkeypatch):
    run("--max-steps", 3)
    good = next((run.folder / "snapshots").glob("step-*"))

    def poisoned(self, batch):
        return ag.Tensor(np.float32(np.nan), requires_grad=True)

    monkeypatch.setattr("swinpy.train.trainer.Trainer.loss", poisoned)
    _refused(run("--resume", "auto"), "got nan at step 4 (epoch 1, batch 0, samples", f"snapshot is {good}")
    assert sorted((run.folder / "snapshots").glob("step-*")) == [good]


def test_a_window_larger_than_its_map_is_said_aloud(run):
    code, out, _ = run("--window-size", 6, "--max-steps", 1)
    assert code == 0
    assert "note: stage 1: window 6 is larger than its map of 4x4 tokens" in out


# ---- signals


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGUSR1, 0)])
def test_a_signal_saves_and_a_resume_completes_the_same_curve(run, tmp_path, number, code):
    long = [*SMALL, "--epochs", "16", "--output", str(tmp_path / "out")]
    assert main([*long, "--experiment", "whole"], prog="x") == 0
    command = [sys.executable, "-u", str(SCRIPT), *long, "--experiment", "cut", "--log-interval", "1"]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    for line in child.stdout:
        if line.startswith("epoch 0  step 2/"):
            child.send_signal(number)
            break
    out, err = child.communicate(timeout=120)
    assert child.returncode == code, err
    assert "Traceback" not in err
    assert "saved" in out
    assert "to resume: " in out
    assert main([*long, "--experiment", "cut", "--resume", "auto"], prog="x") == 0
    assert _steps(tmp_path / "out" / "cut")[0] == _steps(tmp_path / "out" / "whole")[0]


def test_a_time_limit_saves_and_ends(run):
    started = time.monotonic()
    code, out, _ = run("--epochs", 200, "--time-limit", 1)
    assert code == 0
    assert "to resume: " in out
    assert time.monotonic() - started < 100
    assert list((run.folder / "snapshots").glob("step-*"))
