"""Batches of a dataset in a reproducible order, made by threads ahead of their use."""

from __future__ import annotations

import threading
from collections import deque
from concurrent.futures import Future, wait
from dataclasses import dataclass
from itertools import islice
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

import numpy as np

from autograd import random as agr
from swinpy.data.augment import Evaluate
from swinpy.data.streams import ORDER, stream_of

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Sized

    from numpy.typing import NDArray

    from swinpy.data.dataset import ImageDataset

__all__ = ["Batch", "BatchLoader", "Loader", "Transform"]

Made = TypeVar("Made")


class Transform(Protocol):
    """What makes network input from bytes; a pure function of its arguments, called from several threads."""

    def __call__(
        self,
        images: NDArray[np.uint8],
        labels: NDArray[np.int64],
        indices: NDArray[np.int64],
        epoch: int,
        step: int,
        /,
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]: ...


@dataclass(frozen=True, eq=False)
class Batch:
    """One step's worth.

    Attributes:
        images: float32 ``(B, 3, H, W)``.
        targets: float32 ``(B, K)``, each row sums to 1.
        labels: int64 ``(B,)``, the classes before any mixing.
        indices: int64 ``(B,)``, which samples of the dataset these are.
        step: of the epoch, counted from 0.
    """

    images: NDArray[np.float32]
    targets: NDArray[np.float32]
    labels: NDArray[np.int64]
    indices: NDArray[np.int64]
    step: int


