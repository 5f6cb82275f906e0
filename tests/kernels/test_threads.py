"""The one setting for threads: what it takes, what it covers, and that results do not depend on it."""

import _thread
import os
import signal
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from support import skips

import autograd as ag
import swinpy
from autograd.kernels import threads
from autograd.kernels.adamw import grad_norm
from autograd.kernels.blas import blas_is_single


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


def _step(dtype):
    """Logits and every gradient of a small model, its products large enough to be cut."""
    with _one_at_a_time, ag.fork_rng({"seed": 3, "offset": 0}):  # the default generator is the process's
        model = swinpy.create_model("swin_cifar_nano", num_classes=10, dtype=dtype)
    images = np.random.default_rng(0).standard_normal((24, 3, 32, 32)).astype(dtype)
    logits = model.train()(images)
    ag.cross_entropy(logits, np.arange(24) % 10).backward()
    norm = grad_norm([p.grad for p in model.parameters()])
    return [logits.data.tobytes(), *(p.grad.tobytes() for p in model.parameters()), norm.tobytes()]


_one_at_a_time = threading.Lock()
modes_and_dtypes = pytest.mark.parametrize(
    ("mode", "dtype"), [(m, d) for m in ("auto", "reference") for d in ("float32", "float64")]
)


@modes_and_dtypes
def test_bits_of_a_training_step_do_not_depend_on_threads(mode, dtype):
    if not blas_is_single():
        pytest.skip(skips.NO_OPENBLAS)
    found = []
    with ag.kernel_mode(mode):
        for count in (1, 2, 3):
            ag.set_num_threads(count)
            found.append(_step(dtype))
    assert found[0] == found[1] == found[2]


@modes_and_dtypes
def test_bits_of_a_training_step_do_not_depend_on_the_thread_it_runs_on(mode, dtype):
    """The main thread, a thread of its own, and three at once of a pool: BLAS is held to one thread on each."""
    ag.set_num_threads(2)

    def step(_=None):
        with ag.kernel_mode(mode):
            return _step(dtype)

    found = []
    own = threading.Thread(target=lambda: found.append(step()))
    own.start()
    own.join()
    with ThreadPoolExecutor(3) as pool:
        found += pool.map(step, range(3))
    wanted = step()
    assert len(found) == 4
    assert all(bits == wanted for bits in found)
