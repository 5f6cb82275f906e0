"""Layouts of Swin checkpoints: recognised by their keys, read and written, on plain {name: array}.

``tables.py`` is the reference of the layouts; ``places.py`` finds them among a file's names; ``transforms.py`` has what
is done to arrays besides naming them.
"""

from swinpy.weights.dialects.buffers import ModelGeometry, buffers_of
from swinpy.weights.dialects.places import Place, detect, find_dialect, find_place
from swinpy.weights.dialects.tables import ALIASES, BUFFERS, DIALECTS, Dialect
from swinpy.weights.dialects.transforms import DialectError
from swinpy.weights.dialects.translate import (
    Translation,
    Written,
    from_official,
    has_place,
    to_official,
)

__all__ = [
    "ALIASES",
    "BUFFERS",
    "DIALECTS",
    "Dialect",
    "DialectError",
    "ModelGeometry",
    "Place",
    "Translation",
    "Written",
    "buffers_of",
    "detect",
    "find_dialect",
    "find_place",
    "from_official",
    "has_place",
    "to_official",
]
