"""Snapshots of a run that survive kills, full disks, power cuts and flipped bits.

A run folder holds ``snapshots/step-00001234/`` with ``state.json``, one ``<group>.safetensors`` a group of arrays
(model, optim, ...) and ``MANIFEST.json``. A save

1. writes every file into ``.tmp-<pid>-...``, the manifest last, and syncs each, then the folder;
2. reads everything back and checks it against the manifest;
3. renames the folder to its final name and syncs the folder above: from here on the snapshot counts;
4. moves the small file ``latest``, which names it, for people and scripts;
5. only then deletes what retention no longer wants, renaming it to ``.tmp-...`` first.

So a folder under a final name is always whole, whatever moment a crash picks, and readers trust manifests alone:
``latest`` may lag by one save. Saving a step that exists moves the old folder to ``.old-<pid>-...`` for the moment
between two renames; readers look there too, and a sweep puts it back if the crash came just then. One process
writes to a run folder at a time (``swinpy.snapshots.lock``); any number may read.
"""

from __future__ import annotations

import contextlib
import errno
import os
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from swinpy.io import atomic
from swinpy.io.errors import TensorFileError
from swinpy.io.safetensors.read import decode_tensors
from swinpy.io.safetensors.write import check_tensors
from swinpy.snapshots import staging
from swinpy.snapshots.manifest import (
    MANIFEST,
    STATE,
    TENSORS,
    Manifest,
    SnapshotError,
    damage,
    group_file,
    read_file,
    read_manifest,
    step_name,
    step_of,
    verify,
)
from swinpy.snapshots.plain_json import decode_plain, encode_plain

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray

__all__ = [
    "Snapshot",
    "SnapshotError",
    "SnapshotStore",
    "SnapshotWriteError",
    "find_snapshot",
    "load_snapshot",
    "verify",
]

T = TypeVar("T")

_LATEST = "latest"
_STEPS = 10**18
# Weights that are not finite are never worth keeping: they would push good ones out of the rotation.
_FINITE = {"model", "optim", "ema"}
_FIXES = {
    errno.ENOSPC: "Free some disk space, then save again.",
    errno.EDQUOT: "Free some of your disk quota, then save again.",
    errno.EACCES: "Make the folder writable, or write to another one.",
    errno.EPERM: "Make the folder writable, or write to another one.",
    errno.EROFS: "Write to a folder on another file system.",
    errno.ENOTDIR: "Move that file away, or write to another folder.",
    errno.EISDIR: "Move that folder away, or write to another one.",
}


@dataclass(frozen=True)
class Snapshot:
    """What a snapshot holds.

    Attributes:
        step: the training step.
        groups: arrays by group and name; writable, and owning their memory.
        state: the plain state.
        path: the folder that it was read from.
        notes: one line about each damaged snapshot that was passed over to find this one.
    """

    step: int
    groups: dict[str, dict[str, NDArray[Any]]]
    state: dict[str, Any]
    path: Path
    notes: tuple[str, ...] = ()


class SnapshotWriteError(OSError):
    """A snapshot could not be written; no earlier snapshot was harmed.

    Attributes:
        previous: the newest good snapshot from before the save, if any.
        committed: the new snapshot, when it is safely in place and only what follows (moving ``latest``, deleting
            old snapshots) failed; else None.
    """

    def __init__(self, message: str, number: int | None, previous: Path | None, committed: Path | None) -> None:
        super().__init__(number, message)
        self.previous = previous
        self.committed = committed

    def __str__(self) -> str:
        return str(self.strerror)


def find_snapshot(path: str | os.PathLike[str]) -> tuple[Path, str]:
    """The snapshot that a path means.

    Args:
        path: a snapshot's folder, the file ``latest``, or a run's folder (or the one of its snapshots).

    Returns:
        The snapshot's folder, all its bytes verified, and for a run's folder which one was taken: the best, or the
        newest where none is marked as best.

    Raises:
        SnapshotError: it is missing or damaged, or the run has no good one.
    """
    folder = Path(path)
    if folder.name == _LATEST and os.path.isfile(folder):
        folder = _follow(folder)
    root = folder.parent if folder.name == "snapshots" else folder
    if os.path.lexists(folder / MANIFEST) or not os.path.isdir(root / "snapshots"):
        verify(folder)
        return folder, ""
    found, pinned, notes = SnapshotStore(root).best()
    if found is None:
        got = "; ".join(notes) or "none"
        raise SnapshotError(f"load snapshot: expected a good one in {root / 'snapshots'}; got {got}. Name a file.")
    kind = "the best by top-1" if pinned else "the newest, as none is marked as best"
    return found, "; ".join([f"{root}: its snapshot {found.name} is taken, {kind}", *notes])


