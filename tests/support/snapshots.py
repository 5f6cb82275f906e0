"""Small snapshots whose content is a function of the step, and what a test asks about them."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from pathlib import Path

    from swinpy.snapshots.store import Snapshot, SnapshotStore

__all__ = ["assert_content", "content", "names", "save", "steps"]


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
