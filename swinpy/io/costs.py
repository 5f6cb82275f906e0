"""What Python's objects take, in bytes: upper estimates, by which everything that a file asks for is charged.

Measured with CPython. A container that grows is copied, so an item counts more than its slot. Tests compare the
estimates with traced memory (`tests/io/test_costs.py`).
"""

from __future__ import annotations

__all__ = ["ENTRY", "ITEM", "MAPPING", "NAME_LIMIT", "OBJECT", "RECORD", "SLOT", "json_cost", "text_cost"]

# A place on a stack; a small object; an empty dict; an item of a list; an entry of a dict; a record with its fields.
SLOT, OBJECT, MAPPING, ITEM, ENTRY, RECORD = 24, 64, 296, 24, 160, 200

# The longest name of a tensor, an entry or a member. Whatever is done with names, in reading and in reports, is bounded
# by it: no name is longer than a message can be.
NAME_LIMIT = 1024


# For a byte of text that is not ASCII: 4 a letter, beside narrower copies while it is decoded. An escaped letter widens
# what JSON has read before it, which grows piece by piece.
_WIDE, _ESCAPED = 7, 8


def text_cost(data: bytes) -> int:
    """Of decoding UTF-8."""
    return len(data) if data.isascii() else _WIDE * len(data)


def json_cost(data: bytes) -> int:
    """Of parsing JSON, told from its brackets and commas, wherever they stand; the bytes themselves are counted in.

    The text is there twice, as a whole and as strings; these are wide where letters are escaped, too.

    >>> json_cost(b"[[[]]]") > 3 * 88
    True
    """
    count = data.count
    strings = _ESCAPED * len(data) if b"\\u" in data else text_cost(data)
    containers = 96 * (count(b"[") + count(b"{"))
    items = 220 * count(b":") + 48 * count(b",") + 28 * count(b'"')
    return len(data) + text_cost(data) + strings + containers + items
