"""SIGKILL in the middle of saves: at random moments, and before and after every single call.

This file is its own helper: run as a script it forks children that save and are killed, and checks after each what
is on the disk. The forking process is a plain Python without pytest, so that no thread is alive at the fork.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from swinpy.io import atomic
from swinpy.snapshots.store import SnapshotStore, verify

if TYPE_CHECKING:
    from collections.abc import Callable

    import pytest

    from swinpy.snapshots.store import Snapshot


def save(store: SnapshotStore, step: int, generation: int) -> None:
    mark = np.int64(step * 1000 + generation)
    model = {"w": np.full(5000, mark), "b": np.full((3, 4), mark).T}
    store.save(step, {"model": model, "optim": {"m": np.full(3000, mark)}}, {"mark": int(mark)}, pin=step % 7 == 0)


def check(found: Snapshot) -> tuple[int, int]:
    """Returns step and generation after making sure that every part of the snapshot belongs to the same save."""
    mark = found.state["mark"]
    assert found.step == mark // 1000
    for tensors in found.groups.values():
        for array in tensors.values():
            assert (array == mark).all()
    assert [(name, array.shape) for name, array in found.groups["model"].items()] == [("b", (4, 3)), ("w", (5000,))]
    return found.step, mark % 1000


def in_child(work: Callable[[], None]) -> int:
    pid = os.fork()
    if pid == 0:
        status = 70
        try:
            work()
            status = 0
        finally:
            os._exit(status)
    return pid


def keep_saving(root: Path, pipe: int, seed: int) -> None:
    rng = random.Random(seed)
    store = SnapshotStore(root, keep=2, keep_pinned=1)
    store.sweep()
    try:
        step, generation = check(store.load("latest"))
    except ValueError:
        step, generation = 0, 0
    os.write(pipe, b"[0, 0]\n")
    while True:
        # Now and then the same step again, which has to push the old folder out of the way.
        step, generation = (step, generation + 1) if step and rng.random() < 0.4 else (step + 1, 0)
        save(store, step, generation)
        os.write(pipe, f"[{step}, {generation}]\n".encode())


def survey(store: SnapshotStore) -> tuple[tuple[int, int], list[str]]:
    found = store.load("latest")
    for path in store.folder.glob("step-*"):
        verify(path)
    return check(found), list(found.notes)


def random_kills(root: Path, kills: int, seed: int) -> dict[str, Any]:
    rng = random.Random(seed)
    store = SnapshotStore(root, keep=2)
    counts = {"kills": 0, "unreadable": 0, "backwards": 0, "lost": 0, "notes": 0, "in_a_save": 0, "in_a_swap": 0}
    newest = (0, 0)
    saved = 0
    began = time.perf_counter()
    for step in range(5):
        save(SnapshotStore(root / "trial"), step + 1, 0)
    duration = (time.perf_counter() - began) / 5  # of a save, on this machine under its present load
    while counts["kills"] < kills:
        reader, writer = os.pipe()
        pid = in_child(lambda writer=writer: keep_saving(root, writer, rng.randrange(1 << 30)))  # type: ignore[misc]
        os.close(writer)
        with open(reader) as lines:
            lines.readline()  # it has begun
            told = [tuple(json.loads(lines.readline())) for _ in range(rng.randrange(3))]
            time.sleep(rng.random() * 2 * duration)
            os.kill(pid, signal.SIGKILL)
            _, status = os.waitpid(pid, 0)
            told += [tuple(json.loads(line)) for line in lines]
        assert os.WIFSIGNALED(status), status
        counts["kills"] += 1
        saved += len(told)
        hidden = [name for name in os.listdir(store.folder) if name.startswith(".")] if store.folder.exists() else []
        counts["in_a_save"] += bool(hidden)
        counts["in_a_swap"] += any(name.startswith(".old-") for name in hidden)
        if not told and newest == (0, 0):
            continue  # killed before the very first save came through
        try:
            now, notes = survey(store)
        except (ValueError, AssertionError):
            counts["unreadable"] += 1
            continue
        counts["notes"] += len(notes)
        counts["backwards"] += now < newest
        counts["lost"] += now < max(told, default=newest)
        newest = max(now, newest)
    return {**counts, "saves": saved}


class Quick(atomic.FileSystem):
    """Does not wait for the disk: what a killed process has written stays written without that."""

    def fsync(self, fd: int) -> None:
        os.fstat(fd)


class Deadly(Quick):
    """Kills its own process before or after the n-th call, a write after half of it."""


def _deadly(kind: str) -> Callable[..., Any]:
    def call(self: Any, *args: Any) -> Any:
        self.left -= 1
        if self.left == 0 and self.before:
            os.kill(os.getpid(), signal.SIGKILL)
        if kind == "write" and self.left == 0:
            args = (args[0], args[1][: len(args[1]) // 2])
        result = getattr(Quick, kind)(self, *args)
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    return call


for _kind in [name for name in vars(atomic.FileSystem) if not name.startswith("_")]:
    setattr(Deadly, _kind, _deadly(_kind))


def kills_at_every_call(root: Path) -> dict[str, Any]:
    atomic._fs = Quick()
    store = SnapshotStore(root, keep=2, keep_pinned=1)
    for step in (1, 2):
        save(store, step, 0)
    kills = 0
    for again, before in itertools.product((False, True), (False, True)):
        for number in itertools.count(1):
            old, _ = survey(store)
            new = (old[0], old[1] + 1) if again else (old[0] + 1, 0)

            def work(number: int = number, before: bool = before, new: tuple[int, int] = new) -> None:
                disk: Any = Deadly()
                disk.left, disk.before = number, before
                atomic._fs = disk
                save(store, *new)

            _, status = os.waitpid(in_child(work), 0)
            now, notes = survey(store)
            assert not notes, notes
            if not os.WIFSIGNALED(status):
                assert status == 0
                assert now == new
                break
            kills += 1
            assert now in (old, new), (old, new, now, number)
            store.sweep()
            assert survey(store) == (now, [])
            save(store, now[0] + 1, 0)  # does the deletions that the kill prevented, or they would pile up
            assert len(list(store.folder.glob("step-*"))) <= 3
            assert not [name for name in os.listdir(store.folder) if name.startswith(".")]
    return {"kills": kills}


def run(*args: object) -> dict[str, Any]:
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, __file__, *map(str, args)]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        env=environment,
        timeout=280 if args[0] == "calls" else 1400,
    )
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    print(result)
    return result


def check_random_kills(tmp_path: Path, kills: int, seed: int) -> None:
    counts = run("random", tmp_path / "run", kills, seed)
    assert counts["kills"] == kills
    assert counts["saves"] > kills / 2
    assert counts["in_a_save"] > kills / 4, "the kills did not hit saves"
    assert [counts[name] for name in ("unreadable", "backwards", "lost", "notes")] == [0, 0, 0, 0]


def test_kills_at_random(tmp_path: Path) -> None:
    check_random_kills(tmp_path, 25, 1)


def test_kills_at_every_call(tmp_path: Path) -> None:
    assert run("calls", tmp_path / "run")["kills"] > 200


if __name__ == "__main__":
    if sys.argv[1] == "random":
        print(json.dumps(random_kills(Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))))
    else:
        print(json.dumps(kills_at_every_call(Path(sys.argv[2]))))
else:
    import pytest

    @pytest.mark.slow
    @pytest.mark.timeout(1500)
    def test_many_kills_at_random(tmp_path: Path) -> None:
        check_random_kills(tmp_path, 500, 2)
