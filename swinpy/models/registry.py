"""Model names, timm's where timm has them, and ``create_model``."""

from __future__ import annotations

import fnmatch
from typing import Any

from swinpy.models.config import SwinConfig
from swinpy.models.swin_v1 import SwinTransformer

__all__ = ["VARIANTS", "create_model", "list_models", "model_config"]

_SIZES: dict[str, dict[str, Any]] = {
    "tiny": {"embed_dim": 96, "depths": (2, 2, 6, 2), "num_heads": (3, 6, 12, 24)},
    "small": {"embed_dim": 96, "depths": (2, 2, 18, 2), "num_heads": (3, 6, 12, 24)},
    "base": {"embed_dim": 128, "depths": (2, 2, 18, 2), "num_heads": (4, 8, 16, 32)},
    "large": {"embed_dim": 192, "depths": (2, 2, 18, 2), "num_heads": (6, 12, 24, 48)},
}

VARIANTS: dict[str, SwinConfig] = {
    f"swin_{size}_patch4_window{window}_{image}": SwinConfig(img_size=image, window_size=window, **values)
    for size, values in _SIZES.items()
    for window, image in ((7, 224), (12, 384))
} | {
    # For 32-pixel images: patch 2, so that the last stage is 4x4 tokens; patch 4 would end at 1x1.
    "swin_cifar_tiny": SwinConfig(
        img_size=32,
        patch_size=2,
        window_size=4,
        embed_dim=96,
        depths=(2, 6, 4),
        num_heads=(3, 6, 12),
        mlp_ratio=2.0,
        num_classes=10,
    ),
    "swin_cifar_nano": SwinConfig(
        img_size=32,
        patch_size=2,
        window_size=4,
        embed_dim=16,
        depths=(2, 2, 2),
        num_heads=(1, 2, 4),
        mlp_ratio=2.0,
        num_classes=10,
        drop_path_rate=0.0,
    ),
}


def list_models(pattern: str = "*") -> list[str]:
    """Model names that match a shell pattern.

    >>> list_models("swin_cifar*")
    ['swin_cifar_nano', 'swin_cifar_tiny']
    """
    return sorted(fnmatch.filter(VARIANTS, pattern))


def model_config(name: str) -> SwinConfig:
    """The configuration behind a name.

    Raises:
        ValueError: for an unknown name, with the nearest ones.
    """
    if name not in VARIANTS:
        import difflib

        near = difflib.get_close_matches(name, VARIANTS, n=3)
        hint = f"Did you mean {' or '.join(near)}?" if near else "See list_models()."
        raise ValueError(f"create_model: expected a known model; got {name!r}. {hint}")
    return VARIANTS[name]


def create_model(
    name: str, num_classes: int | None = None, device: str = "cpu", dtype: str = "float32", **overrides: Any
) -> SwinTransformer:
    """A freshly initialised model, in training mode.

    Args:
        name: see :func:`list_models`.
        num_classes: outputs of the head (default: the variant's, 1000 or 10; 0 for none).
        device: "cpu", "gpu", "cuda", "cuda:N" or "auto".
        dtype: "float32", "float64" or "float16".
        overrides: any field of :class:`SwinConfig`.

    Raises:
        ValueError: for an unknown name or option.
        DeviceError: if the device cannot be had.

    >>> create_model("swin_tiny_patch4_window7_224").num_parameters()
    28288354
    """
    if num_classes is not None:
        overrides["num_classes"] = num_classes
    model = SwinTransformer(model_config(name).with_changes(**overrides))
    return model.astype(dtype).to(device)
