"""Model names, timm's where timm has them, and ``create_model``."""

from __future__ import annotations

import fnmatch
import warnings
from typing import TYPE_CHECKING, Any

from swinpy.models.config import SwinConfig
from swinpy.models.presets import eval_config_of, preset_faults, preset_options
from swinpy.models.swin import SwinTransformer

if TYPE_CHECKING:
    from swinpy.models.presets import Preset
    from swinpy.preparation import Preparation

__all__ = ["VARIANTS", "create_model", "eval_config", "list_models", "model_config"]

_SIZES: dict[str, dict[str, Any]] = {
    "tiny": {"embed_dim": 96, "depths": (2, 2, 6, 2), "num_heads": (3, 6, 12, 24)},
    "small": {"embed_dim": 96, "depths": (2, 2, 18, 2), "num_heads": (3, 6, 12, 24)},
    "base": {"embed_dim": 128, "depths": (2, 2, 18, 2), "num_heads": (4, 8, 16, 32)},
    "large": {"embed_dim": 192, "depths": (2, 2, 18, 2), "num_heads": (6, 12, 24, 48)},
}

_BASE, _LARGE = _SIZES["base"], _SIZES["large"]

_V2: dict[str, dict[str, Any]] = {
    **{
        f"swinv2_{size}_window{window}_256": {"img_size": 256, "window_size": window, **_SIZES[size]}
        for size in ("tiny", "small", "base")
        for window in (8, 16)
    },
    **{
        name.format(size): {"img_size": image, "window_size": window, "pretrained_window_sizes": before, **values}
        for size, values in (("base", _BASE), ("large", _LARGE))
        for name, image, window, before in (
            ("swinv2_{}_window12_192", 192, 12, ()),
            ("swinv2_{}_window12to16_192to256", 256, 16, (12, 12, 12, 6)),
            ("swinv2_{}_window12to24_192to384", 384, 24, (12, 12, 12, 6)),
        )
    },
    # From the paper; no weights were published.
    "swinv2_huge": {"embed_dim": 352, "depths": (2, 2, 18, 2), "num_heads": (11, 22, 44, 88)},
    "swinv2_giant": {"embed_dim": 512, "depths": (2, 2, 42, 4), "num_heads": (16, 32, 64, 128)},
}
for _name in ("swinv2_huge", "swinv2_giant"):
    _V2[_name] |= {"img_size": 192, "window_size": 12, "extra_norm_every": 6}

_S3: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {
    "tiny": ((2, 2, 6, 2), (7, 7, 14, 7)),
    "small": ((2, 2, 18, 2), (14, 14, 14, 7)),
    "base": ((2, 2, 30, 2), (7, 7, 14, 7)),
}

# As published: 24, 12 or 6 channels a head in the first stage.
_MLP: dict[str, dict[str, Any]] = {
    "swin_mlp_tiny_c24_patch4_window8_256": {"num_heads": (4, 8, 16, 32)},
    "swin_mlp_tiny_c12_patch4_window8_256": {"num_heads": (8, 16, 32, 64)},
    "swin_mlp_tiny_c6_patch4_window8_256": {"num_heads": (16, 32, 64, 128)},
}
for _values in _MLP.values():
    _values |= {"img_size": 256, "window_size": 8}
_MLP["swin_mlp_base_patch4_window7_224"] = _BASE

VARIANTS: dict[str, SwinConfig] = {
    f"swin_{size}_patch4_window{window}_{image}": SwinConfig(img_size=image, window_size=window, **values)
    for size, values in _SIZES.items()
    for window, image in ((7, 224), (12, 384))
}
VARIANTS |= {name: SwinConfig(architecture="v2", **values) for name, values in _V2.items()}
VARIANTS |= {
    f"swin_s3_{size}_224": SwinConfig(depths=depths, window_size=windows) for size, (depths, windows) in _S3.items()
}
VARIANTS |= {name: SwinConfig(architecture="mlp", **values) for name, values in _MLP.items()}
VARIANTS |= {
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

        near = difflib.get_close_matches(name.partition(".")[0], VARIANTS, n=3, cutoff=0.7)
        hint = f"Did you mean {' or '.join(near)}?" if near else "See swinpy.list_models()."
        if name.partition(".")[0] in VARIANTS:
            hint = f"Weights have no names here: create {near[0]!r} and load a file by swinpy.load_weights."
        raise ValueError(f"create_model: expected a known model; got {name!r}. {hint}")
    return VARIANTS[name]


def eval_config(name: str, preset: Preset = "official") -> Preparation:
    """Resize, crop, interpolation, mean and standard deviation that a library evaluates a model with.

    >>> eval_config("swin_tiny_patch4_window7_224").resize
    256
    >>> eval_config("swin_tiny_patch4_window7_224", "timm").resize
    248

    Raises:
        ValueError: for an unknown name or preset, or a model that torchvision has no weights of.
    """
    return eval_config_of(name, model_config(name), preset)


def create_model(
    name: str,
    num_classes: int | None = None,
    device: str = "cpu",
    dtype: str = "float32",
    preset: Preset | None = None,
    **overrides: Any,
) -> SwinTransformer:
    """A freshly initialised model, in training mode.

    Args:
        name: see :func:`list_models`.
        num_classes: outputs of the head (default: the variant's, 1000 or 10; 0 for none).
        device: "cpu", "gpu", "cuda", "cuda:N" or "auto".
        dtype: "float32", "float64" or "float16".
        preset: behave as the "official" code, "timm", "torchvision" or "hf" (transformers) in everything that they
            differ in (docs/differences.md); faults that change results included, with a warning.
        overrides: any field of :class:`SwinConfig`; they win over the preset.

    Raises:
        ValueError: for an unknown name, preset or option.
        DeviceError: if the device cannot be had.

    >>> create_model("swin_tiny_patch4_window7_224").num_parameters()
    28288354
    """
    if num_classes is not None:
        overrides["num_classes"] = num_classes
    named = model_config(name)
    if preset is not None:
        overrides = {**preset_options(preset, named.architecture), **overrides}
        fault = preset_faults(preset, named.architecture)
        if fault is not None:
            warnings.warn(f"preset={preset!r} reproduces a fault: {fault}.", stacklevel=2)
    config = named.with_changes(**overrides)
    maps = [(c.nominal_windows, c.img_size, c.patch_size) for c in (named, config)]
    # what a name itself asks for is no surprise: V2 with window 16 at 256 ends with a map of 8
    model = SwinTransformer(config, warn=maps[0] != maps[1])
    return model.astype(dtype).to(device)
