"""What the paper names (windows, and attention within them), and RoIAlign for detectors."""

from swinpy.ops.attention import AttentionSpec, window_attention, window_attention_composite
from swinpy.ops.position import position_bias
from swinpy.ops.roi_align import pool_levels, roi_align
from swinpy.ops.window import window_partition, window_reverse

__all__ = [
    "AttentionSpec",
    "pool_levels",
    "position_bias",
    "roi_align",
    "window_attention",
    "window_attention_composite",
    "window_partition",
    "window_reverse",
]
