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


def text_cost(data: bytes) -> int:
    """Of decoding UTF-8. Anything but ASCII may take 4 bytes a letter, beside narrower copies while it is decoded."""
    return len(data) if data.isascii() else 7 * len(data)


def json_cost(data: bytes) -> int:
    """Of parsing JSON, told from its brackets and commas, wherever they stand; the bytes themselves are counted in.

    The text is there twice, as a whole and as strings.

    >>> json_cost(b"[[[]]]") > 3 * 88
    True
    """
    count = data.count
    containers = 96 * (count(b"[") + count(b"{"))
    return 2 * text_cost(data) + len(data) + containers + 220 * count(b":") + 48 * count(b",") + 28 * count(b'"')
