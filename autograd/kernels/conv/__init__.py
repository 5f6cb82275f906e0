"""2-D convolution: the reference."""

from autograd.kernels.conv.reference import conv2d_bwd, conv2d_fwd, output_size

__all__ = ["conv2d_bwd", "conv2d_fwd", "output_size"]
