"""torch's functions for the ops of the table, and calls of both at special values.

``CALLS`` has for each op of the table what torch calls it, and ``NOT_COMPARED`` the ops that torch has not, each with a
reason. A call is made on both sides and told as text, so that a difference is a line of data.
"""

from __future__ import annotations

import warnings
from functools import partial
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np

import autograd as ag

from .swin.torchvision_stub import make_importable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["BINARY", "CALLS", "NOT_COMPARED", "PAIRS", "ROWWISE", "UNARY", "differences"]

nan, inf = np.nan, np.inf


def _torch() -> Any:
    import torch

    return torch


def _f() -> Any:
    return _torch().nn.functional


def _vision() -> Any:
    """torchvision.ops, of whose Python functions alone use is made."""
    make_importable(_torch())
    import torchvision.ops

    return torchvision.ops


def _named(name: str) -> Callable[..., Any]:
    return lambda *arrays: getattr(_torch(), name)(*arrays)


_SAME_NAME = (
    *("negative", "absolute", "exp", "expm1", "log", "log1p", "sqrt", "square"),
    *("sin", "cos", "tanh", "sigmoid", "relu", "erf", "isfinite"),
)
# Functions of one array, elementwise.
UNARY: dict[str, Callable[[Any], Any]] = {
    **{name: _named(name) for name in _SAME_NAME},
    "clip": lambda x: _torch().clamp(x, -1.0, 2.0),
    "gelu": lambda x: _f().gelu(x),
    "softplus": lambda x: _f().softplus(x),
}
# Of two.
BINARY: dict[str, Callable[[Any, Any], Any]] = {
    **{name: _named(name) for name in ("add", "subtract", "multiply", "divide", "maximum", "minimum")},
    **{name: _named(name) for name in ("less", "less_equal", "greater", "greater_equal", "not_equal")},
    "power": _named("pow"),
    "equal": _named("eq"),
}
# Along the last axis.
ROWWISE: dict[str, Callable[[Any], Any]] = {
    "sum": lambda x: x.sum(-1),
    "mean": lambda x: x.mean(-1),
    "var": lambda x: x.var(-1, correction=0),
    "max": lambda x: x.amax(-1),
    "min": lambda x: x.amin(-1),
    "argmax": lambda x: x.argmax(-1),
    "logsumexp": lambda x: x.logsumexp(-1),
    "softmax": lambda x: x.softmax(-1),
    "log_softmax": lambda x: x.log_softmax(-1),
    "masked_softmax": lambda x: (x + 0.0).softmax(-1),
    "l2_normalize": lambda x: _f().normalize(x, dim=-1),
    "layer_norm": lambda x: _f().layer_norm(x, x.shape[-1:]),
    "cross_entropy": lambda x: _f().cross_entropy(x[None], _torch().zeros(1, dtype=_torch().int64)),
    "flip": lambda x: x.flip(-1),
    "take": lambda x: x.index_select(-1, _torch().zeros(1, dtype=_torch().int64)),
}


def _ours_rowwise(name: str, x: Any) -> Any:
    if name == "layer_norm":
        n = x.shape[-1]
        return ag.layer_norm(x, np.ones(n), np.zeros(n))
    if name == "cross_entropy":
        return ag.cross_entropy(ag.expand_dims(x, 0), np.zeros(1, int))
    if name == "masked_softmax":
        return ag.masked_softmax(x, np.zeros(x.shape))
    if name == "take":
        return ag.take(x, [0], axis=-1)
    return getattr(ag, name)(x, axis=-1)


def _ours_unary(name: str, x: Any) -> Any:
    return ag.clip(x, -1.0, 2.0) if name == "clip" else getattr(ag, name)(x)


def _strided(x: Any) -> Any:
    return x.unfold(0, 2, 1)


