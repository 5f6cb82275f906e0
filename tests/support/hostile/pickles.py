"""Hostile pickles, each in an otherwise sound zip file."""

from __future__ import annotations

import struct
from functools import partial
from typing import Any

from .corpus import VECTOR, Case, legal, refused
from .grow_pickles import same_hash
from .weight_files import Raw, Tensor, call, glob, join, torch_zip, zip_bytes, zip_entries

__all__ = ["PICKLES", "ordered_laughs", "zip_of"]

_STORAGES = {"0": VECTOR.tobytes()}
_W = join({"w": Tensor()})


def zip_of(tree: Any, storages: dict[str, bytes] | None = None, **options: Any) -> bytes:
    return torch_zip(tree, _STORAGES if storages is None else storages, **options)


def _raw(code: bytes) -> bytes:
    """A file whose data.pkl is these bytes."""
    return zip_bytes(zip_entries(code, _STORAGES))


def _code(code: bytes) -> bytes:
    return _raw(b"\x80\x02" + code)


def _with(value: Any) -> bytes:
    """A file with a sound tensor and something else beside it."""
    return zip_of({"w": Tensor(), "x": value})


def _attack(module: str, name: str, *arguments: Any) -> Case:
    return legal(f"call-{module}.{name}", partial(_with, call(glob(module, name), *arguments)), w=VECTOR)


def _laughs(make: bytes, levels: int) -> bytes:
    """A value, and again and again a tuple of twice the one before, by the memo."""
    code = make + b"q\x00"
    for level in range(levels):
        code += b"h" + bytes([level]) + b"h" + bytes([level]) + b"\x86q" + bytes([level + 1])
    return b"(" + code + b"t"


def ordered_laughs(pairs: int = 3000, dicts: int = 3000) -> Raw:
    """A list of pairs, and thousands of OrderedDicts made of it by calls."""
    made = b"ccollections\nOrderedDict\nr\x01\0\0\0](" + b"".join(join(f"{i:x}") + b"N\x86" for i in range(pairs))
    return Raw(b"](" + made + b"e\x85r\x02\0\0\0R" + b"j\x01\0\0\0j\x02\0\0\0R" * dicts + b"e")


def _globals(count: int) -> Raw:
    """Names of code, each made of two of a few long texts."""
    texts = b"".join(join("\U0001f600" * 500 + str(i)) + b"r" + struct.pack("<I", i) for i in range(count))
    every = [b"j" + struct.pack("<I", i) for i in range(count)]
    return Raw(b"](" + texts + b"".join(module + name + b"\x93" for module in every for name in every) + b"e")


def _descriptions() -> bytes:
    """Thousands of entries that are one value, of which there is much to tell."""
    one = Raw(join("\U0001f600" * 512) * 2 + b"\x93q\x01")
    return zip_of({"w": Tensor(), "0": one, **{f"{i:x}": Raw(b"h\x01") for i in range(1, 22_000)}})


