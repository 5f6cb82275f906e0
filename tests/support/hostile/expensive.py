"""The kinds of files that are known to be expensive: one generator for each charge that a reader makes, or must make.

Each is expensive whatever its parameters; a `Choice` decides about them. Growing at random (`support.hostile.grow`)
finds such files seldom, so the fuzzer takes each kind at least once. A reader that forgets one charge is reported by
one of them; `tests/io/test_fuzz_faults.py` tries that, charge by charge.
"""

from __future__ import annotations

import io
import struct
import zipfile
from typing import TYPE_CHECKING, Any

import numpy as np

from . import weight_files as made
from .choice import Choice, one
from .grow import of_legacy, of_tar, of_zip
from .grow_pickles import again, ordered_dicts, same_hash, store

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["KINDS"]

_ASTRAL = "\U0001f600"


def _between(choice: Choice, least: int, most: int) -> int:
    return least + choice.below(most - least + 1)


# ---- trees of a pickle; each gets the opcodes of a tensor


def _beside(tensor: bytes, *more: bytes) -> bytes:
    """A dict with a tensor and further pairs."""
    return b"}(" + made.join("w") + tensor + b"".join(more) + b"u"


def _value(tensor: bytes, value: bytes) -> bytes:
    return _beside(tensor, made.join("x"), value)


def _listed(items: bytes) -> bytes:
    return b"](" + items + b"e"


def _ordered(choice: Choice, tensor: bytes) -> bytes:
    """Dicts made by REDUCE."""
    return _value(tensor, ordered_dicts(_between(choice, 100, 150), _between(choice, 100, 140)))


def _same_entries(choice: Choice, value: bytes) -> bytes:
    keys = (made.join(f"{i:x}") + again(9) for i in range(_between(choice, 310, 330)))
    return made.join("first") + value + store(9) + b"".join(keys)


def _descriptions(choice: Choice, tensor: bytes) -> bytes:
    """Entries of one value, of which there is much to tell."""
    name = made.join(_ASTRAL * _between(choice, 100, 110)) * 2 + b"\x93"
    return _beside(tensor, _same_entries(choice, name + one(choice, (b"", b")R"))))


def _way(choice: Choice, tensor: bytes) -> bytes:
    """A long way to entries that are told one by one."""
    way = made.join("k" * _between(choice, 900, 1024))
    return b"}(" + way + _beside(tensor, _same_entries(choice, b"N")) + b"u"


def _names(choice: Choice, tensor: bytes) -> bytes:
    """Names of two texts each: many, of few texts."""
    count = _between(choice, 19, 21)
    texts = (made.join("a" * _between(choice, 480, 505) + f"{i:x}") + store(i) for i in range(count))
    pairs = (again(first) + again(second) + b"\x93" for first in range(count) for second in range(count))
    return _value(tensor, _listed(b"".join((*texts, *pairs))))


def _keys(choice: Choice, tensor: bytes) -> bytes:
    """Keys of a dict that all have one hash."""
    keys = same_hash(_between(choice, 9500, 10_000))
    return _value(tensor, b"}(" + b"".join(made.join(key) + b"N" for key in keys) + b"u")


def _late(choice: Choice) -> str:
    """A text that is decoded narrow, and then again twice."""
    return one(choice, ("a", "a\xe9")) * _between(choice, 100_000, 120_000) + "\xe9\u4e00" + _ASTRAL


def _texts(choice: Choice, tensor: bytes) -> bytes:
    return _value(tensor, made.join(_late(choice)))


def _pieces(piece: bytes) -> Callable[[Choice, bytes], bytes]:
    return lambda choice, tensor: _value(tensor, _listed(piece * _between(choice, 14_000, 15_000)))


def _dims(choice: Choice, legacy: bool) -> bytes:
    """Entries of one tensor of many dimensions, each of which becomes an array."""
    ones = (1,) * _between(choice, 63, 64)
    several = made.join(made.Tensor(shape=ones, strides=ones), legacy) + store(9)
    keys = (made.join(f"{i:x}") + again(9) for i in range(_between(choice, 250, 255)))
    return _beside(made.join(made.Tensor(), legacy), made.join("first"), several, *keys)


