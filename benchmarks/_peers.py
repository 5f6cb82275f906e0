"""What every benchmark here shares: peers in processes of their own, interleaved rounds, and an honest record.

A benchmark script has two sides. Run with ``--worker NAME`` it is a peer: it builds its step and calls :func:`serve`.
Run without, it starts one worker a peer (each may have its own interpreter), lets them take turns step by step, and
writes minima, medians and their ratios with the machine, the versions and the commit. This file imports nothing but
the standard library, because a peer's environment may hold nothing else.

    def worker(name):                    # in the child
        step = ...
        serve({"forward": step}, versions={"numpy": numpy.__version__})

    with start([Peer("ours", __file__), Peer("torch", __file__, python=torch_python)]) as workers:
        figures = interleave(workers, "forward", rounds=5)
    write_json("my_benchmark", {"figures": figures, **record(workers, options)})

Memory is the peak resident set within a step minus the resident set before the first step.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

__all__ = [
    "RESULTS",
    "ROOT",
    "TUNING",
    "Peer",
    "Worker",
    "add_options",
    "environment",
    "interleave",
    "ratio",
    "record",
    "refuse_when_loaded",
    "serve",
    "settings",
    "start",
    "write_json",
]

ROOT = Path(__file__).resolve().parent.parent
RESULTS = Path(__file__).resolve().parent / "results"
# They make NumPy's BLAS another one than its users have. No figure that is shown may depend on them.
TUNING = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")
_LIBRARIES = ("OMP_", "KMP_", "GOMP_", "MKL_", "NUMBA_", "VECLIB_", "BLIS_", "GOTO_")
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")


def settings() -> dict[str, str]:
    """The environment variables that steer BLAS, OpenMP and Numba in this process."""
    return {k: v for k, v in sorted(os.environ.items()) if "BLAS" in k or k.startswith(_LIBRARIES)}


# ---- the worker's side


def _status_kib(field_name: str) -> int | None:
    """One field of /proc/self/status in KiB; None where there is no such file."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) for line in lines if line.startswith(field_name + ":")), None)


def _reset_peak() -> bool:
    """Set the kernel's peak resident set back to the present one; False where that is not allowed."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def _peak_kib(was_reset: bool) -> int:
    peak = _status_kib("VmHWM") if was_reset else None
    if peak is not None:
        return peak
    lifetime = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return lifetime // 1024 if sys.platform == "darwin" else lifetime


def serve(
    steps: dict[str, Callable[[], Any]], versions: dict[str, str], prepare: Callable[[], Any] | None = None
) -> None:
    """Answer the parent's commands until it hangs up: run the named step, say how long it took and what it peaked at.

    What a step returns is sent along when it is a number or a string (a loss, a checksum), so that the parent can see
    that the peers compute the same thing. ``prepare`` runs ahead of each step and is not measured.
    """
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print goes to stderr

    def reply(message: dict[str, Any]) -> None:
        replies.write(json.dumps(message) + "\n")
        replies.flush()

    gc.collect()
    before = _status_kib("VmRSS") or _peak_kib(False)
    exact = _reset_peak()
    reply(
        {
            "versions": {"python": platform.python_version(), **versions},
            "settings": settings(),
            "memory": "VmHWM, reset before each step" if exact else "lifetime maximum (the peak could not be reset)",
        }
    )
    for line in sys.stdin:
        command = json.loads(line)
        step, repeat = steps[command["step"]], command["repeat"]
        gc.collect()
        if prepare is not None:
            prepare()
        was_reset = _reset_peak()
        start_time, start_cpu = time.perf_counter(), time.process_time()
        for _ in range(repeat):
            value = step()
        seconds = (time.perf_counter() - start_time) / repeat
        cpu_seconds = (time.process_time() - start_cpu) / repeat
        peak = _peak_kib(was_reset)
        shown = value if isinstance(value, (int, float, str)) else None
        growth = max(0, peak - before) / 1024
        reply({"seconds": seconds, "cpu_seconds": cpu_seconds, "peak_growth_mib": growth, "value": shown})


# ---- the parent's side


@dataclass(frozen=True)
class Peer:
    """One contender.

    Attributes:
        name: what ``--worker`` gets.
        script: the benchmark's own file.
        python: the interpreter to run it with.
        arguments: further command-line arguments of the worker.
        threads: for BLAS and its like.
        environment: further environment variables.
    """

    name: str
    script: str | Path
    python: str = sys.executable
    arguments: tuple[str, ...] = ()
    threads: int = 1
    environment: dict[str, str] = field(default_factory=dict)


class Worker:
    """A peer's process, waiting for commands."""

    def __init__(self, peer: Peer) -> None:
        self.peer = peer
        clean = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME")}
        clean |= dict.fromkeys(_THREADS, str(peer.threads)) | peer.environment
        # An absolute script puts benchmarks/ first on sys.path, never the repository: a peer's `autograd` is its own.
        command = [peer.python, str(Path(peer.script).resolve()), "--worker", peer.name, *peer.arguments]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=clean)
        hello = self._read()
        self.versions: dict[str, str] = hello["versions"]
        self.memory: str = hello["memory"]
        self.settings: dict[str, str] = hello["settings"]

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            code = self._process.wait()
            raise RuntimeError(f"worker {self.peer.name!r} ended with exit code {code}; its message is above.")
        return json.loads(line)  # type: ignore[no-any-return]

    def step(self, name: str, repeat: int = 1) -> dict[str, Any]:
        """Run one step: {"seconds", "cpu_seconds", "peak_growth_mib", "value"}; times are means over ``repeat`` runs.

        A step of a millisecond needs some repeats: its first run finds threads asleep and caches cold.
        """
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"step": name, "repeat": repeat}) + "\n")
        self._process.stdin.flush()
        return self._read()

    def close(self) -> None:
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


