"""benchmarks/gpu_session.py without a GPU: its steps on the stand-in for CuPy, and what it keeps when they go wrong."""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from support import skips
from support.gpu import fake_cupy

from autograd.kernels import KERNELS

if TYPE_CHECKING:
    from collections.abc import Iterator

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"
MODULES = ("gpu_session", "_gpu_steps", "_gpu_times", "_gpu_scale", "_gpu_kernels")


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """The modules of the session, by name."""
    monkeypatch.syspath_prepend(str(FOLDER))
    yield {name: importlib.import_module(name) for name in MODULES}
    for name in MODULES:
        sys.modules.pop(name, None)


@pytest.fixture
def cupy() -> Iterator[Any]:
    with fake_cupy.installed() as module:
        yield module


# ---- values and clocks


def test_values_look_drawn_and_fit_no_host(bench: Any, cupy: Any) -> None:
    kernels = bench["_gpu_kernels"]
    x = kernels.random_values(cupy, (64, 1024), np.float32, 3).get()
    assert abs(x.mean()) < 0.02
    assert abs(x.std() - 1) < 0.02
    assert abs(x).max() <= np.sqrt(3) + 1e-6
    assert np.unique(x).size > 0.99 * x.size
    assert abs(np.corrcoef(x[:-1].ravel(), x[1:].ravel())[0, 1]) < 0.02
    y = kernels.random_values(cupy, (64, 1024), np.float32, 4).get()
    assert abs(np.corrcoef(x.ravel(), y.ravel())[0, 1]) < 0.02
    assert kernels.random_values(cupy, (2, 3), np.float16, 0).dtype == np.float16


def test_arguments_are_made_on_the_device_and_taken_by_the_kernels(bench: Any, cupy: Any, monkeypatch: Any) -> None:
    kernels, sizes = bench["_gpu_kernels"], bench["_gpu_scale"].DRY.stages[0]
    assert {kernel.name for kernel in kernels.ARGUMENTS} == {n for n, row in KERNELS.items() if row.cuda is not None}
    for name, make in kernels.calls(cupy, sizes):
        make(0)  # what is cached of a shape comes from the host, once
        with monkeypatch.context() as patch:
            patch.setattr(cupy, "asarray", lambda *a, n=name: pytest.fail(f"{n}: an argument comes from the host"))
            args, options = make(1)
        implementation = KERNELS[name].cuda
        assert implementation is not None
        assert implementation.can_run(*args, **options) is None, name
        first, second = (make(i)[0][0] for i in (0, 1))
        one, other = ((a[0] if isinstance(a, list) else a).get() for a in (first, second))
        assert not np.array_equal(one, other), name


def test_short_calls_are_timed_in_groups_behind_other_work(bench: Any) -> None:
    kernels, seen = bench["_gpu_kernels"], []

    def clock(queue: Any, ahead: float = 0.0) -> list[float]:
        seen.append((len(queue), ahead > 0))
        for call in queue:
            call()
        return [2e-4 if ahead else 1e-5] * len(queue)

    ran: list[int] = []
    made = [lambda i=i: ran.append(i) for i in range(3)]
    found = kernels.measure(made, clock, warmups=4, repeats=9, group=20)
    assert seen == [(4, False), (9, False), (3, True)]
    assert (found["seconds"], found["calls_between_events"]) == (1e-5, 20)
    assert ran[-20:] == [i % 3 for i in range(20)]
    long = kernels.measure(made, lambda queue, ahead=0.0: [0.5] * len(queue), warmups=0, repeats=3, group=2)
    assert (long["seconds"], long["calls_between_events"]) == (0.5, 1)


def test_a_call_that_keeps_the_host_busy_is_not_taken_for_a_long_one(bench: Any) -> None:
    def clock(queue: Any, ahead: float = 0.0) -> list[float]:
        assert not ahead or ahead > 20 * 0.002
        return [2e-4 if ahead else 3e-3] * len(queue)  # without work in front the events see the host

    found = bench["_gpu_kernels"].measure([lambda: time.sleep(0.002)], clock, warmups=0, repeats=3, group=20)
    assert found["seconds"] == 1e-5


def test_event_clock_copies_ahead(bench: Any, cupy: Any) -> None:
    clock = bench["_gpu_kernels"].EventClock(cupy, 1)
    assert clock.copy_bandwidth > 0
    copies: list[int] = []
    clock._copy = lambda: copies.append(1)
    assert len(clock([lambda: None, lambda: None], ahead=2.5 * clock._block)) == 2
    assert len(copies) == 6


