"""Modules and layers on the engine."""

from swinpy.nn.layers import Conv2d, ConvTranspose2d, LayerNorm, Linear
from swinpy.nn.module import Buffer, LayerError, Module, ModuleList, Parameter, StateDictError, in_mode
from swinpy.nn.norms import BatchNorm2d, GroupNorm

__all__ = [
    "BatchNorm2d",
    "Buffer",
    "Conv2d",
    "ConvTranspose2d",
    "GroupNorm",
    "LayerError",
    "LayerNorm",
    "Linear",
    "Module",
    "ModuleList",
    "Parameter",
    "StateDictError",
    "in_mode",
]
