"""The policy of tests/conftest.py: skips are counted and printed, and in CI an unknown reason fails the run."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]

MODULE = """
import pytest

def test_skips():
    pytest.skip({reason!r})

def test_passes():
    pass
"""


def _run(folder, reason, ci):
    (folder / "test_it.py").write_text(MODULE.format(reason=reason))
    paths = os.pathsep.join([str(TESTS.parent), str(TESTS)])
    environment = {**os.environ, "CI": ci, "PYTHONPATH": paths}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "conftest", "-p", "no:cacheprovider", "test_it.py"]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("reason", "ci", "status"),
    [("no CUDA device", "true", 0), ("did not feel like it", "true", 1), ("did not feel like it", "", 0)],
)
def test_unknown_skip_fails_in_ci_only(tmp_path, reason, ci, status):
    done = _run(tmp_path, reason, ci)
    assert done.returncode == status, done.stdout + done.stderr
    assert f"skipped: 1\n  1 x {reason}" in done.stdout
    assert ("not on the list" in done.stdout) == (reason != "no CUDA device")
