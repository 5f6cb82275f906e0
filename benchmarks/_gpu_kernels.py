"""The kernels that gpu.py times: arguments at the shapes of a Swin stage, and a clock that reads events."""

from __future__ import annotations

import time
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

__all__ = ["Sizes", "calls", "event_clock", "host_clock", "measure"]

Call = tuple[tuple[Any, ...], dict[str, Any]]
# Seconds of each of some calls, which are all queued before the first is waited for.
Clock = "Callable[[Sequence[Callable[[], Any]]], list[float]]"


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


def event_clock(cupy: Any) -> Any:
    """A :data:`Clock` of a GPU: an event before and after each call, no wait in between."""

    def seconds(queue: Sequence[Callable[[], Any]]) -> list[float]:
        marks = []
        for call in queue:
            begin, end = cupy.cuda.Event(), cupy.cuda.Event()
            begin.record()
            call()
            end.record()
            marks.append((begin, end))
        marks[-1][1].synchronize()
        return [cupy.cuda.get_elapsed_time(begin, end) / 1e3 for begin, end in marks]

    return seconds


def host_clock(queue: Sequence[Callable[[], Any]]) -> list[float]:
    """A :data:`Clock` for what is done when the call returns."""
    found = []
    for call in queue:
        begin = time.perf_counter()
        call()
        found.append(time.perf_counter() - begin)
    return found


def measure(
    make: Callable[[int], Callable[[], Any]], copies: int, clock: Any, warmups: int = 10, repeats: int = 30
) -> float:
    """The median of ``repeats`` calls after ``warmups``, over ``copies`` sets of arguments in turn."""
    made = [make(i) for i in range(copies)]
    if warmups:
        clock([made[i % copies] for i in range(warmups)])
    return float(median(clock([made[i % copies] for i in range(repeats)])))


class _Values:
    """Arrays on the device: normal values, never zeros, other ones each time."""

    def __init__(self, cupy: Any, sizes: Sizes, seed: int) -> None:
        import numpy as np

        from autograd.dtypes import as_dtype

        self.np, self.cupy, self.s, self.low = np, cupy, sizes, as_dtype(sizes.dtype)
        self.rng = np.random.default_rng(seed)
        self.some = self.rng.standard_normal(1 << 16).astype(np.float32)

    def normal(self, *shape: int, dtype: str | None = None) -> Any:
        count = int(self.np.prod(shape))
        values = self.np.resize(self.np.roll(self.some, int(self.rng.integers(1 << 16))), count)
        return self.cupy.asarray(values.reshape(shape).astype(dtype or self.low))

    def map(self, factor: int = 1, dtype: str | None = None) -> Any:
        return self.normal(self.s.batch, self.s.side, self.s.side, self.s.channels * factor, dtype=dtype)


def _norms(v: _Values) -> Iterator[tuple[Any, Call]]:
    from autograd.kernels import layer_norm

    x, g, branch, c = v.map(), v.map(), v.map(), v.s.channels
    weight, bias, keep = v.normal(c), v.normal(c), v.normal(v.s.batch)
    _, mean, rstd = layer_norm.layer_norm_fwd(x, weight, bias, 1e-5)
    yield layer_norm.layer_norm_fwd, ((x, weight, bias, 1e-5), {})
    yield layer_norm.layer_norm_bwd, ((g, x, weight, mean, rstd), {})
    low = v.np.dtype(g.dtype)  # as under autocast: stream, parameters and scales in float32, branch and norm in `low`
    x, g_total, weight, bias, keep = (a.astype(v.np.float32) for a in (x, v.map(), weight, bias, keep))
    yield layer_norm.residual_layer_norm_fwd, ((x, branch, keep, weight, bias, 1e-5, None, low), {})
    yield layer_norm.residual_layer_norm_bwd, ((g_total, g, x, keep, weight, mean, rstd, False, low), {})


def _mlp_parts(v: _Values) -> Iterator[tuple[Any, Call]]:
    from autograd.kernels import gelu, linear, mlp

    c, x, g, out = v.s.channels, v.map(), v.map(4), v.map()
    hidden, bias, last = v.map(4).reshape(-1, 4 * c), v.normal(4 * c), v.normal(c)
    up, down, every = v.normal(4 * c, c), v.normal(c, 4 * c), (True,) * 5
    yield gelu.gelu_fwd, ((hidden,), {})
    yield gelu.gelu_bwd, ((g.reshape(-1, 4 * c), hidden), {})
    yield gelu.bias_gelu_fwd, ((hidden, bias), {})
    yield gelu.bias_gelu_bwd, ((g.reshape(-1, 4 * c), hidden, bias), {})
    yield linear.linear_fwd, ((x, up, bias), {})
    yield linear.linear_bwd, ((g, x, up, every[:3]), {})
    yield mlp.mlp_fwd, ((x, up, bias, down, last, True), {})
    yield mlp.mlp_bwd, ((out, x, hidden, up, bias, down, every), {})


