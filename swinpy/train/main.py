"""The training program behind examples/train_cifar.py."""

from __future__ import annotations

import contextlib
import math
import shlex
import sys
import time
import warnings
from typing import TYPE_CHECKING, Any

import autograd as ag
from swinpy.data import DatasetCorrupt, DatasetMissing
from swinpy.io.words import in_words
from swinpy.models import list_models
from swinpy.snapshots.fingerprint import compare, config_difference, numeric_fingerprint
from swinpy.snapshots.store import SnapshotError, SnapshotStore, SnapshotWriteError, load_snapshot
from swinpy.train import tasks
from swinpy.train.evaluate import evaluate
from swinpy.train.options import FREE_ON_RESUME, UsageError, parse_options
from swinpy.train.own import run_folder
from swinpy.train.runlog import Progress, RunLog, say
from swinpy.train.setup import Run, banner, build_run, options_dict
from swinpy.train.signals import StopRequest
from swinpy.train.trainer import NonFiniteError

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Iterator
    from pathlib import Path

    from swinpy.snapshots.store import Snapshot

__all__ = ["main"]

# What a snapshot's state must hold to be resumed from.
_STATE_KEYS = ("trainer", "options", "fingerprint", "seconds")

# Faults of input, environment or numbers that a user can mend: one message, exit code 2. Anything else is a bug of
# ours and keeps its traceback.
_EXPECTED = (
    UsageError,
    ag.DeviceError,
    ag.GradcheckError,
    DatasetMissing,
    DatasetCorrupt,
    SnapshotError,
    SnapshotWriteError,
    NonFiniteError,
    ImportError,
    OSError,
)

# How libraries of CUDA say that memory is full; CuPy's own allocator raises a MemoryError.
_OUT_OF_MEMORY = ("cudaErrorMemoryAllocation", "CUBLAS_STATUS_ALLOC_FAILED")


def main(argv: list[str] | None = None, prog: str | None = None) -> int:
    """Run the command line; returns the exit code (0; 2 for a fault that the user can mend; 130, 143 on signals)."""
    argv = sys.argv[1:] if argv is None else argv
    command = shlex.join(["python", prog or sys.argv[0], *argv])
    try:
        with StopRequest() as stop:
            return _run(parse_options(argv, prog), command, stop)
    except DatasetMissing as error:
        download = "" if "--dataset-download" in argv else f"\n{command} --dataset-download"
        _fail(f"{error}{download if 'cifar' in str(error).lower() else ''}")
    except MemoryError as error:
        _fail(_out_of_memory(error))
    except _EXPECTED as error:
        _fail(in_words(error))
    except RuntimeError as error:
        if not any(name in str(error) for name in _OUT_OF_MEMORY):
            raise
        _fail(_out_of_memory(error))
    return 2


def _out_of_memory(error: Exception) -> str:
    what = f"out of memory: {error}" if str(error) else "out of memory."
    return f"{what} Lower --batch-size, raise --grad-accum-steps by as much, or add --grad-checkpointing."


@contextlib.contextmanager
def _users_input() -> Iterator[None]:
    """A block in which a ValueError is about what the user gave: options, data, weights."""
    try:
        yield
    except UsageError:
        raise
    except (ValueError, TypeError) as error:
        if isinstance(error, (DatasetCorrupt, SnapshotError)):
            raise
        raise UsageError(str(error)) from error


def _fail(message: str) -> None:
    print(f"error: {message}", file=sys.stderr, flush=True)


def _run(options: Namespace, command: str, stop: StopRequest) -> int:
    if options.list_models:
        say("\n".join(list_models()))
        return 0
    if options.threads is not None:
        ag.set_num_threads(options.threads)
    problem = None
    try:
        with _users_input():
            options.device = ag.use_device(options.device)
    except ag.DeviceError as error:
        problem, options.device = error, "cpu"
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        if problem is not None:
            _device_fault(options, problem)
        with _users_input():
            run = build_run(options)
    for warning in caught:
        say(f"note: {warning.message}")
    if options.throughput:
        return tasks.throughput(run)
    if options.check:
        return tasks.check(run)
    return Session(options, run, command).main(stop)


def _device_fault(options: Namespace, problem: Exception) -> None:
    """Raise the error of the device; if the dataset is missing too, one error for both, so that both get mended."""
    from swinpy.data import load_dataset

    if not options.dataset_download:
        try:
            load_dataset(options.dataset, options.data_dir)
        except DatasetMissing as missing:
            raise DatasetMissing(f"{problem}\nerror: {missing}") from None
    raise problem


