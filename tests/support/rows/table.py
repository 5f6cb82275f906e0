"""The whole table: importing this module registers every row."""

from __future__ import annotations

import importlib
import importlib.util

from . import elementwise, indexing, linalg, losses, nn, norms, patches, reduce, resize, shaping, train
from .kernels import KERNEL_ROWS
from .opinfo import OpInfo, find, rows

__all__ = ["KERNEL_ROWS", "OpInfo", "cases", "find", "rows"]

_MODULES = [elementwise, indexing, linalg, losses, nn, norms, patches, reduce, resize, shaping, train]

# Rows of primitives that are not the engine's own live beside the others and register in the same way.
if importlib.util.find_spec("support.rows.swin") is not None:
    _MODULES += [importlib.import_module(f"support.rows.{area}") for area in ("swin", "detection")]


def cases() -> list[tuple[OpInfo, str]]:
    """Every (row, case name)."""
    return [(info, case) for info in rows() for case in info.samples]
