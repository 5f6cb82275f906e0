"""SwinConfig: everything that makes one Swin differ from another, checked when it is made."""

from __future__ import annotations

import difflib
import math
import operator
from dataclasses import asdict, dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from swinpy.geometry import dropped_shift

if TYPE_CHECKING:
    from swinpy.geometry import Coordinates, Pair, ShiftRule, SmallMap

__all__ = ["Architecture", "PositionEncoding", "SwinConfig"]

Architecture = Literal["v1", "v2", "mlp"]
PositionEncoding = Literal["relative", "absolute", "both", "none"]
_CHOICES = {
    "architecture": ("v1", "v2", "mlp"),
    "position": ("relative", "absolute", "both", "none"),
    "patch_rule": ("pad", "crop"),
    "small_map": ("clamp", "clamp_axis", "clamp_height", "clamp_forward", "pad"),
    "shift_rule": ("axis", "map", "height", "never"),
    "windows": ("adaptive", "fixed"),
    "pad_order": ("pad_roll", "roll_pad"),
    "coordinates": ("code", "paper"),
    "key_bias": ("none", "zeroed", "full"),
    "initialisation": ("official", "hf"),
    "drop_path_branches": ("both", "attention"),
    "attention": ("fused", "composite"),
    "checkpoint": ("none", "block", "stage"),
}
_MOST_STAGES = 32
# Options of timm's create_model that are something else here.
_ELSEWHERE = {
    "pretrained": "Weights are loaded from a file: swinpy.load_weights(model, path).",
    "checkpoint_path": "Weights are loaded from a file: swinpy.load_weights(model, path).",
    "features_only": "Every model has features(x, out_indices).",
    "out_indices": "Pass them to model.features(x, out_indices).",
}
_V2_ONLY = ("pretrained_window_sizes", "coordinates", "key_bias", "res_post_norm_init", "extra_norm_every")


def _pair(value: int | Pair) -> Pair:
    if isinstance(value, int):
        return value, value
    if len(value) != 2:
        raise ValueError(f"img_size: expected one number or (H, W); got {value}.")
    return int(value[0]), int(value[1])


def _number(name: str, kind: str, value: Any) -> int | float:
    """``value`` as a Python int or finite float; NumPy's numbers will do, strings and booleans will not."""
    try:
        if kind == "int" and not isinstance(value, bool):
            return operator.index(value)
        if kind == "float" and not isinstance(value, (str, bool)):
            if math.isnan(value) or (math.isinf(value) and name != "mask_value"):
                raise ValueError(f"{name}: expected a finite number; got {value}.")
            return float(value)
    except TypeError:
        pass
    raise TypeError(f"{name}: expected {'a whole number' if kind == 'int' else 'a number'}; got {value!r}.")


def _typed(name: str, annotation: str, value: Any) -> Any:
    """The value of a field as what its annotation says: NumPy's numbers as Python's, lists as tuples.

    Raises:
        TypeError: for anything else, so that nothing is found out in the middle of a forward.
    """
    if "tuple" in annotation or "Pair" in annotation:
        if np.ndim(value) == 1 and not isinstance(value, str):
            return tuple(_number(name, "int", v) for v in value)
        if not annotation.startswith("int"):
            raise TypeError(f"{name}: expected a sequence of whole numbers; got {value!r}.")
        return _number(name, "int", value)
    if annotation == "bool":
        if not isinstance(value, (bool, np.bool)):
            raise TypeError(f"{name}: expected True or False; got {value!r}.")
        return bool(value)
    if value is None and "None" in annotation:
        return None
    kind = annotation.partition(" ")[0]
    return _number(name, kind, value) if kind in ("int", "float") else value