class BatchLoader(Generic[Made]):
    """Yield the batches of an epoch, whatever a batch is: a subclass makes one from the numbers of its samples.

    The order of epoch ``e`` is a Philox permutation of ``(seed, e)``, and a batch depends on its epoch and step alone.
    So any number of workers gives the same bits, and an epoch can be entered at any step.

    Args:
        dataset: what to draw from.
        batch_size: images a batch.
        shuffle: a new order each epoch; otherwise the order of the dataset.
        seed: of the order.
        workers: threads that make batches ahead; 0 makes each when it is asked for.
        drop_last: leave out a last batch that would be smaller than the others.
        timeout: seconds to wait for one batch before giving up.

    Raises:
        ValueError: settings that would give no batch.
    """

    def __init__(
        self,
        dataset: Sized,
        batch_size: int,
        *,
        shuffle: bool = False,
        seed: int = 0,
        workers: int = 0,
        drop_last: bool = False,
        timeout: float = 300.0,
    ) -> None:
        if batch_size < 1 or workers < 0 or timeout <= 0:
            raise ValueError(
                f"Loader: expected batch_size >= 1, workers >= 0 and timeout > 0; got {batch_size}, {workers} and "
                f"{timeout}. Use workers=0 to load without threads."
            )
        self._size = len(dataset)
        if batch_size > self._size and drop_last:
            name = getattr(dataset, "name", "the dataset")
            raise ValueError(
                f"Loader: expected batch_size <= {self._size}, the size of {name!r}; got {batch_size}, which "
                "with drop_last leaves no batch. Lower the batch size, or keep the last batch."
            )
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.seed = seed
        self.workers = workers
        self.drop_last = drop_last
        self.timeout = timeout

    def make(self, indices: NDArray[np.int64], epoch: int, step: int) -> Made:
        """One batch, called from several threads."""
        raise NotImplementedError

    def __len__(self) -> int:
        """Batches an epoch."""
        whole, rest = divmod(self._size, self.batch_size)
        return whole + bool(rest and not self.drop_last)

    def order(self, epoch: int) -> NDArray[np.int64]:
        """The samples of an epoch in the order of their use, int64 ``(N,)``."""
        if not self.shuffle:
            return np.arange(self._size, dtype=np.int64)
        order: NDArray[np.int64] = agr.permutation(self.seed, 0, self._size, stream=stream_of(ORDER, epoch))
        return order

    def epoch(self, epoch: int, start_step: int = 0) -> Generator[Made, None, None]:
        """The batches of an epoch from ``start_step`` on; the earlier ones are not made.

        Closing the iterator (or leaving a ``for`` loop and letting go of it) ends its threads.

        Raises:
            ValueError: a step beyond the epoch.
            TimeoutError: a batch took longer than ``timeout``.
            Exception: what the transform raised, at the batch where it did.
        """
        if not 0 <= start_step <= len(self):
            raise ValueError(
                f"Loader.epoch: expected start_step in [0, {len(self)}]; got {start_step}. "
                "A snapshot from another batch size or dataset cannot be resumed in the middle of an epoch."
            )
        order = self.order(epoch)
        steps = iter(range(start_step, len(self)))
        if not self.workers:
            return (self._make(order, epoch, step) for step in steps)
        return self._threaded(order, epoch, steps)

    def _make(self, order: NDArray[np.int64], epoch: int, step: int) -> Made:
        return self.make(order[step * self.batch_size : (step + 1) * self.batch_size], epoch, step)

    def _threaded(self, order: NDArray[np.int64], epoch: int, steps: Iterator[int]) -> Generator[Made, None, None]:
        """At most ``2 * workers`` batches are asked for and not yet used, in a queue that keeps their order."""
        tasks: SimpleQueue[tuple[int, Future[Made]] | None] = SimpleQueue()
        pending: deque[tuple[int, Future[Made]]] = deque()

        def ask(count: int) -> None:
            for step in islice(steps, count):
                pending.append((step, Future()))
                tasks.put(pending[-1])

        def work() -> None:
            while (task := tasks.get()) is not None:
                step, future = task
                if future.set_running_or_notify_cancel():
                    try:
                        future.set_result(self._make(order, epoch, step))
                    except BaseException as error:  # raised again where the batch is consumed
                        future.set_exception(error)
                del task, future  # or the thread would keep the batch alive while it waits

        # Daemons: a transform that never returns must not keep the program from ending.
        threads = [threading.Thread(target=work, name=f"loader-{i}", daemon=True) for i in range(self.workers)]
        patience = self.timeout
        try:
            for thread in threads:
                thread.start()
            ask(2 * self.workers)
            while pending:
                step, future = pending.popleft()
                if not wait([future], self.timeout).done:
                    patience = 0.0
                    raise TimeoutError(
                        f"Loader: expected batch {step} within {self.timeout} s; got nothing. "
                        "The transform hangs or is too slow: raise timeout, or find out where with workers=0."
                    )
                batch = future.result()
                del future
                ask(1)
                yield batch
        finally:
            for _, waiting in pending:
                waiting.cancel()
            for _ in threads:
                tasks.put(None)
            for thread in threads:
                if thread.ident is not None:  # else no further thread could be started
                    thread.join(patience)


class Loader(BatchLoader[Batch]):
    """Batches of images and targets; see :class:`BatchLoader` for the order and the threads.

    Args:
        dataset: what to draw from.
        batch_size: images a batch.
        transform: see :class:`Transform`; by default the images are normalised with the dataset's mean and std.
        settings: ``shuffle``, ``seed``, ``workers``, ``drop_last`` and ``timeout`` of :class:`BatchLoader`.

    Raises:
        ValueError: settings that would give no batch.
    """

    def __init__(
        self, dataset: ImageDataset, batch_size: int, *, transform: Transform | None = None, **settings: Any
    ) -> None:
        super().__init__(dataset, batch_size, **settings)
        self.dataset = dataset
        self.transform: Transform = transform or Evaluate(dataset.num_classes, dataset.mean, dataset.std)

    def make(self, indices: NDArray[np.int64], epoch: int, step: int) -> Batch:
        """See :class:`Transform`."""
        labels = self.dataset.labels[indices]
        images, targets = self.transform(self.dataset.batch(indices, epoch), labels, indices, epoch, step)
        return Batch(images, targets, labels, indices, step)
