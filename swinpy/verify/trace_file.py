"""Trace: named intermediate values of one run with their gradients, and its .npz file.

The file is a plain npz, so that any framework can write one: an entry for each value under its name, in the order of
execution, and for its gradient under ``grad:`` and the name. ``np.savez(path, **arrays)`` makes one.
"""

from __future__ import annotations

import io
import json
import math
import zipfile
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from swinpy.io.atomic import read_regular, replace_file
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
            ValueError: for a name that begins with ``grad:``, or an array of objects.
        """
        entries: dict[str, Array] = {}
        for name, value in self.values.items():
            if name.startswith(_GRAD) or name == _META or not name:
                raise ValueError(f"Trace.save: expected names other than {_GRAD}... and {_META}; got {name!r}.")
            entries[name] = value
        entries |= {_GRAD + name: gradient for name, gradient in self.gradients.items()}
        entries[_META] = np.frombuffer(json.dumps(self.meta).encode(), np.uint8)
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
            raise TraceFileError(f"Trace.load {path}: expected an .npz; got a file that does not read: {e}") from None

    @classmethod
    def _from(cls, entries: dict[str, Array]) -> Trace:
        meta = entries.pop(_META, None)
        values = {name: a for name, a in entries.items() if not name.startswith(_GRAD)}
        gradients = {name[len(_GRAD) :]: a for name, a in entries.items() if name.startswith(_GRAD)}
        loaded = {} if meta is None else json.loads(meta.astype(np.uint8).tobytes())
        if not isinstance(loaded, dict):
            raise TraceFileError(f"expected a JSON object as {_META}; got {type(loaded).__name__}")
        return cls(values, gradients, loaded)


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
            raise TraceFileError(f"expected every name once; got {name!r} twice")
        entries[name] = _array(name, archive.read(info))
    return entries


def _array(name: str, data: bytes) -> Array:
    """One .npy: its header must describe exactly the bytes that are there."""
    stream = io.BytesIO(data)
    version = np.lib.format.read_magic(stream)
    if version not in ((1, 0), (2, 0)):
        raise TraceFileError(f"{name}: expected .npy version 1 or 2; got {version}")
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read(stream, max_header_size=_HEADER)
    if dtype.kind not in "fiubc":
        raise TraceFileError(f"{name}: expected an array of numbers; got dtype {dtype}")
    wanted = math.prod(shape) * dtype.itemsize
    if wanted != len(data) - stream.tell():
        raise TraceFileError(f"{name}: expected {wanted} bytes for {shape} {dtype}; got {len(data) - stream.tell()}")
    flat = np.frombuffer(data, dtype, offset=stream.tell())
    array = flat.reshape(shape[::-1]).T if fortran else flat.reshape(shape)
    return array.astype(dtype.newbyteorder("="))  # a copy: the caller may write to it


def as_trace(source: Trace | Mapping[str, Any] | str | Path) -> Trace:
    """A trace from itself, a file, or a plain mapping of arrays with ``grad:`` names among them."""
    if isinstance(source, Trace):
        return source
    if isinstance(source, (str, Path)):
        return Trace.load(source)
    return Trace._from({name: as_array(a) for name, a in source.items()})
