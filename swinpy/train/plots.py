"""Pictures of a run, by matplotlib's Agg. Each says so if the dataset is synthetic."""

from __future__ import annotations

import contextlib
import os
import sys
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

from swinpy.console import printable

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from swinpy.data import Batch, ImageDataset
    from swinpy.train.evaluate import Evaluation

__all__ = ["PlotsUnavailableError", "plot_batch", "plot_confusion", "plot_curves", "plot_errors"]


_LONGEST_NAME = 40  # letters of a class


class PlotsUnavailableError(ImportError):
    """matplotlib is not installed; the message names the extra."""


def _matplotlib() -> Any:
    """matplotlib, whatever MPLBACKEND says: a notebook's backend, which is not installed here, would end the import."""
    first = "matplotlib" not in sys.modules
    backend = os.environ.pop("MPLBACKEND", None)
    try:
        import matplotlib.backends.backend_agg
        import matplotlib.figure
    except ImportError as error:
        raise PlotsUnavailableError('plots: expected matplotlib; pip install "swinpy[viz]".') from error
    finally:
        if backend is not None:
            os.environ["MPLBACKEND"] = backend
    if first and backend is not None:
        with contextlib.suppress(ValueError):  # other code of this process gets what it asked for
            matplotlib.rcParams["backend"] = backend
    return matplotlib


@contextlib.contextmanager
def _picture(path: Path, width: float, height: float, data: ImageDataset) -> Iterator[Any]:
    """A figure in inches, drawn by Agg at the end of the block; the backend in use stays what it is."""
    mpl = _matplotlib()
    plain = {"text.parse_math": False, "text.usetex": False}  # a name may hold a $
    with mpl.rc_context(plain), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of letters that the font lacks
        figure = mpl.figure.Figure(figsize=(width, height), layout="constrained")
        mpl.backends.backend_agg.FigureCanvasAgg(figure)
        if data.synthetic:
            stamp = f"synthetic data: {printable(data.name)}"
            figure.text(0.995, 0.005, stamp, ha="right", va="bottom", fontsize=7, color="grey")
        yield figure
        figure.savefig(path, dpi=110)


def _name(data: ImageDataset, number: int) -> str:
    """Of a class, on one short line."""
    text = printable(data.class_names[number]) if number < data.num_classes else f"class {number}"
    return text if len(text) <= _LONGEST_NAME else text[: _LONGEST_NAME - 3] + "..."


def plot_curves(steps: list[dict[str, Any]], evals: list[dict[str, Any]], data: ImageDataset, path: Path) -> None:
    """Loss, accuracy, learning rate and gradient norm against the step."""
    with _picture(path, 10, 7, data) as figure:
        axes = figure.subplots(2, 2)
        at = [r["step"] for r in steps]
        panels = (
            ("loss", "training loss"),
            (None, "accuracy, %"),
            ("lr", "learning rate"),
            ("grad_norm", "gradient norm"),
        )
        for axis, (key, title) in zip(axes.flat, panels, strict=True):
            axis.set_title(title)
            axis.set_xlabel("step")
            if key is not None:
                axis.plot(at, [r[key] for r in steps], linewidth=0.8)
        marks = [r["step"] for r in evals]
        axes[0, 0].plot(marks, [r["eval_loss"] for r in evals], "o-", markersize=3, label="test")
        axes[0, 0].legend()
        axes[0, 1].plot(marks, [r["eval_top1"] for r in evals], "o-", markersize=3, label="top-1")
        if any(r["eval_top5"] is not None for r in evals):
            axes[0, 1].plot(marks, [r["eval_top5"] for r in evals], "o-", markersize=3, label="top-5")
        axes[0, 1].legend()


def plot_confusion(result: Evaluation, data: ImageDataset, path: Path) -> None:
    """The confusion matrix, each row in percent of its class."""
    share = 100 * result.confusion / np.maximum(1, result.confusion.sum(axis=1, keepdims=True))
    classes = data.num_classes
    with _picture(path, 7, 6, data) as figure:
        axis = figure.subplots()
        image = axis.imshow(share, vmin=0, vmax=100, cmap="Blues")
        figure.colorbar(image, label="% of the class")
        axis.set_xlabel("answer")
        axis.set_ylabel("label")
        axis.set_title(f"top-1 {result.top1:.2f}%")
        if classes <= 20:
            names = [_name(data, k) for k in range(classes)]
            axis.set_xticks(range(classes), names, rotation=60, ha="right")
            axis.set_yticks(range(classes), names)
            for (row, column), value in np.ndenumerate(share):
                if value >= 0.5:
                    axis.text(column, row, f"{value:.0f}", ha="center", va="center", fontsize=7, color=_ink(value))


def _ink(share: float) -> str:
    return "white" if share > 60 else "black"


def _grid(images: list[np.ndarray[Any, Any]], titles: list[str], data: ImageDataset, path: Path) -> None:
    columns = min(8, max(1, len(images)))
    rows = -(-len(images) // columns)
    with _picture(path, 1.4 * columns, 1.6 * max(1, rows), data) as figure:
        for i, (image, title) in enumerate(zip(images, titles, strict=True)):
            axis = figure.add_subplot(rows, columns, i + 1)
            axis.imshow(image)
            axis.set_title(title, fontsize=6)
            axis.set_axis_off()


def plot_batch(batch: Batch, data: ImageDataset, path: Path, count: int = 32) -> None:
    """An augmented batch as the model sees it, with the two largest targets of each image."""
    mean, std = (np.array(v, np.float32).reshape(1, -1, 1, 1) for v in (data.mean, data.std))
    pixels = np.clip(batch.images[:count] * std + mean, 0, 1).transpose(0, 2, 3, 1)
    titles = []
    for target in batch.targets[:count]:
        top = np.argsort(-target, kind="stable")[:2]
        parts = [f"{_name(data, k)} {target[k]:.2f}" for k in top if target[k] > 0.15]
        titles.append("\n".join(parts))
    _grid(list(pixels), titles, data, path)


def plot_errors(result: Evaluation, data: ImageDataset, path: Path) -> None:
    """The wrongly classified images that the model was surest of."""
    images = [data.images[index].transpose(1, 2, 0) for index, *_ in result.errors]
    titles = [
        f"{_name(data, label)}\nsaid {_name(data, answer)} {probability:.2f}"
        for _, label, answer, probability in result.errors
    ]
    _grid(images, titles, data, path)