def _shapes(choice: Choice, legacy: bool) -> bytes:
    """Tensors whose shapes and strides are lists, of which each tensor keeps a copy."""
    ones = [1] * _between(choice, 60, 64)
    arguments = made.join((made.storage_id(made.Tensor(), legacy), 0, ones, ones, False, {}), legacy)
    first = made.glob("torch._utils", "_rebuild_tensor_v2").code + store(8) + arguments + store(9) + b"R"
    tensors = first + (again(8) + again(9) + b"R") * _between(choice, 380, 400)
    return _value(made.join(made.Tensor(), legacy), _listed(tensors))


_PIECES = {
    "none": b"N",
    "dicts": b"}",
    "lists": b"]",
    "sets": b"\x8f",
    "numbers": b"M\xff\xff",
    "tuples": b")\x85",
    "stored": b"N\x94",
    "calls": b"cos\na\n)R",
}
_TREES: dict[str, Callable[[Choice, bytes], bytes]] = {
    "ordered dicts": _ordered,
    "descriptions": _descriptions,
    "way": _way,
    "names": _names,
    "keys": _keys,
    "texts": _texts,
    **{name: _pieces(piece) for name, piece in _PIECES.items()},
}


def _in(file: Callable[[bytes], bytes], tensor: bytes) -> dict[str, Callable[[Choice], bytes]]:
    """Each of the trees in a form of file."""
    return {name: lambda choice, make=make: file(make(choice, tensor)) for name, make in _TREES.items()}


# ---- containers


def _zip_names(choice: Choice) -> bytes:
    name = ("archive/data/" + _ASTRAL).encode() + b"n" * _between(choice, 950, 990)
    more = [made.ZipEntry(name + b"%d" % i, b"") for i in range(_between(choice, 700, 900))]
    return of_zip(_beside(made.join(made.Tensor())), more)


def _zip_entries(choice: Choice) -> bytes:
    more = [made.ZipEntry(b"archive/%d" % i, b"") for i in range(_between(choice, 2700, 3000))]
    return of_zip(_beside(made.join(made.Tensor())), more)


