"""Parameter names of torchvision's Swins."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["to_tv", "tv_name"]

_RULES: tuple[tuple[str, Any], ...] = (
    (r"^patch_embed\.proj\.", "features.0.0."),
    (r"^patch_embed\.norm\.", "features.0.2."),
    (r"^layers\.(\d+)\.blocks\.", lambda m: f"features.{2 * int(m[1]) + 1}."),
    (r"^layers\.(\d+)\.downsample\.", lambda m: f"features.{2 * int(m[1]) + 2}."),
    (r"\.mlp\.fc1\.", ".mlp.0."),
    (r"\.mlp\.fc2\.", ".mlp.3."),
)


def tv_name(name: str) -> str:
    """Their name of one of our parameters."""
    for pattern, new in _RULES:
        name = re.sub(pattern, new, name)
    return name


def to_tv(state: Mapping[str, Any]) -> dict[str, Any]:
    """Our arrays under their names."""
    return {tv_name(name): array for name, array in state.items()}
