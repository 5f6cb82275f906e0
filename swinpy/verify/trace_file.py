"""Trace: named intermediate values of one run with their gradients, and its .npz file.

The file is a plain npz, so that any framework can write one: an entry for each value under its name, in the order of
execution, and for its gradient under ``grad:`` and the name. ``np.savez(path, **arrays)`` makes one.
"""

from __future__ import annotations

import io
import json
import math
import tokenize
import zipfile
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from swinpy.io.atomic import read_regular, replace_file
from swinpy.io.errors import plain, shown
from swinpy.io.records import listed
from swinpy.verify.foreign import as_array

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Trace", "TraceFileError", "fixed_weights"]

Array = np.ndarray[Any, Any]

_GRAD = "grad:"
_META = "__meta__"
# What a file may expand to unless the caller says: compressed traces hold zeros, but hardly more than this.
_EXPANSION, _FREE = 16, 64 << 20
_HEADER = 10_000
_NPY_START, _PIECE = 16, 1 << 20
# JSON takes up to 45 times its length when it is read.
_META_LIMIT = 1 << 20
# zipfile expands a block of the others whole, whatever size the entry declares.
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


class TraceFileError(ValueError):
    """A file is no trace, or is damaged; the message names the entry."""


def fixed_weights(shape: tuple[int, ...]) -> Array:
    """The weights of the default loss: cos(0.7 i + 0.3) for element i in C order, float64.

    The same in any framework: ``loss = (output * weights).sum()``.

    >>> fixed_weights((3,)).round(3)
    array([ 0.955,  0.54 , -0.129])
    """
    weights: Array = np.cos(0.7 * np.arange(math.prod(shape), dtype=np.float64) + 0.3).reshape(shape)
    return weights


@dataclass
class Trace:
    """Named values in the order of execution, and gradients of a scalar with respect to them.

    Attributes:
        values: arrays by name; parameters come before their first use.
        gradients: by the same names; not every value has one (masks, values outside the graph).
        meta: what made it; plain JSON values.
    """

    values: dict[str, Array]
    gradients: dict[str, Array] = field(default_factory=dict)
    meta: dict[str, Any] = field(default_factory=dict)

    @property
    def names(self) -> list[str]:
        """In the order of execution."""
        return list(self.values)

    def __getitem__(self, name: str) -> Array:
        if name in self.values:
            return self.values[name]
        import difflib

        near = difflib.get_close_matches(name, self.values, n=3)
        raise KeyError(f"Trace: expected one of {len(self.values)} names; got {name!r}. Near it: {', '.join(near)}.")

    def __contains__(self, name: object) -> bool:
        return name in self.values

    def __len__(self) -> int:
        return len(self.values)

    def __repr__(self) -> str:
        size = sum(a.nbytes for a in (*self.values.values(), *self.gradients.values()))
        return f"Trace({len(self.values)} values, {len(self.gradients)} gradients, {size / 2**20:.1f} MiB)"

    # ---- files

    def save(self, path: str | Path) -> None:
        """Write an .npz whole or not at all.

        Raises:
            OSError: if it cannot be written; a file that was there is left as it was.
            ValueError: for a name that begins with ``grad:``, an array of objects, or more than 1 MiB of ``meta``.
        """
        entries: dict[str, Array] = {}
        for name, value in self.values.items():
            if name.startswith(_GRAD) or name == _META or not name:
                raise ValueError(f"Trace.save: expected names other than {_GRAD}... and {_META}; got {name!r}.")
            entries[name] = value
        entries |= {_GRAD + name: gradient for name, gradient in self.gradients.items()}
        entries[_META] = np.frombuffer(json.dumps(self.meta).encode(), np.uint8)
        if entries[_META].nbytes > _META_LIMIT:
            got = f"{entries[_META].nbytes} bytes"
            raise ValueError(
                f"Trace.save: expected at most {_META_LIMIT} bytes of JSON as meta; got {got}. Shorten it."
            )
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
            for name, array in entries.items():
                with archive.open(zipfile.ZipInfo(name + ".npy"), "w", force_zip64=True) as out:
                    np.lib.format.write_array(out, np.asarray(array), allow_pickle=False)
        replace_file(Path(path), buffer.getvalue())

    @classmethod
    def load(cls, path: str | Path, max_bytes: int | None = None) -> Trace:
        """Read an .npz that :meth:`save` or NumPy wrote. Nothing in it is executed.

        Args:
            path: the file.
            max_bytes: the most bytes that its arrays may take; default 16 times the file's size plus 64 MiB. It is
                compared with what the file declares before anything is expanded.

        Raises:
            TraceFileError: for a file that is no npz, is damaged, holds objects or expands too far.
            OSError: if it cannot be read.
        """
        raw = read_regular(Path(path))
        limit = _EXPANSION * len(raw) + _FREE if max_bytes is None else max_bytes
        try:
            with zipfile.ZipFile(io.BytesIO(raw)) as archive:
                return cls._from(_entries(archive, limit))
        except TraceFileError as error:
            raise TraceFileError(f"Trace.load {path}: {error}") from None
        except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError, OSError) as e:
            raise TraceFileError(
                f"Trace.load {path}: expected an .npz; got a file that does not read: {plain(str(e))}"
            ) from None

    @classmethod
    def _from(cls, entries: dict[str, Array]) -> Trace:
        loaded = _meta(entries.pop(_META, None))
        values = {name: a for name, a in entries.items() if not name.startswith(_GRAD)}
        gradients = {name[len(_GRAD) :]: a for name, a in entries.items() if name.startswith(_GRAD)}
        return cls(values, gradients, loaded)


