"""Hostile legacy streams, tar files and safetensors files, and things that are none of them."""

from __future__ import annotations

import json
import struct
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from .hostile import VECTOR, Case, legal, refused, sound_legacy, sound_safetensors, sound_tar
from .weight_files import (
    Member,
    Raw,
    Tensor,
    glob,
    join,
    legacy_file,
    pickled,
    safetensors_file,
    tar_file,
    tar_members,
    tar_parts,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["LEGACY", "OTHERS", "SAFETENSORS", "TARS"]

_ONE = {"0": (3, VECTOR.tobytes())}


# ---- the legacy stream


def _legacy(storages: dict[str, tuple[int, bytes]] | None = None, **options: Any) -> bytes:
    tensor = options.pop("tensor", {})
    return legacy_file({"w": Tensor(**tensor)}, _ONE if storages is None else storages, **options)


def _cut_legacy() -> Iterator[Case]:
    data = sound_legacy()
    ends = [
        at + 1
        for at in range(len(data) - 70)
        if data[at : at + 1] == b"." and data[at + 1 : at + 2] in (b"\x80", b"\3")
    ]
    points = {
        1,
        2,
        3,
        8,
        15,
        20,
        *ends,
        *(end + 1 for end in ends),
        *range(len(data) - 76, len(data), 4),
        len(data) - 1,
    }
    for cut in sorted(points):
        yield refused(f"legacy-cut-{cut}", data[:cut], "truncated|another value")


def _identity(*parts: Any) -> bytes:
    """A legacy file whose tensor's storage has this persistent id."""
    storage = Raw(join(tuple(parts)) + b"Q")
    tree = {"w": Raw(glob("torch._utils", "_rebuild_tensor").code + join((storage, 0, (3,), (1,))) + b"R")}
    return legacy_file(tree, _ONE)


_FLOATS = glob("torch", "FloatStorage")
_TWELVE = {"0": (12, np.arange(12, dtype=np.float32).tobytes())}
LEGACY = [
    *_cut_legacy(),
    legal("legacy-sound", _legacy, w=VECTOR),
    legal("legacy-cuda", partial(_legacy, tensor={"device": "cuda:3"}), w=VECTOR),
    legal(
        "legacy-big-endian-machine",
        partial(_legacy, facts={"protocol_version": 1001, "little_endian": False}),
        w=VECTOR,
    ),
    legal(
        "legacy-view",
        partial(_legacy, _TWELVE, tensor={"numel": 12, "view": ("v", 4, 3)}),
        w=np.arange(4, 7, dtype=np.float32),
    ),
    legal(
        "legacy-module-class",
        lambda: legacy_file(
            {"w": Tensor(), "net": Raw(join(("module", glob("a", "B"), "a.py", "import os")) + b"Q)\x81")}, _ONE
        ),
        w=VECTOR,
    ),
    refused(
        "legacy-view-beyond", partial(_legacy, _TWELVE, tensor={"numel": 12, "view": ("v", 10, 3)}), "a view within"
    ),
    refused(
        "legacy-view-negative", partial(_legacy, _TWELVE, tensor={"numel": 12, "view": ("v", -1, 3)}), "a view within"
    ),
    refused(
        "legacy-view-short", partial(_legacy, _TWELVE, tensor={"numel": 12, "view": ("v", 4)}), "a view of a storage"
    ),
    refused(
        "legacy-view-tensor-beyond",
        partial(_legacy, _TWELVE, tensor={"numel": 12, "shape": (4,), "view": ("v", 4, 3)}),
        "within its storage",
    ),
    refused("legacy-magic", partial(_legacy, magic=12345), "magic number"),
    refused("legacy-magic-tuple", partial(_legacy, magic=(1,)), "magic number"),
    refused("legacy-plain-pickle", partial(pickled, {"w": [1.0, 2.0]}), "magic number"),
    refused("legacy-attack", b"\x80\x02cos\nsystem\n(X\x0c\0\0\0touch hackedtR.", "magic number"),
    refused("legacy-version", partial(_legacy, version=1000), "protocol version"),
    refused("legacy-version-float", partial(_legacy, version=1001.0), "protocol version"),
    refused("legacy-version-long4", partial(_legacy, version=1 << 2000), "protocol version"),
    refused("legacy-facts-list", partial(_legacy, facts=[1]), "facts about the machine"),
    refused("legacy-facts-other", partial(_legacy, facts={"a": 1}), "facts about the machine"),
    refused("legacy-facts-text", partial(_legacy, facts={"little_endian": "yes"}), "facts about the machine"),
    refused("legacy-keys-missing", partial(_legacy, keys=[]), "the keys of all"),
    refused("legacy-keys-more", partial(_legacy, keys=["0", "1"]), "the keys of all"),
    refused("legacy-keys-twice", partial(_legacy, keys=["0", "0"]), "the keys of all"),
    refused("legacy-keys-numbers", partial(_legacy, keys=[0]), "a list of keys"),
    refused("legacy-keys-text", partial(_legacy, keys="0"), "a list of keys"),
    refused("legacy-keys-cycle", lambda: _legacy(keys=Raw(b"]q\x00h\x00a")), "a list of keys"),
    refused("legacy-count-less", partial(_legacy, {"0": (2, VECTOR.tobytes())}), "3 elements in storage"),
    refused("legacy-count-more", partial(_legacy, {"0": (4, VECTOR.tobytes())}), "3 elements in storage"),
    refused("legacy-count-negative", partial(_legacy, {"0": (-1, VECTOR.tobytes())}), "3 elements in storage"),
    refused(
        "legacy-numel-huge",
        partial(_legacy, {"0": (1 << 60, VECTOR.tobytes())}, tensor={"numel": 1 << 60}),
        "truncated",
    ),
    refused(
        "legacy-numel-overflow",
        partial(_legacy, {"0": (3, VECTOR.tobytes())}, tensor={"numel": 1 << 63}),
        "a key and a number",
    ),
    refused("legacy-appended", lambda: _legacy() + b"\0", "an end after the last storage"),
    refused("legacy-two-files", lambda: _legacy() * 2, "an end after the last storage"),
    refused("legacy-offset", partial(_legacy, tensor={"offset": 1}), "within its storage"),
    refused("legacy-stride", partial(_legacy, tensor={"strides": (-1,)}), "the strides"),
    refused(
        "legacy-two-sizes",
        lambda: legacy_file({"w": Tensor(), "v": Tensor(numel=2, shape=(2,))}, _ONE),
        "described once",
    ),
    refused("legacy-id-five", partial(_identity, "storage", _FLOATS, "0", "cpu", 3), "a persistent id"),
    refused("legacy-id-other", partial(_identity, "tensor", _FLOATS, "0", "cpu", 3, None), "a persistent id"),
    refused(
        "legacy-id-class", partial(_identity, "storage", glob("os", "system"), "0", "cpu", 3, None), "storage classes"
    ),
    refused("legacy-id-key", partial(_identity, "storage", _FLOATS, 0, "cpu", 3, None), "a key and a number"),
    refused(
        "legacy-id-view-text", partial(_identity, "storage", _FLOATS, "0", "cpu", 3, "view"), "a view of a storage"
    ),
    refused(
        "legacy-bool-of-two",
        partial(_legacy, {"0": (3, b"\1\2\0")}, tensor={"kind": "BoolStorage"}),
        "bools of 0 and 1",
    ),
    refused("legacy-bomb", lambda: pickled(0x1950A86A20F9469CFC6C) + b"\x80\x02" + b"]" * 200_000, "need more"),
]


# ---- tar


def _tar(end: bytes = bytes(1024), **parts: Any) -> bytes:
    return tar_file(tar_members(tar_parts(VECTOR) | parts), end)


def _tensor(**options: Any) -> bytes:
    return tar_file(tar_members(tar_parts(VECTOR, **options)))


def _member(**fields: Any) -> bytes:
    """A sound file with another member in front."""
    member = {"name": b"evil", "data": b""} | fields
    return tar_file([Member(**member), *tar_members(tar_parts(VECTOR))])


def _pax(text: bytes) -> bytes:
    return _member(name=b"pax", kind=b"x", data=text)


def _cut_tar() -> Iterator[Case]:
    data = sound_tar()
    for cut in range(512, len(data) - 1024 + 1, 256):
        yield refused(f"tar-cut-{cut}", data[:cut], "truncated")


_HEAD = pickled(1)
_ROW = pickled((5, 7, glob("torch", "FloatTensor")))
TARS = [
    *_cut_tar(),
    legal("tar-sound", _tar, w=VECTOR),
    legal("tar-one-empty-block", partial(_tar, bytes(512)), w=VECTOR),
    legal(
        "tar-transposed",
        lambda: tar_file(tar_members(tar_parts(np.arange(6.0), shape=(2, 3), strides=(1, 2)))),
        w=np.arange(6.0).reshape(3, 2).T,
    ),
    legal("tar-pax-time", partial(_pax, b"30 mtime=1483228800.123456789\n"), w=VECTOR),
    refused("tar-pax-path", partial(_pax, b"17 path=storages\n"), "extended tar header"),
    refused("tar-pax-size", partial(_pax, b"16 size=9999999\n"), "extended tar header"),
    refused("tar-pax-sparse", partial(_pax, b"22 GNU.sparse.major=1\n"), "extended tar header"),
    refused("tar-pax-length", partial(_pax, b"99 mtime=1\n"), "extended tar header"),
    refused("tar-pax-empty", partial(_pax, b""), "extended tar header"),
    refused("tar-pax-zero", partial(_pax, b"0 mtime=1\n"), "extended tar header"),
    refused("tar-pax-huge", partial(_pax, b"30 mtime=1483228800.123456789\n" * 3000), "extended tar header"),
    refused("tar-pax-global", partial(_member, kind=b"g", data=b"11 mtime=1\n"), "regular members"),
    refused("tar-hard-link", partial(_member, kind=b"1", link=b"/etc/passwd"), "regular members"),
    refused("tar-symbolic-link", partial(_member, kind=b"2", link=b"../../etc/passwd"), "regular members"),
    refused(
        "tar-storages-link",
        lambda: tar_file([Member(b"storages", b"", b"2", b"/etc/passwd"), *tar_members(tar_parts(VECTOR))]),
        "regular members",
    ),
    refused("tar-device", partial(_member, kind=b"3"), "regular members"),
    refused("tar-folder", partial(_member, kind=b"5"), "regular members"),
    refused("tar-pipe", partial(_member, kind=b"6"), "regular members"),
    refused("tar-sparse", partial(_member, kind=b"S"), "regular members"),
    refused("tar-long-name", partial(_member, kind=b"L", data=b"x"), "regular members"),
    refused("tar-duplicate", lambda: tar_file(tar_members(tar_parts(VECTOR)) * 2), "occur once"),
    refused("tar-missing", lambda: tar_file(tar_members(tar_parts(VECTOR))[:-1]), "none called 'storages'"),
    refused("tar-prefix", partial(_member, prefix=b"/etc"), "a plain name and size"),
    refused("tar-checksum", partial(_member, checksum=1), "a true checksum"),
    refused(
        "tar-magic",
        lambda: tar_file([*tar_members(tar_parts(VECTOR)), Member(b"x", b"", magic=b"uxxar")]),
        "a true checksum",
    ),
    refused("tar-size-letters", partial(_member, size=b"zzzzzzzzzzz\0"), "a plain name and size"),
    refused("tar-size-negative", partial(_member, size=b"-0000000001\0"), "a plain name and size"),
    refused("tar-size-binary", partial(_member, size=b"\x80" + b"\0" * 10 + b"\1"), "a plain name and size"),
    refused("tar-size-huge", partial(_member, size=b"77777777777\0"), "truncated"),
    refused("tar-name-empty", partial(_member, name=b""), "a plain name and size"),
    refused("tar-name-not-ascii", partial(_member, name=b"\xff"), "a plain name and size"),
    legal("tar-name-escape", partial(_member, name=b"../../evil"), w=VECTOR),
    refused("tar-offset", partial(_tensor, offset=1), "within its storage"),
    refused("tar-offset-negative", partial(_tensor, offset=-1), "within its storage"),
    refused("tar-stride-negative", partial(_tensor, strides=(-1,), offset=2), "the strides"),
    refused("tar-shape-huge", partial(_tensor, shape=(1 << 62,)), "within its storage"),
    refused("tar-expanded", partial(_tensor, shape=(1 << 40,), strides=(0,)), "16 times the file"),
    refused("tar-view-beyond", partial(_tensor, views=[(8, 7, 1, 3)]), "a view within"),
    refused("tar-view-unknown", partial(_tensor, views=[(8, 9, 0, 1)]), "a view within"),
    refused("tar-view-of-itself", partial(_tensor, views=[(7, 7, 0, 1)]), "a view within"),
    refused("tar-view-short", partial(_tensor, views=[(8, 7, 0)]), "a view of storages|a view of a storage"),
    refused("tar-ndim-negative", lambda: _tar(tensors=_HEAD + _ROW + struct.pack("<i4x", -1)), "at most 64 dimensions"),
    refused(
        "tar-ndim-huge", lambda: _tar(tensors=_HEAD + _ROW + struct.pack("<i4x", 1 << 30)), "at most 64 dimensions"
    ),
    refused("tar-tensors-cut", lambda: _tar(tensors=_HEAD + _ROW + struct.pack("<i4x", 2)), "truncated"),
    refused(
        "tar-tensor-twice",
        lambda: _tar(tensors=pickled(2) + (_ROW + struct.pack("<i4x3q", 1, 3, 1, 0)) * 2),
        "an id of its own",
    ),
    refused(
        "tar-tensor-no-storage",
        lambda: _tar(tensors=_HEAD + pickled((5, None, None)) + struct.pack("<i4x3q", 1, 3, 1, 0)),
        "a storage that exists",
    ),
    refused("tar-count-text", lambda: _tar(tensors=pickled("many")), "a number of tensors"),
    refused("tar-count-negative", lambda: _tar(storages=pickled(-1)), "a number of storages"),
    refused("tar-count-huge", lambda: _tar(storages=pickled((1 << 63) - 1)), "truncated"),
    refused(
        "tar-storage-count-huge",
        lambda: _tar(storages=_HEAD + pickled((7, "cpu", _FLOATS)) + struct.pack("<q", 1 << 60)),
        "truncated",
    ),
    refused(
        "tar-storage-count-negative",
        lambda: _tar(storages=_HEAD + pickled((7, "cpu", _FLOATS)) + struct.pack("<q", -1)),
        "a number of elements",
    ),
    refused(
        "tar-storage-class",
        lambda: _tar(storages=_HEAD + pickled((7, "cpu", glob("os", "system"))) + struct.pack("<q", 0)),
        "storage classes",
    ),
    refused("tar-id-text", lambda: _tar(pickle=pickled({"w": Raw(join("x") + b"Q")})), "a persistent id"),
    refused("tar-id-unknown", lambda: _tar(pickle=pickled({"w": Raw(join("99") + b"Q")})), "a persistent id"),
    refused("tar-id-digits", lambda: _tar(pickle=pickled({"w": Raw(join("9" * 10000) + b"Q")})), "a persistent id"),
    refused("tar-pickle-left", lambda: _tar(pickle=tar_parts(VECTOR)["pickle"] + b"x"), "an end after the last value"),
]


# ---- safetensors


def _safe(data: bytes | None = None, **fields: Any) -> bytes:
    """A file of one tensor, described otherwise than it is."""
    row = {"dtype": "F32", "shape": [3], "data_offsets": [0, 12]} | fields
    return safetensors_file({"w": row}, VECTOR.tobytes() if data is None else data)


def _text(text: str | bytes) -> bytes:
    return safetensors_file(text.encode() if isinstance(text, str) else text, VECTOR.tobytes())


def _cut_safetensors() -> Iterator[Case]:
    data = sound_safetensors()
    start = 8 + int.from_bytes(data[:8], "little")
    for cut in sorted(
        {9, 10, start // 2, start - 1, start, start + 1, start + 12, start + 16, len(data) - 8, len(data) - 1}
    ):
        yield refused(f"safetensors-cut-{cut}", data[:cut], "truncated")


_ROW_TEXT = '{"dtype":"F32","shape":[3],"data_offsets":[0,12]}'
_TWO = {"w": {"dtype": "F32", "shape": [3], "data_offsets": [0, 12]}}
SAFETENSORS = [
    *_cut_safetensors(),
    legal("safetensors-sound", _safe, w=VECTOR),
    legal("safetensors-padded", partial(_text, f'{{"w":{_ROW_TEXT}}}      '), w=VECTOR),
    legal("safetensors-scalar", lambda: _safe(b"\0\0\xc0\x3f", shape=[], data_offsets=[0, 4]), w=np.float32(1.5)),
    legal("safetensors-bf16", partial(_safe, b"\xc0\x3f\x00\xc0\x50\x40", dtype="BF16", data_offsets=[0, 6]), w=VECTOR),
    refused("safetensors-header-beyond", partial(safetensors_file, _TWO, b"", 5000), "truncated"),
    refused("safetensors-header-huge", partial(safetensors_file, _TWO, b"", 0xFFFFFFFF), "truncated"),
    refused("safetensors-header-64", partial(safetensors_file, _TWO, b"", (1 << 63) + 1), "a file of torch.save or"),
    refused("safetensors-header-short", partial(safetensors_file, _TWO, b"", 20), "of JSON"),
    refused("safetensors-header-one", partial(safetensors_file, _TWO, VECTOR.tobytes(), 1), "of JSON"),
    refused("safetensors-not-json", partial(_text, '{"w":'), "of JSON"),
    refused("safetensors-not-utf8", partial(_text, b'{"\xff":1}'), "of JSON"),
    refused("safetensors-nan", partial(_text, f'{{"w":{_ROW_TEXT}, "x": NaN}}'), "numbers in the safetensors header"),
    refused(
        "safetensors-digits",
        partial(_text, '{"w":{"dtype":"F32","shape":[' + "9" * 5000 + '],"data_offsets":[0,12]}}'),
        "of JSON",
    ),
    refused("safetensors-nesting", lambda: _text('{"w":' + "[" * 100_000 + "]" * 100_000 + "}"), "of JSON"),
    refused("safetensors-nested-dicts", lambda: _text('{"w":' * 20_000 + "1" + "}" * 20_000), "of JSON"),
    refused("safetensors-duplicate", partial(_text, f'{{"w":{_ROW_TEXT},"w":{_ROW_TEXT}}}'), "occur once"),
    refused(
        "safetensors-duplicate-inside",
        partial(_text, '{"w":{"dtype":"F32","dtype":"F16","shape":[3],"data_offsets":[0,12]}}'),
        "occur once",
    ),
    refused(
        "safetensors-duplicate-escaped", partial(_text, f'{{"w":{_ROW_TEXT},"\\u0077":{_ROW_TEXT}}}'), "occur once"
    ),
    refused("safetensors-row-list", partial(_text, '{"w":[]}'), "dtype, shape and data_offsets"),
    refused("safetensors-row-empty", partial(_text, '{"w":{}}'), "dtype, shape and data_offsets"),
    refused("safetensors-row-more", partial(_safe, code="import os"), "dtype, shape and data_offsets"),
    refused(
        "safetensors-overlap",
        lambda: safetensors_file(
            _TWO | {"v": {"dtype": "F32", "shape": [1], "data_offsets": [8, 12]}}, VECTOR.tobytes()
        ),
        "a gap or an overlap",
    ),
    refused(
        "safetensors-same-bytes",
        lambda: safetensors_file(_TWO | {"v": _TWO["w"]}, VECTOR.tobytes()),
        "a gap or an overlap",
    ),
    refused("safetensors-gap", partial(_safe, bytes(16), data_offsets=[4, 16]), "a gap or an overlap"),
    refused("safetensors-appended", partial(_safe, VECTOR.tobytes() + b"x"), "something appended"),
    refused("safetensors-offsets-reversed", partial(_safe, data_offsets=[12, 0]), "offsets within"),
    refused("safetensors-offsets-beyond", partial(_safe, data_offsets=[0, 16]), "offsets within"),
    refused("safetensors-offsets-huge", partial(_safe, data_offsets=[0, 1 << 63]), "two offsets"),
    refused("safetensors-offsets-negative", partial(_safe, data_offsets=[-12, 0]), "two offsets"),
    refused("safetensors-offsets-float", partial(_safe, data_offsets=[0, 12.0]), "two offsets"),
    refused("safetensors-offsets-three", partial(_safe, data_offsets=[0, 6, 12]), "two offsets"),
    refused("safetensors-offsets-bool", partial(_safe, data_offsets=[False, 12]), "two offsets"),
    refused("safetensors-shape-negative", partial(_safe, shape=[-3]), "a shape of at most"),
    refused("safetensors-shape-text", partial(_safe, shape="3"), "a shape of at most"),
    refused("safetensors-shape-float", partial(_safe, shape=[3.0]), "a shape of at most"),
    refused("safetensors-shape-larger", partial(_safe, shape=[4]), "4 elements of F32"),
    refused("safetensors-shape-overflow", partial(_safe, shape=[1 << 62, 4, 3]), "elements of F32"),
    refused("safetensors-shape-65", partial(_safe, shape=[1] * 64 + [3]), "a shape of at most"),
    refused(
        "safetensors-zero-overflow",
        partial(_safe, b"", shape=[0, 1 << 62, 1 << 62], data_offsets=[0, 0]),
        "can be addressed",
    ),
    refused("safetensors-dtype-number", partial(_safe, dtype=32), "a dtype"),
    refused("safetensors-dtype-unknown", partial(_safe, dtype="F31"), "a tensor of a kind that is not read"),
    refused("safetensors-float8", partial(_safe, dtype="F8_E4M3", shape=[12]), "which NumPy does not have"),
    refused(
        "safetensors-bool-of-two",
        partial(_safe, b"\2", dtype="BOOL", shape=[1], data_offsets=[0, 1]),
        "bools of 0 and 1",
    ),
    refused(
        "safetensors-metadata-number",
        lambda: safetensors_file(_TWO | {"__metadata__": {"a": 1}}, VECTOR.tobytes()),
        "text by name",
    ),
    refused(
        "safetensors-metadata-list",
        lambda: safetensors_file(_TWO | {"__metadata__": []}, VECTOR.tobytes()),
        "text by name",
    ),
    refused("safetensors-metadata-only", lambda: safetensors_file({"__metadata__": {"a": "b"}}), "tensors by name"),
    refused("safetensors-bomb-lists", lambda: _text('{"w":[' + "[]," * 200_000 + "[]]}"), "need more"),
    refused(
        "safetensors-bomb-keys",
        lambda: _text(json.dumps({"__metadata__": {str(i): "" for i in range(100_000)}})),
        "need more",
    ),
    # As much JSON as is let through, of the kinds that grow the most.
    *(
        refused(
            f"safetensors-grows-{number}",
            partial(_text, '{"w":[' + piece * (215_000 // len(piece)) + "0]}"),
            "data_offsets for",
        )
        for number, piece in enumerate(['{"":0},', "[0],", "[],", "{},", '{"":[0]},', '"\\u4e00",', "1e5,", "300,"])
    ),
    refused(
        "safetensors-grows-keys", lambda: _text(json.dumps({str(i): 0 for i in range(15_000)})), "data_offsets for"
    ),
    legal(
        "safetensors-name-escape",
        lambda: safetensors_file({"w\x1b[2J": _TWO["w"]}, VECTOR.tobytes()),
        **{"w\x1b[2J": VECTOR},
    ),
    legal("safetensors-name-surrogate", partial(_text, f'{{"\\ud800":{_ROW_TEXT}}}'), **{"\ud800": VECTOR}),
]


# ---- neither

OTHERS = [
    refused("empty", b"", "an empty file"),
    *(refused(f"first-{count}", b"\x80\x02\x8a\x0a"[:count], "truncated") for count in range(1, 5)),
    refused("zeros", bytes(1000), "a file of torch.save or"),
    refused("html", b"<!DOCTYPE html><html>404</html>", "web page"),
    refused("html-indented", b"\n  <html>", "web page"),
    refused("gzip", b"\x1f\x8b\x08\x00" + bytes(20), "a gzip file"),
    refused("git-lfs", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "git lfs pull"),
    refused("hdf5", b"\x89HDF\r\n\x1a\n" + bytes(100), "an HDF5 file"),
    refused("numpy", b"\x93NUMPY\x01\x00" + bytes(100), "a NumPy file"),
    refused("text", b"hello", "5 bytes that start b'hello'"),
    refused("pickle-protocol-0-alone", b"(dp0\n.", "a file of torch.save or"),
]
