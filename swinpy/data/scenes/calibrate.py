"""How hard the scenes are for methods that know nothing of images: ``python -m swinpy.data.scenes.calibrate``.

Prints the accuracy of k nearest neighbours (k = 5) and of logistic regression on raw pixels. What a network gains over
these is what it has learnt about shape. docs/data.md keeps the figures.
"""

from __future__ import annotations

import argparse
import time
import warnings
from typing import TYPE_CHECKING

import numpy as np

from swinpy.data.scenes.draw import VARIANTS, generate
from swinpy.data.scenes.files import TEST_FROM

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["calibrate", "main"]


def calibrate(variant: str, seed: int = 0, train: int = 12_000, test: int = 2_000) -> dict[str, float]:
    """Test accuracy in percent of "knn" and "logistic", and "seconds" to draw the scenes."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.neighbors import KNeighborsClassifier

    begin = time.perf_counter()
    seen, unseen = generate(seed, np.arange(train), variant), generate(seed, TEST_FROM + np.arange(test), variant)
    seconds = time.perf_counter() - begin
    pixels, new_pixels = (s.images.reshape(len(s.labels), -1).astype(np.float32) / 255 for s in (seen, unseen))
    figures = {"seconds": seconds}
    models = {"knn": KNeighborsClassifier(5), "logistic": LogisticRegression(C=0.01, max_iter=100)}
    for name, model in models.items():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # 100 iterations are part of the definition
            model.fit(pixels, seen.labels)
        figures[name] = 100 * float(model.score(new_pixels, unseen.labels))
    return figures


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the figures of one variant, or of all."""
    what = (__doc__ or "").split("\n")[0]
    parser = argparse.ArgumentParser(prog="python -m swinpy.data.scenes.calibrate", description=what)
    parser.add_argument("--variant", choices=[*VARIANTS, "all"], default="all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--train", type=int, default=12_000)
    parser.add_argument("--test", type=int, default=2_000)
    options = parser.parse_args(arguments)
    for variant in VARIANTS if options.variant == "all" else (options.variant,):
        figures = calibrate(variant, options.seed, options.train, options.test)
        print(
            f"{variant:8} kNN (k=5) {figures['knn']:.1f}%  logistic {figures['logistic']:.1f}%  "
            f"drawn in {figures['seconds']:.1f} s"
        )


if __name__ == "__main__":
    main()
