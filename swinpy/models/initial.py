"""Initial values other than the official ones, which the layers draw themselves."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from swinpy.nn.init import normal

if TYPE_CHECKING:
    from swinpy.nn import Module

__all__ = ["redraw_as_hf"]


def redraw_as_hf(model: Module) -> None:
    """Initial values of transformers: weights normal .02, the patch convolution's too; biases and tables zeros.

    Norms and logit scales stay as they are.
    """
    for name, parameter in model.named_parameters():
        if "norm" in name or name.endswith("logit_scale"):
            continue
        if parameter.ndim > 1 and name.endswith("weight"):
            parameter.assign_(normal(parameter.shape))
        else:
            parameter.assign_(np.zeros(parameter.shape, np.float32))
