"""Writing checkpoints that ``torch.load(weights_only=True)`` reads: the zip form, with every storage aligned."""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from swinpy.io import atomic
from swinpy.io.costs import NAME_LIMIT
from swinpy.io.errors import shown

if TYPE_CHECKING:
    import os

    from numpy.typing import NDArray

__all__ = ["torch_file_bytes", "write_torch_file"]

_STORAGES = {
    "float64": "DoubleStorage",
    "float32": "FloatStorage",
    "float16": "HalfStorage",
    "complex128": "ComplexDoubleStorage",
    "complex64": "ComplexFloatStorage",
    "int64": "LongStorage",
    "int32": "IntStorage",
    "int16": "ShortStorage",
    "int8": "CharStorage",
    "uint8": "ByteStorage",
    "bool": "BoolStorage",
}
_ALIGNMENT = 64
_FULL16, _FULL32 = 0xFFFF, 0xFFFFFFFF
_ROOT = "archive"


def write_torch_file(path: str | os.PathLike[str], tree: Mapping[str, Any]) -> None:
    """Write a checkpoint, whole or not at all, that ``torch.load(path, weights_only=True)`` reads.

    Args:
        path: the file to make or replace.
        tree: what to write: arrays by name, or nested, e.g. ``{"model": {name: array}, "epoch": 300}``. Besides arrays
            it may hold dicts with keys of text or whole numbers, lists, tuples, text, numbers, bools and None.

    Raises:
        TypeError: there is something else in it, or an array of a dtype that torch has no storage for.
        ValueError: it is nested too deeply, contains itself, or has a key of more than 1024 characters.
        OSError: the disk refused; a file that was at `path` is as it was.
    """
    atomic.replace_file(Path(path), torch_file_bytes(tree))


def torch_file_bytes(tree: Mapping[str, Any]) -> bytes:
    """The bytes that `write_torch_file` writes; the same tree gives the same bytes.

    Args:
        tree: what to write; see there.

    Raises:
        TypeError: there is something in it that cannot be written.
        ValueError: it is nested too deeply, contains itself, or has a key of more than 1024 characters.
    """
    pickler = _Pickler()
    pickler.add(tree, 0)
    content = b"\x80\x02" + b"".join(pickler.pieces) + b"."
    entries: list[tuple[str, bytes | memoryview]] = [
        ("data.pkl", content),
        (".format_version", b"1"),
        (".storage_alignment", str(_ALIGNMENT).encode()),
        ("byteorder", b"little"),
    ]
    entries += [(f"data/{key}", _bytes(array)) for key, array in enumerate(pickler.arrays)]
    return _zip([*entries, ("version", b"3\n")])


def _bytes(array: NDArray[Any]) -> memoryview:
    return np.ascontiguousarray(array, array.dtype.newbyteorder("<")).reshape(-1).view(np.uint8).data


