"""Golden results: logits of small models whose parameters and images come from a closed formula.

The files in tests/swin/golden say which models, options and image sizes; after a change that is meant to change
results, ``python -m support.swin.golden`` in tests/ computes their numbers anew.
"""

from __future__ import annotations

import json
import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np

import swinpy

__all__ = ["FOLDER", "compute", "load", "names"]

FOLDER = Path(__file__).resolve().parents[2] / "swin" / "golden"


def _wave(shape: tuple[int, ...], k: int) -> Any:
    """Dense in [-1, 1], another for each k."""
    i = np.arange(1, math.prod(shape) + 1, dtype=np.float64)
    return np.sin(12.9898 * i + 78.233 * (k + 1)).reshape(shape)


def _value(name: str, shape: tuple[int, ...], k: int) -> Any:
    wave = _wave(shape, k)
    if "norm" in name and name.endswith("weight"):
        return 1 + 0.3 * wave
    if name.endswith("logit_scale"):  # on both sides of ln 100
        return 3 + 2.5 * wave
    if len(shape) == 1:
        return 0.2 * wave
    if name.endswith("table") or name == "absolute_pos_embed":
        return 0.5 * wave
    return wave * math.sqrt(2 / math.prod(shape[1:]))


def names() -> list[str]:
    return sorted(path.stem for path in FOLDER.glob("*.json"))


def load(name: str) -> dict[str, Any]:
    """{"model": name, "cases": [{"options", "size", "logits", "features"}]}."""
    golden: dict[str, Any] = json.loads((FOLDER / f"{name}.json").read_text())
    return golden


def compute(model: str, case: dict[str, Any]) -> tuple[list[float], list[list[float]]]:
    """Logits of one image, and the mean and root mean square of each stage's features."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        net = swinpy.create_model(model, dtype="float64", **case["options"]).eval()
    for k, (name, parameter) in enumerate(sorted(net.named_parameters())):
        parameter.assign_(_value(name, parameter.shape, k))
    x = _wave((1, net.config.in_chans, *case["size"]), -1)
    maps = [f.numpy() for f in net.features(x, norm=False)]
    return net(x).numpy()[0].tolist(), [[float(f.mean()), float(np.sqrt((f * f).mean()))] for f in maps]


def _rewrite() -> None:
    for name in names():
        golden = load(name)
        for case in golden["cases"]:
            case["logits"], case["features"] = compute(golden["model"], case)
        lines = ",\n".join(f"  {json.dumps(case)}" for case in golden["cases"])
        text = f'{{\n "model": "{golden["model"]}",\n "cases": [\n{lines}\n ]\n}}\n'
        (FOLDER / f"{name}.json").write_text(text)


if __name__ == "__main__":
    _rewrite()
