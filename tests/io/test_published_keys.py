"""The tables against what the real libraries said: keys and shapes of their state dicts, kept in a file.

Made from timm 1.0.31, torchvision 0.29, transformers 5.23 and mmpretrain 1.2.0 (with mmcv-lite 2.2.0; its classifiers'
logits were equal to 7e-16 for V1, 5e-15 for V2 with exact coordinates) for one small network;
tests/swin/test_parity_weights.py compares with the libraries themselves where they are installed.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.swin.models import build

from swinpy import SwinConfig
from swinpy.weights.describe import geometry_of
from swinpy.weights.dialects import detect, from_official, to_official

PUBLISHED = json.loads((Path(__file__).parent / "published_keys.json").read_text())
CONFIG = SwinConfig(
    img_size=32, num_classes=3, embed_dim=16, depths=(1, 2), num_heads=(2, 4), window_size=4, drop_path_rate=0.0
)
# transformers was asked for absolute positions; its V2 stores one too many of them and cannot run (left out here).
BOTH = CONFIG.with_changes(position="both")
CASES = {
    "timm v1": CONFIG,
    "timm v2": CONFIG.with_changes(architecture="v2"),
    "torchvision v1": CONFIG,
    "torchvision v2": CONFIG.with_changes(architecture="v2"),
    "hf5 v1": BOTH,
    "hf v2": CONFIG.with_changes(architecture="v2"),
    "hf5 backbone": BOTH.with_changes(num_classes=0, feature_norms=(0, 1)),
    "hf5 masked": BOTH.with_changes(num_classes=0),
    "mmpretrain v1": CONFIG,
    "mmpretrain-v2 v2": CONFIG.with_changes(architecture="v2"),
}
PRETRAINING = ("decoder.", "swin.embeddings.mask_token")


def _published(case: str) -> dict[str, tuple[int, ...]]:
    keys = {k: tuple(shape) for k, shape in PUBLISHED[case].items() if not k.startswith(PRETRAINING)}
    if case == "hf v2":
        keys.pop("swinv2.embeddings.position_embeddings")
    return keys


@pytest.mark.parametrize("case", CASES)
def test_keys_and_shapes(case: str) -> None:
    model, dialect = build(CASES[case]), case.split()[0]
    written = from_official(model.state_dict(), dialect, geometry_of(model.config)).arrays
    assert {k: v.shape for k, v in written.items()} == _published(case)


@pytest.mark.parametrize("case", CASES)
def test_every_key_is_known(case: str) -> None:
    assert detect(PUBLISHED[case]) == case.split()[0]
    model, dialect = build(CASES[case]), case.split()[0]
    written = from_official(model.state_dict(), dialect, geometry_of(model.config)).arrays
    assert to_official(written).unknown == ()
