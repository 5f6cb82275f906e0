"""The safetensors form: a length, a JSON header, and the numbers, read strictly and without copies.

The library of that name copies everything twice on its way to NumPy and cannot hand out bfloat16. What we write
ourselves is made by it (`swinpy.io.safetensors.write`) and read back by the parser here.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from swinpy.io import atomic
from swinpy.io.costs import json_cost
from swinpy.io.errors import Fault, TensorFileError, shown
from swinpy.io.records import (
    DTYPES,
    MAX_DIMS,
    Call,
    Content,
    Dtype,
    Global,
    Storage,
    StoredTensor,
    as_count,
    check_view,
)
from swinpy.io.source import Budget, BytesSource

if TYPE_CHECKING:
    import os

    from numpy.typing import NDArray

    from swinpy.io.source import Source

__all__ = [
    "METADATA",
    "SAFETENSORS_DTYPES",
    "decode_tensors",
    "fault_of",
    "read_safetensors",
    "read_tensors",
    "views_of",
]

_HEADER_LIMIT = 100_000_000  # the format's own
METADATA = "__metadata__"
# Bytes that the records of a tensor take beyond its JSON, each number of its shape, and an array with its view.
_ROW, _NUMBER, _ARRAY = 700, 32, 600
SAFETENSORS_DTYPES: dict[str, Dtype] = {
    "F64": DTYPES["float64"],
    "F32": DTYPES["float32"],
    "F16": DTYPES["float16"],
    "BF16": DTYPES["bfloat16"],
    "I64": DTYPES["int64"],
    "I32": DTYPES["int32"],
    "I16": DTYPES["int16"],
    "I8": DTYPES["int8"],
    "U64": DTYPES["uint64"],
    "U32": DTYPES["uint32"],
    "U16": DTYPES["uint16"],
    "U8": DTYPES["uint8"],
    "BOOL": DTYPES["bool"],
    "C64": DTYPES["complex64"],
    "F8_E4M3": DTYPES["float8_e4m3fn"],
    "F8_E5M2": DTYPES["float8_e5m2"],
    "F8_E8M0": DTYPES["float8_e8m0fnu"],
}
_CODES = {dtype: code for code, dtype in SAFETENSORS_DTYPES.items()}


def read_safetensors(source: Source, budget: Budget) -> Content:
    """What a file of this form holds.

    Args:
        source: the file.
        budget: what it may take.

    Raises:
        Fault: damaged or hostile.
    """
    length = int.from_bytes(source.read(0, min(8, source.size)), "little")
    start = 8 + length
    if length > _HEADER_LIMIT or start > source.size:
        raise Fault("a safetensors header that fits in the file", f"one of {length} bytes in {source.size} (truncated)")
    data = source.read(8, length)
    budget.take(json_cost(data))
    header = _parse(data)
    budget.take(_ROW * len(header) + _NUMBER * data.count(b","))
    metadata = _metadata(header.pop(METADATA, {}))
    spans: list[tuple[int, int]] = []
    tree = {name: _tensor(name, row, start, source.size - start, spans) for name, row in header.items()}
    _check_spans(spans, source.size - start)
    return Content("safetensors", tree, metadata=metadata)


def _parse(data: bytes) -> dict[str, Any]:
    try:
        header = json.loads(data.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise Fault("a safetensors header of JSON", _reason(error)) from None
    if type(header) is not dict:
        raise Fault("an object in the safetensors header", shown(header))
    return header


def _reason(error: Exception) -> str:
    return type(error).__name__ if isinstance(error, RecursionError) else f"{type(error).__name__}: {error}"[:200]


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise Fault("keys of the safetensors header that occur once", "one twice")
    return found


def _refuse_constant(text: str) -> NoReturn:
    raise Fault("numbers in the safetensors header", text)


def _metadata(texts: Any) -> dict[str, str]:
    if type(texts) is not dict or any(type(value) is not str for value in texts.values()):
        raise Fault(f"text by name in {METADATA}", shown(texts))
    return texts


def _tensor(name: str, row: Any, start: int, size: int, spans: list[tuple[int, int]]) -> StoredTensor | Call:
    what = f"tensor {shown(name)}"
    if type(row) is not dict or row.keys() != {"dtype", "shape", "data_offsets"}:
        raise Fault(f"dtype, shape and data_offsets for {what}", shown(row))
    code, shape, offsets = row["dtype"], row["shape"], row["data_offsets"]
    if type(offsets) is not list or len(offsets) != 2 or any(as_count(at) is None for at in offsets):
        raise Fault(f"two offsets for {what}", shown(offsets))
    first, last = offsets
    if not first <= last <= size:
        raise Fault(f"offsets within the {size} bytes of data for {what}", f"{first} to {last} (truncated?)")
    spans.append((first, last))
    if type(shape) is not list or len(shape) > MAX_DIMS or any(as_count(d) is None for d in shape):
        raise Fault(f"a shape of at most {MAX_DIMS} whole numbers for {what}", shown(shape))
    if type(code) is not str:
        raise Fault(f"a dtype for {what}", shown(code))
    if code not in SAFETENSORS_DTYPES:
        return Call(Global("safetensors", code), tuple(shape))
    dtype, numel = SAFETENSORS_DTYPES[code], math.prod(shape)
    if numel * dtype.itemsize != last - first:
        raise Fault(f"{shown(numel)} elements of {code} for {what}", f"{last - first} bytes")
    return check_view(Storage(name, dtype, numel, True, start + first), dtype, 0, shape, _strides(shape, numel))


def _strides(shape: list[int], numel: int) -> list[int]:
    if not numel:
        return [0] * len(shape)
    strides, step = [], 1
    for size in reversed(shape):
        strides.append(step)
        step *= size
    return strides[::-1]


def _check_spans(spans: list[tuple[int, int]], size: int) -> None:
    """The tensors cover the data without a gap or an overlap, as the format demands."""
    at = 0
    for first, last in sorted(spans):
        if first != at:
            raise Fault(f"a tensor that starts at byte {at} of the data", f"byte {first} (a gap or an overlap)")
        at = last
    if at != size:
        raise Fault(f"{at} bytes of data, as the header says,", f"{size} (truncated, or something appended)")


# ---- whole files as arrays


def fault_of(op: str, where: str, reason: str, fix: str) -> TensorFileError:
    """The error that says what is wrong with a file."""
    return TensorFileError(f"{op}: expected a sound safetensors file at {where}; got {reason}. {fix}")


def views_of(data: bytes) -> tuple[dict[str, NDArray[Any]], dict[str, str]]:
    """The arrays of a file as little-endian views of its bytes, and the metadata.

    Args:
        data: the file's bytes.

    Raises:
        Fault: the bytes are malformed, or describe so much that they and copies of the arrays would take more than
            twice their size (and 8 MiB).
        ValueError: they hold a dtype that NumPy does not have.
    """
    budget = Budget(len(data))
    budget.take(2 * len(data))
    content = read_safetensors(BytesSource(data), budget)
    budget.take(_ARRAY * len(content.tree))
    return {name: _view(data, name, tensor) for name, tensor in content.tree.items()}, content.metadata


def _view(data: bytes, name: str, tensor: StoredTensor | Call) -> NDArray[Any]:
    if not isinstance(tensor, StoredTensor) or not tensor.dtype.native:
        code = tensor.function.name if isinstance(tensor, Call) else _CODES[tensor.dtype]
        raise ValueError(f"dtype {shown(code)[1:-1]} in {shown(name)}, which NumPy does not have")
    flat = np.frombuffer(data, "<" + tensor.dtype.code, tensor.storage.numel, tensor.storage.position)
    return flat.reshape(tensor.shape)


def decode_tensors(data: bytes, where: str = "memory") -> tuple[dict[str, NDArray[Any]], dict[str, str]]:
    """The arrays and the metadata of a safetensors file given as bytes.

    Args:
        data: the file's bytes.
        where: what a message calls the file.

    Returns:
        Arrays by name in the order of their names, each C-contiguous, writable and owning its memory, in native
        byte order; and the metadata.

    Raises:
        TensorFileError: the bytes are malformed or hold a dtype that NumPy does not have.
    """
    try:
        views, texts = views_of(data)
        arrays = {}
        for name in sorted(views):
            view = views.pop(name)
            arrays[name] = np.array(view, dtype=view.dtype.newbyteorder("="), order="C", copy=True)
    except Fault as fault:
        raise fault_of("read_tensors", where, f"{fault.got} in place of {fault.expected}", fault.fix) from fault
    except (ValueError, MemoryError) as error:
        raise fault_of("read_tensors", where, str(error), "Convert such tensors to float32 first.") from error
    return arrays, texts


def read_tensors(path: str | os.PathLike[str]) -> tuple[dict[str, NDArray[Any]], dict[str, str]]:
    """Read a safetensors file.

    Args:
        path: the file.

    Returns:
        Arrays by name in the order of their names, each C-contiguous, writable and owning its memory, in native
        byte order; and the metadata.

    Raises:
        TensorFileError: the file is missing, unreadable or malformed, or holds a dtype that NumPy does not have.
    """
    try:
        data = atomic.read_regular(Path(path))
    except OSError as error:
        fix = "Check the path and its permissions."
        raise fault_of("read_tensors", str(path), error.strerror or str(error), fix) from error
    return decode_tensors(data, str(path))
