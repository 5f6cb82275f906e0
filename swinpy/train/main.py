"""The training program behind examples/train_cifar.py."""

from __future__ import annotations

import contextlib
import shlex
import sys
import time
import warnings
from typing import TYPE_CHECKING, Any

import autograd as ag
from swinpy.console import printable, say, steady, tell
from swinpy.data import DatasetCorrupt, DatasetMissing
from swinpy.io.words import in_words
from swinpy.models import list_models
from swinpy.snapshots.fingerprint import compare, config_difference, numeric_fingerprint
from swinpy.snapshots.lock import only_writer
from swinpy.snapshots.plain_json import check_plain
from swinpy.snapshots.store import SnapshotError, SnapshotStore, SnapshotWriteError, load_snapshot
from swinpy.train import tasks
from swinpy.train.evaluate import EvaluationCutShort, evaluate
from swinpy.train.memory import OutOfMemoryError, evaluation_advice, out_of_memory, training_advice
from swinpy.train.options import FREE_ON_RESUME, UsageError, parse_options
from swinpy.train.own import run_folder
from swinpy.train.runlog import Progress, RunLog
from swinpy.train.setup import Run, banner, build_run, options_dict
from swinpy.train.signals import Stopped, StopRequest
from swinpy.train.trainer import NonFiniteError, image_shares

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from swinpy.snapshots.store import Snapshot
    from swinpy.train.evaluate import Evaluation

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
    OutOfMemoryError,
    ImportError,
    OSError,
)


def main(argv: list[str] | None = None, prog: str | None = None) -> int:
    """Run the command line. Threads, device and seed of the process are put back afterwards.

    Args:
        argv: the arguments; those of the process by default.
        prog: what messages call the program.

    Returns:
        The exit code: 0; 2 for a fault that the user can mend; 129, 130, 143 on SIGHUP, SIGINT, SIGTERM.
    """
    argv = sys.argv[1:] if argv is None else argv
    with steady(), ag.settings_kept():
        return _main(argv, prog, shlex.join(["python", prog or sys.argv[0], *argv]))


