"""The corpus of hostile weight files: what a case is, and the sound files that they are bent from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from .weight_files import (
    MAGIC,
    Raw,
    Tensor,
    call,
    glob,
    legacy_file,
    pickled,
    safetensors_file,
    tar_file,
    tar_members,
    tar_parts,
    zip_bytes,
    zip_entries,
)

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    "VECTOR",
    "Case",
    "legal",
    "refused",
    "sound_legacy",
    "sound_safetensors",
    "sound_tar",
    "sound_tree",
    "sound_zip",
]

VECTOR = np.array([1.5, -2.0, 3.25], np.float32)
_MATRIX = np.arange(6, dtype=np.int64).reshape(2, 3)


@dataclass(frozen=True)
class Case:
    """One file.

    Attributes:
        name: of the case.
        make: its bytes.
        match: a pattern in the refusal; empty for a legal file.
        expected: what a legal file holds.
    """

    name: str
    make: Callable[[], bytes]
    match: str = ""
    expected: dict[str, Any] | None = None

    def __repr__(self) -> str:
        return self.name


def refused(name: str, make: Callable[[], bytes] | bytes, match: str) -> Case:
    return Case(name, make if callable(make) else (lambda: make), match)


def legal(name: str, make: Callable[[], bytes] | bytes, **expected: Any) -> Case:
    return Case(name, make if callable(make) else (lambda: make), "", expected)


def sound_tree() -> dict[str, Any]:
    """A small training checkpoint: weights, an optimizer, and objects of code that is nobody's business."""
    weights = {
        "w": Tensor(),
        "m": Tensor("1", 6, (2, 3), (3, 1), kind="LongStorage"),
        "part": Tensor(shape=(1,), offset=2),
    }
    config = Raw(glob("yacs.config", "CfgNode").code + b")\x81}(X\x01\x00\x00\x00aK\x01ub")
    return {
        "model": weights,
        "optimizer": {"state": {0: {"step": 3, "exp_avg": Tensor()}}, "param_groups": [{"lr": 0.1, "params": [0]}]},
        "epoch": 300,
        "config": config,
        "best": call(glob("numpy.core.multiarray", "scalar"), b"\0" * 8),
    }


def sound_zip() -> bytes:
    storages = {"0": VECTOR.tobytes(), "1": _MATRIX.tobytes()}
    return zip_bytes(zip_entries(pickled(sound_tree()), storages))


def sound_legacy() -> bytes:
    return legacy_file(sound_tree(), {"0": (3, VECTOR.tobytes()), "1": (6, _MATRIX.tobytes())}, magic=MAGIC)


def sound_tar() -> bytes:
    return tar_file(tar_members(tar_parts(VECTOR)))


def sound_safetensors() -> bytes:
    header = {
        "__metadata__": {"format": "pt"},
        "w": {"dtype": "F32", "shape": [3], "data_offsets": [0, 12]},
        "b": {"dtype": "BF16", "shape": [2, 1], "data_offsets": [12, 16]},
        "m": {"dtype": "I64", "shape": [2, 3], "data_offsets": [16, 64]},
        "none": {"dtype": "F16", "shape": [0, 4], "data_offsets": [64, 64]},
    }
    return safetensors_file(header, VECTOR.tobytes() + b"\x80\x3f\x00\xc0" + _MATRIX.tobytes())
