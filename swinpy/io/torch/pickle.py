"""A pickle read as data: a stack machine for a list of allowed opcodes, in which nothing can be run.

GLOBAL makes a name. REDUCE and its like make a record of a call, unless the caller of :func:`read_pickle` knows what
the call stands for. BUILD notes a state. There is no way from here to an import, a call or an attribute. What an object
costs in memory is charged to a budget before it is made. An opcode takes time in proportion to the bytes that it reads
or the values that it gathers. So time and memory are bounded by the file's size.

A `Grammar` says which pickles are allowed: `TORCH` those of ``torch.save``; CIFAR's files have a narrower one
(`swinpy.data.cifar.pickled`).
"""

from __future__ import annotations

import functools
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from swinpy.io.costs import ENTRY, ITEM, MAPPING, OBJECT, RECORD, SLOT, text_cost
from swinpy.io.errors import Fault, shown
from swinpy.io.records import Call, Global

if TYPE_CHECKING:
    from collections.abc import Callable

    from swinpy.io.source import Budget, ByteStream

__all__ = ["MAX_OPCODES", "TORCH", "Grammar", "Objects", "read_pickle"]

MAX_OPCODES = 2_000_000  # a Swin-sized file runs 5,400
# NumPy's generators have states of 16 bytes; torch's magic number has 10.
_INT_BYTES = 256
# Hashes of text and bytes are random. All others can be chosen: numbers so that they meet on their ways through
# a dict's table, tuples so that they share one hash and are compared. So a dict may be as slow as a list, and each such
# key is charged what a list would take: a step for each entry before it, and for a tuple the time of a comparison.
_NUMBER_STEPS, _TUPLE_STEPS = 1, 16


class Objects(Protocol):
    """What the machine asks of whoever knows the kind of file: what names, calls and persistent ids stand for."""

    def call(self, function: Any, arguments: Any) -> Any:
        """The inert value of ``function(*arguments)``."""
        ...

    def persistent(self, identity: Any) -> Any:
        """The inert value of a persistent id."""
        ...

    def name(self, name: Global) -> Any:
        """What goes onto the stack for a global."""
        ...

    def set_state(self, target: Any, state: Any) -> bool:
        """Note the state of ``target``; False where such a value has none."""
        ...


@dataclass(frozen=True)
class Grammar:
    """Which pickles are allowed.

    Attributes:
        writer: of such pickles, for messages.
        opcodes: the allowed ones, a character each.
        protocols: the allowed versions.
        headed: whether a pickle must begin with its version.
        text_keys: whether the keys of dicts must be text or bytes.
        old_text: whether a str of Python 2 may be text, which it is if it is UTF-8; else it is always bytes.
        name_limit: the most bytes in a line of a GLOBAL.
    """

    writer: str
    opcodes: str
    protocols: range
    headed: bool
    text_keys: bool
    old_text: bool
    name_limit: int

    @functools.cached_property
    def rows(self) -> list[_Row | None]:
        """What each byte does, with its cost in memory; None for one that is not allowed."""
        return [_OPCODES[chr(code)] if chr(code) in self.opcodes else None for code in range(256)]


def read_pickle(stream: ByteStream, objects: Objects, budget: Budget, grammar: Grammar | None = None) -> Any:
    """Read one pickle.

    Args:
        stream: stands at its first byte; afterwards behind its last.
        objects: gives calls and persistent ids a meaning.
        budget: what it may take.
        grammar: what is allowed; None for `TORCH`.

    Returns:
        A value made of None, bool, int, float, str, bytes, tuple, list, dict, `Global`, `Call` and what ``objects``
        makes. It may refer to itself.

    Raises:
        Fault: truncated, malformed, or using an opcode that is not allowed.
    """
    return _Machine(stream, objects, budget, grammar or TORCH).run()