# ---- steps, as they run on a GPU but for their scale


def _found(bench: Any, step: str, *arguments: str, **changes: Any) -> dict[str, Any]:
    scale = replace(bench["_gpu_scale"].DRY, **changes)
    return dict(bench["_gpu_steps"].STEPS[step](scale, *arguments))


def test_machine(bench: Any, cupy: Any) -> None:
    found = _found(bench, "machine")
    assert found["device"]["name"] == "stand-in"
    assert found["versions"]["numpy"] == np.__version__
    assert found["runs"].keys() == {n for n, row in KERNELS.items() if row.cuda is not None}
    assert all(": runs cuda" in said for said in found["runs"].values())
    assert {"clocks at rest", "clocks at work", "commit"} <= found.keys()


def test_kernels_by_rows(bench: Any, cupy: Any) -> None:
    rows = bench["_gpu_steps"]._rows(bench["_gpu_scale"].FULL)
    assert {r for r, _ in rows} >= {n for n, row in KERNELS.items() if row.cuda is not None}
    assert {d for _, d in rows} == {"float16", "float32", "bfloat16"}
    assert _found(bench, "kernel_rows", "0,3") == {
        "bias_gelu_bwd, float16": "ok",
        "window_attention_fwd at 9x9, float32": "ok",
    }


