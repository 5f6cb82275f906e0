"""Files that are grown rather than bent: structures that repeat, nest, refer back and choose their keys.

Bent bytes seldom make a file expensive; what makes one expensive is one costly piece, thousands of times. A `Choice`
decides everything, so that a seed or a fuzzer's bytes decide it.
"""

from __future__ import annotations

import io
import json
import struct
import zipfile
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from .corpus import VECTOR
from .weight_files import (
    Raw,
    Tensor,
    ZipEntry,
    glob,
    join,
    legacy_file,
    pickled,
    safetensors_file,
    tar_file,
    tar_members,
    tar_parts,
    zip_bytes,
    zip_entries,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = [
    "Choice",
    "grow_cifar",
    "grow_json",
    "grow_legacy",
    "grow_npz",
    "grow_safetensors",
    "grow_tar",
    "grow_zip",
    "same_hash",
    "sound_cifar",
    "sound_npz",
]

_LIMIT = 30_000  # bytes of a piece
_MASK = (1 << 64) - 1


class Choice(Protocol):
    """Where decisions come from."""

    def below(self, count: int) -> int:
        """A number from 0 to ``count - 1``."""
        ...


def _one(choice: Choice, things: Sequence[Any]) -> Any:
    return things[choice.below(len(things))]


def _times(choice: Choice, size: int) -> int:
    """How often a piece of ``size`` bytes is repeated: few times or as often as the limit lets it be."""
    most = max(1, _LIMIT // max(1, size))
    return min(most, _one(choice, (1, 2, 3, 5, 8, 30, 300, 1000, 3000, 9000, 30_000)))


def _text(choice: Choice) -> str:
    letter = _one(choice, ("a", "\x1b", "\xe9", "\u4e00", "\U0001f600", "module.", "a.", "/", "9", "\ud800"))
    return letter * _one(choice, (0, 1, 2, 60, 500, 1024, 1025, 9000, 20_000)) + _one(choice, ("", "b", "\U0001f600"))


# ---- pickles


def same_hash(count: int) -> list[tuple[int, int]]:
    """Pairs of integers that all have one hash (CPython's hash of tuples, solved for the second lane)."""
    one, two, five = 11400714785074694791, 14029467366897019727, 2870177450012600261
    found: list[tuple[int, int]] = []
    first = 0
    while len(found) < count:
        first += 1
        state = (five + first * two) & _MASK
        state = (state << 31 | state >> 33) * one & _MASK
        lane = (12345 - state) * pow(two, -1, 1 << 64) & _MASK
        number = lane - (1 << 64) if lane >> 63 else lane
        if abs(number) < (1 << 61) - 2 and number != -1:
            found.append((first, number))
    return found


def _keys(choice: Choice, count: int) -> list[bytes]:
    """Distinct keys of one kind, as opcodes."""
    kind = choice.below(7)
    if kind == 0:
        return [join(pair) for pair in same_hash(min(count, 5000))]
    make: Callable[[int], Any] = (
        str,
        lambda i: f"layers.{i}." + "k" * 40,
        lambda i: i,
        lambda i: i << 44,
        lambda i: float(i) * 2.0**40,
        lambda i: b"%d" % i,
    )[kind - 1]
    return [join(make(i)) for i in range(count)]


class _Pickle:
    """One pickle's opcodes; what was stored in the memo can be referred to."""

    def __init__(self, choice: Choice, leaves: Sequence[bytes]) -> None:
        self._choice = choice
        self._leaves = leaves
        self._stored = 0

    def value(self, depth: int = 0) -> bytes:
        choice = self._choice
        makers = (
            self._leaf,
            self._leaf,
            self._reference,
            self._repeated,
            self._dict,
            self._pairs,
            self._call,
            self._nest,
        )
        code = makers[choice.below(len(makers) if depth < 4 else 3)](depth)
        if choice.below(3) == 0 and len(code) < _LIMIT:
            code += b"r" + struct.pack("<I", self._stored)
            self._stored += 1
        return code

    def _leaf(self, depth: int) -> bytes:
        choice = self._choice
        plain = (b"N", b"\x88", b")", b"]", b"}", b"\x8f", b"M\xff\xff", b"G" + bytes(8), join(1 << 2000))
        kind = choice.below(4)
        if kind == 0:
            return join(_text(choice))
        if kind == 1:
            return join(bytes(_one(choice, (0, 1, 255, 70_000))))
        return _one(choice, self._leaves if kind == 2 else plain)

    def _reference(self, depth: int) -> bytes:
        return b"j" + struct.pack("<I", self._choice.below(self._stored)) if self._stored else b"N"

    def _repeated(self, depth: int) -> bytes:
        piece = self.value(depth + 1)
        if self._choice.below(3) == 0:
            piece += self._reference(depth) + b"\x86"
        end = _one(self._choice, (b"e", b"t", b"\x90", b"\x91"))
        start = {b"e": b"](", b"t": b"(", b"\x90": b"\x8f(", b"\x91": b"("}[end]
        return start + piece * _times(self._choice, len(piece)) + end

    def _dict(self, depth: int) -> bytes:
        value = self.value(depth + 1)
        count = min(_times(self._choice, 8 + len(value)), 20_000)
        start = _one(self._choice, (b"}(", b"ccollections\nOrderedDict\n)R("))
        return start + b"".join(key + value for key in _keys(self._choice, count)) + b"u"

    def leaf(self) -> bytes:
        return self._leaf(0)

    def pairs(self) -> bytes:
        return self._pairs(0)

    def _pairs(self, depth: int) -> bytes:
        """A list of pairs, and OrderedDicts made of it again and again."""
        count = _one(self._choice, (1, 100, 3000, 9000))
        pairs = b"](" + b"".join(join(f"{i:x}") + b"N\x86" for i in range(count)) + b"e\x85"
        name, many = self._stored, self._stored + 1
        self._stored += 2
        code = (
            b"](ccollections\nOrderedDict\nr" + struct.pack("<I", name) + pairs + b"r" + struct.pack("<I", many) + b"R"
        )
        again = b"j" + struct.pack("<I", name) + b"j" + struct.pack("<I", many) + b"R"
        return code + again * _times(self._choice, len(again)) + b"e"

    def _call(self, depth: int) -> bytes:
        choice = self._choice
        if choice.below(2):
            function = join(_text(choice)[:600]) + join(_text(choice)[:600]) + b"\x93"
        else:
            function = glob(
                *_one(choice, (("os", "system"), ("torch._utils", "_rebuild_tensor_v2"), ("torch", "x")))
            ).code
        return function + _one(choice, (b"", b")R", b")\x81", b")}\x92", self.value(depth + 1) + b"\x85R", b")R}b"))

    def _nest(self, depth: int) -> bytes:
        count = _times(self._choice, 2)
        return _one(self._choice, (b"]" * count + b"a" * (count - 1), b")" + b"\x85" * count, b"N" + b"\x85" * count))


def _tree(choice: Choice, legacy: bool = False, tensor: bytes = b"") -> bytes:
    """Weights with something beside them or among them; in half of the files one thing alone, and nothing amiss."""
    tensor = tensor or join(Tensor(), legacy)
    if choice.below(2):
        return _one_thing(choice, tensor)
    made = _Pickle(choice, (tensor,))
    code = b"}(" + join("w") + tensor
    for _ in range(choice.below(4)):
        code += join(_text(choice)) + made.value()
    code += b"u"
    for _ in range(choice.below(3)):
        code = b"}(" + join(_one(choice, ("model", "x", _text(choice)))) + code + join("more") + made.value(1) + b"u"
    return code


def _one_thing(choice: Choice, tensor: bytes) -> bytes:
    """A sound tree in which one piece is expensive: the pieces of which each charge was forgotten once, or might be."""
    made = _Pickle(choice, (tensor,))
    kind = choice.below(8)
    if kind == 0:
        return b"}(" + join("w") + tensor + join("x") + made.pairs() + b"u"
    if kind == 1:  # entries of one value, which a report tells one by one
        return b"}(" + join("w") + tensor + _entries(choice, _one(choice, _values(tensor))) + b"u"
    if kind == 2:  # the same beside the weights, whose way is long
        way = _one(choice, ("model", "k" * 1000, "\U0001f600" * 1000, "k" * 9000))
        inner = b"}(" + join("w") + tensor + _entries(choice, b"N") + b"u"
        return b"}(" + join(way) + inner + b"u"
    if kind == 3:  # names of two texts each
        count = _one(choice, (2, 20, 60))
        letters = _one(choice, ("a", "\U0001f600")) * _one(choice, (1, 300, 500))
        texts = b"".join(join(letters + str(i)) + b"r" + struct.pack("<I", i) for i in range(count))
        every = [b"j" + struct.pack("<I", i) for i in range(count)]
        names = b"".join(one + two + b"\x93" for one in every for two in every)
        return b"}(" + join("w") + tensor + join("x") + b"](" + texts + names + b"eu"
    if kind == 4:  # a dict
        keys = _keys(choice, _one(choice, (100, 700, 5500)))
        return b"}(" + join("w") + tensor + join("x") + b"}(" + b"".join(key + b"N" for key in keys) + b"uu"
    if kind == 5:
        text = _one(choice, ("a", "a\xe9\u4e00", "\U0001f600")) * _one(choice, (9000, 90_000)) + "\xe9\u4e00\U0001f600"
        return b"}(" + join("w") + tensor + join("x") + join(text) + b"u"
    piece = made.leaf() if kind == 6 else _one(choice, _values(tensor))
    return b"}(" + join("w") + tensor + join("x") + b"](" + piece * _times(choice, len(piece)) + b"eu"


def _values(tensor: bytes) -> tuple[bytes, ...]:
    name = join("\U0001f600" * 512) * 2 + b"\x93"
    return tensor, b"N", b"}", b"]", b"\x8f", b"cos\nsystem\n)R", name, name + b")R", b"M\xff\xff", b")\x85", b"N\x94"


def _entries(choice: Choice, value: bytes) -> bytes:
    again = b"jg\0\0\0"
    keys = [join(f"{i:x}") for i in range(_one(choice, (100, 700, 2800, 5500)))]
    return join("first") + value + b"rg\0\0\0" + b"".join(key + again for key in keys)


def grow_zip(choice: Choice) -> bytes:
    entries = zip_entries(b"\x80\x04" + _tree(choice, legacy=False) + b".", {"0": VECTOR.tobytes()})
    if choice.below(3) == 0:
        name = b"archive/" + _text(choice).encode("utf-8", "surrogatepass")
        count = min(3000, _times(choice, len(name) + 60))
        entries += [ZipEntry((name + b"%d" % i)[-65_000:], b"") for i in range(count)]
    return zip_bytes(entries)


def grow_legacy(choice: Choice) -> bytes:
    tree, storages = Raw(_tree(choice, legacy=True)), {"0": (3, VECTOR.tobytes())}
    if choice.below(3) == 0:
        count = _one(choice, (10, 300, 1000))
        storages |= {str(i): (0, b"") for i in range(1, count)}
        tensors = b"".join(join(f"t{i}") + join(Tensor(str(i), 0, (0,), (1,)), True) for i in range(1, count))
        tree = Raw(b"}(" + join("w") + join(Tensor(), True) + tensors + b"u")
    keys = Raw(_Pickle(choice, [b"N"]).value()) if choice.below(4) == 0 else None
    return legacy_file(tree, storages, keys=keys)


def grow_tar(choice: Choice) -> bytes:
    code = _tree(choice, tensor=join("5") + b"Q")
    parts = tar_parts(VECTOR) | {"pickle": b"\x80\x02" + code + b"."}
    if choice.below(3) == 0:
        count = _one(choice, (10, 1000, 3000))
        row = pickled((0, "cpu", glob("torch", "FloatStorage"))).replace(b"K\0", b"M%b", 1)
        rows = b"".join(row.replace(b"%b", struct.pack("<H", i)) + struct.pack("<q", 0) for i in range(8, 8 + count))
        parts["storages"] = pickled(count + 1) + parts["storages"][4:-5] + rows + pickled([])
    return tar_file(tar_members(parts))


def grow_cifar(choice: Choice) -> bytes:
    made = _Pickle(choice, [b"N", b"cnumpy\nndarray\n"])
    code = b"\x80\x02}("
    for name in ("data", "labels", "x")[: 1 + choice.below(3)]:
        code += join(name.encode()).replace(b"B", b"T", 1) + made.value()
    return code + b"u."


# ---- JSON


def grow_json(choice: Choice, depth: int = 0) -> str:
    kind = choice.below(7 if depth < 4 else 3)
    if kind == 0:
        return _one(choice, ("0", "300", "1e5", "null", "1" * 4400, "-1", "1.5e400", "NaN", '"ab"', "[]", "{}"))
    if kind == 1:
        return json.dumps(_text(choice), ensure_ascii=bool(choice.below(2)))
    if kind == 2:
        count = _one(choice, (10, 60, 900, 100_000))
        return "[" * count + "]" * count if choice.below(2) else '{"":' * count + "1" + "}" * count
    piece = grow_json(choice, depth + 1)
    count = _times(choice, len(piece) + 8)
    if kind < 5:
        return "[" + ",".join([piece] * count) + "]"
    key = json.dumps(_text(choice)) if kind == 5 else '"k"'
    if choice.below(2):
        return "{" + key + ":" + piece + "}"
    return "{" + ",".join(f'"{i}":{piece}' for i in range(count)) + "}"


def grow_safetensors(choice: Choice) -> bytes:
    if choice.below(2):
        return safetensors_file(b'{"w":' + grow_json(choice).encode("utf-8", "surrogatepass") + b"}")
    row: dict[str, Any] = {"dtype": _one(choice, ("F32", "BF16", "NEW")), "shape": [1] * choice.below(70)}
    if choice.below(3) == 0:
        row["shape"] = [_one(choice, (0, 1 << 62))] * 64
    name, count = _text(choice)[:2000], _one(choice, (1, 50, 1000, 2500))
    size = 0 if 0 in row["shape"] else 4 if row["dtype"] == "F32" else 2
    header = {f"{name}{i}": {**row, "data_offsets": [i * size, (i + 1) * size]} for i in range(count)}
    if choice.below(3) == 0:
        header["__metadata__"] = {f"{i}": _text(choice) for i in range(choice.below(9))}
    return safetensors_file(header, bytes(size * count))


# ---- npz


def _npy(choice: Choice) -> bytes:
    out = io.BytesIO()
    shape = _one(choice, ((), (3,), (0,), (2, 2), (1 << 40,), (100_000,), (3_000_000,)))
    descr = _one(choice, ("<f8", ">f4", "|b1", "|u1", "<U3", "|O", [("a", "<f4")], "<c16", "<f4,<f4"))
    fortran = bool(choice.below(2))
    np.lib.format.write_array_header_1_0(out, {"descr": descr, "fortran_order": fortran, "shape": shape})
    return out.getvalue() + bytes(_one(choice, (0, 8, 24, 32, 100_000, 24_000_000)))


def grow_npz(choice: Choice) -> bytes:
    """Entries of every method, some of which declare other sizes than they have."""
    out = io.BytesIO()
    methods = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)
    with zipfile.ZipFile(out, "w") as archive:
        for number in range(_one(choice, (1, 2, 5, 500))):
            kind, name = choice.below(4), f"{number}{_text(choice)[:9000]}".encode("utf-8", "replace").decode()
            data = grow_json(choice).encode("utf-8", "replace")[:2_000_000] if kind == 0 else _npy(choice)
            if kind == 0:
                name, head = "__meta__", io.BytesIO()
                size = {"descr": "|u1", "fortran_order": False, "shape": (len(data),)}
                np.lib.format.write_array_header_1_0(head, size)
                data = head.getvalue() + data
            method = zipfile.ZIP_DEFLATED if len(data) > 1 << 20 else _one(choice, methods)
            info = zipfile.ZipInfo((name[:20_000] + ".npy").replace("\0", ""))
            if info.filename not in archive.NameToInfo:
                archive.writestr(info, data, method, 1)
            if len(data) > 1 << 20 and choice.below(2):
                archive.filelist[-1].file_size = _one(choice, (0, 10, 1 << 20))  # what the directory will say
            if out.tell() > _LIMIT:
                break
    return out.getvalue()


# ---- sound files that are no weights


def sound_npz() -> bytes:
    out = io.BytesIO()
    meta = np.frombuffer(b'{"seed": 1}', np.uint8)
    np.savez_compressed(out, **{"a": np.arange(3.0), "grad:a": np.ones(3, ">f4"), "__meta__": meta})
    return out.getvalue()


def sound_cifar() -> bytes:
    array = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\0\x85U\1b\x87R"
    array += b"(K\1K\2K\3\x86cnumpy\ndtype\nU\2u1K\0K\1\x87R"
    array += b"(K\3U\1|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\0tb\x89U\6abcdeftb"
    return b"\x80\x02}q\0(U\4dataq\1" + array + b"U\6labels](K\1K\2eU\5names](U\1aU\1beu."
