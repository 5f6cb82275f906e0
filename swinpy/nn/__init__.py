"""Modules and layers on the engine."""

from swinpy.nn.layers import Conv2d, LayerNorm, Linear
from swinpy.nn.module import Module, ModuleList, Parameter, StateDictError, in_mode

__all__ = ["Conv2d", "LayerNorm", "Linear", "Module", "ModuleList", "Parameter", "StateDictError", "in_mode"]
