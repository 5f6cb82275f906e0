"""The buffers of published checkpoints that a model here has not: functions of the geometry, counters of batches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from swinpy.geometry import Pair, attention_mask, geometry, log_coordinates, relative_position_index

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from swinpy.geometry import Coordinates

__all__ = ["ModelGeometry", "batch_counters", "buffers_of"]

Array = np.ndarray[Any, Any]

_MASKED = -100.0


@dataclass(frozen=True)
class ModelGeometry:
    """The geometry of a model as built.

    Attributes:
        depths: blocks of each stage.
        maps: (H, W) in tokens of each stage.
        windows: (Wh, Ww) of each stage.
        pretrained: the window that scales V2's coordinates in each stage.
        attention: "v1", "v2" (with a table of coordinates) or "none" (Swin-MLP: no buffers).
        relative: whether there is a relative position bias.
        shift: whether every second block is shifted.
        dtype: of the float buffers.
        formula: of V2's coordinates.
    """

    depths: tuple[int, ...]
    maps: tuple[Pair, ...]
    windows: tuple[Pair, ...]
    pretrained: tuple[Pair, ...] = ()
    attention: Literal["v1", "v2", "none"] = "v1"
    relative: bool = True
    shift: bool = True
    dtype: str = "float32"
    formula: Coordinates = "code"


def _stage(model: ModelGeometry, stage: int, flat_index: bool) -> Iterator[tuple[str, Array, bool]]:
    """(name under the block, array, of shifted blocks only)."""
    window, size = model.windows[stage], model.maps[stage]
    if model.attention == "none":
        return
    if model.relative:
        index = np.array(relative_position_index(window, window))
        yield "attn.relative_position_index", index.reshape(-1) if flat_index else index, False
    if model.relative and model.attention == "v2":
        pretrained = model.pretrained[stage] if model.pretrained else window
        table = log_coordinates(window, pretrained, model.formula).reshape(1, 2 * window[0] - 1, 2 * window[1] - 1, 2)
        yield "attn.relative_coords_table", table.astype(model.dtype), False
    # The original code shifts neither axis where the window covers the smaller side of the map.
    shift = model.shift and min(size) > min(window)
    if shift and not any(n % w for n, w in zip(size, window, strict=True)):
        cut = geometry(size, window, (window[0] // 2, window[1] // 2))
        mask = attention_mask(cut, _MASKED)
        if mask is not None:
            yield "attn_mask", mask.astype(model.dtype), True


def buffers_of(
    model: ModelGeometry, wanted: tuple[str, ...], flat_index: bool
) -> tuple[dict[str, Array], tuple[str, ...]]:
    """Buffers by official name, and notes about those that cannot be made."""
    made: dict[str, Array] = {}
    notes = []
    for stage, depth in enumerate(model.depths):
        for name, array, shifted in _stage(model, stage, flat_index):
            if name in wanted:
                blocks = range(depth)[1::2] if shifted else range(depth)
                made |= {f"layers.{stage}.blocks.{block}.{name}": array for block in blocks}
        size, window = model.maps[stage], model.windows[stage]
        if (
            "attn_mask" in wanted
            and model.attention != "none"
            and any(n % w for n, w in zip(size, window, strict=True))
        ):
            notes.append(
                f"no attn_mask in stage {stage}: its map of {size[0]}x{size[1]} is not whole windows of "
                f"{window[0]}x{window[1]}, which such models need"
            )
    return made, tuple(notes)


def batch_counters(names: Iterable[str]) -> dict[str, Array]:
    """torch's ``num_batches_tracked`` for each batch norm among a file's names, so that it has all of torch's keys.

    Each is 0: only averages without a momentum look at it.
    """
    layers = [name.removesuffix("running_mean") for name in names if name.endswith(".running_mean")]
    return {f"{layer}num_batches_tracked": np.zeros((), np.int64) for layer in layers}
