"""What differs between the libraries that publish Swins, as options of the configuration and of evaluation.

docs/differences.md is the list, with the test of each row. Where a difference is a fault that changes results it is
reproduced, with a warning; crashes and NaNs are not.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

from swinpy.preparation import Preparation

if TYPE_CHECKING:
    from swinpy.models.config import Architecture, SwinConfig

__all__ = ["Preset", "eval_config_of", "preset_faults", "preset_options"]

Preset: TypeAlias = Literal["official", "timm", "torchvision", "hf"]

# Of every architecture, then of one.
_OPTIONS: dict[str, dict[str, Any]] = {
    "official": {"small_map": "clamp", "shift_rule": "map"},
    "timm": {"small_map": "clamp_axis", "shift_rule": "axis", "windows": "fixed", "pad_order": "roll_pad"},
    "torchvision": {"small_map": "pad", "shift_rule": "axis", "patch_rule": "crop"},
    "hf": {"initialisation": "hf"},
}
_MORE: dict[tuple[str, str], dict[str, Any]] = {
    ("torchvision", "v2"): {"key_bias": "zeroed", "res_post_norm_init": 1.0, "pretrained_window_sizes": ()},
    ("hf", "v1"): {"small_map": "clamp_forward", "shift_rule": "map", "drop_path_branches": "attention"},
    ("hf", "v2"): {
        "small_map": "clamp_height",
        "shift_rule": "height",
        "windows": "fixed",
        "mask_value": -200.0,
        "res_post_norm_init": 1.0,
    },
}
_FAULTS: dict[tuple[str, str], str] = {
    ("timm", "v1"): "maps that are no whole number of windows are rolled before they are padded, so that tokens see "
    "across the image's edge (pad_order='roll_pad')",
    (
        "hf",
        "v2",
    ): "the mask between regions is added twice (mask_value=-200), and the height alone, halved downwards, decides on "
    "window and shift (small_map='clamp_height', shift_rule='height')",
}
_FAULTS["timm", "v2"] = _FAULTS["timm", "v1"]

_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_CIFAR = ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))

# torchvision's own choice for each of its weights.
_TORCHVISION_RESIZE = {
    "swin_tiny_patch4_window7_224": 232,
    "swin_small_patch4_window7_224": 246,
    "swin_base_patch4_window7_224": 238,
    "swinv2_tiny_window8_256": 260,
    "swinv2_small_window8_256": 260,
    "swinv2_base_window8_256": 272,
}


def _check_preset(preset: str, architecture: Architecture) -> None:
    """Whether a library has such models.

    Raises:
        ValueError: for an unknown preset, or Swin-MLP elsewhere than in the official code.
    """
    if preset not in get_args(Preset):
        raise ValueError(f"preset: expected one of {', '.join(get_args(Preset))}; got {preset!r}.")
    if architecture == "mlp" and preset != "official":
        raise ValueError(f"preset: expected 'official' for Swin-MLP, which no other library has; got {preset!r}.")


def preset_options(preset: Preset, architecture: Architecture) -> dict[str, Any]:
    """Fields of :class:`SwinConfig` that make a model behave as a library's.

    Raises:
        ValueError: as :func:`_check_preset`.
    """
    _check_preset(preset, architecture)
    return {**_OPTIONS[preset], **_MORE.get((preset, architecture), {})}


def preset_faults(preset: Preset, architecture: Architecture) -> str | None:
    """What a preset reproduces that changes results and was not meant, or None."""
    return _FAULTS.get((preset, architecture))


def eval_config_of(name: str, config: SwinConfig, preset: Preset = "official") -> Preparation:
    """The evaluation transform of a model.

    The official code resizes the shorter side by 256 / 224 and crops the centre, but resizes to 384 directly; timm
    resizes by 1 / 0.9, at 384 by 1; transformers resizes directly; torchvision has a number for each of its weights.

    Args:
        name: of the model.
        config: its configuration; the image size is taken from here.
        preset: whose transform.

    Raises:
        ValueError: for an unknown preset, or a model that torchvision has no weights of.
    """
    _check_preset(preset, config.architecture)
    image, side = config.image, min(config.image)
    mean, std = _IMAGENET if side > 32 else _CIFAR
    if preset == "hf" or side <= 32 or (preset == "official" and side == 384):
        return Preparation(image, None, "bicubic", mean, std)
    if preset == "torchvision":
        if name not in _TORCHVISION_RESIZE:
            known = ", ".join(_TORCHVISION_RESIZE)
            raise ValueError(f"eval_config: expected a model that torchvision has ({known}); got {name!r}.")
        resize = _TORCHVISION_RESIZE[name]
    elif preset == "timm":
        resize = math.floor(side / (1.0 if side == 384 else 0.9))
    else:
        resize = int(256 / 224 * side)
    return Preparation(resize, image, "bicubic", mean, std)
