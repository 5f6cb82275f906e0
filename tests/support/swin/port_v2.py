"""The parts of Swin V2 in which implementations go wrong, after the official code, with faults to switch on."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

import autograd as ag
from swinpy.nn import Linear, Module, Parameter
from swinpy.verify import tap

__all__ = ["FAULTS", "PortV2Attention", "log_coordinates"]

FAULTS = (
    "half_eps",  # rows normalised in float16 with eps 1e-12, which is 0 there
    "zero_range",  # coordinates of a window of one token are 0 / 0
    "natural_log",  # sign log(1 + |d|), without the division by log 8
    "no_clamp",  # logit_scale may pass ln 100
    "sigmoid_only",  # 16 sigmoid without the 16
)


def log_coordinates(window: int, fault: str = "") -> Any:
    """(2w - 1, 2w - 1, 2) offsets in [-8, 8], log-spaced."""
    offsets = np.arange(1 - window, window, dtype=np.float64)
    d = np.stack(np.meshgrid(offsets, offsets, indexing="ij"), axis=-1)
    if window > 1 or fault == "zero_range":
        with np.errstate(invalid="ignore"):
            d = d / (window - 1) * 8
    logs = np.sign(d) * np.log1p(abs(d))
    return logs if fault == "natural_log" else logs / math.log(8)


class PortV2Attention(Module):
    """Cosine attention in unshifted windows, the map padded with zeros: (B, H, W, C) to the same."""

    def __init__(self, channels: int, heads: int, window: int, fault: str = "") -> None:
        if fault and fault not in FAULTS:
            raise ValueError(f"PortV2Attention: expected a fault among {', '.join(FAULTS)}; got {fault!r}.")
        self.heads, self.window, self.fault = heads, window, fault
        self.qkv = Linear(channels, 3 * channels, bias=False)  # no key bias: padded keys are zero
        self.cpb_mlp = CpbMlp(heads, fault)
        self.logit_scale = Parameter(np.full((heads, 1, 1), math.log(10.0)))

    def normalized(self, x: Any) -> Any:
        if self.fault != "half_eps":
            return ag.l2_normalize(x)
        norm = ag.sqrt((x * x).sum(axis=-1, keepdims=True))
        with np.errstate(divide="ignore", invalid="ignore"):
            return x / ag.maximum(norm, ag.Tensor(np.full((1,), 1e-12).astype(x.dtype)))

    def forward(self, x: Any) -> Any:
        b, h, width, c = x.shape
        w, n = self.window, self.window**2
        padded = ag.pad(x, ((0, 0), (0, -h % w), (0, -width % w), (0, 0)))
        down, across = padded.shape[1] // w, padded.shape[2] // w
        windows = padded.reshape(b, down, w, across, w, c).transpose(0, 1, 3, 2, 4, 5).reshape(-1, n, c)
        q, k, v = self.qkv(windows).reshape(-1, n, 3, self.heads, c // self.heads).transpose(2, 0, 3, 1, 4)
        q, k = tap("q", self.normalized(q)), tap("k", self.normalized(k))
        limit = 1e9 if self.fault == "no_clamp" else math.log(100.0)
        scale = tap("scale", ag.exp(ag.clip(self.logit_scale, max=limit)))
        scores = (q @ k.swapaxes(-1, -2)) * scale + tap("position_bias", self.cpb_mlp(w))
        probs = tap("probs", ag.softmax(scores))
        out = tap("attended", (probs @ v).transpose(0, 2, 1, 3).reshape(-1, n, c))
        out = out.reshape(b, down, across, w, w, c).transpose(0, 1, 3, 2, 4, 5).reshape(padded.shape)
        return out[:, :h, :width]


class CpbMlp(Module):
    def __init__(self, heads: int, fault: str) -> None:
        self.first, self.second, self.fault = Linear(2, 16), Linear(16, heads, bias=False), fault

    def forward(self, window: int) -> Any:
        table = tap("coordinates", ag.Tensor(log_coordinates(window, self.fault).astype(self.dtype)))
        bias = self.second(ag.relu(self.first(table)))
        bias = ag.sigmoid(bias) * (1 if self.fault == "sigmoid_only" else 16)
        y, x = (i.reshape(-1) for i in np.indices((window, window)))
        rows, columns = y[:, None] - y + window - 1, x[:, None] - x + window - 1
        return bias[rows, columns].transpose(2, 0, 1)
