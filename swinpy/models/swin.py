"""SwinTransformer: stages of blocks of one architecture, a head, and features."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any, Literal

import autograd as ag
from autograd.extend import cast_together
from swinpy.geometry import dropped_shift
from swinpy.models.parts import Block, Normalize, PatchEmbed, PatchMerging, Stream, absolute_position
from swinpy.models.resample import resize_map
from swinpy.models.swin_mlp import SwinMlpBlock
from swinpy.models.swin_v1 import SwinBlock
from swinpy.models.swin_v2 import SwinBlockV2
from swinpy.nn import LayerNorm, Linear, Module, ModuleList
from swinpy.nn.init import redraw_as_hf

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from swinpy.models.config import SwinConfig
    from swinpy.nn.module import MismatchedKeys

__all__ = ["Stage", "SwinTransformer", "make_block"]

# Buffers in official checkpoints that depend on geometry alone; they are computed here and ignored on loading.
_RECOMPUTED = ("relative_position_index", "relative_coords_table", "attn_mask")
_UNDECAYED = ("absolute_pos_embed", "relative_position_bias_table", "cpb_mlp", "logit_scale")


def make_block(config: SwinConfig, stage: int, index: int, drop_path: float) -> Block:
    """Block ``index`` of a stage; every second one has shifted windows."""
    channels, heads, window = config.embed_dim * 2**stage, config.num_heads[stage], config.window(stage)
    shift = config.window_shift(stage) if index % 2 else (0, 0)
    shared = (channels, heads, window, shift, drop_path, config)
    if config.architecture == "mlp":
        return SwinMlpBlock(*shared)
    if config.architecture == "v1":
        return SwinBlock(*shared)
    every = config.extra_norm_every
    extra_norm = every > 0 and (index + 1) % every == 0
    return SwinBlockV2(*shared, pretrained=config.pretrained_window(stage), extra_norm=extra_norm)


class Stage(Module):
    """Blocks at one resolution, and the merging that comes before the next stage."""

    def __init__(self, stage: int, config: SwinConfig, drop_path: list[float]) -> None:
        self.blocks = ModuleList([make_block(config, stage, i, rate) for i, rate in enumerate(drop_path)])
        self.downsample: PatchMerging | None = None
        if stage < len(config.depths) - 1:
            channels = config.embed_dim * 2**stage
            self.downsample = PatchMerging(channels, config.layer_norm_eps, norm_last=config.architecture == "v2")

    def forward(self, x: ag.Tensor, checkpoint: str = "none") -> Stream:
        """The stream after the last block, before merging."""
        if checkpoint != "stage":
            return self._run(x, checkpoint == "block")
        return Stream(*ag.checkpoint(self._unsummed, x))

    def _unsummed(self, x: ag.Tensor) -> tuple[ag.Tensor, ...]:
        """The last stream's fields. The norm that reads it makes the sum, as without a checkpoint: the same bits."""
        fields = (field for field in self._run(x, False) if field is not None)
        return tuple(field if isinstance(field, ag.Tensor) else ag.Tensor(field) for field in fields)

    def _run(self, x: ag.Tensor, checkpoint: bool) -> Stream:
        stream = Stream(x)
        for block in self.blocks:
            stream = block(stream, checkpoint)
        return stream


