"""The oldest form of ``torch.save`` (before torch 0.1.10): a tar file of ``storages``, ``tensors`` and ``pickle``.

Each is a stream of pickles and raw numbers. Tensors are described outside the main pickle, which refers to them by id.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from swinpy.io.costs import ENTRY, RECORD
from swinpy.io.errors import Fault, shown
from swinpy.io.records import MAX_DIMS, Call, Content, Global, Storage, StoredTensor, as_count, check_view
from swinpy.io.source import ByteStream
from swinpy.io.torch.legacy_form import place_next
from swinpy.io.torch.objects import TorchObjects, storage_dtype
from swinpy.io.torch.pickle import read_pickle

if TYPE_CHECKING:
    from swinpy.io.source import Budget, Source

__all__ = ["read_torch_tar"]

_BLOCK = 512
_MEMBERS = ("storages", "tensors", "pickle")
_PAX_LIMIT = 1 << 16
# What an extended header may say without changing which bytes a member has, or which member they are.
_PAX_HARMLESS = {b"mtime", b"atime", b"ctime", b"uid", b"gid", b"uname", b"gname", b"comment"}
_COUNT = struct.Struct("<q")
_NDIM = struct.Struct("<i4x")
_NUMBER = 64  # bytes that a number takes, and its places: in one row, then in a shape or strides


@dataclass(frozen=True, slots=True)
class _Member:
    position: int
    size: int


def read_torch_tar(source: Source, budget: Budget) -> Content:
    """What a file of this form holds.

    Args:
        source: the file.
        budget: what it may take.

    Raises:
        Fault: damaged, hostile, or another kind of tar file.
    """
    members = _read_members(source, budget)
    missing = [name for name in _MEMBERS if name not in members]
    if missing:
        raise Fault("a tar file of torch.save with storages, tensors and pickle", f"none called {missing[0]!r}")
    streams = {
        name: ByteStream(source, members[name].position, members[name].position + members[name].size)
        for name in _MEMBERS
    }
    parts = _Parts(budget)
    parts.read_storages(streams["storages"])
    parts.read_tensors(streams["tensors"])
    tree = read_pickle(streams["pickle"], parts.objects, budget)
    for name, stream in streams.items():
        if stream.left:
            raise Fault(f"an end after the last value in {name!r}", f"{stream.left} bytes more")
    return Content("torch tar", tree, tuple(str(name) for name in parts.objects.unknown))


# ---- the container


def _read_members(source: Source, budget: Budget) -> dict[str, _Member]:
    members: dict[str, _Member] = {}
    at = 0
    while at < source.size:
        header = source.read(at, _BLOCK)
        at += _BLOCK
        if not any(header):
            break
        budget.take(300)
        name, kind, size = _read_header(header, at - _BLOCK)
        if kind == b"x":
            _check_pax(source.read(at, size) if size <= _PAX_LIMIT else b"")
        elif kind not in (b"0", b"\0"):
            raise Fault("a tar file of regular members", f"{shown(name)} of type {shown(kind)}")
        elif name in members:
            raise Fault("members of a tar file that occur once", f"{shown(name)} twice")
        else:
            members[name] = _Member(at, size)
        if at + size > source.size:
            raise Fault(f"{size} bytes of {shown(name)} at byte {at}", f"a file of {source.size} bytes (truncated)")
        at += -(-size // _BLOCK) * _BLOCK
    else:
        raise Fault("an empty block at the end of the tar file", "none (truncated)")
    return members


def _read_header(header: bytes, at: int) -> tuple[str, bytes, int]:
    """Name, type and size of a member."""
    total = sum(header) - sum(header[148:156]) + 8 * ord(" ")
    if header[257:262] != b"ustar" or _octal(header[148:156]) != total:
        raise Fault(f"a tar header with a true checksum at byte {at}", "other bytes")
    size = _octal(header[124:136])
    name = header[:100].rstrip(b"\0")
    if size is None or any(header[345:500].rstrip(b"\0")) or not name or not name.isascii() or b"\0" in name:
        raise Fault(f"a plain name and size in the tar header at byte {at}", shown(name))
    return name.decode("ascii"), header[156:157], size


def _octal(field: bytes) -> int | None:
    digits = field.rstrip(b"\0 ").lstrip(b" ")
    return int(digits, 8) if digits and not digits.strip(b"01234567") else None


def _check_pax(data: bytes) -> None:
    """An extended header whose lines ("length key=value") all leave names, sizes and types alone."""
    at = 0
    while at < len(data):
        length, space, _ = data[at : at + 8].partition(b" ")
        if not space or not length.isdigit():
            break
        end = at + int(length)
        line = data[at + len(length) + 1 : end]
        if end > len(data) or not line.endswith(b"\n") or line.partition(b"=")[0] not in _PAX_HARMLESS:
            break
        at = end
    if not data or at != len(data):
        raise Fault("an extended tar header about times and owners", shown(data[at:]))


# ---- its contents


class _Parts:
    """Storages and tensors by id, gathered member by member."""

    def __init__(self, budget: Budget) -> None:
        self.objects = TorchObjects(self._find, budget)
        self._budget = budget
        self._storages: dict[int, Storage] = {}
        self._tensors: dict[int, StoredTensor] = {}

    def _read(self, stream: ByteStream) -> Any:
        return read_pickle(stream, self.objects, self._budget)

    def _read_row(self, stream: ByteStream, what: str) -> tuple[int, Any, Any]:
        """A pickled triple that starts with an id."""
        row = self._read(stream)
        if type(row) is not tuple or len(row) != 3 or as_count(row[0]) is None:
            raise Fault(f"{what} with an id", shown(row))
        if row[0] in (self._storages if what == "a storage" else self._tensors):
            raise Fault(f"{what} with an id of its own", f"{row[0]} twice")
        return row

    def _read_count(self, stream: ByteStream, what: str) -> int:
        count = as_count(self._read(stream))
        if count is None:
            raise Fault(f"a number of {what}", "another value")
        return count

    def read_storages(self, stream: ByteStream) -> None:
        """Where each storage lies, and which are views of others."""
        for _ in range(self._read_count(stream, "storages")):
            self._budget.take(RECORD + ENTRY)
            key, _, kind = self._read_row(stream, "a storage")
            storage = Storage(str(key), storage_dtype(kind), _peek_count(stream), kind.name != "UntypedStorage")
            place_next(storage, stream)
            self._storages[key] = storage
        views = self._read(stream)
        if type(views) is not list:
            raise Fault("a list of views of storages", shown(views))
        for view in views:
            self._add_view(view)

    def _add_view(self, view: Any) -> None:
        if type(view) is not tuple or len(view) != 4 or any(as_count(part) is None for part in view):
            raise Fault("a view of a storage (id, id, offset, numel)", shown(view))
        key, root_key, offset, numel = view
        root = self._storages.get(root_key)
        if root is None or key in self._storages or offset + numel > root.numel:
            raise Fault("a view within a storage that exists", f"offset {offset}, {numel} elements of {root_key}")
        self._budget.take(RECORD + ENTRY)
        position = root.position + offset * root.dtype.itemsize
        self._storages[key] = Storage(str(key), root.dtype, numel, root.typed, position)

    def read_tensors(self, stream: ByteStream) -> None:
        """Each tensor: its id, its storage's id, and behind that its shape, strides and offset as raw numbers."""
        for _ in range(self._read_count(stream, "tensors")):
            key, storage_key, _ = self._read_row(stream, "a tensor")
            storage = self._storages.get(storage_key) if type(storage_key) is int else None
            if storage is None:
                raise Fault("a tensor on a storage that exists", shown(storage_key))
            (ndim,) = _NDIM.unpack(stream.take(_NDIM.size))
            if not 0 <= ndim <= MAX_DIMS:
                raise Fault(f"a tensor of at most {MAX_DIMS} dimensions", str(ndim))
            count = 2 * ndim + 1
            self._budget.take(RECORD + ENTRY + _NUMBER * count)
            numbers = struct.unpack(f"<{count}q", stream.take(8 * count))
            self._tensors[key] = check_view(
                storage, storage.dtype, numbers[-1], numbers[:ndim], numbers[ndim : 2 * ndim]
            )

    def _find(self, identity: Any) -> Any:
        """A persistent id: the number of a tensor or storage as text, or (class, file, source) for the class."""
        if type(identity) is tuple and len(identity) == 3:
            return identity[0] if type(identity[0]) is Global else Call(identity[0], ())
        digits = str(identity) if as_count(identity) is not None else identity
        if type(digits) is str and len(digits) <= 20 and digits.isascii() and digits.isdecimal():
            found = self._tensors.get(int(digits)) or self._storages.get(int(digits))
            if found is not None:
                return found
        raise Fault("a persistent id of a tensor that was described", shown(identity))


def _peek_count(stream: ByteStream) -> int:
    """The count in front of a storage's elements, which is all that says how many there are."""
    (count,) = _COUNT.unpack(stream.peek(_COUNT.size))
    if count < 0:
        raise Fault(f"a number of elements at byte {stream.position}", str(count))
    return int(count)
