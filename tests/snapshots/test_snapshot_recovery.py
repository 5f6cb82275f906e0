"""Snapshots after damage and crashes: falling back with a word about it, and sweeping up after the dead only."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from support.snapshots import assert_content, names, save, steps

from swinpy.io import atomic
from swinpy.snapshots import staging
from swinpy.snapshots.store import SnapshotError, SnapshotStore, SnapshotWriteError

if TYPE_CHECKING:
    from pathlib import Path


# Falling back


def test_falls_back_with_a_line_about_each(tmp_path: Path) -> None:
    store = SnapshotStore(tmp_path, keep=5)
    paths = [save(store, step) for step in range(1, 6)]
    (paths[4] / "model.safetensors").write_bytes(b"cut")
    (paths[3] / "MANIFEST.json").unlink()
    shutil.rmtree(paths[2])
    paths[2].mkdir()
    found = store.load("latest")
    assert_content(found, 2)
    assert len(found.notes) == 3
    for note, step in zip(sorted(found.notes), (3, 4, 5), strict=True):
        assert note.startswith(f"step-{step:08d} skipped: load snapshot ")
        assert "\n" not in note
    assert store.newest() == (paths[1], list(found.notes))
    with pytest.raises(SnapshotError, match=r"expected .* bytes in model.safetensors; got 3"):
        store.load(paths[4])


def test_nothing_to_load(tmp_path: Path) -> None:
    store = SnapshotStore(tmp_path / "missing")
    assert store.newest() == (None, [])
    assert store.sweep() == []
    with pytest.raises(SnapshotError, match="got none"):
        store.load("latest")
    with pytest.raises(SnapshotError, match="nothing there"):
        store.load(tmp_path / "missing")
    assert not (tmp_path / "missing").exists()
    (tmp_path / "file").write_text("")
    with pytest.raises(SnapshotError, match="no folder"):
        store.load(tmp_path / "file")
    damaged = save(store, 1)
    with pytest.raises(SnapshotError, match=r"the run folder around it. Load one of"):
        store.load(tmp_path / "missing")
    (damaged / "state.json").unlink()
    with pytest.raises(SnapshotError, match=r"step-00000001 skipped: .* a readable file state.json; got No such file"):
        store.load("latest")


def test_a_file_where_a_folder_should_be(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("")
    store = SnapshotStore(tmp_path / "run")
    with pytest.raises(SnapshotError, match="Not a directory"):
        store.load("latest")
    for root in (tmp_path / "run", tmp_path / "other"):
        if root.name == "other":
            root.mkdir()
            (root / "snapshots").write_text("")
        with pytest.raises(SnapshotWriteError, match=r"Nothing is lost; .*Move that file away") as caught:
            save(SnapshotStore(root), 1)
        assert caught.value.errno == errno.ENOTDIR
        assert caught.value.previous is None


# The sweep


def dead_pid() -> int:
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    return child.pid


def test_sweeps_the_dead_only(tmp_path: Path) -> None:
    store = SnapshotStore(tmp_path)
    path = save(store, 1)
    gone = [
        f".tmp-{dead_pid()}-0123abcd-step-00000002",
        f".tmp-{os.getpid()}-0123abcd-step-00000002",
        ".tmp-0-0123abcd-step-00000002",
        ".tmp-9999999999-0123abcd-step-00000002",
    ]
    stays = [
        f".tmp-{os.getppid()}-0123abcd-step-00000002",
        f".old-{os.getppid()}-0123abcd-step-00000001",
        ".tmp-x",
        "mine",
    ]
    for name in gone + stays:
        shutil.copytree(path, store.folder / name)
    (store.folder / gone[0] / "sub").mkdir()
    (store.folder / gone[0] / "link").symlink_to(path)
    (store.folder / f".tmp-{dead_pid()}-0123abcd").write_text("half a pointer")
    notes = store.sweep()
    assert names(store) == sorted([*stays, "latest", "step-00000001"])
    assert len(notes) == 5
    assert all("removed, left by a save that did not finish" in note for note in notes)
    assert_content(store.load("latest"), 1)
    assert store.sweep() == []


def test_sweep_spares_a_save_in_progress(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = SnapshotStore(tmp_path)
    save(store, 1)
    swept: list[list[str]] = []

    class Sweeping(atomic.FileSystem):
        def fsync(self, fd: int) -> None:
            if not swept:
                swept.append(store.sweep())
            super().fsync(fd)

    monkeypatch.setattr(atomic, "_fs", Sweeping())
    save(store, 2)
    assert swept == [[]]
    assert_content(store.load("latest"), 2)
    assert not staging._active


@pytest.mark.parametrize("final", ["missing", "damaged", "good"])
def test_sweep_settles_an_interrupted_swap(tmp_path: Path, final: str) -> None:
    store = SnapshotStore(tmp_path)
    save(store, 1)
    path = save(store, 2)
    aside = store.folder / f".old-{dead_pid()}-0123abcd-step-00000002"
    path.rename(aside)
    assert_content(store.load("latest"), 2)  # readers find it even before the sweep
    assert store.newest()[0] == aside
    if final != "missing":
        shutil.copytree(aside, path)
    if final == "damaged":
        (path / "state.json").write_text("")
    (note,) = store.sweep()
    assert ("removed, step-00000002 replaces it" if final == "good" else "put back as step-00000002") in note
    assert names(store) == ["latest", "step-00000001", "step-00000002"]
    assert_content(store.load(path), 2)


def test_sweep_leaves_what_is_beyond_help(tmp_path: Path) -> None:
    store = SnapshotStore(tmp_path)
    aside = store.folder / f".old-{dead_pid()}-0123abcd-step-00000002"
    aside.mkdir(parents=True)
    assert "left alone" in store.sweep()[0]
    assert aside.exists()
    assert "skipped" in store.newest()[1][0]


def test_sweep_reports_what_it_cannot_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Refusing(atomic.FileSystem):
        def rmdir(self, path: Path) -> None:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))

    store = SnapshotStore(tmp_path)
    (store.folder / f".tmp-{dead_pid()}-0123abcd").mkdir(parents=True)
    monkeypatch.setattr(atomic, "_fs", Refusing())
    (note,) = store.sweep()
    assert note.endswith("could not be cleared up: Permission denied")


def test_reader_outlives_retention(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process lists the folder, then the run saves and deletes what was listed."""
    store = SnapshotStore(tmp_path, keep=1)
    save(store, 1)
    listing = store._list

    def slow() -> Any:
        found = listing()
        if len(steps(store)) and steps(store)[-1] == 1:
            save(SnapshotStore(tmp_path, keep=1), 2)
        return found

    monkeypatch.setattr(store, "_list", slow)
    found = store.load("latest")
    assert_content(found, 2)
    assert len(found.notes) == 1
