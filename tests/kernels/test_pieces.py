"""Compiled kernels on pieces of rows: every piece once whatever the threads do, and helpers that listen, then sleep."""

import os
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from repo.sources import ROOT
from support import skips

import autograd as ag
from autograd.kernels import threads

pytest.importorskip("numba", reason=skips.NO_NUMBA)

from autograd.kernels.compiled import pieces
from autograd.kernels.compiled.toolkit import jit


@pytest.fixture(autouse=True)
def _restored():
    before = ag.get_num_threads()
    yield
    ag.set_num_threads(before)


@jit
def _mark(weight, seen, rows, number, start, stop):
    seen[number] += weight
    for row in range(start, stop):
        rows[row] += number + 1


@jit
def _wait(together, number, start, stop):
    """Until as many as there are pieces have come: it ends only if as many threads work at once."""
    pieces._fetch_add(together, 0, 1)
    while pieces._spin(together, 0) < len(together):
        pass


@pytest.mark.parametrize("count", [1, 2, 3, 7])
@pytest.mark.parametrize(("rows", "many"), [(0, 1), (5, 1), (5, 2), (64, 16), (1000, 100)])
def test_every_piece_once(count, rows, many):
    ag.set_num_threads(count)
    bounds = pieces.even_pieces(rows, many)
    for _ in range(6):  # in both directions, helpers asleep and awake
        seen, marks = np.zeros(many), np.zeros(rows, np.int64)
        pieces.run_pieces(_mark, bounds, 2.0, seen, marks)
        np.testing.assert_array_equal(seen, 2)
        np.testing.assert_array_equal(marks, np.repeat(np.arange(many) + 1, bounds[:, 1] - bounds[:, 0]))


@pytest.mark.parametrize("count", [2, 3])
def test_that_many_threads_work(count):
    ag.set_num_threads(count)
    for _ in range(3):
        pieces.run_pieces(_wait, pieces.even_pieces(count, count), np.zeros(count, np.int64))


def test_calls_from_several_threads_keep_apart():
    """Each with memory of its own; the helpers are shared."""
    ag.set_num_threads(3)
    bounds, wrong = pieces.even_pieces(64, 16), []

    def calls():
        for _ in range(50):
            seen, marks = np.zeros(16), np.zeros(64, np.int64)
            pieces.run_pieces(_mark, bounds, 1.0, seen, marks)
            wrong.extend(seen[seen != 1])

    callers = [threading.Thread(target=calls) for _ in range(4)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert wrong == []


def test_arguments_are_let_go_of():
    """A helper that listens holds nothing of the call before: its memory is for the next."""
    ag.set_num_threads(2)
    marks = np.zeros(64, np.int64)
    for _ in range(20):
        pieces.run_pieces(_mark, pieces.even_pieces(64, 16), 1.0, np.zeros(16), marks)
        deadline = time.monotonic() + 5
        while sys.getrefcount(marks) > 2 and time.monotonic() < deadline:
            time.sleep(0)
        assert sys.getrefcount(marks) == 2


def test_helpers_fall_asleep():
    ag.set_num_threads(3)
    seen, marks = np.zeros(16), np.zeros(64, np.int64)
    pieces.run_pieces(_mark, pieces.even_pieces(64, 16), 1.0, seen, marks)
    deadline = time.monotonic() + 5
    while threads.bell[pieces._LISTENERS] and time.monotonic() < deadline:
        time.sleep(0.001)
    before = time.process_time()
    time.sleep(0.2)
    assert threads.bell[pieces._LISTENERS] == 0
    assert time.process_time() - before < 0.1  # two that went on listening would take 0.4


def test_the_bell_ends_listening():
    """At once if it rang already, and soon if it rings: the limit is far beyond what the test waits for."""
    bell = np.zeros(2, np.int64)
    pieces._listen(bell, -1, 2**62)
    listener = threading.Thread(target=pieces._listen, args=(bell, 0, 2**62), daemon=True)
    listener.start()
    bell[pieces._RINGS] += 1
    listener.join(timeout=60)
    assert not listener.is_alive()
    assert bell[pieces._LISTENERS] == 0


def test_loops_are_found_again_on_disk(tmp_path):
    """Two kernels of one file, compiled by one process and loaded by the next."""
    (tmp_path / "kernels_of_two.py").write_text(
        "import numpy as np\n"
        "from autograd.kernels.compiled.pieces import _loop_over, even_pieces, run_pieces\n"
        "from autograd.kernels.compiled.toolkit import jit\n"
        "@jit\ndef one(out, number, start, stop):\n    out[start:stop] = 1\n"
        "@jit\ndef two(out, number, start, stop):\n    out[start:stop] = 2\n"
        "for kernel, value in ((one, 1), (two, 2)):\n"
        "    out = np.zeros(8)\n"
        "    run_pieces(kernel, even_pieces(8, 4), out)\n"
        "    assert (out == value).all(), out\n"
        "print(*(sum(_loop_over(k).stats.cache_hits.values()) for k in (one, two)))\n"
    )
    command = [sys.executable, str(tmp_path / "kernels_of_two.py")]
    here = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = [subprocess.run(command, env=here, capture_output=True, text=True, check=True) for _ in range(2)]
    hits = [process.stdout.split() for process in done]
    assert hits == [["0", "0"], ["1", "1"]]
