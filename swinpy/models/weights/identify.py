"""Which of the known models a file's weights belong to."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from swinpy.io.dialects import BUFFERS, Translation, buffers_of, to_official
from swinpy.models.registry import VARIANTS, model_config
from swinpy.models.weights.arrays import WeightsError, read_source
from swinpy.models.weights.describe import config_network, facts_of, layout_of

if TYPE_CHECKING:
    import os

    from swinpy.models.config import SwinConfig

__all__ = ["matching_models", "model_of"]

# Coordinates tables are float32 in files.
_CLOSE = 1e-5


def _same_buffers(config: SwinConfig, read: Translation) -> bool:
    """Whether the buffers in the file, which depend on window and image size, are those of the configuration."""
    made, _ = buffers_of(layout_of(config), BUFFERS, flat_index=False)
    for name, array in read.buffers.items():
        mine = made.get(name)
        if mine is None:
            return False
        if mine.size != array.size or not np.allclose(mine.ravel(), array.ravel(), rtol=0, atol=_CLOSE):
            return False
    return True


def matching_models(read: Translation) -> list[str]:
    """Names of the models whose shapes (but the head's) and buffers these weights have."""
    facts = facts_of(read.arrays)
    if facts is None:
        return []
    names = []
    for name, config in VARIANTS.items():
        windows = tuple(config.window(s)[0] for s in range(len(config.depths)))
        if config_network(config) != facts.network or (facts.windows and facts.windows != windows):
            continue
        if _same_buffers(config, read):
            names.append(name)
    return names


def model_of(source: str | os.PathLike[str], name: str | None = None, entry: str | None = None) -> tuple[str, int]:
    """The model that a file's weights belong to, and its number of classes.

    Args:
        source: a file of weights.
        name: the model, if it is known; its shapes are not compared here.
        entry: part of the file.

    Raises:
        ValueError: for weights of no known model, or of several.
    """
    came = read_source(source, entry)
    read = to_official(came.arrays)
    facts = facts_of(read.arrays)
    classes = facts.num_classes if facts else 0
    if name is not None:
        model_config(name)
        return name, classes
    names = matching_models(read)
    if len(names) == 1:
        return names[0], classes
    if names:
        raise WeightsError(
            f"--model: expected weights that tell their model; got {facts} in {came.where}, which fits "
            f"{', '.join(names)}: they differ in window or image size, of which these weights say nothing. "
            f"Choose one with --model."
        )
    raise WeightsError(
        f"--model: expected weights of a known model; got {facts or 'no whole Swin'} in {came.where}. "
        "See 'python -m swinpy list'; other configurations can be loaded with swinpy.load_weights."
    )
