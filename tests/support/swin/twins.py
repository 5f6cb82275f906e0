"""timm's and transformers' Swins with the weights of ours, in evaluation mode, and how to import the libraries.

torchvision's are in ``tv.py``. V2's coordinates are float32 there and are replaced by ours after a comparison.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from . import hf_names, hf_names_v2
from .parity import put_exact_coordinates
from .torchvision_stub import make_importable

if TYPE_CHECKING:
    from swinpy import SwinTransformer

__all__ = ["hf_twin", "hf_v2_twin", "load_hf", "load_timm", "timm_name", "timm_twin"]


def load_timm() -> tuple[Any, Any, Any]:
    """torch, and timm's modules of V1 and V2; an ImportError where they are not installed."""
    import torch

    make_importable(torch)
    from timm.models import swin_transformer, swin_transformer_v2

    return torch, swin_transformer, swin_transformer_v2


def load_hf() -> tuple[Any, Any, Any]:
    """torch, and transformers' modules of V1 and V2; an ImportError where they are not installed."""
    import torch

    make_importable(torch)  # transformers imports torchvision where it finds it
    import transformers.models.swin as swin
    import transformers.models.swinv2 as swinv2

    swin.SwinForImageClassification  # noqa: B018 (imported on first access)
    swinv2.Swinv2ForImageClassification  # noqa: B018
    return torch, swin, swinv2


def timm_name(name: str) -> str:
    """Their name of one of our parameters: merging belongs to the stage after it, and the head is called fc."""
    parts = name.split(".")
    if parts[2:3] == ["downsample"]:
        parts[1] = str(int(parts[1]) + 1)
    return ".".join(["head", "fc", *parts[1:]] if parts[0] == "head" else parts)


def timm_twin(model: SwinTransformer) -> Any:
    """timm's model of the same configuration with the same weights, in float64."""
    torch, v1, v2 = load_timm()
    config = model.config
    options: dict[str, Any] = {
        "img_size": config.image,
        "patch_size": config.patch_size,
        "num_classes": config.num_classes,
        "embed_dim": config.embed_dim,
        "depths": config.depths,
        "num_heads": config.num_heads,
        "window_size": config.window_size,
        "mlp_ratio": config.mlp_ratio,
        "drop_path_rate": 0.0,
        "strict_img_size": False,
    }
    if config.architecture == "v2":
        pretrained = config.pretrained_window_sizes or (0,) * len(config.depths)
        twin = v2.SwinTransformerV2(**options, pretrained_window_sizes=pretrained).double()
    else:
        twin = v1.SwinTransformer(**options).double()
    state = {timm_name(k): torch.tensor(np.array(v)) for k, v in model.state_dict().items()}
    twin.load_state_dict(state)
    for ours, theirs in zip(model.layers, twin.layers, strict=True):
        for block, their_block in zip(ours.blocks, theirs.blocks, strict=True):
            assert tuple(their_block.window_size) == block.attn.window
            if config.architecture == "v2":
                put_exact_coordinates(their_block.attn, block.attn.window, block.attn.pretrained)
    return twin.eval()


def hf_twin(model: SwinTransformer, dtype: Any) -> Any:
    """transformers' V1 with the parameters of ours."""
    torch, swin, _ = load_hf()
    config = swin.SwinConfig(**hf_names.hf_config(model.config))
    config._attn_implementation = "sdpa"
    twin = swin.SwinForImageClassification(config).to(dtype).eval()
    state = {k: torch.tensor(np.array(v), dtype=dtype) for k, v in hf_names.to_hf(model.state_dict()).items()}
    twin.load_state_dict(state, strict=True)
    return twin


def hf_v2_twin(model: SwinTransformer) -> Any:
    """transformers' V2 with the parameters of ours, and with our coordinates, in float64."""
    torch, _, swinv2 = load_hf()
    config = swinv2.Swinv2Config(**hf_names_v2.hf_config(model.config))
    twin = swinv2.Swinv2ForImageClassification(config).double().eval()
    state = {k: torch.tensor(np.array(v)) for k, v in hf_names_v2.to_hf(model.state_dict()).items()}
    twin.load_state_dict(state, strict=True)
    for ours, theirs in zip(model.layers, twin.swinv2.encoder.layers, strict=True):
        for block, their_block in zip(ours.blocks, theirs.blocks, strict=True):
            put_exact_coordinates(their_block.attention.self, block.attn.window, block.attn.pretrained)
    return twin
