"""The loader: the same bits for every number of workers, from every step, and no thread left behind."""

from __future__ import annotations

import gc
import threading
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swinpy.data import Augment, ImageDataset, Loader, normalise


def make(n=23, side=8):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (n, 3, side, side), dtype=np.uint8)
    return ImageDataset(
        "toy", images, rng.integers(0, 4, n), tuple("abcd"), True, "nowhere", (0.5, 0.4, 0.3), (0.2, 0.2, 0.2)
    )


def augment_of(dataset, seed=0):
    return Augment(dataset.num_classes, dataset.mean, dataset.std, seed=seed, erase_prob=0.5)


def loader_of(dataset, workers=0, batch_size=4, **options):
    options = {"shuffle": True, "seed": 3, "transform": augment_of(dataset), **options}
    return Loader(dataset, batch_size, workers=workers, **options)


def assert_same(got, expected):
    assert got.step == expected.step
    for name in ("images", "targets", "labels", "indices"):
        a, b = getattr(got, name), getattr(expected, name)
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


def loader_threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("loader-")]


@pytest.fixture(autouse=True)
def no_thread_is_left():
    yield
    gc.collect()
    assert not loader_threads()


@settings(max_examples=15, deadline=None)
@given(
    n=st.integers(1, 40),
    batch_size=st.integers(1, 12),
    epoch=st.integers(0, 2**32 - 1),
    seed=st.integers(0, 2**64 - 1),
    shuffle=st.booleans(),
    drop_last=st.booleans(),
)
def test_workers_change_nothing(n, batch_size, epoch, seed, shuffle, drop_last):
    dataset = make(n)
    batch_size = min(batch_size, n)
    expected, *others = (
        list(loader_of(dataset, workers, batch_size, seed=seed, shuffle=shuffle, drop_last=drop_last).epoch(epoch))
        for workers in (0, 1, 4)
    )
    for got in others:
        assert len(got) == len(expected)
        for a, b in zip(got, expected, strict=True):
            assert_same(a, b)
    seen = np.concatenate([batch.indices for batch in expected])
    assert len(set(seen.tolist())) == len(seen) == (n // batch_size * batch_size if drop_last else n)


@pytest.mark.parametrize("workers", [0, 3])
def test_resume_at_every_step(workers):
    dataset = make()
    loader = loader_of(dataset, workers)
    whole = list(loader.epoch(7))
    assert len(whole) == len(loader) == 6
    for start in range(len(loader) + 1):
        rest = list(loader_of(dataset, workers).epoch(7, start))
        assert [batch.step for batch in rest] == list(range(start, 6))
        for got, expected in zip(rest, whole[start:], strict=True):
            assert_same(got, expected)


@pytest.mark.parametrize("workers", [0, 2])
def test_earlier_batches_are_not_made(workers):
    made = []

    def transform(images, labels, indices, epoch, step):
        made.append((epoch, step))
        return images.astype(np.float32), np.zeros((len(images), 4), np.float32)

    assert len(list(loader_of(make(), workers, transform=transform).epoch(2, 4))) == 2
    assert sorted(made) == [(2, 4), (2, 5)]


def test_order():
    dataset = make(50)
    loader = loader_of(dataset)
    orders = [loader.order(epoch) for epoch in range(4)]
    for order in orders:
        assert order.dtype == np.int64
        np.testing.assert_array_equal(np.sort(order), np.arange(50))
    assert len({order.tobytes() for order in orders}) == 4
    assert (loader_of(dataset, seed=4).order(0) != orders[0]).any()
    np.testing.assert_array_equal(loader_of(dataset, shuffle=False).order(9), np.arange(50))
    assert (loader_of(dataset, batch_size=9).order(1) == orders[1]).all()


def test_the_order_does_not_favour_a_place():
    loader = loader_of(make(10))
    places = np.array([loader.order(epoch) for epoch in range(3000)])
    counts = np.array([np.bincount(places[:, i], minlength=10) for i in range(10)])
    assert abs(counts / 300 - 1).max() < 0.25


def test_contents_without_transform():
    dataset = make(10)
    batches = list(Loader(dataset, 4).epoch(0))
    assert [len(batch.labels) for batch in batches] == [4, 4, 2]
    images = np.concatenate([batch.images for batch in batches])
    np.testing.assert_array_equal(images, normalise(dataset.images, dataset.mean, dataset.std))
    targets = np.concatenate([batch.targets for batch in batches])
    np.testing.assert_array_equal(targets, np.eye(4, dtype=np.float32)[dataset.labels])
    assert not np.shares_memory(batches[0].labels, dataset.labels)


@pytest.mark.parametrize(
    ("n", "batch_size", "drop_last", "expected"),
    [(10, 5, False, 2), (10, 4, False, 3), (10, 4, True, 2), (10, 10, True, 1), (10, 99, False, 1)],
)
def test_length(n, batch_size, drop_last, expected):
    loader = Loader(make(n), batch_size, drop_last=drop_last)
    assert len(loader) == expected == len(list(loader.epoch(0)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "expected batch_size >= 1.*got 0"),
        ({"workers": -1}, "workers >= 0.*Use workers=0 to load without threads"),
        ({"timeout": 0}, "timeout > 0"),
        ({"batch_size": 24, "drop_last": True}, "batch_size <= 23, the size of 'toy'; got 24.*Lower the batch size"),
    ],
)
def test_bad_settings(options, message):
    with pytest.raises(ValueError, match=f"Loader: expected .*{message}" if "expected" not in message else message):
        Loader(make(), **{"batch_size": 4, **options})


