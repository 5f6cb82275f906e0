"""The steps of gpu_session.py: each a generator of (what, figures), run in a process of its own.

What a step gives is written as it comes, so that little is lost where one is cut short. Every step takes a
:class:`~_gpu_scale.Scale`: ``FULL`` is for a GPU, ``DRY`` for the stand-in for CuPy, on which the very same code runs.
"""

from __future__ import annotations

import json
import os
import platform
import queue
import runpy
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import _gpu_kernels as kernels
import _gpu_times as times
import numpy as np
from _gpu_scale import ROOT, TAIL, ContextLostError, Scale, SkippedError, command, cupy_module, is_fault, short, support

import swinpy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["STEPS"]

Found = "Iterator[tuple[str, Any]]"


# ---- the machine


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _printed(*command: str) -> str:
    """What a short program prints, or why it does not run."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=15, check=False, cwd=ROOT)
    except (OSError, subprocess.TimeoutExpired) as error:
        return short(error)
    return (done.stdout + done.stderr).strip()[-TAIL:]


def machine(scale: Scale) -> Found:
    """Versions, the device's numbers, its clocks at rest and at work, and which implementation of each kernel runs."""
    cupy = cupy_module()
    names = ("numpy", "cupy-cuda13x", "cupy-cuda12x", "ml_dtypes", "nvidia-cublas", "nvidia-cuda-nvrtc", "torch")
    packages = {name: _version(name) for name in (*names, "triton", "timm", "pytest")}
    yield "versions", {"python": platform.python_version(), "swinpy": swinpy.__version__, **packages}
    yield "commit", [_printed("git", "rev-parse", "HEAD"), _printed("git", "status", "--porcelain")]
    runtime, properties = cupy.cuda.runtime, cupy.cuda.runtime.getDeviceProperties(0)
    yield (
        "device",
        {
            "name": properties["name"].decode(),
            "memory_gib": round(properties["totalGlobalMem"] / 2**30, 1),
            "capability": f"{properties['major']}.{properties['minor']}",
            "multiprocessors": properties["multiProcessorCount"],
            "l2_bytes": properties.get("l2CacheSize", 0),
            "driver": runtime.driverGetVersion(),
            "runtime": runtime.runtimeGetVersion(),
            "cublas": cupy.cuda.cublas.getVersion(cupy.cuda.device.get_cublas_handle()),
            "nvrtc": list(cupy.cuda.nvrtc.getVersion()),
            "cupy": cupy.__version__,
        },
    )
    yield "clocks at rest", _clocks()
    yield "runs", dict(_which_runs(cupy, replace(scale.stages[0], batch=1)))
    a = kernels.random_values(cupy, (scale.product_side,) * 2, np.float16, 1)
    for _ in range(1 if scale.dry else 200):
        a @ a
    yield "clocks at work", _clocks()
    cupy.cuda.Device().synchronize()


def _clocks() -> str:
    fields = "clocks.sm,clocks.mem,clocks.max.sm,temperature.gpu,power.draw,clocks_event_reasons.active"
    return _printed("nvidia-smi", f"--query-gpu={fields}", "--format=csv")


def _which_runs(cupy: Any, sizes: kernels.Sizes) -> Iterator[tuple[str, str]]:
    from autograd.kernels import explain

    for name, make in kernels.calls(cupy, sizes):
        arguments, options = make(0)
        yield name, explain(name, *arguments, **options)


# ---- checks


def _rows(scale: Scale) -> list[tuple[str, str]]:
    """(row, dtype) of every check of a kernel."""
    from autograd.kernels import KERNELS

    rows = support("gpu.rows")
    cuda = sorted(name for name in rows.KERNEL_ROWS if KERNELS[name].cuda is not None)
    return [(row, dtype) for dtype in scale.dtypes for row in (*cuda, *rows.GPU_ROWS)][:: scale.every]


def _each_row(scale: Scale, numbers: list[int], check: Callable[[Any, str, Any], None]) -> Found:
    """Check rows by their numbers; the first that the driver objects to is the last."""
    checks, cupy, rows = support("gpu.checks"), cupy_module(), _rows(scale)
    import pytest

    for number in numbers:
        row, name = rows[number]
        try:
            check(cupy, row, checks.dtype_on(cupy, name))
            found = "ok"
        except pytest.skip.Exception as skipped:
            found = f"skipped: {skipped}"
        except Exception as error:
            found = short(error)
            if is_fault(error):
                yield f"{row}, {name}", found
                raise ContextLostError(found) from error
        yield f"{row}, {name}", found


def kernel_rows(scale: Scale, numbers: str) -> Found:
    """Each row against its reference in float64, and twice more for the same bits."""
    checks = support("gpu.checks")

    def check(cupy: Any, row: str, dtype: Any) -> None:
        checks.check_row(cupy, row, dtype, variants=scale.variants[0])
        checks.repeats_bitwise(cupy, row, dtype, times=3)

    yield from _each_row(scale, [int(n) for n in numbers.split(",")], check)