def _zip_types(choice: Choice) -> bytes:
    """One storage, read as several types, each of which takes memory of its own."""
    size = _between(choice, 100_000, 120_000) // 16 * 16
    kinds = (("float64", 8), ("float32", 4), ("float16", 2), ("int64", 8), ("int32", 4), ("int16", 2), ("int8", 1))
    tensors = {
        name: made.Tensor(
            "0", size, (size // width,), kind="UntypedStorage", module="torch.storage", version="v3", dtype=name
        )
        for name, width in kinds
    }
    return made.torch_zip(tensors, {"0": bytes(size)})


def _tar_tensors(choice: Choice) -> bytes:
    """Tensors of many dimensions, each with large strides, which mean nothing where a dimension is 1."""
    ndim, count = _between(choice, 60, 64), _between(choice, 600, 700)
    numbers = struct.pack(f"<i4x{2 * ndim + 1}q", ndim, *[1] * ndim, *[1 << 62] * ndim, 0)
    row = made.pickled((300, 7, made.glob("torch", "FloatTensor"))).replace(struct.pack("<i", 300), b"%key")
    rows = b"".join(row.replace(b"%key", struct.pack("<i", i)) + numbers for i in range(300, 300 + count))
    parts = made.tar_parts(np.ones(3, np.float32))
    parts["tensors"] = made.pickled(count + 1) + parts["tensors"][5:] + rows
    return made.tar_file(made.tar_members(parts))


# ---- JSON


def _nest(choice: Choice, start: bytes, end: bytes) -> bytes:
    depth = _between(choice, 50, 60)
    piece = start * depth + (b"1" if b":" in start else b"") + end * depth
    return b"[" + b",".join([piece] * (_between(choice, 75_000, 100_000) // len(piece))) + b"]"


def _json_lists(choice: Choice) -> bytes:
    return b'{"a":' + _nest(choice, b"[", b"]") + b"}"


def _json_dicts(choice: Choice) -> bytes:
    return b'{"a":' + _nest(choice, b'{"":', b"}") + b"}"


def _json_astral(choice: Choice) -> bytes:
    return b'{"' + _ASTRAL.encode() + b'":"' + b"a" * _between(choice, 100_000, 115_000) + b'"}'


def _json_escaped(choice: Choice) -> bytes:
    """A text that an escape widens when most of it has been read."""
    return b'{"a":"' + b"a" * _between(choice, 90_000, 100_000) + b'\\ud83d\\ude00"}'


def _json_flat(choice: Choice) -> bytes:
    return b'{"a":[' + b",".join([one(choice, (b"[]", b"{}"))] * _between(choice, 46_000, 48_000)) + b"]}"


def _json_way(choice: Choice) -> bytes:
    """A long key before thousands of values."""
    count = _between(choice, 10_000, 12_000)
    return b'{"' + b"k" * 40_000 + b'":[' + b",".join([b"1"] * count) + b"]}"


_NESTS = {"nested lists": _json_lists, "nested dicts": _json_dicts, "flat": _json_flat}
_HEADERS = {**_NESTS, "astral": _json_astral, "escaped": _json_escaped}


# ---- npz


def _archive(data: bytes, method: int, declared: int, name: str = "a.npy") -> bytes:
    """One entry, of which the directory may say another size than it has."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr(name, data, method)
        archive.filelist[-1].file_size = declared
    return out.getvalue()


def _npy(values: np.ndarray[Any, Any]) -> bytes:
    out = io.BytesIO()
    np.lib.format.write_array(out, values)
    return out.getvalue()


def _false_size(method: int) -> Callable[[Choice], bytes]:
    """An entry that declares a small array, and is a large one."""

    def make(choice: Choice) -> bytes:
        head = _npy(np.zeros(_between(choice, 1, 99), np.uint8))
        return _archive(head + bytes(_between(choice, 8 << 20, 9 << 20)), method, len(head))

    return make


def _expanding(choice: Choice) -> bytes:
    data = _npy(np.zeros(_between(choice, 8 << 20, 9 << 20), np.uint8))
    return _archive(data, zipfile.ZIP_DEFLATED, len(data))


def _npz_meta(choice: Choice) -> bytes:
    kind: Callable[[Choice], bytes] = one(choice, (_json_lists, _json_dicts, _json_flat))
    text = b"[" + b",".join(kind(choice) for _ in range(3)) + b"]"
    data = _npy(np.frombuffer(text + b" " * (1 << 20), np.uint8))
    return _archive(data, zipfile.ZIP_DEFLATED, len(data), "__meta__.npy")


# ---- CIFAR


def _cifar(tree: bytes) -> bytes:
    return b"\x80\x02}(U\4data" + tree + b"u."


def _cifar_pieces(piece: bytes) -> Callable[[Choice], bytes]:
    return lambda choice: _cifar(_listed(piece * _between(choice, 14_000, 15_000)))


_CIFAR = {name: _cifar_pieces(piece) for name, piece in _PIECES.items() if piece[-1:] in b"N}]\x85\xff"}

KINDS: dict[str, dict[str, Callable[[Choice], bytes]]] = {
    "zip": {
        **_in(of_zip, made.join(made.Tensor())),
        "dims": lambda choice: of_zip(_dims(choice, False)),
        "shapes": lambda choice: of_zip(_shapes(choice, False)),
        "types": _zip_types,
        "entries": _zip_entries,
        "long entries": _zip_names,
    },
    "legacy": {
        **_in(of_legacy, made.join(made.Tensor(), legacy=True)),
        "dims": lambda choice: of_legacy(_dims(choice, True)),
        "shapes": lambda choice: of_legacy(_shapes(choice, True)),
    },
    "tar": {**_in(of_tar, made.join("5") + b"Q"), "tensors": _tar_tensors},
    "safetensors": {
        **{name: lambda choice, make=make: made.safetensors_file(make(choice)) for name, make in _HEADERS.items()},
    },
    "npz": {
        "bz2": _false_size(zipfile.ZIP_BZIP2),
        "lzma": _false_size(zipfile.ZIP_LZMA),
        "expanding": _expanding,
        "meta": _npz_meta,
    },
    "cifar": {**_CIFAR, "texts": lambda choice: _cifar(made.join(_late(choice)))},
    "manifest": {**_NESTS, "long key": _json_way},
}