def _meta(text: Array | None) -> dict[str, Any]:
    if text is None:
        return {}
    if text.dtype != np.uint8 or text.nbytes > _META_LIMIT:
        got = f"{text.nbytes} bytes of {text.dtype}"
        raise TraceFileError(f"expected at most {_META_LIMIT} bytes of uint8 as {_META}; got {got}")
    loaded = json.loads(text.tobytes())
    if not isinstance(loaded, dict):
        raise TraceFileError(f"expected a JSON object as {_META}; got {type(loaded).__name__}")
    return loaded


def _entries(archive: zipfile.ZipFile, limit: int) -> dict[str, Array]:
    infos = archive.infolist()
    total = sum(info.file_size for info in infos)
    if total > limit:
        raise TraceFileError(
            f"expected at most {limit} bytes of arrays; got {total} declared. Pass max_bytes= to allow it"
        )
    entries: dict[str, Array] = {}
    for info in infos:
        name = info.filename.removesuffix(".npy")
        if name in entries:
            raise TraceFileError(f"expected every name once; got {shown(name)} twice")
        if info.compress_type not in _METHODS:
            method = info.compress_type
            raise TraceFileError(f"{shown(name)}: expected it stored or deflated, as by NumPy; got method {method}")
        with archive.open(info) as stream:
            entries[name] = _array(shown(name), stream, info.file_size)
    return entries


def _array(name: str, stream: IO[bytes], size: int) -> Array:
    """One .npy, which its header must describe exactly, read straight into the array's memory."""
    start = stream.read(_NPY_START)
    version = np.lib.format.read_magic(io.BytesIO(start))
    if version not in ((1, 0), (2, 0)):
        raise TraceFileError(f"{name}: expected .npy version 1 or 2; got {version}")
    # Some bytes more than the longest header, which is not read by the length that it declares.
    head = io.BytesIO((start + stream.read(_HEADER))[np.lib.format.MAGIC_LEN :])
    shape, fortran, dtype = _described(version, head)
    if dtype.kind not in "fiubc":
        raise TraceFileError(f"{name}: expected an array of numbers; got a dtype of kind {dtype.kind}")
    wanted, there = math.prod(shape) * dtype.itemsize, size - np.lib.format.MAGIC_LEN - head.tell()
    if wanted != there:
        raise TraceFileError(f"{name}: expected {shown(wanted)} bytes for {listed(shape)} {dtype}; got {there}")
    flat = np.empty(wanted, np.uint8)
    _fill(flat.data, head.read(), stream)
    values = flat.view(dtype).reshape(shape[::-1]).T if fortran else flat.view(dtype).reshape(shape)
    native = dtype.newbyteorder("=")
    return values if dtype == native else values.byteswap(inplace=True).view(native)


def _described(version: tuple[int, int], head: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, whether Fortran's order, and dtype that a header gives."""
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    try:
        return read(head, max_header_size=_HEADER)
    except (SyntaxError, TypeError, MemoryError, RecursionError, tokenize.TokenError) as error:
        # What Python's parser, by which NumPy reads the text, may raise beside ValueError.
        raise ValueError(f"{type(error).__name__} in the header of an array") from None


def _fill(target: memoryview, first: bytes, stream: IO[bytes]) -> None:
    at = len(first)
    target[:at] = first
    while piece := stream.read(_PIECE):  # to the end, where the checksum is compared
        target[at : at + len(piece)] = piece
        at += len(piece)
    if at != len(target):
        raise EOFError(f"{len(target)} bytes declared, {at} there")


def as_trace(source: Trace | Mapping[str, Any] | str | Path) -> Trace:
    """A trace from itself, a file, or a plain mapping of arrays with ``grad:`` names among them."""
    if isinstance(source, Trace):
        return source
    if isinstance(source, (str, Path)):
        return Trace.load(source)
    return Trace._from({name: as_array(a) for name, a in source.items()})
