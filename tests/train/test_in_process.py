"""Programs that are called from another one leave its process as it was: what they set for themselves is put back."""

from __future__ import annotations

import os
import random
import shlex
import signal
import sys
import warnings
from typing import Any

import numpy as np
import pytest
from support.gpu import fake_cupy

import autograd as ag
from autograd.kernels import threads
from swinpy import cli
from swinpy.train.main import main

SMALL = (
    "--dataset digits --train-subset 8 --val-subset 4 -b 4 --epochs 1 --warmup-epochs 0 --patch-size 4 --embed-dim 8 "
    "--depths 1 --num-heads 2 --no-plots --workers 0 --threads 3 --seed 7"
)

_OTHERS = ("PYTEST_CURRENT_TEST", "KMP_")  # variables that pytest, and the import of scikit-learn, set


def _process() -> dict[str, Any]:
    return {
        "threads": (threads._count, ag.get_num_threads()),
        "generator": ag.default_generator.state(),
        "streams": (sys.stdout, sys.stderr),
        "signals": {s: signal.getsignal(s) for s in signal.valid_signals()},
        "environment": {k: v for k, v in os.environ.items() if not k.startswith(_OTHERS)},
        "folder": os.getcwd(),
        "floats": np.geterr(),
        "warnings": list(warnings.filters),
        "random": random.getstate(),
        "path": list(sys.path),
    }


@pytest.fixture(params=[None, 2])
def before(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.setattr(threads, "_count", request.param)
    with ag.fork_rng():
        ag.manual_seed(12345).reserve(99)
        yield _process()


@pytest.mark.parametrize(
    ("options", "code"),
    [("", 0), ("--throughput", 0), ("--batch-size 9", 2), ("--no-such-option", 2), ("--lr 1e30 --clip-grad 0", 2)],
)
def test_training(options: str, code: int, before: dict[str, Any], tmp_path: Any) -> None:
    assert main([*shlex.split(f"{SMALL} {options}"), "--output", str(tmp_path)], prog="x") == code
    assert _process() == before


def test_after_a_bug_too(before: dict[str, Any], tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("swinpy.train.main.evaluate", lambda *_, **options: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            main([*shlex.split(SMALL), "--output", str(tmp_path)], prog="x")
    assert _process() == before


@pytest.mark.parametrize(
    "command",
    [
        "validate --model swin_cifar_nano --img-size 8 --seed 3",
        "gradcheck --model swin_cifar_nano --img-size 8",
        "list",
        "inspect no-such-file",
    ],
)
def test_other_commands(command: str, before: dict[str, Any]) -> None:
    cli.main(shlex.split(command))
    assert _process() == before


@pytest.mark.parametrize("current", [0, 1])
@pytest.mark.parametrize("program", [main, cli.main])
def test_the_current_gpu(current: int, program: Any, tmp_path: Any) -> None:
    options = f"--dataset folder --data-dir {tmp_path / 'none'} --device cuda:{1 - current}"
    predict = f"predict --weights {tmp_path / 'none'} --device cuda:{1 - current} {tmp_path / 'none.png'}"
    with fake_cupy.installed(devices=2) as cupy:
        cupy.cuda.Device(current).use()
        assert program(shlex.split(options if program is main else predict)) == 2
        assert cupy.cuda.Device().id == current


def test_settings_are_kept_apart() -> None:
    """A change of the number of threads takes effect inside the block, and the next kernel is right in and after it."""
    rows = [np.full(3, i) for i in range(8)]
    with ag.settings_kept():
        ag.set_num_threads(4)
        assert len(threads.map_pieces(np.sum, rows)) == 8
        with fake_cupy.installed(devices=2) as cupy, ag.settings_kept():
            ag.use_device("cuda:1")
            assert cupy.cuda.Device().id == 1
        assert ag.get_num_threads() == 4
    assert [int(n) for n in threads.map_pieces(np.sum, rows)] == [0, 3, 6, 9, 12, 15, 18, 21]
