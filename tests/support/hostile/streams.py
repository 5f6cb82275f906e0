"""Hostile legacy streams and tar files."""

from __future__ import annotations

import struct
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from .corpus import VECTOR, Case, legal, refused, sound_legacy, sound_tar
from .pickles import ordered_laughs
from .weight_files import (
    Member,
    Raw,
    Tensor,
    glob,
    join,
    legacy_file,
    pickled,
    tar_file,
    tar_members,
    tar_parts,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["LEGACY", "TARS"]

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
    refused("legacy-laughs", lambda: legacy_file({"w": Tensor(), "x": ordered_laughs()}, _ONE), "need more"),
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
    refused(
        "tar-laughs", lambda: _tar(pickle=pickled({"w": Raw(join("5") + b"Q"), "x": ordered_laughs()})), "need more"
    ),
    refused("tar-id-text", lambda: _tar(pickle=pickled({"w": Raw(join("x") + b"Q")})), "a persistent id"),
    refused("tar-id-unknown", lambda: _tar(pickle=pickled({"w": Raw(join("99") + b"Q")})), "a persistent id"),
    refused("tar-id-digits", lambda: _tar(pickle=pickled({"w": Raw(join("9" * 10000) + b"Q")})), "a persistent id"),
    refused("tar-pickle-left", lambda: _tar(pickle=tar_parts(VECTOR)["pickle"] + b"x"), "an end after the last value"),
]
