"""What the tests of loading and saving share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from swinpy import SwinConfig, load_weights
from swinpy.weights.dialects import DIALECTS

if TYPE_CHECKING:
    from swinpy import SwinTransformer

__all__ = ["HEADLESS", "TABLE", "USABLE", "V1", "V2", "arrays_of", "assert_equal", "refused"]

V1 = SwinConfig(
    img_size=32,
    patch_size=2,
    num_classes=6,
    embed_dim=8,
    depths=(2, 2),
    num_heads=(2, 4),
    window_size=4,
    mlp_ratio=2.0,
    drop_path_rate=0.0,
)
V2 = V1.with_changes(architecture="v2")
USABLE = [name for name, dialect in DIALECTS.items() if not dialect.refused]
HEADLESS = ("simmim", "detection", "mmdet", "timm-features")
TABLE = "layers.0.blocks.0.attn.relative_position_bias_table"


def arrays_of(model: SwinTransformer) -> dict[str, np.ndarray]:
    return {name: p.data.copy() for name, p in model.named_parameters()}


def assert_equal(model: SwinTransformer, want: dict[str, np.ndarray]) -> None:
    got = model.state_dict()
    assert set(got) == set(want)
    for name, array in want.items():
        assert np.array_equal(got[name], array), name


def refused(model: SwinTransformer, source: Any, *words: str, **options: Any) -> str:
    """The message; the model is as it was, versions included."""
    before = arrays_of(model)
    versions = [p.version.count for p in model.parameters() if p.version is not None]
    with pytest.raises(ValueError) as caught:
        load_weights(model, source, **options)
    assert_equal(model, before)
    assert versions == [p.version.count for p in model.parameters() if p.version is not None]
    text = str(caught.value)
    for word in words:
        assert word in text, text
    return text
