"""The one setting for threads: what it takes, what it covers, and that results do not depend on it."""

import _thread
import os
import signal
import threading
import time
import weakref

import numpy as np
import pytest

import autograd as ag
import swinpy
from autograd.kernels import threads


@pytest.fixture(autouse=True)
def _restored():
    before = ag.get_num_threads()
    yield
    ag.set_num_threads(before)


@pytest.mark.parametrize("wrong", [0, -1, 1.0, True, "2", None])
def test_what_is_no_number_of_threads_is_refused(wrong):
    with pytest.raises(ValueError, match=r"^set_num_threads: expected a whole number of 1 or more; got "):
        ag.set_num_threads(wrong)


def test_the_packages_share_the_setting():
    swinpy.set_num_threads(3)
    assert ag.get_num_threads() == swinpy.get_num_threads() == 3


@pytest.mark.parametrize("count", [1, 2, 3])
def test_that_many_threads_work(count):
    """Each piece waits until ``count`` of them are at work at once."""
    ag.set_num_threads(count)
    together = threading.Barrier(count, timeout=60)
    names = threads.map_pieces(lambda _: (together.wait(), threading.current_thread().name)[1], list(range(count)))
    assert len(set(names)) == count


def test_results_come_in_order():
    ag.set_num_threads(3)
    assert threads.map_pieces(lambda i: i * i, list(range(50))) == [i * i for i in range(50)]


def test_pieces_may_cut_their_own_work():
    ag.set_num_threads(2)

    def piece(i):
        return sum(threads.map_pieces(lambda j: i * j, list(range(5))))

    assert threads.map_pieces(piece, list(range(8))) == [10 * i for i in range(8)]


def test_work_taken_back_keeps_nothing_alive():
    """Calls within pieces find no helper free; what they offered waits in the queue for as long as the pieces last."""
    ag.set_num_threads(2)
    both, looked_at = threading.Barrier(2, timeout=60), threading.Event()
    alive = []

    def piece(i):
        both.wait()
        if i == 1:
            assert looked_at.wait(timeout=60)
            return
        array = np.zeros(1000)
        threads.map_pieces(array.__getitem__, [0, 1, 2])
        seen = weakref.ref(array)
        del array
        alive.append(seen() is not None)
        looked_at.set()

    threads.map_pieces(piece, [0, 1])
    assert alive == [False]


def test_an_interrupted_call_ends_when_its_helpers_have():
    """They write to the caller's arrays."""
    ag.set_num_threads(2)
    # Shells start background jobs with SIGINT ignored, and Python then installs no handler.
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    begun, written = threading.Event(), []

    def work(number):
        if number == 0:
            assert begun.wait(timeout=60)
            return
        begun.set()
        _thread.interrupt_main()
        time.sleep(0.3)
        written.append(number)

    try:
        with pytest.raises(KeyboardInterrupt):
            threads.on_threads(work, 2)
    finally:
        signal.signal(signal.SIGINT, handler)
    assert written == [1]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_a_forked_child_has_a_lock_of_its_own():
    """Another thread of the parent may hold it at that moment."""
    with threads._lock:
        child = os.fork()
        if child == 0:  # no assertions in here: they would go through pytest twice
            done = threads._lock.acquire(timeout=10) and not threads.bell.any()
            os._exit(0 if done else 1)
    assert os.waitpid(child, 0)[1] == 0


def test_blas_is_put_back(monkeypatch):
    """Held to one thread while pieces run, blocks inside each other included; then as many as before."""

    class Pool:
        threads = 5

        def get_num_threads(self):
            return self.threads

        def set_num_threads(self, n):
            self.threads = n

    pool = Pool()
    monkeypatch.setattr(threads, "_blas_pools", lambda: (pool,))
    monkeypatch.setattr(threads, "_single_by_environment", lambda: False)
    ag.set_num_threads(2)
    seen = threads.map_pieces(lambda _: (threads.map_pieces(lambda _: pool.threads, [0, 1]), pool.threads), [0, 1, 2])
    assert seen == [([1, 1], 1)] * 3
    assert pool.threads == 5
    with pytest.raises(ZeroDivisionError), threads.one_blas_thread():
        raise ZeroDivisionError
    assert pool.threads == 5


def _step(dtype):
    """Logits and every gradient of a small model, its products large enough to be cut."""
    with ag.fork_rng({"seed": 3, "offset": 0}):
        model = swinpy.create_model("swin_cifar_nano", num_classes=10, drop_path_rate=0.1, dtype=dtype)
        images = np.random.default_rng(0).standard_normal((24, 3, 32, 32)).astype(dtype)
        logits = model.train()(images)
        ag.cross_entropy(logits, np.arange(24) % 10).backward()
    return [logits.data.tobytes(), *(p.grad.tobytes() for p in model.parameters())]


@pytest.mark.parametrize("mode", ["auto", "reference"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_bits_of_a_training_step_do_not_depend_on_threads(monkeypatch, mode, dtype):
    if not threads.blas_is_single():
        monkeypatch.setenv("OPENBLAS_NUM_THREADS", "1")  # BLAS's own threads are not what is tested
        monkeypatch.setattr(threads, "blas_is_single", lambda: False)
    found = []
    with ag.kernel_mode(mode):
        for count in (1, 2, 3):
            ag.set_num_threads(count)
            found.append(_step(dtype))
    assert found[0] == found[1] == found[2]
