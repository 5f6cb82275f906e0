"""Arrays in safetensors files.

The safetensors library copies an array's memory as it lies: given one that is not C-contiguous it writes other
numbers than the array holds, and says nothing. So every array is made contiguous here first, and what was
encoded is decoded again and compared bit by bit before it is believed. The library reports what it dislikes by
half a dozen exception types; here it is one.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import safetensors.numpy

from swinpy.io import atomic
from swinpy.io.costs import NAME_LIMIT
from swinpy.io.errors import Fault, shown
from swinpy.io.safetensors.read import METADATA, SAFETENSORS_DTYPES, fault_of, views_of
from swinpy.io.source import BEYOND

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping

    from numpy.typing import NDArray

__all__ = ["check_tensors", "encode_tensors", "write_tensors"]

# What a fault within a library of Rust raises: no Exception, and of a class that cannot be imported.
_PANIC = "PanicException"
_WRITABLE = {np.dtype(dtype.code) for dtype in SAFETENSORS_DTYPES.values() if dtype.native}


def check_tensors(tensors: Mapping[str, NDArray[Any]]) -> None:
    """Check that the format can hold these arrays under these names.

    Args:
        tensors: arrays by name.

    Raises:
        TypeError: a name is no str, a value is no NumPy array, or its dtype has no place in the format.
        ValueError: a name is reserved, has no UTF-8 form or more than 1024 characters.
    """
    for name, array in tensors.items():
        if not isinstance(name, str):
            raise TypeError(f"write_tensors: expected names of type str; got {name!r}. Name every tensor by a str.")
        reason = _unusable(name)
        if reason:
            raise ValueError(f"write_tensors: expected a usable name; got {shown(name)}, {reason}. Rename the tensor.")
        if not isinstance(array, (np.ndarray, np.generic)) or isinstance(array, np.ma.MaskedArray):
            kind = f"{type(array).__module__}.{type(array).__qualname__}"
            raise TypeError(
                f"write_tensors: expected a plain numpy.ndarray for {name!r}; got {kind}. "
                "Bring device arrays to the host and unwrap tensors and masks first."
            )
        if array.dtype.newbyteorder("=") not in _WRITABLE:
            known = ", ".join(sorted(dtype.name for dtype in _WRITABLE))
            raise TypeError(
                f"write_tensors: expected one of the dtypes {known} for {name!r}; got {array.dtype}. "
                "Convert it, or keep it out of the file."
            )


def _unusable(name: str) -> str:
    """What is wrong with a name; "" for nothing."""
    if name == METADATA:
        return "reserved by the format"
    if len(name) > NAME_LIMIT:
        return f"of {len(name)} characters, more than the {NAME_LIMIT} that are read"
    return "" if _has_utf8(name) else "without a UTF-8 form"


def _has_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _plain(array: NDArray[Any]) -> NDArray[Any]:
    # np.ascontiguousarray turns a 0-d array into one of shape (1,), hence the reshape.
    little = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
    return little.reshape(np.shape(array))


def _bits(array: NDArray[Any]) -> NDArray[np.uint8]:
    return array.reshape(-1).view(np.uint8)


def encode_tensors(
    tensors: Mapping[str, NDArray[Any]], metadata: Mapping[str, str] | None = None, *, checked: bool = False
) -> bytes:
    """The bytes of a safetensors file, already decoded once and found equal.

    Args:
        tensors: arrays by name, of any layout and byte order.
        metadata: free text by name, kept in the header.
        checked: whether `check_tensors` has seen these arrays.

    Returns:
        The file's bytes, the same for the same arguments.

    Raises:
        TypeError: a value is no NumPy array or its dtype has no place in the format; metadata is not text.
        ValueError: a name or a piece of metadata cannot be used.
        TensorFileError: the library failed, its bytes do not give the arrays back, or there are so many tensors (some
            thousands, if they are small) that the file would not be read.
        MemoryError: memory is full.
    """
    if not checked:
        check_tensors(tensors)
    texts = dict(metadata or {})
    for key, value in texts.items():
        if not (isinstance(key, str) and isinstance(value, str)):
            raise TypeError(f"write_tensors: expected metadata of str to str; got {key!r}: {value!r}. Use json.dumps.")
        if not _has_utf8(key + value):
            raise ValueError(f"write_tensors: expected metadata with a UTF-8 form; got {key!r}: {value!r}. Reword it.")
    plain = {name: _plain(array) for name, array in tensors.items()}
    advice = "This is a fault of the safetensors package; try another version of it."
    try:
        data = bytes(safetensors.numpy.save(plain, metadata=texts or None))
        data = _in_order(data) if len(texts) > 1 else data
        views, found_texts = views_of(data)
    except MemoryError:
        raise
    except Fault as fault:
        fix = "Write fewer tensors into one file." if fault.rule == BEYOND else advice
        raise fault_of("write_tensors", "memory", f"{fault.got} in place of {fault.expected}", fix) from fault
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != _PANIC:
            raise
        raise fault_of("write_tensors", "memory", f"{type(error).__name__}: {error}", advice) from error
    same = views.keys() == plain.keys() and found_texts == texts
    for name, array in plain.items():
        same = same and _same(array, views.pop(name))
    if not same:
        raise fault_of("write_tensors", "memory", "other values than were given", advice)
    return data


def _in_order(data: bytes) -> bytes:
    """The file with its metadata in the order of their names; the library writes them in one of chance."""
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:end])
    header[METADATA] = dict(sorted(header[METADATA].items()))
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # so that the numbers are aligned
    return b"".join((len(text).to_bytes(8, "little"), text, memoryview(data)[end:]))


def _same(array: NDArray[Any], view: NDArray[Any]) -> bool:
    # Compared as bytes, so that NaN equals NaN and -0.0 differs from 0.0.
    return array.dtype == view.dtype and array.shape == view.shape and np.array_equal(_bits(array), _bits(view))


def write_tensors(
    path: str | os.PathLike[str], tensors: Mapping[str, NDArray[Any]], metadata: Mapping[str, str] | None = None
) -> None:
    """Write arrays to a safetensors file, whole or not at all, and read them back before returning.

    Args:
        path: the file to make or replace.
        tensors: arrays by name, of any layout and byte order.
        metadata: free text by name, kept in the header.

    Raises:
        TypeError: a value is no NumPy array or its dtype has no place in the format; metadata is not text.
        ValueError: a name or a piece of metadata cannot be used.
        TensorFileError: the library failed, or its bytes do not give the arrays back.
        OSError: the disk refused; a file that was at `path` is as it was.
    """
    atomic.replace_file(Path(path), encode_tensors(tensors, metadata))
