"""Whole runs that are killed, or whose disk fails: nothing is lost, and what resumes ends in the same bits."""

from __future__ import annotations

import errno
import json
import os
import random
import shlex
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from swinpy.io import atomic
from swinpy.snapshots.store import SnapshotStore, load_snapshot
from swinpy.train.main import main
from swinpy.train.runlog import RunLog

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals and files of POSIX")

SCRIPT = Path(__file__).resolve().parents[2] / "examples" / "train_cifar.py"
OPTIONS = shlex.split(
    "--dataset digits --train-subset 32 --val-subset 16 -b 16 --embed-dim 8 --depths 1,1 --num-heads 1,2 "
    "--window-size 2 --patch-size 2 --no-plots --threads 1 --progress none --workers 0 --resume auto "
    "--drop-path 0.2 --mixup 0.8 --mixup-prob 0.5 --reprob 0.3"
)


def curve(folder: Path) -> dict[tuple[str, int], list[Any]]:
    """What the run's log says of each step and each epoch's evaluation, as often as it stands there."""
    found: dict[tuple[str, int], list[Any]] = {}
    for line in (folder / "metrics.jsonl").read_bytes().splitlines(keepends=True):
        if line.endswith(b"\n"):  # a kill may cut the last one
            row = json.loads(line)
            if row.get("partial"):
                continue
            what = ("loss", "grad_norm", "lr") if row["kind"] == "step" else ("eval_loss", "eval_top1", "train_loss")
            found.setdefault((row["kind"], row["step"]), []).append([row[name] for name in what])
    return found


def last_step(folder: Path) -> int:
    """The step of the newest sound snapshot; nothing may be wrong with any other."""
    newest, notes = SnapshotStore(folder).newest()
    assert not notes
    return int(newest.name.rpartition("-")[2]) if newest else 0


def assert_same_run(folder: Path, want: Path) -> None:
    """The same log and the same last snapshot, to the bit."""
    assert curve(folder) == curve(want)
    got, expected = (load_snapshot(max((f / "snapshots").glob("step-*"))) for f in (folder, want))
    assert got.state["trainer"] == expected.state["trainer"]
    for name, group in expected.groups.items():
        assert group.keys() == got.groups[name].keys()
        for key, array in group.items():
            np.testing.assert_array_equal(got.groups[name][key], array, strict=True)


# ---- kills


def _started(output: Path, epochs: int) -> subprocess.Popen[bytes]:
    options = [*OPTIONS, "--epochs", str(epochs), "--output", str(output), "--experiment", "run"]
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    return subprocess.Popen(
        [sys.executable, str(SCRIPT), *options], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=environment
    )


def _wait_for_a_moment(process: subprocess.Popen[bytes], folder: Path, rng: random.Random) -> None:
    """Until a file is being written below the folder for the so-manieth time; a little longer now and then."""
    where = rng.choice([folder, folder / "snapshots", folder / "snapshots"])
    skip = rng.randrange(4)
    while process.poll() is None:
        names = os.listdir(where) if where.is_dir() else []
        if any(name.startswith((".tmp-", ".old-")) for name in names):
            if not skip:
                time.sleep(rng.choice([0, rng.random() * 0.004, rng.random() * 0.03]))
                return
            skip -= 1
            time.sleep(0.02)
        time.sleep(0.0003)


def check_kills(tmp_path: Path, kills: int, epochs: int) -> None:
    process = _started(tmp_path / "want", epochs)
    said = process.communicate()[1]
    assert process.returncode == 0, said
    want, rng = tmp_path / "want" / "run", random.Random(1)
    known, done, runs = curve(want), 0, 0
    while done < kills:
        folder, step, runs = tmp_path / f"killed{runs}" / "run", 0, runs + 1
        while True:
            process = _started(folder.parent, epochs)
            if done < kills:
                _wait_for_a_moment(process, folder, rng)
                process.kill()
            said = process.communicate()[1]
            if process.returncode == 0:
                break
            assert process.returncode == -9, said
            done += 1
            step, before = last_step(folder), step
            assert step >= before
            if (folder / "metrics.jsonl").exists():
                assert all(rows == known[at] for at, rows in curve(folder).items())
                assert {("step", i + 1) for i in range(step)} <= curve(folder).keys()
        assert_same_run(folder, want)