def load_snapshot(path: str | os.PathLike[str]) -> Snapshot:
    """Read one snapshot, checking every byte.

    Args:
        path: a snapshot folder, or the file ``latest`` beside some.

    Returns:
        The snapshot.

    Raises:
        SnapshotError: it is missing, damaged or malformed; nothing else is tried in its place.
    """
    folder = Path(path)
    if folder.name == _LATEST and os.path.isfile(folder):
        folder = _follow(folder)
    manifest = read_manifest(folder)
    op = f"load snapshot {folder}"
    groups = {}
    try:
        state = decode_plain(read_file(folder, manifest, STATE), op)
        for name in manifest.files:
            if name != STATE:
                data = read_file(folder, manifest, name)
                groups[name.removesuffix(TENSORS)] = decode_tensors(data, str(folder / name))[0]
    except SnapshotError:
        raise
    except (TypeError, ValueError) as error:
        raise SnapshotError(str(error)) from error
    if type(state) is not dict:
        raise damage(folder, f"an object in {STATE}", type(state).__name__)
    return Snapshot(manifest.step, groups, state, folder)


def _follow(latest: Path) -> Path:
    try:
        name = atomic.read_regular(latest, limit=64).decode("ascii", "replace").removesuffix("\n")
    except OSError as error:
        raise damage(latest, "a readable file", error.strerror or error) from error
    if step_of(name) is None:
        raise damage(latest, "the name of a snapshot in it", repr(name))
    return latest.parent / name


