"""The layouts of published Swin checkpoints, as tables. This file is the reference; the rest only applies it.

Official names are those of the original repository's classification checkpoints (Swin-Transformer on GitHub), which
are this library's parameter names. With stages ``s`` and blocks ``b`` counted from 0.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING

from swinpy.weights.dialects.names import Row, Template, outline
from swinpy.weights.dialects.transforms import (
    FULL_BIAS,
    LAST_NORM,
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
        anchor: the patch embedding's weight, by which a network is found at any depth of a file's names.
        needs: regular expressions, each of which some key of such a file matches. Here and below ``{root}`` stands for
            the root; what may come before it belongs to the file, not to the dialect.
        modules: official name -> theirs, outside the blocks.
        block: a block's root in theirs.
        parts: official name under the block's root -> theirs.
        also: further (official name, theirs) that are read and not written.
        never: regular expressions that no key matches.
        before: dialects whose description also fits, less closely.
        roots: what ``{root}`` may be when reading, the first that fits.
        root: what is written for it, by "v1", "v2" and (for models with norms of stages and no head) "backbone".
        transforms: what is done to arrays when writing, in order; undone in reverse order when reading.
        spellings: other spellings that are read, (from, to) within a key.
        absent: official names (prefixes) that such models do not have; left out with a note when writing.
        buffers: those that such files hold.
        one_norm: whether the final norm and the norm of the last stage's output are one module of such models.
        flat_index: whether the index is (N * N,) rather than (N, N).
        wrapper: the key under which a .pth file has the tensors; "" for none.
        refused: why such files can be recognised, but not be used.
    """

    name: str
    about: str
    anchor: str
    needs: tuple[str, ...]
    modules: Mapping[str, str] = field(default_factory=dict)
    block: str = ""
    parts: Mapping[str, str] = field(default_factory=dict)
    also: tuple[tuple[str, str], ...] = ()
    never: tuple[str, ...] = ()
    before: tuple[str, ...] = ()
    roots: tuple[str, ...] = ("",)
    root: Mapping[str, str] = field(default_factory=dict)
    transforms: tuple[Conversion, ...] = ()
    spellings: tuple[tuple[str, str], ...] = ()
    absent: tuple[str, ...] = ()
    buffers: tuple[str, ...] = ()
    one_norm: bool = False
    flat_index: bool = False
    wrapper: str = ""
    refused: str = ""

    @cached_property
    def rows(self) -> tuple[Row, ...]:
        """Every line of the table that is written."""
        pairs = list(self.modules.items())
        pairs += [(f"{_BLOCK}.{ours}", f"{self.block}.{theirs}") for ours, theirs in self.parts.items()]
        return tuple(map(_row, pairs))

    @cached_property
    def _by_outline(self) -> dict[str, list[Row]]:
        found: dict[str, list[Row]] = {}
        for row in (*self.rows, *map(_row, self.also)):
            found.setdefault(row.theirs.outline, []).append(row)
        return found

    def read(self, name: str, rooted: bool) -> str | None:
        """The official name of a key; None if the table does not have it.

        Args:
            name: without what comes before the dialect's names, and without the root.
            rooted: whether the root came before it; the others are those outside it.
        """
        for old, new in self.spellings:
            name = name.replace(old, new)
        rows = self._by_outline.get(outline(name), ())
        found = (row.read(name) for row in rows if rooted or not row.rooted)
        return next((official for official in found if official is not None), None)


_BLOCK = "layers.{s}.blocks.{b}"


def _row(pair: tuple[str, str]) -> Row:
    official, theirs = pair
    return Row(Template(official), Template(theirs.removeprefix("{root}")), theirs.startswith("{root}"))


OFFICIAL = Dialect(
    name="official",
    about="the original repository; timm up to 0.6.13 is the same",
    anchor="patch_embed.proj.weight",
    needs=(r"layers\.\d+\.blocks\.\d+\.norm1\.weight",),
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
    anchor=OFFICIAL.anchor,
    needs=(r"{root}layers\.\d+\.blocks\.\d+\.norm1\.weight",),
    before=("official",),
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
    anchor=OFFICIAL.anchor,
    needs=SIMMIM.needs,
    before=("official",),
    modules=_rooted(_OFFICIAL),
    block="{root}layers.{s}.blocks.{b}",
    parts=_SAME,
    roots=("backbone.",),
    root={"v1": "backbone.", "v2": "backbone.", "backbone": "backbone."},
    transforms=(MAP_POSITION,),
    absent=("norm", "head"),
    buffers=("attn.relative_position_index",),
    wrapper="state_dict",
)