def test_a_wrong_kernel_and_a_fault_of_the_driver(bench: Any, cupy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    class CUDARuntimeError(RuntimeError):
        pass

    steps, faults = bench["_gpu_steps"], [AssertionError("off by 1"), CUDARuntimeError("cudaErrorIllegalAddress: x")]

    def check(*_: Any) -> None:
        raise faults.pop(0)

    rows = steps._each_row(bench["_gpu_scale"].DRY, [0, 1, 2], check)
    found = [next(rows), next(rows)]
    with pytest.raises(bench["_gpu_scale"].ContextLostError):
        next(rows)
    assert [said for _, said in found] == ["AssertionError: off by 1", "CUDARuntimeError: cudaErrorIllegalAddress: x"]
    is_fault = bench["_gpu_scale"].is_fault
    assert not is_fault(CUDARuntimeError("cudaErrorMemoryAllocation: out of memory"))
    assert is_fault(CUDARuntimeError("cudaErrorMisalignedAddress: misaligned address"))


def test_rows_left_by_a_process_that_ends_are_taken_by_another(
    bench: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Here every process ends at row 1, once it has been told to do that first without a word."""
    program = tmp_path / "worker.py"
    program.write_text(
        "import json, sys\n"
        "for i in sys.argv[1].split()[1].split(','):\n"
        "    if i == '1': sys.exit(3)\n"
        "    print(json.dumps([i, 'ok']), flush=True)\n"
    )
    steps = bench["_gpu_steps"]
    monkeypatch.setattr(steps, "command", lambda step, scale: [sys.executable, str(program), step])
    monkeypatch.setattr(steps, "_rows", lambda scale: [(f"row {i}", "float16") for i in range(4)])
    found = dict(steps.kernels_checked(replace(bench["_gpu_scale"].DRY, workers=1)))
    assert found == {
        **dict.fromkeys("023", "ok"),
        "row 1, float16": "the process ended with exit code 3",
        "summary": {"rows": 4, "failed": 1},
    }


def test_model_and_repeats(bench: Any, cupy: Any) -> None:
    assert _found(bench, "model")["model"]["result"] == "ok"
    found = _found(bench, "repeat")
    assert [found[d]["same_bits"] for d in ("float16", "float32")] == [True, True]
    assert [found[d]["copies"] for d in ("float16", "float32")] == [0, 0]


def test_stages(bench: Any, cupy: Any) -> None:
    found = _found(bench, "stages", stages=bench["_gpu_scale"].DRY.stages[:1])
    assert found["copy"]["bytes_per_second"] > 0
    assert {"product float16", "product float32"} <= found.keys()
    times = {what.partition(", ")[2]: figures for what, figures in found.items() if what.startswith("stage 1, ")}
    assert times.keys() == {n for n, row in KERNELS.items() if row.cuda is not None}
    assert all(figures["seconds"] > 0 and figures["share_of_a_copy"] > 0 for figures in times.values())


def test_stages_of_swin_t_are_those_timed(bench: Any) -> None:
    stages = bench["_gpu_scale"].FULL.stages
    assert [(s.side, s.channels, s.heads) for s in stages] == [(56, 96, 3), (28, 192, 6), (14, 384, 12), (7, 768, 24)]


def test_our_model(bench: Any, cupy: Any) -> None:
    found = _found(bench, "ours", timed=(1,))
    assert found.keys() == {"batch 1, inference", "batch 1, training"}
    for figures in found.values():
        assert figures.keys() == {"events", "host", "whole", "images_per_second", "pool_gib"}


def test_sanitizer(bench: Any, cupy: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    skipped = bench["_gpu_scale"].SkippedError
    monkeypatch.setattr(bench["_gpu_steps"].shutil, "which", lambda name: None)
    monkeypatch.setattr(bench["_gpu_steps"].os, "access", lambda *_: False)
    with pytest.raises(skipped, match="compute-sanitizer is neither"):
        _found(bench, "sanitizer", "memcheck")
    program = tmp_path / "compute-sanitizer"
    program.write_text('#!/bin/sh\necho "$2: ERROR SUMMARY: 0 errors" > "$8"; shift 8; exec "$@"\n')
    program.chmod(0o755)
    monkeypatch.setattr(bench["_gpu_steps"].shutil, "which", lambda name: str(program))
    found = _found(bench, "sanitizer", "racecheck")
    assert found.pop("summary") == {"exit_code": 0, "said": "racecheck: ERROR SUMMARY: 0 errors\n"}
    assert set(found.values()) == {"ok"}


def test_rows_that_are_not_watched_for_want_of_time_are_counted(bench: Any, cupy: Any) -> None:
    found = _found(bench, "small_rows", watched_seconds=-1.0)
    assert found == {"bias_gelu_bwd, float16": "ok", "not watched": "1 rows, for want of time"}


@pytest.mark.parametrize("step", ["compile", "timm eager"])
def test_without_timm(bench: Any, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(bench["_gpu_scale"].SkippedError, match="timm is the peer"):
        _found(bench, *step.split())


@pytest.mark.parity
@pytest.mark.parametrize("peer", ["eager", "compiled"])
def test_timm(bench: Any, peer: str) -> None:
    try:
        found = _found(bench, "timm", peer, peers_timed=(2,))
    except bench["_gpu_scale"].SkippedError:
        skips.skip_unless(False, skips.NO_PARITY, "SWINPY_REQUIRE_PARITY")
    assert found.keys() == {"batch 2, inference", "batch 2, training"}
    assert all("failed" not in figures for figures in found.values()), found


def test_without_pytest(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pytest", None)
    with pytest.raises(bench["_gpu_scale"].SkippedError, match="need pytest"):
        _found(bench, "model")


# ---- the session


def _program(code: str) -> Any:
    return lambda name: [sys.executable, "-c", code, name]


def _session(bench: Any, path: Path, seconds: float = 60.0) -> Any:
    return bench["gpu_session"].Session(1, path, {}, seconds)


def test_every_step_of_the_parts_is_known_and_they_fit(bench: Any) -> None:
    session, known = bench["gpu_session"], bench["_gpu_steps"].STEPS
    peers = bench["_gpu_scale"].FULL.compile
    for steps in session.PARTS.values():
        assert all(step.name.split()[0] in known for step in steps)
        assert sum(step.seconds for step in steps) <= session.LIMIT == 330
    assert {f"timm {peer}" for peer in peers} <= {step.name for step in session.PARTS[2]}
    assert bench["_gpu_scale"].DRY.compile.keys() == peers.keys()


ONE_OF_EACH = """
import json, os, sys, time
name = sys.argv[1]
def say(*what): print(json.dumps(what), flush=True)
print("noise", file=sys.stderr)
if name == "skips": say("skipped", "no tool")
elif name == "crashes": say("before", 1); os.abort()
elif name == "hangs": say("before", 2); time.sleep(60)
elif name == "speaks badly": print("half a li", end=""); say("after", 3)
else: say("figure", 4)
"""


def test_a_step_that_crashes_or_hangs_costs_no_other(bench: Any, tmp_path: Path) -> None:
    step, path = bench["gpu_session"].Step, tmp_path / "record.json"
    names = ("skips", "crashes", "hangs", "speaks badly", "works", "comes too late")
    steps = [step(name, 1.5 if name == "hangs" else 20, 999 if name == "comes too late" else 0) for name in names]
    begin = time.monotonic()
    _session(bench, path).run(steps, _program(ONE_OF_EACH))
    assert time.monotonic() - begin < 30
    record = json.loads(path.read_text())
    found = record["steps"]
    assert record["status"] == "done"
    assert [found[n]["status"] for n in names] == ["skipped", "failed", "cut short", "done", "done", "skipped"]
    assert found["skips"]["reason"] == "no tool"
    assert found["crashes"]["reason"] == "its process ended with exit code -6"
    assert (found["crashes"]["found"], found["hangs"]["found"]) == ({"before": 1}, {"before": 2})
    assert found["hangs"]["reason"] == "it had not ended after 2 s"
    assert found["works"]["found"] == {"figure": 4}
    assert found["works"]["printed"] == "noise\n"
    assert "s were left; it takes 999 at least" in found["comes too late"]["reason"]
    assert [p.name for p in tmp_path.iterdir()] == ["record.json"]


def test_the_record_is_there_while_a_step_runs_and_nothing_runs_on(bench: Any, tmp_path: Path) -> None:
    """Ended by SIGTERM in the middle of a step that has started a process of its own."""
    mark = tmp_path / "pid"
    code = (
        "import json, subprocess, sys, time; p = subprocess.Popen(['sleep', '60']);"
        f"open({str(mark)!r}, 'w').write(str(p.pid)); print(json.dumps(['begun', 1]), flush=True); time.sleep(60)"
    )
    driver = (
        f"import signal, sys; sys.path.insert(0, {str(FOLDER)!r}); import gpu_session as g; from pathlib import Path;"
        "signal.signal(signal.SIGTERM, g._terminated);"
        f"g.Session(2, Path({str(tmp_path / 'record.json')!r}), {{}}).run([g.Step('a', 50), g.Step('b', 50)],"
        f"lambda name: [sys.executable, '-c', {code!r}])"
    )
    process = subprocess.Popen([sys.executable, "-c", driver])
    path, end = tmp_path / "record.json", time.monotonic() + 30
    while time.monotonic() < end and not (path.exists() and "begun" in path.read_text()):
        time.sleep(0.05)
    assert json.loads(path.read_text())["status"] == "running"
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 143
    record = json.loads(path.read_text())
    assert record["status"] == "interrupted by SystemExit"
    assert (record["steps"]["a"]["status"], record["steps"]["a"]["found"]) == ("cut short", {"begun": 1})
    assert record["steps"]["b"] == {"status": "skipped", "reason": "the session ended before it"}
    grandchild = int(mark.read_text())
    while time.monotonic() < end and Path(f"/proc/{grandchild}").exists():
        if "Z" in Path(f"/proc/{grandchild}/stat").read_text().rpartition(")")[2].split()[0]:
            break  # ended, and not yet collected by whoever adopted it
        time.sleep(0.05)
    else:
        assert not Path(f"/proc/{grandchild}").exists()


def test_a_dry_run_of_the_command(tmp_path: Path) -> None:
    command = [sys.executable, str(FOLDER / "gpu_session.py"), "--dry-run", "--part", "1", "--out", str(tmp_path)]
    done = subprocess.run(
        [*command, "--only", "machine", "--only", "sanitizer memcheck"],
        capture_output=True,
        text=True,
        env=os.environ | {"PATH": os.path.dirname(sys.executable) + ":/usr/bin:/bin"},
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    record = json.loads((tmp_path / "gpu_part1.json").read_text())
    assert record["status"] == "done"
    assert record["steps"]["machine"]["found"]["device"]["name"] == "stand-in"
    assert record["steps"]["sanitizer memcheck"]["status"] == "skipped"
    assert "written: " in done.stdout


def test_says_that_there_is_no_gpu(bench: Any) -> None:
    with fake_cupy.installed(devices=0), pytest.raises(SystemExit, match=r"nothing to measure\. .* --dry-run"):
        bench["gpu_session"].main(["--part", "2"])
    with pytest.raises(SystemExit, match="part 1 has 'machine', 'kernels'"):
        bench["gpu_session"].main(["--part", "1", "--only", "ours"])
