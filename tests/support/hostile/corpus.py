"""The corpus of hostile weight files: what a case is, and the sound files that they are bent from."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from . import weight_files as made

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    "VECTOR",
    "Case",
    "legal",
    "refused",
    "sound_cifar",
    "sound_legacy",
    "sound_npz",
    "sound_safetensors",
    "sound_tar",
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


def _sound_tree() -> dict[str, Any]:
    """A small training checkpoint: weights, an optimizer, and objects of code that is nobody's business."""
    weights = {
        "w": made.Tensor(),
        "m": made.Tensor("1", 6, (2, 3), (3, 1), kind="LongStorage"),
        "part": made.Tensor(shape=(1,), offset=2),
    }
    config = made.Raw(made.glob("yacs.config", "CfgNode").code + b")\x81}(X\x01\x00\x00\x00aK\x01ub")
    return {
        "model": weights,
        "optimizer": {
            "state": {0: {"step": 3, "exp_avg": made.Tensor()}},
            "param_groups": [{"lr": 0.1, "params": [0]}],
        },
        "epoch": 300,
        "config": config,
        "best": made.call(made.glob("numpy.core.multiarray", "scalar"), b"\0" * 8),
    }


def sound_zip() -> bytes:
    storages = {"0": VECTOR.tobytes(), "1": _MATRIX.tobytes()}
    return made.zip_bytes(made.zip_entries(made.pickled(_sound_tree()), storages))


def sound_legacy() -> bytes:
    return made.legacy_file(_sound_tree(), {"0": (3, VECTOR.tobytes()), "1": (6, _MATRIX.tobytes())}, magic=made.MAGIC)


def sound_tar() -> bytes:
    return made.tar_file(made.tar_members(made.tar_parts(VECTOR)))


def sound_safetensors() -> bytes:
    header = {
        "__metadata__": {"format": "pt"},
        "w": {"dtype": "F32", "shape": [3], "data_offsets": [0, 12]},
        "b": {"dtype": "BF16", "shape": [2, 1], "data_offsets": [12, 16]},
        "m": {"dtype": "I64", "shape": [2, 3], "data_offsets": [16, 64]},
        "none": {"dtype": "F16", "shape": [0, 4], "data_offsets": [64, 64]},
    }
    return made.safetensors_file(header, VECTOR.tobytes() + b"\x80\x3f\x00\xc0" + _MATRIX.tobytes())


def sound_npz() -> bytes:
    out = io.BytesIO()
    meta = np.frombuffer(b'{"seed": 1}', np.uint8)
    np.savez_compressed(out, **{"a": np.arange(3.0), "grad:a": np.ones(3, ">f4"), "__meta__": meta})
    return out.getvalue()


def sound_cifar() -> bytes:
    array = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\0\x85U\1b\x87R"
    array += b"(K\1K\2K\3\x86cnumpy\ndtype\nU\2u1K\0K\1\x87R"
    array += b"(K\3U\1|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\0tb\x89U\6abcdeftb"
    return b"\x80\x02}q\0(U\4dataq\1" + array + b"U\6labels](K\1K\2eU\5names](U\1aU\1beu."
