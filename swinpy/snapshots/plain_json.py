"""JSON that comes back as it went in: the small state of a run, without arrays and without pickle.

`json` alone turns tuples into lists, the key 1 into "1", and writes NaN as a word that JSON does not have. All of
that is refused here, with the place named, when a state is written and again when one is read.
"""

from __future__ import annotations

import json
import math
from typing import Any

from swinpy.io.costs import json_cost
from swinpy.io.errors import shown

__all__ = ["check_plain", "decode_plain", "encode_plain"]

_DEPTH = 64
# Python refuses to print integers of more than 4300 digits, about 14,000 bits; generator states need 128.
_INT_BITS = 4096
# What a state may take when it is read, by the estimate of `json_cost`; it is compared when one is written, too.
_MEMORY = 1 << 28


# Where a value lies: the way of what is around it, and its key or number there. Text is made of it for a message alone,
# for a file may put thousands of values under one long key.
_Way = tuple[Any, Any] | None


def check_plain(value: Any, op: str, place: str = "state") -> None:
    """Check that a value survives JSON unchanged: None, bool, int, finite float, str, lists and dicts of these.

    Args:
        value: what to check.
        op: the operation that a message names first.
        place: where in the whole `value` is, such as ``state['lr'][0]``.

    Raises:
        TypeError: a value or a key is of another type, subclasses and NumPy scalars included.
        ValueError: a float is not finite, an integer is huge, text has no UTF-8 form, or containers nest too deep
            (or in a circle).
    """
    _Check(op, place).value(value, None, 0)


class _Check:
    def __init__(self, op: str, place: str) -> None:
        self._op, self._place = op, place

    def _at(self, way: _Way) -> str:
        steps = []
        while way is not None:
            way, key = way
            steps.append(f"[{shown(key)}]")
        return self._place + "".join(reversed(steps))

    def value(self, value: Any, way: _Way, depth: int) -> None:
        op, kind = self._op, type(value)
        if depth > _DEPTH:
            at = self._at(way)
            raise ValueError(f"{op}: expected at most {_DEPTH} containers in each other; got more at {at}. Flatten it.")
        if kind is dict:
            for key, item in value.items():
                if type(key) is not str:
                    raise TypeError(f"{op}: expected str keys in {self._at(way)}; got {shown(key)}. Use str(key).")
                self._text(key, way)
                self.value(item, (way, key), depth + 1)
        elif kind is list:
            for index, item in enumerate(value):
                self.value(item, (way, index), depth + 1)
        elif kind is str:
            self._text(value, way)
        else:
            self._scalar(value, way)

    def _scalar(self, value: Any, way: _Way) -> None:
        op, kind = self._op, type(value)
        if kind is float:
            if not math.isfinite(value):
                at = self._at(way)
                raise ValueError(f"{op}: expected finite numbers; got {value!r} at {at}. Store None instead.")
        elif kind is int:
            if value.bit_length() > _INT_BITS:
                got = f"{value.bit_length()} bits at {self._at(way)}"
                raise ValueError(f"{op}: expected integers up to {_INT_BITS} bits; got {got}. Store an array.")
        elif value is not None and kind is not bool:
            name = f"{kind.__module__}.{kind.__qualname__}"
            raise TypeError(
                f"{op}: expected None, bool, int, float, str, list or dict; got {name} at {self._at(way)}. "
                "Convert it (float(x), list(x)), or store it as an array group."
            )

    def _text(self, text: str, way: _Way) -> None:
        # JSON joins two halves of a surrogate pair into one character, so text with halves would not come back.
        if not text.isascii() and any("\ud800" <= letter <= "\udfff" for letter in text):
            at = self._at(way)
            raise ValueError(f"{self._op}: expected text with a UTF-8 form; got {shown(text)} at {at}. Leave it out.")


def _check_size(data: bytes, op: str, place: str) -> None:
    if json_cost(data) > _MEMORY:
        raise ValueError(
            f"{op}: expected {place} to take at most {_MEMORY >> 20} MiB of memory when it is read; got "
            f"{len(data)} bytes of JSON that take more. Store long lists as arrays."
        )


def encode_plain(value: Any, op: str, place: str = "state") -> bytes:
    """A checked value as JSON; equal values give equal bytes.

    Args:
        value: what to write.
        op: the operation that a message names first.
        place: what a message calls `value`.

    Returns:
        ASCII bytes, keys sorted, with a final newline.

    Raises:
        TypeError: see `check_plain`.
        ValueError: see `check_plain`.
    """
    check_plain(value, op, place)
    data = (json.dumps(value, indent=1, sort_keys=True, allow_nan=False) + "\n").encode("ascii")
    _check_size(data, op, place)
    return data


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("the same key twice in one object")
    return found


def decode_plain(data: bytes, op: str, place: str = "state") -> Any:
    """The value that some JSON holds, under the same rules as `encode_plain`.

    Args:
        data: the JSON.
        op: the operation that a message names first.
        place: what a message calls the value.

    Returns:
        The value.

    Raises:
        ValueError: the bytes are no JSON, repeat a key, hold what `check_plain` refuses, or take more than 256 MiB.
    """
    _check_size(data, op, place)
    try:
        value = json.loads(data, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{op}: expected {place} as JSON; got {error}. Use another copy of the file.") from error
    check_plain(value, op, place)
    return value
