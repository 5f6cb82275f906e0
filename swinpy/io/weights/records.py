"""What a weight file holds, as inert records: names, shapes and places. None of them can do anything."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

__all__ = ["DTYPES", "STORAGES", "Call", "Dtype", "Global", "Storage", "StoredTensor"]


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
