"""Pickles that are grown: structures that repeat, nest, refer back and choose their keys."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

from .choice import LIMIT, Choice, one, text, times
from .weight_files import Tensor, glob, join

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["Grower", "again", "grow_tree", "ordered_dicts", "same_hash", "store"]

_MASK = (1 << 64) - 1


def same_hash(count: int) -> list[tuple[int, int]]:
    """Pairs of integers that all have one hash (CPython's hash of tuples, solved for the second lane)."""
    prime, two, five = 11400714785074694791, 14029467366897019727, 2870177450012600261
    inverse = pow(two, -1, 1 << 64)
    found: list[tuple[int, int]] = []
    first = 0
    while len(found) < count:
        first += 1
        state = (five + first * two) & _MASK
        state = (state << 31 | state >> 33) * prime & _MASK
        lane = (12345 - state) * inverse & _MASK
        number = lane - (1 << 64) if lane >> 63 else lane
        if abs(number) < (1 << 61) - 2 and number != -1:
            found.append((first, number))
    return found


def _some_keys(choice: Choice, count: int) -> list[bytes]:
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


def store(place: int) -> bytes:
    """The top of the stack is kept at a place."""
    return b"r" + struct.pack("<I", place)


def again(place: int) -> bytes:
    """What was stored there."""
    return b"j" + struct.pack("<I", place)


def ordered_dicts(entries: int, count: int, place: int = 0) -> bytes:
    """A list of pairs, and OrderedDicts made of it again and again; two places of the memo are taken."""
    pairs = b"](" + b"".join(join(f"{i:x}") + b"N\x86" for i in range(entries)) + b"e\x85"
    first = b"](ccollections\nOrderedDict\n" + store(place) + pairs + store(place + 1) + b"R"
    return first + (again(place) + again(place + 1) + b"R") * count + b"e"


class Grower:
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
        if choice.below(3) == 0 and len(code) < LIMIT:
            code += store(self._stored)
            self._stored += 1
        return code

    def _leaf(self, depth: int) -> bytes:
        choice = self._choice
        plain = (b"N", b"\x88", b")", b"]", b"}", b"\x8f", b"M\xff\xff", b"G" + bytes(8), join(1 << 2000))
        kind = choice.below(4)
        if kind == 0:
            return join(text(choice))
        if kind == 1:
            return join(bytes(one(choice, (0, 1, 255, 70_000))))
        leaf: bytes = one(choice, self._leaves if kind == 2 else plain)
        return leaf

    def _reference(self, depth: int) -> bytes:
        return again(self._choice.below(self._stored)) if self._stored else b"N"

    def _repeated(self, depth: int) -> bytes:
        piece = self.value(depth + 1)
        if self._choice.below(3) == 0:
            piece += self._reference(depth) + b"\x86"
        end = one(self._choice, (b"e", b"t", b"\x90", b"\x91"))
        start = {b"e": b"](", b"t": b"(", b"\x90": b"\x8f(", b"\x91": b"("}[end]
        return start + piece * times(self._choice, len(piece)) + end

    def _dict(self, depth: int) -> bytes:
        value = self.value(depth + 1)
        count = min(times(self._choice, 8 + len(value)), 20_000)
        start: bytes = one(self._choice, (b"}(", b"ccollections\nOrderedDict\n)R("))
        return start + b"".join(key + value for key in _some_keys(self._choice, count)) + b"u"

    def _pairs(self, depth: int) -> bytes:
        place = self._stored
        self._stored += 2
        return ordered_dicts(one(self._choice, (1, 100, 3000, 9000)), times(self._choice, 11), place)

    def _call(self, depth: int) -> bytes:
        choice = self._choice
        if choice.below(2):
            function = join(text(choice)[:600]) + join(text(choice)[:600]) + b"\x93"
        else:
            function = glob(
                *one(choice, (("os", "system"), ("torch._utils", "_rebuild_tensor_v2"), ("torch", "x")))
            ).code
        called: bytes = one(choice, (b"", b")R", b")\x81", b")}\x92", self.value(depth + 1) + b"\x85R", b")R}b"))
        return function + called

    def _nest(self, depth: int) -> bytes:
        count = times(self._choice, 2)
        nest: bytes = one(
            self._choice, (b"]" * count + b"a" * (count - 1), b")" + b"\x85" * count, b"N" + b"\x85" * count)
        )
        return nest


def grow_tree(choice: Choice, legacy: bool = False, tensor: bytes = b"") -> bytes:
    """Weights with something beside them or among them."""
    tensor = tensor or join(Tensor(), legacy)
    made = Grower(choice, (tensor,))
    code = b"}(" + join("w") + tensor
    for _ in range(choice.below(4)):
        code += join(text(choice)) + made.value()
    code += b"u"
    for _ in range(choice.below(3)):
        code = b"}(" + join(one(choice, ("model", "x", text(choice)))) + code + join("more") + made.value(1) + b"u"
    return code
