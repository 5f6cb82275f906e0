"""The handwritten kernels at the shapes of a Swin stage, with values that are made on the device, and their clock."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np

from autograd.dtypes import as_dtype
from autograd.kernels import (
    KERNELS,
    adamw,
    casts,
    cross_entropy,
    dropout,
    gelu,
    layer_norm,
    linear,
    mlp,
    patches,
    softmax,
)
from swinpy.geometry import geometry, position_index
from swinpy.kernels import position_bias, window_attention
from swinpy.ops import AttentionSpec

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from autograd.kernels import Kernel

__all__ = ["ARGUMENTS", "EventClock", "Sizes", "calls", "measure", "random_bits", "random_values", "seconds_of"]

Call = tuple[tuple[Any, ...], dict[str, Any]]
# Seconds. Shorter calls, and those that keep the host as busy as the GPU, are timed in groups behind other work.
SHORT = 200e-6
L2_SHARE = 3  # the sets of arguments together are at least this many times the L2 cache
MOST_SETS = 8


@dataclass(frozen=True)
class Sizes:
    """Shapes of one stage; the defaults are Swin-T's first at 224.

    Attributes:
        batch: images.
        side: of the map.
        channels, heads, window: of the stage.
        classes: of the loss.
        parameters: of the optimiser's step.
        dtype: of activations.
    """

    batch: int = 256
    side: int = 56
    channels: int = 96
    heads: int = 3
    window: int = 7
    classes: int = 1000
    parameters: int = 28_288_354
    dtype: str = "float16"


# ---- values


def random_bits(cupy: Any, count: int, seed: int) -> Any:
    """(count,) uint32 that look drawn: a hash of their index. CuPy's generators would need a library more."""
    bits = cupy.arange(count, dtype=np.uint32)
    bits += seed * 0x9E3779B9 % 2**32
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
        bits ^= bits >> shift
        bits *= factor
    bits ^= bits >> 16
    return bits


def random_values(cupy: Any, shape: tuple[int, ...], dtype: Any, seed: int) -> Any:
    """Uniform values of mean 0 and variance 1. A product of constants would be faster than one of these."""
    values = random_bits(cupy, math.prod(shape), seed).astype(np.float32)
    values *= math.sqrt(12) / 2**32
    values -= math.sqrt(3)
    return values.reshape(shape).astype(dtype, copy=False)


class Values:
    """Arrays of a stage, on the device; each other values than the one before."""

    def __init__(self, cupy: Any, sizes: Sizes, seed: int) -> None:
        self.cupy, self.s, self.low, self._seed = cupy, sizes, as_dtype(sizes.dtype), 1000 * seed

    def _next(self) -> int:
        self._seed += 1
        return self._seed

    def some(self, *shape: int, dtype: Any = None) -> Any:
        return random_values(self.cupy, shape, self.low if dtype is None else dtype, self._next())

    def integers(self, below: int, *shape: int, dtype: Any = np.int64) -> Any:
        return (random_bits(self.cupy, math.prod(shape), self._next()) % below).astype(dtype).reshape(shape)

    def map(self, factor: int = 1, dtype: Any = None) -> Any:
        s = self.s
        return self.some(s.batch, s.side, s.side, s.channels * factor, dtype=dtype)

    def hidden(self) -> Any:
        return self.some(self.s.batch * self.s.side**2, 4 * self.s.channels)


# ---- arguments, by kernel


def _layer_norm(v: Values, backward: bool) -> Call:
    x, weight, bias = v.map(), v.some(v.s.channels), v.some(v.s.channels)
    if not backward:
        return (x, weight, bias, 1e-5), {}
    _, mean, rstd = layer_norm.layer_norm_fwd(x, weight, bias, 1e-5)
    return (v.map(), x, weight, mean, rstd), {}


def _residual(v: Values, backward: bool) -> Call:
    """As under autocast: stream, parameters and scales in float32, branch and norm in 16 bits."""
    low, wide = np.dtype(v.low), np.dtype(np.float32)
    x, weight, bias = v.map(dtype=wide), v.some(v.s.channels, dtype=wide), v.some(v.s.channels, dtype=wide)
    keep = v.some(v.s.batch, dtype=wide)
    if not backward:
        return (x, v.map(), keep, weight, bias, 1e-5, None, low), {}
    _, mean, rstd = layer_norm.layer_norm_fwd(x, weight, bias, 1e-5)
    return (v.map(dtype=wide), v.map(), x, keep, weight, mean, rstd, False, low), {}


def _weights(v: Values) -> tuple[Any, Any, Any, Any]:
    """Of an MLP: up, its bias, down, its bias."""
    c = v.s.channels
    return v.some(4 * c, c), v.some(4 * c), v.some(c, 4 * c), v.some(c)