class SnapshotStore:
    """The snapshots of one run folder.

    Args:
        root: the run folder; snapshots go to ``root/snapshots``. Made by the first save.
        keep: how many of the last saved to keep.
        keep_pinned: how many of the last pinned to keep besides; None keeps all.

    Raises:
        ValueError: `keep` is below 1 or `keep_pinned` below 0.
    """

    def __init__(self, root: str | os.PathLike[str], keep: int = 2, *, keep_pinned: int | None = None) -> None:
        if keep < 1 or (keep_pinned is not None and keep_pinned < 0):
            raise ValueError(
                f"SnapshotStore: expected keep >= 1 and keep_pinned >= 0; got {keep} and {keep_pinned}. "
                "keep=1 is the least that a run can be resumed from."
            )
        self.root = Path(root)
        self.folder = self.root / "snapshots"
        self.keep = keep
        self.keep_pinned = keep_pinned

    # Reading

    def newest(self) -> tuple[Path | None, list[str]]:
        """The snapshot saved last among those whose every byte verifies, and a line about each damaged one.

        Raises:
            SnapshotError: the folder exists and cannot be read.
        """
        found, notes = self._first_good(verify)
        return (found[0] if found else None), notes

    def best(self) -> tuple[Path | None, bool, list[str]]:
        """The snapshot that was pinned last, as a run pins its best; the newest where none is pinned.

        Only those whose every byte verifies count.

        Returns:
            Its folder (None if there is none), whether it is pinned, and a line about each damaged one.

        Raises:
            SnapshotError: the folder exists and cannot be read.
        """
        found, notes = self._first_good(verify, pinned_only=True)
        if found is not None:
            return found[0], True, notes
        path, more = self.newest()
        return path, False, [*notes, *(note for note in more if note not in notes)]

    def load(self, path: str | os.PathLike[str] = _LATEST) -> Snapshot:
        """Read a snapshot, checking every byte.

        Args:
            path: a snapshot folder; or "latest" for the one saved last, falling back past damaged ones, with a line
                about each in the result's `notes`.

        Returns:
            The snapshot.

        Raises:
            SnapshotError: it is missing, damaged or malformed; or, for "latest", there is no good one at all.
        """
        if path != _LATEST:
            return load_snapshot(path)
        found, notes = self.load_newest()
        if found is None:
            told = "; ".join(notes) or "none"
            fix = "Check the path, or start without resuming."
            raise SnapshotError(f"load snapshot: expected a good one in {self.folder}; got {told}. {fix}")
        return found

    def load_newest(self) -> tuple[Snapshot | None, list[str]]:
        """The good snapshot saved last, None if there is none, and a line about each damaged one passed over.

        Raises:
            SnapshotError: the folder exists and cannot be read.
        """
        found, notes = self._first_good(load_snapshot)
        return (replace(found[1], notes=tuple(notes)) if found else None), notes

    def _first_good(
        self, action: Callable[[Path], T], pinned_only: bool = False
    ) -> tuple[tuple[Path, T] | None, list[str]]:
        notes: list[str] = []
        tried: set[Path] = set()
        # Listed anew after each failure: a running job may have deleted the candidate because it saved newer ones.
        while True:
            found, damaged = self._list()
            notes += [note for note in damaged if note not in notes]
            wanted = (path for manifest, path in found if manifest.pinned or not pinned_only)
            path = next((path for path in wanted if path not in tried), None)
            if path is None:
                return None, notes
            tried.add(path)
            try:
                return (path, action(path)), notes
            except SnapshotError as error:
                notes.append(f"{path.name} skipped: {error}")

    def _list(self) -> tuple[list[tuple[Manifest, Path]], list[str]]:
        """The folders with a sound manifest, the one saved last first, and a line about each other one."""
        found, notes = [], []
        for path in self._entries():
            step = staging.step_behind(path.name)
            if step is None:
                continue
            try:
                manifest = read_manifest(path)
                if manifest.step != step:
                    raise damage(path, f"step {step}", manifest.step)
                found.append((manifest, path))
            except SnapshotError as error:
                notes.append(f"{path.name} skipped: {error}")
        return sorted(found, key=lambda item: (item[0].order, item[0].step), reverse=True), notes

    def _entries(self) -> list[Path]:
        try:
            return sorted(self.folder.iterdir())
        except FileNotFoundError:
            return []
        except OSError as error:
            reason = error.strerror or str(error)
            fix = "Check the path and its permissions."
            message = f"load snapshot: expected a folder of snapshots at {self.folder}; got {reason}. {fix}"
            raise SnapshotError(message) from error

    # Writing

    def save(
        self,
        step: int,
        groups: Mapping[str, Mapping[str, NDArray[Any]]],
        state: Mapping[str, Any],
        *,
        pin: bool = False,
        metadata: Mapping[str, Mapping[str, str]] | None = None,
    ) -> Path:
        """Write a snapshot; when it returns, the snapshot is on the disk and has been read back.

        Args:
            step: the training step. A snapshot of the same step is replaced.
            groups: arrays by group ("model", "optim", ...) and name, of any layout.
            state: what else a resume needs, as plain JSON values.
            pin: whether retention keeps this one besides the last `keep`, such as the best so far.
            metadata: of a group, free text by name for the header of its file; whoever copies the file has it, too.

        Returns:
            The snapshot's folder.

        Raises:
            TypeError: a state value is no plain JSON, or an array no plain NumPy array.
            ValueError: a name or the step cannot be used, or model, optim or ema hold NaN or infinity.
            SnapshotWriteError: the disk refused, or the encoder failed. Earlier snapshots are as they were.
        """
        _check(step, groups, state)
        final = self.folder / step_name(step)
        earlier: list[tuple[Manifest, Path]] = []
        committed = False
        try:
            atomic.make_folder(self.folder)
            earlier, _ = self._list()
            # Larger than every order that can be read, and almost surely than one that cannot.
            order = max([time.time_ns(), *(manifest.order + 1 for manifest, _ in earlier)])
            draft = staging.Draft(step, order, bool(pin), groups, dict(state), metadata or {})
            replaced = staging.commit(self.folder, draft)
            committed = True
            atomic.replace_file(self.folder / _LATEST, f"{final.name}\n".encode())
            staging.discard(self.folder, ([replaced] if replaced else []) + self._retired(final, bool(pin), earlier))
        except (OSError, SnapshotError, TensorFileError) as error:
            raise self._write_error(final, error, earlier, committed) from error
        return final

    def _retired(self, final: Path, pinned: bool, earlier: list[tuple[Manifest, Path]]) -> list[Path]:
        """What retention no longer wants; never a folder whose manifest could not be read."""
        others = [(manifest.pinned, path) for manifest, path in earlier if step_of(path.name) is not None]
        rotation = [(pinned, final), *(item for item in others if item[1] != final)]
        favourites = [path for is_pinned, path in rotation if is_pinned]
        kept = {path for _, path in rotation[: self.keep]} | set(favourites[: self.keep_pinned])
        return [path for _, path in rotation if path not in kept]

    def _write_error(
        self, final: Path, error: Exception, earlier: list[tuple[Manifest, Path]], committed: bool
    ) -> SnapshotWriteError:
        cause = error if isinstance(error, OSError) else error.__cause__
        if not isinstance(cause, OSError):
            cause = OSError(errno.EIO, str(error).rstrip("."))
        # Looked for again where it has gone: a swap that failed twice leaves the old snapshot under a hidden name.
        with contextlib.suppress(SnapshotError):
            earlier = earlier if all(path.is_dir() for _, path in earlier[:1]) else self._list()[0]
        previous = earlier[0][1] if earlier else None
        got = cause.strerror or str(cause)
        if cause.filename is not None:
            got += f" ({Path(os.fsdecode(cause.filename)).name})"
        if committed:
            lost = f"Nothing is lost: {final} is safely written, and only tidying up after it failed"
        else:
            lost = "Nothing is lost"
        kept = f"the previous good snapshot is {previous}" if previous else "no earlier snapshot was found"
        fix = _FIXES.get(cause.errno or 0, "Check the disk, then save again.")
        message = f"save snapshot: expected to write {final.name} in {self.folder}; got {got}. {lost}; {kept}. {fix}"
        return SnapshotWriteError(message, cause.errno, previous, final if committed else None)

    def prepare(self) -> None:
        """Make the folder of snapshots and try whether it can be written to, so that no save is the first to find out.

        Raises:
            SnapshotWriteError: it cannot be written to.
        """
        latest = self.folder / _LATEST
        trial = self.folder / atomic.temporary_name("tmp")
        try:
            atomic.make_folder(self.folder)
            if latest.is_dir():
                raise IsADirectoryError(errno.EISDIR, "a folder stands where a file should be", str(latest))
            atomic.write_new(trial, b"")
            atomic.remove_tree(trial)
        except OSError as error:
            where = Path(os.fsdecode(error.filename)) if error.filename is not None else self.folder
            raise SnapshotWriteError(
                f"save snapshot: expected to write to {self.folder}; got {error.strerror or error} ({where}). "
                f"{_FIXES.get(error.errno or 0, 'Check the disk.')}",
                error.errno,
                None,
                None,
            ) from error

    def sweep(self, *, alone: bool = False) -> list[str]:
        """Clear up what dead writers left in the run's folder; call it once when a run starts, before loading.

        Temporaries of live processes stay. Damaged snapshots stay as well: what they hold may be worth a look.

        Args:
            alone: whether the caller is the only writer (:func:`swinpy.snapshots.lock.only_writer`): then all
                temporaries were left, and none stays.

        Returns:
            One line about each thing done, or that could not be done.
        """
        return staging.sweep(self.root, alone) + staging.sweep(self.folder, alone)

    def verify(self, path: str | os.PathLike[str]) -> Manifest:
        """Check every byte of a snapshot against its manifest; see the function `verify`."""
        return verify(Path(path))


def _check(step: int, groups: Mapping[str, Mapping[str, NDArray[Any]]], state: Mapping[str, Any]) -> None:
    """Refuse what cannot or must not be stored, before the disk is touched."""
    op = "save snapshot"
    if type(step) is not int or not 0 <= step < _STEPS:
        raise ValueError(f"{op}: expected an int step from 0 to {_STEPS - 1}; got {step!r}. Use int(step).")
    encode_plain(dict(state), op)
    for group, tensors in groups.items():
        group_file(group, op)
        check_tensors(tensors)
        for name, array in tensors.items():
            if group not in _FINITE or not np.issubdtype(array.dtype, np.inexact):
                continue
            finite = np.isfinite(array)
            if not finite.all():
                count = np.size(finite) - np.count_nonzero(finite)
                raise ValueError(
                    f"{op}: expected finite values in {group}; got {count} of {np.size(finite)} NaN or infinite in "
                    f"{name!r}. Go back to the last good snapshot, and lower the learning rate or clip gradients."
                )
