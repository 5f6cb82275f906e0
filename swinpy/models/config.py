"""SwinConfig: everything that makes one Swin differ from another, checked when it is made."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from swinpy.geometry import Pair, SmallMap

__all__ = ["Position", "SwinConfig"]

Position = Literal["relative", "absolute", "both", "none"]
_CHOICES = {
    "position": ("relative", "absolute", "both", "none"),
    "small_map": ("clamp", "pad"),
    "attention": ("fused", "composite"),
    "checkpoint": ("none", "block", "stage"),
}


def _pair(value: int | Pair) -> Pair:
    if isinstance(value, int):
        return value, value
    if len(value) != 2:
        raise ValueError(f"img_size: expected one number or (H, W); got {value}.")
    return int(value[0]), int(value[1])


@dataclass(frozen=True)
class SwinConfig:
    """A Swin Transformer V1. The defaults are Swin-T at 224.

    Attributes:
        img_size: size in pixels that the model is built for (H, W) or one number; other sizes run too.
        patch_size: pixels a side of a patch.
        in_chans: image channels.
        num_classes: outputs of the head; 0 for none.
        embed_dim: channels C of the first stage; doubles at each merging.
        depths: blocks of each stage.
        num_heads: attention heads of each stage.
        window_size: tokens a side of a window.
        mlp_ratio: hidden channels of the MLP over C.
        qkv_bias: bias on the qkv projection.
        qk_scale: of the scores; None for 1/sqrt(head_dim).
        drop_rate: dropout after the patch embedding, the projections and in the MLP.
        attn_drop_rate: dropout on attention probabilities (needs attention="composite").
        drop_path_rate: stochastic depth of the last block; grows linearly from 0.
        position: relative bias (the published models), absolute embedding, both or none.
        patch_norm: layer norm after the patch embedding.
        shift: shift every second block's windows.
        small_map: what to do where a map is smaller than the window: "clamp" the window to it (built-in size: as the
            official code) or "pad" the map (as torchvision).
        mask_value: added to scores across region borders: -100 as published, or -inf.
        attention: "fused" (one op) or "composite" (the ops of the paper).
        checkpoint: recompute activations in backward: "none", "block" or "stage".
        feature_norms: stages that get a norm of their own for ``features`` (``norm0`` ..., detection backbones).
        layer_norm_eps: of every layer norm.

    Raises:
        ValueError: for values that do not fit together, naming the fix.
    """

    img_size: int | Pair = 224
    patch_size: int = 4
    in_chans: int = 3
    num_classes: int = 1000
    embed_dim: int = 96
    depths: tuple[int, ...] = (2, 2, 6, 2)
    num_heads: tuple[int, ...] = (3, 6, 12, 24)
    window_size: int = 7
    mlp_ratio: float = 4.0
    qkv_bias: bool = True
    qk_scale: float | None = None
    drop_rate: float = 0.0
    attn_drop_rate: float = 0.0
    drop_path_rate: float = 0.1
    position: Position = "relative"
    patch_norm: bool = True
    shift: bool = True
    small_map: SmallMap = "clamp"
    mask_value: float = -100.0
    attention: Literal["fused", "composite"] = "fused"
    checkpoint: Literal["none", "block", "stage"] = "none"
    feature_norms: tuple[int, ...] = ()
    layer_norm_eps: float = 1e-5

    def __post_init__(self) -> None:
        for name in ("depths", "num_heads", "feature_norms"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if not isinstance(self.img_size, int):
            object.__setattr__(self, "img_size", _pair(self.img_size))
        self._check_sizes()
        self._check_heads()
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
        for name in ("patch_size", "in_chans", "embed_dim", "window_size"):
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

    def _check_heads(self) -> None:
        if not self.depths or len(self.depths) != len(self.num_heads) or min(self.depths) < 1:
            raise ValueError(
                f"depths, num_heads: expected one positive number a stage in each; got {self.depths} and "
                f"{self.num_heads}."
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

    @property
    def image(self) -> Pair:
        """(H, W) in pixels."""
        return _pair(self.img_size)

    def map_size(self, stage: int) -> Pair:
        """(H, W) in tokens of a stage at the built-in image size; odd sizes are padded up."""
        h, w = (-(-n // (self.patch_size * 2**stage)) for n in self.image)
        return h, w

    def window(self, stage: int) -> int:
        """Window of a stage as built: clamped to the stage's map as in the official code."""
        smallest = min(self.map_size(stage))
        return min(self.window_size, smallest) if self.small_map == "clamp" else self.window_size

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
        unknown = [name for name in changes if name not in known]
        if unknown:
            raise ValueError(f"SwinConfig: expected options among {', '.join(known)}; got {', '.join(unknown)}.")
        return replace(self, **changes)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)
