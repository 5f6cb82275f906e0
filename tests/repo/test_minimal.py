"""examples/minimal.py: short enough to be read at once, and it learns."""

import ast
import os
import re
import subprocess
import sys

from repo.sources import ROOT

SCRIPT = ROOT / "examples" / "minimal.py"
LINES = 50


def _run(*options):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OPENBLAS_NUM_THREADS": "1"}
    command = [sys.executable, str(SCRIPT), *options]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=250).stdout


def test_length():
    lines = SCRIPT.read_text().splitlines()
    assert len(lines) <= LINES
    assert max(map(len, lines)) <= 120


def test_uses_public_names_alone():
    for node in ast.walk(ast.parse(SCRIPT.read_text())):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            for name in [node.module, *(a.name for a in node.names)] if isinstance(node, ast.ImportFrom) else ():
                assert not any(part.startswith("_") for part in name.split("."))
        assert not (isinstance(node, ast.Attribute) and node.attr.startswith("_") and node.attr != "__doc__")


def test_it_learns():
    out = _run("--max-steps", "51")
    losses = [float(found) for found in re.findall(r"loss (\S+)", out)]
    assert len(losses) == 2  # of the first step and of the last
    assert 2.1 < losses[0] < 2.5  # log 10 is 2.3: it knows nothing yet
    assert losses[1] < losses[0] - 0.15
    (right,) = re.findall(r"([\d.]+)% of 1000 test pictures", out)
    assert float(right) > 15


def test_one_step():
    assert "% of 1000 test pictures are named right" in _run("--max-steps", "1")
