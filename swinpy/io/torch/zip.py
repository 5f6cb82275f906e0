"""The directory of a zip file in which entries are stored as they are, read strictly.

Two readers that find different entries in one file are how archives lie. So there is one way to read a file here:
the directory ends where the file ends, the entries lie before it without overlapping, each entry's own header agrees
with the directory, and nothing is compressed, encrypted, spread over volumes or named twice.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

from swinpy.io.costs import NAME_LIMIT, text_cost
from swinpy.io.errors import Fault, shown

if TYPE_CHECKING:
    from swinpy.io.source import Budget, Source

__all__ = ["ZipEntry", "kind_of_zip", "read_directory"]

_END = struct.Struct("<4s4H2IH")
_LOCATOR = struct.Struct("<4sIQI")
_END64 = struct.Struct("<4sQ2H2I4Q")
_CENTRAL = struct.Struct("<4s6H3I5H2I")
_LOCAL = struct.Struct("<4s5H3I2H")
_EXTRA = struct.Struct("<2H")
_FULL16, _FULL32 = 0xFFFF, 0xFFFFFFFF  # "see the zip64 field"
_ENCRYPTED, _DESCRIPTOR, _UNUSUAL = 1, 8, 0x2060  # the last: patched data, strong encryption, a masked directory
_ENTRY_COST = 700  # records, numbers and places in lists and dicts


@dataclass(frozen=True, slots=True)
class ZipEntry:
    """One stored entry.

    Attributes:
        position: of its first byte in the file.
        size: in bytes.
    """

    position: int
    size: int


@dataclass(frozen=True, slots=True)
class _Listed:
    """An entry as the directory has it."""

    name: bytes
    size: int
    flags: int
    header: int


def read_directory(source: Source, budget: Budget) -> dict[str, ZipEntry]:
    """The entries of a zip file by name, in the order of the directory.

    Args:
        source: the file.
        budget: what it may take.

    Raises:
        Fault: the file is no zip file, or one that is damaged, ambiguous or not made of stored entries alone.
    """
    start, stop, count = _find_directory(source)
    budget.take(stop - start + _ENTRY_COST * count)
    listed = _read_listed(source.read(start, stop - start), count, start)
    budget.take(sum(len(one.name) + text_cost(one.name) for one in listed))
    entries: dict[str, ZipEntry] = {}
    for one in listed:
        name = _check_name(one.name)
        if name in entries:
            raise Fault("names that occur once in the zip directory", f"{shown(name)} twice")
        entries[name] = ZipEntry(_check_local(source, one), one.size)
    _check_order(listed, entries, start)
    return entries


def _find_directory(source: Source) -> tuple[int, int, int]:
    """Start, end and number of entries of the central directory."""
    at = source.size - _END.size
    advice = "The end is missing: copy or download the file again."
    if at < 0:
        raise Fault("a zip file with a directory", f"{source.size} bytes (truncated)", advice)
    tag, disk, first_disk, here, count, size, start, comment = _END.unpack(source.read(at, _END.size))
    if tag != b"PK\x05\x06" or comment:
        raise Fault(f"the end of the zip directory in the last {_END.size} bytes", "other bytes (truncated)", advice)
    stop = at
    locator = source.read(at - _LOCATOR.size, _LOCATOR.size) if at >= _LOCATOR.size else b""
    if locator[:4] == b"PK\x06\x07":
        stop = at - _LOCATOR.size - _END64.size
        large = _read_end64(source, locator, stop)
        narrow, full = (here, count, size, start), (_FULL16, _FULL16, _FULL32, _FULL32)
        for small, wide, everything in zip(narrow, large, full, strict=True):
            if small not in (wide, everything):
                raise Fault("the two ends of the zip directory to agree", f"{small} and {wide}")
        here, count, size, start = large
    if disk or first_disk or here != count:
        raise Fault("a zip file of one volume", f"volume {disk} of more, {here} of {count} entries")
    if start + size != stop or count * _CENTRAL.size > size:
        got = f"{size} bytes at byte {start} for {count} entries"
        raise Fault(f"a zip directory that ends at byte {stop}", got)
    return start, stop, count


def _read_end64(source: Source, locator: bytes, stop: int) -> tuple[int, int, int, int]:
    _, disk, position, disks = _LOCATOR.unpack(locator)
    if stop < 0 or position != stop or disk or disks > 1:
        raise Fault(f"the zip64 end of the directory at byte {stop}", f"byte {position}, volume {disk} of {disks}")
    tag, length, _, _, disk, first_disk, here, count, size, start = _END64.unpack(source.read(stop, _END64.size))
    if tag != b"PK\x06\x06" or length != _END64.size - 12 or disk or first_disk:
        raise Fault(f"a zip64 end of the directory at byte {stop}", "other bytes")
    return here, count, size, start


def _read_listed(data: bytes, count: int, start: int) -> list[_Listed]:
    listed: list[_Listed] = []
    at = 0
    for _ in range(count):
        if at + _CENTRAL.size > len(data):
            raise Fault(f"{count} entries in the zip directory", f"an end after {len(listed)}")
        fields = _CENTRAL.unpack_from(data, at)
        (tag, _, _, flags, method, _, _, _, packed, size) = fields[:10]
        (name_length, extra_length, comment_length, disk, _, _, header) = fields[10:]
        if name_length > NAME_LIMIT:
            raise Fault(f"names of zip entries of at most {NAME_LIMIT} bytes", f"one of {name_length}")
        name_at = at + _CENTRAL.size
        name = data[name_at : name_at + name_length]
        extra = data[name_at + name_length : name_at + name_length + extra_length]
        at = name_at + name_length + extra_length + comment_length
        if tag != b"PK\x01\x02" or at > len(data):
            raise Fault(f"entry {len(listed)} of the zip directory at byte {start}", "other bytes, or an end within it")
        if _FULL32 in (packed, size, header) or disk == _FULL16:
            size, packed, header, disk = _widen(extra, size, packed, header, disk)
        _check_plain(name, flags, method, packed, size, disk)
        listed.append(_Listed(name, size, flags, header))
    if at != len(data):
        raise Fault(f"{count} entries in the zip directory", f"{len(data) - at} bytes after them")
    return listed


def _widen(extra: bytes, size: int, packed: int, header: int, disk: int) -> tuple[int, int, int, int]:
    """The values that stand in the zip64 field, in its fixed order, where the directory says "see there"."""
    values, at, wide = [size, packed, header], 0, None
    while at + _EXTRA.size <= len(extra):
        kind, length = _EXTRA.unpack_from(extra, at)
        at += _EXTRA.size
        if kind == 1:
            wide = extra[at : at + length] if wide is None else b""
        at += length
    if at != len(extra):
        raise Fault("whole extra fields in the zip directory", "a piece of one")
    needed = sum(value == _FULL32 for value in values)
    if wide is None or len(wide) != 8 * needed + 4 * (disk == _FULL16):
        raise Fault("one zip64 field with what the zip directory leaves out", "none, or one of another size")
    numbers = iter(struct.unpack_from(f"<{needed}Q", wide))
    size, packed, header = (next(numbers) if value == _FULL32 else value for value in values)
    return size, packed, header, int.from_bytes(wide[8 * needed :], "little")


def _check_plain(name: bytes, flags: int, method: int, packed: int, size: int, disk: int) -> None:
    if flags & (_ENCRYPTED | _UNUSUAL):
        raise Fault(f"entry {shown(name)} unencrypted", f"flags {flags:#06x}", "Decrypt the archive first.")
    if method or packed != size:
        known = kind_of_zip(name)
        if known is not None:
            raise known
        got = f"method {method}, {packed} bytes for {size}"
        raise Fault(f"entry {shown(name)} stored without compression", got, "Pack it again with `zip -0`.")
    if disk:
        raise Fault("a zip file of one volume", f"entry {shown(name)} on volume {disk}")


def kind_of_zip(name: bytes) -> Fault | None:
    """The fault of a zip file that is of another known kind, told by the name of an entry; None if it is not."""
    if name.endswith(b".npy"):
        return Fault(
            "a file of torch.save", "an npz file of NumPy", "Pass dict(numpy.load(FILE)) in place of the file."
        )
    inner = name.partition(b"/")[2]
    if inner == b"constants.pkl" or inner.startswith(b"code/") or name.endswith(b".debug_pkl"):
        return Fault(
            "a checkpoint",
            "a TorchScript program (torch.jit.save)",
            "Load it where it was made and torch.save its state_dict().",
        )
    return None


def _check_name(raw: bytes) -> str:
    try:
        name = raw.decode("utf-8")
    except UnicodeDecodeError:
        raise Fault("names of zip entries in UTF-8", shown(raw)) from None
    parts = name.removesuffix("/").split("/")
    if "\0" in name or "\\" in name or ":" in parts[0] or any(part in ("", ".", "..") for part in parts):
        raise Fault("names of zip entries that are plain relative paths", shown(name))
    return name


def _check_local(source: Source, one: _Listed) -> int:
    """The position of an entry's bytes, from its own header, once that is found to agree with the directory."""
    head = source.read(one.header, _LOCAL.size + len(one.name))
    (tag, _, flags, method, _, _, _, packed, size, name_length, extra_length) = _LOCAL.unpack_from(head)
    # The writer may leave the sizes out (0) when it puts them behind the data, or into the zip64 field.
    allowed = {min(one.size, _FULL32), _FULL32} | ({0} if one.flags & _DESCRIPTOR else set())
    same = (
        tag == b"PK\x03\x04"
        and not flags & (_ENCRYPTED | _UNUSUAL)
        and method == 0
        and name_length == len(one.name)
        and head[_LOCAL.size :] == one.name
        and {packed, size} <= allowed
    )
    if not same:
        raise Fault(f"the header of entry {shown(one.name)} at byte {one.header}", "one that differs, or other bytes")
    position: int = one.header + _LOCAL.size + name_length + extra_length
    return position


def _check_order(listed: list[_Listed], entries: dict[str, ZipEntry], stop: int) -> None:
    """No two entries share a byte, none reaches into the directory, and nothing comes before the first."""
    spans = sorted(
        (one.header, entry.position + entry.size) for one, entry in zip(listed, entries.values(), strict=True)
    )
    if spans and spans[0][0]:
        raise Fault("the first entry at the start of the zip file", f"byte {spans[0][0]}")
    for index, (start, end) in enumerate(spans):
        following = spans[index + 1][0] if index + 1 < len(spans) else stop
        if end > following:
            raise Fault(f"the entry at byte {start} to end by byte {following}", f"byte {end} (entries overlap)")
