"""Dropout and DropPath's scales: the definition, CUDA kernels."""

from autograd.kernels.dropout import cuda as _cuda  # noqa: F401 (puts launchers behind the kernels)
from autograd.kernels.dropout.reference import dropout, keep_scale

__all__ = ["dropout", "keep_scale"]