def _main(argv: list[str], prog: str | None, command: str) -> int:
    try:
        with StopRequest() as stop:
            options = parse_options(argv, prog)
            with out_of_memory():
                return _run(options, command, stop)
    except Stopped as stopped:
        tell(str(stopped))
        return stopped.code
    except DatasetMissing as error:
        fetches = options.dataset.startswith("cifar") and not options.dataset_download
        _fail(f"{error}\n{command} --dataset-download" if fetches else str(error))
    except _EXPECTED as error:
        _fail(in_words(error))
    except RuntimeError as error:
        if "can't start new thread" not in str(error):
            raise
        _fail("no further thread could be started. Lower --threads or --workers, or raise the limit (ulimit -u).")
    return 2


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
    tell(f"error: {message}")


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
    if options.throughput or options.check:
        with out_of_memory(training_advice(options)):
            return (tasks.throughput if options.throughput else tasks.check)(run)
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
        if self.options.eval_only:
            with _users_input():
                snapshot = self._trained()
            self._banner(snapshot)
            return self._evaluate_only()
        with contextlib.ExitStack() as stack:
            with _users_input():
                snapshot = self._given()  # looked at before anything is written
                unlocked = stack.enter_context(only_writer(self.folder))
                if unlocked:
                    say(f"note: {unlocked}")
                self._check_writable()
                for note in self.store.sweep(alone=unlocked is None):
                    say(f"note: {note}")
                snapshot = snapshot or self._resume()
            self._banner(snapshot)
            with stop.saving():
                return self._work(stop)

    def _banner(self, snapshot: Snapshot | None) -> None:
        for line in banner(self.run, self.options, str(self.folder), str(snapshot.path) if snapshot else None):
            say(line)

    def _work(self, stop: StopRequest) -> int:
        step = self.run.trainer.position.step
        total = min(self.run.total_steps, self.options.max_steps or self.run.total_steps)
        progress = Progress(
            self.options.progress, total, self.run.trainer.steps_per_epoch, self.options.log_interval, step
        )
        with contextlib.closing(progress), contextlib.closing(RunLog(self.folder, step)) as self.log:
            self.log.options(options_dict(self.options))
            try:
                self._train(total, progress, stop)
            except (NonFiniteError, OutOfMemoryError) as error:
                where = f" The last good snapshot is {self.last_saved}." if self.last_saved else " No snapshot yet."
                raise type(error)(str(error) + where) from None
        self._end(total)
        if stop.code is not None:
            say(f"{stop.name}: saved; exit code {stop.code}")
        return stop.code or 0

    def _check_writable(self) -> None:
        """Find out now what a first save would find out after an epoch."""
        self.store.prepare()
        try:
            check_plain(self._state(), "save snapshot")
        except (TypeError, ValueError) as error:
            raise UsageError(f"{error} Until then no snapshot of this run can be written.") from None

    # ---- resuming

    def _given(self) -> Snapshot | None:
        """What ``--resume PATH`` names, in place."""
        if self.options.resume in (None, "auto"):
            return None
        snapshot = load_snapshot(self.options.resume)
        self._place(snapshot)
        return snapshot

    def _trained(self) -> Snapshot | None:
        """The snapshot to evaluate, in place; nothing in the run's folder is touched, where a run may be writing."""
        if self.options.resume is None and self.options.initial_checkpoint:
            return None
        snapshot = self._given() or self._newest()
        if snapshot is None:
            raise UsageError(
                f"--eval: expected trained weights; got none in {self.folder}. "
                "Name a snapshot with --resume PATH, or weights with --initial-checkpoint FILE."
            )
        return snapshot

    def _newest(self) -> Snapshot | None:
        """The newest good snapshot of the run's folder, in place."""
        found, notes = self.store.load_newest()
        for note in notes:
            say(f"note: {note}")
        if found is not None:
            self._place(found)
        elif notes and not self.options.eval_only:
            raise UsageError(
                f"--resume auto: expected a snapshot that verifies in {self.store.folder}; all are damaged (see "
                "above) and none was touched. Move the folder away to start over, or choose another --experiment."
            )
        return found

    def _resume(self) -> Snapshot | None:
        """Where the run's folder stands: the snapshot to go on from, in place, or None at the beginning."""
        if self.options.resume == "auto":
            found = self._newest()
            if found is None:
                say(f"note: --resume auto: no snapshot in {self.store.folder}; starting at the beginning")
            return found
        newest, notes = self.store.newest()
        if newest is not None or notes:
            what, fix = "whose snapshots are damaged (" + "; ".join(notes) + ")", "Move it away"
            if newest is not None:
                what, fix = f"with {newest.name}", "Add --resume auto to continue it"
            raise UsageError(
                f"--output: expected a folder without a run; got {self.folder} {what}. "
                f"{fix}, or choose another --experiment."
            )
        return None

    def _place(self, snapshot: Snapshot) -> None:
        try:
            self._accept(snapshot)
        except (LookupError, TypeError, AttributeError, ArithmeticError) as error:
            raise SnapshotError(
                f"--resume: expected a snapshot of a training run; got {snapshot.path}, which holds something else "
                f"({type(error).__name__}: {error}). Choose another snapshot."
            ) from error

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
        other = compare(snapshot.state["fingerprint"], numeric_fingerprint(self.run.model.device))
        if other:
            say(f"warning: resumed under other numerics ({'; '.join(other)}): the continuation will not be bit-exact")
        self.run.trainer.restore(snapshot.groups, snapshot.state["trainer"])
        self.seconds_before = float(snapshot.state["seconds"])
        self.last_saved = snapshot.path

    # ---- training

    def _train(self, total: int, progress: Progress, stop: StopRequest) -> None:
        trainer = self.run.trainer
        saved = trainer.position
        if self._evaluation_is_missing():
            self._save(pin=self._evaluate(progress, stop))
        while trainer.position.step < total and not self._over(stop):
            self._steps(total, progress, stop)
            done = trainer.position.batch == 0
            best = False
            if self._evaluation_is_due() or trainer.position.step >= total:
                best = self._evaluate(progress, stop)
            if done or best:
                self._save(pin=best)
                saved = trainer.position
        if trainer.position != saved:
            self._save(pin=False)

    def _steps(self, total: int, progress: Progress, stop: StopRequest) -> None:
        """The rest of the epoch, as far as this session goes."""
        with out_of_memory(training_advice(self.options)):
            for record in self.run.trainer.epoch():
                self.log.step(record)
                progress.step(record)
                self.images += record.images
                if record.step >= total or self._over(stop):
                    break

    def _evaluation_is_due(self) -> bool:
        """Whether a run that nothing cuts short evaluates where this one stands."""
        at = self.run.trainer.position
        return at.batch == 0 and (at.epoch % self.options.val_interval == 0 or at.step >= self.run.total_steps)

    def _evaluation_is_missing(self) -> bool:
        """Whether the session before did the epoch's last step, and could not evaluate: memory was full."""
        step = self.run.trainer.position.step
        logged = bool(self.log.steps) and self.log.steps[-1]["step"] == step
        return logged and self._evaluation_is_due() and all(e["step"] != step for e in self.log.evals)

    def _over(self, stop: StopRequest) -> bool:
        limit = self.options.time_limit
        return stop.code is not None or (limit is not None and time.perf_counter() - self.started > limit)

    @property
    def seconds(self) -> float:
        """Spent on the run in all sessions."""
        return self.seconds_before + time.perf_counter() - self.started

    def _evaluate(self, progress: Progress, stop: StopRequest) -> bool:
        """Evaluate, log; whether it is the best so far.

        Where the session is to end meanwhile, what was evaluated is dropped: one that resumes makes up for it.

        An evaluation that the run makes only because this session ends here is marked as partial and is never the
        best: a session that goes on would not have made it.
        """
        trainer = self.run.trainer
        epoch = trainer.position.epoch - (trainer.position.batch == 0)
        try:
            self.result = self._evaluated(lambda: self._over(stop))
        except EvaluationCutShort:
            return False
        except OutOfMemoryError:
            self._save(pin=False)  # what was trained is not lost; a session that resumes makes up for the evaluation
            raise
        except NonFiniteError as error:
            raise NonFiniteError(
                f"{error} This is after step {trainer.position.step} (epoch {epoch}): the weights have diverged and "
                "are not saved. Lower --lr, or set --clip-grad."
            ) from None
        steps = [r for r in self.log.steps if r["epoch"] == epoch]
        shares = image_shares([r["images"] for r in steps])
        record = {
            "epoch": epoch,
            "step": trainer.position.step,
            "train_loss": sum(r["loss"] * n for r, n in zip(steps, shares, strict=True)) / max(1, sum(shares)),
            "eval_loss": self.result.loss,
            "eval_top1": self.result.top1,
            "eval_top5": self.result.top5,
            "lr": trainer.schedule(max(0, trainer.position.step - 1)),
            "seconds": round(self.seconds, 3),
            "partial": not self._evaluation_is_due(),
        }
        self.log.evaluation(record)
        best = self.log.best()
        is_best = not record["partial"] and best is not None and best["step"] == record["step"]
        if self.options.progress != "none":
            progress.bar.clear()
            stamp = " (synthetic data)" if self.run.test.synthetic else ""
            say(
                f"epoch {epoch}  train loss {record['train_loss']:.4f}  test loss {self.result.loss:.4f}  "
                f"{self.result.accuracy()}{stamp}{'  best' if is_best else ''}"
            )
        return is_best

    def _state(self) -> dict[str, Any]:
        """What a snapshot holds besides arrays."""
        return {
            "trainer": self.run.trainer.state(),
            "options": options_dict(self.options),
            "fingerprint": numeric_fingerprint(self.run.model.device),
            "synthetic": self.run.train.synthetic,
            "identity": self.run.train.identity,
            "seconds": self.seconds,
        }

    def _save(self, pin: bool) -> None:
        trainer = self.run.trainer
        groups = trainer.groups()
        size = sum(array.nbytes for array in groups["model"].values())
        told = {"model": self.run.info.metadata(size)}
        self.last_saved = self.store.save(trainer.position.step, groups, self._state(), pin=pin, metadata=told)

    # ---- the end

    def _evaluated(self, over: Callable[[], bool]) -> Evaluation:
        with self.run.trainer.autocast(), out_of_memory(evaluation_advice(self.options)):
            return evaluate(self.run.model, self.run.eval_loader, over=over)

    def _evaluate_only(self) -> int:
        result = self._evaluated(lambda: False)
        stamp = " (synthetic data)" if self.run.test.synthetic else ""
        say(f"test loss {result.loss:.4f}  {result.accuracy()}{stamp}")
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
        drawn: list[Path] = []
        try:
            tasks.draw(self.run, self.log, getattr(self, "result", None), self.folder / "plots", drawn)
        except Exception as error:  # whatever it is: the run is saved, and its closing lines are still to come
            what = str(error) if isinstance(error, ImportError) else f"{type(error).__name__}: {in_words(error)}"
            say(f"note: no {'further ' if drawn else ''}plots: {printable(what)}")
        return drawn


def _without(words: list[str], *options: str) -> list[str]:
    """A command without these options and their values."""
    kept: list[str] = []
    for before, word in zip(["", *words], words, strict=False):
        is_value = before in options and not word.startswith("-")
        if not (word.partition("=")[0] in options or is_value):
            kept.append(word)
    return kept
