"""What the training program makes of faults around it: files in the way, a closed pipe, and bugs of our own."""

import json
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from swinpy.snapshots.store import SnapshotStore
from swinpy.train.main import main

SCRIPT = Path(__file__).resolve().parents[2] / "examples" / "train_cifar.py"
SMALL = shlex.split(
    "--dataset digits --train-subset 64 --val-subset 32 -b 32 --epochs 1 --warmup-epochs 0 --patch-size 4 "
    "--embed-dim 12 --depths 1 --num-heads 2 --no-plots --experiment run"
)


def _refused(capsys, *arguments):
    assert main([*SMALL, *map(str, arguments)], prog="x") == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith("error: ")
    return lines[0]


def test_a_directory_where_a_log_should_be(tmp_path, capsys):
    (tmp_path / "run" / "metrics.jsonl").mkdir(parents=True)
    message = _refused(capsys, "--output", tmp_path)
    assert f"{tmp_path / 'run' / 'metrics.jsonl'}: Is a directory. Check the path" in message


def test_a_file_where_the_output_folder_should_be(tmp_path, capsys):
    (tmp_path / "out").write_text("")
    message = _refused(capsys, "--output", tmp_path / "out")
    assert f"{tmp_path / 'out'}: a file stands where a folder should be. Check the path" in message
    assert "Errno" not in message


@pytest.mark.parametrize("tasks", [("--check", "--eval"), ("--eval", "--throughput"), ("--check", "--throughput")])
def test_one_task_at_a_time(tasks, capsys):
    assert f"got {tasks[0]} and {tasks[1]}. Run them one by one." in _refused(capsys, *tasks)


def test_a_bug_keeps_its_traceback(tmp_path, monkeypatch):
    """A ValueError is the user's only where it speaks of what the user gave."""

    def bug(*_, **options):
        raise ValueError("operands could not be broadcast together")

    monkeypatch.setattr("swinpy.train.main.evaluate", bug)
    with pytest.raises(ValueError, match="operands could not"):
        main([*SMALL, "--output", str(tmp_path)], prog="x")


@pytest.mark.skipif(sys.platform == "win32", reason="pipes of POSIX")
def test_a_run_outlives_its_reader(tmp_path):
    """As under ``| head -1``: the run goes on to its end, and its files are whole."""
    command = [sys.executable, str(SCRIPT), *SMALL, "--log-interval", "1", "--output", str(tmp_path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert "python" in process.stdout.readline()
    process.stdout.close()
    errors = process.stderr.read()
    process.stderr.close()
    assert process.wait(120) == 0, errors
    assert "standard output was closed" in errors
    assert "Traceback" not in errors
    newest, notes = SnapshotStore(tmp_path / "run").newest()
    assert newest is not None
    assert not notes
    records = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [r["step"] for r in records if r["kind"] == "step"] == [1, 2]


@pytest.mark.parametrize("threads", [1, 3])
def test_threads(threads, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("autograd.kernels.threads._count", None)
    assert main([*SMALL, "--max-steps", "1", "--threads", str(threads), "--output", str(tmp_path)], prog="x") == 0
    assert f"device cpu, {threads} threads" in capsys.readouterr().out


def _files(folder):
    return {p.relative_to(folder): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.mark.parametrize("resume", [(), ("--resume", "auto")])
def test_a_run_whose_snapshots_are_all_damaged_is_left_alone(resume, tmp_path, capsys):
    """Nothing already saved is lost, also where it does not verify."""
    assert main([*SMALL, "--output", str(tmp_path)], prog="x") == 0
    for state in (tmp_path / "run" / "snapshots").glob("step-*/state.json"):
        state.write_text(state.read_text() + "x")
    before = _files(tmp_path)
    capsys.readouterr()
    assert main([*SMALL, *resume, "--output", str(tmp_path)], prog="x") == 2
    error = capsys.readouterr().err
    assert "damaged" in error
    assert "choose another --experiment" in error
    assert _files(tmp_path) == before


def test_an_interrupted_epoch_is_no_candidate_for_the_best(tmp_path, capsys):
    """Stopped in the middle of an epoch and resumed: the summary is that of the run that was not."""
    options = [*SMALL, "--epochs", "2", "--output", str(tmp_path)]
    assert main([*options, "--experiment", "whole"], prog="x") == 0
    assert main([*options, "--experiment", "parts", "--max-steps", "1"], prog="x") == 0
    assert "best top-1" not in capsys.readouterr().out.split("epoch 0  train loss")[-1]
    assert main([*options, "--experiment", "parts", "--resume", "auto"], prog="x") == 0
    rows = [
        [line.split(",")[:-1] for line in (tmp_path / name / "summary.csv").read_text().splitlines()]
        for name in ("whole", "parts")
    ]
    assert rows[0] == rows[1]


def test_the_closing_commands_can_be_used(tmp_path, capsys):
    assert main([*SMALL, "--time-limit", "0", "--output", str(tmp_path)], prog="x") == 0
    lines = capsys.readouterr().out.splitlines()
    assert not any(line.startswith("to evaluate") for line in lines)
    (resume,) = (line for line in lines if line.startswith("to resume"))
    assert "--time-limit" not in resume


@pytest.mark.parametrize(
    ("option", "words"),
    [
        (("--seed", str(2**64)), "in [0, 18446744073709551616)"),
        (("--hflip", "2"), "in [0, 1]"),
        (("--experiment", "../escape"), "expected the name of one folder in --output"),
        (("--grad-accum-steps", "3"), "expected at most the 2 batches of an epoch; got 3"),
        (("--num-classes", "5"), "pass --num-classes 10"),
    ],
)
def test_options_that_cannot_be(option, words, tmp_path, capsys):
    assert words in _refused(capsys, "--output", tmp_path, *option)


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGUSR1, 0)])
def test_a_signal_before_the_start_has_its_code(number, code):
    """While Python still imports: no traceback, the codes that are promised."""
    program = f"import runpy, os, signal; signal.signal = _note\nrunpy.run_path({str(SCRIPT)!r}, run_name='other')"
    note = (
        "import os, signal, sys\n"
        "install = signal.signal\n"
        "def _note(number, handler):\n"
        "    install(number, handler)\n"
        f"    if number == {int(number)}: os.kill(os.getpid(), number)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", note + program], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (code, "")
