"""Files that are grown rather than bent: structures that repeat, nest, refer back and choose their keys.

Bent bytes seldom make a file expensive; what makes one expensive is one costly piece, thousands of times. A `Choice`
decides everything, so that a seed or a fuzzer's bytes decide it. Where it is known what is expensive:
`support.hostile.expensive`.
"""

from __future__ import annotations

import io
import json
import zipfile
from typing import TYPE_CHECKING, Any

import numpy as np

from . import weight_files as made
from .choice import LIMIT, Choice, one, text, times
from .corpus import VECTOR
from .grow_pickles import Grower, grow_tree

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["GROWN", "grow_json", "of_legacy", "of_tar", "of_zip"]

_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)


# ---- trees in their containers


def of_zip(code: bytes, more: list[made.ZipEntry] | None = None) -> bytes:
    entries = made.zip_entries(b"\x80\x04" + code + b".", {"0": VECTOR.tobytes()})
    return made.zip_bytes(entries + (more or []))


def of_legacy(code: bytes, keys: Any = None) -> bytes:
    return made.legacy_file(made.Raw(code), {"0": (3, VECTOR.tobytes())}, keys=keys)


def of_tar(code: bytes) -> bytes:
    return made.tar_file(made.tar_members(made.tar_parts(VECTOR) | {"pickle": b"\x80\x02" + code + b"."}))


def _zip(choice: Choice) -> bytes:
    code, more = grow_tree(choice), []
    if choice.below(3) == 0:
        name = b"archive/" + text(choice).encode("utf-8", "surrogatepass")
        count = min(3000, times(choice, len(name) + 60))
        more = [made.ZipEntry((name + b"%d" % i)[-65_000:], b"") for i in range(count)]
    return of_zip(code, more)


def _legacy(choice: Choice) -> bytes:
    code = grow_tree(choice, legacy=True)
    return of_legacy(code, made.Raw(Grower(choice, [b"N"]).value()) if choice.below(4) == 0 else None)


def _tar(choice: Choice) -> bytes:
    return of_tar(grow_tree(choice, tensor=made.join("5") + b"Q"))


def _cifar(choice: Choice) -> bytes:
    grower = Grower(choice, [b"N", b"cnumpy\nndarray\n"])
    code = b"\x80\x02}("
    for name in ("data", "labels", "x")[: 1 + choice.below(3)]:
        code += made.join(name.encode()).replace(b"B", b"T", 1) + grower.value()
    return code + b"u."


# ---- JSON


def grow_json(choice: Choice, depth: int = 0) -> str:
    kind = choice.below(7 if depth < 4 else 3)
    if kind == 0:
        plain: str = one(choice, ("0", "300", "1e5", "null", "1" * 4400, "-1", "1.5e400", "NaN", '"ab"', "[]", "{}"))
        return plain
    if kind == 1:
        return json.dumps(text(choice), ensure_ascii=bool(choice.below(2)))
    if kind == 2:
        count = one(choice, (10, 60, 900, 100_000))
        return "[" * count + "]" * count if choice.below(2) else '{"":' * count + "1" + "}" * count
    piece = grow_json(choice, depth + 1)
    count = times(choice, len(piece) + 8)
    if kind < 5:
        return "[" + ",".join([piece] * count) + "]"
    key = json.dumps(text(choice)) if kind == 5 else '"k"'
    if choice.below(2):
        return "{" + key + ":" + piece + "}"
    return "{" + ",".join(f'"{i}":{piece}' for i in range(count)) + "}"


def _manifest(choice: Choice) -> bytes:
    return grow_json(choice).encode("utf-8", "surrogatepass")


def _safetensors(choice: Choice) -> bytes:
    if choice.below(2):
        return made.safetensors_file(b'{"w":' + grow_json(choice).encode("utf-8", "surrogatepass") + b"}")
    row: dict[str, Any] = {"dtype": one(choice, ("F32", "BF16", "NEW")), "shape": [1] * choice.below(70)}
    if choice.below(3) == 0:
        row["shape"] = [one(choice, (0, 1 << 62))] * 64
    name, count = text(choice)[:2000], one(choice, (1, 50, 1000, 2500))
    size = 0 if 0 in row["shape"] else 4 if row["dtype"] == "F32" else 2
    header = {f"{name}{i}": {**row, "data_offsets": [i * size, (i + 1) * size]} for i in range(count)}
    if choice.below(3) == 0:
        header["__metadata__"] = {f"{i}": text(choice) for i in range(choice.below(9))}
    return made.safetensors_file(header, bytes(size * count))


# ---- npz


def _npy(choice: Choice) -> bytes:
    out = io.BytesIO()
    shape = one(choice, ((), (3,), (0,), (2, 2), (1 << 40,), (100_000,), (3_000_000,)))
    descr = one(choice, ("<f8", ">f4", "|b1", "|u1", "<U3", "|O", [("a", "<f4")], "<c16", "<f4,<f4"))
    fortran = bool(choice.below(2))
    np.lib.format.write_array_header_1_0(out, {"descr": descr, "fortran_order": fortran, "shape": shape})
    return out.getvalue() + bytes(one(choice, (0, 8, 24, 32, 100_000, 24_000_000)))


def _meta(choice: Choice) -> bytes:
    out = io.BytesIO()
    data = grow_json(choice).encode("utf-8", "replace")[:2_000_000]
    np.lib.format.write_array(out, np.frombuffer(data, np.uint8))
    return out.getvalue()


def _npz(choice: Choice) -> bytes:
    """Entries of every method, some of which declare other sizes than they have."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for number in range(one(choice, (1, 2, 5, 500))):
            name = f"{number}{text(choice)[:9000]}".encode("utf-8", "replace").decode().replace("\0", "")
            name, data = ("__meta__", _meta(choice)) if choice.below(4) == 0 else (name, _npy(choice))
            method = zipfile.ZIP_DEFLATED if len(data) > 1 << 20 else one(choice, _METHODS)
            if name + ".npy" not in archive.NameToInfo:
                archive.writestr(zipfile.ZipInfo(name + ".npy"), data, method, 1)
            if len(data) > 1 << 20 and choice.below(2):
                archive.filelist[-1].file_size = one(choice, (0, 10, 1 << 20))  # what the directory will say
            if out.tell() > LIMIT:
                break
    return out.getvalue()


GROWN: dict[str, Callable[[Choice], bytes]] = {
    "zip": _zip,
    "legacy": _legacy,
    "tar": _tar,
    "safetensors": _safetensors,
    "npz": _npz,
    "cifar": _cifar,
    "manifest": _manifest,
}
