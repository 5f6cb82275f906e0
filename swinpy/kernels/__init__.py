"""Kernels of Swin's own ops; importing this registers them."""

from autograd.extend import register_compiled, register_cuda
from swinpy.kernels import position_bias_cuda, window_attention_cuda
from swinpy.kernels.position_bias import position_bias_bwd, position_bias_fwd
from swinpy.kernels.window_attention import window_attention_bwd, window_attention_fwd

__all__ = ["position_bias_bwd", "position_bias_fwd", "window_attention_bwd", "window_attention_fwd"]

for _kernel in ("window_attention_fwd", "window_attention_bwd"):
    register_compiled(_kernel, "swinpy.kernels.window_attention_cpu")
    register_cuda(_kernel, "swinpy.kernels.window_attention_cuda", window_attention_cuda.can_run)
register_cuda("position_bias_fwd", "swinpy.kernels.position_bias_cuda", position_bias_cuda.can_run_fwd)
register_cuda("position_bias_bwd", "swinpy.kernels.position_bias_cuda", position_bias_cuda.can_run_bwd)