class SwinTransformer(Module):
    """A Swin for classification, and a backbone through :meth:`features`.

    Args:
        config: see :class:`SwinConfig`.
        warn: warn of windows that are larger than their maps.
    """

    def __init__(self, config: SwinConfig, warn: bool = True) -> None:
        self.config = config
        self.patch_embed = PatchEmbed(config)
        if config.position in ("absolute", "both"):
            self.absolute_pos_embed = absolute_position(config)
        rates = config.drop_path()
        self.layers = ModuleList([Stage(i, config, rates[i]) for i in range(len(config.depths))])
        self.norm = LayerNorm(self.num_features, config.layer_norm_eps)
        for stage in config.feature_norms:
            setattr(self, f"norm{stage}", LayerNorm(config.embed_dim * 2**stage, config.layer_norm_eps))
        self.head = Linear(self.num_features, config.num_classes) if config.num_classes else None
        if config.initialisation == "hf":
            redraw_as_hf(self)
        if warn:
            self._say_small_maps()

    def _say_small_maps(self) -> None:
        config = self.config
        for stage, window in enumerate(config.nominal_windows):
            size, built = config.judged_size(stage), config.window(stage)
            if min(size) < window:
                padded = built == (window, window) and config.small_map != "clamp_forward"
                what = "kept, the map padded up to it" if padded else "shrunk to the map"
                down, across = dropped_shift(size, built, config.window_shift(stage), config.shift_rule)
                shift = f"shifted by {down}x{across}" if down or across else "not shifted"
                warnings.warn(
                    f"stage {stage}: window {window} is larger than its map of {size[0]}x{size[1]} "
                    f"tokens: {what}, {shift} (small_map={config.small_map!r}).",
                    stacklevel=4,
                )

    # ---- what it is

    @property
    def num_features(self) -> int:
        """Channels after the last stage."""
        return self.config.embed_dim * int(2 ** (len(self.config.depths) - 1))

    @property
    def num_classes(self) -> int:
        """Outputs of the head; 0 if there is none."""
        return 0 if self.head is None else self.head.weight.shape[0]

    @property
    def feature_info(self) -> list[dict[str, Any]]:
        """Of each stage: channels, pixels a token, and the module's name (timm's keys)."""
        return [
            {
                "num_chs": self.config.embed_dim * 2**i,
                "reduction": self.config.patch_size * 2**i,
                "module": f"layers.{i}",
            }
            for i in range(len(self.config.depths))
        ]

    def no_weight_decay(self) -> set[str]:
        """Parameters that AdamW must not decay: norms, biases, positions of every kind, logit scales."""
        return {n for n, p in self.named_parameters() if p.ndim <= 1 or any(part in n for part in _UNDECAYED)}

    def set_grad_checkpointing(self, mode: Literal["none", "block", "stage"] | bool = True) -> None:
        """Recompute activations in backward: per "block" (True), per "stage", or not at all ("none", False)."""
        choice = ("block" if mode else "none") if isinstance(mode, bool) else mode
        self.config = self.config.with_changes(checkpoint=choice)

    def reset_classifier(self, num_classes: int) -> None:
        """A new head for ``num_classes`` (0: none), on the model's device and dtype."""
        config = self.config.with_changes(num_classes=num_classes)
        dtype, device = self.dtype, self.device
        self.config, self.head = config, None
        if num_classes:
            self.head = Linear(self.num_features, num_classes).astype(dtype).to(device).train(self.training)

    # ---- running

    def forward(self, x: Any, normalize: Normalize | None = None) -> ag.Tensor:
        """Images to logits.

        Args:
            x: (B, in_chans, H, W), an array or a Tensor, in the model's dtype and on its device; any H and W.
            normalize: mean and std of each channel, of pixels scaled to [0, 1]: ``x`` is uint8 and is normalised here.

        Returns:
            (B, num_classes); pooled features (B, num_features) if there is no head.

        Raises:
            ValueError: for another shape or device.
            TypeError: for another dtype.
        """
        return self.forward_head(self.forward_features(x, normalize), layout="NHWC")

    def forward_features(self, x: Any, normalize: Normalize | None = None) -> ag.Tensor:
        """Normed features of the last stage, (B, H', W', num_features) as timm's: "NHWC" for forward_head."""
        for _, stream in self._stages(x, normalize=normalize):
            last = stream
        return last.norm(self.norm, wide=True)

    def forward_head(
        self, features: ag.Tensor, layout: Literal["NCHW", "NHWC"] = "NCHW", pre_logits: bool = False
    ) -> ag.Tensor:
        """Normed features of the last stage to logits: mean over the map, then the head.

        Args:
            features: as :meth:`features` returns the last stage's.
            layout: of the map.
            pre_logits: without the head, (B, num_features).

        Raises:
            ValueError: if the channels are not where the layout has them.
        """
        axes, channels = ((2, 3), 1) if layout == "NCHW" else ((1, 2), 3)
        if features.ndim != 4 or features.shape[channels] != self.num_features:
            raise ValueError(
                f"forward_head: expected a map of {self.num_features} channels, {layout}; got {features.shape}. "
                "Pass the layout that features() was asked for."
            )
        pooled = features.mean(axis=axes)
        return pooled if self.head is None or pre_logits else self.head(pooled)

    def features(
        self,
        x: Any,
        out_indices: Sequence[int] | None = None,
        norm: bool = True,
        layout: Literal["NCHW", "NHWC"] = "NCHW",
        normalize: Normalize | None = None,
    ) -> list[ag.Tensor]:
        """Each stage's output before merging.

        Args:
            x: as in :meth:`forward`.
            out_indices: stages to return (negative ones count from the end); default all.
            norm: apply the norm of a stage: ``norm0``... where built (``feature_norms``), else ``norm`` for the last
                stage; other stages have none.
            layout: of the maps.
            normalize: as in :meth:`forward`.

        Returns:
            One map a stage, in ascending order of the stage.
        """
        count = len(self.config.depths)
        if isinstance(out_indices, int):
            raise TypeError(f"features: expected out_indices as a sequence; got {out_indices}. Pass ({out_indices},).")
        wanted = range(count) if out_indices is None else [i + count if i < 0 else i for i in out_indices]
        if any(not 0 <= i < count for i in wanted):
            raise ValueError(f"features: expected out_indices in [{-count}, {count - 1}]; got {out_indices}.")
        if layout not in ("NCHW", "NHWC"):
            raise ValueError(f"features: expected layout 'NCHW' or 'NHWC'; got {layout!r}.")
        maps = []
        for stage, stream in self._stages(x, max(wanted, default=-1), normalize):
            if stage in wanted:
                layer = self._feature_norm(stage) if norm else None
                look = stream.copy()  # the next stage's bits must not depend on which features are asked for
                y = look.value() if layer is None else look.norm(layer, wide=True)
                maps.append(y if layout == "NHWC" else y.transpose(0, 3, 1, 2))
        return maps

    def _feature_norm(self, stage: int) -> LayerNorm | None:
        if stage in self.config.feature_norms:
            layer: LayerNorm = getattr(self, f"norm{stage}")
            return layer
        return self.norm if stage == len(self.config.depths) - 1 else None

    def _stages(
        self, x: Any, last: int | None = None, normalize: Normalize | None = None
    ) -> Iterator[tuple[int, Stream]]:
        """(stage, residual stream at its end) up to stage ``last``."""
        x = self._checked(x, normalize)
        cast_together(self.parameters())
        x = self.patch_embed(x, normalize)
        if self.config.position in ("absolute", "both"):
            x = x + self._position(x.shape[1:3])
        x = ag.dropout(x, self.config.drop_rate, self.training)
        final = len(self.layers) - 1 if last is None else last
        for i, stage in enumerate(self.layers):
            if i > final:
                return
            stream = stage(x, self.config.checkpoint)
            yield i, stream
            if i < final:
                x = stage.downsample(stream.value())

    def _position(self, size: tuple[int, ...]) -> ag.Tensor:
        """Absolute position for a map of ``size``: bicubic from the built-in one."""
        built = self.config.map_size(0)
        table = self.absolute_pos_embed.reshape(*built, self.config.embed_dim)
        return resize_map(table, (size[0], size[1]))

    def _checked(self, x: Any, normalize: Normalize | None) -> ag.Tensor:
        images = x if isinstance(x, ag.Tensor) else ag.Tensor(x)
        least = self.config.patch_size if self.config.patch_rule == "crop" else 1
        if images.ndim != 4 or images.shape[1] != self.config.in_chans or min(images.shape[2:]) < least:
            fix = "Pass at least one patch of pixels."
            if images.ndim == 3:
                fix = "Add a batch axis: x[None]."
            elif images.ndim == 4 and images.shape[3] == self.config.in_chans:
                fix = "Channels come first here: x.transpose(0, 3, 1, 2)."
            raise ValueError(
                f"SwinTransformer: expected images (B, {self.config.in_chans}, H, W); got {images.shape}. {fix}"
            )
        if images.dtype != (self.dtype if normalize is None else "uint8"):
            expected = f"of the model's dtype {self.dtype}" if normalize is None else "of uint8, to normalize"
            fix = "Cast them with .astype, or build the model with dtype=."
            if images.dtype == "uint8":
                fix = "Pass normalize=(mean, std) to have them normalised here."
            elif normalize is not None:
                fix = "Leave normalize out for images that are normalised."
            raise TypeError(f"SwinTransformer: expected images {expected}; got {images.dtype}. {fix}")
        if images.device != self.device:
            raise ValueError(f"SwinTransformer: expected images on {self.device}; got {images.device}. Use .to().")
        return images

    # ---- loading

    def load_state_dict(self, state: Mapping[str, Any], strict: bool = True) -> MismatchedKeys:
        """See :meth:`Module.load_state_dict`; the geometry buffers of official checkpoints are ignored."""
        return super().load_state_dict({k: v for k, v in state.items() if not k.endswith(_RECOMPUTED)}, strict)
