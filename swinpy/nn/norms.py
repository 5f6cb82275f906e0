"""Norms over maps: BatchNorm2d with running statistics, GroupNorm. LayerNorm is in ``layers.py``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

import autograd as ag
from autograd.extend import device_scope, replaying
from swinpy.nn.module import Buffer, LayerError, Module, Parameter

if TYPE_CHECKING:
    from autograd.extend import Array

__all__ = ["BatchNorm2d", "GroupNorm"]


class BatchNorm2d(Module):
    """Batch norm over (B, H, W), as torch's with a momentum; weight 1, bias 0, running mean 0 and variance 1.

    In training a batch is normed by its own statistics. They become the running ones, by which evaluation norms, when
    :meth:`Module.commit_statistics` is called.

    Args:
        channels: C.
        eps: added to the variance.
        momentum: the share of a batch in the running statistics.
    """

    def __init__(self, channels: int, eps: float = 1e-5, momentum: float = 0.1) -> None:
        self.weight = Parameter(np.ones(channels, np.float32))
        self.bias = Parameter(np.zeros(channels, np.float32))
        self.running_mean = Buffer(np.zeros(channels, np.float32))
        self.running_var = Buffer(np.ones(channels, np.float32))
        self.eps, self.momentum = eps, momentum
        self._coming: tuple[Array, Array] | None = None  # what the running statistics will be

    def forward(self, x: ag.Tensor) -> ag.Tensor:
        """(B, C, H, W) to the same shape.

        Raises:
            LayerError: in training, for one value a channel, which has no variance.
        """
        if not self.training:
            return ag.batch_norm_eval(x, self.weight, self.bias, self.running_mean, self.running_var, self.eps)
        if x.size <= self.weight.size:
            raise LayerError(
                self,
                f"batch_norm: expected more than one value a channel in training; got x {x.shape} in {{layer}}. Use "
                "larger batches (the last one of an epoch may be left out), or larger images.",
            )
        y, mean, var = ag.batch_norm(x, self.weight, self.bias, self.eps)
        if not replaying():
            before = self._coming or (self.running_mean.data, self.running_var.data)
            self._coming = (self._blend(before[0], mean.data), self._blend(before[1], var.data))
        return y

    def _blend(self, old: Array, new: Array) -> Array:
        with device_scope(old):
            return (old * (1 - self.momentum) + new * self.momentum).astype(old.dtype, copy=False)

    def _settle(self, commit: bool) -> None:
        if commit and self._coming is not None:
            self.running_mean.assign_(self._coming[0])
            self.running_var.assign_(self._coming[1])
        self._coming = None


class GroupNorm(Module):
    """Group norm of (B, C, ...); weight 1, bias 0.

    Args:
        num_groups: divides ``channels``.
        channels: C.
        eps: added to the variance.

    Raises:
        ValueError: for groups that do not divide the channels.
    """

    def __init__(self, num_groups: int, channels: int, eps: float = 1e-5) -> None:
        if num_groups < 1 or channels % num_groups:
            raise ValueError(f"GroupNorm: expected groups that divide the channels; got {num_groups} of {channels}.")
        self.weight = Parameter(np.ones(channels, np.float32))
        self.bias = Parameter(np.zeros(channels, np.float32))
        self.num_groups, self.eps = num_groups, eps

    def forward(self, x: ag.Tensor) -> ag.Tensor:
        """(B, C, ...) to the same shape."""
        return ag.group_norm(x, self.num_groups, self.weight, self.bias, self.eps)
