"""Many arrays to another float type: the definition, a CUDA kernel."""

from autograd.kernels.casts import cuda as _cuda  # noqa: F401 (puts launchers behind the kernels)
from autograd.kernels.casts.reference import multi_cast

__all__ = ["multi_cast"]