# Moves, joins and products, once each with arrays of special values: (arrays, ours, torch's).
S = np.array([0.0, -0.0, nan, inf, -inf, 2.0])
M = S.reshape(2, 3)
W = np.array([[1.0, 0.0], [2.0, -1.0], [0.5, inf]])
V = np.array([[1.5, 2.0, -1.0], [0.5, 0.0, 2.0], [2.0, 1.0, 0.0]])
FIRST = np.array([1, 0, 1])
# Of three channels: ordinary, with a NaN, constant.
N = np.array([[[1.0, 2], [nan, 0], [3, 3]], [[-4.0, 2], [1, 0], [3, 3]]])
# A map with ties, NaN side by side, and a corner of -inf alone.
P = np.array([-inf, -inf, 0, nan, 1, 1, -inf, -inf, 2, 0, nan, 1, 3, 2, 2, 2, inf, 1, 0, 0, -0.0, 2, inf, 3])
# Logits, each against 0, 1 and what lies between, and boxes: equal, touching, apart, within, empty, of nothing.
Z = np.repeat([0.0, -0.0, nan, inf, -inf, 2.0, -3.5, 800.0, -800.0], 3)
T = np.tile([0.0, 1.0, 0.25], 9)
BOXES = np.array(
    [[0.0, 0, 2, 2], [0, 0, 4, 4], [2, 0, 4, 2], [1, 1, 1, 3], [nan, 0, 1, 1], [3, 3, 5, 6], [0, 0, 2, 1], [0, 0, 2, 2]]
)
CALLS: dict[str, tuple[tuple[Any, ...], Callable[..., Any], Callable[..., Any]]] = {
    "getitem": ((M,), lambda x: x[::-1, 1:], lambda x: x.flip(0)[:, 1:]),
    "gather": ((M,), lambda x: ag.gather(x, 0, FIRST[None]), lambda x: x.gather(0, _torch().tensor(FIRST[None]))),
    "table_gather": ((M,), lambda x: ag.table_gather(x, FIRST), lambda x: x[_torch().tensor(FIRST)]),
    "where": (
        (S, S[::-1]),
        lambda x, y: ag.where(S > 0, x, y),
        lambda x, y: _torch().where(_torch().tensor(S > 0), x, y),
    ),
    "astype": ((S,), lambda x: x.astype(np.float32), lambda x: x.float()),
    "to_device": ((S,), lambda x: x.to("cpu"), lambda x: x.to("cpu")),
    "matmul": ((M, W), lambda x, y: x @ y, lambda x, y: x @ y),
    "linear": ((M, W.T, W[0]), ag.linear, lambda *a: _f().linear(*a)),
    "mlp": (
        (M, W.T, W[0], W, W[:, 0]),
        ag.mlp,
        lambda x, a, b, c, d: _f().linear(_f().gelu(_f().linear(x, a, b)), c, d),
    ),
    "conv2d": (
        (S.reshape(1, 1, 2, 3), W[None, None, :2], W[0, :1]),
        ag.conv2d,
        lambda x, w, b: _f().conv2d(x, w, b),
    ),
    "conv_transpose2d": (
        (S.reshape(1, 1, 2, 3), W[None, None, :2], W[0, :1]),
        lambda x, w, b: ag.conv_transpose2d(x, w, b, stride=2, padding=1),
        lambda x, w, b: _f().conv_transpose2d(x, w, b, stride=2, padding=1),
    ),
    "avg_pool2d": ((S.reshape(1, 1, 2, 3),), lambda x: ag.avg_pool2d(x, (1, 3)), lambda x: _f().avg_pool2d(x, (1, 3))),
    "residual_layer_norm": (
        (M, M[::-1]),
        lambda x, y: ag.residual_layer_norm(x, y, None, np.ones(3), np.zeros(3))[1],
        lambda x, y: _f().layer_norm(x + y, (3,)),
    ),
    "bias_gelu": ((M, W[:, 0]), ag.bias_gelu, lambda x, b: _f().gelu(x + b)),
    "patch_merge": (
        (S[:4].reshape(1, 2, 2, 1),),
        ag.patch_merge,
        lambda x: _torch().cat([x[:, i::2, j::2] for i, j in ((0, 0), (1, 0), (0, 1), (1, 1))], -1),
    ),
    "reshape": ((M,), lambda x: x.reshape(3, 2), lambda x: x.reshape(3, 2)),
    "transpose": ((M,), lambda x: x.T, lambda x: x.T),
    "swapaxes": ((M,), lambda x: ag.swapaxes(x, 0, 1), lambda x: x.swapaxes(0, 1)),
    "moveaxis": ((M,), lambda x: ag.moveaxis(x, 0, 1), lambda x: x.moveaxis(0, 1)),
    "expand_dims": ((M,), lambda x: ag.expand_dims(x, 1), lambda x: x.unsqueeze(1)),
    "broadcast_to": ((S,), lambda x: ag.broadcast_to(x, (2, 6)), lambda x: x.broadcast_to((2, 6))),
    "squeeze": ((M[:, None],), lambda x: ag.squeeze(x, 1), lambda x: x.squeeze(1)),
    "roll": ((M,), lambda x: ag.roll(x, 1, 1), lambda x: x.roll(1, 1)),
    "pad": ((S,), lambda x: ag.pad(x, 1), lambda x: _f().pad(x, (1, 1))),
    "concatenate": ((S, S), lambda x, y: ag.concatenate([x, y]), lambda x, y: _torch().cat([x, y])),
    "stack": ((S, S), lambda x, y: ag.stack([x, y]), lambda x, y: _torch().stack([x, y])),
    "split": ((S,), lambda x: ag.split(x, 2)[1], lambda x: x.split(3)[1]),
    "sliding_window_view": ((S,), lambda x: ag.sliding_window_view(x, 2), _strided),
    "binary_cross_entropy_with_logits": (
        (Z,),
        lambda z: ag.binary_cross_entropy_with_logits(z, T, "none"),
        lambda z: _f().binary_cross_entropy_with_logits(z, _torch().tensor(T), reduction="none"),
    ),
    "sigmoid_focal_loss": (
        (Z,),
        lambda z: ag.sigmoid_focal_loss(z, T),
        lambda z: _vision().sigmoid_focal_loss(z, _torch().tensor(T)),
    ),
    "smooth_l1_loss": (
        (S, np.zeros(6)),
        lambda x, y: ag.smooth_l1_loss(x, y, reduction="none"),
        lambda x, y: _f().smooth_l1_loss(x, y, reduction="none"),
    ),
    "l1_loss": (
        (S, np.zeros(6)),
        lambda x, y: ag.l1_loss(x, y, "none"),
        lambda x, y: _f().l1_loss(x, y, reduction="none"),
    ),
    "giou_loss": (
        (BOXES, BOXES[::-1]),
        ag.giou_loss,
        lambda x, y: _vision().generalized_box_iou_loss(x, y),
    ),
    "interpolate": (
        (S.reshape(1, 1, 2, 3),),
        lambda x: ag.interpolate(x, (3, 5), "bilinear"),
        lambda x: _f().interpolate(x, (3, 5), mode="bilinear"),
    ),
    "adaptive_avg_pool2d": (
        (S.reshape(1, 1, 2, 3),),
        lambda x: ag.adaptive_avg_pool2d(x, (1, 2)),
        lambda x: _f().adaptive_avg_pool2d(x, (1, 2)),
    ),
    "max_pool2d": (
        (P.reshape(1, 1, 4, 6),),
        lambda x: ag.max_pool2d(x, 3, 1, 1),
        lambda x: _f().max_pool2d(x, 3, 1, 1),
    ),
    "pixel_shuffle": (
        (S[:4].reshape(1, 4, 1, 1),),
        lambda x: ag.pixel_shuffle(x, 2),
        lambda x: _f().pixel_shuffle(x, 2),
    ),
    "pixel_unshuffle": (
        (S[:4].reshape(1, 1, 2, 2),),
        lambda x: ag.pixel_unshuffle(x, 2),
        lambda x: _f().pixel_unshuffle(x, 2),
    ),
    "batch_norm": (
        (N, V[0], V[1]),
        lambda x, w, b: ag.batch_norm(x, w, b)[0],
        lambda x, w, b: _f().batch_norm(x, None, None, w, b, training=True),
    ),
    "batch_norm_eval": (
        (N, V[0], V[1]),
        lambda x, w, b: ag.batch_norm_eval(x, w, b, V[1], V[2]),
        lambda x, w, b: _f().batch_norm(x, _torch().tensor(V[1]), _torch().tensor(V[2]), w, b),
    ),
    "group_norm": (
        (N, V[0], V[1]),
        lambda x, w, b: ag.group_norm(x, 3, w, b),
        lambda x, w, b: _f().group_norm(x, 3, w, b),
    ),
    "checkpoint": ((S,), lambda x: ag.checkpoint(ag.exp, x), lambda x: x.exp()),
}
NOT_COMPARED = {
    "dropout2d": "draws from its own generator; off, it is the same tensor",
    "dropout": "draws from its own generator; off, it is the same tensor",
    "drop_path": "draws from its own generator",
    "drop_path_keep": "draws from its own generator",
    "patch_rows": "takes bytes, which have no special values",
    "window_attention": "its composite is made of ops that are compared; rows without a key are masked_softmax's",
    "position_bias": "a gather, as table_gather",
    "roi_align": "torchvision's is compiled; tests/detection compares with its Python version",
}

