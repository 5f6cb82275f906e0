"""The legacy form of ``torch.save`` (torch 0.1.10 to 1.5, and on request since): five pickles, then the storages.

The pickles are a magic number, a protocol version, facts about the machine, the object itself, and the keys of its
storages in the order in which they follow, each as a count (int64) and its elements. All numbers are little-endian:
big-endian machines swap when they write, so their `little_endian: False` changes nothing.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

from swinpy.io.costs import ENTRY
from swinpy.io.errors import Fault, shown
from swinpy.io.records import Call, Content, Global, Storage, as_count
from swinpy.io.source import ByteStream
from swinpy.io.torch.objects import TorchObjects, storage_dtype
from swinpy.io.torch.pickle import read_pickle

if TYPE_CHECKING:
    from swinpy.io.source import Budget, Source

__all__ = ["MAGIC", "read_torch_legacy"]

MAGIC = 0x1950A86A20F9469CFC6C
_PROTOCOL = 1001
_COUNT = struct.Struct("<q")


def read_torch_legacy(source: Source, budget: Budget) -> Content:
    """What a file of this form holds.

    Args:
        source: the file.
        budget: what it may take.

    Raises:
        Fault: damaged, hostile, or another kind of pickle.
    """
    storages = _Storages()
    objects = TorchObjects(storages, budget)
    stream = ByteStream(source, 0, source.size)
    if read_pickle(stream, objects, budget) != MAGIC:
        fix = "A plain pickle is not read, for it could hold anything: torch.save the state_dict() instead."
        raise Fault("torch's magic number in the first pickle", "another value", fix)
    version = read_pickle(stream, objects, budget)
    if type(version) is not int or version != _PROTOCOL:
        raise Fault(f"protocol version {_PROTOCOL} in the second pickle", shown(version))
    facts = read_pickle(stream, objects, budget)
    if type(facts) is not dict or type(facts.get("little_endian")) is not bool:
        raise Fault("facts about the machine, byte order included, in the third pickle", shown(facts))
    tree = read_pickle(stream, objects, budget)
    keys = read_pickle(stream, objects, budget)
    if type(keys) is list:
        budget.take(ENTRY * len(keys))
    storages.place(keys, stream)
    return Content("torch legacy", tree, tuple(str(name) for name in objects.unknown))


class _Storages:
    """Persistent ids as storages, each one once; where they lie is known only when the object has been read.

    An id is ("storage", class, key, device, numel, view) with view None or (key, offset, numel), or, in a pickle of
    whole modules, ("module", class, file, source), which stands for the class.
    """

    def __init__(self) -> None:
        self._roots: dict[str, Storage] = {}
        self._views: list[tuple[Storage, Storage, int]] = []

    def __call__(self, identity: Any) -> Any:
        if type(identity) is tuple and len(identity) == 4 and identity[0] == "module":
            return identity[1] if type(identity[1]) is Global else Call(identity[1], ())
        if type(identity) is not tuple or len(identity) != 6 or identity[0] != "storage":
            raise Fault("a persistent id ('storage', class, key, device, numel, view)", shown(identity))
        _, kind, key, _, count, view = identity
        dtype, numel = storage_dtype(kind), as_count(count)
        if type(key) is not str or numel is None:
            raise Fault("a storage with a key and a number of elements", f"{shown(key)} and {shown(count)}")
        typed = kind.name != "UntypedStorage"
        root = self._roots.setdefault(key, Storage(key, dtype, numel, typed))
        if (root.dtype, root.numel, root.typed) != (dtype, numel, typed):
            raise Fault(f"storage {shown(key)} to be described once", "two types or sizes for it")
        return root if view is None else self._view(root, view)

    def _view(self, root: Storage, view: Any) -> Storage:
        if type(view) is not tuple or len(view) != 3 or type(view[0]) is not str:
            raise Fault("a view of a storage (key, offset, numel)", shown(view))
        offset, numel = as_count(view[1]), as_count(view[2])
        if offset is None or numel is None or offset + numel > root.numel:
            got = f"offset {shown(view[1])}, {shown(view[2])} elements"
            raise Fault(f"a view within storage {shown(root.key)} of {root.numel} elements", got)
        part = Storage(view[0], root.dtype, numel, root.typed)
        self._views.append((part, root, offset))
        return part

    def place(self, keys: Any, stream: ByteStream) -> None:
        """Find each storage in what follows the pickles, to the last byte."""
        if type(keys) is not list or any(type(key) is not str for key in keys):
            raise Fault("a list of keys in the fifth pickle", shown(keys))
        if len(set(keys)) != len(keys) or set(keys) != self._roots.keys():
            raise Fault(f"the keys of all {len(self._roots)} storages, each once, in the fifth pickle", "others")
        for key in keys:
            place_next(self._roots[key], stream)
        if stream.left:
            raise Fault("an end after the last storage", f"{stream.left} bytes more")
        for part, root, offset in self._views:
            part.position = root.position + offset * root.dtype.itemsize


def place_next(storage: Storage, stream: ByteStream) -> None:
    """Note that a storage lies here, behind its count, and go past it."""
    (count,) = _COUNT.unpack(stream.take(_COUNT.size))
    if count != storage.numel:
        raise Fault(f"{storage.numel} elements in storage {shown(storage.key)}", f"a count of {count}")
    storage.position = stream.position
    stream.skip(storage.nbytes)
