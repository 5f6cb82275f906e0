"""save_weights: a model's weights as another library has them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import autograd as ag
from swinpy.io import write_weights
from swinpy.weights.describe import geometry_of
from swinpy.weights.dialects import DialectError, find_dialect, from_official
from swinpy.weights.report import SaveReport

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping

    from swinpy.models import SwinTransformer
    from swinpy.models.config import SwinConfig
    from swinpy.weights.dialects import Dialect

__all__ = ["save_weights"]

Array = np.ndarray[Any, Any]


def _without_key_bias(state: Mapping[str, Array], used: bool = True) -> dict[str, Array]:
    """V2's qkv.bias as q_bias and v_bias.

    Args:
        state: by official name.
        used: whether the network adds the keys' third; then it must be 0.

    Raises:
        DialectError: for a key bias that is used and not 0, which no published layout has.
    """
    out = dict(state)
    for name in state:
        if name.endswith(".attn.qkv.bias") and name.replace("qkv.bias", "logit_scale") in state:
            query, key, value = np.split(out.pop(name), 3)
            if used and key.any():
                raise DialectError(
                    f"save_weights: expected no key bias in {name}; got one that is not 0, which published V2 layouts "
                    "have no place for. Use key_bias='none' or 'zeroed', or swinpy.io.write_tensors."
                )
            out[name.replace("qkv.bias", "q_bias")], out[name.replace("qkv.bias", "v_bias")] = query, value
    return out


def save_weights(model: SwinTransformer, path: str | os.PathLike[str], dialect: str = "official") -> SaveReport:
    """Write a model's weights so that another library loads them strictly.

    Args:
        model: any model of this library.
        path: the file; its suffix chooses the container: .safetensors, or .pth, .pt or .bin.
        dialect: "official", "timm", "torchvision", "hf", "detection", ... (:data:`swinpy.weights.dialects.DIALECTS`).

    Returns:
        What was written; print it.

    Raises:
        DialectError: an unknown dialect, or a parameter that it has no place for.
        ValueError: an unknown suffix, or weights that are not finite.
        OSError: the disk refused; a file that was at ``path`` is as it was.
    """
    config = model.config
    state = {name: ag.Tensor(a).numpy() for name, a in model.state_dict().items()}
    for name, array in state.items():
        if not np.isfinite(array).all():
            raise ValueError(
                f"save_weights: expected finite weights; got NaN or infinity in {name}. Nothing was written."
            )
    if config.architecture == "v2":
        state = _without_key_bias(state, used=config.key_bias == "full")
    written = from_official(state, dialect, geometry_of(config, model.dtype.name))
    write_weights(path, written.arrays, find_dialect(dialect).wrapper)
    notes = (*written.notes, *_notes(config, find_dialect(dialect)))
    return SaveReport(str(Path(path)), written.dialect, tuple(written.arrays), written.dropped, notes)


def _notes(config: SwinConfig, dialect: Dialect) -> list[str]:
    """What the file cannot say."""
    if config.architecture != "v2" or config.coordinates == "code":
        return []
    where = (
        "only its tables of coordinates, which whoever computes them anew does not look at, say so"
        if "attn.relative_coords_table" in dialect.buffers
        else "this layout has no place for that"
    )
    return [
        "ATTENTION: the positions were learned in the coordinates of the paper (coordinates='paper'), other libraries "
        f"read them in those of the code, which gives other outputs; {where}. Load it with coordinates='paper'"
    ]
