"""Gradients of every part and of whole tiny models against numerical derivatives, for each parameter alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from support import checks
from support.rows.opinfo import Source
from support.rows.swin import drawn_case, make
from support.swin.models import TINY, build, images, redraw
from support.swin.strategies import INFO

import autograd as ag
from swinpy.models.parts import Mlp, PatchEmbed, PatchMerging, Stream
from swinpy.models.swin import Stage
from swinpy.models.swin_v1 import SwinBlock, TableAttention

if TYPE_CHECKING:
    from swinpy import SwinConfig
    from swinpy.nn import Module

pytestmark = pytest.mark.gradcheck

CHANNELS, HEADS = 8, 2
SMALL = TINY.with_changes(img_size=14, embed_dim=CHANNELS, depths=(2,), num_heads=(HEADS,), num_classes=3)


def _map(size: tuple[int, int], batch: int = 1) -> Any:
    return np.random.default_rng(1).standard_normal((batch, *size, CHANNELS))


def _check(module: Module, x: Any, fn: Any = None) -> None:
    module.astype("float64").eval()
    redraw(module, calm=True)
    ag.gradcheck(fn or module, [x], list(module.parameters()))


SIZES = {"whole": (6, 6), "padded": (7, 5), "one_axis_small": (2, 7), "small": (2, 2)}
PATHS = {"fused": {}, "composite": {"attention": "composite"}}
KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "no_qkv_bias": {"qkv_bias": False},
    "no_position": {"position": "none"},
    "forbidden": {"mask_value": -np.inf},
    "pad": {"small_map": "pad"},
}


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("shift", [0, 1])
def test_window_attention(path: str, size: str, shift: int) -> None:
    config = SMALL.with_changes(**PATHS[path])
    _check(TableAttention(CHANNELS, HEADS, (3, 3), (shift, shift), config), _map(SIZES[size]))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("path", PATHS)
def test_window_attention_kinds(kind: str, path: str) -> None:
    config = SMALL.with_changes(**PATHS[path], **KINDS[kind])
    _check(TableAttention(CHANNELS, HEADS, (3, 3), (1, 1), config), _map((2, 7)))


@pytest.mark.parametrize("seed", range(8))
def test_window_attention_op(seed: int) -> None:
    """Drawn cases, cosine on and off; the row's own cases are checked in tests/ops."""
    source = Source(seed)
    checks.gradcheck(INFO, make(drawn_case(source, largest=5), source))


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("shift", [0, 1])
def test_block(path: str, shift: int) -> None:
    """Also with a branch pending from the block before."""
    config = SMALL.with_changes(**PATHS[path])
    block = SwinBlock(CHANNELS, HEADS, (3, 3), (shift, shift), 0.0, config)
    _check(block, _map((5, 4)), lambda x: block(Stream(x)).value())
    _check(block, _map((5, 4)), lambda x: block(Stream(x, x * 0.5)).value())


def test_block_with_drop_path() -> None:
    block = SwinBlock(CHANNELS, HEADS, (3, 3), (1, 1), 0.4, SMALL)
    block.astype("float64")
    redraw(block, calm=True)

    def run(x: Any) -> Any:
        with ag.fork_rng({"seed": 3, "offset": 0}):
            return block(Stream(x, x * 0.5, np.array([2.0, 0.0, 2.0]))).value()

    ag.gradcheck(run, [_map((3, 4), batch=3)], list(block.parameters()))


@pytest.mark.parametrize("size", [(4, 6), (5, 3), (1, 1)])
def test_merging(size: tuple[int, int]) -> None:
    _check(PatchMerging(CHANNELS, 1e-5), _map(size, 2))


@pytest.mark.parametrize("norm", [True, False])
def test_patch_embedding(norm: bool) -> None:
    _check(PatchEmbed(SMALL.with_changes(patch_norm=norm)), images((7, 4)))


def test_mlp() -> None:
    _check(Mlp(CHANNELS, 7, 0.0), _map((2, 3)))


@pytest.mark.parametrize("checkpoint", ["none", "block", "stage"])
def test_stage(checkpoint: str) -> None:
    stage = Stage(0, SMALL, [0.0, 0.0])
    _check(stage, _map((5, 4)), lambda x: stage(x, checkpoint).value())


MODELS: dict[str, SwinConfig] = {
    "relative": TINY.with_changes(img_size=14, depths=(2, 1), num_heads=(1, 2), num_classes=3),
    "absolute_resized": SMALL.with_changes(position="absolute", img_size=10),
    "both_composite": SMALL.with_changes(position="both", attention="composite"),
    "pad": SMALL.with_changes(small_map="pad", window_size=5, depths=(1, 1), num_heads=(1, 2)),
    "checkpointed": SMALL.with_changes(checkpoint="block", depths=(2, 1), num_heads=(1, 2)),
}


@pytest.mark.parametrize("name", MODELS)
def test_model(name: str) -> None:
    """Logits of an image that needs padding everywhere."""
    model = build(MODELS[name])
    redraw(model, calm=True)
    ag.gradcheck(model, [images((13, 9), 1)], list(model.parameters()))


def test_features() -> None:
    """Every stage, normed, as one function."""
    model = build(MODELS["relative"].with_changes(feature_norms=(0,), num_classes=0))
    redraw(model, calm=True)
    ag.gradcheck(lambda x: tuple(model.features(x)), [images((11, 9), 1)], list(model.parameters()))
