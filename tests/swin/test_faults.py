"""Planted faults of Swin: each makes the check that it names fail, and clean code passes it."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from support.faults import Fault, assert_caught, generic, plant_global, plant_kernel
from support.swin import checks as swin_checks

import autograd as ag
from autograd import random
from swinpy.geometry import PositionIndex
from swinpy.kernels.window_attention import reference as kernels
from swinpy.models.parts import PatchMerging, Stream
from swinpy.models.swin_v1 import TableAttention
from swinpy.ops import attention as composite

if TYPE_CHECKING:
    from swinpy.geometry import Geometry

FORWARD, COMPOSITE = generic("forward", "window_attention"), generic("composite", "window_attention")
GOLDEN = partial(swin_checks.golden, "swin_patch4_window7")


def _in_kernels(name: str, make: Any) -> Any:
    return lambda patch: patch.setattr(kernels, name, make(getattr(kernels, name)))


def _in_composite(name: str, make: Any) -> Any:
    return lambda patch: patch.setattr(composite, name, make(getattr(composite, name)))


def _in_class(cls: type, name: str, value: Any) -> Any:
    return lambda patch: patch.setattr(cls, name, value)


def _rolled_the_other_way(right: Any) -> Any:
    """Tokens of a map shifted by -shift: of a shift of window - shift, but with the regions of the right one."""

    def tokens(cut: Geometry) -> Any:
        (wh, ww), (sh, sw) = cut.window, cut.shift
        return right(replace(cut, shift=((wh - sh) % wh if sh else 0, (ww - sw) % ww if sw else 0)))

    return tokens


def _shifted_the_other_way(right: Any) -> Any:
    def pad_and_shift(x: Any, spec: Any) -> Any:
        sh, sw = spec.geometry.shift
        return right(x, replace(spec, geometry=replace(spec.geometry, shift=(-sh, -sw))))

    return pad_and_shift


def _one_further(right: Any) -> Any:
    """The mask of a shift that is one larger, where there is a shift."""
    return lambda cut, value: right(replace(cut, shift=tuple(s + (s > 0) for s in cut.shift)), value)


def _without_scale(right: Any) -> Any:
    return lambda *args: right(*args[:-1], replace(args[-1], scale=1.0))


def _reversed_with_h_and_w_swapped(windows: Any) -> Any:
    batch, down, across, wh, ww, channels = windows.shape
    return windows.transpose(0, 2, 4, 1, 3, 5).reshape(batch, down * wh, across * ww, channels)


def _rolled_then_padded(x: Any, spec: Any) -> Any:
    (h, w), (padded_h, padded_w), (sh, sw) = spec.geometry.size, spec.geometry.padded, spec.geometry.shift
    return ag.pad(ag.roll(x, (-sh, -sw), axis=(1, 2)), ((0, 0), (0, padded_h - h), (0, padded_w - w), (0, 0)))


def _rolled_then_padded_tokens(right: Any) -> Any:
    def tokens(cut: Geometry) -> Any:
        (h, w), (padded_h, padded_w) = cut.size, cut.padded
        image = np.roll(np.arange(h * w).reshape(h, w), (-cut.shift[0], -cut.shift[1]), axis=(0, 1))
        image = np.pad(image, ((0, padded_h - h), (0, padded_w - w)), constant_values=-1)
        (wh, ww), (down, across) = cut.window, cut.windows
        return image.reshape(down, wh, across, ww).transpose(0, 2, 1, 3).reshape(down * across, -1)

    return tokens


def _padding_without_bias(self: Any, images: slice) -> Any:
    rows = self.gather(self.qkv[images])
    if self.qkv_bias is not None:
        rows[:, self.inside] += self.qkv_bias
    return self.split(rows, 3)


def _merged_row_by_row(x: Any) -> Any:
    batch, h, w, channels = x.shape
    x = ag.pad(x, ((0, 0), (0, h % 2), (0, w % 2), (0, 0)))
    h, w = (h + 1) // 2, (w + 1) // 2
    return x.reshape(batch, h, 2, w, 2, channels).transpose(0, 1, 3, 2, 4, 5).reshape(batch, h, w, 4 * channels)


def _kept_unscaled(right: Any) -> Any:
    def keep(*args: Any, **options: Any) -> Any:
        scales = right(*args, **options)
        return None if scales is None else (scales != 0).astype(scales.dtype)

    return keep


def _value_without_keep(self: Stream) -> Any:
    return self.x if self.branch is None else self.x + self.branch


def _no_fork(state: Any = None) -> Any:
    from contextlib import nullcontext

    return nullcontext()


def _qkv_bias_from_the_map_alone(right: Any) -> Any:
    """The gradient of the qkv bias without what padded tokens receive."""

    def bwd(*args: Any) -> Any:
        gqkv, gbias, gqkv_bias, rest = right(*args)
        return gqkv, gbias, None if gqkv_bias is None else gqkv.sum(axis=(0, 1, 2)), rest

    return bwd


def _without_mask(right: Any) -> Any:
    return lambda *args: right(*args[:-1], replace(args[-1], mask_value=-1e-9))


def _first_place_alone(g: Any, index: PositionIndex, rows: int, dtype: Any) -> Any:
    """Of the pairs of tokens that read a row, the first one's gradient."""
    out = np.zeros((rows, len(g)), dtype)
    for row, (place, *_) in enumerate(index.places):
        out[row] = g.reshape(len(g), -1)[:, place] if place >= 0 else 0
    return out


