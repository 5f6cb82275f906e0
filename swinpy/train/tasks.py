"""What the training program can do besides training: check, throughput, plots."""

from __future__ import annotations

import resource
import sys
import tempfile
import time
from typing import TYPE_CHECKING

import numpy as np

import autograd as ag
from swinpy.console import say
from swinpy.models import SwinTransformer
from swinpy.nn import in_mode
from swinpy.snapshots.store import SnapshotStore
from swinpy.train import plots

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from swinpy.train.evaluate import Evaluation
    from swinpy.train.runlog import RunLog
    from swinpy.train.setup import Run

__all__ = ["check", "draw", "peak_memory_mib", "throughput"]


def peak_memory_mib() -> float:
    """Largest resident memory of the process so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


def _seconds(action: Callable[[], object], rounds: int = 5) -> float:
    action()
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        action()
        times.append(time.perf_counter() - start)
    return min(times)


def throughput(run: Run) -> int:
    """Print images a second of inference and of a training step; the best of five."""
    batch = next(run.trainer.loader.epoch(0))
    images = ag.Tensor(batch.images).to(run.model.device)
    count = len(batch.labels)

    def infer() -> None:
        with ag.no_grad(), run.trainer.autocast():
            run.model(images).numpy()

    with in_mode(run.model, training=False):
        say(f"inference {count / _seconds(infer):.1f} img/s at batch {count}")
    lr = run.trainer.schedule.lr

    def train() -> None:
        run.trainer.optimizer.zero_grad()
        run.trainer.loss(batch).backward()
        float(run.trainer.optimizer.step(lr, run.trainer.clip_grad))  # the norm: a GPU is waited for

    with in_mode(run.model, training=True):
        say(f"train step {count / _seconds(train):.1f} img/s at batch {count}")
    return 0


def check(run: Run) -> int:
    """One step; gradients of the model in float64 on two images; a snapshot saved and read back."""
    record = next(run.trainer.epoch())
    say(f"check: one step, loss {record.loss:.4f}, gradient norm {record.grad_norm:.3f}")
    with ag.fork_rng():
        twin = SwinTransformer(run.model.config).astype("float64")
    twin.load_state_dict({k: ag.Tensor(v).numpy() for k, v in run.model.state_dict().items()})
    twin.eval()
    batch = next(run.trainer.loader.epoch(0))
    images, targets = batch.images[:2].astype(np.float64), batch.targets[:2].astype(np.float64)
    ag.gradcheck(lambda x: ag.cross_entropy(twin(x), targets), [images], list(twin.parameters()))
    say(f"check: gradients of {twin.num_parameters():,} parameters agree with numerical derivatives in float64")
    with tempfile.TemporaryDirectory() as folder:
        store = SnapshotStore(folder)
        saved = run.trainer.groups()
        store.save(run.trainer.position.step, saved, {"trainer": run.trainer.state()})
        snapshot = store.load()
        run.trainer.restore(snapshot.groups, snapshot.state["trainer"])
        same = all(np.array_equal(saved[g][k], snapshot.groups[g][k]) for g in saved for k in saved[g])
    if not same:
        raise AssertionError("check: a snapshot read back differs from what was saved")
    say("check: a snapshot was saved, read back and is equal to the bit")
    return 0


def draw(run: Run, log: RunLog, result: Evaluation | None, folder: Path, drawn: list[Path]) -> None:
    """Write the pictures of a run.

    Args:
        run: whose data they show.
        log: of its steps and evaluations.
        result: of its last evaluation, if any.
        folder: made if need be.
        drawn: gets the path of each as soon as it is written, so that those before a fault are known.

    Raises:
        PlotsUnavailableError: without matplotlib.
        Exception: whatever matplotlib raises.
    """
    folder.mkdir(parents=True, exist_ok=True)

    def picture(name: str, plot: Callable[..., None], *of: object) -> None:
        plot(*of, folder / name)
        drawn.append(folder / name)

    picture("curves.png", plots.plot_curves, log.steps, log.evals, run.train)
    picture("augmented_batch.png", plots.plot_batch, next(run.trainer.loader.epoch(0)), run.train)
    if result is not None:
        picture("confusion.png", plots.plot_confusion, result, run.test)
        if result.errors:
            picture("errors.png", plots.plot_errors, result, run.test)
