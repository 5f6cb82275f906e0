"""All that a short session on a GPU should tell, as one command in two parts of at most 5.5 minutes on an H200.

    python benchmarks/gpu_session.py --part 1 --out FOLDER     # is it right? and each kernel's time
    python benchmarks/gpu_session.py --part 2 --out FOLDER     # a run, our model, and timm's beside it
    python benchmarks/gpu_session.py --part 1 --dry-run        # tiny, on the tests' stand-in for CuPy, without a GPU

Each step is a process of its own with a limit of its own, so that neither a fault on the GPU nor a hang costs more than
that step. FOLDER/gpu_part1.json (and 2) is written anew, as a whole, whenever a step has found something: it is there
and complete when the session is cut short. It names what was not done, and why. This file imports nothing but the
standard library; docs/kernels.md says what the figures mean.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

ROOT = Path(__file__).resolve().parent.parent
LIMIT = 330.0  # seconds of a part
_PATIENCE = 4  # a dry run may take so many times as long
_TAIL = 3000  # characters of what a step printed


@dataclass(frozen=True)
class Step:
    """A step of the session.

    Attributes:
        name: of a function of _gpu_steps.STEPS, and arguments after it.
        seconds: after which it is ended.
        least: it is not begun with less time than that left.
    """

    name: str
    seconds: float
    least: float = 5.0


# Together no more than LIMIT. The most telling come first; what runs out of time is what follows.
PARTS: dict[int, tuple[Step, ...]] = {
    1: (
        Step("machine", 25),
        Step("kernels", 90),
        Step("model", 45),
        Step("repeat", 25),
        Step("stages", 65),
        Step("sanitizer memcheck", 40, 10),
        Step("sanitizer racecheck", 40, 10),
    ),
    2: (
        Step("machine", 20),
        Step("ours", 55),
        Step("train", 85, 75),
        Step("timm eager", 25),
        Step("compile", 90, 30),
        Step("timm reduce-overhead", 28, 10),
        Step("timm compiled", 27, 10),
    ),
}


# ---- a step's own process


@contextlib.contextmanager
def _stand_in() -> Iterator[None]:
    sys.path.insert(0, str(ROOT / "tests"))
    from support.gpu import fake_cupy

    with fake_cupy.installed():
        yield


def run_step(line: str, dry: bool) -> None:
    """Run a step and write what it gives, one JSON list [what, figures] a line, to standard output."""
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print goes to stderr
    sys.path.insert(0, str(ROOT))

    def reply(what: str, found: Any) -> None:
        replies.write(json.dumps([what, found]) + "\n")
        replies.flush()

    name, *arguments = line.split()
    with _stand_in() if dry else contextlib.nullcontext():
        from _gpu_scale import DRY, FULL, SkippedError
        from _gpu_steps import STEPS

        try:
            for what, found in STEPS[name](DRY if dry else FULL, *arguments):
                reply(what, found)
        except SkippedError as skipped:
            reply("skipped", str(skipped))


# ---- the session


class Session:
    """A part's record, and the file that holds it.

    Args:
        part: its number.
        path: of the file.
        options: a record of how the session was called.
        seconds: the whole part's limit.
    """

    def __init__(self, part: int, path: Path, options: dict[str, Any], seconds: float = LIMIT) -> None:
        self.path, self._begin, self._seconds = path, time.monotonic(), seconds
        self._running: subprocess.Popen[str] | None = None
        self._reader: threading.Thread | None = None
        self.steps: dict[str, dict[str, Any]] = {}
        self.record: dict[str, Any] = {
            "part": part,
            "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "limit_seconds": seconds,
            "options": options,
            "status": "running",
            "steps": self.steps,
        }

    def left(self) -> float:
        return self._seconds - (time.monotonic() - self._begin)

    def write(self) -> None:
        """The record as it stands, in place of what the file held: a reader sees one or the other."""
        self.record["seconds"] = round(time.monotonic() - self._begin, 2)
        beside = self.path.with_name(self.path.name + ".tmp")
        beside.write_text(json.dumps(self.record, indent=1) + "\n")
        beside.replace(self.path)

    def run(self, steps: Sequence[Step], command: Any) -> None:
        """All steps in turn. ``command``: of a step, given its name.

        Raises:
            KeyboardInterrupt, SystemExit: after the record was written and the running step was ended.
        """
        for step in steps:
            self.steps[step.name] = {"status": "skipped", "reason": "the session ended before it"}
        try:
            for step in steps:
                self.steps[step.name] = record = {"status": "skipped"}
                if self.left() < step.least:
                    record["reason"] = f"{self.left():.0f} s were left; it takes {step.least:.0f} at least"
                else:
                    self._one(step, command(step.name), record)
                self.write()
            self.record["status"] = "done"
        except BaseException as error:
            self.record["status"] = f"interrupted by {type(error).__name__}"
            raise
        finally:
            self._end_running()
            self.write()

    def _one(self, step: Step, command: Sequence[str], record: dict[str, Any]) -> None:
        begin, limit = time.monotonic(), min(step.seconds, self.left())
        found: dict[str, Any] = {}
        record.update(status="cut short", reason="the session ended", limit_seconds=round(limit, 1), found=found)
        with tempfile.TemporaryFile("w+") as said:
            self._running = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=said, text=True, start_new_session=True
            )
            try:
                in_time = self._follow(self._running, begin + limit, found)
                self._end_running()
                self._judge(record, self._running.returncode, in_time)
            finally:
                self._end_running()
                record["seconds"] = round(time.monotonic() - begin, 2)
                said.seek(0, os.SEEK_END)
                said.seek(max(0, said.tell() - _TAIL))
                record["printed"] = said.read()
        print(f"{step.name}: {record['status']} in {record['seconds']:.0f} s", record.get("reason", ""), flush=True)

    def _follow(self, process: subprocess.Popen[str], deadline: float, found: dict[str, Any]) -> bool:
        """Keep what the step gives until it ends; False where it has not at ``deadline``."""
        lines: queue.SimpleQueue[str] = queue.SimpleQueue()

        def read() -> None:
            assert process.stdout is not None
            with process.stdout:
                for line in process.stdout:
                    lines.put(line)
            lines.put("")

        self._reader = threading.Thread(target=read, daemon=True)
        self._reader.start()
        while (left := deadline - time.monotonic()) > 0:
            try:
                line = lines.get(timeout=left)
            except queue.Empty:
                return False
            if not line:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(max(0.0, deadline - time.monotonic()))
                return process.poll() is not None
            with contextlib.suppress(ValueError):  # half a line of a step that was killed
                what, found[what] = json.loads(line)
            self.write()
        return False

    @staticmethod
    def _judge(record: dict[str, Any], code: int, in_time: bool) -> None:
        if not in_time:
            record.update(status="cut short", reason=f"it had not ended after {record['limit_seconds']:.0f} s")
        elif code:
            record.update(status="failed", reason=f"its process ended with exit code {code}")
        elif "skipped" in record["found"]:
            record.update(status="skipped", reason=record["found"].pop("skipped"))
        else:
            record["status"] = "done"
            del record["reason"]

    def _end_running(self) -> None:
        """End the step's process and all that it has started."""
        if self._running is None:
            return
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._running.pid, signal.SIGKILL)
        self._running.wait()
        if self._reader is not None:  # one that left the group may hold the pipe open
            self._reader.join(2)


