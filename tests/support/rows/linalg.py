"""Rows of autograd/ops/linalg.py and conv.py."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

import autograd as ag

from . import references
from .opinfo import BadCall, OpInfo, Sample, register

if TYPE_CHECKING:
    from .opinfo import Source


def _matmul_composite(x: Any, y: Any) -> Any:
    """The sum of products, without a product of matrices."""
    left = ag.expand_dims(x, 0) if x.ndim == 1 else x
    right = ag.expand_dims(y, -1) if y.ndim == 1 else y
    out = ag.sum(ag.expand_dims(left, -1) * ag.expand_dims(right, -3), axis=-2)
    out = ag.squeeze(out, -2) if x.ndim == 1 else out
    return ag.squeeze(out, -1) if y.ndim == 1 else out


def _matmul_stack(s: Source) -> Sample:
    batch, (n, k, m) = s.shape(2), s.shape(3)
    return Sample((s.normal((*batch, n, k)), s.normal((*s.part_of(batch), k, m))))


def _linear(s: Source, lead: tuple[int, ...], bias: bool = True) -> Sample:
    inputs, outputs = s.shape(2)
    return Sample((s.normal((*lead, inputs)), s.normal((outputs, inputs)), s.normal((outputs,)) if bias else None))


register(
    OpInfo(
        "matmul",
        ag.matmul,
        {
            "plain": lambda s: Sample((s.normal((3, 4)), s.normal((4, 2)))),
            "stack": _matmul_stack,
            "stack_left": lambda s: Sample((s.normal((4, 2)), s.normal((3, 1, 2, 5)))),
            "vectors": lambda s: Sample((s.normal((5,)), s.normal((5,)))),
            "vector_left": lambda s: Sample((s.normal((4,)), s.normal((2, 4, 3)))),
            "vector_right": lambda s: Sample((s.normal((2, 3, 4)), s.normal((4,)))),
            "empty": lambda s: Sample((s.normal((0, 4)), s.normal((4, 2)))),
            "empty_inner": lambda s: Sample((s.normal((3, 0)), s.normal((0, 2)))),
        },
        np.matmul,
        composite=_matmul_composite,
        exempt={"scalar": "NumPy's matmul takes no 0-d operands; the error is checked"},
        errors=(
            BadCall(lambda: ag.matmul(np.ones((2, 3)), np.ones((4, 2))), ValueError, "(2, 3) and (4, 2)"),
            BadCall(lambda: ag.matmul(np.ones((2, 3, 3)), np.ones((4, 3, 3))), ValueError, "(2, 3, 3) and (4, 3, 3)"),
            BadCall(lambda: ag.matmul(np.ones(()), np.ones((3,))), ValueError, "() and (3,)"),
            BadCall(lambda: ag.matmul(np.ones((2, 2)), 3.0), ValueError, "(2, 2) and a number"),
            BadCall(lambda: ag.matmul(np.ones((2, 2)), np.ones((2, 2), np.float32)), TypeError, "one dtype"),
        ),
    ),
    OpInfo(
        "linear",
        ag.linear,
        {
            "matrix": lambda s: _linear(s, (3,)),
            "map": lambda s: _linear(s, s.shape(3)),
            "vector": lambda s: _linear(s, ()),
            "no_bias": lambda s: _linear(s, s.shape(2), bias=False),
            "empty": lambda s: _linear(s, (2, 0)),
        },
        lambda x, w, b: x @ w.T + (0 if b is None else b),
        composite=lambda x, w, b: ag.matmul(x, ag.transpose(w)) + (0.0 if b is None else b),
        exempt={"scalar": "x has a feature axis; the error is checked"},
        errors=(
            BadCall(lambda: ag.linear(np.ones((2, 3)), np.ones((5, 4))), ValueError, "(5, 4)"),
            BadCall(lambda: ag.linear(np.ones((2, 3)), np.ones((5, 3)), np.ones(3)), ValueError, "bias (5,)"),
            BadCall(lambda: ag.linear(np.ones(()), np.ones((5, 3))), ValueError, "got x ()"),
            BadCall(lambda: ag.linear(np.ones(3), np.ones(3)), ValueError, "weight (3,)"),
            BadCall(lambda: ag.linear(np.ones((2, 3), np.float32), np.ones((5, 3))), TypeError, "one dtype"),
        ),
    ),
)


def _mlp(s: Source, batch: tuple[int, ...], last_bias: bool = True) -> Sample:
    shapes = ((*batch, 4), (6, 4), (6,), (3, 6), (3,))
    args = tuple(s.normal(shape) for shape in shapes)
    return Sample(args if last_bias else (*args[:4], None))


def _bad_mlp(*shapes: tuple[int, ...]) -> Any:
    return lambda: ag.mlp(*(np.ones(shape) for shape in shapes))


register(
    OpInfo(
        "mlp",
        ag.mlp,
        {
            "matrix": lambda s: _mlp(s, (3,)),
            "map": lambda s: _mlp(s, s.shape(3)),
            "recomputed": lambda s: Sample(_mlp(s, (4,)).args, {"recompute": True}),
            "vector": lambda s: _mlp(s, ()),
            "many_rows": lambda s: _mlp(s, (1100,)),
            "no_last_bias": lambda s: _mlp(s, (1100,), last_bias=False),
            "empty": lambda s: _mlp(s, (2, 0)),
        },
        lambda x, w1, b1, w2, b2, recompute=False: references.gelu(x @ w1.T + b1) @ w2.T + (0 if b2 is None else b2),
        composite=lambda x, w1, b1, w2, b2, recompute=False: ag.linear(ag.bias_gelu(ag.linear(x, w1), b1), w2, b2),
        exempt={"scalar": "x has a feature axis; the error is checked"},
        errors=(
            BadCall(_bad_mlp((2, 3), (5, 4), (5,), (3, 5), (3,)), ValueError, "got (2, 3), (5, 4)"),
            BadCall(_bad_mlp((2, 4), (5, 4), (4,), (3, 5), (3,)), ValueError, "(5, 4), (4,)"),
            BadCall(_bad_mlp((2, 4), (5, 4), (5,), (3, 4), (3,)), ValueError, "(3, 4) and (3,)"),
            BadCall(_bad_mlp((2, 4), (5, 4), (5,), (3, 5), (5,)), ValueError, "(3, 5) and (5,)"),
            BadCall(_bad_mlp((), (5, 4), (5,), (3, 5), (3,)), ValueError, "got ()"),
        ),
    )
)


# ---- NCHW maps


def _conv(s: Source, x: tuple[int, ...], out: int, kernel: tuple[int, int], bias: bool = True, **static: Any) -> Sample:
    args = (s.normal(x), s.normal((out, x[1], *kernel)), s.normal((out,)) if bias else None)
    return Sample(args, static)


def _conv_drawn(s: Source) -> Sample:
    kernel = s.shape(2, high=3)
    padding = s.shape(2, low=0, high=1)
    size = tuple(k + s.integer(0, 3) for k in kernel)
    return _conv(s, (*s.shape(2, high=2), *size), s.integer(1, 3), kernel, stride=s.shape(2, high=3), padding=padding)


def _conv_composite(x: Any, w: Any, b: Any, *, stride: Any = 1, padding: Any = 0) -> Any:
    """Pad, overlapping windows, one product and sum."""
    py, px = np.broadcast_to(padding, 2)
    x = ag.pad(x, ((0, 0), (0, 0), (int(py), int(py)), (int(px), int(px))))
    hops = tuple(int(n) for n in np.broadcast_to(stride, 2))
    view = ag.sliding_window_view(x, w.shape[2:], (2, 3), hops)
    out = ag.sum(ag.expand_dims(view, 1) * ag.reshape(w, (1, *w.shape[:2], 1, 1, *w.shape[2:])), axis=(2, -2, -1))
    return out if b is None else out + ag.reshape(b, (1, -1, 1, 1))


def _bad_conv() -> tuple[BadCall, ...]:
    x, w = np.ones((1, 2, 4, 4)), np.ones((3, 2, 2, 2))
    return (
        BadCall(lambda: ag.conv2d(x[0], w), ValueError, "(B, C, H, W)"),
        BadCall(lambda: ag.conv2d(x, w[:, :1]), ValueError, "(3, 1, 2, 2)"),
        BadCall(lambda: ag.conv2d(x, w, np.ones(2)), ValueError, "bias (3,)"),
        BadCall(lambda: ag.conv2d(x, w, stride=0), ValueError, "stride"),
        BadCall(lambda: ag.conv2d(x, w, stride=(1, 2, 3)), ValueError, "stride"),
        BadCall(lambda: ag.conv2d(x, w, padding=-1), ValueError, "padding"),
        BadCall(lambda: ag.conv2d(x[:, :, :1], w), ValueError, "kernel's size"),
    )


def _transposed(
    s: Source, x: tuple[int, ...], out: int, kernel: tuple[int, int], bias: bool = True, **static: Any
) -> Sample:
    return Sample((s.normal(x), s.normal((x[1], out, *kernel)), s.normal((out,)) if bias else None), static)


def _transposed_drawn(s: Source) -> Sample:
    kernel, stride = s.shape(2, low=2, high=3), s.shape(2, high=3)
    static = {"stride": stride, "padding": tuple(s.integer(0, (k - 1) // 2) for k in kernel)}
    return _transposed(s, s.shape(4, high=3), s.integer(1, 3), kernel, **static)


def _transposed_composite(x: Any, w: Any, b: Any, *, stride: Any = 1, padding: Any = 0) -> Any:
    """Zeros between pixels and around them, and the convolution by the turned kernel."""
    (sy, sx), (py, px) = (tuple(map(int, np.broadcast_to(n, 2))) for n in (stride, padding))
    batch, channels, height, width = x.shape
    x = ag.reshape(x, (batch, channels, height, 1, width, 1))
    x = ag.pad(x, ((0, 0), (0, 0), (0, 0), (0, sy - 1), (0, 0), (0, sx - 1)))
    x = ag.reshape(x, (batch, channels, height * sy, width * sx))[:, :, : (height - 1) * sy + 1, : (width - 1) * sx + 1]
    y, z = w.shape[2] - 1 - py, w.shape[3] - 1 - px
    turned = ag.transpose(w[:, :, ::-1, ::-1], (1, 0, 2, 3))
    return _conv_composite(ag.pad(x, ((0, 0), (0, 0), (y, y), (z, z))), turned, b)


def _bad_transposed() -> tuple[BadCall, ...]:
    x, w = np.ones((1, 2, 4, 4)), np.ones((2, 3, 2, 2))
    return (
        BadCall(lambda: ag.conv_transpose2d(x[0], w), ValueError, "(B, C, H, W)"),
        BadCall(lambda: ag.conv_transpose2d(x, w[:1]), ValueError, "(1, 3, 2, 2)"),
        BadCall(lambda: ag.conv_transpose2d(x, w, np.ones(2)), ValueError, "bias (3,)"),
        BadCall(lambda: ag.conv_transpose2d(x, w, stride=0), ValueError, "stride"),
        BadCall(lambda: ag.conv_transpose2d(x, w, padding=3), ValueError, "at least one pixel"),
        BadCall(lambda: ag.conv_transpose2d(x[:, :, :0], w), ValueError, "at least one pixel"),
    )


def _pool(s: Source, shape: tuple[int, ...], **static: Any) -> Sample:
    return Sample((s.normal(shape),), static)


def _pool_drawn(s: Source) -> Sample:
    kernel = s.shape(2, high=3)
    size = tuple(k + s.integer(0, 3) for k in kernel)
    padding = tuple(s.integer(0, k // 2) for k in kernel)
    static = {"stride": s.shape(2, high=3), "padding": padding, "include_pad": s.choice((False, True))}
    return _pool(s, (*s.shape(2, high=2), *size), kernel_size=kernel, **static)


def _pool_composite(x: Any, *, kernel_size: Any, stride: Any = None, padding: Any = 0, include_pad: bool = True) -> Any:
    kernel = tuple(int(n) for n in np.broadcast_to(kernel_size, 2))
    hops = kernel if stride is None else tuple(int(n) for n in np.broadcast_to(stride, 2))
    py, px = (int(n) for n in np.broadcast_to(padding, 2))
    border = ((0, 0), (0, 0), (py, py), (px, px))

    def windows(t: Any) -> Any:
        return ag.sum(ag.sliding_window_view(ag.pad(t, border), kernel, (2, 3), hops), axis=(-2, -1))

    ones = ag.Tensor(np.ones(x.shape, x.dtype))
    return windows(x) / (float(kernel[0] * kernel[1]) if include_pad else windows(ones))


register(
    OpInfo(
        "conv2d",
        ag.conv2d,
        {
            "plain": lambda s: _conv(s, (2, 3, 4, 5), 2, (2, 3)),
            "patches": lambda s: _conv(s, (2, 3, 4, 8), 4, (2, 4), stride=(2, 4)),
            "strides_differ": lambda s: _conv(s, (1, 2, 5, 7), 2, (2, 2), stride=(1, 3), padding=(1, 0)),
            "drawn": _conv_drawn,
            "no_bias": lambda s: _conv(s, (1, 1, 3, 3), 2, (3, 3), bias=False, padding=1),
            "empty": lambda s: _conv(s, (0, 2, 3, 3), 2, (2, 2)),
            "empty_channels": lambda s: _conv(s, (1, 0, 3, 3), 2, (2, 2)),
            "no_outputs": lambda s: _conv(s, (1, 2, 3, 3), 0, (2, 2)),
        },
        references.conv2d,
        composite=_conv_composite,
        exempt={"scalar": "x is a 4-D map; the error is checked"},
        errors=_bad_conv(),
    ),
    OpInfo(
        "conv_transpose2d",
        ag.conv_transpose2d,
        {
            "twice": lambda s: _transposed(s, (2, 3, 3, 4), 4, (2, 2), stride=2),
            "plain": lambda s: _transposed(s, (1, 2, 3, 2), 3, (3, 2)),
            "overlapping": lambda s: _transposed(s, (1, 2, 3, 4), 2, (3, 3), stride=2, padding=1),
            "apart": lambda s: _transposed(s, (1, 1, 2, 3), 2, (2, 1), bias=False, stride=(3, 2)),
            "drawn": _transposed_drawn,
            "empty": lambda s: _transposed(s, (0, 2, 3, 3), 2, (2, 2), stride=2),
            "no_outputs": lambda s: _transposed(s, (1, 2, 3, 3), 0, (2, 2), stride=2),
        },
        references.conv_transpose2d,
        composite=_transposed_composite,
        exempt={"scalar": "x is a 4-D map; the error is checked"},
        errors=_bad_transposed(),
    ),
    OpInfo(
        "avg_pool2d",
        lambda x, *, include_pad=True, **static: ag.avg_pool2d(x, count_include_pad=include_pad, **static),
        {
            "halves": lambda s: _pool(s, (2, 2, 4, 6), kernel_size=2),
            "overlap": lambda s: _pool(s, (1, 2, 5, 4), kernel_size=(3, 2), stride=1, padding=1),
            "real_only": lambda s: _pool(s, (1, 2, 5, 5), kernel_size=3, stride=2, padding=1, include_pad=False),
            "drawn": _pool_drawn,
            "empty": lambda s: _pool(s, (0, 2, 4, 4), kernel_size=2),
        },
        references.avg_pool2d,
        composite=_pool_composite,
        linear=True,
        exempt={"scalar": "x is a 4-D map; the error is checked"},
        errors=(
            BadCall(lambda: ag.avg_pool2d(np.ones((2, 4, 4)), 2), ValueError, "(B, C, H, W)"),
            BadCall(lambda: ag.avg_pool2d(np.ones((1, 1, 2, 2)), 3), ValueError, "kernel's size"),
            BadCall(lambda: ag.avg_pool2d(np.ones((1, 1, 4, 4)), 2, padding=2), ValueError, "half the kernel"),
            BadCall(lambda: ag.avg_pool2d(np.ones((1, 1, 4, 4)), 0), ValueError, "kernel_size"),
        ),
    ),
)
