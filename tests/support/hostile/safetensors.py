"""Hostile safetensors files, and things that are no weight files at all."""

from __future__ import annotations

import json
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from swinpy.io.costs import json_cost
from swinpy.io.source import ALLOWANCE

from .corpus import VECTOR, Case, legal, refused, sound_safetensors
from .weight_files import (
    safetensors_file,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["OTHERS", "PIECES", "SAFETENSORS"]


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
_MUCH = 9 * ALLOWANCE // 10
_NEST = "[" * 400 + "]" * 400 + ","
PIECES = ['{"":0},', "[0],", "[],", "{},", '{"":[0]},', '"\\u4e00",', "1e5,", "300,", '"ab",', _NEST]
PIECES.append(_NEST + '"\U0001f600",')

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
    refused("safetensors-nesting", lambda: _text('{"w":' + "[" * 40_000 + "]" * 40_000 + "}"), "of JSON"),
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
            partial(_text, '{"w":[' + piece * (_MUCH // (json_cost(piece.encode()) + 32 * piece.count(","))) + "0]}"),
            "data_offsets for",
        )
        for number, piece in enumerate(PIECES)
    ),
    refused("safetensors-grows-keys", lambda: _text(json.dumps({str(i): 0 for i in range(6000)})), "data_offsets for"),
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
