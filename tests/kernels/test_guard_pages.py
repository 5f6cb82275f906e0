"""No compiled kernel touches memory beyond its arrays."""

import mmap
import os
import subprocess
import sys

import pytest
from repo.sources import ROOT
from support.implementations import needs_numba

pytestmark = needs_numba


@pytest.mark.skipif(not hasattr(mmap, "PROT_READ"), reason="no mprotect")
def test_nothing_is_touched_beyond_arrays():
    """In a process of its own: a fault ends it."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "tests")))}
    done = subprocess.run(
        [sys.executable, "-m", "support.guard_pages"],
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    last = (done.stdout.splitlines() or ["nothing"])[-1]
    assert done.returncode == 0, f"ended with {done.returncode} in: {last}\n{done.stderr}"
    assert last == "done"