class _Pickler:
    """Protocol 2 for plain values and arrays, without a memo: nothing in the file refers to anything else in it."""

    _DEPTH = 64

    def __init__(self) -> None:
        self.pieces: list[bytes] = []
        self.arrays: list[NDArray[Any]] = []

    def add(self, value: Any, depth: int) -> None:
        if depth > self._DEPTH:
            raise ValueError(
                f"write_torch_file: expected at most {self._DEPTH} levels; got more. Does the tree contain itself?"
            )
        if isinstance(value, (np.ndarray, np.generic)):
            self._add_array(np.asarray(value))
        elif isinstance(value, Mapping):
            self.pieces.append(b"}(")
            for key, item in value.items():
                if not isinstance(key, (str, int)):
                    raise TypeError(f"write_torch_file: expected keys of text or int; got {key!r}. Rename it.")
                if isinstance(key, str) and len(key) > NAME_LIMIT:
                    got = f"{shown(key)} of {len(key)}, which would not be read"
                    raise ValueError(
                        f"write_torch_file: expected keys of at most {NAME_LIMIT} characters; got {got}. Shorten it."
                    )
                self._add_plain(key)
                self.add(item, depth + 1)
            self.pieces.append(b"u")
        elif isinstance(value, (list, tuple)):
            self.pieces.append(b"](" if isinstance(value, list) else b"(")
            for item in value:
                self.add(item, depth + 1)
            self.pieces.append(b"e" if isinstance(value, list) else b"t")
        else:
            self._add_plain(value)

    def _add_plain(self, value: Any) -> None:
        if value is None or isinstance(value, bool):
            self.pieces.append({None: b"N", True: b"\x88", False: b"\x89"}[value])
        elif isinstance(value, str):
            data = value.encode()
            self.pieces.append(b"X" + struct.pack("<I", len(data)) + data)
        elif isinstance(value, int):
            self.pieces.append(_int(value))
        elif isinstance(value, float):
            self.pieces.append(b"G" + struct.pack(">d", value))
        else:
            kind = f"{type(value).__module__}.{type(value).__qualname__}"
            raise TypeError(
                f"write_torch_file: expected arrays and plain values; got {kind}. Convert it, or leave it out."
            )

    def _add_array(self, array: NDArray[Any]) -> None:
        storage = _STORAGES.get(array.dtype.name)
        if storage is None:
            known = ", ".join(_STORAGES)
            raise TypeError(f"write_torch_file: expected one of the dtypes {known}; got {array.dtype}. Convert it.")
        key = str(len(self.arrays))
        self.arrays.append(array)
        strides = [math.prod(array.shape[axis + 1 :]) for axis in range(array.ndim)]
        self.pieces.append(b"ctorch._utils\n_rebuild_tensor_v2\n((")
        self._add_plain("storage")
        self.pieces.append(b"ctorch\n" + storage.encode() + b"\n")
        for part in (key, "cpu", array.size):
            self._add_plain(part)
        self.pieces.append(b"tQK\0")
        for numbers in (array.shape, strides):
            self.add(tuple(numbers), 0)
        self.pieces.append(b"\x89ccollections\nOrderedDict\n)RtR")


def _int(value: int) -> bytes:
    if -(1 << 31) <= value < 1 << 31:
        return b"J" + struct.pack("<i", value)
    data = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    if len(data) > 255:
        raise TypeError(
            "write_torch_file: expected whole numbers of at most 255 bytes; got a longer one. Write it as text."
        )
    return b"\x8a" + bytes([len(data)]) + data


# ---- the container


def _zip(entries: list[tuple[str, bytes | memoryview]]) -> bytes:
    """A zip file of stored entries below one folder, each one's bytes aligned."""
    out = bytearray()
    directory = bytearray()
    for name, data in entries:
        path = f"{_ROOT}/{name}".encode()
        header, size, checksum = len(out), len(data), zlib.crc32(data)
        wide = struct.pack("<QQ", size, size) if size >= _FULL32 else b""
        extra = struct.pack("<HH", 1, len(wide)) + wide if wide else b""
        padding = -(header + 30 + len(path) + len(extra) + 4) % _ALIGNMENT
        extra += struct.pack("<2sH", b"FB", padding) + bytes(padding)
        small = min(size, _FULL32)
        out += struct.pack("<4s5H3I2H", b"PK\3\4", 45, 0x800, 0, 0, 33, checksum, small, small, len(path), len(extra))
        out += path + extra
        out += data
        wide += struct.pack("<Q", header) if header >= _FULL32 else b""
        extra = struct.pack("<HH", 1, len(wide)) + wide if wide else b""
        directory += struct.pack("<4s6H3I5H2I", b"PK\1\2", 45, 45, 0x800, 0, 0, 33, checksum, small, small,
                                 len(path), len(extra), 0, 0, 0, 0, min(header, _FULL32))  # fmt: skip
        directory += path + extra
    start, size, count = len(out), len(directory), len(entries)
    out += directory
    out += struct.pack("<4sQ2H2I4Q", b"PK\6\6", 44, 45, 45, 0, 0, count, count, size, start)
    out += struct.pack("<4sIQI", b"PK\6\7", 0, start + size, 1)
    narrow = min(count, _FULL16)
    out += struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, narrow, narrow, min(size, _FULL32), min(start, _FULL32), 0)
    return bytes(out)
