"""What the training program makes of faults around it: files in the way, a closed pipe, and bugs of our own."""

import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from swinpy.train.main import main
from swinpy.train.snapshot import SnapshotStore

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
    assert "Not a directory. Check the path" in message
    assert "Errno" not in message


@pytest.mark.parametrize("tasks", [("--check", "--eval"), ("--eval", "--throughput"), ("--check", "--throughput")])
def test_one_task_at_a_time(tasks, capsys):
    assert f"got {tasks[0]} and {tasks[1]}. Run them one by one." in _refused(capsys, *tasks)


def test_a_bug_keeps_its_traceback(tmp_path, monkeypatch):
    """A ValueError is the user's only where it speaks of what the user gave."""

    def bug(*_):
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
