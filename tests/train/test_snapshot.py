"""Snapshots: what goes in comes out, the right ones are kept, and a sweep clears up after the dead only."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swinpy.io import atomic
from swinpy.train import staging
from swinpy.train.snapshot import Snapshot, SnapshotError, SnapshotStore, SnapshotWriteError, load_snapshot, verify


def content(step: int) -> tuple[dict[str, dict[str, np.ndarray[Any, Any]]], dict[str, Any]]:
    rng = np.random.default_rng(step)
    model = {"w": rng.standard_normal((3, 2), dtype=np.float32).T, "b": rng.standard_normal(2).astype("f2")}
    return {"model": model, "optim": {"w.m": rng.standard_normal(4), "t": np.array(step)}}, {"step": step, "lr": 0.1}


def save(store: SnapshotStore, step: int, *, pin: bool = False) -> Path:
    groups, state = content(step)
    return store.save(step, groups, state, pin=pin)


def assert_content(found: Snapshot, step: int) -> None:
    groups, state = content(step)
    assert found.step == step
    assert found.state == state
    assert found.groups.keys() == groups.keys()
    for group, tensors in groups.items():
        assert found.groups[group].keys() == tensors.keys()
        for name, array in tensors.items():
            got = found.groups[group][name]
            assert got.dtype == array.dtype
            assert got.shape == array.shape
            assert got.tobytes() == array.tobytes()


def names(store: SnapshotStore) -> list[str]:
    return sorted(os.listdir(store.folder))


def steps(store: SnapshotStore) -> list[int]:
    return [int(name[5:]) for name in names(store) if name.startswith("step-")]


# What goes in comes out

plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=12,
)


def exactly(value: Any) -> Any:
    """Makes -0.0 differ from 0.0, and 1 from 1.0 and True."""
    if isinstance(value, dict):
        return {key: exactly(item) for key, item in value.items()}
    return [exactly(item) for item in value] if isinstance(value, list) else (type(value), repr(value))


@settings(deadline=None, max_examples=50)
@given(st.dictionaries(st.text(max_size=5), plain, max_size=4), st.integers(0, 10**18 - 1), st.integers(0, 2**32 - 1))
def test_round_trip(state: dict[str, Any], step: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    dtypes = rng.permutation(["f2", "f4", "f8", "i1", "i4", "i8", "u1", "u8", ">f4"])
    arrays = {}
    for number, dtype in enumerate(dtypes[:5]):
        array = (rng.standard_normal(rng.integers(0, 4, rng.integers(0, 4))) * 9).astype(dtype)
        arrays[f"{number}.w"] = [array, array.T, array[..., ::-1] if array.ndim else array][number % 3]
    groups = {"model": {**arrays, "mask": rng.random(7) < 0.5}, "optim": {}, "rng_2": {"bits": np.array([np.nan, -0.0])}}
    with tempfile.TemporaryDirectory() as root:
        path = SnapshotStore(root).save(step, groups, state)
        found = SnapshotStore(root).load("latest")
        verify(path)
    assert found.path == path
    assert found.step == step
    assert found.notes == ()
    assert exactly(found.state) == exactly(state)
    assert found.groups.keys() == groups.keys()
    for group, tensors in groups.items():
        for name, array in tensors.items():
            got = found.groups[group][name]
            assert (got.shape, got.dtype) == (array.shape, array.dtype.newbyteorder("="))
            assert got.flags.writeable
            assert got.flags.owndata
            assert got.tobytes() == array.astype(got.dtype).tobytes()


def test_load_by_path_and_pointer(tmp_path: Path) -> None:
    store = SnapshotStore(tmp_path / "deep" / "run")
    first, second = save(store, 1), save(store, 2)
    assert second == tmp_path / "deep" / "run" / "snapshots" / "step-00000002"
    assert_content(store.load(first), 1)
    assert_content(load_snapshot(str(second)), 2)
    assert (store.folder / "latest").read_text() == "step-00000002\n"
    assert_content(load_snapshot(store.folder / "latest"), 2)
    assert store.verify(first).step == 1
    for text in ["", "../step-00000001\n", "step-00000001/../..", "x" * 100]:
        (store.folder / "latest").write_text(text)
        with pytest.raises(SnapshotError, match="latest: expected"):
            load_snapshot(store.folder / "latest")
    assert_content(store.load("latest"), 2)  # which trusts manifests, not the pointer


def test_copied_snapshot_loads(tmp_path: Path) -> None:
    shutil.copytree(save(SnapshotStore(tmp_path), 4), tmp_path / "best")
    assert_content(load_snapshot(tmp_path / "best"), 4)


# What is refused before the disk is touched


@pytest.mark.parametrize("group", ["model", "optim", "ema"])
@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", "c8"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_refuses_non_finite_weights(tmp_path: Path, group: str, dtype: str, value: float) -> None:
    array = np.zeros((2, 3), dtype)
    array[1, 2] = value
    with pytest.raises(ValueError, match=rf"finite values in {group}; got 1 of 6 NaN or infinite in 'layers\.0\.w'"):
        SnapshotStore(tmp_path / "run").save(1, {group: {"layers.0.w": array}}, {})
    assert not (tmp_path / "run").exists()


CIRCLE: list[Any] = []
CIRCLE.append(CIRCLE)


@pytest.mark.parametrize(
    ("value", "error", "said"),
    [
        (float("nan"), ValueError, r"got nan at state\['a'\]\['b'\]\[0\]"),
        (float("inf"), ValueError, r"got inf at state\['a'\]\['b'\]\[0\]"),
        (np.float64(1), TypeError, r"got numpy\.float64 at state\['a'\]\['b'\]\[0\]"),
        (np.zeros(2), TypeError, r"got numpy\.ndarray at .* store it as an array group"),
        ((1, 2), TypeError, r"got builtins\.tuple"),
        ({1: 2}, TypeError, r"expected str keys in state\['a'\]\['b'\]\[0\]; got 1"),
        (b"x", TypeError, r"got builtins\.bytes"),
        (errno.EIO.__class__, TypeError, r"got builtins\.type"),
        (1 << 5000, ValueError, r"up to 4096 bits; got 5001"),
        ("\ud800", ValueError, r"text with a UTF-8 form; got '\\ud800' at state\['a'\]\['b'\]\[0\]"),
        ({"\udcff": 1}, ValueError, r"text with a UTF-8 form"),
        (CIRCLE, ValueError, r"at most 64 containers"),
    ],
)
def test_refuses_state(tmp_path: Path, value: Any, error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=f"save snapshot: .*{said}"):
        SnapshotStore(tmp_path / "run").save(1, {}, {"a": {"b": [value]}})
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("group", ["", "../model", "Model", "a/b", "state.json", "x" * 65, ".model", "1"])
def test_refuses_group_names(tmp_path: Path, group: str) -> None:
    with pytest.raises(ValueError, match="expected a group name"):
        SnapshotStore(tmp_path).save(1, {group: {}}, {})


@pytest.mark.parametrize("step", [-1, 1.0, True, "1", 10**18, np.int64(3)])
def test_refuses_steps(tmp_path: Path, step: Any) -> None:
    with pytest.raises(ValueError, match="expected an int step"):
        SnapshotStore(tmp_path).save(step, {}, {})


def test_refuses_object_arrays_and_bad_arguments(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="object"):
        SnapshotStore(tmp_path / "run").save(1, {"model": {"x": np.array([None])}}, {})
    assert not (tmp_path / "run").exists()
    with pytest.raises(ValueError, match="expected keep >= 1"):
        SnapshotStore(tmp_path, keep=0)


# Retention


def test_keeps_the_last_and_the_pinned(tmp_path: Path) -> None:
    store = SnapshotStore(tmp_path, keep=2)
    for step in range(1, 8):
        save(store, step, pin=step in (2, 4))
        assert {step, max(step - 1, 1)} <= set(steps(store))
    assert steps(store) == [2, 4, 6, 7]
    few = SnapshotStore(tmp_path, keep=1, keep_pinned=1)
    save(few, 8)
    assert steps(few) == [4, 8]
    save(few, 9, pin=True)
    assert steps(few) == [9]
    assert names(few) == ["latest", "step-00000009"]


def test_going_back_to_an_earlier_step(tmp_path: Path) -> None:
    """The newest is the one saved last, or a run that went back would delete its own work and resume the wrong."""
    store = SnapshotStore(tmp_path, keep=2)
    for step in (100, 200, 50):
        save(store, step)
    assert steps(store) == [50, 200]
    assert_content(store.load("latest"), 50)
    save(store, 60)
    assert steps(store) == [50, 60]


def test_clock_set_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = SnapshotStore(tmp_path, keep=3)
    save(store, 9)
    monkeypatch.setattr("time.time_ns", lambda: 5)
    save(store, 3)
    save(store, 4)
    assert_content(store.load("latest"), 4)


def test_saving_a_step_again_replaces_it(tmp_path: Path) -> None:
    store = SnapshotStore(tmp_path)
    save(store, 1)
    save(store, 2)
    path = store.save(2, {"model": {"other": np.ones(1)}}, {"again": True})
    assert path.name == "step-00000002"
    assert store.load("latest").state == {"again": True}
    assert names(store) == ["latest", "step-00000001", "step-00000002"]
    (path / "model.safetensors").write_bytes(b"")  # and a damaged one too
    save(store, 2)
    assert_content(store.load("latest"), 2)


def test_a_file_named_like_a_snapshot_is_replaced(tmp_path: Path) -> None:
    store = SnapshotStore(tmp_path)
    save(store, 1)
    (store.folder / "step-00000002").write_text("not a folder")
    path, notes = store.newest()
    assert path is not None
    assert path.name == "step-00000001"
    assert notes == [f"step-00000002 skipped: {_error(store.folder / 'step-00000002')}"]
    save(store, 2)
    assert_content(store.load("latest"), 2)


def _error(path: Path) -> str:
    with pytest.raises(SnapshotError) as caught:
        verify(path)
    return str(caught.value)


def test_damaged_ones_are_never_deleted_by_retention(tmp_path: Path) -> None:
    store = SnapshotStore(tmp_path, keep=1)
    damaged = save(store, 1)
    (damaged / "MANIFEST.json").write_text("{}")
    save(store, 2)
    save(store, 3)
    assert steps(store) == [1, 3]


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
    with pytest.raises(SnapshotError, match="expected .* bytes in model.safetensors; got 3"):
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
    with pytest.raises(SnapshotError, match="step-00000001 skipped: .* a readable file state.json; got No such file"):
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
    stays = [f".tmp-{os.getppid()}-0123abcd-step-00000002", f".old-{os.getppid()}-0123abcd-step-00000001", ".tmp-x", "mine"]
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
    swept = []

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
