"""The layouts of published Swin checkpoints, as tables. This file is the reference; the rest only applies it.

Official names are those of the original repository's classification checkpoints (Swin-Transformer on GitHub), which
are this library's parameter names. With stages ``s`` and blocks ``b`` counted from 0.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from swinpy.weights.dialects.names import Row, Template
from swinpy.weights.dialects.transforms import (
    FULL_BIAS,
    MAP_POSITION,
    POSITION_TOKENS,
    SPLIT_QKV,
    UNFOLD_MERGE,
    Conversion,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["ALIASES", "BUFFERS", "DIALECTS", "Dialect"]

# Buffers of files: functions of the geometry, which is known here; ignored on reading.
BUFFERS = ("attn.relative_position_index", "attn.relative_coords_table", "attn_mask")

# Under the root of a block, layers.{s}.blocks.{b}.
_PARTS = (
    "norm1",
    "norm2",
    "norm3",  # after every sixth block of V2-H and V2-G
    "attn.qkv",
    "attn.proj",
    "attn.relative_position_bias_table",  # V1
    "attn.logit_scale",  # V2, as the five that follow
    "attn.q_bias",
    "attn.v_bias",
    "attn.cpb_mlp.0",
    "attn.cpb_mlp.2",
    "mlp.fc1",
    "mlp.fc2",
    "spatial_mlp",  # Swin-MLP
    *BUFFERS,
)
_SAME = {part: part for part in _PARTS}

# Outside the blocks.
_OFFICIAL = {
    "patch_embed.proj": "patch_embed.proj",
    "patch_embed.norm": "patch_embed.norm",
    "absolute_pos_embed": "absolute_pos_embed",
    "mask_token": "mask_token",  # SimMIM
    "layers.{s}.downsample.reduction": "layers.{s}.downsample.reduction",
    "layers.{s}.downsample.norm": "layers.{s}.downsample.norm",
    "norm{s}": "norm{s}",  # of a stage's output: detection and segmentation backbones
    "norm": "norm",
    "head": "head",
    "decoder.0": "decoder.0",  # SimMIM
}


def _rooted(names: Mapping[str, str], outside: tuple[str, ...] = ()) -> dict[str, str]:
    return {ours: theirs if ours in outside else "{root}" + theirs for ours, theirs in names.items()}


@dataclass(frozen=True)
class Dialect:
    """One layout.

    Attributes:
        name: as options take it.
        about: whose it is.
        needs: regular expressions, each of which some key of such a file matches.
        modules: official name -> theirs, outside the blocks.
        block: a block's root in theirs.
        parts: official name under the block's root -> theirs.
        never: regular expressions that no key matches.
        before: dialects whose description also fits, less closely.
        roots: what ``{root}`` may be when reading.
        root: what is written for it, by "v1", "v2" and (for models with norms of stages and no head) "backbone".
        transforms: what is done to arrays when writing, in order; undone in reverse order when reading.
        spellings: other spellings that are read, (from, to) within a key.
        foreign: regular expressions of keys that belong to other parts of such a file's model.
        absent: official names (prefixes) that such models do not have; left out with a note when writing.
        buffers: those that such files hold.
        flat_index: whether the index is (N * N,) rather than (N, N).
        wrapper: the key under which a .pth file has the tensors; "" for none.
        refused: why such files can be recognised, but not be used.
    """

    name: str
    about: str
    needs: tuple[str, ...]
    modules: Mapping[str, str] = field(default_factory=dict)
    block: str = ""
    parts: Mapping[str, str] = field(default_factory=dict)
    never: tuple[str, ...] = ()
    before: tuple[str, ...] = ()
    roots: tuple[str, ...] = ("",)
    root: Mapping[str, str] = field(default_factory=dict)
    transforms: tuple[Conversion, ...] = ()
    spellings: tuple[tuple[str, str], ...] = ()
    foreign: tuple[str, ...] = ()
    absent: tuple[str, ...] = ()
    buffers: tuple[str, ...] = ()
    flat_index: bool = False
    wrapper: str = ""
    refused: str = ""

    @cached_property
    def rows(self) -> tuple[Row, ...]:
        """Every line of the table."""
        pairs = list(self.modules.items())
        pairs += [
            (f"layers.{{s}}.blocks.{{b}}.{ours}", f"{self.block}.{theirs}") for ours, theirs in self.parts.items()
        ]
        return tuple(Row(Template(ours), Template(theirs, self.roots)) for ours, theirs in pairs)


OFFICIAL = Dialect(
    name="official",
    about="the original repository; timm up to 0.6.13 is the same",
    needs=(r"patch_embed\.proj\.weight", r"layers\.\d+\.blocks\.\d+\.norm1\.weight"),
    never=(r"head\.fc\..*",),
    modules=_OFFICIAL,
    block="layers.{s}.blocks.{b}",
    parts=_SAME,
    transforms=(POSITION_TOKENS,),
    buffers=BUFFERS,
    spellings=((".rpe_mlp.", ".cpb_mlp."),),
    wrapper="model",
)

SIMMIM = Dialect(
    name="simmim",
    about="the original SimMIM repository: an encoder, a mask token and a decoder",
    needs=(r"encoder\.patch_embed\.proj\.weight", r"encoder\.layers\.\d+\.blocks\.\d+\.norm1\.weight"),
    modules=_rooted(_OFFICIAL, outside=("decoder.0",)),
    block="{root}layers.{s}.blocks.{b}",
    parts=_SAME,
    roots=("encoder.",),
    root={"v1": "encoder.", "v2": "encoder.", "backbone": "encoder."},
    buffers=BUFFERS,
    spellings=((".rpe_mlp.", ".cpb_mlp."),),  # older files
    absent=("head",),
    wrapper="model",
)

DETECTION = Dialect(
    name="detection",
    about="the original detection and segmentation repositories: a backbone with a norm for each stage",
    needs=(r"backbone\.patch_embed\.proj\.weight", r"backbone\.layers\.\d+\.blocks\.\d+\.norm1\.weight"),
    modules=_rooted(_OFFICIAL),
    block="{root}layers.{s}.blocks.{b}",
    parts=_SAME,
    roots=("backbone.",),
    root={"v1": "backbone.", "v2": "backbone.", "backbone": "backbone."},
    transforms=(MAP_POSITION,),
    foreign=(r"(neck|rpn_head|roi_head|bbox_head|mask_head|decode_head|auxiliary_head)\..*",),
    absent=("norm", "head"),
    buffers=("attn.relative_position_index",),
    wrapper="state_dict",
)

TIMM = Dialect(
    name="timm",
    about="timm 0.9 and later: merging belongs to the stage after it, the head is a module",
    needs=(*OFFICIAL.needs, r"head\.fc\..*|layers\.[1-9]\d*\.downsample\..*"),
    never=(r"layers\.0\.downsample\..*", r"head\.(weight|bias)"),
    before=("official",),
    modules={
        "patch_embed.proj": "patch_embed.proj",
        "patch_embed.norm": "patch_embed.norm",
        "layers.{s}.downsample.reduction": "layers.{s+1}.downsample.reduction",
        "layers.{s}.downsample.norm": "layers.{s+1}.downsample.norm",
        "norm": "norm",
        "head": "head.fc",
    },
    block="layers.{s}.blocks.{b}",
    parts={part: part for part in _PARTS if part not in ("norm3", "spatial_mlp")},
)

TORCHVISION = Dialect(
    name="torchvision",
    about="torchvision: one list of features, flattened indices, V2 with a bias for keys",
    needs=(r"features\.0\.0\.weight", r"features\.1\.0\.norm1\.weight"),
    modules={
        "patch_embed.proj": "features.0.0",
        "patch_embed.norm": "features.0.2",
        "layers.{s}.downsample.reduction": "features.{2s+2}.reduction",
        "layers.{s}.downsample.norm": "features.{2s+2}.norm",
        "norm": "norm",
        "head": "head",
    },
    block="features.{2s+1}.{b}",
    parts={
        **{part: part for part in _PARTS if part not in ("norm3", "spatial_mlp", "attn_mask")},
        "mlp.fc1": "mlp.0",
        "mlp.fc2": "mlp.3",
    },
    transforms=(FULL_BIAS,),
    buffers=("attn.relative_position_index", "attn.relative_coords_table"),
    flat_index=True,
)

_HF_MODULES = {
    "patch_embed.proj": "{root}embeddings.patch_embeddings.projection",
    "patch_embed.norm": "{root}embeddings.norm",
    "absolute_pos_embed": "{root}embeddings.position_embeddings",
    "mask_token": "{root}embeddings.mask_token",
    "layers.{s}.downsample.reduction": "{root}encoder.layers.{s}.downsample.reduction",
    "layers.{s}.downsample.norm": "{root}encoder.layers.{s}.downsample.norm",
    "norm{s}": "hidden_states_norms.stage{s+1}",
    "norm": "{root}layernorm",
    "head": "classifier",
    "decoder.0": "decoder.0",
}

HF = Dialect(
    name="hf",
    about="transformers: files of every version, V1 and V2, and version 4 in memory",
    needs=(r".*embeddings\.patch_embeddings\.projection\.weight", r".*\.attention\.self\.query\.weight"),
    never=(r".*\.attention\.q_proj\..*",),
    modules=_HF_MODULES,
    block="{root}encoder.layers.{s}.blocks.{b}",
    parts={
        "norm1": "layernorm_before",
        "norm2": "layernorm_after",
        "attn.query": "attention.self.query",
        "attn.key": "attention.self.key",
        "attn.value": "attention.self.value",
        "attn.proj": "attention.output.dense",
        "attn.relative_position_bias_table": "attention.self.relative_position_bias_table",
        "attn.logit_scale": "attention.self.logit_scale",
        "attn.cpb_mlp.0": "attention.self.continuous_position_bias_mlp.0",
        "attn.cpb_mlp.2": "attention.self.continuous_position_bias_mlp.2",
        "mlp.fc1": "intermediate.dense",
        "mlp.fc2": "output.dense",
        "attn.relative_position_index": "attention.self.relative_position_index",
        "attn.relative_coords_table": "attention.self.relative_coords_table",
    },
    roots=("swin.", "swinv2.", ""),
    root={"v1": "swin.", "v2": "swinv2.", "backbone": ""},
    transforms=(SPLIT_QKV,),
)

HF5 = Dialect(
    name="hf5",
    about="transformers 5, V1 in memory (state_dict() of a model; its files are of the dialect hf)",
    needs=(r".*embeddings\.patch_embeddings\.projection\.weight", r".*\.attention\.q_proj\.weight"),
    never=(r".*\.attention\.self\..*",),
    modules=_HF_MODULES,
    block="{root}encoder.layers.{s}.blocks.{b}",
    parts={
        "norm1": "layernorm_before",
        "norm2": "layernorm_after",
        "attn.query": "attention.q_proj",
        "attn.key": "attention.k_proj",
        "attn.value": "attention.v_proj",
        "attn.proj": "attention.o_proj",
        "attn.relative_position_bias_table": "attention.relative_position_bias.relative_position_bias_table",
        "attn.relative_position_index": "attention.relative_position_bias.relative_position_index",
        "mlp.fc1": "mlp.fc1",
        "mlp.fc2": "mlp.fc2",
    },
    roots=("swin.", ""),
    root={"v1": "swin.", "backbone": "swin."},
    transforms=(SPLIT_QKV,),
)

MM = Dialect(
    name="mmdet",
    about="mmdet and mmsegmentation: other names, and merging by unfold",
    needs=(r"(backbone\.)?patch_embed\.projection\.weight", r"(backbone\.)?stages\.\d+\.blocks\.\d+\.attn\.w_msa\..*"),
    modules=_rooted(
        {
            **{ours: ours for ours in ("patch_embed.norm", "absolute_pos_embed", "norm{s}")},
            "patch_embed.proj": "patch_embed.projection",
            "layers.{s}.downsample.reduction": "stages.{s}.downsample.reduction",
            "layers.{s}.downsample.norm": "stages.{s}.downsample.norm",
        }
    ),
    block="{root}stages.{s}.blocks.{b}",
    parts={
        "norm1": "norm1",
        "norm2": "norm2",
        "attn.qkv": "attn.w_msa.qkv",
        "attn.proj": "attn.w_msa.proj",
        "attn.relative_position_bias_table": "attn.w_msa.relative_position_bias_table",
        "attn.relative_position_index": "attn.w_msa.relative_position_index",
        "mlp.fc1": "ffn.layers.0.0",
        "mlp.fc2": "ffn.layers.1",
    },
    roots=("backbone.", ""),
    root={"v1": "backbone.", "backbone": "backbone."},
    transforms=(UNFOLD_MERGE,),
    foreign=DETECTION.foreign,
    absent=("norm", "head"),
    buffers=("attn.relative_position_index",),
    wrapper="state_dict",
)

V2_CR = Dialect(
    name="timm-v2-cr",
    about="timm's swinv2_cr models",
    needs=(r"stages\.\d+\.blocks\.\d+\.attn\.(meta_mlp\..*|tau|logit_scale)",),
    never=(r"stages\.\d+\.blocks\.\d+\.attn\.w_msa\..*",),
    refused="they are another network than V2: no 16 * sigmoid on the position bias, a bias on its last layer and on "
    "the keys, plain log coordinates, the norm before the reduction",
)

DIALECTS: dict[str, Dialect] = {d.name: d for d in (OFFICIAL, SIMMIM, DETECTION, TIMM, TORCHVISION, HF, HF5, MM, V2_CR)}

# Other names that options take.
ALIASES = {
    "ms": "official",
    "timm-old": "official",
    "segmentation": "detection",
    "tv": "torchvision",
    "hf4": "hf",
    "mmseg": "mmdet",
}
