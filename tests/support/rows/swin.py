"""Rows of swinpy/ops and swinpy/kernels."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

import autograd as ag
import swinpy.data.pixels  # noqa: F401 (registers its row)
from swinpy.geometry import PositionIndex, geometry, position_index
from swinpy.ops import AttentionSpec, position_bias, window_attention, window_attention_composite

from ..swin import references as swin_references
from .kernels import KernelRow, register_kernel_rows
from .opinfo import BadCall, OpInfo, Sample, Source, register

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Case", "drawn_case", "make"]


@dataclass(frozen=True)
class Case:
    """What makes a call of window attention: sizes and switches; values come from a source."""

    size: tuple[int, int] = (4, 6)
    window: tuple[int, int] = (2, 3)
    shift: tuple[int, int] = (0, 0)
    heads: int = 2
    head_dim: int = 3
    batch: int = 2
    bias: bool = True
    qkv_bias: bool = True
    mask_value: float = -100.0
    cosine: bool = False
    small_map: str = "clamp"

    @property
    def spec(self) -> AttentionSpec:
        cut = geometry(self.size, self.window, self.shift, self.small_map)  # type: ignore[arg-type]
        scale = 1.0 if self.cosine else self.head_dim**-0.5
        return AttentionSpec(cut, self.heads, scale, self.mask_value, self.cosine)


def _logit_scales(s: Source, heads: int) -> Any:
    """Some below ln 100 = 4.6, some above, none near it."""
    return np.where(s.booleans((heads, 1, 1)), s.between(-1, 3, (heads, 1, 1)), s.between(5, 6, (heads, 1, 1)))


def make(case: Case, s: Source) -> Sample:
    """Arguments for a case: qkv, bias, qkv_bias, logit_scale, and spec."""
    spec, channels = case.spec, case.heads * case.head_dim
    n = spec.geometry.tokens
    # cosine attention divides by the lengths of q and k, bias included: none of them near 0, a padded token's neither
    values = (lambda shape: s.away(shape, gap=0.5)) if case.cosine else s.normal
    qkv = values((case.batch, *case.size, 3 * channels))
    qkv_bias = values((3 * channels,)) if case.qkv_bias else None
    args = (
        qkv if qkv_bias is None or not case.cosine else qkv - qkv_bias,
        s.normal((case.heads, n, n)) if case.bias else None,
        qkv_bias,
        _logit_scales(s, case.heads) if case.cosine else None,
    )
    return Sample(args, {"spec": spec})


def drawn_case(s: Source, largest: int = 8) -> Case:
    """Any case of small size."""
    window = (s.integer(1, 5), s.integer(1, 5))
    return Case(
        size=(s.integer(1, largest), s.integer(1, largest)),
        window=window,
        shift=(s.integer(0, window[0] - 1), s.integer(0, window[1] - 1)),
        heads=s.integer(1, 3),
        head_dim=s.integer(1, 5),
        batch=s.integer(1, 3),
        bias=s.choice((True, False)),
        qkv_bias=s.choice((True, False)),
        mask_value=s.choice((-100.0, -np.inf)),
        cosine=s.choice((False, True)),
        small_map=s.choice(("clamp", "pad")),
    )


_SHIFTED = Case(shift=(1, 2))
_CASES = {
    "plain": Case(),
    "shifted": _SHIFTED,
    "forbidden": replace(_SHIFTED, mask_value=-np.inf),
    "padded": Case(size=(5, 4), window=(3, 3), shift=(1, 1), batch=1),
    "one_axis": Case(size=(2, 7), window=(3, 3), shift=(1, 1)),
    "padded_small": Case(size=(2, 4), window=(3, 3), shift=(1, 1), small_map="pad"),
    "no_biases": Case(size=(4, 5), window=(2, 2), shift=(1, 1), bias=False, qkv_bias=False),
    "cosine": Case(shift=(1, 1), cosine=True),
    "cosine_padded": Case(size=(5, 4), window=(3, 3), shift=(1, 1), cosine=True, mask_value=-np.inf),
    "pixels": Case(size=(2, 3), window=(1, 1), head_dim=1),
    "empty": replace(_SHIFTED, batch=0),
}
_SAMPLES: dict[str, Callable[[Source], Sample]] = {
    **{name: (lambda s, case=case: make(case, s)) for name, case in _CASES.items()},
    "drawn": lambda s: make(drawn_case(s), s),
}


def _attend(qkv: Any, bias: Any, qkv_bias: Any, logit_scale: Any = None, *, spec: AttentionSpec) -> Any:
    return window_attention(qkv, bias, qkv_bias, logit_scale, spec=spec)


def _bad(change: Callable[[list[Any]], Any], cosine: bool = False) -> Callable[[], Any]:
    """A call with one argument replaced."""
    sample = make(replace(_SHIFTED, cosine=cosine), Source(0))
    args = [a if a is None else ag.Tensor(a) for a in sample.args]
    change(args)
    return lambda: window_attention(*args, **sample.kwargs)


def _set(index: int, array: Any) -> Callable[[list[Any]], None]:
    return lambda args: args.__setitem__(index, None if array is None else ag.Tensor(array))


register(
    OpInfo(
        "window_attention",
        _attend,
        _SAMPLES,
        swin_references.window_attention,
        composite=window_attention_composite,
        joint=True,
        exempt={"scalar": "qkv is a 4-D map; the error is checked"},
        errors=(
            BadCall(
                _bad(_set(0, np.ones((2, 6, 4, 18)))), ValueError, "qkv (B, 4, 6, 3C) with C a multiple of 2 heads"
            ),
            BadCall(_bad(_set(0, np.ones((2, 4, 6, 15)))), ValueError, "got (2, 4, 6, 15)"),
            BadCall(_bad(_set(0, np.ones((4, 6, 18)))), ValueError, "got (4, 6, 18)"),
            BadCall(_bad(_set(0, np.ones(()))), ValueError, "got ()"),
            BadCall(_bad(_set(1, np.ones((2, 6, 5)))), ValueError, "bias (2, 6, 6); got (2, 6, 5)"),
            BadCall(_bad(_set(1, np.ones((1, 6, 6)))), ValueError, "bias (2, 6, 6)"),
            BadCall(_bad(_set(2, np.ones(6))), ValueError, "qkv_bias (18,); got (6,)"),
            BadCall(_bad(_set(3, np.ones((2, 1, 1)))), ValueError, "logit_scale with cosine attention and only then"),
            BadCall(_bad(_set(3, None), cosine=True), ValueError, "got none with cosine=True"),
            BadCall(_bad(_set(3, np.ones(3)), cosine=True), ValueError, "logit_scale of 2 numbers; got (3,)"),
            BadCall(_bad(_set(1, np.ones((2, 6, 6), np.float32))), TypeError, "one dtype"),
        ),
    )
)


# ---- the position bias


def _drawn_table(s: Source) -> Sample:
    rows = s.integer(1, 6)
    index = PositionIndex(s.integers(0, rows, s.shape(2)))
    return Sample((s.normal((rows, s.integer(1, 4))),), {"index": index})


def _of_windows(window: tuple[int, int], table: tuple[int, int]) -> Callable[[Source], Sample]:
    rows = (2 * table[0] - 1) * (2 * table[1] - 1)
    return lambda s: Sample((s.normal((rows, 2)),), {"index": position_index(window, table)})


def _plain_index(s: Source, heads: int = 2) -> Sample:
    return Sample((s.normal((5, heads)),), {"index": PositionIndex(np.array([[1, 3, 1], [1, 0, 3]], np.uint8))})


TABLE = ag.Tensor(np.ones((3, 2)))

register(
    OpInfo(
        "position_bias",
        position_bias,
        {
            "drawn": _drawn_table,
            "window": _of_windows((2, 3), (2, 3)),
            "smaller_window": _of_windows((2, 1), (3, 2)),
            "unused_rows": _plain_index,
            "no_heads": lambda s: _plain_index(s, 0),
            "empty": lambda s: Sample((s.normal((4, 2)),), {"index": PositionIndex(np.zeros((0, 3), int))}),
        },
        lambda table, index: np.moveaxis(table[index.index], 2, 0),
        composite=lambda table, index: ag.table_gather(table, index.index).transpose(2, 0, 1),
        linear=True,
        exempt={"scalar": "a table has rows; the error is checked"},
        errors=(
            BadCall(lambda: position_bias(TABLE, PositionIndex(np.array([[3]]))), IndexError, "at least 4 rows; got 3"),
            BadCall(lambda: position_bias(TABLE, np.zeros((1, 1), int)), TypeError, "a PositionIndex; got ndarray"),
            BadCall(lambda: position_bias(ag.Tensor(1.0), PositionIndex(np.array([[0]]))), ValueError, "got ()"),
        ),
    )
)


def _table_arguments(rng: np.random.Generator, dtype: Any) -> Any:
    return (rng.standard_normal((15, 3)).astype(dtype), position_index((2, 3), (2, 3))), {}


def _table_gradient_arguments(rng: np.random.Generator, dtype: Any) -> Any:
    return (rng.standard_normal((3, 6, 6)).astype(dtype), position_index((2, 3), (2, 3)), 15), {}


def _forward_arguments(rng: np.random.Generator, dtype: Any, case: Case = _SHIFTED) -> Any:
    sample = make(case, Source(int(rng.integers(2**31)))).cast(dtype)
    return (*sample.args, sample.kwargs["spec"]), {}


def _backward_arguments(rng: np.random.Generator, dtype: Any) -> Any:
    args, _ = _forward_arguments(rng, dtype, replace(_SHIFTED, cosine=True))
    qkv = args[0]
    g = rng.standard_normal((*qkv.shape[:3], qkv.shape[3] // 3)).astype(dtype)
    return (g, *args), {}


def _pixels(rng: np.random.Generator, dtype: Any) -> Any:
    images = rng.integers(0, 256, (3, 2, 5, 4), dtype=np.uint8)
    top, left = (rng.integers(0, 5, 3) for _ in range(2))
    mean, std = rng.uniform(0.4, 0.6, 2).astype(dtype), rng.uniform(0.2, 0.3, 2).astype(dtype)
    return (images, top, left, np.array([True, False, True]), 2, True, mean, std), {}


register_kernel_rows(
    crop_flip_normalise=KernelRow(_pixels, None),
    position_bias_fwd=KernelRow(_table_arguments, "position_bias"),
    position_bias_bwd=KernelRow(_table_gradient_arguments, "position_bias"),
    window_attention_fwd=KernelRow(_forward_arguments, "window_attention"),
    window_attention_bwd=KernelRow(_backward_arguments, "window_attention"),
)
