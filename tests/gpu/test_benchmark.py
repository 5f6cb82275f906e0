"""benchmarks/gpu.py without a GPU: its options, what it measures and what it writes, on the stand-in, tiny."""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from support import skips
from support.gpu import fake_cupy
from support.swin.models import ONE_STAGE

from autograd.kernels import KERNELS

if TYPE_CHECKING:
    from collections.abc import Iterator

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"
MODEL = "swin_tiny_patch4_window7_224"


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Any]:
    """The benchmark as a module, writing into a folder of its own."""
    monkeypatch.syspath_prepend(str(FOLDER))
    module = importlib.import_module("gpu")
    monkeypatch.setattr(module._peers, "RESULTS", tmp_path)
    monkeypatch.setattr(module, "event_clock", lambda cupy: importlib.import_module("_gpu_kernels").host_clock)
    yield module
    for name in ("gpu", "_gpu_kernels", "_peers"):
        sys.modules.pop(name, None)


def test_says_that_there_is_no_gpu(gpu: Any) -> None:
    with fake_cupy.installed(devices=0), pytest.raises(SystemExit, match=r"benchmarks/gpu.py: nothing to measure\. "):
        gpu.main([])


def test_options(gpu: Any) -> None:
    options = gpu.parser().parse_args(["--batch", "2", "4", "--kernel", "gelu_fwd", "--part", "kernels"])
    assert (options.batch, options.kernel, options.part, options.rounds) == ([2, 4], ["gelu_fwd"], "kernels", 3)
    assert gpu.parser().parse_args([]).batch == [1, 8, 64, 256]


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_every_cuda_kernel_is_measured_and_written(
    gpu: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str], dtype: str
) -> None:
    if dtype == "bfloat16":
        pytest.importorskip("ml_dtypes", reason=skips.NO_ML_DTYPES)
    tiny = gpu.Sizes(batch=1, side=6, channels=32, heads=1, window=3, classes=5, parameters=32, dtype=dtype)
    monkeypatch.setattr(gpu, "Sizes", lambda **_: tiny)
    figures, limits = gpu.kernel_figures, gpu.limits
    monkeypatch.setattr(gpu, "kernel_figures", lambda *a: figures(*a, repeats=1, warmups=0))
    monkeypatch.setattr(gpu, "limits", lambda cupy, clock: limits(cupy, clock, megabytes=1, side=16))
    with fake_cupy.installed():
        gpu.main(["--part", "kernels", "--batch", "1", "--dtype", dtype])
    written = json.loads((tmp_path / "gpu_kernels.json").read_text())
    assert written["kernels"].keys() == {name for name, row in KERNELS.items() if row.cuda is not None}
    for figure in written["kernels"].values():
        assert figure.keys() == {"seconds", "gigabytes_per_second", "gigaflops_per_second", "share_of_limit"}
        assert all(value > 0 for value in figure.values())
    assert {"device", "limits", "sizes", "commit", "machine"} <= written.keys()
    assert written["device"]["name"] == "stand-in"
    shown = capsys.readouterr().out
    assert "% of the limit" in shown
    assert "written: " in shown


def test_our_models_steps(gpu: Any) -> None:
    from _gpu_kernels import host_clock

    with fake_cupy.installed() as cupy:
        steps = gpu.our_steps(cupy, MODEL, 1, host_clock, repeats=1, warmups=0, **ONE_STAGE)
        assert all(steps[step]() > 0 for step in ("inference", "training"))


def test_median_of_rotated_inputs(gpu: Any) -> None:
    from _gpu_kernels import measure

    seen: list[int] = []

    def clock(queue: Any) -> list[float]:
        for call in queue:
            call()
        return [float(len(seen) - i) for i in range(len(queue))]

    assert measure(lambda i: lambda: seen.append(i), 3, clock, warmups=4, repeats=5) == 7.0
    assert seen == [0, 1, 2, 0, 0, 1, 2, 0, 1]


# ---- the parent of several peers


class _Worker:
    """A peer that answers at once; together with others it does not fit if told so."""

    crowd = 0

    def __init__(self, peer: Any, fits: bool) -> None:
        self.peer, self.fits = peer, fits
        self.versions, self.memory, self.settings = {"python": "3"}, "none", {}

    def step(self, name: str) -> dict[str, Any]:
        crowded = _Worker.crowd > 1 and not self.fits
        return {"value": "out of memory" if crowded else 0.5 if self.peer.name == "ours" else 1.0}


@pytest.mark.parametrize("fits", [True, False])
def test_peers_take_turns_or_run_alone(gpu: Any, monkeypatch: pytest.MonkeyPatch, fits: bool) -> None:
    @contextmanager
    def start(peers: Any) -> Iterator[Any]:
        monkeypatch.setattr(_Worker, "crowd", len(peers))
        yield [_Worker(peer, fits) for peer in peers]

    monkeypatch.setattr(gpu._peers, "start", start)
    options = argparse.Namespace(model=MODEL, torch_python="python", rounds=3, force=False)
    found = gpu._one_batch(options, 8)
    assert found["each_alone"] is not fits
    for step in ("inference", "training"):
        assert found[step].keys() == set(gpu.PEERS)
        assert found[step]["ours"]["best"] == 16
        assert found[step]["timm_compiled"]["ours_divided_by"] == 2
        assert len(found[step]["timm"]["seconds"]) == 3


def test_a_peer_that_fits_nowhere_is_said_to(gpu: Any) -> None:
    found = gpu.throughput({"ours": [0.5, 0.25, 1.0], "timm": ["out of memory"] * 3}, 2)
    assert found["timm"] == {"failed": "out of memory"}
    assert (found["ours"]["best"], found["ours"]["median"]) == (8, 4)
