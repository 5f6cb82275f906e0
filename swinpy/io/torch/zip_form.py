"""The zip form of ``torch.save`` (since torch 1.4; the default since 1.6): one pickle, and one entry a storage."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from swinpy.io.costs import ENTRY
from swinpy.io.errors import Fault, shown
from swinpy.io.records import Content, Storage, as_count
from swinpy.io.source import ByteStream
from swinpy.io.torch.objects import TorchObjects, storage_dtype
from swinpy.io.torch.pickle import read_pickle
from swinpy.io.torch.zip import kind_of_zip, read_directory

if TYPE_CHECKING:
    from swinpy.io.source import Budget, Source
    from swinpy.io.torch.zip import ZipEntry

__all__ = ["read_torch_zip"]

_ORDERS = {b"little": "<", b"big": ">"}


def read_torch_zip(source: Source, budget: Budget) -> Content:
    """What a file of this form holds.

    Args:
        source: the file.
        budget: what it may take.

    Raises:
        Fault: damaged, hostile, or another kind of zip file.
    """
    entries = read_directory(source, budget)
    root = _root(entries)
    order = _byte_order(source, entries.get(f"{root}/byteorder"))
    budget.take(sum(ENTRY + 4 * len(name) for name in entries))
    folder = f"{root}/data/"
    storages = _Storages({name[len(folder) :]: e for name, e in entries.items() if name.startswith(folder)})
    objects = TorchObjects(storages, budget)
    data = entries[f"{root}/data.pkl"]
    stream = ByteStream(source, data.position, data.position + data.size)
    tree = read_pickle(stream, objects, budget)
    if stream.left:
        raise Fault("one pickle in data.pkl", f"{stream.left} bytes after it")
    return Content("torch zip", tree, tuple(str(name) for name in objects.unknown), order)


def _root(entries: dict[str, ZipEntry]) -> str:
    """The folder in the archive that holds everything."""
    roots = [name.partition("/")[0] for name in entries if name.count("/") == 1 and name.endswith("/data.pkl")]
    for known in filter(None, (kind_of_zip(name.encode()) for name in entries)):
        raise known
    if len(roots) != 1:
        got = f"{len(roots)} of them among {len(entries)} entries"
        raise Fault("one FOLDER/data.pkl in the zip file", got, "Is this a file of torch.save, with nothing added?")
    return roots[0]


def _byte_order(source: Source, entry: ZipEntry | None) -> str:
    if entry is None:
        return "<"  # before torch 2.1 there was no such entry, and torch itself then assumes this
    text = source.read(entry.position, min(entry.size, 16))
    if text not in _ORDERS:
        raise Fault("byteorder 'little' or 'big'", shown(text))
    return _ORDERS[text]


class _Storages:
    """Persistent ids ("storage", class, key, device, numel) as storages, each one once."""

    def __init__(self, entries: dict[str, ZipEntry]) -> None:
        self._entries = entries  # by key
        self._found: dict[str, Storage] = {}

    def __call__(self, identity: Any) -> Storage:
        if type(identity) is not tuple or len(identity) != 5 or identity[0] != "storage":
            raise Fault("a persistent id ('storage', class, key, device, numel)", shown(identity))
        _, kind, key, _, count = identity
        dtype, numel = storage_dtype(kind), as_count(count)
        if type(key) is not str or numel is None:
            raise Fault("a storage with a key and a number of elements", f"{shown(key)} and {shown(count)}")
        entry = self._entries.get(key)
        if entry is None:
            raise Fault(f"an entry data/{shown(key)[1:-1]} for a storage", "none")
        # A storage's size need not be a multiple of its element's.
        if not 0 <= entry.size - numel * dtype.itemsize < dtype.itemsize:
            got = f"an entry of {entry.size} bytes"
            raise Fault(f"{numel} elements of {dtype.name} in data/{shown(key)[1:-1]}", got)
        storage = Storage(key, dtype, numel, kind.name != "UntypedStorage", entry.position)
        known = self._found.setdefault(key, storage)
        if (known.dtype, known.numel, known.typed) != (dtype, numel, storage.typed):
            raise Fault(f"storage {shown(key)} to be described once", "two types or sizes for it")
        return known
