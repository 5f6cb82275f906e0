"""Dropout and DropPath's scales: the reference, CUDA kernels."""

from autograd.kernels.dropout import cuda as _cuda  # noqa: F401 (registers the launchers)
from autograd.kernels.dropout.reference import dropout, keep_scale

__all__ = ["dropout", "keep_scale"]
