"""Kernels of Swin's own ops; importing this registers them."""

from autograd.extend import register_compiled, register_cuda
from swinpy.kernels.window_attention import window_attention_bwd, window_attention_fwd
from swinpy.kernels.window_attention_cuda import can_run

__all__ = ["window_attention_bwd", "window_attention_fwd"]

for _kernel in ("window_attention_fwd", "window_attention_bwd"):
    register_compiled(_kernel, "swinpy.kernels.window_attention_cpu")
    register_cuda(_kernel, "swinpy.kernels.window_attention_cuda", can_run)