@dataclass(frozen=True)
class SwinConfig:
    """A Swin Transformer V1, V2 or a Swin-MLP. The defaults are Swin-T at 224.

    Attributes:
        architecture: "v1"; "v2" (norms after the branches, cosine attention, position bias from an MLP); "mlp" (V1 with
            a linear layer over each window's tokens instead of attention).
        img_size: size in pixels that the model is built for (H, W) or one number; other sizes run too.
        patch_size: pixels a side of a patch.
        in_chans: image channels.
        num_classes: outputs of the head; 0 for none.
        embed_dim: channels C of the first stage; doubles at each merging.
        depths: blocks of each stage.
        num_heads: attention heads of each stage.
        window_size: tokens a side of a window; one number, or one for each stage (S3).
        mlp_ratio: hidden channels of the MLP over C.
        qkv_bias: bias on the qkv projection.
        qk_scale: of the scores; None for 1/sqrt(head_dim).
        drop_rate: dropout after the patch embedding, the projections and in the MLP.
        attn_drop_rate: dropout on attention probabilities (needs attention="composite").
        drop_path_rate: stochastic depth of the last block; grows linearly from 0.
        position: relative bias (the published models), absolute embedding, both or none.
        patch_norm: layer norm after the patch embedding.
        shift: shift every second block's windows.
        patch_rule: "pad" an image that is no whole number of patches with zeros, or "crop" what is left over, as a
            convolution does (torchvision).
        small_map: what to do where a map is smaller than the window: "clamp" the window to it (built-in size: a square
            of the smaller side, as the official code), "clamp_axis" (built-in size: each side by itself, as timm),
            "clamp_height" (built-in size: a square by the height, which halves downwards from stage to stage, as in
            transformers' V2), "clamp_forward" (not at the built-in size, only when such a map comes, as transformers'
            V1), or "pad" the map (torchvision).
        shift_rule: where the map is not larger than the window along an axis, drop the shift. "axis": along that axis
            (torchvision, timm). "map": along both (the official code, transformers' V1). "height": along both, but only
            for the height (transformers' V2). "never": keep it (the official detection backbones).
        windows: "adaptive": small_map and shift_rule look at each map that comes; "fixed": at the built-in size only,
            and a smaller map is padded (timm, transformers' V2).
        pad_order: "pad_roll", or "roll_pad", a fault of timm's in which tokens see across the image's edge.
        mask_value: added to scores across region borders: -100 as published, or -inf.
        attention: "fused" (one op) or "composite" (the ops of the paper).
        checkpoint: recompute activations in backward: "none", "block" or "stage".
        pretrained_window_sizes: V2: window of each stage that positions were learned at, 0 for the present one; () for
            zeros. It scales the coordinates.
        coordinates: V2: log-spaced coordinates of the published "code" or as printed in the "paper".
        key_bias: V2: "none" (q_bias and v_bias), "zeroed" (qkv.bias whose key part is not used, as torchvision) or
            "full" (qkv.bias).
        res_post_norm_init: V2: initial weight of the norms at the end of branches: 0 (official) or 1.
        extra_norm_every: V2: also norm the residual stream after each group of this many blocks of a stage (6 in H
            and G); 0 for none.
        initialisation: "official" (truncated normal; framework default for the patch convolution) or "hf" (normal,
            the convolution too; zeros for tables).
        drop_path_branches: stochastic depth on "both" branches of a block or on "attention" alone (transformers' V1).
        feature_norms: stages that get a norm of their own for ``features`` (``norm0`` ..., detection backbones).
        layer_norm_eps: of every layer norm.

    Raises:
        TypeError: for a value of the wrong kind.
        ValueError: for values that do not fit together, naming the fix.
    """

    architecture: Architecture = "v1"
    img_size: int | Pair = 224
    patch_size: int = 4
    in_chans: int = 3
    num_classes: int = 1000
    embed_dim: int = 96
    depths: tuple[int, ...] = (2, 2, 6, 2)
    num_heads: tuple[int, ...] = (3, 6, 12, 24)
    window_size: int | tuple[int, ...] = 7
    mlp_ratio: float = 4.0
    qkv_bias: bool = True
    qk_scale: float | None = None
    drop_rate: float = 0.0
    attn_drop_rate: float = 0.0
    drop_path_rate: float = 0.1
    position: PositionEncoding = "relative"
    patch_norm: bool = True
    shift: bool = True
    patch_rule: Literal["pad", "crop"] = "pad"
    small_map: SmallMap = "clamp"
    shift_rule: ShiftRule = "axis"
    windows: Literal["adaptive", "fixed"] = "adaptive"
    pad_order: Literal["pad_roll", "roll_pad"] = "pad_roll"
    mask_value: float = -100.0
    attention: Literal["fused", "composite"] = "fused"
    checkpoint: Literal["none", "block", "stage"] = "none"
    pretrained_window_sizes: tuple[int, ...] = ()
    coordinates: Coordinates = "code"
    key_bias: Literal["none", "zeroed", "full"] = "none"
    res_post_norm_init: float = 0.0
    extra_norm_every: int = 0
    initialisation: Literal["official", "hf"] = "official"
    drop_path_branches: Literal["both", "attention"] = "both"
    feature_norms: tuple[int, ...] = ()
    layer_norm_eps: float = 1e-5

    def __post_init__(self) -> None:
        for field in fields(self):
            object.__setattr__(self, field.name, _typed(field.name, str(field.type), getattr(self, field.name)))
        if not isinstance(self.img_size, int):
            object.__setattr__(self, "img_size", _pair(self.img_size))
        self._check_sizes()
        self._check_heads()
        self._check_windows()
        self._check_architecture()
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                raise ValueError(f"{name}: expected one of {', '.join(choices)}; got {getattr(self, name)!r}.")
        for name in ("drop_rate", "attn_drop_rate", "drop_path_rate"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name}: expected a rate in [0, 1); got {getattr(self, name)}.")
        if self.attn_drop_rate and self.attention == "fused":
            raise ValueError(
                "attn_drop_rate: expected 0 with attention='fused', which keeps no probabilities; got "
                f"{self.attn_drop_rate}. Use attention='composite'."
            )

    def _check_sizes(self) -> None:
        for name in ("patch_size", "in_chans", "embed_dim"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: expected 1 or more; got {getattr(self, name)}.")
        if min(self.image) < 1 or self.num_classes < 0 or self.mlp_ratio <= 0:
            raise ValueError(
                "SwinConfig: expected img_size >= 1, num_classes >= 0 and mlp_ratio > 0; got "
                f"{self.img_size}, {self.num_classes} and {self.mlp_ratio}."
            )
        if self.embed_dim * self.mlp_ratio < 1:
            raise ValueError(
                f"mlp_ratio: expected at least one hidden channel; got {self.mlp_ratio} of {self.embed_dim} channels."
            )
        if not self.mask_value < 0:
            raise ValueError(f"mask_value: expected a negative number; got {self.mask_value}.")
        if not 0 < self.layer_norm_eps < math.inf:
            raise ValueError(f"layer_norm_eps: expected a small positive number; got {self.layer_norm_eps}.")

    def _check_heads(self) -> None:
        if not self.depths or len(self.depths) != len(self.num_heads) or min(self.depths) < 1:
            raise ValueError(
                f"depths, num_heads: expected one positive number a stage in each; got {self.depths} and "
                f"{self.num_heads}."
            )
        if len(self.depths) > _MOST_STAGES:
            raise ValueError(
                f"depths: expected at most {_MOST_STAGES} stages, as channels double at each; got {len(self.depths)}."
            )
        for stage, heads in enumerate(self.num_heads):
            channels = self.embed_dim * 2**stage
            if heads < 1 or channels % heads:
                raise ValueError(
                    f"num_heads: expected a divisor of the {channels} channels of stage {stage}; got {heads}. "
                    "Change embed_dim or num_heads."
                )
        if any(not 0 <= stage < len(self.depths) for stage in self.feature_norms):
            raise ValueError(f"feature_norms: expected stages 0 to {len(self.depths) - 1}; got {self.feature_norms}.")

    def _check_windows(self) -> None:
        stages, windows = len(self.depths), self.window_size
        if not isinstance(windows, int) and len(windows) != stages:
            raise ValueError(f"window_size: expected one number or one for each of {stages} stages; got {windows}.")
        if min(self.nominal_windows) < 1:
            raise ValueError(f"window_size: expected 1 or more; got {windows}.")
        pretrained = self.pretrained_window_sizes
        if pretrained and (len(pretrained) != stages or min(pretrained) < 0):
            raise ValueError(
                f"pretrained_window_sizes: expected (), or 0 or more for each of {stages} stages; got {pretrained}."
            )

    def _check_architecture(self) -> None:
        """Options that the architecture does not have, by name."""
        if self.extra_norm_every < 0:
            raise ValueError(f"extra_norm_every: expected 0 or more; got {self.extra_norm_every}.")
        if self.architecture == "mlp" and self.attn_drop_rate:
            raise ValueError(f"attn_drop_rate: expected 0 for Swin-MLP; got {self.attn_drop_rate}.")
        if self.architecture != "v2":
            default = {f.name: f.default for f in fields(self)}
            foreign = [n for n in _V2_ONLY if getattr(self, n) != default[n]]
            if foreign:
                raise ValueError(
                    f"SwinConfig: expected {', '.join(foreign)} as by default for architecture={self.architecture!r}; "
                    f"got {', '.join(f'{n}={getattr(self, n)!r}' for n in foreign)}. These are options of 'v2'."
                )
        elif self.qk_scale is not None:
            raise ValueError(
                f"qk_scale: expected None for architecture='v2', whose scale is learned; got {self.qk_scale}."
            )

    @property
    def nominal_windows(self) -> tuple[int, ...]:
        """window_size of each stage, not yet clamped."""
        return (self.window_size,) * len(self.depths) if isinstance(self.window_size, int) else self.window_size

    @property
    def image(self) -> Pair:
        """(H, W) in pixels."""
        return _pair(self.img_size)

    def map_size(self, stage: int) -> Pair:
        """(H, W) in tokens of a stage at the built-in image size; odd sizes are padded up."""
        more = self.patch_size - 1 if self.patch_rule == "pad" else 0
        h, w = (-(-((n + more) // self.patch_size) // 2**stage) for n in self.image)
        return h, w

    def judged_size(self, stage: int) -> Pair:
        """(H, W) of a stage's map as a library reckons it when it chooses windows and shifts.

        That is :meth:`map_size`, but timm ("clamp_axis") and transformers' V2 ("clamp_height") leave out what is no
        whole patch, and the latter halves downwards as well. The maps that come are rounded up there, too.
        """
        if self.small_map not in ("clamp_axis", "clamp_height"):
            return self.map_size(stage)
        up = 2**stage - 1 if self.small_map == "clamp_axis" else 0
        h, w = (max(1, (n // self.patch_size + up) // 2**stage) for n in self.image)
        return h, w

    def window(self, stage: int) -> Pair:
        """Window (Wh, Ww) of a stage as built: clamped to the stage's map by ``small_map``."""
        nominal, (h, w) = self.nominal_windows[stage], self.judged_size(stage)
        if self.small_map in ("pad", "clamp_forward"):
            return nominal, nominal
        if self.small_map != "clamp_axis":
            h = w = min(h, w) if self.small_map == "clamp" else h
        return min(nominal, h), min(nominal, w)

    def window_shift(self, stage: int) -> Pair:
        """Shift of a stage's shifted windows as built; if windows are fixed, what ``shift_rule`` leaves of it."""
        window = self.window(stage)
        half = (window[0] // 2, window[1] // 2) if self.shift else (0, 0)
        return (
            dropped_shift(self.judged_size(stage), window, half, self.shift_rule) if self.windows == "fixed" else half
        )

    def pretrained_window(self, stage: int) -> Pair:
        """Window that scales V2's coordinates: the pretrained one, or the one as built."""
        given = self.pretrained_window_sizes[stage] if self.pretrained_window_sizes else 0
        return (given, given) if given else self.window(stage)

    def drop_path(self) -> list[list[float]]:
        """Rate of each block of each stage: linear from 0 to drop_path_rate over all blocks."""
        total = sum(self.depths)
        rates = [self.drop_path_rate * i / max(1, total - 1) for i in range(total)]
        return [[rates.pop(0) for _ in range(depth)] for depth in self.depths]

    def with_changes(self, **changes: Any) -> SwinConfig:
        """A copy with some values replaced.

        Raises:
            ValueError: for an unknown name, listing the known ones.
        """
        known = [f.name for f in fields(self)]
        for name in changes:
            if name not in known:
                near = " or ".join(difflib.get_close_matches(name, known, n=2))
                hint = _ELSEWHERE.get(name) or (f"Did you mean {near}?" if near else "See help(swinpy.SwinConfig).")
                raise ValueError(f"SwinConfig: expected one of its options; got {name!r}. {hint}")
        return replace(self, **changes)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)