POINTS = (0.0, -0.0, nan, inf, -inf, 1.0, -1.0, 2.0, -3.5, 800.0, -800.0, 1e-310, 1e308)
PAIRS = tuple(product((0.0, -0.0, nan, inf, -inf, 1.0, -1.0, 2.0, -2.0, 0.5), repeat=2))
ROWS = (
    (0.0, 0.0, -0.0),
    (1.0, 1.0, 0.0),
    (nan, 0.0, 1.0),
    (nan, nan, nan),
    (inf, 0.0, 1.0),
    (inf, inf, 0.0),
    (-inf, 0.0, 1.0),
    (-inf, -inf, -inf),
    (-inf, inf, 0.0),
    (1e308, 1e308, -1e308),
)
# Arrays that are special as a whole, without a gradient.
WHOLE: dict[str, Any] = {
    "0-d": np.array(2.0),
    "empty": np.zeros((2, 0)),
    "booleans": np.array([True, False]),
    "integers": np.array([-2, 0, 3]),
}


def _text(x: Any) -> str:
    return np.array2string(np.asarray(x), separator=" ", formatter={"float": lambda v: f"{v:.3g}"}).replace("\n", "")


def _run_ours(call: Callable[..., Any], arrays: tuple[Any, ...], slopes: bool) -> list[Any]:
    try:
        leaves = [ag.Tensor(np.array(a), requires_grad=slopes) for a in arrays]
        out = call(*leaves)
    except (ValueError, TypeError, IndexError):
        return []
    if not slopes or not out.requires_grad:
        return [out.data]
    return [out.data, *ag.grad(out, leaves, np.arange(1.0, out.size + 1).reshape(out.shape).astype(out.dtype))]


