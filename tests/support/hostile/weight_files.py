"""Weight files byte by byte, for tests: a pickle assembler and the four containers, with a knob for every lie.

Nothing here is shared with the reader or the writer of the library. That these bytes are what torch writes is held by
the parity tests, in which torch reads them.
"""

from __future__ import annotations

import json
import struct
import zlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

__all__ = [
    "MAGIC",
    "Member",
    "Raw",
    "Tensor",
    "ZipEntry",
    "call",
    "glob",
    "join",
    "legacy_file",
    "pickled",
    "safetensors_file",
    "storage_id",
    "tar_file",
    "tar_members",
    "tar_parts",
    "torch_zip",
    "zip_bytes",
    "zip_entries",
]

MAGIC = 0x1950A86A20F9469CFC6C
KINDS = {
    "f8": "DoubleStorage",
    "f4": "FloatStorage",
    "f2": "HalfStorage",
    "c16": "ComplexDoubleStorage",
    "c8": "ComplexFloatStorage",
    "i8": "LongStorage",
    "i4": "IntStorage",
    "i2": "ShortStorage",
    "i1": "CharStorage",
    "u1": "ByteStorage",
    "b1": "BoolStorage",
}


# ---- pickles


@dataclass(frozen=True)
class Raw:
    """Opcodes that leave one value on the stack."""

    code: bytes


@dataclass(frozen=True)
class Tensor:
    """A tensor's description; the defaults make a plain float32 vector."""

    key: str = "0"
    numel: Any = 3
    shape: Any = (3,)
    strides: Any = (1,)
    offset: Any = 0
    kind: str = "FloatStorage"
    module: str = "torch"
    device: str = "cpu"
    version: str = "v2"
    dtype: str = ""
    view: Any = None


def join(value: Any, legacy: bool = False) -> bytes:
    """The opcodes that build a value."""
    if isinstance(value, Raw):
        return value.code
    if isinstance(value, Tensor):
        return _tensor(value, legacy)
    if value is None or isinstance(value, bool):
        return {None: b"N", True: b"\x88", False: b"\x89"}[value]
    if isinstance(value, str):
        data = value.encode("utf-8", "surrogatepass")
        return b"X" + struct.pack("<I", len(data)) + data
    if isinstance(value, int):
        return _int(value)
    if isinstance(value, float):
        return b"G" + struct.pack(">d", value)
    if isinstance(value, bytes):
        return b"B" + struct.pack("<I", len(value)) + value
    if isinstance(value, tuple):
        return b"(" + b"".join(join(item, legacy) for item in value) + b"t"
    if isinstance(value, list):
        return b"](" + b"".join(join(item, legacy) for item in value) + b"e"
    if isinstance(value, dict):
        pairs = b"".join(join(key, legacy) + join(item, legacy) for key, item in value.items())
        return b"}(" + pairs + b"u"
    raise TypeError(type(value))


def _int(value: int) -> bytes:
    if 0 <= value < 256:
        return b"K" + bytes([value])
    if -(1 << 31) <= value < 1 << 31:
        return b"J" + struct.pack("<i", value)
    data = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(data)]) + data if len(data) < 256 else b"\x8b" + struct.pack("<i", len(data)) + data


def glob(module: str, name: str) -> Raw:
    return Raw(f"c{module}\n{name}\n".encode())


def call(function: Any, *arguments: Any, legacy: bool = False) -> Raw:
    return Raw(join(function, legacy) + join(arguments, legacy) + b"R")


def storage_id(tensor: Tensor, legacy: bool = False) -> Raw:
    identity = ("storage", glob(tensor.module, tensor.kind), tensor.key, tensor.device, tensor.numel)
    return Raw(join((*identity, tensor.view) if legacy else identity, legacy) + b"Q")


