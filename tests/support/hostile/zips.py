"""Hostile zip containers around a sound checkpoint."""

from __future__ import annotations

import struct
import zlib
from functools import partial
from typing import TYPE_CHECKING, Any

from .corpus import VECTOR, Case, legal, refused, sound_zip
from .weight_files import Tensor, ZipEntry, pickled, zip_bytes, zip_entries

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["ZIPS"]

_PICKLE = pickled({"w": Tensor()})
_DATA = 4  # index of data/0 among the entries


def _entries() -> list[ZipEntry]:
    return zip_entries(_PICKLE, {"0": VECTOR.tobytes()})


def _plain(**options: Any) -> bytes:
    return zip_bytes(_entries(), **options)


def _bent(index: int, **fields: Any) -> bytes:
    """One entry described otherwise than it is."""
    entries = _entries()
    for name, value in fields.items():
        setattr(entries[index], name, value)
    return zip_bytes(entries)


def _more(*entries: ZipEntry) -> bytes:
    return zip_bytes([*_entries(), *entries])


def _named(name: bytes) -> bytes:
    return _more(ZipEntry(name, b"x"))


def _deflated(data: bytes) -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    return packer.compress(data) + packer.flush()


def _zip64(size: int | None, packed: int | None, header: int | None) -> bytes:
    values = [value for value in (size, packed, header) if value is not None]
    return struct.pack(f"<2H{len(values)}Q", 1, 8 * len(values), *values)


_FULL = 0xFFFFFFFF
_HUGE = (1 << 63) + 5


def _wide(extra: Callable[[int], bytes], **fields: Any) -> bytes:
    """data/0 with its numbers in a zip64 field, made from its true header position."""
    entries = _entries()
    place = sound_header(entries, _DATA)
    entries[_DATA].extra = extra(place)
    for name, value in fields.items():
        setattr(entries[_DATA], name, value)
    return zip_bytes(entries)


def sound_header(entries: list[ZipEntry], index: int) -> int:
    """Where an entry's header lies."""
    return zip_bytes(entries).index(entries[index].name) - 30


def _overlap() -> bytes:
    """Two names for the same bytes."""
    entries = _entries()
    entries.append(ZipEntry(b"archive/data/1", VECTOR.tobytes(), header=sound_header(entries, _DATA), written=False))
    return zip_bytes(entries)


def _overlap_quilt() -> bytes:
    """An entry whose data run over the next entry's header: the way of zip bombs without recursion."""
    entries = _entries()
    return zip_bytes(
        [*entries[:_DATA], ZipEntry(b"archive/data/0", VECTOR.tobytes(), size=500, local={"size": 500}), *entries[5:]]
    )


def _truncated() -> Iterator[Case]:
    """Cut before, within and after each structure."""
    data = sound_zip()
    marks = {b"PK\3\4": "local", b"PK\1\2": "central", b"PK\6\6": "end64", b"PK\6\7": "locator", b"PK\5\6": "end"}
    for tag, what in marks.items():
        at, count = data.find(tag), 0
        while at >= 0:
            for cut in (at, at + 2, at + 4, at + 21):
                if 2 <= cut < len(data):
                    yield refused(f"cut-{what}-{count}-at-{cut}", data[:cut], r"truncated|in the last 22 bytes")
            at, count = data.find(tag, at + 4), count + 1
    for start in (b"PK", b"PK\3", b"PK\3\4", b"PK\5\6", b"PK\5\6" + bytes(18), b"PK" * 200):
        yield refused(f"only-{start[:6].hex()}-{len(start)}", start, "truncated|in the last 22|one FOLDER")


