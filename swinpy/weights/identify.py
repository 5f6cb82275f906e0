"""Which of the known models a file's weights belong to."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from swinpy.models.registry import VARIANTS, model_config
from swinpy.weights.describe import config_network, facts_of, geometry_of
from swinpy.weights.dialects import BUFFERS, Translation, buffers_of, to_official
from swinpy.weights.given import WeightsError, read_given

if TYPE_CHECKING:
    import os

    from swinpy.models.config import SwinConfig
    from swinpy.weights.describe import Facts

__all__ = ["check_model", "matching_models", "model_of"]

# Coordinates tables lie within 2 and are float32 in most files, but half precision in some; those of two known windows
# differ by more.
_CLOSE = 1e-2


def _same_buffers(config: SwinConfig, read: Translation) -> bool:
    """Whether the buffers in the file, which depend on window and image size, are those of the configuration."""
    made, _ = buffers_of(geometry_of(config), BUFFERS, flat_index=False)
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
    return [name for name, config in VARIANTS.items() if _same_shapes(config, facts) and _same_buffers(config, read)]


def _windows(config: SwinConfig) -> tuple[int, ...]:
    return tuple(config.window(s)[0] for s in range(len(config.depths)))


def _same_shapes(config: SwinConfig, facts: Facts) -> bool:
    """Whether the weights are the network's, at its window where they depend on it."""
    return config_network(config) == facts.network and (not facts.windows or facts.windows == _windows(config))


def check_model(name: str, read: Translation, where: str, buffers: bool) -> SwinConfig:
    """The configuration of a model that weights are said to be of.

    Args:
        name: the model.
        read: the weights.
        where: what a message calls them.
        buffers: whether those of the file, which depend on window and image size, must be the model's as well.

    Raises:
        WeightsError: they are another model's.
        ValueError: an unknown name.
    """
    config, facts = model_config(name), facts_of(read.arrays)
    known = ", ".join(matching_models(read))
    fix = f"These weights fit {known}." if known else "Leave the model out: no buffers are written then."
    if facts is None or not _same_shapes(config, facts):
        own = f"depths {','.join(map(str, config.depths))}, {config.embed_dim} channels, windows {_windows(config)}"
        raise WeightsError(f"--model: expected weights of {name} ({own}); got {facts} in {where}. {fix}")
    if buffers and not _same_buffers(config, read):
        raise WeightsError(
            f"--model: expected weights of {name}; got {where}, whose buffers are those of another window or image "
            f"size. {fix}"
        )
    return config


def model_of(
    source: str | os.PathLike[str], name: str | None = None, entry: str | None = None, prefix: str | None = None
) -> tuple[str, int]:
    """The model that a file's weights belong to, and its number of classes.

    Args:
        source: a file of weights.
        name: the model, if it is known; its shapes are not compared here.
        entry: part of the file.
        prefix: what comes before the names of the network; None finds it.

    Raises:
        ValueError: for weights of no known model, or of several.
    """
    came = read_given(source, entry)
    read = to_official(came.arrays, prefix=prefix)
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
