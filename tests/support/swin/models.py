"""Models for the tests of Swin: small configurations, parameters redrawn, a closed formula for weights."""

from __future__ import annotations

import math
import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from swinpy import SwinConfig, SwinTransformer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from swinpy.nn import Module

__all__ = ["ONE_STAGE", "TINY", "build", "images", "redraw", "shapes_only", "tiny"]

Array = np.ndarray[Any, Any]

# 20x20 images, maps of 10x10 and 5x5: padding to windows of 3 in both stages, an odd map in the second.
TINY = SwinConfig(
    img_size=20,
    patch_size=2,
    num_classes=5,
    embed_dim=8,
    depths=(2, 2),
    num_heads=(2, 4),
    window_size=3,
    mlp_ratio=2.0,
    drop_path_rate=0.0,
)

# Options of create_model for the smallest model with shifted windows: 12x12 images, one map of 6x6.
ONE_STAGE: dict[str, Any] = {
    "img_size": 12,
    "patch_size": 2,
    "num_classes": 4,
    "embed_dim": 8,
    "depths": (2,),
    "num_heads": (2,),
    "window_size": 3,
    "mlp_ratio": 2.0,
}


def _value(name: str, shape: tuple[int, ...], rng: np.random.Generator, calm: bool) -> Array:
    if "norm" in name and name.endswith("weight"):
        return rng.uniform(0.5, 1.5, shape)
    if name.endswith("logit_scale"):  # heads in turn below and above ln 100 = 4.6, but for scores that bend slowly
        above = 0.0 if calm else 4.0 * (np.arange(shape[0]).reshape(shape) % 2)
        return rng.uniform(0, 1, shape) + (0.0 if calm else 1.0) + above
    if "relative_position_bias_table" in name or "absolute_pos_embed" in name:
        return rng.standard_normal(shape) * 0.5
    if calm and name.endswith(
        "0.bias"
    ):  # of V2's position MLP: each unit surely on or surely off, far from ReLU's kink
        return np.where(np.arange(shape[0]) % 2, 4.0, -4.0) + rng.standard_normal(shape) * 0.2
    if len(shape) == 1:
        return rng.standard_normal(shape) * 0.2
    weight = rng.standard_normal(shape) / math.sqrt(math.prod(shape[1:]))
    if calm:
        return weight / 2
    if name.endswith("qkv.weight"):
        weight[: 2 * len(weight) // 3] *= 2
    return weight


def redraw(model: Module, seed: int = 0, calm: bool = False) -> None:
    """Give every parameter a value that leaves no gradient near 0.

    Norm weights lie in [.5, 1.5]; biases, bias tables and absolute positions are normal; weights keep the variance of
    what passes through them, but queries and keys double it, so that attention chooses and does not only average (an
    average makes all tokens alike after some blocks). Official initialisation has zeros and .02, which hide faults.
    ``calm`` weights are half as large throughout, for finite differences, which want a function that bends slowly.
    """
    rng = np.random.default_rng(seed)
    for name, parameter in model.named_parameters():
        parameter.assign_(_value(name, parameter.shape, rng, calm).astype(parameter.dtype))


def build(config: SwinConfig, dtype: str = "float64", seed: int | None = 0) -> SwinTransformer:
    """A model of ``config`` in evaluation mode, with redrawn parameters; without the warning about small maps."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        model = SwinTransformer(config)
    model = model.astype(dtype).eval()
    if seed is not None:
        redraw(model, seed)
    return model


def tiny(dtype: str = "float64", seed: int | None = 0, **changes: Any) -> SwinTransformer:
    """:data:`TINY` with some values replaced, built."""
    return build(TINY.with_changes(**changes), dtype, seed)


def images(size: int | tuple[int, int], batch: int = 2, dtype: Any = np.float64, seed: int = 0) -> Array:
    """(B, 3, H, W), normal."""
    height, width = (size, size) if isinstance(size, int) else size
    return np.random.default_rng(seed).standard_normal((batch, 3, height, width)).astype(dtype)


@contextmanager
def shapes_only() -> Iterator[None]:
    """Inside, parameters are read-only zeros without memory of their own: the largest model is built in no time."""
    import pytest

    def zeros(shape: tuple[int, ...], *_: Any, **__: Any) -> Array:
        return np.broadcast_to(np.float32(0), shape)

    with pytest.MonkeyPatch.context() as patch:
        for module in ("nn.layers", "models.parts", "models.swin_v1", "models.swin_mlp"):
            patch.setattr(f"swinpy.{module}.trunc_normal", zeros)
        patch.setattr("swinpy.nn.layers.kaiming_uniform", zeros)
        patch.setattr("swinpy.models.swin.redraw_as_hf", lambda model: None)
        yield
