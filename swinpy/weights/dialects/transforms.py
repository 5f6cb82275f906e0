"""What dialects do to arrays besides naming them: pure functions on {official name: array}, there and back.

Each pair is exact: ``read(write(state))`` is ``state`` to the bit.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    "FULL_BIAS",
    "LAST_NORM",
    "MAP_POSITION",
    "POSITION_TOKENS",
    "SPLIT_QKV",
    "UNFOLD_MERGE",
    "Conversion",
    "DialectError",
    "State",
]

State = dict[str, np.ndarray[Any, Any]]
Size = tuple[int, int] | None


class DialectError(ValueError):
    """Names or arrays that fit no dialect, or not the one asked for; the message names them."""


@dataclass(frozen=True)
class Conversion:
    """A change of arrays between the official layout and a dialect's.

    Attributes:
        about: one line, for the documentation.
        write: from the official layout, given the size (H, W) of the first map if it is known.
        read: back.
    """

    about: str
    write: Callable[[State, Size], State]
    read: Callable[[State], State]


def _blocks(state: State, ending: str) -> list[str]:
    """What stands before ``ending`` in the names that end so."""
    return [name.removesuffix(ending) for name in state if name.endswith(ending)]


def _thirds(name: str, array: np.ndarray[Any, Any]) -> list[np.ndarray[Any, Any]]:
    if array.ndim < 1 or array.shape[0] % 3:
        raise DialectError(f"dialect: expected {name} to hold query, key and value of one size; got {array.shape}.")
    return np.split(array, 3)


def _same_size(name: str, parts: list[np.ndarray[Any, Any]]) -> np.ndarray[Any, Any]:
    if len({p.shape for p in parts}) != 1:
        shapes = ", ".join(str(p.shape) for p in parts)
        raise DialectError(f"dialect: expected query, key and value of one shape in {name}; got {shapes}.")
    return np.concatenate(parts)


# ---- query, key and value as three layers

_QKV = ("query", "key", "value")


def _split_qkv(state: State, size: Size) -> State:
    out: State = {}
    for name, array in state.items():
        block, _, last = name.rpartition(".attn.")
        if last in ("qkv.weight", "qkv.bias"):
            kind = last.removeprefix("qkv.")
            parts = zip(_QKV, _thirds(name, array), strict=True)
            out |= {f"{block}.attn.{part}.{kind}": third for part, third in parts}
        elif last in ("q_bias", "v_bias"):
            out[f"{block}.attn.{'query' if last == 'q_bias' else 'value'}.bias"] = array
        else:
            out[name] = array
    return out


def _join_qkv(state: State) -> State:
    out: State = {}
    for name, array in state.items():
        block, _, last = name.rpartition(".attn.")
        part, _, kind = last.partition(".")
        if part not in _QKV:
            out[name] = array
            continue
        found = [p for p in _QKV if f"{block}.attn.{p}.{kind}" in state]
        if kind == "bias" and found == ["query", "value"]:
            out[f"{block}.attn.{'q_bias' if part == 'query' else 'v_bias'}"] = array
        elif len(found) < 3:
            gone = [p for p in _QKV if p not in found]
            raise DialectError(
                f"dialect: expected query, key and value {kind} in {block}.attn; got none for {', '.join(gone)}. "
                "The file is not whole."
            )
        elif part == "query":
            parts = [state[f"{block}.attn.{p}.{kind}"] for p in _QKV]
            out[f"{block}.attn.qkv.{kind}"] = _same_size(f"{block}.attn", parts)
    return out


SPLIT_QKV = Conversion("query, key and value are three layers; V2's key has no bias", _split_qkv, _join_qkv)


# ---- V2 with a bias for keys


def _add_key_bias(state: State, _: Size) -> State:
    out: State = {}
    for name, array in state.items():
        if name.endswith(".attn.q_bias"):
            value = state.get(name.replace("q_bias", "v_bias"))
            if value is None:
                raise DialectError(f"dialect: expected {name.replace('q_bias', 'v_bias')} beside {name}; got none.")
            bias = _same_size(name, [array, np.zeros_like(array), value])
            out[name.replace("q_bias", "qkv.bias")] = bias
        elif not name.endswith(".attn.v_bias"):
            out[name] = array
    return out


def _drop_key_bias(state: State) -> State:
    v2 = {f"{block}.attn.qkv.bias" for block in _blocks(state, ".attn.logit_scale")}
    out: State = {}
    for name, array in state.items():
        if name in v2:
            query, _, value = _thirds(name, array)
            out[name.replace("qkv.bias", "q_bias")], out[name.replace("qkv.bias", "v_bias")] = query, value
        else:
            out[name] = array
    return out


FULL_BIAS = Conversion(
    "V2's qkv has one bias (3C); its key third is 0 (and set to 0 in forward: dropped on reading)",
    _add_key_bias,
    _drop_key_bias,
)


# ---- absolute position as a map

_POSITION = "absolute_pos_embed"


def _as_map(state: State, size: Size) -> State:
    table = state.get(_POSITION)
    if table is None or table.ndim != 3:
        return state
    side = math.isqrt(table.shape[1])
    height, width = size or (side, side)
    if height * width != table.shape[1]:
        raise DialectError(
            f"dialect: expected {_POSITION} of a map of {height}x{width} tokens; got {table.shape[1]} tokens. "
            "Save from a model of the image size, which knows the map."
        )
    return {**state, _POSITION: table.reshape(1, height, width, -1).transpose(0, 3, 1, 2)}


def _as_tokens(state: State) -> State:
    table = state.get(_POSITION)
    if table is None or table.ndim != 4:
        return state
    return {**state, _POSITION: table.transpose(0, 2, 3, 1).reshape(1, -1, table.shape[1])}


MAP_POSITION = Conversion("absolute position is a map (1, C, H, W), not tokens (1, H * W, C)", _as_map, _as_tokens)
POSITION_TOKENS = Conversion(
    "a map of absolute positions (a backbone's, taken out) is read", lambda s, _: s, _as_tokens
)


# ---- merging by unfold

# Where the official order of a patch's neighbours, (0,0), (1,0), (0,1), (1,1), is in row-major order.
_ROW_MAJOR = [0, 2, 1, 3]


def _reordered(state: State, change: Callable[[np.ndarray[Any, Any]], np.ndarray[Any, Any]]) -> State:
    """``change`` the last axis of merging's 4C-wide arrays (V2's norm is 2C wide and stays)."""
    out = dict(state)
    for block in _blocks(state, ".downsample.reduction.weight"):
        weight = state[f"{block}.downsample.reduction.weight"]
        if weight.ndim != 2 or weight.shape[1] % 4:
            raise DialectError(
                f"dialect: expected {block}.downsample.reduction.weight of shape (2C, 4C); got {weight.shape}."
            )
        for name in ("reduction.weight", "norm.weight", "norm.bias"):
            array = out.get(f"{block}.downsample.{name}")
            if array is not None and array.shape[-1:] == weight.shape[1:]:
                out[f"{block}.downsample.{name}"] = change(array)
    return out


def _to_unfold(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    lead = array.shape[:-1]
    cells = array.reshape(*lead, 4, -1)[..., _ROW_MAJOR, :]
    return np.ascontiguousarray(np.swapaxes(cells, -1, -2)).reshape(*lead, -1)


def _from_unfold(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    lead = array.shape[:-1]
    cells = np.swapaxes(array.reshape(*lead, -1, 4), -1, -2)[..., _ROW_MAJOR, :]
    return np.ascontiguousarray(cells).reshape(*lead, -1)


UNFOLD_MERGE = Conversion(
    "merging takes a patch's neighbours row by row and channel by channel (index 4c + k), not one after another",
    lambda state, _: _reordered(state, _to_unfold),
    lambda state: _reordered(state, _from_unfold),
)


# ---- the final norm is the last stage's

_STAGE = re.compile(r"layers\.(\d+)\.")
_STAGE_NORM = re.compile(r"norm\d+\.")


def _last_norm(state: State) -> str:
    """The name of the norm of the last stage's output."""
    stages = {int(found[1]) for name in state if (found := _STAGE.match(name))}
    return f"norm{max(stages, default=0)}."


def _as_stage_norm(state: State, size: Size) -> State:
    there = [name for name in state if _STAGE_NORM.match(name)]
    if there:
        raise DialectError(
            f"save_weights: expected no norms of stages for mmpretrain, whose classifiers name the final norm as one; "
            f"got {there[0]}. Use the dialect mmdet, or official."
        )
    last = _last_norm(state)
    return {last + name.removeprefix("norm.") if name.startswith("norm.") else name: a for name, a in state.items()}


def _as_final_norm(state: State) -> State:
    """Files of mmcls's first versions have the final norm's own name already."""
    last = _last_norm(state)
    if any(name.startswith("norm.") for name in state):
        return state
    return {"norm." + name.removeprefix(last) if name.startswith(last) else name: a for name, a in state.items()}


LAST_NORM = Conversion("the final norm has the name of the last stage's", _as_stage_norm, _as_final_norm)