def small_rows(scale: Scale) -> Found:
    """Each row in float16, once, with every array in an allocation of its own: for compute-sanitizer to watch.

    It ends in time for compute-sanitizer to say what it saw.
    """
    cupy, begin = cupy_module(), time.perf_counter()
    cupy.cuda.set_allocator(None)
    numbers = [i for i, (_, dtype) in enumerate(_rows(scale)) if dtype == scale.dtypes[0]]
    for done, (what, found) in enumerate(_each_row(scale, numbers, support("gpu.checks").run_row), 1):
        yield what, found
        if time.perf_counter() - begin > scale.watched_seconds and done < len(numbers):
            yield "not watched", f"{len(numbers) - done} rows, for want of time"
            return


def _share(scale: Scale, numbers: list[int], put: Callable[[Any], None]) -> None:
    """Rows by a process of their own; where one ends before its time, another takes what is left."""
    rows, left = _rows(scale), list(numbers)
    while left:
        before = len(left)
        line_up = command(f"kernel_rows {','.join(map(str, left))}", scale)
        with subprocess.Popen(line_up, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            for line in process.stdout:
                put(tuple(json.loads(line)))
                left.pop(0)
        if left and len(left) == before:
            row, dtype = rows[left.pop(0)]
            put((f"{row}, {dtype}", f"the process ended with exit code {process.returncode}"))


def kernels_checked(scale: Scale) -> Found:
    """Every kernel against its reference in float64, in several processes: most of the time goes into references."""
    count, found = len(_rows(scale)), queue.SimpleQueue[Any]()
    shares = [list(range(i, count, scale.workers)) for i in range(min(scale.workers, count))]
    threads = [threading.Thread(target=_share, args=(scale, share, found.put), daemon=True) for share in shares]
    for thread in threads:
        thread.start()
    failed = 0
    for _ in range(count):
        what, result = found.get()
        failed += result != "ok" and not result.startswith("skipped")
        yield what, result
    yield "summary", {"rows": count, "failed": failed}


def model_checked(scale: Scale) -> Found:
    """Logits and all gradients of a whole model, under autocast to float16, against float64."""
    checks, begin = support("gpu.checks"), time.perf_counter()
    checks.check_model(
        cupy_module(),
        scale.model,
        batch=scale.checked,
        autocast="float16",
        variants=scale.variants[1],
        **{"num_classes": 10, **scale.options},
    )
    yield "model", {"result": "ok", "seconds": time.perf_counter() - begin}


def step_repeats(scale: Scale) -> Found:
    """Three train steps, twice from the same start: all parameters to the bit; launches and copies of the last."""
    checks, cupy = support("gpu.checks"), cupy_module()
    for autocast in ("float16", None):
        runs = [
            checks.train_steps(cupy, scale.model, batch=2 * scale.checked, steps=3, autocast=autocast, **scale.options)
            for _ in range(2)
        ]
        counts = runs[0][0]
        yield (
            autocast or "float32",
            {"same_bits": runs[0][1] == runs[1][1], "copies": counts.copies, "launches": counts.launches},
        )


def sanitized(scale: Scale, tool: str) -> Found:
    """The small rows under compute-sanitizer's ``tool``."""
    at = "/usr/local/cuda/bin/compute-sanitizer"
    program = shutil.which("compute-sanitizer") or (at if os.access(at, os.X_OK) else None)
    if program is None:
        raise SkippedError("compute-sanitizer is neither on the PATH nor in /usr/local/cuda/bin")
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder, "log")
        options = ["--tool", tool, "--error-exitcode", "9", "--print-limit", "20", "--log-file", str(log)]
        with subprocess.Popen(
            [program, *options, *command("small_rows", scale)], stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout is not None
            for line in process.stdout:
                yield tuple(json.loads(line))
        said = log.read_text(errors="replace") if log.exists() else ""
    yield "summary", {"exit_code": process.returncode, "said": said[-TAIL:]}


# ---- the training example


def trained(scale: Scale) -> Found:
    """The training example on the scenes, on the GPU under autocast: what it printed last, and its metrics."""
    with tempfile.TemporaryDirectory() as folder:
        script = ROOT / "examples" / "train_cifar.py"
        fixed = ["--dataset", "scenes", "--device", "gpu", "--amp", "--no-plots", "--progress", "log"]
        arguments = [str(script), *fixed, "--data-dir", folder, "--output", folder, *scale.train]
        before, begin = sys.argv, time.perf_counter()
        sys.argv = arguments
        try:
            runpy.run_path(str(script), run_name="__main__")
        except SystemExit as end:
            code = end.code
        finally:
            sys.argv = before
        yield "run", {"arguments": arguments[1:], "exit_code": code, "seconds": time.perf_counter() - begin}
        for path in Path(folder).rglob("metrics.jsonl"):
            lines = path.read_text().splitlines()
            yield "last records", [json.loads(line) for line in lines[-5:]]
            yield "evaluations", [record for record in map(json.loads, lines) if record["kind"] == "eval"]


STEPS: dict[str, Callable[..., Any]] = {
    "machine": machine,
    "kernels": kernels_checked,
    "kernel_rows": kernel_rows,
    "model": model_checked,
    "repeat": step_repeats,
    "sanitizer": sanitized,
    "small_rows": small_rows,
    "stages": times.stages,
    "ours": times.ours,
    "train": trained,
    "compile": times.compiled_once,
    "timm_once": times.timm_once,
    "timm": times.timm_timed,
}
