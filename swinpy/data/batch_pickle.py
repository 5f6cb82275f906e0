"""A static reader for the "python version" of CIFAR: pickles are read as data and nothing in them is run.

The files were written by Python 2 with protocol 2. They hold one dict of byte strings, lists of small integers and
one uint8 array, for which some thirty opcodes are enough. The reader below knows these opcodes and no others: a
GLOBAL becomes a name, REDUCE a record of a call that is never made, BUILD a record of a state that is never set. Only
at the end are records of the one shape that NumPy writes for a plain uint8 array turned into an array.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from swinpy.data.dataset import DatasetCorrupt

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

__all__ = ["read_batch_pickle"]

_RECONSTRUCT = ("numpy.core.multiarray _reconstruct", "numpy._core.multiarray _reconstruct")
_NDARRAY, _DTYPE = "numpy ndarray", "numpy dtype"
_GLOBALS = (*_RECONSTRUCT, _NDARRAY, _DTYPE)
_MAX_OPCODES = 2_000_000  # CIFAR-100's train file has about 250,000


class _Refused(Exception):
    """Why the bytes are not such a file; becomes a DatasetCorrupt that also names the file."""


@dataclass(frozen=True)
class _Global:
    name: str


@dataclass
class _Call:
    """A call that a pickle asks for: kept as a record, never made."""

    function: object
    arguments: object
    state: object = None


class _Mark:
    pass


def read_batch_pickle(buffer: bytes, where: str) -> dict[str, Any]:
    """Read one CIFAR batch file.

    Args:
        buffer: the whole file.
        where: its name, for messages.

    Returns:
        The dict, its keys as str; every value an int, None, bool, bytes, str, list, tuple, dict or uint8 array.

    Raises:
        DatasetCorrupt: truncated, too long, holding any other opcode or global, or not a dict.
    """
    try:
        value = _Machine(buffer).run()
        if not isinstance(value, dict):
            raise _Refused(f"a {type(value).__name__} at the top")
        return {_as_text(key): _as_array(item) if isinstance(item, _Call) else item for key, item in value.items()}
    except _Refused as refusal:
        raise DatasetCorrupt(
            f"CIFAR batch file: expected {where} to be a pickled dict of lists and one uint8 array; got {refusal}. "
            "Nothing in it was run; fetch the dataset again, preferably its binary version."
        ) from None


def _as_text(key: object) -> str:
    if isinstance(key, bytes):
        return key.decode("latin-1")
    if isinstance(key, str):
        return key
    raise _Refused(f"a {type(key).__name__} as a key")


def _as_array(call: _Call) -> NDArray[np.uint8]:
    """The array that ``numpy.ndarray.__reduce__`` describes, if it is a plain uint8 one."""
    function, state = call.function, call.state
    if not (isinstance(function, _Global) and function.name in _RECONSTRUCT):
        raise _Refused("a call that does not build an array")
    if not (isinstance(state, tuple) and len(state) == 5):
        raise _Refused("an array without a shape and data")
    _, shape, dtype, fortran, data = state
    if not (
        isinstance(dtype, _Call)
        and dtype.function == _Global(_DTYPE)
        and isinstance(dtype.arguments, tuple)
        and dtype.arguments[:1] in ((b"u1",), ("u1",))
    ):
        raise _Refused("an array of another dtype than uint8")
    if not (isinstance(shape, tuple) and len(shape) <= 4 and all(type(n) is int and n >= 0 for n in shape)):
        raise _Refused("an array with an unreadable shape")
    if not isinstance(data, bytes) or math.prod(shape) != len(data):
        got = f"{len(data)} bytes" if isinstance(data, bytes) else f"a {type(data).__name__}"
        raise _Refused(f"an array of shape {shape} with {got} of data")
    return np.frombuffer(data, dtype=np.uint8).reshape(shape, order="F" if fortran else "C")


class _Machine:
    """Interprets the opcodes over a stack of inert values."""

    def __init__(self, buffer: bytes) -> None:
        self._buffer = memoryview(buffer)
        self._at = 0
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}

    def run(self) -> Any:
        for _ in range(_MAX_OPCODES):
            code = self._take(1)[0]
            if code == ord("."):
                return self._pop()
            handler = _HANDLERS.get(code)
            if handler is None:
                raise _Refused(f"opcode {bytes([code])!r} at byte {self._at - 1}, which no such file uses")
            handler(self)
        raise _Refused(f"more than {_MAX_OPCODES} opcodes")

    def _take(self, n: int) -> memoryview:
        piece = self._buffer[self._at : self._at + n]
        if len(piece) != n:
            raise _Refused(f"the end of the file after {len(self._buffer)} bytes, in the middle of a value (truncated)")
        self._at += n
        return piece

    def _number(self, layout: struct.Struct) -> int:
        value: int = layout.unpack(self._take(layout.size))[0]
        return value

    def _counted(self, layout: struct.Struct) -> bytes:
        n = self._number(layout)
        if n < 0:
            raise _Refused("a string of negative length")
        return bytes(self._take(n))

    def _line(self) -> str:
        # Every global that is let through has a name far below 80 bytes.
        window = bytes(self._buffer[self._at : self._at + 80])
        end = window.find(b"\n")
        if end < 0:
            raise _Refused("a global with an unreadable name")
        self._at += end + 1
        return window[:end].decode("latin-1")

    def _pop(self) -> Any:
        if not self._stack or isinstance(self._stack[-1], _Mark):
            raise _Refused("a value missing from the stack")
        return self._stack.pop()

    def _pop_to_mark(self) -> list[Any]:
        for position in range(len(self._stack) - 1, -1, -1):
            if isinstance(self._stack[position], _Mark):
                items = self._stack[position + 1 :]
                del self._stack[position:]
                return items
        raise _Refused("a list without a beginning")

    def _top(self, kind: type) -> Any:
        if not self._stack or not isinstance(self._stack[-1], kind):
            raise _Refused(f"no {kind.__name__} to add to")
        return self._stack[-1]

    def push(self, value: object) -> None:
        self._stack.append(value)

    def push_number(self, layout: struct.Struct) -> None:
        self._stack.append(self._number(layout))

    def push_bytes(self, layout: struct.Struct) -> None:
        self._stack.append(self._counted(layout))

    def push_text(self, layout: struct.Struct) -> None:
        try:
            self._stack.append(self._counted(layout).decode("utf-8"))
        except UnicodeDecodeError:
            raise _Refused("text that is not UTF-8") from None

    def protocol(self) -> None:
        if self._take(1)[0] not in (2, 3):
            raise _Refused("a pickle of another protocol than 2 or 3")

    def put(self, layout: struct.Struct) -> None:
        index = self._number(layout)
        value = self._pop()
        self._memo[index] = value
        self._stack.append(value)

    def get(self, layout: struct.Struct) -> None:
        index = self._number(layout)
        if index not in self._memo:
            raise _Refused(f"a reference to value {index}, which was never stored")
        self._stack.append(self._memo[index])

    def push_tuple(self, n: int) -> None:
        self._stack.append(tuple(reversed([self._pop() for _ in range(n)])))

    def mark_tuple(self) -> None:
        self._stack.append(tuple(self._pop_to_mark()))

    def append(self, many: bool) -> None:
        items = self._pop_to_mark() if many else [self._pop()]
        self._top(list).extend(items)

    def set_items(self, many: bool) -> None:
        items = self._pop_to_mark() if many else [self._pop() for _ in range(2)][::-1]
        target = self._top(dict)
        if len(items) % 2 or not all(isinstance(key, (bytes, str)) for key in items[::2]):
            raise _Refused("a dict with a key that is no string")
        target.update(zip(items[::2], items[1::2], strict=True))

    def push_global(self) -> None:
        name = f"{self._line()} {self._line()}"
        if name not in _GLOBALS:
            refuse_global(name)
        self._stack.append(_Global(name))

    def reduce(self) -> None:
        arguments, function = self._pop(), self._pop()
        self._stack.append(_Call(function, arguments))

    def build(self) -> None:
        state = self._pop()
        self._top(_Call).state = state


def refuse_global(name: str) -> NoReturn:
    raise _Refused(f"the global {name.replace(' ', '.')!r}, which no such file uses")


_U1, _U2, _U4, _I4 = struct.Struct("<B"), struct.Struct("<H"), struct.Struct("<I"), struct.Struct("<i")
_HANDLERS: dict[int, Callable[[_Machine], None]] = {
    ord(code): handler
    for code, handler in {
        "\x80": _Machine.protocol,
        "(": lambda m: m.push(_Mark()),
        "}": lambda m: m.push({}),
        "]": lambda m: m.push([]),
        ")": lambda m: m.push(()),
        "N": lambda m: m.push(None),
        "\x88": lambda m: m.push(True),
        "\x89": lambda m: m.push(False),
        "K": lambda m: m.push_number(_U1),
        "M": lambda m: m.push_number(_U2),
        "J": lambda m: m.push_number(_I4),
        "U": lambda m: m.push_bytes(_U1),
        "T": lambda m: m.push_bytes(_I4),
        "C": lambda m: m.push_bytes(_U1),
        "B": lambda m: m.push_bytes(_U4),
        "X": lambda m: m.push_text(_U4),
        "q": lambda m: m.put(_U1),
        "r": lambda m: m.put(_U4),
        "h": lambda m: m.get(_U1),
        "j": lambda m: m.get(_U4),
        "\x85": lambda m: m.push_tuple(1),
        "\x86": lambda m: m.push_tuple(2),
        "\x87": lambda m: m.push_tuple(3),
        "t": _Machine.mark_tuple,
        "a": lambda m: m.append(False),
        "e": lambda m: m.append(True),
        "s": lambda m: m.set_items(False),
        "u": lambda m: m.set_items(True),
        "c": _Machine.push_global,
        "R": _Machine.reduce,
        "b": _Machine.build,
    }.items()
}