class Session:
    """One run of the program: resume, epochs, evaluation, snapshots, the end."""

    def __init__(self, options: Namespace, run: Run, command: str) -> None:
        self.options, self.run, self.command = options, run, command
        self.folder = run_folder(options)
        self.store = SnapshotStore(self.folder, keep=2, keep_pinned=1)
        self.started = time.perf_counter()
        self.seconds_before = 0.0
        self.images = 0
        self.last_saved: Path | None = None

    def main(self, stop: StopRequest) -> int:
        """Train, evaluate and save; returns the exit code."""
        with _users_input():
            snapshot = self._resume()
        for line in banner(self.run, self.options, str(self.folder), str(snapshot.path) if snapshot else None):
            say(line)
        if self.options.eval_only:
            return self._evaluate_only()
        step = self.run.trainer.position.step
        self.log = RunLog(self.folder, step)
        self.log.options(options_dict(self.options))
        total = min(self.run.total_steps, self.options.max_steps or self.run.total_steps)
        progress = Progress(
            self.options.progress, total, self.run.trainer.steps_per_epoch, self.options.log_interval, step
        )
        with contextlib.closing(progress), contextlib.closing(self.log):
            try:
                self._train(total, progress, stop)
            except (NonFiniteError, MemoryError) as error:
                where = f" The last good snapshot is {self.last_saved}." if self.last_saved else " No snapshot yet."
                kind = NonFiniteError if isinstance(error, NonFiniteError) else MemoryError
                raise kind(str(error) + where) from None
        self._end(total)
        if stop.code is not None:
            say(f"{stop.name}: saved; exit code {stop.code}")
        return stop.code or 0

    # ---- resuming

    def _resume(self) -> Snapshot | None:
        options = self.options
        for note in self.store.sweep():
            say(f"note: {note}")
        if options.resume is None:
            newest, notes = self.store.newest()
            if (newest is not None or notes) and not options.eval_only:
                what, fix = "whose snapshots are damaged (" + "; ".join(notes) + ")", "Move it away"
                if newest is not None:
                    what, fix = f"with {newest.name}", "Add --resume auto to continue it"
                raise UsageError(
                    f"--output: expected a folder without a run; got {self.folder} {what}. "
                    f"{fix}, or choose another --experiment."
                )
            if not options.eval_only or options.initial_checkpoint:
                return None
        if options.resume in (None, "auto"):
            found, notes = self.store.load_newest()
            for note in notes:
                say(f"note: {note}")
            if found is None and options.eval_only:
                raise UsageError(
                    f"--eval: expected trained weights; got none in {self.folder}. "
                    "Name a snapshot with --resume PATH, or weights with --initial-checkpoint FILE."
                )
            if found is None and notes:
                raise UsageError(
                    f"--resume auto: expected a snapshot that verifies in {self.store.folder}; all are damaged (see "
                    "above) and none was touched. Move the folder away to start over, or choose another --experiment."
                )
            if found is None:
                say(f"note: --resume auto: no snapshot in {self.store.folder}; starting at the beginning")
                return None
            snapshot = found
        else:
            snapshot = load_snapshot(options.resume)
        self._accept(snapshot)
        return snapshot

    def _accept(self, snapshot: Snapshot) -> None:
        """Put a snapshot in place, unless it is of another run."""
        missing = [key for key in _STATE_KEYS if key not in snapshot.state]
        if missing:
            raise SnapshotError(
                f"--resume: expected a snapshot of a training run; got {snapshot.path} without {', '.join(missing)}. "
                "Choose another snapshot."
            )
        now = options_dict(self.options)
        saved = {"amp": False, "amp_dtype": now["amp_dtype"], **snapshot.state["options"]}  # older ones have no amp
        if self.options.eval_only:
            if saved["dataset"] != now["dataset"]:
                say(f"warning: {snapshot.path} was trained on {saved['dataset']}, not on {now['dataset']}")
            self.run.model.load_state_dict(snapshot.groups["model"])
            return
        different = config_difference(saved, now, ignore=FREE_ON_RESUME)
        if different:
            raise UsageError(
                f"--resume: expected the options of {snapshot.path}; got a difference in {'; '.join(different)}. "
                "Use the same options, or start another --experiment."
            )
        if snapshot.state.get("identity", "") != self.run.train.identity:
            raise UsageError(
                f"--resume: expected the images that {snapshot.path} was trained on; got another list of files in "
                f"{self.run.train.source}. Put the files back as they were, or start another --experiment."
            )
        for line in compare(snapshot.state["fingerprint"], numeric_fingerprint()):
            say(f"warning: resumed under other numerics ({line}): the continuation will not be bit-exact")
        self.run.trainer.restore(snapshot.groups, snapshot.state["trainer"])
        self.seconds_before = float(snapshot.state["seconds"])
        self.last_saved = snapshot.path

    # ---- training

    def _train(self, total: int, progress: Progress, stop: StopRequest) -> None:
        trainer, options = self.run.trainer, self.options
        saved = trainer.position
        while trainer.position.step < total and not self._over(stop):
            for record in trainer.epoch():
                self.log.step(record)
                progress.step(record)
                self.images += record.images
                if record.step >= total or self._over(stop):
                    break
            done = trainer.position.batch == 0
            best = False
            if trainer.position.step >= total or (done and trainer.position.epoch % options.val_interval == 0):
                best = self._evaluate(progress)
            if done or best:
                self._save(pin=best)
                saved = trainer.position
        if trainer.position != saved:
            self._save(pin=False)

    def _over(self, stop: StopRequest) -> bool:
        limit = self.options.time_limit
        return stop.code is not None or (limit is not None and time.perf_counter() - self.started > limit)

    @property
    def seconds(self) -> float:
        """Spent on the run in all sessions."""
        return self.seconds_before + time.perf_counter() - self.started

    def _evaluate(self, progress: Progress) -> bool:
        """Evaluate, log; whether it is the best so far."""
        trainer = self.run.trainer
        with trainer.autocast():
            self.result = evaluate(self.run.model, self.run.eval_loader)
        epoch = trainer.position.epoch - (trainer.position.batch == 0)
        if not math.isfinite(self.result.loss):
            raise NonFiniteError(
                f"evaluate: expected a finite test loss; got {self.result.loss} after step {trainer.position.step} "
                f"(epoch {epoch}). The weights have diverged and are not saved. Lower --lr, or set --clip-grad."
            )
        losses = [r["loss"] for r in self.log.steps if r["epoch"] == epoch]
        record = {
            "epoch": epoch,
            "step": trainer.position.step,
            "train_loss": sum(losses) / max(1, len(losses)),
            "eval_loss": self.result.loss,
            "eval_top1": self.result.top1,
            "eval_top5": self.result.top5,
            "lr": trainer.schedule(max(0, trainer.position.step - 1)),
            "seconds": round(self.seconds, 3),
            "partial": trainer.position.batch != 0,
        }
        self.log.evaluation(record)
        best = self.log.best()
        is_best = not record["partial"] and best is not None and best["step"] == record["step"]
        if self.options.progress != "none":
            progress.bar.clear()
            stamp = " (synthetic data)" if self.run.test.synthetic else ""
            say(
                f"epoch {epoch}  train loss {record['train_loss']:.4f}  test loss {self.result.loss:.4f}  "
                f"top-1 {self.result.top1:.2f}%  top-5 {self.result.top5:.2f}%{stamp}{'  best' if is_best else ''}"
            )
        return is_best

    def _save(self, pin: bool) -> None:
        trainer = self.run.trainer
        state: dict[str, Any] = {
            "trainer": trainer.state(),
            "options": options_dict(self.options),
            "fingerprint": numeric_fingerprint(),
            "synthetic": self.run.train.synthetic,
            "identity": self.run.train.identity,
            "seconds": self.seconds,
        }
        groups = trainer.groups()
        size = sum(array.nbytes for array in groups["model"].values())
        told = {"model": self.run.info.metadata(size)}
        self.last_saved = self.store.save(trainer.position.step, groups, state, pin=pin, metadata=told)

    # ---- the end

    def _evaluate_only(self) -> int:
        with self.run.trainer.autocast():
            result = evaluate(self.run.model, self.run.eval_loader)
        stamp = " (synthetic data)" if self.run.test.synthetic else ""
        say(f"test loss {result.loss:.4f}  top-1 {result.top1:.2f}%  top-5 {result.top5:.2f}%{stamp}")
        return 0

    def _end(self, total: int) -> None:
        files = [self.folder / n for n in ("args.json", "metrics.jsonl", "summary.csv")]
        if self.last_saved is not None:
            files.append(self.last_saved)
        files += self._plots()
        best = self.log.best()
        rate = self.images / max(1e-9, time.perf_counter() - self.started)
        if best is not None:
            say(f"best top-1 {best['eval_top1']:.2f}% in epoch {best['epoch']}")
        peak = tasks.peak_memory_mib()
        say(f"time {self.seconds:.1f} s  {rate:.0f} img/s in this session  peak memory {peak:.0f} MiB")
        say("files " + "  ".join(map(str, files)))
        stem = _without(shlex.split(self.command), "--resume", "--time-limit")
        if self.run.trainer.position.step < total:
            say("to resume: " + shlex.join([*stem, "--resume=auto"]))
        if self.last_saved is not None:
            say("to evaluate: " + shlex.join([*stem, "--eval", f"--resume={self.last_saved}"]))
            predict = ["python", "-m", "swinpy", "predict", f"--weights={self.last_saved}"]
            say(f"to predict: {shlex.join(predict)} IMAGE...")

    def _plots(self) -> list[Path]:
        if self.options.no_plots or not self.log.steps:
            return []
        try:
            return tasks.draw(self.run, self.log, getattr(self, "result", None), self.folder / "plots")
        except ImportError as error:
            say(f"note: no plots: {error}")
            return []


def _without(words: list[str], *options: str) -> list[str]:
    """A command without these options and their values."""
    kept: list[str] = []
    for before, word in zip(["", *words], words, strict=False):
        is_value = before in options and not word.startswith("-")
        if not (word.partition("=")[0] in options or is_value):
            kept.append(word)
    return kept
