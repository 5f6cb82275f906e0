"""What a run writes down: metrics.jsonl, summary.csv, args.json, and lines on the terminal."""

from __future__ import annotations

import csv
import io
import json
import time
from typing import TYPE_CHECKING, Any

from swinpy.console import say
from swinpy.io.atomic import replace_file

if TYPE_CHECKING:
    from pathlib import Path

    from swinpy.train.trainer import StepRecord

__all__ = ["Progress", "RunLog"]

SUMMARY = ("epoch", "step", "train_loss", "eval_loss", "eval_top1", "eval_top5", "lr", "seconds")


def _read_jsonl(path: Path) -> list[dict[str, Any]]:
    """The records of a metrics file up to the first line that is none (a last line cut off by a kill)."""
    if not path.exists():
        return []
    records = []
    for line in path.read_bytes().splitlines():
        try:
            record = json.loads(line)
        except ValueError:  # neither UTF-8 nor JSON
            break
        if not isinstance(record, dict) or record.get("kind") not in ("step", "eval") or "step" not in record:
            break
        records.append(record)
    return records


class RunLog:
    """The files of one run's folder.

    metrics.jsonl has one line an optimiser step ({"kind": "step", ...}) and one an evaluation ({"kind": "eval", ...});
    summary.csv one row an epoch. Continuing from a step drops what was written beyond it, so that the files of a
    resumed run are those of one that was never interrupted.

    Args:
        folder: made if need be.
        from_step: continue after this optimiser step.
    """

    def __init__(self, folder: Path, from_step: int = 0) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "metrics.jsonl"
        # An evaluation that was made only because the session before had to end is not one of the run's.
        kept = [r for r in _read_jsonl(path) if r["step"] <= from_step and not r.get("partial")] if from_step else []
        replace_file(path, "".join(json.dumps(r) + "\n" for r in kept).encode())
        self.steps = [r for r in kept if r["kind"] == "step"]
        self.evals = [r for r in kept if r["kind"] == "eval"]
        self._write_summary()
        self._file = path.open("a", encoding="utf-8")

    def close(self) -> None:
        """Close metrics.jsonl."""
        self._file.close()

    def _append(self, record: dict[str, Any]) -> None:
        self._file.write(json.dumps(record, allow_nan=False) + "\n")
        self._file.flush()

    def step(self, record: StepRecord) -> None:
        """Write down one optimiser step."""
        entry = {"kind": "step", **record.to_dict()}
        self.steps.append(entry)
        self._append(entry)

    def evaluation(self, record: dict[str, Any]) -> None:
        """A row of :data:`SUMMARY`."""
        entry = {"kind": "eval", **record}
        again = any(e["step"] == record["step"] for e in self.evals)
        if not again:  # a run resumed right after an evaluation makes it again
            self.evals.append(entry)
            self._append(entry)
        self._write_summary()

    def _write_summary(self) -> None:
        text = io.StringIO()
        writer = csv.DictWriter(text, SUMMARY, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.evals)
        replace_file(self.folder / "summary.csv", text.getvalue().encode())

    def options(self, options: dict[str, Any]) -> None:
        """args.json."""
        replace_file(self.folder / "args.json", (json.dumps(options, indent=2, default=str) + "\n").encode())

    def best(self) -> dict[str, Any] | None:
        """Of the evaluations that are not partial that with the highest top-1 (the first of equals); never NaN."""
        finite = [e for e in self.evals if e["eval_top1"] == e["eval_top1"] and not e.get("partial")]
        return max(finite, key=lambda e: e["eval_top1"]) if finite else None


class Progress:
    """Step lines every ``interval`` steps, and a bar where standard error is a terminal.

    Args:
        mode: auto (bar on a terminal, else lines), bar, log or none.
        total: optimiser steps of the run.
        per_epoch: optimiser steps an epoch.
        interval: steps between lines.
        done: steps before this session.
    """

    def __init__(self, mode: str, total: int, per_epoch: int, interval: int, done: int = 0) -> None:
        from tqdm import tqdm

        self.lines = mode in ("auto", "log")
        disable = {"auto": None, "bar": False}.get(mode, True)
        self.bar = tqdm(total=total, initial=done, disable=disable, unit="step", dynamic_ncols=True, leave=False)
        self.total, self.per_epoch, self.interval = total, per_epoch, interval
        self.started, self.first = time.perf_counter(), done
        self.losses: list[float] = []

    def close(self) -> None:
        """Remove the bar."""
        self.bar.close()

    def step(self, record: StepRecord) -> None:
        """Show one optimiser step."""
        self.losses.append(record.loss)
        self.bar.update(1)
        if self.lines and (0 in (record.step % self.interval, record.step % self.per_epoch, self.total - record.step)):
            self.bar.clear()
            say(self._line(record))
        if record.step % self.per_epoch == 0:
            self.losses.clear()

    def _line(self, r: StepRecord) -> str:
        within = (r.step - 1) % self.per_epoch + 1
        pace = (time.perf_counter() - self.started) / max(1, r.step - self.first)
        eta = int(pace * (self.total - r.step))
        return (
            f"epoch {r.epoch}  step {within}/{self.per_epoch} ({100 * r.step // self.total}%)  "
            f"loss {r.loss:.4f} ({sum(self.losses) / len(self.losses):.4f})  {r.step_s:.3f} s/step  "
            f"{r.images / r.step_s:.0f} img/s  lr {r.lr:.2e}  data {r.data_s:.3f} s  grad {r.grad_norm:.2f}  "
            f"eta {eta // 60}:{eta % 60:02d}"
        )
