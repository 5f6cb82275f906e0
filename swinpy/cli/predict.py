"""``python -m swinpy predict IMAGE... --weights FILE``: the five best classes of each image."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import autograd as ag
from swinpy.console import printable, say, tell
from swinpy.data import normalise
from swinpy.data.folder.decode import BadImage, centre_crop, open_image, resize, to_bytes
from swinpy.models import create_model, eval_config
from swinpy.weights import load_weights, model_of

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

    from swinpy.models import EvalConfig, SwinTransformer

__all__ = ["HELP", "add_arguments", "prepare", "run"]

HELP = "print the best classes of images"
_BEST = 5


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the arguments of the command."""
    add = parser.add_argument
    add("images", nargs="+", metavar="IMAGE", help="image files")
    add("--weights", required=True, metavar="FILE", help="of any published layout (.safetensors, .pth, .bin)")
    add("--model", metavar="NAME", help="see 'list' (default: told from the weights' shapes)")
    add(
        "--preset",
        choices=("official", "timm", "torchvision", "hf"),
        default="official",
        help="whose behaviour, resize and crop (default: %(default)s)",
    )
    add("--classes", metavar="FILE", help="text file with one class name a line")
    add("--entry", metavar="NAME", help="part of a .pth file that holds the weights, e.g. model_ema")
    add("--device", default="cpu", metavar="D", help="cpu, gpu, cuda:N or auto (default: %(default)s)")


def prepare(image: Any, config: EvalConfig) -> np.ndarray[Any, Any]:
    """A PIL image as a model's input, float32 (3, H, W)."""
    image = resize(image, config.resize, config.interpolation)
    if config.crop is not None:
        image = centre_crop(image, config.crop)
    pixels: np.ndarray[Any, Any] = normalise(to_bytes(image)[None], config.mean, config.std)[0]
    return pixels


def _names(path: str | None, classes: int) -> list[str]:
    if path is None:
        return [f"class {i}" for i in range(classes)]
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


def _probabilities(model: SwinTransformer, image: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    x = ag.Tensor(image[None].astype(model.dtype, copy=False)).to(model.device)
    with ag.no_grad():
        out: np.ndarray[Any, Any] = ag.softmax(model(x)).numpy()[0]
    return out


def run(args: Namespace) -> int:
    """Run the command; returns its exit code."""
    name, classes = model_of(args.weights, args.model, args.entry)
    if not classes:
        raise ValueError(
            f"--weights: expected weights with a head; got {args.weights} without one. Use a classifier's."
        )
    names = _names(args.classes, classes)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model = create_model(name, classes, device=ag.use_device(args.device), preset=args.preset)
    for warning in caught:
        tell(f"note: {warning.message}")
    load_weights(model, args.weights, entry=args.entry)
    model.eval()
    config = eval_config(name, args.preset)
    faults = 0
    for path in args.images:
        try:
            image = prepare(open_image(path), config)
        except BadImage as error:
            tell(f"error: {error}")
            faults += 1
            continue
        probabilities = _probabilities(model, image)
        say(printable(path))
        for i in np.argsort(-probabilities, kind="stable")[:_BEST]:
            say(f"  {100 * float(probabilities[i]):6.2f}%  {names[i]}")
    return 2 if faults else 0
