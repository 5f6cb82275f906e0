"""Disks that fail at any call of a save."""

from __future__ import annotations

import errno
import os
import shutil
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from swinpy.io import atomic
from swinpy.snapshots.store import SnapshotStore, SnapshotWriteError, load_snapshot, verify

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

WRITING = {"mkdir", "open", "write", "fsync", "rename", "replace", "unlink", "rmdir", "close"}
READING = {"open_read", "read", "close_read"}


class Quick(atomic.FileSystem):
    """Does not wait for the disk: which calls fail is the matter here, not what a power cut leaves."""

    def fsync(self, fd: int) -> None:
        os.fstat(fd)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(atomic, "_fs", Quick())


class Disk(Quick):
    """Counts the calls of some kinds and makes the `first`-th fail; with `lasting`, every later one as well."""

    def __init__(self, kinds: set[str], first: int = 0, number: int = errno.EIO, lasting: bool = False) -> None:
        self.kinds, self.first, self.number, self.lasting = kinds, first, number, lasting
        self.calls: list[tuple[str, Any]] = []
        self.failed = 0

    def _may_fail(self, kind: str, what: Any) -> bool:
        if kind not in self.kinds:
            return False
        self.calls.append((kind, what))
        now = len(self.calls)
        return now == self.first or (self.lasting and 0 < self.first < now)

    def _fail(self) -> None:
        self.failed += 1
        raise OSError(self.number, os.strerror(self.number))

    def write(self, fd: int, data: memoryview) -> int:
        if self._may_fail("write", fd):
            os.write(fd, data[: len(data) // 2])  # a full disk takes what still fits
            self._fail()
        return super().write(fd, data)

    def close(self, fd: int) -> None:
        super().close(fd)  # the descriptor is gone even where close reports an error
        if self._may_fail("close", fd):
            self._fail()

    def close_read(self, fd: int) -> None:
        super().close_read(fd)
        if self._may_fail("close_read", fd):
            self._fail()


def _guard(kind: str) -> Callable[..., Any]:
    def call(self: Disk, *args: Any) -> Any:
        if self._may_fail(kind, args):
            self._fail()
        return getattr(Quick, kind)(self, *args)

    return call


for _kind in (WRITING | READING) - {"write", "close", "close_read"}:
    setattr(Disk, _kind, _guard(_kind))


def groups(step: int) -> dict[str, dict[str, np.ndarray[Any, Any]]]:
    return {"model": {"w": np.arange(5.0) * step}, "optim": {"m": np.full(3, step, np.float32)}}


def save(store: SnapshotStore, step: int, generation: int = 0) -> Path:
    return store.save(step, groups(step), {"step": step, "generation": generation})


def assert_good(path: Path | None, step: int) -> int:
    assert path is not None
    found = load_snapshot(path)
    assert found.step == found.state["step"] == step
    for group, tensors in groups(step).items():
        for name, array in tensors.items():
            assert found.groups[group][name].tobytes() == array.tobytes()
    return int(found.state["generation"])


def prepared(root: Path) -> SnapshotStore:
    store = SnapshotStore(root, keep=2)
    save(store, 1)
    save(store, 2)
    return store


def outcome(store: SnapshotStore, step: int, disk: Disk, monkeypatch: pytest.MonkeyPatch) -> SnapshotWriteError | None:
    with monkeypatch.context() as patch:
        patch.setattr(atomic, "_fs", disk)
        try:
            save(store, step, 1)
        except SnapshotWriteError as error:
            return error
    return None


def count_calls(root: Path, step: int, kinds: set[str], monkeypatch: pytest.MonkeyPatch) -> int:
    store = prepared(root)
    disk = Disk(kinds)
    with monkeypatch.context() as patch:
        patch.setattr(atomic, "_fs", disk)
        save(store, step, 1)
    return len(disk.calls)


# Step 3 makes retention delete step 1; step 2 replaces the newest one.
@pytest.mark.parametrize("step", [3, 2])
@pytest.mark.parametrize("lasting", [False, True], ids=["once", "from then on"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EACCES], ids=errno.errorcode.get)
def test_every_call_of_a_save_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int, lasting: bool, number: int
) -> None:
    total = count_calls(tmp_path / "count", step, WRITING, monkeypatch)
    assert total > 30
    descriptors = len(os.listdir("/proc/self/fd"))
    for first in range(1, total + 1):
        store = prepared(tmp_path / "run")
        disk = Disk(WRITING, first, number, lasting)
        with monkeypatch.context() as patch:
            patch.setattr(atomic, "_fs", disk)
            with pytest.raises(SnapshotWriteError) as caught:
                save(store, step, 1)
        assert disk.failed
        assert lasting or (store.folder / "step-00000002").is_dir(), "what was moved aside was not put back"
        check_after_fault(store, step, caught.value, number)
        shutil.rmtree(tmp_path / "run")
    assert len(os.listdir("/proc/self/fd")) == descriptors


def check_after_fault(store: SnapshotStore, step: int, error: SnapshotWriteError, number: int) -> None:
    # The error says what failed, what was the last good snapshot, and whether the new one counts.
    previous = error.previous
    assert error.errno == number
    assert os.strerror(number) in str(error)
    assert "Nothing is lost" in str(error)
    assert f"the previous good snapshot is {previous}" in str(error)
    if error.committed is not None:
        assert assert_good(error.committed, step) == 1
    # The one before is bit-equal, unless the new one has taken its place whole.
    generation = assert_good(previous, 2)
    assert generation == 0 or (step == 2 and generation == 1)
    # No folder under a final name is half written, and no damage is reported.
    for path in store.folder.glob("step-*"):
        verify(path)
    newest, notes = store.newest()
    assert notes == []
    assert newest is not None
    found = load_snapshot(newest).step
    assert assert_good(newest, found) == (1 if found == 3 else generation)
    # Once the disk works again, so does everything, and nothing stays behind.
    store.sweep()
    assert_good(store.folder / f"step-{found:08d}", found)
    save(store, 4, 2)
    assert assert_good(store.newest()[0], 4) == 2
    assert not [name for name in os.listdir(store.folder) if name.startswith(".")]


@pytest.mark.parametrize("step", [3, 2])
@pytest.mark.parametrize("lasting", [False, True], ids=["once", "from then on"])
def test_every_read_of_a_save_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int, lasting: bool) -> None:
    """An unreadable old manifest need not stop a save; a new file that cannot be read back must."""
    total = count_calls(tmp_path / "count", step, READING, monkeypatch)
    errors = 0
    for first in range(1, total + 1):
        store = prepared(tmp_path / "run")
        error = outcome(store, step, Disk(READING, first, errno.EIO, lasting), monkeypatch)
        newest = store.folder / f"step-{step:08d}"
        if error is not None:
            errors += 1
            assert "Nothing is lost" in str(error)
            newest = error.committed or store.folder / "step-00000002"
        assert assert_good(store.newest()[0], int(newest.name[5:])) in (0, 1)
        assert store.newest() == (newest, [])
        assert_good(store.folder / "step-00000002", 2)
        shutil.rmtree(tmp_path / "run")
    assert errors >= 12  # the four files, opened, read and closed