def _tensor(tensor: Tensor, legacy: bool) -> bytes:
    arguments: tuple[Any, ...] = (storage_id(tensor, legacy), tensor.offset, tensor.shape, tensor.strides)
    hooks = call(glob("collections", "OrderedDict"))
    if tensor.version == "v1":
        return call(glob("torch._utils", "_rebuild_tensor"), *arguments).code
    if tensor.version == "v3":
        return call(
            glob("torch._utils", "_rebuild_tensor_v3"), *arguments, False, hooks, glob("torch", tensor.dtype)
        ).code
    made = call(glob("torch._utils", "_rebuild_tensor_v2"), *arguments, False, hooks)
    if tensor.version == "parameter":
        return call(glob("torch._utils", "_rebuild_parameter"), made, True, hooks).code
    return made.code


def pickled(value: Any, legacy: bool = False, protocol: int = 2) -> bytes:
    return b"\x80" + bytes([protocol]) + join(value, legacy) + b"."


# ---- zip


@dataclass
class ZipEntry:
    """One entry, with what its two headers say of it when that is not the truth."""

    name: bytes
    data: bytes
    flags: int = 0x800
    method: int = 0
    packed: int | None = None
    size: int | None = None
    header: int | None = None
    disk: int = 0
    extra: bytes = b""
    local: dict[str, Any] = field(default_factory=dict)
    descriptor: bytes = b""
    written: bool = True


def _local(entry: ZipEntry, at: int) -> bytes:
    name = entry.local.get("name", entry.name)
    padding = -(at + 34 + len(name)) % 64
    extra = entry.local.get("extra", b"FB" + struct.pack("<H", padding) + bytes(padding))
    size = entry.local.get("size", len(entry.data))
    packed = entry.local.get("packed", size)
    flags, method = entry.local.get("flags", entry.flags), entry.local.get("method", entry.method)
    tag = entry.local.get("tag", b"PK\3\4")
    checksum = zlib.crc32(entry.data)
    return (
        struct.pack("<4s5H3I2H", tag, 0, flags, method, 0, 0, checksum, packed, size, len(name), len(extra))
        + name
        + extra
    )


def zip_bytes(
    entries: list[ZipEntry],
    zip64: bool = True,
    prefix: bytes = b"",
    suffix: bytes = b"",
    end: dict[str, int] | None = None,
    end64: dict[str, int] | None = None,
    locator: dict[str, int] | None = None,
    between: bytes = b"",
) -> bytes:
    """A zip file; ``end``, ``end64`` and ``locator`` replace fields of the records at its end."""
    out = bytearray(prefix)
    directory = bytearray()
    for entry in entries:
        at = len(out)
        if entry.written:
            out += _local(entry, at) + entry.data + entry.descriptor
        size = len(entry.data) if entry.size is None else entry.size
        packed = size if entry.packed is None else entry.packed
        header = at if entry.header is None else entry.header
        fields = (entry.flags, entry.method, 0, 0, zlib.crc32(entry.data), packed, size)
        directory += struct.pack("<4s2H", b"PK\1\2", 0, 0) + struct.pack("<4H3I", *fields)
        directory += struct.pack("<5H2I", len(entry.name), len(entry.extra), 0, entry.disk, 0, 0, header)
        directory += entry.name + entry.extra
    start = len(out)
    fields64 = {"here": len(entries), "count": len(entries), "size": len(directory), "start": start} | (end64 or {})
    narrow = {"here": len(entries), "count": len(entries), "size": len(directory), "start": start} | (end or {})
    out += directory + between
    if zip64:
        at = len(out)
        record = [fields64.get("length", 44), 45, 45, fields64.get("disk", 0), 0]
        record += [fields64[name] for name in ("here", "count", "size", "start")]
        out += struct.pack("<4sQ2H2I4Q", b"PK\6\6", *record)
        place = {"position": at, "disks": 1} | (locator or {})
        out += struct.pack("<4sIQI", b"PK\6\7", 0, place["position"], place["disks"])
    tail = [narrow.get("disk", 0), 0, narrow["here"], narrow["count"], narrow["size"], narrow["start"]]
    out += struct.pack("<4s4H2IH", b"PK\5\6", *tail, narrow.get("comment", 0))
    return bytes(out) + suffix


