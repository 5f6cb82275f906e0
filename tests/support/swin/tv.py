"""torchvision's Swins: how to import them, twins of our models, the cases to compare at, and their parameter names."""

from __future__ import annotations

import re
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from swinpy import SwinConfig, SwinTransformer

from .parity import put_exact_coordinates
from .torchvision_stub import make_importable

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["TV_BASE", "load_tv", "to_tv", "tv_cases", "tv_gradients", "tv_name", "tv_twin"]

TV_BASE = SwinConfig(
    img_size=64,
    num_classes=7,
    embed_dim=12,
    depths=(2, 2),
    num_heads=(2, 3),
    window_size=5,
    drop_path_rate=0.0,
    small_map="pad",
)


def tv_cases(base: SwinConfig) -> dict[str, tuple[SwinConfig, tuple[int, int]]]:
    """Configurations and image sizes at which maps are padded, odd, not square, or smaller than a window of 5."""
    three = base.with_changes(depths=(2, 2, 2), num_heads=(2, 3, 4))
    return {
        "divisible": (base, (80, 80)),  # 20x20, 10x10
        "padded": (base, (68, 92)),  # 17x23, odd at merging, 9x12
        "one_axis_small": (base, (16, 64)),  # 4x16: rows padded up to the window and not shifted, columns shifted
        "one_axis_equal": (base, (64, 20)),  # 16x5
        "all_small": (three, (12, 8)),  # 3x2, 2x1, 1x1
        "shrinking": (three, (60, 28)),  # 15x7, 8x4, 4x2
        "no_qkv_bias": (base.with_changes(qkv_bias=False), (36, 52)),
        "part_of_a_patch": (base.with_changes(patch_rule="crop"), (37, 54)),  # what is no whole patch is not seen
        "mlp_2": (base.with_changes(mlp_ratio=2.0, window_size=4), (44, 36)),
    }


def load_tv() -> tuple[Any, Any]:
    """torch, and torchvision's module of Swins; an ImportError where they are not installed."""
    import torch

    make_importable(torch)
    from torchvision.models import swin_transformer

    return torch, swin_transformer


_RULES: tuple[tuple[str, Any], ...] = (
    (r"^patch_embed\.proj\.", "features.0.0."),
    (r"^patch_embed\.norm\.", "features.0.2."),
    (r"^layers\.(\d+)\.blocks\.", lambda m: f"features.{2 * int(m[1]) + 1}."),
    (r"^layers\.(\d+)\.downsample\.", lambda m: f"features.{2 * int(m[1]) + 2}."),
    (r"\.mlp\.fc1\.", ".mlp.0."),
    (r"\.mlp\.fc2\.", ".mlp.3."),
)


def tv_name(name: str) -> str:
    """Their name of one of our parameters."""
    for pattern, new in _RULES:
        name = re.sub(pattern, new, name)
    return name


def to_tv(state: Mapping[str, Any]) -> dict[str, Any]:
    """Our arrays under their names."""
    return {tv_name(name): array for name, array in state.items()}


def tv_twin(model: SwinTransformer) -> Any:
    """torchvision's model of the same configuration with the same weights, in float64, for evaluation."""
    torch, tv = load_tv()
    config, v2 = model.config, "V2" if model.config.architecture == "v2" else ""
    attention = getattr(tv, f"ShiftedWindowAttention{v2}")
    twin = tv.SwinTransformer(
        patch_size=[config.patch_size] * 2,
        embed_dim=config.embed_dim,
        depths=list(config.depths),
        num_heads=list(config.num_heads),
        window_size=list(config.window(0)),
        mlp_ratio=config.mlp_ratio,
        stochastic_depth_prob=0.0,
        num_classes=config.num_classes,
        block=partial(
            getattr(tv, f"SwinTransformerBlock{v2}"), attn_layer=partial(attention, qkv_bias=config.qkv_bias)
        ),
        downsample_layer=getattr(tv, f"PatchMerging{v2}"),
    ).double()
    state = {k: torch.tensor(np.array(v)) for k, v in to_tv(model.state_dict()).items()}
    missing, unexpected = twin.load_state_dict(state, strict=False)
    assert not unexpected
    assert all(n.endswith(("relative_position_index", "relative_coords_table")) for n in missing), missing
    for module in twin.modules():
        if v2 and isinstance(module, attention):
            put_exact_coordinates(module, config.window(0), config.window(0))
    return twin.eval()


def tv_gradients(model: SwinTransformer, x: Any, weights: Any) -> tuple[Any, dict[str, Any]]:
    """Its logits, and the gradients of sum(logits * weights) under our names, the pixels' as "input"."""
    torch, _ = load_tv()
    twin, pixels = tv_twin(model), torch.tensor(x, requires_grad=True)
    logits = twin(pixels)
    (logits * torch.tensor(weights)).sum().backward()
    grads = {n: p.grad.numpy() for n, p in twin.named_parameters()}
    theirs = {n: grads[tv_name(n)] for n in model.state_dict()} | {"input": pixels.grad.numpy()}
    return logits.detach().numpy(), theirs
