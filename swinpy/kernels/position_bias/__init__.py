"""The position bias of window attention: the reference, CUDA kernels."""

from swinpy.kernels.position_bias import cuda as _cuda  # noqa: F401 (registers the launchers)
from swinpy.kernels.position_bias.reference import position_bias_bwd, position_bias_fwd

__all__ = ["position_bias_bwd", "position_bias_fwd"]