def zip_entries(
    pickle: bytes,
    storages: dict[str, bytes],
    root: str = "archive",
    byteorder: bytes | None = b"little",
    modern: bool = True,
) -> list[ZipEntry]:
    """The entries of a file of torch.save."""
    found = [("data.pkl", pickle)]
    if modern:
        found += [(".format_version", b"1"), (".storage_alignment", b"64")]
    if byteorder is not None:
        found.append(("byteorder", byteorder))
    found += [(f"data/{key}", data) for key, data in storages.items()]
    found.append(("version", b"3\n"))
    if modern:
        found.append((".data/serialization_id", b"0" * 40))
    return [ZipEntry(f"{root}/{name}".encode(), data) for name, data in found]


def torch_zip(tree: Any, storages: dict[str, bytes] | None = None, **options: Any) -> bytes:
    """A file of torch.save around a tree, or around the opcodes of one given as `Raw`."""
    return zip_bytes(zip_entries(pickled(tree), storages or {}, **options))


# ---- the legacy stream


def legacy_file(
    tree: Any,
    storages: dict[str, tuple[int, bytes]],
    magic: Any = MAGIC,
    version: Any = 1001,
    facts: Any = None,
    keys: Any = None,
) -> bytes:
    """Five pickles and the storages, each given as (count, bytes)."""
    if facts is None:
        facts = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}}
    keys = list(storages) if keys is None else keys
    pickles = [pickled(magic), pickled(version), pickled(facts), pickled(tree, legacy=True), pickled(keys)]
    return b"".join(pickles) + b"".join(struct.pack("<q", count) + data for count, data in storages.values())


# ---- tar


@dataclass
class Member:
    """One member of a tar file."""

    name: bytes
    data: bytes
    kind: bytes = b"0"
    link: bytes = b""
    size: bytes | None = None
    checksum: int | None = None
    magic: bytes = b"ustar\x0000"
    prefix: bytes = b""


def tar_file(members: list[Member], end: bytes = bytes(1024)) -> bytes:
    """A tar file of members, in the POSIX form."""
    out = bytearray()
    for member in members:
        size = b"%011o\0" % len(member.data) if member.size is None else member.size
        head = bytearray(512)
        for at, value in (
            (0, member.name),
            (100, b"0000644\0"),
            (124, size),
            (136, b"00000000000\0"),
            (148, b" " * 8),
            (156, member.kind),
            (157, member.link),
            (257, member.magic),
            (345, member.prefix),
        ):
            head[at : at + len(value)] = value
        checksum = sum(head) if member.checksum is None else member.checksum
        head[148:156] = b"%06o\0 " % checksum
        out += bytes(head) + member.data + bytes(-len(member.data) % 512)
    return bytes(out) + end


def tar_parts(
    array: np.ndarray[Any, Any], offset: int = 0, shape: Any = None, strides: Any = None, views: Any = ()
) -> dict[str, bytes]:
    """The members of a file with one storage (id 7) and one tensor (id 5) called "w"."""
    shape = array.shape if shape is None else shape
    strides = tuple(s // array.itemsize for s in array.strides) if strides is None else strides
    kind = glob("torch", KINDS[array.dtype.str[1:]])
    storages = pickled(1) + pickled((7, "cpu", kind)) + struct.pack("<q", array.size) + array.tobytes()
    storages += pickled(list(views))
    tensors = pickled(1) + pickled((5, 7, glob("torch", "FloatTensor"))) + struct.pack("<i4x", len(shape))
    tensors += struct.pack(f"<{len(shape) + len(strides) + 1}q", *shape, *strides, offset)
    tree = {"w": Raw(join("5") + b"Q"), "n": 4}
    return {
        "sys_info": pickled({"protocol_version": 1000}),
        "pickle": pickled(tree),
        "tensors": tensors,
        "storages": storages,
    }


def tar_members(parts: dict[str, bytes]) -> list[Member]:
    return [Member(name.encode(), data) for name, data in parts.items()]


# ---- safetensors


def safetensors_file(header: dict[str, Any] | bytes, data: bytes = b"", length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data
