"""What a snapshot folder holds, and how damage to any bit of it is found.

``MANIFEST.json`` lists the size and SHA-256 of every other file. It also carries the SHA-256 of itself without
that line, and only one spelling of it counts, so that no bit of the manifest can change unseen either. It guards
against accidents; whoever can write the folder can write a manifest to match, and so every name and number in it
is still treated as hostile.
"""

from __future__ import annotations

import hashlib
import os
import re
import reprlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from swinpy.io import atomic
from swinpy.snapshots.plain_json import decode_plain, encode_plain

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

__all__ = [
    "MANIFEST",
    "STATE",
    "TENSORS",
    "FileRecord",
    "Manifest",
    "SnapshotError",
    "damage",
    "group_file",
    "read_file",
    "read_manifest",
    "step_name",
    "step_of",
    "verify",
]

MANIFEST = "MANIFEST.json"
STATE = "state.json"
TENSORS = ".safetensors"

_FORMAT = "swinpy-snapshot"
_VERSION = 1
_KEYS = {"files", "format", "order", "pinned", "sha256", "step", "version"}
_STEP = re.compile(r"step-([0-9]{8,18})")
_GROUP = re.compile(r"[a-z][a-z0-9_]{0,63}")
_SHA = re.compile(r"[0-9a-f]{64}")
_MANIFEST_LIMIT = 1 << 20
_STATE_LIMIT = 1 << 28
_LARGEST = 1 << 63
_ANOTHER = "Use another snapshot; load('latest') finds the newest good one."


class SnapshotError(ValueError):
    """A snapshot that is missing, damaged or malformed."""


@dataclass(frozen=True)
class FileRecord:
    """One file of a snapshot: its size in bytes and the SHA-256 of its bytes in hexadecimal."""

    size: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """The contents of ``MANIFEST.json``.

    Attributes:
        step: the training step.
        order: grows with every save into a run folder, whatever its step: after going back to an earlier step, the
            newest snapshot is the one saved last, not the one with the highest step.
        pinned: whether retention spares this snapshot.
        files: the other files by name: ``state.json`` and one ``<group>.safetensors`` a group of arrays.
    """

    step: int
    order: int
    pinned: bool
    files: Mapping[str, FileRecord]

    def encode(self) -> bytes:
        """The only bytes that stand for this manifest."""
        body = {
            "files": {name: {"sha256": record.sha256, "size": record.size} for name, record in self.files.items()},
            "format": _FORMAT,
            "order": self.order,
            "pinned": self.pinned,
            "step": self.step,
            "version": _VERSION,
        }
        digest = hashlib.sha256(encode_plain(body, "save snapshot", MANIFEST)).hexdigest()
        return encode_plain({**body, "sha256": digest}, "save snapshot", MANIFEST)


def step_name(step: int) -> str:
    """The folder name of a step, such as ``step-00001234``."""
    return f"step-{step:08d}"


def step_of(name: str) -> int | None:
    """The step that a folder name stands for, or None when it is not the name of a snapshot."""
    match = _STEP.fullmatch(name)
    return int(match[1]) if match and step_name(int(match[1])) == name else None


def group_file(group: str, op: str) -> str:
    """The file name of a group of arrays.

    Args:
        group: the group's name.
        op: the operation that a message names first.

    Raises:
        ValueError: the name is not a short lower-case identifier.
    """
    if not isinstance(group, str) or not _GROUP.fullmatch(group):
        raise ValueError(f"{op}: expected a group name matching {_GROUP.pattern}; got {group!r}. Rename the group.")
    return group + TENSORS


def damage(path: Path, expected: str, got: object, fix: str = _ANOTHER) -> SnapshotError:
    """The error that says what is wrong with the snapshot at `path`."""
    return SnapshotError(f"load snapshot {path}: expected {expected}; got {got}. {fix}")


def _read(path: Path, name: str, limit: int) -> bytes:
    try:
        return atomic.read_regular(path / name, limit=limit, follow=False)
    except OSError as error:
        raise damage(path, f"a readable file {name}", _reason(error)) from error


def _reason(error: OSError) -> str:
    return error.strerror or str(error)


def _is_count(value: Any, least: int = 0) -> bool:
    return type(value) is int and least <= value < _LARGEST


