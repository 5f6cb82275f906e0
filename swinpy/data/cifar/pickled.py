"""The "python version" of CIFAR: pickles that are read as data, so that nothing in them is run.

The files were written by Python 2 with protocol 2. They hold one dict of byte strings, lists of small integers and
one uint8 array, for which some thirty opcodes are enough. The machine that reads the pickles of weight files reads
these, too, under a narrower grammar: no other opcode, and no name but the four that an array needs. A call remains a
record until the end, where records of the one shape that NumPy writes for a plain uint8 array become an array.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from swinpy.data.errors import DatasetCorrupt
from swinpy.io.errors import Fault
from swinpy.io.records import Global
from swinpy.io.source import Budget, BytesSource, ByteStream
from swinpy.io.torch.pickle import MAX_OPCODES, Grammar, read_pickle

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["read_batch_pickle"]

_RECONSTRUCT = (Global("numpy.core.multiarray", "_reconstruct"), Global("numpy._core.multiarray", "_reconstruct"))
_NDARRAY, _DTYPE = Global("numpy", "ndarray"), Global("numpy", "dtype")
_GLOBALS = (*_RECONSTRUCT, _NDARRAY, _DTYPE)
_GRAMMAR = Grammar(
    writer="CIFAR's author",
    opcodes="\x80(}])N\x88\x89KMJUTCBXqrhj\x85\x86\x87taesucRb",
    protocols=range(2, 4),
    headed=False,
    text_keys=True,
    old_text=False,
    name_limit=80,  # the longest allowed name is far below that
)


class _Refused(Exception):
    """Why the bytes are not such a file; becomes a DatasetCorrupt that also names the file."""


@dataclass
class _Call:
    """A call that a pickle asks for: kept as a record, never made."""

    function: object
    arguments: object
    state: object = None


class _Arrays:
    """What names and calls mean to the machine: the four names as they are, and records of calls."""

    def name(self, name: Global) -> Global:
        if name not in _GLOBALS:
            raise _Refused(f"the global {str(name)!r}, which no such file uses")
        return name

    def call(self, function: Any, arguments: Any) -> _Call:
        return _Call(function, arguments)

    def persistent(self, identity: Any) -> Any:
        raise _Refused("a persistent id")  # whose opcode the grammar has not

    def set_state(self, target: Any, state: Any) -> bool:
        if isinstance(target, _Call):
            target.state = state
        return isinstance(target, _Call)


def read_batch_pickle(buffer: bytes, where: str) -> dict[str, Any]:
    """Read one CIFAR batch file, in at most twice its size of memory (and 8 MiB).

    Args:
        buffer: the whole file.
        where: its name, for messages.

    Returns:
        The dict, its keys as str; every value an int, None, bool, bytes, str, list, tuple, dict or uint8 array.

    Raises:
        DatasetCorrupt: truncated, too long, holding any other opcode or global, or not a dict.
    """
    try:
        value = _read(buffer)
        if not isinstance(value, dict):
            raise _Refused(f"a {type(value).__name__} at the top")
        return {_as_text(key): _as_array(item) if isinstance(item, _Call) else item for key, item in value.items()}
    except _Refused as refusal:
        raise DatasetCorrupt(
            f"CIFAR batch file: expected {where} to be a pickled dict of lists and one uint8 array; got {refusal}. "
            "Nothing in it was run; fetch the dataset again, preferably its binary version."
        ) from None


def _read(buffer: bytes) -> Any:
    stream = ByteStream(BytesSource(buffer), 0, len(buffer))
    try:
        return read_pickle(stream, _Arrays(), Budget(len(buffer)), _GRAMMAR)
    except Fault as fault:
        raise _Refused(_reason(fault, len(buffer))) from None


_REASONS = {
    "line": "a global with an unreadable name",
    "value": "a value missing from the stack",
    "mark": "a list without a beginning",
    "list": "no list to add to",
    "dict": "no dict to add to",
    "object": "no call to add to",
    "negative": "a string of negative length",
    "text": "text that is not UTF-8",
    "key": "a dict with a key that is no string",
    "protocol": "a pickle of another protocol than 2 or 3",
    "many": f"more than {MAX_OPCODES} opcodes",
}


def _reason(fault: Fault, size: int) -> str:
    """The machine's fault in this reader's words."""
    match fault.rule:
        case ("truncated",):
            return f"the end of the file after {size} bytes, in the middle of a value (truncated)"
        case ("opcode",):
            return f"{fault.got}, which no such file uses"
        case ("memo", index):
            return f"a reference to value {index}, which was never stored"
        case (rule,) if rule in _REASONS:
            return _REASONS[rule]
    return f"{fault.got} in place of {fault.expected}"


def _as_text(key: object) -> str:
    if isinstance(key, bytes):
        return key.decode("latin-1")
    if isinstance(key, str):
        return key
    raise _Refused(f"a {type(key).__name__} as a key")


def _as_array(call: _Call) -> NDArray[np.uint8]:
    """The array that ``numpy.ndarray.__reduce__`` describes, if it is a plain uint8 one."""
    function, state = call.function, call.state
    if function not in _RECONSTRUCT:
        raise _Refused("a call that does not build an array")
    if not (isinstance(state, tuple) and len(state) == 5):
        raise _Refused("an array without a shape and data")
    _, shape, dtype, fortran, data = state
    if not (
        isinstance(dtype, _Call)
        and dtype.function == _DTYPE
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
