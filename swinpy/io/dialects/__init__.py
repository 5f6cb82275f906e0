"""Layouts of Swin checkpoints: recognised by their keys, read and written, on plain {name: array}.

``tables.py`` is the reference of the layouts; ``transforms.py`` has what is done to arrays besides naming them.
"""

from swinpy.io.dialects.buffers import Layout
from swinpy.io.dialects.tables import ALIASES, DIALECTS, Dialect
from swinpy.io.dialects.transforms import DialectError
from swinpy.io.dialects.translate import Translation, Written, detect, find_dialect, from_official, to_official

__all__ = [
    "ALIASES",
    "DIALECTS",
    "Dialect",
    "DialectError",
    "Layout",
    "Translation",
    "Written",
    "detect",
    "find_dialect",
    "from_official",
    "to_official",
]