def test_every_call_of_the_first_save_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for first in range(1, 1000):
        store = SnapshotStore(tmp_path / str(first) / "run")
        error = outcome(store, 1, Disk(WRITING, first, errno.ENOSPC), monkeypatch)
        if error is None:
            break
        assert error.previous is None
        assert "Nothing is lost" in str(error)
        assert str(error).endswith("no earlier snapshot was found. Free some disk space, then save again.")
        save(store, 1)
        assert_good(store.newest()[0], 1)
    assert first > 30


def test_read_only_folder_is_said_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Through the seam, because permissions do not bind root."""
    monkeypatch.setattr(atomic, "_fs", Disk({"mkdir", "open"}, 1, errno.EROFS, lasting=True))
    with pytest.raises(SnapshotWriteError, match=r"Read-only file system.*another file system"):
        save(SnapshotStore(tmp_path / "run"), 1)


def test_what_was_written_is_read_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Rotten(atomic.FileSystem):
        def write(self, fd: int, data: memoryview) -> int:
            return os.write(fd, bytes(len(data)))

    store = prepared(tmp_path)
    monkeypatch.setattr(atomic, "_fs", Rotten())
    with pytest.raises(SnapshotWriteError, match="step-00000002") as caught:
        save(store, 3)
    assert caught.value.errno == errno.EIO
    assert_good(store.newest()[0], 2)
    assert sorted(os.listdir(store.folder)) == ["latest", "step-00000001", "step-00000002"]


def test_interrupt_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Interrupted(atomic.FileSystem):
        def fsync(self, fd: int) -> None:
            raise KeyboardInterrupt

    store = prepared(tmp_path)
    monkeypatch.setattr(atomic, "_fs", Interrupted())
    with pytest.raises(KeyboardInterrupt):
        save(store, 3)
    assert sorted(os.listdir(store.folder)) == ["latest", "step-00000001", "step-00000002"]


def test_order_of_calls_survives_a_power_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every file and the folder are synced before the rename, the folder above after it, and only then is deleted."""
    store = prepared(tmp_path)
    opened: dict[int, str] = {}
    log: list[str] = []

    def plain(path: Path) -> str:
        return ".tmp" if path.name.startswith(".tmp-") else path.name

    class Logging(Quick):
        def open(self, path: Path, flags: int) -> int:
            fd = super().open(path, flags)
            opened[fd] = plain(path)
            return fd

        def fsync(self, fd: int) -> None:
            log.append(f"sync {opened[fd]}")

        def rename(self, source: Path, target: Path) -> None:
            super().rename(source, target)
            log.append(f"rename {plain(source)} {plain(target)}")

        def replace(self, source: Path, target: Path) -> None:
            super().replace(source, target)
            log.append(f"replace {plain(source)} {plain(target)}")

        def unlink(self, path: Path) -> None:
            super().unlink(path)
            log.append("unlink")

    monkeypatch.setattr(atomic, "_fs", Logging())
    save(store, 3)
    assert log == [
        "sync state.json",
        "sync model.safetensors",
        "sync optim.safetensors",
        "sync MANIFEST.json",
        "sync .tmp",
        "rename .tmp step-00000003",
        "sync snapshots",
        "sync .tmp",
        "replace .tmp latest",
        "sync snapshots",
        "rename step-00000001 .tmp",
        "sync snapshots",
        *["unlink"] * 4,
    ]
