"""Plots never end a run: whatever the environment, the names and matplotlib do, at most one note says so."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from swinpy.data import ImageDataset
from swinpy.train import plots
from swinpy.train.main import main

SMALL = shlex.split(
    "--dataset digits --train-subset 8 --val-subset 4 -b 4 --epochs 1 --warmup-epochs 0 --patch-size 4 --embed-dim 8 "
    "--depths 1 --num-heads 2 --workers 0 --max-steps 1 --experiment run"
)
PICTURES = ["augmented_batch.png", "confusion.png", "curves.png", "errors.png"]

_DRAW = """
import os, sys
from pathlib import Path
from types import SimpleNamespace
from swinpy.train import plots
plots.plot_curves([], [], SimpleNamespace(synthetic=False), Path(sys.argv[1]))
import matplotlib
assert os.environ["MPLBACKEND"] == sys.argv[2]
print(matplotlib.rcParams["backend"])
"""


@pytest.mark.parametrize(
    ("backend", "afterwards"),
    [
        ("module://matplotlib_inline.backend_inline", None),
        ("no such backend", None),
        ("", None),
        ("svg", "svg"),
    ],
)
def test_backends_of_the_environment(
    backend: str, afterwards: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A notebook's, which is not installed here, would end the import. Other code gets what it asked for."""
    monkeypatch.setenv("MPLBACKEND", backend)
    done = subprocess.run(
        [sys.executable, "-c", _DRAW, str(tmp_path / "c.png"), backend],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "c.png").read_bytes().startswith(b"\x89PNG")
    if afterwards:
        assert done.stdout == f"{afterwards}\n"


NAMES = ("$", "$x$", r"$\frac{$", "a_{b}^", "\\", "", "a\nb", "\x00", "\udce9", "猫", "x" * 400, "#%&~")


@pytest.mark.parametrize("first", range(len(NAMES)), ids=lambda i: ascii(NAMES[i][:9]))
def test_names_of_classes(first: int, tmp_path: Path) -> None:
    names = tuple(np.roll(np.array(NAMES, object), -first)[:2])
    images = np.zeros((2, 3, 8, 8), np.uint8)
    data = ImageDataset(names[0], images, np.array([0, 1]), names, True, "here", (0.5,) * 3, (0.5,) * 3)
    result: Any = SimpleNamespace(confusion=np.eye(2, dtype=np.int64), top1=100.0, errors=[(0, 0, 1, 0.9)])
    plots.plot_confusion(result, data, tmp_path / "confusion.png")
    plots.plot_errors(result, data, tmp_path / "errors.png")
    batch: Any = SimpleNamespace(images=np.zeros((2, 3, 8, 8), np.float32), targets=np.full((2, 2), 0.5))
    plots.plot_batch(batch, data, tmp_path / "batch.png")
    assert len(list(tmp_path.iterdir())) == 3


def _run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> tuple[list[str], list[str]]:
    """The notes of a run that ends well, and its pictures."""
    assert main([*SMALL, "--output", str(tmp_path)], prog="x") == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert "\nto evaluate: " in out
    assert "\nto predict: " in out
    drawn = sorted(path.name for path in (tmp_path / "run" / "plots").glob("*.png"))
    listed = next(line for line in out.splitlines() if line.startswith("files "))
    assert all(name in listed for name in drawn)
    return [line for line in out.splitlines() if "plots: " in line], drawn


def test_all_is_drawn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _run(tmp_path, capsys) == ([], PICTURES)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("no\nglyph"),
        ValueError(),
        KeyError("x"),
        MemoryError(),
        RecursionError("deep"),
        OSError(28, "No space left on device"),
        UnicodeEncodeError("ascii", "猫", 0, 1, "ordinal not in range"),
        StopIteration(),
        Warning("a warning that was made an error"),
        AssertionError(),
        ImportError("libfreetype.so: cannot open"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_whatever_matplotlib_raises(
    error: Exception, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the second picture: the first one is kept and listed."""
    figure = pytest.importorskip("matplotlib.figure")
    right, calls = figure.Figure.savefig, []

    def savefig(self: Any, path: Path, **options: Any) -> None:
        calls.append(path)
        if len(calls) == 2:
            raise error
        right(self, path, **options)

    monkeypatch.setattr(figure.Figure, "savefig", savefig)
    notes, drawn = _run(tmp_path, capsys)
    assert len(notes) == 1
    assert notes[0].startswith("note: no further plots: ")
    assert drawn == ["curves.png"]


def test_without_matplotlib(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)  # type: ignore[arg-type]
    notes, drawn = _run(tmp_path, capsys)
    assert notes == ['note: no plots: plots: expected matplotlib; pip install "swinpy[viz]".']
    assert drawn == []