@pytest.mark.parametrize("start", [-1, 7])
def test_step_beyond_the_epoch(start):
    with pytest.raises(ValueError, match=rf"expected start_step in \[0, 6\]; got {start}.*another batch size"):
        loader_of(make()).epoch(0, start)


def test_negative_epoch():
    with pytest.raises(ValueError, match=r"Count epochs from 0"):
        loader_of(make()).epoch(-1)


class Boom(Exception):
    pass


@pytest.mark.parametrize("workers", [0, 1, 4])
@pytest.mark.parametrize("bad", [0, 3, 5])
def test_an_exception_arrives_at_its_batch(workers, bad):
    dataset = make()
    good = augment_of(dataset)

    def transform(images, labels, indices, epoch, step):
        if step == bad:
            raise Boom(f"step {step}")
        return good(images, labels, indices, epoch, step)

    batches = loader_of(dataset, workers, transform=transform).epoch(0)
    assert [next(batches).step for _ in range(bad)] == list(range(bad))
    with pytest.raises(Boom, match=f"step {bad}"):
        next(batches)
    assert next(batches, None) is None


@pytest.mark.parametrize("workers", [1, 4])
@pytest.mark.parametrize("after", [0, 1, 4])
def test_leaving_early_ends_the_threads(workers, after):
    batches = loader_of(make(60), workers).epoch(0)
    for _ in range(after):
        next(batches)
    assert len(loader_threads()) == (workers if after else 0)
    batches.close()
    assert not loader_threads()


def test_letting_go_ends_the_threads():
    for batch in loader_of(make(60), 3).epoch(0):
        assert batch.step == 0
        break
    gc.collect()
    assert not loader_threads()


def test_at_most_twice_the_workers_ahead():
    made = []

    def transform(images, labels, indices, epoch, step):
        made.append(step)
        return images.astype(np.float32), np.zeros((len(images), 4), np.float32)

    batches = loader_of(make(80), 2, batch_size=2, transform=transform).epoch(0)
    for taken in range(1, 20):
        next(batches)
        time.sleep(0.005)
        assert len(made) <= taken + 4
    batches.close()


def test_order_is_kept_when_workers_overtake_each_other():
    def transform(images, labels, indices, epoch, step):
        time.sleep(0.02 if step % 3 == 0 else 0)
        return images.astype(np.float32), np.zeros((len(images), 4), np.float32)

    batches = loader_of(make(40), 4, batch_size=2, transform=transform).epoch(0)
    assert [batch.step for batch in batches] == list(range(20))


def test_a_worker_that_hangs():
    release = threading.Event()

    def transform(images, labels, indices, epoch, step):
        if step == 1:
            release.wait(30)
        return images.astype(np.float32), np.zeros((len(images), 4), np.float32)

    batches = loader_of(make(), 2, transform=transform, timeout=0.1).epoch(0)
    next(batches)
    with pytest.raises(TimeoutError, match=r"expected batch 1 within 0\.1 s; got nothing.*timeout"):
        next(batches)
    release.set()
    for thread in loader_threads():
        thread.join(5)


def test_an_exception_of_the_kind_that_waiting_raises():
    """A TimeoutError from the transform is the transform's, not the loader's."""

    def transform(images, labels, indices, epoch, step):
        raise TimeoutError("the transform's own")

    with pytest.raises(TimeoutError, match="the transform's own"):
        next(loader_of(make(), 1, transform=transform).epoch(0))


def test_two_epochs_at_once():
    loader = loader_of(make(), 2)
    expected = [list(loader_of(make()).epoch(epoch)) for epoch in (0, 1)]
    for a, b, x, y in zip(loader.epoch(0), loader.epoch(1), *expected, strict=True):
        assert_same(a, x)
        assert_same(b, y)
