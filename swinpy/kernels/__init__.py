"""Kernels of Swin's own ops, one room (folder) for each. To import a room registers its kernels."""

from swinpy.kernels.nms import suppress
from swinpy.kernels.paste import sample_windows
from swinpy.kernels.position_bias import position_bias_bwd, position_bias_fwd
from swinpy.kernels.roi_align import roi_align_bwd, roi_align_fwd
from swinpy.kernels.window_attention import window_attention_bwd, window_attention_fwd

__all__ = [
    "position_bias_bwd",
    "position_bias_fwd",
    "roi_align_bwd",
    "roi_align_fwd",
    "sample_windows",
    "suppress",
    "window_attention_bwd",
    "window_attention_fwd",
]
