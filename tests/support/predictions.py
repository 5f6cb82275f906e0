"""The command ``predict`` in this process, and what it printed."""

from __future__ import annotations

import re
from typing import Any

from swinpy.cli import main

__all__ = ["answers", "predict"]


def predict(capsys: Any, *arguments: object) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of a call."""
    capsys.readouterr()
    code = main(["predict", *map(str, arguments)])
    said = capsys.readouterr()
    assert "Traceback" not in said.err
    return code, said.out, said.err


def answers(out: str) -> list[tuple[float, str]]:
    """Percentages and names of what was printed."""
    return [(float(m[1]), m[2]) for m in re.finditer(r"^ +([\d.]+)%  (.*)$", out, re.M)]
