"""load_model: a file of weights as a model that is ready for use, with how to prepare its images."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from swinpy.models.presets import eval_config_of
from swinpy.models.registry import create_model, eval_config
from swinpy.models.swin import SwinTransformer
from swinpy.weights.describe import facts_of
from swinpy.weights.dialects import to_official
from swinpy.weights.find import find_weights, read_model_info, says_something
from swinpy.weights.given import WeightsError, read_given
from swinpy.weights.identify import model_of
from swinpy.weights.info import ModelInfo
from swinpy.weights.load import load_weights

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator, Mapping

    from swinpy.models.config import SwinConfig
    from swinpy.models.presets import Preset
    from swinpy.preparation import Preparation
    from swinpy.weights.report import LoadReport

__all__ = ["LoadedModel", "check_info", "checked_info", "load_model"]

_LARGEST_WINDOW = 90  # tokens a side; tables for each pair of tokens grow with the fourth power


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """A model that is ready for use.

    Attributes:
        model: in evaluation mode.
        info: what made it; class names as far as they are known.
        preparation: of its images.
        report: what became of each key of the file.
        notes: what was chosen or assumed, a line each.
    """

    model: SwinTransformer
    info: ModelInfo
    preparation: Preparation
    report: LoadReport
    notes: tuple[str, ...]


def load_model(
    path: str | os.PathLike[str],
    name: str | None = None,
    preset: Preset | None = None,
    entry: str | None = None,
    device: str = "cpu",
    dtype: str = "float32",
) -> LoadedModel:
    """The model that weights belong to, with these weights.

    What swinpy has written says what it is. For other weights, or where a name or a preset is given, a model of a known
    name is built (told from the shapes where no name is given), and images are prepared as for that name.

    Args:
        path: a file of any published layout, a snapshot's folder, or a run's (see `find_weights`).
        name: of the model; then what the file says of itself is not used.
        preset: whose behaviour, resize and crop, likewise; "official" for weights that do not say it.
        entry: part of a torch file that holds the weights.
        device: "cpu", "gpu", "cuda", "cuda:N" or "auto".
        dtype: "float32", "float64" or "float16".

    Raises:
        WeightsError: weights of no known model or of several, that do not fit, or that contradict what is said of them.
        WeightsFileError, SnapshotError: a file or folder that cannot be read.
        DeviceError: if the device cannot be had.

    >>> import tempfile, pathlib, swinpy
    >>> file = pathlib.Path(tempfile.mkdtemp()) / "small.safetensors"
    >>> report = swinpy.save_weights(swinpy.create_model("swin_cifar_nano", depths=(1, 1, 1)), file)
    >>> load_model(file).model.config.depths
    (1, 1, 1)
    """
    file, said = find_weights(path)
    notes = [said] if said else []
    info = None
    if name is None and preset is None:
        info = checked_info(file, entry)
    elif says_something(file, entry):
        notes.append(f"{file}: what it says of itself is not used, as a model or a preset was named")
    if info is None:
        name, classes = model_of(file, name, entry)
        model = create_model(name, classes, device=device, dtype=dtype, preset=preset or "official")
        preparation = eval_config(name, preset or "official")
        info = ModelInfo(model.config, model=name)
        how = f"as with preset {preset or 'official'!r} for {name}"
    else:
        model = SwinTransformer(info.config, warn=False).astype(dtype).to(device)
        preparation = info.preparation or eval_config_of(info.model, info.config)
        how = "as with preset 'official' for {}x{}".format(*info.config.image)
    if info.preparation is None:
        notes.append(f"{file} does not say how its images were prepared; assumed, {how}: {preparation}")
    report = load_weights(model, file, entry=entry)
    model.eval()
    return LoadedModel(model, replace(info, preparation=preparation), preparation, report, (*notes, *report.notes))


def checked_info(path: str | os.PathLike[str], entry: str | None = None) -> ModelInfo | None:
    """What weights say of themselves (see `read_model_info`), not contradicted by their arrays.

    Raises:
        WeightsError, WeightsFileError, SnapshotError: as `load_model`.
    """
    file, _ = find_weights(path)
    info = read_model_info(file, entry)
    if info is not None:
        check_info(info.config, to_official(read_given(file, entry).arrays).arrays, str(file))
    return info


def _lengths(config: SwinConfig) -> Iterator[tuple[str, str, int, int]]:
    """Lengths that a configuration gives to arrays, one block a stage: option, array, axis, length."""
    patch, first = "patch_embed.proj.weight", "layers.{}.blocks.0.{}".format
    yield "embed_dim", patch, 0, config.embed_dim
    yield "in_chans", patch, 1, config.in_chans
    yield "patch_size", patch, 2, config.patch_size
    yield "mlp_ratio", first(0, "mlp.fc1.weight"), 0, int(config.embed_dim * config.mlp_ratio)
    if config.num_classes:
        yield "num_classes", "head.weight", 0, config.num_classes
    if config.position in ("absolute", "both"):
        yield "img_size", "absolute_pos_embed", 1, math.prod(config.map_size(0))
    for stage, heads in enumerate(config.num_heads):
        height, width = config.window(stage)
        if config.architecture == "v2":
            yield "num_heads", first(stage, "attn.logit_scale"), 0, heads
        elif config.architecture == "mlp":
            yield "window_size", first(stage, "spatial_mlp.weight"), 1, height * width
        elif config.position in ("relative", "both"):
            table = first(stage, "attn.relative_position_bias_table")
            yield "window_size", table, 0, (2 * height - 1) * (2 * width - 1)
            yield "num_heads", table, 1, heads


def check_info(config: SwinConfig, arrays: Mapping[str, Any], where: str) -> None:
    """Check, before a model is made, that the configuration which a file states is that of its arrays.

    Args:
        config: what the file states.
        arrays: the file's, by official names.
        where: what a message calls the file.

    Raises:
        WeightsError: it is another one, or has windows so large that no memory would hold their tables.
    """
    facts = facts_of(arrays)
    wrong = []
    if facts is None or facts.depths != config.depths:
        wrong.append(f"depths={config.depths} where the arrays have {facts.depths if facts else 'no whole Swin'}")
    for option, name, axis, length in _lengths(config):
        array = arrays.get(name)
        found = array.shape[axis] if array is not None and array.ndim > axis else None
        if found != length:
            got = "nothing" if array is None else f"shape {array.shape}"
            wrong.append(f"{option}={getattr(config, option)}, {length} along axis {axis} of {name}; got {got}")
    largest = max(max(config.window(stage)) for stage in range(len(config.depths)))
    if largest > _LARGEST_WINDOW:
        wrong.append(f"a window of {largest} tokens a side, beyond {_LARGEST_WINDOW}")
    if wrong:
        raise WeightsError(
            f"model info: expected the configuration of the arrays in {where}; it states {wrong[0]}"
            + (f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else "")
            + ". To go without what it says of itself: --model NAME of predict and convert."
        )
