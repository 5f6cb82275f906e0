"""Gradients of V2's and Swin-MLP's parts and of whole tiny models against numerical derivatives."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from support.swin.models import TINY, build, images, redraw

import autograd as ag
from swinpy.models.parts import PatchMerging, Stream
from swinpy.models.swin import Stage
from swinpy.models.swin_mlp import SpatialMlp, SwinMlpBlock
from swinpy.models.swin_v2 import CosineAttention, PositionMlp, SwinBlockV2

if TYPE_CHECKING:
    from swinpy import SwinConfig
    from swinpy.nn import Module

pytestmark = pytest.mark.gradcheck

CHANNELS, HEADS = 8, 2
V2 = TINY.with_changes(
    architecture="v2", img_size=14, embed_dim=CHANNELS, depths=(2,), num_heads=(HEADS,), num_classes=3
)
MLP = V2.with_changes(architecture="mlp")


def _map(size: tuple[int, int], batch: int = 1) -> Any:
    return np.random.default_rng(1).standard_normal((batch, *size, CHANNELS))


def _check(module: Module, x: Any, fn: Any = None) -> None:
    module.astype("float64").eval()
    redraw(module, calm=True)
    ag.gradcheck(fn or module, [x], list(module.parameters()))


SIZES = {"whole": (6, 6), "padded": (7, 5), "one_axis_small": (2, 7), "small": (2, 2)}
PATHS: dict[str, dict[str, Any]] = {"fused": {}, "composite": {"attention": "composite"}}
KINDS: dict[str, dict[str, Any]] = {
    "no_qkv_bias": {"qkv_bias": False},
    "zeroed_key_bias": {"key_bias": "zeroed"},
    "full_bias": {"key_bias": "full"},
    "paper": {"coordinates": "paper"},
    "no_position": {"position": "none"},
    "forbidden": {"mask_value": -np.inf},
    "pad": {"small_map": "pad"},
    "roll_first": {"pad_order": "roll_pad"},
    "never_unshifted": {"windows": "fixed", "shift_rule": "never"},
}


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("shift", [0, 1])
def test_attention(path: str, size: str, shift: int) -> None:
    config = V2.with_changes(**PATHS[path])
    _check(CosineAttention(CHANNELS, HEADS, (3, 3), (shift, shift), config), _map(SIZES[size]))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("path", PATHS)
def test_attention_kinds(kind: str, path: str) -> None:
    config = V2.with_changes(**PATHS[path], **KINDS[kind])
    _check(CosineAttention(CHANNELS, HEADS, (3, 3), (1, 1), config), _map((4, 7)))


@pytest.mark.parametrize("window", [(1, 1), (1, 3), (4, 2)])
def test_attention_windows(window: tuple[int, int]) -> None:
    attention = CosineAttention(CHANNELS, HEADS, window, (window[0] // 2, window[1] // 2), V2)
    attention.pretrained = (5, 3)
    _check(attention, _map((5, 4)))


def test_position_mlp() -> None:
    _check(PositionMlp(HEADS), np.random.default_rng(0).standard_normal((5, 2)))


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("extra_norm", [False, True])
def test_block(path: str, extra_norm: bool) -> None:
    """Also with a branch pending from the block before."""
    config = V2.with_changes(**PATHS[path])
    block = SwinBlockV2(CHANNELS, HEADS, (3, 3), (1, 1), 0.0, config, extra_norm=extra_norm)
    _check(block, _map((5, 4)), lambda x: block(Stream(x)).value())
    _check(block, _map((5, 4)), lambda x: block(Stream(x, x * 0.5)).value())


@pytest.mark.parametrize("branches", ["both", "attention"])
def test_block_with_drop_path(branches: str) -> None:
    config = V2.with_changes(drop_path_branches=branches)
    block = SwinBlockV2(CHANNELS, HEADS, (3, 3), (1, 1), 0.4, config, extra_norm=True)
    block.astype("float64")
    redraw(block, calm=True)

    def run(x: Any) -> Any:
        with ag.fork_rng({"seed": 3, "offset": 0}):
            return block(Stream(x, x * 0.5, np.array([2.0, 0.0, 2.0]))).value()

    ag.gradcheck(run, [_map((3, 4), batch=3)], list(block.parameters()))


@pytest.mark.parametrize("size", [(4, 6), (5, 3), (1, 1)])
def test_merging(size: tuple[int, int]) -> None:
    _check(PatchMerging(CHANNELS, 1e-5, norm_last=True), _map(size, 2))


def test_spatial_mlp() -> None:
    _check(SpatialMlp(HEADS, 4), np.random.default_rng(0).standard_normal((2, 3, HEADS, 4, 5)))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("shift", [0, 1])
def test_mlp_block(size: str, shift: int) -> None:
    block = SwinMlpBlock(CHANNELS, HEADS, (3, 3), (shift, shift), 0.0, MLP)
    _check(block, _map(SIZES[size]), lambda x: block(Stream(x)).value())


@pytest.mark.parametrize("checkpoint", ["none", "block", "stage"])
@pytest.mark.parametrize("config", [V2, V2.with_changes(extra_norm_every=2), MLP], ids=["v2", "extra_norm", "mlp"])
def test_stage(checkpoint: str, config: SwinConfig) -> None:
    stage = Stage(0, config, [0.0, 0.0])
    _check(stage, _map((5, 4)), lambda x: stage(x, checkpoint).value())


TWO: dict[str, Any] = {"depths": (2, 1), "num_heads": (1, 2)}
MODELS: dict[str, SwinConfig] = {
    "v2": V2.with_changes(**TWO),
    "v2_composite": V2.with_changes(attention="composite", position="both", **TWO),
    "v2_pretrained": V2.with_changes(pretrained_window_sizes=(5, 2), key_bias="full", **TWO),
    "v2_extra_norms": V2.with_changes(extra_norm_every=1, checkpoint="block", **TWO),
    "mlp": MLP.with_changes(**TWO),
    "mlp_checkpointed": MLP.with_changes(checkpoint="stage", position="absolute", **TWO),
    "v1_stage_windows": TINY.with_changes(img_size=14, num_classes=3, window_size=(3, 2), **TWO),
}


@pytest.mark.parametrize("name", MODELS)
def test_model(name: str) -> None:
    """Logits of an image that needs padding everywhere."""
    model = build(MODELS[name])
    redraw(model, calm=True)
    ag.gradcheck(model, [images((13, 9), 1)], list(model.parameters()))
