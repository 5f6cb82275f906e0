"""Kernels of Swin's own ops; importing this registers them."""

from swinpy.kernels.window_attention import window_attention_bwd, window_attention_fwd

__all__ = ["window_attention_bwd", "window_attention_fwd"]