TIMM = Dialect(
    name="timm",
    about="timm 0.9 and later: merging belongs to the stage after it, the head is a module",
    anchor=OFFICIAL.anchor,
    needs=(*OFFICIAL.needs, r"head\.fc\..*|layers\.[1-9]\d*\.downsample\..*"),
    never=(r"layers\.0\.downsample\..*", r"head\.(weight|bias)"),
    before=("official", "simmim", "detection"),
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

TIMM_FEATURES = Dialect(
    name="timm-features",
    about="timm's features_only=True, as segmentation libraries use it: layers_0 for layers.0, no final norm, no head",
    anchor=OFFICIAL.anchor,
    needs=(r"layers_\d+\.blocks\.\d+\.norm1\.weight",),
    never=(r"layers_0\.downsample\..*",),
    modules={
        "patch_embed.proj": "patch_embed.proj",
        "patch_embed.norm": "patch_embed.norm",
        "layers.{s}.downsample.reduction": "layers_{s+1}.downsample.reduction",
        "layers.{s}.downsample.norm": "layers_{s+1}.downsample.norm",
    },
    block="layers_{s}.blocks.{b}",
    parts=TIMM.parts,
    absent=("norm", "head"),
)

TORCHVISION = Dialect(
    name="torchvision",
    about="torchvision: one list of features, flattened indices, V2 with a bias for keys",
    anchor="features.0.0.weight",
    needs=(r"features\.1\.0\.norm1\.weight",),
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
# MaskFormer's backbone numbers them.
_HF_ALSO = (("norm{s}", "hidden_states_norms.{s}"),)

HF = Dialect(
    name="hf",
    about="transformers: files of every version, V1 and V2, and version 4 in memory",
    anchor="embeddings.patch_embeddings.projection.weight",
    needs=(r"{root}encoder\.layers\.\d+\.blocks\.\d+\.attention\.self\.query\.weight",),
    never=(r"{root}encoder\..*\.attention\.q_proj\..*",),
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
    also=_HF_ALSO,
    roots=("swin.", "swinv2.", "model.", ""),
    root={"v1": "swin.", "v2": "swinv2.", "backbone": ""},
    transforms=(SPLIT_QKV,),
)

HF5 = Dialect(
    name="hf5",
    about="transformers 5, V1 in memory (state_dict() of a model; its files are of the dialect hf)",
    anchor=HF.anchor,
    needs=(r"{root}encoder\.layers\.\d+\.blocks\.\d+\.attention\.q_proj\.weight",),
    never=(r"{root}encoder\..*\.attention\.self\..*",),
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
    also=_HF_ALSO,
    roots=("swin.", "model.", ""),
    root={"v1": "swin.", "backbone": "swin."},
    transforms=(SPLIT_QKV,),
)

_MM_PARTS = {
    "norm1": "norm1",
    "norm2": "norm2",
    "attn.qkv": "attn.w_msa.qkv",
    "attn.proj": "attn.w_msa.proj",
    "attn.relative_position_bias_table": "attn.w_msa.relative_position_bias_table",
    "attn.relative_position_index": "attn.w_msa.relative_position_index",
    "mlp.fc1": "ffn.layers.0.0",
    "mlp.fc2": "ffn.layers.1",
}
_MM_MODULES = _rooted(
    {
        **{ours: ours for ours in ("patch_embed.norm", "absolute_pos_embed", "norm{s}", "norm", "mask_token")},
        "patch_embed.proj": "patch_embed.projection",
        "layers.{s}.downsample.reduction": "stages.{s}.downsample.reduction",
        "layers.{s}.downsample.norm": "stages.{s}.downsample.norm",
    }
) | {"head": "head.fc", "decoder.0": "neck.decoder.0"}
# The masks of shifted windows lay in a block (mmsegmentation's pretraining files) or its attention (mmcls).
_MM_MASKS = tuple((f"{_BLOCK}.attn_mask", f"{{root}}stages.{{s}}.blocks.{{b}}.{at}attn_mask") for at in ("", "attn."))
_MM_BLOCK = r"{root}stages\.\d+\.blocks\.\d+\.attn\.w_msa\."

MM = Dialect(
    name="mmdet",
    about="mmdet and mmsegmentation: other names, and merging by unfold",
    anchor="patch_embed.projection.weight",
    needs=(rf"{_MM_BLOCK}qkv\.weight",),
    never=(rf"{_MM_BLOCK}logit_scale",),
    modules=_MM_MODULES,
    block="{root}stages.{s}.blocks.{b}",
    parts=_MM_PARTS,
    also=_MM_MASKS,
    roots=("backbone.", ""),
    root={"v1": "backbone.", "backbone": "backbone."},
    transforms=(UNFOLD_MERGE,),
    one_norm=True,
    absent=("norm", "head"),
    buffers=("attn.relative_position_index",),
    wrapper="state_dict",
)

MMPRETRAIN = replace(
    MM,
    name="mmpretrain",
    about="mmpretrain (mmcls), classifiers and SimMIM: as mmdet, with a head, and one norm, named by the last stage",
    needs=(*MM.needs, r"head\.fc\..*|neck\.decoder\.0\..*|{root}norm[1-9]\d*\.weight"),
    never=(*MM.never, r"{root}norm0\..*"),
    before=("mmdet",),
    transforms=(UNFOLD_MERGE, LAST_NORM),
    absent=(),
)

MMPRETRAIN_V2 = replace(
    MMPRETRAIN,
    name="mmpretrain-v2",
    about="mmpretrain's V2: merging belongs to the stage after it",
    needs=(rf"{_MM_BLOCK}logit_scale",),
    never=(rf"{_MM_BLOCK}relative_position_bias_table",),
    before=(),
    modules={
        **_MM_MODULES,
        "layers.{s}.downsample.reduction": "{root}stages.{s+1}.downsample.reduction",
        "layers.{s}.downsample.norm": "{root}stages.{s+1}.downsample.norm",
    },
    parts={
        **_MM_PARTS,
        "norm3": "norm3",
        **{f"attn.{part}": f"attn.w_msa.{part}" for part in ("logit_scale", "q_bias", "v_bias", "cpb_mlp.0")},
        "attn.cpb_mlp.2": "attn.w_msa.cpb_mlp.2",
        "attn.relative_coords_table": "attn.w_msa.relative_coords_table",
    },
    root={"v2": "backbone.", "backbone": "backbone."},
    buffers=TORCHVISION.buffers,
)

V2_CR = Dialect(
    name="timm-v2-cr",
    about="timm's swinv2_cr models",
    anchor=OFFICIAL.anchor,
    needs=(r"stages\.\d+\.blocks\.\d+\.attn\.(meta_mlp\..*|tau|logit_scale)",),
    refused="they are another network than V2: no 16 * sigmoid on the position bias, a bias on its last layer and on "
    "the keys, plain log coordinates, the norm before the reduction",
)

SWIN2SR = Dialect(
    name="swin2sr",
    about="transformers' Swin2SR models",
    anchor=HF.anchor,
    needs=(r"encoder\.stages\.\d+\.layers\.\d+\.attention\.self\.query\.weight",),
    refused="they are another network, for larger images: residual groups of blocks with convolutions, without merging",
)

_ALL = (OFFICIAL, SIMMIM, DETECTION, TIMM, TIMM_FEATURES, TORCHVISION, HF, HF5, MM, MMPRETRAIN, MMPRETRAIN_V2)
DIALECTS: dict[str, Dialect] = {d.name: d for d in (*_ALL, V2_CR, SWIN2SR)}

# Other names that options take.
ALIASES = {
    "ms": "official",
    "timm-old": "official",
    "segmentation": "detection",
    "tv": "torchvision",
    "hf4": "hf",
    "mmseg": "mmdet",
    "mmcls": "mmpretrain",
}
