"""Many arrays to another float type: the reference, a CUDA kernel."""

from autograd.kernels.casts import cuda as _cuda  # noqa: F401 (registers the launchers)
from autograd.kernels.casts.reference import multi_cast

__all__ = ["multi_cast"]