@contextlib.contextmanager
def start(peers: Sequence[Peer]) -> Iterator[list[Worker]]:
    """One running worker a peer."""
    with contextlib.ExitStack() as stack:
        workers = []
        for peer in peers:
            worker = Worker(peer)
            stack.callback(worker.close)
            workers.append(worker)
        yield workers


def interleave(
    workers: Sequence[Worker], step: str, rounds: int, warmup: int = 1, repeat: int = 1
) -> dict[str, dict[str, Any]]:
    """Let the workers take turns, a step (or the mean of ``repeat``) each a round, in reversed order every other round.

    Returns:
        By peer: minimum and median seconds, the same of processor time, every round's seconds, the largest peak growth
        in MiB (warm-up included: memory is claimed there), and the value of the last step.

    Raises:
        ValueError: for fewer than 3 rounds.
    """
    if rounds < 3:
        raise ValueError(f"interleave: expected at least 3 rounds; got {rounds}.")
    replies: dict[str, list[dict[str, Any]]] = {worker.peer.name: [] for worker in workers}
    for i in range(warmup + rounds):
        for worker in workers if i % 2 == 0 else list(reversed(workers)):
            replies[worker.peer.name].append(worker.step(step, repeat))
    figures = {}
    for name, answers in replies.items():
        seconds = [answer["seconds"] for answer in answers[warmup:]]
        busy = [answer["cpu_seconds"] for answer in answers[warmup:]]
        figures[name] = {
            "min": min(seconds),
            "median": median(seconds),
            "cpu_min": min(busy),
            "cpu_median": median(busy),
            "seconds": seconds,
            "peak_growth_mib": max(answer["peak_growth_mib"] for answer in answers),
            "value": answers[-1]["value"],
        }
    return figures


def ratio(figures: dict[str, dict[str, Any]], peer: str, ours: str = "ours") -> dict[str, float]:
    """Ours divided by the peer's: seconds (below 1 we are faster), processor time, minima and medians, and memory."""
    mine, other = figures[ours], figures[peer]
    result = {key: mine[key] / other[key] for key in ("min", "median", "cpu_min", "cpu_median")}
    if other["peak_growth_mib"]:
        result["memory"] = mine["peak_growth_mib"] / other["peak_growth_mib"]
    return result


def refuse_when_loaded(limit: float, force: bool) -> None:
    """End the program where other work, or a variable of ``TUNING``, would spoil the figures.

    Raises:
        SystemExit: if the one-minute load average is above ``limit``, or BLAS is tuned, and ``force`` is not set.
    """
    tuned = [f"{name}={os.environ[name]}" for name in TUNING if name in os.environ]
    if tuned and not force:
        raise SystemExit(
            f"benchmark: expected BLAS as its users have it; got {' and '.join(tuned)} in the environment. Run with "
            f"env {' '.join(f'-u {name}' for name in TUNING)}, or pass --force (benchmarks/table.py will refuse the "
            "results)."
        )
    load = os.getloadavg()[0]
    if load > limit and not force:
        raise SystemExit(
            f"benchmark: expected an idle machine (load average up to {limit}); got {load:.2f}. "
            "Wait, or pass --force (the record will say so)."
        )


def add_options(parser: argparse.ArgumentParser, rounds: int = 5) -> argparse.ArgumentParser:
    """The options that every benchmark has."""
    parser.add_argument(
        "--rounds", type=int, default=rounds, help="interleaved rounds, at least 3 (default %(default)s)"
    )
    parser.add_argument("--threads", type=int, default=1, help="BLAS threads a peer (default %(default)s)")
    parser.add_argument("--max-load", type=float, default=0.5, help="refuse above this load average (%(default)s)")
    parser.add_argument("--force", action="store_true", help="run on a loaded machine all the same")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    return parser


@contextlib.contextmanager
def environment(python: str | None, *requirements: str) -> Iterator[str]:
    """An interpreter that has ``requirements``: the one given, else a throwaway virtual environment."""
    if python:
        yield python
        return
    with tempfile.TemporaryDirectory(prefix="peer-") as folder:
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        made = str(Path(folder) / "bin" / "python")
        subprocess.run([made, "-m", "pip", "install", "--quiet", *requirements], check=True)
        yield made


# ---- the record


def _processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _memory_gib() -> float:
    return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.strip()


def record(workers: Sequence[Worker], options: argparse.Namespace) -> dict[str, Any]:
    """Machine, load, environment, versions, commit and options, without which a figure says nothing."""
    return {
        "machine": {
            "processor": _processor(),
            "cores": os.cpu_count(),
            "memory_gib": _memory_gib(),
            "system": f"{platform.system()} {platform.release()}",
            "load_average": list(os.getloadavg()),
        },
        "environment": {"here": settings(), **{worker.peer.name: worker.settings for worker in workers}},
        "versions": {worker.peer.name: worker.versions for worker in workers},
        "memory_measure": {worker.peer.name: worker.memory for worker in workers},
        "threads": {worker.peer.name: worker.peer.threads for worker in workers},
        "commit": _git("rev-parse", "HEAD"),
        "uncommitted_changes": bool(_git("status", "--porcelain", "--untracked-files=no")),
        "rounds": options.rounds,
        "forced": options.force,
    }


def write_json(name: str, payload: dict[str, Any]) -> Path:
    """Write ``benchmarks/results/<name>.json``; returns its path."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps(payload, indent=2) + "\n")
    return path
