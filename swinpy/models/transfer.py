"""A model at another image size or window."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import autograd as ag
from swinpy.models.resample import ResizeMethod, resize_absolute_position, resize_bias_table
from swinpy.models.swin import SwinTransformer

if TYPE_CHECKING:
    from swinpy.geometry import Pair
    from swinpy.models.config import SwinConfig

__all__ = ["resize_model", "resized_config", "resized_state"]


def resized_config(
    config: SwinConfig, img_size: int | Pair | None = None, window_size: int | tuple[int, ...] | None = None
) -> SwinConfig:
    """The configuration of a model at another image size or window.

    Where V2's windows change, ``pretrained_window_sizes`` notes the windows that positions were learned at, so that an
    offset keeps its coordinates, and with them its bias.

    Raises:
        ValueError: if Swin-MLP's windows would change.
    """
    changes: dict[str, Any] = {"img_size": img_size, "window_size": window_size}
    changed = config.with_changes(**{name: value for name, value in changes.items() if value is not None})
    stages = range(len(config.depths))
    before, after = ([c.window(s) for s in stages] for c in (config, changed))
    if before == after:
        return changed
    if config.architecture == "mlp":
        raise ValueError(
            f"resize_model: expected the windows {before} of Swin-MLP, whose weights are tied to them; got {after}. "
            "Keep window_size, and an image large enough for it."
        )
    if config.architecture == "v2" and config.coordinates == "code":
        learned = [config.pretrained_window(s) for s in stages]
        if any(h != w for h, w in learned):
            raise ValueError(
                f"resize_model: expected square windows to note as pretrained_window_sizes; got {learned}. "
                "Build the model with small_map='clamp'."
            )
        changed = changed.with_changes(pretrained_window_sizes=tuple(h for h, _ in learned))
    return changed


def resized_state(
    state: dict[str, Any], config: SwinConfig, target: SwinConfig, method: ResizeMethod = "bicubic"
) -> dict[str, Any]:
    """A state dict of a model of ``config`` for one of ``target``: bias tables and absolute position are resampled.

    Args:
        state: arrays by name.
        config: of the model that the arrays come from.
        target: the same but for image size and windows.
        method: for bias tables, see :func:`resize_bias_table`.
    """
    out = dict(state)
    for name, array in state.items():
        if name.endswith("relative_position_bias_table"):
            stage = int(name.split(".")[1])
            out[name] = resize_bias_table(array, config.window(stage), target.window(stage), method)
        elif name == "absolute_pos_embed":
            out[name] = resize_absolute_position(array, config.map_size(0), target.map_size(0))
    return out


def resize_model(
    model: SwinTransformer,
    img_size: int | Pair | None = None,
    window_size: int | tuple[int, ...] | None = None,
    method: ResizeMethod = "bicubic",
) -> SwinTransformer:
    """The same model for another image size, another window, or both; the given one is left as it is.

    V1's bias tables and absolute positions are resampled. V2's parameters stay as they are: its biases are a function
    of the offset, read at the new window in the coordinates of the window that it was learned at.

    Args:
        model: any.
        img_size: in pixels, one number or (H, W); None for the present one.
        window_size: in tokens, one number or one for each stage; None for the present one. Windows are clamped to
            their maps by the model's ``small_map``.
        method: for V1's tables: "bicubic" (the official code) or "geometric" (SimMIM's).

    Returns:
        A new model in the same mode, dtype and on the same device, with copies of the parameters.

    Raises:
        ValueError: for sizes that do not fit the architecture, or an unknown method.

    >>> import swinpy
    >>> model = swinpy.create_model("swin_cifar_nano")
    >>> larger = swinpy.resize_model(model, img_size=64, window_size=8)
    >>> larger.layers[0].blocks[0].attn.relative_position_bias_table.shape
    (225, 1)
    """
    target = resized_config(model.config, img_size, window_size)
    state = resized_state(model.state_dict(), model.config, target, method)
    with ag.fork_rng():  # the initial values are overwritten, and what is drawn later should not depend on them
        resized = SwinTransformer(target)
    resized.astype(model.dtype).to(model.device).load_state_dict(state)
    for (_, own), (_, old) in zip(resized.named_parameters(), model.named_parameters(), strict=True):
        own.requires_grad = old.requires_grad
    return resized.train(model.training)