def _records(path: Path, files: Any) -> dict[str, FileRecord]:
    if type(files) is not dict or STATE not in files:
        raise damage(path, f"{STATE} among the files of {MANIFEST}", reprlib.repr(files))
    records = {}
    for name, entry in files.items():
        # Nothing but bare names of this shape is ever joined to the folder, so none can lead out of it.
        if name != STATE and not (name.endswith(TENSORS) and _GROUP.fullmatch(name.removesuffix(TENSORS))):
            raise damage(path, f"file names such as model{TENSORS} in {MANIFEST}", reprlib.repr(name))
        if type(entry) is not dict or entry.keys() != {"sha256", "size"} or not _is_count(entry["size"]):
            raise damage(path, f"sha256 and size of {name}", reprlib.repr(entry))
        if type(entry["sha256"]) is not str or not _SHA.fullmatch(entry["sha256"]):
            raise damage(path, f"a SHA-256 of {name}", reprlib.repr(entry["sha256"]))
        records[name] = FileRecord(entry["size"], entry["sha256"])
    return records


def read_manifest(path: Path) -> Manifest:
    """Read and check the manifest of a snapshot folder, without looking at the other files.

    Args:
        path: the snapshot folder.

    Returns:
        The manifest.

    Raises:
        SnapshotError: there is none, or a single bit of it is not as it was written.
    """
    # os.path rather than Path: these answer False where the folder above may not be entered, and never raise.
    if not os.path.isdir(path):
        got = "something that is no folder" if os.path.lexists(path) else "nothing there"
        raise damage(path, "a snapshot folder", got, "Check the path.")
    if os.path.isdir(path / "snapshots") and not os.path.lexists(path / MANIFEST):
        fix = f"Load one of the folders in {path / 'snapshots'}."
        raise damage(path, "a snapshot folder", "the run folder around it", fix)
    data = _read(path, MANIFEST, _MANIFEST_LIMIT)
    try:
        body = decode_plain(data, f"load snapshot {path}", MANIFEST)
    except (TypeError, ValueError) as error:
        raise SnapshotError(str(error)) from error
    if type(body) is not dict or body.get("format") != _FORMAT:
        raise damage(path, f"a {MANIFEST} of {_FORMAT}", "another file of that name")
    if body.get("version") != _VERSION:
        fix = "It was written by another version of swinpy: use that one."
        raise damage(path, f"version {_VERSION} in {MANIFEST}", reprlib.repr(body.get("version")), fix)
    if body.keys() != _KEYS:
        raise damage(path, f"the keys {sorted(_KEYS)} in {MANIFEST}", reprlib.repr(sorted(body)))
    step, order, pinned = body["step"], body["order"], body["pinned"]
    if not _is_count(step) or not _is_count(order) or type(pinned) is not bool:
        raise damage(
            path, f"numbers step and order and a bool pinned in {MANIFEST}", reprlib.repr((step, order, pinned))
        )
    if step_of(path.name) not in (None, step):
        raise damage(path, f"step {step_of(path.name)} in {MANIFEST}", step, "The folder was renamed: name it back.")
    manifest = Manifest(step, order, pinned, _records(path, body["files"]))
    if manifest.encode() != data:
        raise damage(path, f"{MANIFEST} as it was written", "changed bytes")
    return manifest


def read_file(path: Path, manifest: Manifest, name: str) -> bytes:
    """The bytes of one file of a snapshot, checked against the manifest.

    Args:
        path: the snapshot folder.
        manifest: its manifest.
        name: one of ``manifest.files``.

    Returns:
        The bytes.

    Raises:
        SnapshotError: the file is missing, unreadable, or not as it was written.
    """
    record = manifest.files[name]
    data = _read(path, name, min(record.size, _STATE_LIMIT) if name == STATE else record.size)
    _compare(path, name, record, FileRecord(len(data), hashlib.sha256(data).hexdigest()))
    return data


def _compare(path: Path, name: str, record: FileRecord, found: FileRecord) -> None:
    if found.size != record.size:
        raise damage(path, f"{record.size} bytes in {name}", found.size)
    if found.sha256 != record.sha256:
        raise damage(path, f"SHA-256 {record.sha256[:12]}... of {name}", f"{found.sha256[:12]}...")


def verify(path: Path) -> Manifest:
    """Check every byte of a snapshot against its manifest, in a few megabytes of memory.

    Args:
        path: the snapshot folder.

    Returns:
        The manifest.

    Raises:
        SnapshotError: a file is missing, unreadable, or not as it was written.
    """
    manifest = read_manifest(path)
    for name, record in manifest.files.items():
        digest, size = hashlib.sha256(), 0
        try:
            for piece in atomic.read_chunks(path / name, limit=record.size, follow=False):
                digest.update(piece)
                size += len(piece)
        except OSError as error:
            raise damage(path, f"a readable file {name}", _reason(error)) from error
        _compare(path, name, record, FileRecord(size, digest.hexdigest()))
    return manifest