def _run_theirs(call: Callable[..., Any], arrays: tuple[Any, ...], slopes: bool) -> list[Any]:
    torch = _torch()
    try:
        leaves = [torch.tensor(np.array(a), requires_grad=slopes) for a in arrays]
        out = call(*leaves)
    except (RuntimeError, IndexError):  # NotImplementedError is a RuntimeError
        return []
    if not slopes or not out.requires_grad:
        return [out.detach().numpy()]
    g = torch.arange(1.0, out.numel() + 1, dtype=out.dtype).reshape(out.shape)
    return [out.detach().numpy(), *(t.numpy() for t in torch.autograd.grad(out, leaves, g))]


def _same(a: Any, b: Any) -> bool:
    """Whether two arrays agree to rounding of their largest finite value; infinities and NaN exactly."""
    finite = np.isfinite(a) & np.isfinite(b)
    near = 1e-14 * np.abs(a[finite]).max(initial=1.0)
    return bool(np.all((abs(a - b) <= near)[finite]) and np.array_equal(a[~finite], b[~finite], equal_nan=True))


def _compare(ours: list[Any], theirs: list[Any]) -> str:
    """The first difference, or nothing."""
    if not ours or not theirs:
        here, there = (_text(side[0]) if side else "refused" for side in (ours, theirs))
        return "" if here == there else f"{here}; torch {there}"
    for i, (a, b) in enumerate(zip(ours, theirs, strict=True)):
        kind = "value" if i == 0 else "gradient" if len(ours) == 2 else f"gradient {i}"
        if a.shape != b.shape or a.dtype != b.dtype:
            return f"{kind} {a.dtype} {a.shape}; torch {b.dtype} {b.shape}"
        if not _same(a.astype(float), b.astype(float)):
            return f"{kind} {_text(a)}; torch {_text(b)}"
    return ""


def _pair(name: str, ours: Any, theirs: Any, arrays: Any, slopes: bool, label: str) -> Iterator[tuple[str, str]]:
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        found = _compare(_run_ours(ours, arrays, slopes), _run_theirs(theirs, arrays, slopes))
    if found:
        yield f"{name} {label}", found


def differences(name: str) -> dict[str, str]:
    """What an op does unlike torch, by the point: ``{"absolute (nan)": "gradient [nan]; torch [0]"}``."""
    found: list[tuple[str, str]] = []
    if name in CALLS:
        arrays, call, their_call = CALLS[name]
        return dict(_pair(name, call, their_call, arrays, True, "at special values"))
    if name in BINARY:
        for x, y in PAIRS:
            found += _pair(name, getattr(ag, name), BINARY[name], ([x], [y]), True, f"({x:g}, {y:g})")
        for what, array in WHOLE.items():
            found += _pair(name, getattr(ag, name), BINARY[name], (array, array), False, what)
        return dict(found)
    ours, theirs = (_ours_unary, UNARY[name]) if name in UNARY else (_ours_rowwise, ROWWISE[name])
    for row in [(point,) for point in POINTS] if name in UNARY else ROWS:
        label = f"({', '.join(f'{v:g}' for v in row)})"
        found += _pair(name, partial(ours, name), theirs, (np.array(row),), True, label)
    for what, array in WHOLE.items():
        found += _pair(name, partial(ours, name), theirs, (array,), False, what)
    return dict(found)
