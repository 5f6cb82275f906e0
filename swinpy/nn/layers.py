"""Linear, LayerNorm, convolutions: parameters with the official initialisation, and the engine's ops."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

import autograd as ag
from swinpy.nn.init import kaiming_uniform, trunc_normal
from swinpy.nn.module import Module, Parameter

__all__ = ["Conv2d", "ConvTranspose2d", "LayerNorm", "Linear"]


class Linear(Module):
    """``x @ weight.T + bias``; weight (out_features, in_features) trunc-normal .02, bias 0."""

    def __init__(self, in_features: int, out_features: int, bias: bool = True) -> None:
        self.weight = Parameter(trunc_normal((out_features, in_features)))
        self.bias = Parameter(np.zeros(out_features, np.float32)) if bias else None

    def forward(self, x: ag.Tensor, defer_bias: bool = False) -> ag.Tensor:
        """(..., in_features) to (..., out_features); ``defer_bias`` as in :func:`ag.linear`."""
        return ag.linear(x, self.weight, self.bias, defer_bias)


class LayerNorm(Module):
    """Layer norm over the last axis; weight 1, bias 0."""

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        self.weight = Parameter(np.ones(channels, np.float32))
        self.bias = Parameter(np.zeros(channels, np.float32))
        self.eps = eps

    def forward(self, x: ag.Tensor) -> ag.Tensor:
        """(..., C) to the same shape."""
        return ag.layer_norm(x, self.weight, self.bias, self.eps)

    def after_residual(
        self, x: ag.Tensor, branch: ag.Tensor, keep: Any = None, y_dtype: np.dtype[Any] | None = None
    ) -> tuple[ag.Tensor, ag.Tensor]:
        """(s, norm of s) with s = x + keep * branch; the arguments are those of :func:`ag.residual_layer_norm`."""
        return ag.residual_layer_norm(x, branch, keep, self.weight, self.bias, self.eps, y_dtype=y_dtype)


class Conv2d(Module):
    """NCHW convolution; weight (O, C, kh, kw) and bias uniform as in torch.

    Args:
        in_channels: C.
        out_channels: O.
        kernel: (kh, kw).
        stride: vertical, horizontal.
        padding: zeros above and below, left and right.
        bias: whether there is one.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: tuple[int, int],
        stride: tuple[int, int] = (1, 1),
        padding: tuple[int, int] = (0, 0),
        bias: bool = True,
    ) -> None:
        fan_in = in_channels * math.prod(kernel)
        self.weight = Parameter(kaiming_uniform((out_channels, in_channels, *kernel), fan_in))
        self.bias = Parameter(kaiming_uniform((out_channels,), fan_in)) if bias else None
        self.stride, self.padding = stride, padding

    def forward(self, x: ag.Tensor) -> ag.Tensor:
        """(B, C, H, W) to (B, O, oh, ow)."""
        return ag.conv2d(x, self.weight, self.bias, stride=self.stride, padding=self.padding)


class ConvTranspose2d(Module):
    """The adjoint of a convolution; weight (C, O, kh, kw) and bias uniform as in torch."""

    def __init__(self, in_channels: int, out_channels: int, kernel: tuple[int, int], stride: tuple[int, int]) -> None:
        fan_in = out_channels * math.prod(kernel)  # torch takes it from the weight's second axis
        self.weight = Parameter(kaiming_uniform((in_channels, out_channels, *kernel), fan_in))
        self.bias = Parameter(kaiming_uniform((out_channels,), fan_in))
        self.stride = stride

    def forward(self, x: ag.Tensor) -> ag.Tensor:
        """(B, C, H, W) to (B, O, (H - 1) stride + kh, ...)."""
        return ag.conv_transpose2d(x, self.weight, self.bias, stride=self.stride)
