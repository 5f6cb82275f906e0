"""JSON that comes back as it went in: the small state of a run, without arrays and without pickle.

`json` alone turns tuples into lists, the key 1 into "1", and writes NaN as a word that JSON does not have. All of
that is refused here, with the place named, when a state is written and again when one is read.
"""

from __future__ import annotations

import json
import math
from typing import Any

__all__ = ["check_plain", "decode_plain", "encode_plain"]

_DEPTH = 64
# Python refuses to print integers of more than 4300 digits, about 14,000 bits; generator states need 128.
_INT_BITS = 4096


def check_plain(value: Any, op: str, place: str = "state", depth: int = 0) -> None:
    """Check that a value survives JSON unchanged: None, bool, int, finite float, str, lists and dicts of these.

    Args:
        value: what to check.
        op: the operation that a message names first.
        place: where in the whole `value` is, such as ``state['lr'][0]``.
        depth: how many containers lie around it.

    Raises:
        TypeError: a value or a key is of another type, subclasses and NumPy scalars included.
        ValueError: a float is not finite, an integer is huge, text has no UTF-8 form, or containers nest too deep
            (or in a circle).
    """
    if depth > _DEPTH:
        raise ValueError(f"{op}: expected at most {_DEPTH} containers in each other; got more at {place}. Flatten it.")
    kind = type(value)
    if kind is dict:
        for key, item in value.items():
            if type(key) is not str:
                raise TypeError(f"{op}: expected str keys in {place}; got {key!r}. Use str(key).")
            _check_text(key, op, place)
            check_plain(item, op, f"{place}[{key!r}]", depth + 1)
    elif kind is list:
        for index, item in enumerate(value):
            check_plain(item, op, f"{place}[{index}]", depth + 1)
    elif kind is float:
        if not math.isfinite(value):
            raise ValueError(f"{op}: expected finite numbers; got {value!r} at {place}. Store None instead.")
    elif kind is int:
        if value.bit_length() > _INT_BITS:
            bits = value.bit_length()
            raise ValueError(f"{op}: expected integers up to {_INT_BITS} bits; got {bits} at {place}. Store an array.")
    elif kind is str:
        _check_text(value, op, place)
    elif value is not None and kind is not bool:
        name = f"{kind.__module__}.{kind.__qualname__}"
        raise TypeError(
            f"{op}: expected None, bool, int, float, str, list or dict; got {name} at {place}. "
            "Convert it (float(x), list(x)), or store it as an array group."
        )


def _check_text(text: str, op: str, place: str) -> None:
    # JSON joins two halves of a surrogate pair into one character, so text with halves would not come back.
    if any("\ud800" <= letter <= "\udfff" for letter in text):
        raise ValueError(f"{op}: expected text with a UTF-8 form; got {text!r} at {place}. Leave it out.")


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
    return (json.dumps(value, indent=1, sort_keys=True, allow_nan=False) + "\n").encode("ascii")


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
        ValueError: the bytes are no JSON, repeat a key, or hold what `check_plain` refuses.
    """
    try:
        value = json.loads(data, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{op}: expected {place} as JSON; got {error}. Use another copy of the file.") from error
    check_plain(value, op, place)
    return value