def _rest(v: _Values) -> Iterator[tuple[Any, Call]]:
    from autograd.kernels import cross_entropy, dropout, patches, softmax

    s = v.s
    across, tokens = -(-s.side // s.window), s.window**2
    windows = s.batch * across**2
    scores, mask = v.normal(windows, s.heads, tokens, tokens), v.normal(1, s.heads, tokens, tokens)
    probabilities = softmax.softmax_fwd(scores)
    yield softmax.softmax_fwd, ((scores, mask), {})
    yield softmax.softmax_bwd, ((scores, probabilities), {})
    logits, labels = v.normal(s.batch, s.classes), v.cupy.asarray(v.rng.integers(0, s.classes, s.batch))
    _, log_probs = cross_entropy.cross_entropy_fwd(logits, labels, 0.1)
    yield cross_entropy.cross_entropy_fwd, ((logits, labels, 0.1), {})
    yield cross_entropy.cross_entropy_bwd, ((v.normal(s.batch, dtype="float32"), log_probs, labels, 0.1), {})
    x = v.map()
    merged = patches.patch_merge_fwd(x)
    yield patches.patch_merge_fwd, ((x,), {})
    yield patches.patch_merge_bwd, ((merged, s.side, s.side), {})
    yield dropout.dropout, ((x,), {"seed": 7, "offset": 0, "p": 0.1})
    yield dropout.keep_scale, ((x,), {"seed": 7, "offset": 0, "p": 0.1})
    images = v.cupy.asarray(v.rng.integers(0, 256, (s.batch, 3, 4 * s.side, 4 * s.side), v.np.uint8))
    yield patches.patch_rows, ((images, (4, 4), (0.5, 0.4, 0.3), (0.2, 0.2, 0.2), v.low), {})


def _attention(v: _Values) -> Iterator[tuple[Any, Call]]:
    from swinpy.geometry import geometry, position_index
    from swinpy.kernels import position_bias, window_attention
    from swinpy.ops import AttentionSpec

    s = v.s
    half = s.window // 2
    cut = geometry((s.side, s.side), (s.window, s.window), (half, half))
    spec = AttentionSpec(cut, s.heads, (s.channels // s.heads) ** -0.5)
    bias = v.normal(s.heads, s.window**2, s.window**2)
    arguments = (v.map(3), bias, v.normal(3 * s.channels), None, spec)
    yield window_attention.window_attention_fwd, (arguments, {})
    yield window_attention.window_attention_bwd, ((v.map(), *arguments), {})
    index, rows = position_index((s.window, s.window), (s.window, s.window)), (2 * s.window - 1) ** 2
    yield position_bias.position_bias_fwd, ((v.normal(rows, s.heads), index), {})
    yield position_bias.position_bias_bwd, ((bias, index, rows), {})


def _optimiser(v: _Values) -> Iterator[tuple[Any, Call]]:
    from autograd.kernels import adamw, casts

    size = v.s.parameters // 4
    param, grad, first, second = ([v.normal(size, dtype="float32") for _ in range(4)] for _ in range(4))
    second = [a * a for a in second]
    options = {"lr": 1e-6, "beta1": 0.9, "beta2": 0.999, "eps": 1e-8, "step": 10, "clip_grad": 5.0}
    yield adamw.grad_norm, ((grad,), {})
    yield casts.multi_cast, ((grad, v.normal(1, dtype="float16").dtype), {})
    yield adamw.multi_adamw, ((param, grad, first, second, [0.05] * 4), options)


FAMILIES = (_norms, _mlp_parts, _attention, _rest, _optimiser)


def calls(cupy: Any, sizes: Sizes, wanted: Sequence[str] = ()) -> Iterator[tuple[str, Callable[[int], Call]]]:
    """(kernel, what makes the i-th set of its arguments) for each row that has a CUDA implementation."""
    for family in FAMILIES:
        for kernel in [kernel for kernel, _ in family(_Values(cupy, Sizes(*_SMALL, dtype=sizes.dtype), 0))]:
            if kernel.cuda is not None and (not wanted or kernel.name in wanted):
                yield kernel.name, lambda i, f=family, k=kernel: dict(f(_Values(cupy, sizes, i)))[k]


_SMALL = (1, 8, 32, 1, 4, 4, 16)  # a family's names are read off a small set
