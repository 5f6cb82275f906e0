"""load_weights: a file or a dict of any dialect into a model, all or nothing."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import autograd as ag
from swinpy.io.errors import plain
from swinpy.models.config import SwinConfig
from swinpy.weights.describe import facts_of
from swinpy.weights.dialects import to_official
from swinpy.weights.find import differences, find_weights
from swinpy.weights.given import WeightsError, read_given
from swinpy.weights.plan import Choices, Plan, make_plan
from swinpy.weights.report import LoadReport, some

if TYPE_CHECKING:
    from collections.abc import Mapping

    from autograd import Tensor
    from swinpy.models import SwinTransformer
    from swinpy.weights.dialects import Translation
    from swinpy.weights.fit import Channels, Resize
    from swinpy.weights.given import Given

__all__ = ["load_weights"]


def load_weights(
    model: SwinTransformer,
    source: str | os.PathLike[str] | Mapping[str, Any],
    dialect: str = "auto",
    resize: Resize = "bicubic",
    head: str | os.PathLike[str] = "keep",
    strict: bool = True,
    entry: str | None = None,
    prefix: str | None = None,
    in_chans: Channels = "keep",
) -> LoadReport:
    """Load weights that this or another library has written. All or nothing.

    Args:
        model: written to in place; it keeps its dtype, device, window and image size.
        source: a file (.safetensors, .pth, .pt, .bin), a snapshot's or run's folder, or a dict of arrays by name
            (NumPy, torch, CuPy, Tensor). The dict may lie in others, under the names that are known from files
            ("model", "state_dict", "module", ...); the network may be a part of another model, under any prefix, and in
            wrappers (DataParallel, FSDP, activation checkpointing, torch.compile).
        dialect: "auto" tells the layout from the keys; or one of :data:`swinpy.weights.dialects.DIALECTS`.
        resize: how a bias table of another window (V1) is brought to the model's: "bicubic" (the official code) or
            "geometric" (SimMIM's code); absolute positions always bicubically; None refuses. V2 needs no resizing:
            give the model ``pretrained_window_sizes``.
        head: "keep" the file's; "drop" it and keep the model's own; "zero" for zeros; or a text file that picks rows,
            one number a line for each class of the model (the official map22kto1k.txt).
        strict: False loads although parameters are missing in the file (the model's own are kept) or keys are
            unexpected (they are left out); the report names them. Never another shape.
        entry: which part of the source to read, e.g. "model_ema"; None searches (see :func:`swinpy.io.read_weights`).
        prefix: what comes before the names of the network, e.g. "student.", where there are several; None finds it.
        in_chans: "repeat" makes the first convolution of a file for 3 input channels fit a model for any other number,
            by timm's rule: the sum over the channels for one; for more, the channels in turn times 3 / in_chans.
            "keep" refuses.

    Returns:
        What became of each key; print it for a table.

    Raises:
        WeightsError, DialectError: naming each key that does not fit, what was expected, what came, and the option that
            resolves it. The model is as it was.
        WeightsFileError: a file that cannot be read.
        TypeError: a model of another library, or none.

    >>> import swinpy
    >>> model = swinpy.create_model("swin_cifar_nano")
    >>> report = swinpy.load_weights(model, model.state_dict())
    >>> len(report.used), report.dialect
    (92, 'official')
    """
    _check_arguments(model, resize, in_chans)
    told: dict[str, str] = {}
    if isinstance(source, (str, os.PathLike)):
        source, _ = find_weights(source)
        told = differences(source, model.config, entry)
    came = read_given(source, entry)
    read = to_official(came.arrays, dialect, prefix)
    plan = make_plan(model, read, Choices(resize, head, in_chans))
    plan.ignored.update({key: f"no tensor but {what}" for key, what in came.others.items()})
    for name in plan.used:
        widened = came.widened.get(plan.source.get(name, name))
        if widened:
            plan.cast[name] = f"{widened} to {model.dtype}"
    if strict and plan.unexpected:
        plan.problems.update(plan.unexpected)
    if plan.problems or (strict and plan.absent):
        raise WeightsError(_message(model, came, read, plan, strict))
    if not plan.used:
        raise WeightsError(_nothing(came, read, plan))
    if plan.notes:
        told.pop("coordinates", None)  # these arrays have shown it
    plan.missing.update(dict.fromkeys(plan.absent, f"not in {_file(read)}: the model's own"))
    _write(dict(model.named_state()), plan.values)
    return LoadReport(
        came.where,
        read.dialect,
        came.entry,
        read.prefix,
        tuple(plan.used),
        plan.ignored,
        plan.resized,
        plan.cast,
        plan.missing,
        plan.unexpected,
        (*plan.notes, *told.values()),
    )


def _check_arguments(model: object, resize: object, in_chans: object) -> None:
    if not isinstance(getattr(model, "config", None), SwinConfig):
        raise TypeError(
            f"load_weights: expected a model of swinpy; got {type(model).__name__}. Pass the model first, then the "
            "weights: load_weights(swinpy.create_model(...), source)."
        )
    if resize not in ("bicubic", "geometric", None):
        raise WeightsError(
            f"load_weights: expected resize to be 'bicubic', 'geometric' or None; got {resize!r}. Leave it out for "
            "'bicubic', or pass None to refuse tables of another window."
        )
    if in_chans not in ("keep", "repeat"):
        raise WeightsError(
            f"load_weights: expected in_chans to be 'keep' or 'repeat'; got {in_chans!r}. Leave it out for 'keep'; the "
            "number of channels is the model's own."
        )


def _file(read: Translation) -> str:
    """Where in the file the network is."""
    return "the file" + (f", under {plain(read.prefix)}" if read.prefix else "")


def _nothing(came: Given, read: Translation, plan: Plan) -> str:
    """That no parameter was found, which no option makes a success."""
    left = f"{some(plan.unexpected)}: expected parameters of the model. " if plan.unexpected else ""
    return (
        f"load_weights: expected weights for the parameters of the model; got {came.where} (dialect {read.dialect}), "
        f"in which there is none of them. {left}Leave the dialect and the prefix to be found, or pass a file of this "
        "network. Nothing was loaded."
    )


def _message(model: SwinTransformer, came: Given, read: Translation, plan: Plan, strict: bool) -> str:
    lines = [f"{plain(name)}: {text}." for name, text in plan.problems.items()]
    absent = plan.absent if strict else []
    fixes = []
    file, own = facts_of(read.arrays), facts_of(model.state_dict())
    other = file is not None and own is not None and file.network != own.network
    most = 3 if other else 8
    lines = lines[:most] + [f"and {len(lines) - most} more such keys."] * (len(lines) > most)
    if other:
        fixes.append(f"create the network of the file ({file}), which is not the model's ({own})")
    if absent:
        lines.append(f"{some(absent)}: expected in {_file(read)}; got nothing.")
        if came.others:
            lines.append(f"{some(came.others)}: no tensors, but {some(dict.fromkeys(came.others.values()))}.")
        heads = [name for name in absent if name.startswith("head.")]
        if heads:
            fixes.append("head='drop' keeps the model's own head, head='zero' sets it to zeros")
        if len(heads) < len(absent):
            fixes.append("strict=False keeps the model's own parameters where the file has none")
    if strict and plan.unexpected:
        fixes.append("strict=False leaves unexpected keys out")
    count = len(dict(model.named_parameters()))
    return "\n  ".join(
        [
            f"load_weights: expected weights for the {count} parameters of the model; got {came.where} (dialect "
            f"{read.dialect}), in which {len(plan.problems) + len(absent)} do not fit:",
            *lines,
            *([f"To resolve this: {'; '.join(fixes)}."] if fixes else []),
            "Nothing was loaded.",
        ]
    )


def _write(parameters: Mapping[str, Tensor], values: Mapping[str, Any]) -> None:
    """Assign every value, or none: if anything interrupts it, the old values are put back."""
    staged = {name: ag.Tensor(value).to(parameters[name].device).data for name, value in values.items()}
    frozen = [name for name in staged if not getattr(parameters[name].data.flags, "writeable", True)]
    if frozen:
        raise WeightsError(
            f"load_weights: expected parameters whose memory can be written to; got read-only {some(frozen)}. "
            "Copy the model's arrays first."
        )
    done: list[tuple[Tensor, Any]] = []
    try:
        for name, value in staged.items():
            parameter = parameters[name]
            done.append((parameter, parameter.data.copy()))
            parameter.assign_(value)
    except BaseException:
        for parameter, before in done:
            parameter.assign_(before)
        raise
