"""A second Swin V1, written plainly after the official code, in which the usual mistakes can be switched on.

It shares layers and ops with the library and nothing above them: partition, roll, mask, index and merging are its own.
Parameter names are the official ones, so that both load the same weights.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

import autograd as ag
from swinpy.nn import Conv2d, LayerNorm, Linear, Module, ModuleList, Parameter
from swinpy.verify import tap

if TYPE_CHECKING:
    from swinpy import SwinConfig

__all__ = ["FAULTS", "Port"]

FAULTS = (
    "pad_after_roll",  # timm: the seam of the roll lies inside the padded map, and the mask elsewhere
    "window_padded",  # a map smaller than the window is padded up to it instead of the window clamped
    "window_sticks",  # transformers: the clamped window stays when the map grows again
    "stride_of_rows",  # windows are numbered with the number of rows of windows as the stride
    "heads_before_qkv",  # qkv channels read as (heads, 3, d)
    "merge_rows_first",  # neighbours (0,0), (0,1), (1,0), (1,1)
    "index_transposed",  # key minus query
    "no_scale",
    "no_mask",
    "shift_down",  # rolled by +shift, and back by -shift
    "pad_after_qkv",  # padded tokens get zeros for q, k, v
    "tanh_gelu",
    "detached_k",  # no gradient through the keys
    "mixed_batch",  # windows of the images interleaved, and put back without
    "dropout_in_eval",
    "drop_path_constant",
    "drop_path_attention_only",
    "head_before_norm",
)


def _partition(x: Any, w: int) -> Any:
    b, h, width, c = x.shape
    x = x.reshape(b, h // w, w, width // w, w, c)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(-1, w * w, c)


class PortAttention(Module):
    def __init__(self, channels: int, heads: int, window: int, shift: int, config: SwinConfig, fault: str) -> None:
        self.heads, self.window, self.shift, self.fault, self.config = heads, window, shift, fault, config
        self.relative_position_bias_table = Parameter(np.zeros(((2 * window - 1) ** 2, heads)))
        self.qkv, self.proj = Linear(channels, 3 * channels), Linear(channels, channels)

    def bias(self, w: int) -> Any:
        y, x = (c.reshape(-1) for c in np.meshgrid(np.arange(w), np.arange(w), indexing="ij"))
        dy, dx = y[:, None] - y[None, :], x[:, None] - x[None, :]
        if self.fault == "index_transposed":
            dy, dx = dy.T, dx.T
        n = self.window
        index = (dy + n - 1) * (2 * n - 1) + dx + n - 1
        return ag.table_gather(self.relative_position_bias_table, index).transpose(2, 0, 1)

    def mask(self, h: int, width: int, w: int, s: int) -> Any:
        regions = np.zeros((1, h, width, 1))
        edges = (slice(0, -w), slice(-w, -s), slice(-s, None))
        for i, rows in enumerate(edges):
            for j, columns in enumerate(edges):
                regions[:, rows, columns] = 3 * i + j
        flat = _partition(regions, w)[:, :, 0]
        return np.where(flat[:, :, None] == flat[:, None, :], 0.0, -100.0)

    def reverse(self, windows: Any, b: int, h: int, width: int, w: int) -> Any:
        down, across = h // w, width // w
        c = windows.shape[-1]
        windows = windows.reshape(b, down * across, w, w, c)
        if self.fault == "stride_of_rows":
            order = [(i * down + j) % (down * across) for i in range(down) for j in range(across)]
            windows = windows[:, np.array(order)]
        return windows.reshape(b, down, across, w, w, c).transpose(0, 1, 3, 2, 4, 5).reshape(b, h, width, c)

    def forward(self, x: Any) -> Any:
        b, h, width, c = x.shape
        w, s, fault = self.window, self.shift, self.fault
        if min(h, width) <= w:
            s, w = 0, w if fault == "window_padded" else min(h, width)
            if fault == "window_sticks":
                self.window, self.shift = w, 0
        down, right = -h % w, -width % w
        sign = 1 if fault == "shift_down" else -1

        def roll(t: Any) -> Any:
            return ag.roll(t, (sign * s, sign * s), axis=(1, 2)) if s else t

        def pad(t: Any) -> Any:
            return ag.pad(t, ((0, 0), (0, down), (0, right), (0, 0))) if down or right else t

        if fault == "pad_after_qkv":
            windows = _partition(roll(pad(self.qkv(x))), w)
        else:
            windows = self.qkv(_partition(pad(roll(x)) if fault == "pad_after_roll" else roll(pad(x)), w))
        windows = tap("windows", windows)
        count, n = windows.shape[0] // b, w * w
        if fault == "mixed_batch":
            windows = windows.reshape(b, count, n, 3 * c).swapaxes(0, 1).reshape(b * count, n, 3 * c)
        split = (
            (n, self.heads, 3, c // self.heads) if fault == "heads_before_qkv" else (n, 3, self.heads, c // self.heads)
        )
        axes = (3, 0, 2, 1, 4) if fault == "heads_before_qkv" else (2, 0, 3, 1, 4)
        parts = windows.reshape(b * count, *split).transpose(*axes)
        q = parts[0] * (1.0 if fault == "no_scale" else (c // self.heads) ** -0.5)
        q, k, v = tap("q", q), tap("k", parts[1]), tap("v", parts[2])
        keys = k.detach() if fault == "detached_k" else k
        scores = tap("scores", q @ keys.swapaxes(-1, -2) + tap("position_bias", self.bias(w)))
        if s and fault != "no_mask":
            mask = tap("mask", self.mask(h + down, width + right, w, s))
            scores = scores.reshape(b, count, self.heads, n, n) + mask[:, None]
        probs = tap("probs", ag.softmax(scores).reshape(b * count, self.heads, n, n))
        out = (probs @ v).transpose(0, 2, 1, 3).reshape(b * count, n, c)
        out = self.reverse(tap("attended", out), b, h + down, width + right, w)
        if s and fault == "pad_after_roll":
            out = ag.roll(out[:, :h, :width], (s, s), axis=(1, 2))
        elif s:
            out = ag.roll(out, (-sign * s, -sign * s), axis=(1, 2))
        return self.proj(tap("map", out[:, :h, :width]))


class PortMlp(Module):
    def __init__(self, channels: int, hidden: int, fault: str) -> None:
        self.fc1, self.fc2, self.fault = Linear(channels, hidden), Linear(hidden, channels), fault

    def forward(self, x: Any) -> Any:
        y = self.fc1(x)
        if self.fault == "tanh_gelu":
            y = tap("act", 0.5 * y * (1 + ag.tanh(0.7978845608028654 * (y + 0.044715 * y * y * y))))
        else:
            y = ag.gelu(y)
        return ag.dropout(self.fc2(y), 0.1, self.training or self.fault == "dropout_in_eval")


class PortBlock(Module):
    def __init__(self, channels: int, heads: int, window: int, shift: int, rate: float, config: SwinConfig, fault: str):
        self.norm1, self.norm2 = LayerNorm(channels), LayerNorm(channels)
        self.attn = PortAttention(channels, heads, window, shift, config, fault)
        self.mlp = PortMlp(channels, int(channels * config.mlp_ratio), fault)
        self.rate, self.fault = rate, fault

    def forward(self, x: Any) -> Any:
        x = x + ag.drop_path(self.attn(self.norm1(x)), self.rate, self.training)
        drop = self.training and self.fault != "drop_path_attention_only"
        return x + ag.drop_path(self.mlp(self.norm2(x)), self.rate, drop)


class PortMerging(Module):
    def __init__(self, channels: int, fault: str) -> None:
        self.reduction = Linear(4 * channels, 2 * channels, bias=False)
        self.norm, self.fault = LayerNorm(4 * channels), fault

    def forward(self, x: Any) -> Any:
        x = ag.pad(x, ((0, 0), (0, x.shape[1] % 2), (0, x.shape[2] % 2), (0, 0)))
        places = (
            [(0, 0), (0, 1), (1, 0), (1, 1)] if self.fault == "merge_rows_first" else [(0, 0), (1, 0), (0, 1), (1, 1)]
        )
        return self.reduction(self.norm(ag.concatenate([x[:, i::2, j::2] for i, j in places], axis=-1)))


class PortStage(Module):
    def __init__(self, stage: int, config: SwinConfig, rates: list[float], fault: str) -> None:
        channels, heads, w = config.embed_dim * 2**stage, config.num_heads[stage], min(config.window(stage))
        self.blocks = ModuleList(
            [PortBlock(channels, heads, w, w // 2 * (i % 2), rate, config, fault) for i, rate in enumerate(rates)]
        )
        self.downsample = PortMerging(channels, fault) if stage < len(config.depths) - 1 else None

    def forward(self, x: Any) -> Any:
        for block in self.blocks:
            x = block(x)
        return x


class PortEmbed(Module):
    def __init__(self, config: SwinConfig) -> None:
        patch = (config.patch_size, config.patch_size)
        self.proj, self.norm = Conv2d(3, config.embed_dim, patch, patch), LayerNorm(config.embed_dim)

    def forward(self, x: Any) -> Any:
        return self.norm(self.proj(x).transpose(0, 2, 3, 1))


class Port(Module):
    """The model; ``Port(config)`` is right, ``Port(config, fault)`` has one of :data:`FAULTS`."""

    def __init__(self, config: SwinConfig, fault: str = "") -> None:
        if fault and fault not in FAULTS:
            raise ValueError(f"Port: expected a fault among {', '.join(FAULTS)}; got {fault!r}.")
        self.fault = fault
        rates = config.drop_path()
        if fault == "drop_path_constant":
            rates = [[config.drop_path_rate] * len(stage) for stage in rates]
        self.patch_embed = PortEmbed(config)
        self.layers = ModuleList([PortStage(i, config, rates[i], fault) for i in range(len(config.depths))])
        channels = config.embed_dim * 2 ** (len(config.depths) - 1)
        self.norm, self.head = LayerNorm(channels), Linear(channels, config.num_classes)

    def features(self, x: Any) -> Any:
        """The last stage's map (B, H, W, C), normed."""
        x = self.patch_embed(x)
        for stage in self.layers:
            x = stage(x)
            x = x if stage.downsample is None else stage.downsample(x)
        return x if self.fault == "head_before_norm" else self.norm(x)

    def forward(self, x: Any) -> Any:
        return self.head(self.features(x).mean(axis=(1, 2)))