@pytest.mark.timeout(300)
def test_a_run_that_is_killed(tmp_path: Path) -> None:
    check_kills(tmp_path, 3, 12)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_runs_that_are_killed_often(tmp_path: Path) -> None:
    check_kills(tmp_path, 100, 40)


# ---- a disk that fails


class Disk(atomic.FileSystem):
    """Counts its calls; the `first`-th fails, and all later ones if `lasting`."""

    def __init__(self, first: int, number: int, lasting: bool) -> None:
        self.first, self.number, self.lasting, self.calls = first, number, lasting, 0

    def fails(self) -> bool:
        """Whether the next call does."""
        self.calls += 1
        return self.calls >= self.first if self.lasting else self.calls == self.first

    def error(self) -> OSError:
        return OSError(self.number, os.strerror(self.number))

    def appends(self, log: RunLog, record: dict[str, Any]) -> None:
        """What stands in for the log's own appending, which has no other seam."""
        if self.fails():
            raise self.error()
        APPEND(log, record)


APPEND = RunLog._append


def _failing(kind: str) -> Any:
    def call(self: Disk, *args: Any) -> Any:
        fails = self.fails()
        if kind == "close" or not fails:  # a descriptor is gone even where close reports an error
            result = getattr(atomic.FileSystem, kind)(self, *args)
        if fails:
            raise self.error()
        return result

    return call


for _kind in [name for name in vars(atomic.FileSystem) if not name.startswith("_")]:
    setattr(Disk, _kind, _failing(_kind))


@dataclass
class Runs:
    """A run cut short, what it becomes when it is resumed, and how many calls of the file system that takes."""

    begun: Path
    ended: Path
    calls: int


def _resume(output: Path, disk: Disk | None = None) -> int:
    with pytest.MonkeyPatch.context() as patch:
        if disk:
            patch.setattr(atomic, "_fs", disk)
            patch.setattr(RunLog, "_append", lambda log, record: disk.appends(log, record))
        steps = "5" if not (output / "run").exists() else "9"
        return main([*OPTIONS, "--epochs", "20", "--output", str(output), "--experiment", "run", "--max-steps", steps])


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    root, disk = tmp_path_factory.mktemp("runs"), Disk(0, 0, False)
    assert _resume(root / "ended") == 0
    shutil.copytree(root / "ended" / "run", root / "begun" / "run")
    assert _resume(root / "ended", disk) == 0
    return Runs(root / "begun", root / "ended", disk.calls)


def check_failing_call(runs: Runs, output: Path, disk: Disk, capsys: pytest.CaptureFixture[str]) -> int:
    shutil.copytree(runs.begun, output)
    code = _resume(output, disk)
    said = capsys.readouterr().err
    folder = output / "run"
    assert code in (0, 2), said
    assert "Traceback" not in said
    if code == 2:
        assert any(line.startswith("error:") for line in said.splitlines())
    assert last_step(folder) == 9 if code == 0 else last_step(folder) >= 5
    assert {("step", i + 1) for i in range(last_step(folder))} <= curve(folder).keys()
    assert _resume(output) == 0
    assert_same_run(folder, runs.ended / "run")
    hidden = [name for name in (*os.listdir(folder), *os.listdir(folder / "snapshots")) if name.startswith(".")]
    assert hidden == [".lock"]
    return code


FAILURES = [(errno.ENOSPC, False), (errno.EIO, False), (errno.ENOSPC, True)]


@pytest.mark.parametrize(("number", "lasting"), FAILURES)
def test_calls_that_fail(
    runs: Runs, number: int, lasting: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    firsts = range(1 + number % 7, runs.calls, runs.calls // 4)
    codes = [check_failing_call(runs, tmp_path / str(n), Disk(n, number, lasting), capsys) for n in firsts]
    assert 2 in codes


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(("number", "lasting"), FAILURES)
def test_every_call_fails(
    runs: Runs, number: int, lasting: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for n in range(1, runs.calls + 1):
        check_failing_call(runs, tmp_path / str(n), Disk(n, number, lasting), capsys)
        shutil.rmtree(tmp_path / str(n))
    print(runs.calls, "calls")