def _linear(v: Values, backward: bool) -> Call:
    up, bias, _, _ = _weights(v)
    if backward:
        return (v.map(4), v.map(), up, (True,) * 3), {}
    return (v.map(), up, bias), {}


def _mlp(v: Values, backward: bool) -> Call:
    up, bias, down, last = _weights(v)
    if backward:
        return (v.map(), v.map(), v.hidden(), up, bias, down, (True,) * 5), {}
    return (v.map(), up, bias, down, last, True), {}


def _attention(v: Values, backward: bool) -> Call:
    s = v.s
    half = s.window // 2 if s.side > s.window else 0
    cut = geometry((s.side, s.side), (s.window, s.window), (half, half))
    spec = AttentionSpec(cut, s.heads, (s.channels // s.heads) ** -0.5)
    bias = v.some(s.heads, s.window**2, s.window**2)
    arguments = (v.map(3), bias, v.some(3 * s.channels), None, spec)
    return ((v.map(), *arguments) if backward else arguments), {}


def _position_bias(v: Values, backward: bool) -> Call:
    s = v.s
    index, rows = position_index((s.window, s.window), (s.window, s.window)), (2 * s.window - 1) ** 2
    if backward:
        return (v.some(s.heads, s.window**2, s.window**2), index, rows), {}
    return (v.some(rows, s.heads), index), {}


def _softmax(v: Values, backward: bool) -> Call:
    s = v.s
    shape = (s.batch * (-(-s.side // s.window)) ** 2, s.heads, s.window**2, s.window**2)
    if backward:
        return (v.some(*shape), softmax.softmax_fwd(v.some(*shape))), {}
    return (v.some(*shape), v.some(1, *shape[1:])), {}


def _cross_entropy(v: Values, backward: bool) -> Call:
    logits, labels = v.some(v.s.batch, v.s.classes), v.integers(v.s.classes, v.s.batch)
    if not backward:
        return (logits, labels, 0.1), {}
    _, log_probs = cross_entropy.cross_entropy_fwd(logits, labels, 0.1)
    return (v.some(v.s.batch, dtype=np.float32), log_probs, labels, 0.1), {}


def _merged(v: Values) -> Call:
    half = -(-v.s.side // 2)
    return (v.some(v.s.batch, half, half, 4 * v.s.channels), v.s.side, v.s.side), {}


def _pixels(v: Values) -> Call:
    images = v.integers(256, v.s.batch, 3, 4 * v.s.side, 4 * v.s.side, dtype=np.uint8)
    return (images, (4, 4), (0.5, 0.4, 0.3), (0.2, 0.2, 0.2), v.low), {}


def _four(v: Values) -> list[Any]:
    return [v.some(v.s.parameters // 4, dtype=np.float32) for _ in range(4)]


def _adamw(v: Values) -> Call:
    param, grad, first, second = (_four(v) for _ in range(4))
    options = {"lr": 1e-6, "beta1": 0.9, "beta2": 0.999, "eps": 1e-8, "step": 10, "clip_grad": 5.0}
    return (param, grad, first, [a * a for a in second], [0.05] * 4), options


_DRAW = {"seed": 7, "offset": 0, "p": 0.1}
ARGUMENTS: dict[Kernel[..., Any], Callable[[Values], Call]] = {
    layer_norm.layer_norm_fwd: lambda v: _layer_norm(v, False),
    layer_norm.layer_norm_bwd: lambda v: _layer_norm(v, True),
    layer_norm.residual_layer_norm_fwd: lambda v: _residual(v, False),
    layer_norm.residual_layer_norm_bwd: lambda v: _residual(v, True),
    gelu.gelu_fwd: lambda v: ((v.hidden(),), {}),
    gelu.gelu_bwd: lambda v: ((v.hidden(), v.hidden()), {}),
    gelu.bias_gelu_fwd: lambda v: ((v.hidden(), v.some(4 * v.s.channels)), {}),
    gelu.bias_gelu_bwd: lambda v: ((v.hidden(), v.hidden(), v.some(4 * v.s.channels)), {}),
    linear.linear_fwd: lambda v: _linear(v, False),
    linear.linear_bwd: lambda v: _linear(v, True),
    mlp.mlp_fwd: lambda v: _mlp(v, False),
    mlp.mlp_bwd: lambda v: _mlp(v, True),
    window_attention.window_attention_fwd: lambda v: _attention(v, False),
    window_attention.window_attention_bwd: lambda v: _attention(v, True),
    position_bias.position_bias_fwd: lambda v: _position_bias(v, False),
    position_bias.position_bias_bwd: lambda v: _position_bias(v, True),
    softmax.softmax_fwd: lambda v: _softmax(v, False),
    softmax.softmax_bwd: lambda v: _softmax(v, True),
    cross_entropy.cross_entropy_fwd: lambda v: _cross_entropy(v, False),
    cross_entropy.cross_entropy_bwd: lambda v: _cross_entropy(v, True),
    patches.patch_merge_fwd: lambda v: ((v.map(),), {}),
    patches.patch_merge_bwd: _merged,
    patches.patch_rows: _pixels,
    dropout.dropout: lambda v: ((v.map(),), dict(_DRAW)),
    dropout.keep_scale: lambda v: ((v.map(),), dict(_DRAW)),
    adamw.grad_norm: lambda v: ((_four(v),), {}),
    adamw.multi_adamw: _adamw,
    casts.multi_cast: lambda v: ((_four(v), np.dtype(np.float16)), {}),
}


def calls(cupy: Any, sizes: Sizes) -> Iterator[tuple[str, Callable[[int], Call]]]:
    """(name, what makes the i-th set of arguments) of each kernel that has a CUDA implementation."""
    for name, kernel in KERNELS.items():
        if kernel.cuda is not None:
            yield name, lambda i, k=kernel: ARGUMENTS[k](Values(cupy, sizes, i))


# ---- time


class EventClock:
    """Seconds of calls on a GPU, by an event before and after each.

    Where the host takes longer to ask for a call than the GPU to do it, events would time the host. ``ahead`` seconds
    of copying are therefore put in front of each call, so that all of it waits in the queue when the GPU gets there.
    """

    def __init__(self, cupy: Any, megabytes: int = 512) -> None:
        self._cupy = cupy
        self._source = random_values(cupy, (megabytes * 2**18,), np.float32, 1)
        self._target = cupy.empty_like(self._source)
        self._copy()
        self._block = median(self([self._copy] * 5))

    def _copy(self) -> None:
        self._target[...] = self._source

    @property
    def copy_bandwidth(self) -> float:
        """Bytes a second of a large copy, those read and those written."""
        return 2 * self._source.nbytes / self._block

    def __call__(self, queue: Sequence[Callable[[], Any]], ahead: float = 0.0) -> list[float]:
        marks = []
        for call in queue:
            for _ in range(math.ceil(ahead / self._block) if ahead else 0):
                self._copy()
            begin, end = self._cupy.cuda.Event(), self._cupy.cuda.Event()
            begin.record()
            call()
            end.record()
            marks.append((begin, end))
        marks[-1][1].synchronize()
        return [self._cupy.cuda.get_elapsed_time(begin, end) / 1e3 for begin, end in marks]


def measure(
    made: Sequence[Callable[[], Any]], clock: Callable[..., list[float]], warmups: int, repeats: int, group: int
) -> dict[str, float]:
    """The median time of a call, over sets of arguments in turn; the first call compiles and is not counted.

    Returns:
        "seconds" by events, "host_seconds" until a call returns, and "calls_between_events".
    """
    made[0]()
    if warmups:
        clock([made[i % len(made)] for i in range(warmups)])
    begin = time.perf_counter()
    for i in range(group):
        made[i % len(made)]()
    host = (time.perf_counter() - begin) / group
    seconds = median(clock([made[i % len(made)] for i in range(repeats)]))
    if seconds >= max(SHORT, 3 * host):
        return {"seconds": seconds, "host_seconds": host, "calls_between_events": 1}

    def several() -> None:
        for i in range(group):
            made[i % len(made)]()

    seconds = median(clock([several] * max(1, repeats // 3), ahead=2 * host * group)) / group
    return {"seconds": seconds, "host_seconds": host, "calls_between_events": group}


def seconds_of(cupy: Any, name: str, make: Callable[[int], Call], clock: EventClock, **effort: int) -> dict[str, Any]:
    """Times of a kernel, its bytes and operations, and the share of its limit by ``clock``'s copies."""
    kernel, first = KERNELS[name], make(0)
    cost = kernel.cost(*first[0], **first[1])
    l2 = cupy.cuda.runtime.getDeviceProperties(0).get("l2CacheSize", 0)
    copies = min(MOST_SETS, max(2, -(-L2_SHARE * l2 // max(1, cost.bytes))))
    sets = [first, *(make(i) for i in range(1, copies))]
    found: dict[str, Any] = measure([lambda a=a, k=k: kernel(*a, **k) for a, k in sets], clock, **effort)
    return found | {
        "bytes": cost.bytes,
        "flops": cost.flops,
        "gigabytes_per_second": cost.bytes / found["seconds"] / 1e9,
        "share_of_a_copy": cost.bytes / clock.copy_bandwidth / found["seconds"],
    }
