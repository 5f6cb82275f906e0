"""What a weight file holds, as inert records: names, shapes and places. None of them can do anything.

Every parser returns a `Content`, the same for all forms of files.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from swinpy.io.errors import Fault, shown

__all__ = [
    "DTYPES",
    "MAX_DIMS",
    "STORAGES",
    "Call",
    "Content",
    "Dtype",
    "Global",
    "Storage",
    "StoredTensor",
    "as_count",
    "check_view",
    "listed",
]

MAX_DIMS = 64  # NumPy's limit, and torch's own for what it saves


@dataclass(frozen=True, slots=True)
class Global:
    """A name that a pickle would import; here it is only a name."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


@dataclass(slots=True, eq=False, repr=False)
class Call:
    """An object that a pickle would have made by calling something: the call was not made.

    Attributes:
        function: what would have been called, most often a `Global`.
        arguments: what it would have been called with.
        items: what would have been put into it, keys and values in turn for a mapping.
        state: what its ``__setstate__`` would have been given.
    """

    function: Any
    arguments: Any
    items: list[Any] | None = None
    state: Any = None

    def __repr__(self) -> str:
        # The parts may refer back to the whole.
        return f"<call of {self.function}, not made>" if isinstance(self.function, Global) else "<call, not made>"


@dataclass(frozen=True, slots=True)
class Dtype:
    """An element type.

    Attributes:
        name: torch's name for it.
        itemsize: bytes an element.
        code: NumPy's code without byte order, or "" where NumPy has nothing that holds it.
    """

    name: str
    itemsize: int
    code: str = ""

    @property
    def native(self) -> bool:
        """Whether NumPy has this very type, not only a wider one that holds its values."""
        return bool(self.code) and self.name != "bfloat16"


def _table(*rows: tuple[str, int, str]) -> dict[str, Dtype]:
    return {name: Dtype(name, itemsize, code) for name, itemsize, code in rows}


# bfloat16 is the upper half of a float32; it is widened, which is exact.
DTYPES = _table(
    ("float64", 8, "f8"),
    ("float32", 4, "f4"),
    ("float16", 2, "f2"),
    ("bfloat16", 2, "f4"),
    ("complex128", 16, "c16"),
    ("complex64", 8, "c8"),
    ("complex32", 4, ""),
    ("int64", 8, "i8"),
    ("int32", 4, "i4"),
    ("int16", 2, "i2"),
    ("int8", 1, "i1"),
    ("uint64", 8, "u8"),
    ("uint32", 4, "u4"),
    ("uint16", 2, "u2"),
    ("uint8", 1, "u1"),
    ("bool", 1, "b1"),
    ("float8_e4m3fn", 1, ""),
    ("float8_e5m2", 1, ""),
    ("float8_e4m3fnuz", 1, ""),
    ("float8_e5m2fnuz", 1, ""),
    ("float8_e8m0fnu", 1, ""),
    ("float4_e2m1fn_x2", 1, ""),
    ("quint8", 1, ""),
    ("qint8", 1, ""),
    ("qint32", 4, ""),
    ("quint4x2", 1, ""),
    ("quint2x4", 1, ""),
)

STORAGES: dict[str, Dtype] = {
    storage: DTYPES[name]
    for storage, name in {
        "DoubleStorage": "float64",
        "FloatStorage": "float32",
        "HalfStorage": "float16",
        "BFloat16Storage": "bfloat16",
        "ComplexDoubleStorage": "complex128",
        "ComplexFloatStorage": "complex64",
        "LongStorage": "int64",
        "IntStorage": "int32",
        "ShortStorage": "int16",
        "CharStorage": "int8",
        "ByteStorage": "uint8",
        "BoolStorage": "bool",
        "QUInt8Storage": "quint8",
        "QInt8Storage": "qint8",
        "QInt32Storage": "qint32",
        "QUInt4x2Storage": "quint4x2",
        "QUInt2x4Storage": "quint2x4",
        "UntypedStorage": "uint8",
    }.items()
}


@dataclass(slots=True, eq=False)
class Storage:
    """A run of elements in the file, which one or more tensors view.

    Attributes:
        key: the file's name for it.
        dtype: of its elements; uint8 for one without a type.
        numel: number of elements.
        typed: False where the tensors on it say what the elements are.
        position: of its first byte in the file; -1 while that is not known yet.
    """

    key: str
    dtype: Dtype
    numel: int
    typed: bool = True
    position: int = -1

    @property
    def nbytes(self) -> int:
        """How many bytes it takes."""
        return self.numel * self.dtype.itemsize


@dataclass(frozen=True, slots=True, eq=False)
class StoredTensor:
    """A tensor as the file describes it, found to lie within its storage.

    Attributes:
        storage: what it views.
        dtype: of its elements.
        offset: of its first element in the storage, in elements.
        shape: of the tensor.
        strides: in elements, one a dimension.
    """

    storage: Storage
    dtype: Dtype
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def as_count(value: Any) -> int | None:
    """The value when it is a whole number from 0 to 2**63 - 1, else None (so for True, too)."""
    return value if type(value) is int and 0 <= value < 1 << 63 else None


def _counts(values: Any, what: str) -> tuple[int, ...]:
    if type(values) in (tuple, list) and len(values) > MAX_DIMS:
        raise Fault(f"a tensor of at most {MAX_DIMS} dimensions", f"one of {len(values)}")
    if type(values) not in (tuple, list) or any(as_count(value) is None for value in values):
        raise Fault(f"{what} of a tensor as whole numbers, none negative", listed(values))
    return tuple(values)


def listed(values: Any) -> str:
    """The first numbers of a shape, for messages."""
    if type(values) not in (tuple, list):
        return shown(values)
    return "(" + ", ".join(shown(value) for value in values[:8]) + (", ...)" if len(values) > 8 else ")")


def check_view(storage: Storage, dtype: Dtype, offset: Any, shape: Any, strides: Any) -> StoredTensor:
    """A tensor over a storage, once it is sure that it lies within.

    Args:
        storage: what it views.
        dtype: of its elements.
        offset: of its first element, in elements.
        shape: of the tensor.
        strides: in elements, one a dimension.

    Raises:
        Fault: numbers that are none, negative or too large, or a tensor that reaches beyond its storage.
    """
    shape, strides = _counts(shape, "the shape"), _counts(strides, "the strides")
    if len(shape) != len(strides):
        raise Fault("as many strides as dimensions", f"{len(strides)} for {len(shape)}")
    numel = storage.nbytes // dtype.itemsize
    first = as_count(offset)
    last = None if first is None else first + sum((d - 1) * s for d, s in zip(shape, strides, strict=True) if d)
    empty = 0 in shape
    if first is None or last is None or (first > numel if empty else last >= numel):
        raise Fault(
            f"a tensor within its storage of {numel} elements",
            f"offset {shown(offset)}, shape {listed(shape)}, strides {listed(strides)}",
        )
    if math.prod(d for d in shape if d) * 16 >= 1 << 63:
        raise Fault("a tensor that can be addressed", f"shape {listed(shape)}")
    return StoredTensor(storage, dtype, first, shape, strides)


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Content:
    """A file's contents before any tensor's numbers are read.

    Attributes:
        form: what kind of file it is.
        tree: dicts, lists, tuples, plain values and the records of `swinpy.io.records`. It may contain itself.
        unknown: the names of code in the file that mean nothing here.
        order: byte order of the numbers, "<" or ">".
        metadata: free text that came with the tensors.
    """

    form: str
    tree: Any
    unknown: tuple[str, ...] = ()
    order: str = "<"
    metadata: dict[str, str] = field(default_factory=dict)
