"""The writing side of snapshots: staging, the swap of folders, deletion, and the sweep after a crash.

Hidden names in the folder of snapshots are ``.tmp-<pid>-<random>-...`` (unfinished, or on its way out) and
``.old-<pid>-<random>-step-...`` (a good snapshot that its replacement is pushing out at this moment).
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from typing import TYPE_CHECKING, Any, NamedTuple

from swinpy.io import atomic
from swinpy.io.safetensors.write import encode_tensors
from swinpy.snapshots import manifest as manifests
from swinpy.snapshots.manifest import FileRecord, Manifest, SnapshotError, step_name, step_of, verify
from swinpy.snapshots.plain_json import encode_plain

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

__all__ = ["Draft", "commit", "discard", "step_behind", "sweep"]

_HIDDEN = re.compile(r"\.(tmp|old)-([0-9]{1,10})-[0-9a-f]{8}(?:-(.+))?")
# Names that this process is using right now. A container may give every run the same pid, so a temporary that
# bears our pid but is not in here was left by a dead run.
_active: set[str] = set()


class Draft(NamedTuple):
    """What one snapshot is to be made of; see `SnapshotStore.save`, and `Manifest` for `order`."""

    step: int
    order: int
    pinned: bool
    groups: Mapping[str, Mapping[str, NDArray[Any]]]
    state: dict[str, Any]
    metadata: Mapping[str, Mapping[str, str]]


def step_behind(name: str) -> int | None:
    """The step of the snapshot that a folder name stands for, a pushed-out one included, or None."""
    hidden = _HIDDEN.fullmatch(name)
    return step_of(hidden[3] or "") if hidden and hidden[1] == "old" else step_of(name)


def commit(folder: Path, draft: Draft) -> Path | None:
    """Put a snapshot in its place under its final name: whole and on the disk, or not at all.

    Args:
        folder: where the snapshots are.
        draft: what to write, its arrays checked by `check_tensors`.

    Returns:
        The hidden folder that holds the snapshot it replaced, for `discard`, or None.

    Raises:
        OSError: the disk refused.
        SnapshotError: what was read back is not what was written.
        TypeError: an array cannot be stored.
        ValueError: a name cannot be used.
    """
    final = folder / step_name(draft.step)
    temporary = folder / atomic.temporary_name("tmp", final.name)
    aside = folder / atomic.temporary_name("old", final.name)
    names = {temporary.name, aside.name}
    _active.update(names)
    try:
        _stage(temporary, draft)
        _swap(temporary, final, aside)
        atomic.sync_folder(folder)
    except BaseException:
        with contextlib.suppress(OSError):
            atomic.remove_tree(temporary)
        raise
    finally:
        _active.difference_update(names)
    return aside if os.path.lexists(aside) else None


def _stage(temporary: Path, draft: Draft) -> None:
    atomic.make_new_folder(temporary)
    records = {}
    # One group at a time, so that only one is held as bytes besides the arrays themselves.
    for group, tensors in [(None, {}), *draft.groups.items()]:
        if group is None:
            name, data = manifests.STATE, encode_plain(draft.state, "save snapshot")
        else:
            name = manifests.group_file(group, "save snapshot")
            data = encode_tensors(tensors, draft.metadata.get(group), checked=True)
        atomic.write_new(temporary / name, data)
        records[name] = FileRecord(len(data), hashlib.sha256(data).hexdigest())
    manifest = Manifest(draft.step, draft.order, draft.pinned, records)
    atomic.write_new(temporary / manifests.MANIFEST, manifest.encode())
    atomic.sync_folder(temporary)
    verify(temporary)


def _swap(temporary: Path, final: Path, aside: Path) -> None:
    if not os.path.lexists(final):
        atomic.rename(temporary, final)
        return
    # A rename cannot replace a folder that has files. Between these two renames readers find the old one aside.
    atomic.rename(final, aside)
    try:
        atomic.rename(temporary, final)
    except BaseException:
        with contextlib.suppress(OSError):
            atomic.rename(aside, final)
        raise


def discard(folder: Path, paths: Iterable[Path]) -> None:
    """Delete snapshots; one that is half deleted never bears a final name.

    Args:
        folder: where the snapshots are.
        paths: which to delete.

    Raises:
        OSError: one could not be deleted; a sweep finishes the work.
    """
    doomed = [(path, folder / atomic.temporary_name("tmp", path.name)) for path in paths]
    if not doomed:
        return
    names = {temporary.name for _, temporary in doomed}
    _active.update(names)
    try:
        for path, temporary in doomed:
            atomic.rename(path, temporary)
        atomic.sync_folder(folder)
        for _, temporary in doomed:
            atomic.remove_tree(temporary)
    finally:
        _active.difference_update(names)


def _is_live(pid: int, name: str) -> bool:
    if pid == os.getpid():
        return name in _active
    if pid <= 0:
        return False
    if os.name != "posix":
        return True  # signal 0 would end the process there
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    except (ProcessLookupError, OverflowError):
        return False
    return True


def sweep(folder: Path, alone: bool = False) -> list[str]:
    """Clear up what dead writers left: remove unfinished files and folders, put back a snapshot that a swap had aside.

    Args:
        folder: where the snapshots are, or the run's folder around it.
        alone: whether no other process can be writing here. Else what bears the pid of a live process stays, and a pid
            says nothing of another machine's processes and may belong to a new one by now.

    Returns:
        One line about each thing done, or that could not be done.
    """
    notes = []
    try:
        entries = sorted(folder.iterdir())
    except OSError:
        return []
    for path in entries:
        hidden = _HIDDEN.fullmatch(path.name)
        if hidden is None or path.name in _active or not (alone or not _is_live(int(hidden[2]), path.name)):
            continue
        try:
            if hidden[1] == "tmp":
                atomic.remove_tree(path)
                notes.append(f"{path.name}: removed, left by a save that did not finish")
            elif step_behind(path.name) is not None:
                notes.append(f"{path.name}: {_settle(path, folder / hidden[3])}")
        except OSError as error:
            notes.append(f"{path.name}: could not be cleared up: {error.strerror or error}")
    return notes


def _settle(aside: Path, final: Path) -> str:
    if _is_good(final, final.name):
        discard(final.parent, [aside])
        return f"removed, {final.name} replaces it"
    if not _is_good(aside, final.name):
        return f"left alone: neither it nor {final.name} is whole"
    if os.path.lexists(final):
        discard(final.parent, [final])
    atomic.rename(aside, final)
    atomic.sync_folder(final.parent)
    return f"put back as {final.name}, whose replacement did not finish"


def _is_good(path: Path, name: str) -> bool:
    try:
        return verify(path).step == step_of(name)
    except SnapshotError:
        return False
