"""Snapshots: what goes in comes out, what must not go in is refused, and the right ones are kept."""

from __future__ import annotations

import errno
import shutil
import tempfile
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.snapshots import assert_content, names, save, steps

from swinpy.snapshots.store import SnapshotError, SnapshotStore, load_snapshot, verify

if TYPE_CHECKING:
    from pathlib import Path


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
    groups = {
        "model": {**arrays, "mask": rng.random(7) < 0.5},
        "optim": {},
        "rng_2": {"bits": np.array([np.nan, -0.0])},
    }
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
