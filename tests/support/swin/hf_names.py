"""Swin V1's parameter names and configuration as transformers 5 has them in memory (its files keep older names)."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

    from swinpy import SwinConfig

__all__ = ["from_hf", "hf_config", "to_hf"]

Array = np.ndarray[Any, Any]

_QKV = ("q_proj", "k_proj", "v_proj")
_OURS = re.compile(r"^(.*)\.attn\.qkv\.(weight|bias)$")
_THEIRS = re.compile(r"^(.*)\.attention\.q_proj\.(weight|bias)$")

_PAIRS = (
    (".attn.proj.", ".attention.o_proj."),
    (".attn.relative_position_bias_table", ".attention.relative_position_bias.relative_position_bias_table"),
    (".norm1.", ".layernorm_before."),
    (".norm2.", ".layernorm_after."),
)
_WHOLE = (
    ("patch_embed.proj.", "swin.embeddings.patch_embeddings.projection."),
    ("patch_embed.norm.", "swin.embeddings.norm."),
    ("absolute_pos_embed", "swin.embeddings.position_embeddings"),
    ("layers.", "swin.encoder.layers."),
    ("norm.", "swin.layernorm."),
    ("head.", "classifier."),
)


def _theirs(name: str) -> str:
    for ours, theirs in _WHOLE:
        if name.startswith(ours):
            name = theirs + name[len(ours) :]
            break
    for ours, theirs in _PAIRS:
        name = name.replace(ours, theirs)
    return name


def _ours(name: str) -> str:
    for ours, theirs in _PAIRS:
        name = name.replace(theirs, ours)
    for ours, theirs in _WHOLE:
        if name.startswith(theirs):
            return ours + name[len(theirs) :]
    return name


def to_hf(state: Mapping[str, Array]) -> dict[str, Array]:
    """Our arrays under their names; qkv split into three."""
    out = {}
    for name, array in state.items():
        match = _OURS.match(name)
        if match is None:
            out[_theirs(name)] = array
            continue
        block, kind = match.groups()
        for part, third in zip(_QKV, np.split(array, 3), strict=True):
            out[f"{_theirs(block)}.attention.{part}.{kind}"] = third
    return out


def from_hf(state: Mapping[str, Array]) -> dict[str, Array]:
    """Their arrays under our names; query, key and value joined."""
    out = {}
    for name, array in state.items():
        match = _THEIRS.match(name)
        if match is not None:
            block, kind = match.groups()
            parts = [state[f"{block}.attention.{part}.{kind}"] for part in _QKV]
            out[f"{_ours(block)}.attn.qkv.{kind}"] = np.concatenate(parts)
        elif not any(f".{part}." in name for part in _QKV):
            out[_ours(name)] = array
    return out


def hf_config(config: SwinConfig) -> dict[str, Any]:
    """Keywords of transformers' SwinConfig; stochastic depth and dropout off."""
    return {
        "image_size": config.image,
        "patch_size": config.patch_size,
        "num_channels": config.in_chans,
        "num_labels": config.num_classes,
        "embed_dim": config.embed_dim,
        "depths": list(config.depths),
        "num_heads": list(config.num_heads),
        "window_size": config.window_size,
        "mlp_ratio": config.mlp_ratio,
        "qkv_bias": config.qkv_bias,
        "use_absolute_embeddings": config.position in ("absolute", "both"),
        "layer_norm_eps": config.layer_norm_eps,
        "drop_path_rate": 0.0,
    }
