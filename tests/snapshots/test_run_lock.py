"""The lock on a run's folder: whichever call fails, it is had or refused with the reason, and nothing stays open."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, Any

import pytest

from swinpy.io import atomic
from swinpy.snapshots.lock import RunInUseError, only_writer

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.skipif(atomic.fcntl is None, reason="Windows has no flock")


class Disk(atomic.FileSystem):
    """Counts its calls and makes the `first`-th fail."""

    def __init__(self, first: int, number: int) -> None:
        self.first, self.number = first, number
        self.calls: list[str] = []


def _failing(kind: str) -> Any:
    def call(self: Disk, *args: Any) -> Any:
        self.calls.append(kind)
        fails = len(self.calls) == self.first
        if kind == "close" or not fails:  # a descriptor is gone even where close reports an error
            result = getattr(atomic.FileSystem, kind)(self, *args)
        if fails:
            raise OSError(self.number, os.strerror(self.number))
        return result

    return call


for _kind in [name for name in vars(atomic.FileSystem) if not name.startswith("_")]:
    setattr(Disk, _kind, _failing(_kind))


def test_every_call_goes_through_the_seam_and_may_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "runs" / "run"
    disk = Disk(0, 0)
    with monkeypatch.context() as patch:
        patch.setattr(atomic, "_fs", disk)
        with only_writer(folder):
            pass
    making = ["mkdir", "open", "fsync", "close"]
    assert disk.calls == [*making, *making, "open", "lock", "truncate", "write", "close"]
    descriptors = len(os.listdir("/dev/fd"))
    for first in range(len(disk.calls)):
        again = tmp_path / str(first) / "run"
        with monkeypatch.context() as patch:
            patch.setattr(atomic, "_fs", Disk(first + 1, errno.EIO))
            with pytest.raises(OSError, match=os.strerror(errno.EIO)), only_writer(again):
                pass
        with only_writer(again) as without:  # what failed has left no lock behind
            assert without is None
    assert len(os.listdir("/dev/fd")) == descriptors


def test_a_write_that_takes_a_part_is_gone_on_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Slow(atomic.FileSystem):
        def write(self, fd: int, data: memoryview) -> int:
            return os.write(fd, data[:3])

    monkeypatch.setattr(atomic, "_fs", Slow())
    (tmp_path / ".lock").write_text("an older and longer line of a process that is gone\n" * 9)
    with only_writer(tmp_path):
        assert (tmp_path / ".lock").read_text().startswith(f"{os.getpid()} on ")
        assert (tmp_path / ".lock").read_text().count("\n") == 1


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL], ids=errno.errorcode.get)
def test_a_file_system_without_locks_is_told(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(atomic.fcntl, "flock", lambda *_: (_ for _ in ()).throw(OSError(number, os.strerror(number))))
    with only_writer(tmp_path / "run") as without:
        assert without is not None
        assert f"no lock could be had ({os.strerror(number)})" in without


def test_a_system_without_flock_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(atomic, "fcntl", None)
    with only_writer(tmp_path / "run") as without, only_writer(tmp_path / "run"):
        assert without is not None
        assert "no lock could be had (this system has no flock). Nothing keeps a second run" in without


@pytest.mark.parametrize("text", [b"", b"\xff\xfe", b"x" * 2000, None], ids=["empty", "no text", "long", "a folder"])
def test_whoever_holds_it_is_said_as_far_as_it_can_be_read(text: bytes | None, tmp_path: Path) -> None:
    with only_writer(tmp_path):
        if text is None:
            (tmp_path / ".lock").rename(tmp_path / "held")
            (tmp_path / ".lock").mkdir()
            expected: Any = pytest.raises(IsADirectoryError)
        else:
            (tmp_path / ".lock").write_bytes(text)
            expected = pytest.raises(RunInUseError, match=r"in use by (another process|process .*)\. Wait for it")
        with expected, only_writer(tmp_path):
            pass