def _corner_of_the_table(right: Any) -> Any:
    """A smaller window reads the first rows of the table, not the central ones."""
    return lambda window, table: right(window, window)


FAULTS = (
    Fault("shift sign, fused", FORWARD, _in_kernels("window_tokens", _rolled_the_other_way)),
    Fault("shift sign, composite", COMPOSITE, _in_composite("_pad_and_shift", _shifted_the_other_way)),
    Fault("mask region off by one, fused", FORWARD, _in_kernels("attention_mask", _one_further)),
    Fault("mask region off by one, composite", COMPOSITE, _in_composite("attention_mask", _one_further)),
    Fault("mask dropped in backward", COMPOSITE, plant_kernel("window_attention_bwd", _without_mask)),
    Fault(
        "position bias: backward without accumulation",
        generic("gradcheck", "position_bias"),
        plant_kernel("position_bias_bwd", lambda right: _first_place_alone),
    ),
    Fault(
        "bias index transposed",
        GOLDEN,
        plant_global(
            TableAttention.position_bias, "position_index", lambda right: lambda *a: PositionIndex(right(*a).index.T)
        ),
    ),
    Fault(
        "smaller window: corner of the bias table",
        GOLDEN,
        plant_global(TableAttention.position_bias, "position_index", _corner_of_the_table),
    ),
    Fault("merge order", GOLDEN, _in_class(PatchMerging, "gather", staticmethod(_merged_row_by_row))),
    Fault("scale dropped", FORWARD, plant_kernel("window_attention_fwd", _without_scale)),
    Fault("scale dropped in backward", COMPOSITE, plant_kernel("window_attention_bwd", _without_scale)),
    Fault(
        "H and W swapped in reverse",
        COMPOSITE,
        _in_composite("window_reverse", lambda right: _reversed_with_h_and_w_swapped),
    ),
    Fault("pad after roll, fused", FORWARD, _in_kernels("window_tokens", _rolled_then_padded_tokens)),
    Fault("pad after roll, composite", COMPOSITE, _in_composite("_pad_and_shift", lambda right: _rolled_then_padded)),
    Fault("padded tokens zero after qkv", FORWARD, _in_class(kernels._Windows, "load", _padding_without_bias)),
    Fault(
        "qkv bias without the padded tokens' gradient",
        COMPOSITE,
        plant_kernel("window_attention_bwd", _qkv_bias_from_the_map_alone),
    ),
    Fault(
        "DropPath without 1/keep",
        swin_checks.dropped_branches,
        lambda patch: patch.setattr(ag, "drop_path_keep", _kept_unscaled(ag.drop_path_keep)),
    ),
    Fault(
        "DropPath forgotten at a stage's end",
        swin_checks.dropped_branches,
        _in_class(Stream, "value", _value_without_keep),
    ),
    Fault(
        "checkpoint without restoring randomness",
        partial(swin_checks.checkpointing, "stage"),
        lambda patch: patch.setattr(random, "rewound", _no_fork),
    ),
)


@pytest.mark.parametrize("fault", FAULTS, ids=[f.name for f in FAULTS])
def test_fault_is_caught(fault: Fault) -> None:
    assert_caught(fault)


def test_faults_name_every_required_one() -> None:
    text = " ".join(f.name for f in FAULTS)
    for words in (
        "shift sign",
        "mask region off by one",
        "bias index transposed",
        "merge order",
        "scale dropped",
        "H and W swapped in reverse",
        "pad after roll",
        "padded tokens zero after qkv",
        "DropPath without 1/keep",
        "checkpoint without restoring randomness",
    ):
        assert words in text
