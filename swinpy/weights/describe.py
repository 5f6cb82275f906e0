"""What network a set of weights belongs to, told from names and shapes; and the geometry of a configuration."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from swinpy.weights.dialects import ModelGeometry
from swinpy.weights.fit import square_window

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np

    from swinpy.models.config import SwinConfig

__all__ = ["Facts", "config_network", "facts_of", "geometry_of"]

_BLOCK = re.compile(r"layers\.(\d+)\.blocks\.(\d+)\.(.*)")


_NAMES = {"v1": "V1", "v2": "V2", "mlp": "MLP"}


@dataclass(frozen=True)
class Facts:
    """What names and shapes tell; 0 or () for what they do not.

    Attributes:
        architecture: "v1", "v2" or "mlp".
        embed_dim: C of the first stage.
        patch_size: pixels a side.
        depths: blocks of each stage.
        num_heads: heads of each stage.
        windows: side of each stage's window; () where the weights do not depend on it (V2).
        num_classes: outputs of the head; 0 without one.
        absolute: whether there is an absolute position.
    """

    architecture: Literal["v1", "v2", "mlp"]
    embed_dim: int
    patch_size: int
    depths: tuple[int, ...]
    num_heads: tuple[int, ...]
    windows: tuple[int, ...]
    num_classes: int
    absolute: bool

    @property
    def network(self) -> tuple[Any, ...]:
        """What resizing and another head cannot change."""
        return self.architecture, self.embed_dim, self.patch_size, self.depths, self.num_heads

    def __str__(self) -> str:
        window = f", windows {_short(self.windows)}" if self.windows else ""
        head = f", {self.num_classes} classes" if self.num_classes else ", no head"
        absolute = ", absolute position" if self.absolute else ""
        return (
            f"Swin {_NAMES[self.architecture]}, patch {self.patch_size}, {self.embed_dim} channels, "
            f"depths {_short(self.depths)}, heads {_short(self.num_heads)}{window}{absolute}{head}"
        )


def _short(numbers: tuple[int, ...]) -> str:
    return ",".join(map(str, numbers))


def facts_of(state: Mapping[str, np.ndarray[Any, Any]]) -> Facts | None:
    """Of arrays under official names; None if they are no whole Swin."""
    depths: dict[int, int] = {}
    heads: dict[int, int] = {}
    windows: dict[int, int] = {}
    architecture: Literal["v1", "v2", "mlp"] = "v1"
    for name, array in state.items():
        found = _BLOCK.fullmatch(name)
        if found is None:
            continue
        stage, block, part = int(found[1]), int(found[2]), found[3]
        depths[stage] = max(depths.get(stage, 0), block + 1)
        if part == "attn.relative_position_bias_table" and array.ndim == 2:
            windows[stage], heads[stage] = square_window(array.shape[0]), array.shape[1]
        elif part == "attn.logit_scale":
            architecture, heads[stage] = "v2", array.size
        elif part == "spatial_mlp.weight" and array.ndim == 3:
            side = math.isqrt(array.shape[1])
            architecture, windows[stage], heads[stage] = "mlp", side, array.shape[0] // max(1, array.shape[1])
    patch = state.get("patch_embed.proj.weight")
    if patch is None or patch.ndim != 4 or sorted(depths) != list(range(len(depths))):
        return None
    head = state.get("head.weight")
    return Facts(
        architecture,
        patch.shape[0],
        patch.shape[2],
        tuple(depths[s] for s in sorted(depths)),
        tuple(heads.get(s, 0) for s in sorted(depths)),
        tuple(windows[s] for s in sorted(windows)),
        head.shape[0] if head is not None and head.ndim == 2 else 0,
        "absolute_pos_embed" in state,
    )


def config_network(config: SwinConfig) -> tuple[Any, ...]:
    """:attr:`Facts.network` of a configuration."""
    return config.architecture, config.embed_dim, config.patch_size, config.depths, config.num_heads


def geometry_of(config: SwinConfig, dtype: str = "float32") -> ModelGeometry:
    """The geometry that other libraries store in buffers."""
    stages = range(len(config.depths))
    return ModelGeometry(
        depths=config.depths,
        maps=tuple(config.map_size(s) for s in stages),
        windows=tuple(config.window(s) for s in stages),
        pretrained=tuple(config.pretrained_window(s) for s in stages),
        attention="none" if config.architecture == "mlp" else config.architecture,
        relative=config.position in ("relative", "both"),
        shift=config.shift,
        dtype=dtype,
        formula=config.coordinates,
    )