_END = "in the last 22 bytes"
_DIRECTORY = "a zip directory that ends at|entries in the zip directory|the two ends|of one volume"
ZIPS = [
    *_truncated(),
    legal("zip-sound", _plain, w=VECTOR),
    legal("zip-without-zip64", partial(_plain, zip64=False), w=VECTOR),
    legal(
        "zip-end-all-ones",
        partial(_plain, end={"here": 0xFFFF, "count": 0xFFFF, "size": _FULL, "start": _FULL}),
        w=VECTOR,
    ),
    legal("zip-other-root", lambda: zip_bytes(zip_entries(_PICKLE, {"0": VECTOR.tobytes()}, root="swin T")), w=VECTOR),
    legal(
        "zip-descriptor",
        partial(_bent, _DATA, flags=0x808, local={"size": 0}, descriptor=b"PK\7\x08" + bytes(12)),
        w=VECTOR,
    ),
    legal("zip-folder-entry", partial(_more, ZipEntry(b"archive/empty/", b"")), w=VECTOR),
    legal("zip-unused-entry", partial(_more, ZipEntry(b"archive/data/77", b"unused")), w=VECTOR),
    legal("zip64-all", lambda: _wide(lambda at: _zip64(12, 12, at), size=_FULL, packed=_FULL, header=_FULL), w=VECTOR),
    legal("zip64-sizes", lambda: _wide(lambda at: _zip64(12, 12, None), size=_FULL, packed=_FULL), w=VECTOR),
    legal("zip64-unneeded", lambda: _wide(lambda at: _zip64(12, 12, None)), w=VECTOR),
    refused("zip64-missing", lambda: _wide(lambda at: b"", size=_FULL, packed=_FULL), "one zip64 field"),
    refused(
        "zip64-short", lambda: _wide(lambda at: _zip64(12, None, None), size=_FULL, packed=_FULL), "one zip64 field"
    ),
    refused("zip64-long", lambda: _wide(lambda at: _zip64(12, 12, at), size=_FULL, packed=_FULL), "one zip64 field"),
    refused(
        "zip64-twice", lambda: _wide(lambda at: _zip64(12, 12, None) * 2, size=_FULL, packed=_FULL), "one zip64 field"
    ),
    refused(
        "zip64-cut", lambda: _wide(lambda at: _zip64(12, 12, None)[:-1], size=_FULL, packed=_FULL), "whole extra fields"
    ),
    refused(
        "zip64-size-huge",
        lambda: _wide(lambda at: _zip64(_HUGE, _HUGE, None), size=_FULL, packed=_FULL),
        "overlap|differs",
    ),
    refused(
        "zip64-header-huge",
        lambda: _wide(lambda at: _zip64(None, None, _HUGE), header=_FULL),
        "truncated, or a wrong offset",
    ),
    refused(
        "zip64-packed-differs",
        lambda: _wide(lambda at: _zip64(12, 11, None), size=_FULL, packed=_FULL),
        "without compression",
    ),
    refused("zip-comment", partial(_plain, end={"comment": 3}, suffix=b"abc"), _END),
    refused("zip-comment-declared", partial(_plain, end={"comment": 3}), _END),
    refused(
        "zip-comment-hides-end",
        lambda: _plain(end={"comment": len(_plain())}, suffix=_plain()),
        "in the last|ends at|zip64 end|start of the zip",
    ),
    refused("zip-appended", partial(_plain, suffix=b"x"), _END),
    refused("zip-appended-zeros", partial(_plain, suffix=bytes(100)), _END),
    refused("zip-two-in-one", lambda: _plain() + _plain(), _DIRECTORY + "|zip64 end"),
    refused("zip-prefix-shifted", lambda: b"PK\3\4" + _plain(), "zip64 end|ends at"),
    refused("zip-prefix-hidden", partial(_plain, prefix=b"PK\3\4#!/bin/sh\n"), "start of the zip file"),
    refused("zip-between", partial(_plain, between=b"hidden"), _DIRECTORY),
    refused(
        "zip-count-more",
        partial(_plain, zip64=False, end={"here": 9, "count": 9}),
        "entries in the zip directory|ends at",
    ),
    refused(
        "zip-count-less", partial(_plain, zip64=False, end={"here": 6, "count": 6}), "entries in the zip directory"
    ),
    refused(
        "zip-count-zero", partial(_plain, zip64=False, end={"here": 0, "count": 0}), "entries in the zip directory"
    ),
    refused(
        "zip-count-huge",
        partial(_plain, end64={"here": 1 << 62, "count": 1 << 62}, end={"here": 0xFFFF, "count": 0xFFFF}),
        "ends at",
    ),
    refused("zip-count-here", partial(_plain, zip64=False, end={"here": 6}), "of one volume"),
    refused("zip-disk", partial(_plain, zip64=False, end={"disk": 1}), "of one volume"),
    refused("zip-disk64", partial(_plain, end64={"disk": 1}), "a zip64 end"),
    refused("zip-disks", partial(_plain, locator={"disks": 2}), "zip64 end"),
    refused("zip-locator-elsewhere", partial(_plain, locator={"position": 0}), "zip64 end"),
    refused("zip-locator-huge", partial(_plain, locator={"position": (1 << 64) - 1}), "zip64 end"),
    refused("zip-end64-length", partial(_plain, end64={"length": 1 << 40}), "a zip64 end"),
    refused("zip-ends-disagree", partial(_plain, end64={"size": 1}), "the two ends"),
    refused("zip-ends-disagree-start", partial(_plain, end={"start": 7}), "the two ends"),
    refused("zip-directory-outside", partial(_plain, zip64=False, end={"start": 1 << 31}), "ends at"),
    refused("zip-directory-huge", partial(_plain, zip64=False, end={"size": _FULL - 1}), "ends at"),
    refused("zip-directory-empty", partial(_plain, zip64=False, end={"size": 0}), "ends at"),
    refused("zip-no-entries", partial(zip_bytes, []), "in the last 22 bytes|one FOLDER|a file of torch.save"),
    refused("zip-duplicate", partial(_more, ZipEntry(b"archive/data/0", b"x" * 12)), "occur once"),
    refused("zip-duplicate-pickle", partial(_more, ZipEntry(b"archive/data.pkl", _PICKLE)), "occur once"),
    refused("zip-overlap-same", _overlap, "overlap|differs"),
    refused("zip-overlap-quilt", _overlap_quilt, "overlap"),
    refused("zip-entry-into-directory", partial(_bent, -1, size=4000, local={"size": 4000}), "overlap"),
    refused("zip-header-elsewhere", partial(_bent, _DATA, header=5), "the header of entry"),
    refused("zip-header-beyond", partial(_bent, _DATA, header=1 << 30), "truncated, or a wrong offset"),
    refused(
        "zip-deflated",
        lambda: _bent(_DATA, data=_deflated(VECTOR.tobytes()), method=8, size=12, packed=14),
        "without compression",
    ),
    refused(
        "zip-bomb",
        lambda: _bent(_DATA, data=_deflated(bytes(10_000_000)), method=8, size=10_000_000),
        "without compression",
    ),
    refused(
        "zip-bomb-pickle",
        lambda: _bent(0, data=_deflated(_PICKLE + bytes(10_000_000)), method=8, size=10_000_000),
        "without compression",
    ),
    refused("zip-bzip2", partial(_bent, _DATA, method=12), "without compression"),
    refused("zip-method-99", partial(_bent, _DATA, method=99), "without compression"),
    refused("zip-local-method", partial(_bent, _DATA, local={"method": 8}), "the header of entry"),
    refused("zip-packed-smaller", partial(_bent, _DATA, packed=5), "without compression"),
    refused("zip-encrypted", partial(_bent, _DATA, flags=0x801), "unencrypted"),
    refused("zip-encrypted-locally", partial(_bent, _DATA, local={"flags": 1}), "the header of entry"),
    refused("zip-strong-encryption", partial(_bent, _DATA, flags=0x841), "unencrypted"),
    refused("zip-masked", partial(_bent, _DATA, flags=0x2800), "unencrypted"),
    refused("zip-patched", partial(_bent, _DATA, flags=0x20), "unencrypted"),
    refused("zip-entry-disk", partial(_bent, _DATA, disk=1), "of one volume"),
    refused("zip-local-tag", partial(_bent, _DATA, local={"tag": b"PK\3\5"}), "the header of entry"),
    refused("zip-local-name", partial(_bent, _DATA, local={"name": b"archive/data/1"}), "the header of entry"),
    refused("zip-local-name-longer", partial(_bent, _DATA, local={"name": b"archive/data/00"}), "the header of entry"),
    refused("zip-local-size", partial(_bent, _DATA, local={"size": 13}), "the header of entry"),
    refused("zip-local-size-zero", partial(_bent, _DATA, local={"size": 0}), "the header of entry"),
    refused("zip-size-larger", partial(_bent, _DATA, data=bytes(16)), "3 elements of float32"),
    refused("zip-size-smaller", partial(_bent, _DATA, data=bytes(8)), "3 elements of float32"),
    refused("zip-size-zero", partial(_bent, _DATA, data=b""), "3 elements of float32"),
    *(
        refused(f"zip-name-{number}", partial(_named, name), "plain relative paths|in UTF-8")
        for number, name in enumerate(
            [
                b"../evil",
                b"archive/../../evil",
                b"/etc/passwd",
                b"C:/evil",
                b"archive\\evil",
                b"archive/a\0b",
                b"",
                b"archive//x",
                b"./x",
                b"archive/.",
                b"\xff\xfe",
                b"archive/..",
            ]
        )
    ),
    refused("zip-no-pickle", lambda: zip_bytes(_entries()[1:]), "one FOLDER/data.pkl"),
    refused("zip-name-long", partial(_named, b"archive/" + b"x" * 1017), "names of zip entries of at most 1024 bytes"),
    legal("zip-name-of-1024", partial(_more, ZipEntry(b"archive/" + b"x" * 1016, b"")), w=VECTOR),
    refused("zip-two-roots", partial(_more, ZipEntry(b"other/data.pkl", _PICKLE)), "one FOLDER/data.pkl"),
    refused("zip-pickle-at-top", lambda: zip_bytes([ZipEntry(b"data.pkl", _PICKLE)]), "one FOLDER/data.pkl"),
    refused("zip-torchscript", partial(_more, ZipEntry(b"archive/constants.pkl", b"")), "TorchScript"),
    refused("zip-torchscript-code", partial(_more, ZipEntry(b"archive/code/model.py", b"")), "TorchScript"),
    legal(
        "zip-many-entries", lambda: _more(*(ZipEntry(f"archive/x/{i}".encode(), b"") for i in range(3000))), w=VECTOR
    ),
]