class _Machine:
    __slots__ = ("_budget", "_floor", "_grammar", "_marks", "_memo", "_objects", "_stack", "_stream")

    def __init__(self, stream: ByteStream, objects: Objects, budget: Budget, grammar: Grammar) -> None:
        self._grammar = grammar
        self._stream = stream
        self._objects = objects
        self._budget = budget
        self._stack: list[Any] = []
        self._marks: list[int] = []
        self._floor = 0  # what lies below the latest mark is out of reach
        self._memo: dict[int, Any] = {}

    def run(self) -> Any:
        stream, budget, rows = self._stream, self._budget, self._grammar.rows
        if self._grammar.headed:
            if stream.byte() != _PROTO:
                raise self._other_protocol()
            self.protocol()
        for _ in range(MAX_OPCODES):
            code = stream.byte()
            row = rows[code]
            if row is None:
                if code == _STOP:
                    return self._last()
                got = f"opcode {bytes([code])!r} at byte {stream.position - 1}"
                raise self._fault(f"an opcode that {self._grammar.writer} writes", got, "opcode")
            cost, handler = row
            budget.left -= cost
            if budget.left < 0:
                budget.take(0)
            handler(self)
        raise self._fault(f"at most {MAX_OPCODES} opcodes", "more", "many")

    def _last(self) -> Any:
        value = self._pop()
        if self._stack or self._marks:
            raise self._fault("an empty stack at the end", "values left over", "rest")
        return value

    def _fault(self, expected: str, got: str, *rule: Any) -> Fault:
        return Fault(f"{expected} in the pickle before byte {self._stream.position}", got, rule=rule)

    def _other_protocol(self) -> Fault:
        first, last = self._grammar.protocols[0], self._grammar.protocols[-1]
        return self._fault(f"a pickle of protocol {first} to {last}", "something else", "protocol")

    def protocol(self) -> None:
        if self._stream.byte() not in self._grammar.protocols:
            raise self._other_protocol()

    # ---- the stack

    def _pop(self) -> Any:
        if len(self._stack) <= self._floor:
            raise self._fault("a value on the stack", "none", "value")
        return self._stack.pop()

    def _pop_many(self, count: int) -> list[Any]:
        start = len(self._stack) - count
        if start < self._floor:
            raise self._fault(f"{count} values on the stack", "fewer", "value")
        items = self._stack[start:]
        del self._stack[start:]
        return items

    def _pop_to_mark(self) -> list[Any]:
        if not self._marks:
            raise self._fault("a MARK", "none", "mark")
        start = self._marks.pop()
        items = self._stack[start:]
        del self._stack[start:]
        self._floor = self._marks[-1] if self._marks else 0
        return items

    def _top(self, *rule: Any) -> Any:
        if len(self._stack) <= self._floor:
            raise self._fault("a container on the stack", "none", *rule)
        return self._stack[-1]

    def mark(self) -> None:
        self._floor = len(self._stack)
        self._marks.append(self._floor)

    # ---- plain values

    def constant(self, value: Any) -> None:
        self._stack.append(value)

    def number(self, layout: struct.Struct) -> None:
        self._stack.append(layout.unpack(self._stream.take(layout.size))[0])

    def _count(self, layout: struct.Struct) -> int:
        value: int = layout.unpack(self._stream.take(layout.size))[0]
        if not 0 <= value <= self._stream.left:
            rule = "truncated" if value > 0 else "negative"
            raise self._fault("a value that fits in the file", f"one of {shown(value)} bytes (truncated)", rule)
        return value

    def long(self, layout: struct.Struct) -> None:
        count = self._count(layout)
        if count > _INT_BYTES:
            raise self._fault(f"an integer of at most {_INT_BYTES} bytes", f"one of {count}")
        self._stack.append(int.from_bytes(self._stream.take(count), "little", signed=True))

    def bytes_(self, layout: struct.Struct) -> None:
        count = self._count(layout)
        self._budget.take(count)
        self._stack.append(self._stream.take(count))

    def text(self, layout: struct.Struct) -> None:
        self._stack.append(self._decode(self._encoded(layout)))

    def _encoded(self, layout: struct.Struct) -> bytes:
        """The bytes of a text, whose decoding is paid for."""
        count = self._count(layout)
        self._budget.take(count)
        data = self._stream.take(count)
        self._budget.take(text_cost(data))
        return data

    def old_text(self, layout: struct.Struct) -> None:
        """A str of Python 2: text if it is UTF-8 and may be, else bytes."""
        if not self._grammar.old_text:
            self.bytes_(layout)
            return
        data = self._encoded(layout)
        try:
            self._stack.append(data.decode("utf-8"))
        except UnicodeDecodeError:
            self._stack.append(data)

    def _decode(self, data: bytes) -> str:
        try:
            return data.decode("utf-8", "surrogatepass")  # as pickles write lone surrogates
        except UnicodeDecodeError:
            raise self._fault("text in UTF-8", "other bytes", "text") from None

    # ---- the memo

    def put(self, layout: struct.Struct) -> None:
        index = layout.unpack(self._stream.take(layout.size))[0]
        self._memo[index] = self._top("value")

    def memoize(self) -> None:
        self._memo[len(self._memo)] = self._top("value")

    def get(self, layout: struct.Struct) -> None:
        index = layout.unpack(self._stream.take(layout.size))[0]
        if index not in self._memo:
            got = f"number {index}, which was not"
            raise self._fault("a reference to a value that was stored", got, "memo", index)
        self._stack.append(self._memo[index])

    # ---- containers

    def empty_list(self) -> None:
        self._stack.append([])

    def empty_dict(self) -> None:
        self._stack.append({})

    def small_tuple(self, count: int) -> None:
        self._stack.append(tuple(self._pop_many(count)))

    def mark_tuple(self) -> None:
        self._stack.append(tuple(self._pop_to_mark()))

    def append(self) -> None:
        self._extend([self._pop()])

    def extend(self) -> None:
        self._extend(self._pop_to_mark())

    def _extend(self, items: list[Any]) -> None:
        target = self._top("list")
        self._budget.take(ITEM * len(items))
        if type(target) is list:
            target.extend(items)
        elif type(target) is Call:
            target.items = target.items or []
            target.items.extend(items)
        else:
            raise self._fault("a list to append to", shown(target), "list")

    def set_item(self) -> None:
        self._set_items(self._pop_many(2))

    def set_items(self) -> None:
        self._set_items(self._pop_to_mark())

    def _set_items(self, items: list[Any]) -> None:
        target = self._top("dict")
        if len(items) % 2:
            raise self._fault("keys and values in pairs", "a key without a value", "key")
        if type(target) is Call:
            self._extend(items)
            return
        if type(target) is not dict:
            raise self._fault("a dict to put items into", shown(target), "dict")
        self._budget.take(ENTRY * (len(items) // 2))
        for at in range(0, len(items), 2):
            key = items[at]
            if type(key) is not str:
                self._check_key(key, len(target))
            target[key] = items[at + 1]

    def _check_key(self, key: Any, others: int) -> None:
        """Refuse what cannot be hashed, or only slowly: hashing a nest of tuples can take years."""
        if type(key) is bytes:
            return
        if not self._grammar.text_keys:
            if type(key) is tuple and len(key) <= 8 and all(_is_scalar(part) for part in key):
                self._budget.walk(_TUPLE_STEPS * others)
                return
            if _is_scalar(key):
                self._budget.walk(_NUMBER_STEPS * others)
                return
        raise self._fault("keys that are text, numbers or short tuples of them", shown(key), "key")

    # ---- what would be code

    def global_(self) -> None:
        limit = self._grammar.name_limit
        module, name = self._stream.line(limit), self._stream.line(limit)
        self._budget.take(text_cost(module) + text_cost(name))
        self._stack.append(self._objects.name(Global(self._decode(module), self._decode(name))))

    def stack_global(self) -> None:
        module, name = self._pop_many(2)
        limit = self._grammar.name_limit
        if type(module) is not str or type(name) is not str or max(len(module), len(name)) > limit:
            raise self._fault("a module and a name as text", f"{shown(module)} and {shown(name)}")
        self._stack.append(self._objects.name(Global(module, name)))

    def reduce(self) -> None:
        function, arguments = self._pop_many(2)
        if type(arguments) is not tuple:
            raise self._fault("a tuple of arguments", shown(arguments), "arguments")
        self._stack.append(self._objects.call(function, arguments))

    def new_object(self) -> None:
        function, arguments = self._pop_many(2)
        self._stack.append(Call(function, arguments))

    def new_object_with_keywords(self) -> None:
        function, arguments, keywords = self._pop_many(3)
        self._stack.append(Call(function, (arguments, keywords)))

    def persistent(self) -> None:
        self._stack.append(self._objects.persistent(self._pop()))

    def build(self) -> None:
        state, target = self._pop(), self._top("object")
        if not self._objects.set_state(target, state):
            raise self._fault("an object to set a state on", shown(target), "object")

    def empty_set(self) -> None:
        self._stack.append(Call(Global("builtins", "set"), ()))

    def frozen_set(self) -> None:
        self._stack.append(Call(Global("builtins", "frozenset"), (self._pop_to_mark(),)))

    def frame(self) -> None:
        self._count(_U8)


def _is_scalar(value: Any) -> bool:
    kind = type(value)
    # Beyond 64 bits, integers can be chosen so that their hashes are all the same.
    return kind in (str, bytes, float, bool, type(None), Global) or (kind is int and value.bit_length() <= 64)


_STOP, _PROTO = ord("."), 0x80
_U1, _U2, _U4, _U8 = struct.Struct("<B"), struct.Struct("<H"), struct.Struct("<I"), struct.Struct("<Q")
_I4, _F8 = struct.Struct("<i"), struct.Struct(">d")
_Row = tuple[int, "Callable[[_Machine], None]"]
# A line for each opcode that the machine knows; a grammar allows some of them.
_VALUE, _CONTAINER = SLOT + OBJECT, SLOT + 2 * OBJECT
_OPCODES: dict[str, _Row] = {
    "\x80": (0, _Machine.protocol),
    "(": (SLOT + OBJECT, _Machine.mark),
    "N": (SLOT, lambda m: m.constant(None)),
    "\x88": (SLOT, lambda m: m.constant(True)),
    "\x89": (SLOT, lambda m: m.constant(False)),
    ")": (SLOT, lambda m: m.constant(())),
    "K": (SLOT, lambda m: m.number(_U1)),
    "M": (_VALUE, lambda m: m.number(_U2)),
    "J": (_VALUE, lambda m: m.number(_I4)),
    "G": (_VALUE, lambda m: m.number(_F8)),
    "\x8a": (_VALUE + _INT_BYTES, lambda m: m.long(_U1)),
    "\x8b": (_VALUE + _INT_BYTES, lambda m: m.long(_I4)),
    "U": (_VALUE, lambda m: m.old_text(_U1)),
    "T": (_VALUE, lambda m: m.old_text(_I4)),
    "X": (_VALUE, lambda m: m.text(_U4)),
    "\x8c": (_VALUE, lambda m: m.text(_U1)),
    "\x8d": (_VALUE, lambda m: m.text(_U8)),
    "C": (_VALUE, lambda m: m.bytes_(_U1)),
    "B": (_VALUE, lambda m: m.bytes_(_U4)),
    "\x8e": (_VALUE, lambda m: m.bytes_(_U8)),
    "\x96": (_VALUE, lambda m: m.bytes_(_U8)),
    "q": (ENTRY, lambda m: m.put(_U1)),
    "r": (ENTRY + OBJECT, lambda m: m.put(_U4)),
    "\x94": (ENTRY + OBJECT, _Machine.memoize),
    "h": (SLOT, lambda m: m.get(_U1)),
    "j": (SLOT, lambda m: m.get(_U4)),
    "]": (_CONTAINER, _Machine.empty_list),
    "}": (SLOT + MAPPING, _Machine.empty_dict),
    "\x85": (_CONTAINER, lambda m: m.small_tuple(1)),
    "\x86": (_CONTAINER, lambda m: m.small_tuple(2)),
    "\x87": (_CONTAINER, lambda m: m.small_tuple(3)),
    "t": (_CONTAINER, _Machine.mark_tuple),
    "a": (0, _Machine.append),
    "e": (0, _Machine.extend),
    "s": (0, _Machine.set_item),
    "u": (0, _Machine.set_items),
    "c": (RECORD, _Machine.global_),
    "\x93": (RECORD, _Machine.stack_global),
    "R": (RECORD + MAPPING, _Machine.reduce),
    "\x81": (RECORD, _Machine.new_object),
    "\x92": (RECORD + OBJECT, _Machine.new_object_with_keywords),
    "Q": (RECORD, _Machine.persistent),
    "b": (0, _Machine.build),
    "\x8f": (2 * RECORD, _Machine.empty_set),
    "\x90": (0, _Machine.extend),
    "\x91": (2 * RECORD, _Machine.frozen_set),
    "\x95": (0, _Machine.frame),
}

TORCH = Grammar(
    writer="torch.save",
    opcodes="".join(code for code in _OPCODES if code != chr(_PROTO)),
    protocols=range(2, 6),
    headed=True,
    text_keys=False,
    old_text=True,
    name_limit=512,
)
