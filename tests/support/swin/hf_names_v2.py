"""Swin V2's parameter names and configuration as transformers has them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import numpy as np

from .hf_names import hf_config as v1_config

if TYPE_CHECKING:
    from collections.abc import Mapping

    from swinpy import SwinConfig

__all__ = ["from_hf", "hf_config", "to_hf"]

Array = np.ndarray[Any, Any]

_PARTS = ("query", "key", "value")
_RULES = (
    (r"^patch_embed\.proj\.", "swinv2.embeddings.patch_embeddings.projection."),
    (r"^patch_embed\.norm\.", "swinv2.embeddings.norm."),
    (r"^absolute_pos_embed$", "swinv2.embeddings.position_embeddings"),
    (r"^layers\.", "swinv2.encoder.layers."),
    (r"^norm\.", "swinv2.layernorm."),
    (r"^head\.", "classifier."),
    (r"\.attn\.proj\.", ".attention.output.dense."),
    (r"\.attn\.cpb_mlp\.", ".attention.self.continuous_position_bias_mlp."),
    (r"\.attn\.logit_scale$", ".attention.self.logit_scale"),
    (r"\.attn\.q_bias$", ".attention.self.query.bias"),
    (r"\.attn\.v_bias$", ".attention.self.value.bias"),
    (r"\.attn\.(query|key|value)\.", r".attention.self.\1."),
    (r"\.mlp\.fc1\.", ".intermediate.dense."),
    (r"\.mlp\.fc2\.", ".output.dense."),
    (r"\.norm1\.", ".layernorm_before."),
    (r"\.norm2\.", ".layernorm_after."),
)


def _theirs(name: str) -> str:
    for pattern, new in _RULES:
        name = re.sub(pattern, new, name)
    return name


def _split(state: Mapping[str, Array]) -> dict[str, Array]:
    """qkv.weight as three."""
    out = {}
    for name, array in state.items():
        if name.endswith(".qkv.weight"):
            thirds = zip(_PARTS, np.split(array, 3), strict=True)
            out.update({name.replace(".qkv.", f".{part}."): third for part, third in thirds})
        else:
            out[name] = array
    return out


def to_hf(state: Mapping[str, Array]) -> dict[str, Array]:
    """Our arrays under their names."""
    return {_theirs(name): array for name, array in _split(state).items()}


def from_hf(state: Mapping[str, Array], ours: Mapping[str, Array]) -> dict[str, Array]:
    """Their arrays under our names, which are those of ``ours``."""
    out = {}
    for name in ours:
        if name.endswith(".qkv.weight"):
            parts = [state[_theirs(name.replace(".qkv.", f".{part}."))] for part in _PARTS]
            out[name] = np.concatenate(parts)
        else:
            out[name] = state[_theirs(name)]
    return out


def hf_config(config: SwinConfig) -> dict[str, Any]:
    """Keywords of transformers' Swinv2Config; stochastic depth and dropout off."""
    sizes = list(config.pretrained_window_sizes) or [0] * len(config.depths)
    return {**v1_config(config), "pretrained_window_sizes": sizes}
