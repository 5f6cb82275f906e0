"""Initial values, drawn on the host from the default generator, so that they do not depend on the device."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from autograd.random import default_generator, host_generator

if TYPE_CHECKING:
    from swinpy.nn.module import Module

__all__ = ["kaiming_uniform", "normal", "redraw_as_hf", "trunc_normal", "xavier_uniform"]

Array = np.ndarray[Any, Any]


def _generator(n: int) -> np.random.Generator:
    return host_generator(*default_generator.reserve(n))


def trunc_normal(shape: tuple[int, ...], std: float = 0.02, low: float = -2.0, high: float = 2.0) -> Array:
    """Normal values redrawn until they lie in [low, high], float32.

    The bounds are absolute, not multiples of std, as in the official code: with Swin's std of .02 no value reaches
    them.
    """
    rng = _generator(math.prod(shape))
    values = rng.standard_normal(shape, dtype=np.float32) * np.float32(std)
    while (outside := (values < low) | (values > high)).any():
        values[outside] = rng.standard_normal(int(outside.sum()), dtype=np.float32) * np.float32(std)
    return values


def normal(shape: tuple[int, ...], std: float = 0.02) -> Array:
    """Normal values, float32."""
    return _generator(math.prod(shape)).standard_normal(shape, dtype=np.float32) * np.float32(std)


def kaiming_uniform(shape: tuple[int, ...], fan_in: int) -> Array:
    """Uniform on +-1/sqrt(fan_in), float32: the default of convolutions and linear layers in torch (a = sqrt 5)."""
    bound = 1 / math.sqrt(fan_in)
    return _generator(math.prod(shape)).uniform(-bound, bound, shape).astype(np.float32)


def xavier_uniform(shape: tuple[int, ...]) -> Array:
    """Uniform on +-sqrt(6 / (fan_in + fan_out)) of a weight (O, C, kh, kw), float32: mmdetection's for pyramids."""
    bound = math.sqrt(6 / (math.prod(shape[2:]) * (shape[0] + shape[1])))
    return _generator(math.prod(shape)).uniform(-bound, bound, shape).astype(np.float32)


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
