"""``python -m swinpy predict IMAGE... --weights FILE``: the five best classes of each image.

Images are prepared as the weights say; see `swinpy.weights.load_model`. Exit codes: 0; 2 where an image could not be
read or its answer is not finite, with a message for each.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import autograd as ag
from swinpy.console import printable, say, tell
from swinpy.data import BadImage, open_image, prepare
from swinpy.weights import load_model

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

    from swinpy.models import SwinTransformer
    from swinpy.weights import LoadedModel, ModelInfo

__all__ = ["HELP", "add_arguments", "run"]

HELP = "print the best classes of images"
_BEST = 5


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the arguments of the command."""
    add = parser.add_argument
    add("images", nargs="+", metavar="IMAGE", help="image files")
    add(
        "--weights",
        required=True,
        metavar="FILE",
        help="of any published layout (.safetensors, .pth, .bin), or the folder of a run or a snapshot",
    )
    add("--model", metavar="NAME", help="see 'list' (default: what the weights say, or told from their shapes)")
    add(
        "--preset",
        choices=("official", "timm", "torchvision", "hf"),
        help="whose behaviour, resize and crop (default: what the weights say, or official)",
    )
    add("--classes", metavar="FILE", help="text file with one class name a line (default: what the weights say)")
    add("--entry", metavar="NAME", help="part of a .pth file that holds the weights, e.g. model_ema")
    add("--device", default="cpu", metavar="D", help="cpu, gpu, cuda:N or auto (default: %(default)s)")


def _names(path: str | None, info: ModelInfo) -> list[str]:
    classes = info.config.num_classes
    if path is None:
        return [info.class_name(i) for i in range(classes)]
    try:
        names = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        what = getattr(error, "strerror", None) or "no text in UTF-8"
        raise ValueError(
            f"--classes: expected a text file with one class name a line in {path}; got {what}. Check the path."
        ) from None
    if len(names) != classes:
        raise ValueError(
            f"--classes: expected {classes} lines, one for each class of the weights; got {len(names)} in {path}."
        )
    return names


def _probabilities(model: SwinTransformer, image: np.ndarray[Any, Any], path: str) -> np.ndarray[Any, Any]:
    """Of each class.

    Raises:
        FloatingPointError: NaN or infinity came out.
    """
    x = ag.Tensor(image[None].astype(model.dtype, copy=False)).to(model.device)
    with ag.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # NumPy's, of overflows: what matters is told below
        logits = model(x)
        if not np.isfinite(logits.numpy()).all():
            raise FloatingPointError(
                f"predict: expected finite answers for {path}; got NaN or infinity. The weights are damaged or have "
                "diverged: use those of an earlier snapshot, or copy the file again."
            )
        out: np.ndarray[Any, Any] = ag.softmax(logits).numpy()[0]
    return out


def _model(args: Namespace) -> LoadedModel:
    """The model of the weights; what was chosen or assumed, and which faults a preset has, goes to standard error."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        loaded = load_model(args.weights, args.model, args.preset, args.entry, ag.use_device(args.device))
    for note in (*(str(warning.message) for warning in caught), *loaded.notes):
        tell(f"note: {note}")
    config = loaded.info.config
    if not config.num_classes:
        raise ValueError(
            f"--weights: expected weights with a head; got {args.weights} without one. Use a classifier's."
        )
    if config.in_chans != 3:
        raise ValueError(
            f"--weights: expected a model of images with 3 channels; got {config.in_chans} in {args.weights}."
        )
    return loaded


def run(args: Namespace) -> int:
    """Run the command; returns its exit code."""
    loaded = _model(args)
    names = _names(args.classes, loaded.info)
    faults = 0
    for path in args.images:
        try:
            image = prepare(open_image(path), loaded.preparation)
            probabilities = _probabilities(loaded.model, image, path)
        except (BadImage, FloatingPointError) as error:
            tell(f"error: {error}")
            faults += 1
            continue
        say(printable(path))
        for i in np.argsort(-probabilities, kind="stable")[:_BEST]:
            say(f"  {100 * float(probabilities[i]):6.2f}%  {names[i]}")
    return 2 if faults else 0
