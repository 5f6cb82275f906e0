"""Numbered mutations of a file: mutation n of a base under a key is always the same bytes, on every machine."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["mutations"]

_BLOCK = 1 << 12
_WORDS = 16
# Bytes that mean something to one of the parsers: ends of ranges, opcodes, digits, brackets.
_BYTES = b'\x00\x01\x7f\x80\xff.(})]tuRQqhjKMJ\x8a\x8bXUNcbse\x81\x85\x86\x87\x88\x89\x93\x94\x95 019-[{",:'
_NUMBERS = [
    0,
    1,
    2,
    63,
    64,
    255,
    256,
    0xFFFF,
    (1 << 31) - 1,
    1 << 31,
    0xFFFFFFFF,
    1 << 32,
    (1 << 63) - 1,
    1 << 63,
    (1 << 64) - 1,
]


def mutations(base: bytes, count: int, key: int, hot: tuple[tuple[int, int], ...] = ()) -> Iterator[bytes]:
    """Bent copies of a file.

    Args:
        base: the sound file.
        count: how many.
        key: another one gives other mutations.
        hot: ranges in which half of the mutations happen, such as the pickle in a container.

    Yields:
        Mutation 0, 1, ...
    """
    generator = np.random.Generator(np.random.Philox(key=key))
    for start in range(0, count, _BLOCK):
        block = generator.integers(0, 1 << 32, (_BLOCK, _WORDS), dtype=np.uint32)
        for row in block[: count - start].tolist():
            yield _bend(base, row, hot)


def _bend(base: bytes, row: list[int], hot: tuple[tuple[int, int], ...]) -> bytes:
    data = bytearray(base)
    for step in range(1 + row[0] % 3):
        kind, where, what, length, ground = row[1 + 5 * step : 6 + 5 * step]
        if not data:
            break
        start, stop = (0, len(data))
        if hot and ground & 1:
            start, stop = hot[(ground >> 1) % len(hot)]
        at = min(start + where % (stop - start), len(data) - 1)
        _change(data, kind % 16, at, what, length)
    return bytes(data)


def _change(data: bytearray, kind: int, at: int, what: int, length: int) -> None:
    if kind < 4:
        data[at] ^= 1 << what % 8
    elif kind < 8:
        data[at] = _BYTES[what % len(_BYTES)]
    elif kind < 10:
        data[at] = what & 0xFF
    elif kind < 12:
        width = (1, 2, 4, 8)[length % 4]
        value = _NUMBERS[what % len(_NUMBERS)] & ((1 << 8 * width) - 1)
        data[at : at + width] = value.to_bytes(width, "little")
    elif kind == 12:
        del data[at : at + 1 + length % 8]
    elif kind == 13:
        piece = data[at : at + 1 + length % 40]
        other = what % (len(data) + 1)
        data[other:other] = piece
    elif kind == 14:
        piece = data[at : at + 1 + length % 16]
        other = what % len(data)
        data[other : other + len(piece)] = piece
    else:
        del data[at:]
