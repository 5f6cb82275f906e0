"""What goes wrong in training without an error: DropPath rates, and parameters that must not decay."""

from __future__ import annotations

import fnmatch
from typing import TYPE_CHECKING, Any

import numpy as np

from swinpy.nn import in_mode
from swinpy.verify.foreign import as_array, require_module
from swinpy.verify.recorder import trace

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from swinpy.nn import Module

__all__ = ["decay_faults", "drop_rates"]

_BRANCHES = ("*.attn", "*.mlp")
# The published recipes decay matrices only; of these, none that is a position table or a scale.
_NEVER = ("absolute_pos_embed", "relative_position_bias_table", "logit_scale", "cpb_mlp", "rpe_mlp", "mask_token")


def drop_rates(
    model: Module, image: Any, *, branches: Iterable[str] = _BRANCHES, samples: int = 256, seed: int = 0
) -> dict[str, float]:
    """Stochastic depth, measured: the share of samples whose branch was dropped, for each branch.

    A batch of one image repeated goes through the model in training mode; the samples that a branch's output has no
    gradient for are those that dropped it. So any implementation of DropPath is seen.

    Args:
        model: each module's mode is put back afterwards.
        image: (C, H, W), or (1, C, H, W).
        branches: shell patterns of the modules whose output is a branch.
        samples: how many; the rates are good to about 1 / sqrt(samples).
        seed: of the draw.

    Returns:
        Rates by module path, in order of execution.

    Raises:
        TypeError: for what is no Module.
        ValueError: if no module matches.
    """
    require_module("drop_rates", model)
    single = as_array(image)
    batch = np.repeat(single.reshape(1, *single.shape[-3:]), samples, axis=0)
    with in_mode(model, training=True):
        seen = trace(model, batch, names=list(branches), seed=seed)
    if not seen.gradients:
        raise ValueError(f"drop_rates: expected modules like {', '.join(branches)}; got none with a gradient.")
    return {
        name: float((~seen.gradients[name].reshape(samples, -1).any(axis=1)).mean())
        for name in seen.names
        if name in seen.gradients
    }


def decay_faults(parameters: Mapping[str, Any], decayed: Iterable[str]) -> list[str]:
    """Names that an optimiser decays and the published recipes do not.

    Args:
        parameters: arrays, Tensors or anything with ``ndim``, by name.
        decayed: the names with weight decay.

    Raises:
        KeyError: for a decayed name that is no parameter.

    >>> weights = {"head.weight": np.ones((2, 3)), "head.bias": np.ones(2), "a.logit_scale": np.ones((2, 1, 1))}
    >>> decay_faults(weights, ["head.weight", "a.logit_scale"])
    ['a.logit_scale']
    """
    names = list(decayed)
    unknown = [name for name in names if name not in parameters]
    if unknown:
        raise KeyError(f"decay_faults: expected names of parameters; got {', '.join(unknown[:5])}.")
    return [
        name
        for name in names
        if parameters[name].ndim <= 1 or any(fnmatch.fnmatchcase(name, f"*{never}*") for never in _NEVER)
    ]