_ATTACKS = [
    _attack("os", "system", "touch hacked"),
    _attack("posix", "system", "touch hacked"),
    _attack("builtins", "eval", "__import__('os').system('touch hacked')"),
    _attack("builtins", "exec", "raise SystemExit"),
    _attack("builtins", "getattr", "x", "y"),
    _attack("__builtin__", "compile", "1", "x", "eval"),
    _attack("subprocess", "Popen", ("touch", "hacked")),
    _attack("importlib", "import_module", "antigravity"),
    _attack("pickle", "loads", b"cos\nsystem\n(S'touch hacked'\ntR."),
    _attack("socket", "create_connection", ("127.0.0.1", 9)),
    _attack("shutil", "rmtree", "/nowhere"),
    _attack("torch.hub", "load", "x", "y"),
    _attack("torch", "load", "x"),
    _attack("torch.storage", "_load_from_bytes", b"cos\nsystem\n(S'touch hacked'\ntR."),
    _attack("torch._utils", "_unknown_function", 1),
    _attack("numpy.core.multiarray", "_reconstruct", glob("numpy", "ndarray"), (0,), b"b"),
    _attack("collections", "defaultdict", glob("builtins", "list")),
    _attack("argparse", "Namespace"),
    _attack("functools", "partial", glob("os", "system"), "touch hacked"),
    _attack("operator", "attrgetter", "system"),
]
_OPCODE = "an opcode that torch.save writes"
_BAD_CODE = {
    "PERSID": b"P0\n",
    "INST": b"(ios\nsystem\n",
    "OBJ": b"(cos\nsystem\no",
    "EXT1": b"\x82\x01",
    "EXT2": b"\x83\x01\x00",
    "EXT4": b"\x84\x01\x00\x00\x00",
    "NEXT_BUFFER": b"\x97",
    "READONLY_BUFFER": b"\x98",
    "INT": b"I1\n",
    "LONG": b"L1L\n",
    "FLOAT": b"F1.0\n",
    "STRING": b"S'a'\n",
    "UNICODE": b"Va\n",
    "DUP": b"N2",
    "POP": b"N0",
    "POP_MARK": b"(1",
    "GET": b"g0\n",
    "PUT": b"Np0\n",
    "DICT": b"(d",
    "LIST": b"(l",
    "ZERO": b"\x00",
    "FF": b"\xff",
    "SECOND_PROTO": b"\x80\x02",
}
PICKLES = [
    *_ATTACKS,
    *(refused(f"opcode-{name}", partial(_code, code + b"."), _OPCODE) for name, code in _BAD_CODE.items()),
    refused("pickle-empty", partial(_raw, b""), "truncated"),
    refused("pickle-protocol-only", partial(_code, b""), "truncated"),
    refused("pickle-protocol-0", partial(_raw, b"(dp0\n."), "protocol 2 to 5"),
    refused("pickle-protocol-9", partial(_raw, b"\x80\x09N."), "protocol 2 to 5"),
    refused("pickle-no-stop", partial(_code, _W), "truncated"),
    refused("pickle-two", partial(_code, _W + b"." + b"\x80\x02N."), "one pickle in data.pkl"),
    refused("pickle-stack-left", partial(_code, b"N" + _W + b"."), "an empty stack"),
    refused("pickle-mark-left", partial(_code, b"(N."), "an empty stack"),
    refused("pickle-stop-empty", partial(_code, b"."), "a value on the stack"),
    refused("pickle-pop-through-mark", partial(_code, b"N(\x85."), "values on the stack"),
    refused("pickle-tuple-no-mark", partial(_code, b"NNt."), "a MARK"),
    refused("pickle-memo-missing", partial(_code, b"h\x05."), "was stored"),
    refused("pickle-memo-long-missing", partial(_code, b"j\xff\xff\xff\xff."), "was stored"),
    refused("pickle-put-empty", partial(_code, b"q\x00N."), "on the stack"),
    legal("pickle-memo-sparse", partial(_code, _W + b"r\xff\xff\xff\xff."), w=VECTOR),
    refused("pickle-odd-items", partial(_code, b"}(X\x01\x00\x00\x00au."), "a key without a value"),
    refused("pickle-append-to-dict", partial(_code, b"}Na."), "a list to append to"),
    refused("pickle-setitem-on-list", partial(_code, b"]NNs."), "a dict to put items into"),
    refused("pickle-setitem-on-tensor", partial(_code, join(Tensor()) + b"NNs."), "a dict to put items into"),
    refused("pickle-append-to-global", partial(_code, b"cos\nsystem\nNa."), "a list to append to"),
    refused("pickle-build-on-list", partial(_code, b"]}b."), "an object to set a state on"),
    refused("pickle-build-on-tensor", partial(_code, join(Tensor()) + b"}b."), "an object to set a state on"),
    refused("pickle-build-on-global", partial(_code, b"cos\nsystem\n}b."), "an object to set a state on"),
    refused("pickle-reduce-no-tuple", partial(_code, b"cos\nsystem\nNR."), "a tuple of arguments"),
    legal("pickle-reduce-of-text", partial(_with, Raw(b"X\x02\x00\x00\x00os)R")), w=VECTOR),
    legal("pickle-reduce-of-reduce", partial(_with, call(call(glob("os", "getenv"), "x"), "y")), w=VECTOR),
    legal("pickle-newobj", partial(_with, Raw(b"cos\nsystem\n)\x81}b")), w=VECTOR),
    legal("pickle-newobj-ex", partial(_with, Raw(b"cos\nsystem\n)}\x92")), w=VECTOR),
    legal("pickle-stack-global", partial(_with, Raw(b"\x8c\x02os\x8c\x06system\x93)R")), w=VECTOR),
    refused("pickle-stack-global-numbers", partial(_code, b"K\x01K\x02\x93."), "a module and a name as text"),
    refused("pickle-global-unending", partial(_code, b"c" + b"a" * 5000), "a line of at most"),
    refused("pickle-global-not-utf8", partial(_code, b"c\xff\xfe\nx\n."), "text in UTF-8"),
    legal("pickle-sets", partial(_with, Raw(b"\x8f(K\x01K\x01\x90")), w=VECTOR),
    legal("pickle-frozenset", partial(_with, Raw(b"(K\x01K\x02\x91")), w=VECTOR),
    legal("pickle-protocol-4", partial(_raw, b"\x80\x04\x95\x01\x00\x00\x00\x00\x00\x00\x00" + _W + b"."), w=VECTOR),
    refused("pickle-frame-huge", partial(_raw, b"\x80\x04\x95" + b"\xff" * 8 + _W + b"."), "fits in the file"),
    legal("pickle-memoize", partial(_raw, b"\x80\x04" + _W + b"\x94."), w=VECTOR),
    refused("text-beyond", partial(_code, b"X\xff\xff\xff\x7fabc."), "fits in the file"),
    refused("text-beyond-64", partial(_raw, b"\x80\x04\x8d" + b"\xff" * 8 + b"a."), "fits in the file"),
    refused("bytes-beyond-64", partial(_raw, b"\x80\x04\x8e" + b"\xff" * 7 + b"\x7fa."), "fits in the file"),
    refused("string-negative", partial(_code, b"T\xff\xff\xff\xffa."), "fits in the file"),
    refused("long4-negative", partial(_code, b"\x8b\xff\xff\xff\xffa."), "fits in the file"),
    refused(
        "long4-huge", partial(_code, b"\x8b" + struct.pack("<i", 1 << 20) + bytes(1 << 20) + b"."), "an integer of at"
    ),
    legal("long-of-250-bytes", partial(_with, Raw(b"\x8a\xfa" + b"\x7f" * 250)), w=VECTOR),
    refused("text-not-utf8", partial(_code, b"X\x02\x00\x00\x00\xc3\x28."), "text in UTF-8"),
    refused("text-overlong", partial(_code, b"X\x02\x00\x00\x00\xc0\x80."), "text in UTF-8"),
    legal("text-surrogate", partial(_with, Raw(b"X\x03\x00\x00\x00\xed\xa0\x80")), w=VECTOR),
    legal("text-python-2", partial(_with, Raw(b"U\x02\xff\x00")), w=VECTOR),
    legal(
        "keys-of-every-kind",
        partial(zip_of, {"w": Tensor(), 3: 1, (1, "a"): 2, None: 3, 1.5: 4, True: 5, b"k": 6}),
        w=VECTOR,
    ),
    refused("key-list", partial(_code, b"}]Ns."), "keys that are text"),
    refused("key-dict", partial(_code, b"}}Ns."), "keys that are text"),
    refused("key-nested-tuple", partial(_code, b"}" + _laughs(b")", 60) + b"Ns."), "keys that are text"),
    refused("key-record", partial(_code, b"}cos\nsystem\n)RNs."), "keys that are text"),
    refused(
        "keys-colliding-tuples",
        lambda: zip_of({"w": Tensor(), **dict.fromkeys(same_hash(4000), 0)}),
        "can be found in little time",
    ),
    refused(
        "keys-colliding-integers",
        lambda: zip_of({"w": Tensor(), **{i << 40: 0 for i in range(13_000)}}),
        "can be found in little time",
    ),
    refused(
        "keys-colliding-floats",
        lambda: zip_of({"w": Tensor(), **{i * 2.0**40: 0 for i in range(13_000)}}),
        "can be found in little time",
    ),
    legal("keys-integers", lambda: zip_of({"w": Tensor(), **dict.fromkeys(range(5000), 0)}), w=VECTOR),
    refused("key-huge-integer", partial(zip_of, {"w": Tensor(), 1 << 80: 1}), "keys that are text"),
    refused("laughs-ordered-dicts", lambda: _with(ordered_laughs()), "need more"),
    refused("laughs-globals", lambda: _with(_globals(80)), "need more"),
    refused("laughs-descriptions", _descriptions, "need more"),
    refused(
        "laughs-prefix",
        lambda: zip_of({"k" * 200_000: {"w": Tensor(), **{f"{i:x}": None for i in range(9000)}}}),
        "names of at most 1024 characters",
    ),
    refused("name-long", lambda: zip_of({"w" * 1025: Tensor()}), "names of at most 1024 characters"),
    refused("name-long-beside", lambda: zip_of({"w": Tensor(), "x" * 1025: 0}), "names of at most 1024 characters"),
    legal("name-of-1024", lambda: zip_of({"w" * 1024: Tensor()}), **{"w" * 1024: VECTOR}),
    legal("laughs-tuples", lambda: _with(Raw(_laughs(b"K\x01", 200))), w=VECTOR),
    legal("laughs-text", lambda: _with(Raw(_laughs(b"X\xe8\x03\x00\x00" + b"a" * 1000, 200))), w=VECTOR),
    legal("cycle-list", partial(_with, Raw(b"]q\x00h\x00a")), w=VECTOR),
    legal(
        "cycle-dict",
        partial(_code, b"}q\x00(X\x01\x00\x00\x00w" + join(Tensor()) + b"X\x04\x00\x00\x00selfh\x00u."),
        w=VECTOR,
    ),
    legal(
        "cycle-model",
        partial(_code, b"}q\x00(X\x01\x00\x00\x00w" + join(Tensor()) + b"X\x05\x00\x00\x00modelh\x00u."),
        w=VECTOR,
    ),
    legal("cycle-object", partial(_with, Raw(b"cos\nsystem\n)Rq\x00h\x00b")), w=VECTOR),
    legal("nesting-lists", lambda: _with(Raw(b"]" * 5000 + b"a" * 4999)), w=VECTOR),
    legal("nesting-tuples", lambda: _with(Raw(b")" + b"\x85" * 20000)), w=VECTOR),
    legal("nesting-objects", lambda: _with(Raw(b"ca\nb\n" * 2000 + b")" + b"R\x85" * 2000)), w=VECTOR),
    refused("bomb-lists", lambda: _code(b"]" * 200_000 + b"."), "need more"),
    refused("bomb-dicts", lambda: _code(b"}" * 100_000 + b"."), "need more"),
    refused("bomb-sets", lambda: _raw(b"\x80\x04" + b"\x8f" * 100_000 + b"."), "need more"),
    refused("bomb-tuples", lambda: _code(b"N" + b"\x85" * 200_000 + b"."), "need more"),
    refused("bomb-marks", lambda: _code(b"(" * 200_000 + b"."), "need more"),
    refused("bomb-none", lambda: _code(b"N" * 500_000 + b"."), "need more"),
    refused("bomb-floats", lambda: _code(b"G\x3f\xf0\0\0\0\0\0\1" * 150_000 + b"."), "need more"),
    refused("bomb-integers", lambda: _code(b"M\xff\xff" * 150_000 + b"."), "need more"),
    refused("bomb-memo", lambda: _raw(b"\x80\x04N" + b"\x94" * 100_000 + b"."), "need more"),
    refused(
        "bomb-memo-put",
        lambda: _code(b"N" + b"".join(b"r" + struct.pack("<I", i << 8) for i in range(80_000))),
        "need more",
    ),
    refused("bomb-get", lambda: _code(b"Nq\x00" + b"h\x00" * 450_000 + b"."), "need more"),
    refused("bomb-calls", lambda: _code(b"cos\nsystem\nq\x00" + b"h\x00)R" * 100_000 + b"."), "need more"),
    refused("bomb-globals", lambda: _code(b"ca\nb\n" * 100_000 + b"."), "need more"),
    refused("bomb-items", lambda: _code(b"}(" + b"NN" * 60_000 + b"u."), "need more"),
    refused(
        "bomb-keys",
        lambda: _code(b"}(" + b"".join(b"J" + struct.pack("<i", i << 9) + b"N" for i in range(80_000)) + b"u."),
        "need more",
    ),
    refused("bomb-opcodes", lambda: _code(b"}" + b"]b" * 1_050_000 + b"."), "need more|2000000 opcodes"),
    refused("bomb-appends", lambda: _code(b"](" + b"N" * 250_000 + b"e."), "need more"),
    refused(
        "bomb-text",
        lambda: _code(b"X" + struct.pack("<I", 6 << 20) + b"a" * ((6 << 20) - 4) + "\U0001f600".encode() + b"."),
        "need more",
    ),
    refused("bomb-short-texts", lambda: _code(b"X\1\0\0\0a" * 150_000 + b"."), "need more"),
]