# ---- the command


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    made.add_argument("--part", type=int, choices=sorted(PARTS), default=1, help="(default %(default)s)")
    made.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results", help="a folder (%(default)s)")
    made.add_argument("--only", action="append", default=[], metavar="STEP", help="this step alone; may be repeated")
    made.add_argument("--seconds", type=float, default=LIMIT, help="of the part (default %(default)s)")
    made.add_argument("--dry-run", action="store_true", help="tiny, on the stand-in for CuPy in tests/, without a GPU")
    made.add_argument("--step", help=argparse.SUPPRESS)
    return made


def _need_gpu() -> None:
    sys.path.insert(0, str(ROOT))
    import autograd as ag

    try:
        ag.resolve_device("gpu")
    except ag.DeviceError as error:
        raise SystemExit(f"gpu_session.py: nothing to measure. {error} Or try it with --dry-run.") from None


def _terminated(*_: Any) -> None:
    raise SystemExit(143)


def main(arguments: Sequence[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    if options.step:
        run_step(options.step, options.dry_run)
        return 0
    steps = [s for s in PARTS[options.part] if not options.only or s.name in options.only]
    if not steps or set(options.only) - {s.name for s in steps}:
        named = ", ".join(repr(s.name) for s in PARTS[options.part])
        raise SystemExit(f"gpu_session.py: --only: part {options.part} has {named}; got {options.only}.")
    if options.dry_run:  # what is tried is whether the steps run, on whatever machine
        steps = [replace(step, seconds=_PATIENCE * step.seconds) for step in steps]
        options.seconds *= _PATIENCE
    else:
        _need_gpu()
    signal.signal(signal.SIGTERM, _terminated)
    options.out.mkdir(parents=True, exist_ok=True)
    shown = {"dry_run": options.dry_run, "only": options.only}
    session = Session(options.part, options.out / f"gpu_part{options.part}.json", shown, options.seconds)
    dry = ["--dry-run"] if options.dry_run else []
    try:
        session.run(steps, lambda name: [sys.executable, str(Path(__file__).resolve()), "--step", name, *dry])
    except KeyboardInterrupt:
        return 130
    finally:
        print(f"written: {session.path}")
    return int(any(s["status"] in ("failed", "cut short") for s in session.steps.values()))


if __name__ == "__main__":
    sys.exit(main())
