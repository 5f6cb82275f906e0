"""What the paper names: windows, and attention within them."""

from swinpy.ops.attention import AttentionSpec, window_attention, window_attention_composite
from swinpy.ops.position import position_bias
from swinpy.ops.window import window_partition, window_reverse

__all__ = [
    "AttentionSpec",
    "position_bias",
    "window_attention",
    "window_attention_composite",
    "window_partition",
    "window_reverse",
]
