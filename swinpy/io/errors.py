"""The exceptions for weight files, and the bare fault that the parsers raise on the way to them."""

from __future__ import annotations

from typing import Any

__all__ = ["Fault", "TensorFileError", "WeightsFileError", "plain", "shown"]

_FETCH_AGAIN = "Nothing in it was run; copy or download the file again."
_SHOWN = 60


class WeightsFileError(ValueError):
    """A weight file that is missing, damaged, hostile or of a kind that cannot be read; nothing in it was run."""


class TensorFileError(WeightsFileError):
    """A safetensors file that cannot be read or would not hold what it should; the message names file and reason."""


class Fault(Exception):
    """What the bytes are not. The public functions add the operation and the file and raise `WeightsFileError`.

    Args:
        expected: what should have been there, with its place.
        got: what was there.
        fix: the likely cure.
        rule: which rule was broken, and by what; for a caller that has words of its own for it. () for most rules.
    """

    def __init__(self, expected: str, got: str, fix: str = _FETCH_AGAIN, *, rule: tuple[Any, ...] = ()) -> None:
        super().__init__(expected, got, fix)
        self.expected, self.got, self.fix, self.rule = expected, got, fix, rule

    def message(self, op: str, name: str) -> str:
        """The text in the form of the house."""
        return f"{op}: expected {self.expected} in {name}; got {self.got}. {self.fix}"


def plain(text: str, most: int = 200) -> str:
    """Text from a file for a line of a report: as it is, unless it is long or could garble a terminal.

    >>> plain("layers.0"), plain("layers.0\x1b[2J"), plain("0123456789", 4)
    ('layers.0', "'layers.0\\\\x1b[2J'", '0123...')
    """
    short = text if len(text) <= most else text[:most] + "..."
    return short if short.isprintable() else ascii(short)


def shown(value: Any) -> str:
    """A short, printable form of a value from a file: never long, never with control characters, never an error.

    >>> shown("layers.0\\x1b[2J"), shown([1, 2]), shown(10**5000)
    ("'layers.0\\\\x1b[2J'", 'a list of 2', 'an integer of 16610 bits')
    """
    if isinstance(value, (str, bytes)):
        return ascii(value) if len(value) <= _SHOWN else ascii(value[:_SHOWN]) + "..."
    if isinstance(value, int) and value.bit_length() > 64:
        return f"an integer of {value.bit_length()} bits"  # its digits could be many, and Python refuses to write them
    if value is None or isinstance(value, (int, float, complex)):
        return repr(value)
    if isinstance(value, (list, tuple, dict, set, frozenset)):
        return f"a {type(value).__name__} of {len(value)}"
    return f"a {type(value).__name__}"
