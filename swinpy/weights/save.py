"""save_weights: a model's weights as another library has them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import autograd as ag
from swinpy.io import has_metadata, write_weights
from swinpy.weights.describe import geometry_of
from swinpy.weights.dialects import DialectError, find_dialect, from_official
from swinpy.weights.info import ModelInfo
from swinpy.weights.report import SaveReport

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping

    from swinpy.models import SwinTransformer
    from swinpy.models.config import SwinConfig
    from swinpy.weights.dialects import Dialect, Written

__all__ = ["save_weights", "write_with_info"]

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


def write_with_info(path: str | os.PathLike[str], written: Written, info: ModelInfo | None) -> list[str]:
    """Write what a dialect made of weights, and what is known of them; what is lost of that, for a report."""
    wrapper = find_dialect(written.dialect).wrapper
    if info is not None and "head.weight" in written.dropped:
        info = replace(info, config=info.config.with_changes(num_classes=0), class_names=())
    size = sum(array.nbytes for array in written.arrays.values())
    write_weights(path, written.arrays, wrapper, info.metadata(size) if info else None)
    if info is None or has_metadata(path, wrapper):
        return []
    return [
        "a torch file of this layout has no place for configuration, preparation and class names: write .safetensors "
        "to keep them"
    ]


def save_weights(
    model: SwinTransformer, path: str | os.PathLike[str], dialect: str = "official", info: ModelInfo | None = None
) -> SaveReport:
    """Write a model's weights so that another library loads them strictly, and :func:`load_model` knows what they are.

    Args:
        model: any model of this library.
        path: the file; its suffix chooses the container: .safetensors, or .pth, .pt or .bin.
        dialect: "official", "timm", "torchvision", "hf", "detection", ... (:data:`swinpy.weights.dialects.DIALECTS`).
        info: how images are prepared, the names of the classes and what trained the model, as :func:`load_model` gives
            it; the configuration is always the model's. A torch file that is a dict of tensors alone has no place for
            it, and the report says so.

    Returns:
        What was written; print it.

    Raises:
        DialectError: an unknown dialect, or a parameter that it has no place for.
        ValueError: an unknown suffix, weights that are not finite, or more class names than classes.
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
    told = replace(info, config=config) if info else ModelInfo(config)
    lost = write_with_info(path, written, told)
    notes = (*written.notes, *_notes(config, find_dialect(dialect)), *(lost if info else []))
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
