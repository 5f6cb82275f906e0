"""Every option with a path that cannot be one, or a number at the end of its range: 0, or 2 with one message."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest

from swinpy.train.main import main
from swinpy.train.options import _build_parser

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="file names of POSIX")

SMALL = shlex.split(
    "--dataset digits --train-subset 8 --val-subset 4 -b 4 --epochs 1 --warmup-epochs 0 --patch-size 4 --embed-dim 8 "
    "--depths 1 --num-heads 2 --no-plots --workers 0 --max-steps 1"
)
PATHS = {
    "--output": "",
    "--experiment": "",
    "--config": "",
    "--resume": "",
    "--resume --eval": "--eval",
    "--initial-checkpoint": "",
    "--initial-checkpoint --eval": "--eval",
    "--initial-head": "--initial-checkpoint {weights}",
    "--data-dir folder": "--dataset folder",
    "--data-dir cifar10": "--dataset cifar10",
    "--data-dir cifar100": "--dataset cifar100",
}
KINDS = ("folder", "file", "below a file", "nothing", "NUL", "empty", "long", "longer", "not UTF-8", "loop")


def _made(kind: str, root: Path) -> str:
    """A path of a kind, with what stands there."""
    (root / "file").write_text("x")
    (root / "folder").mkdir(exist_ok=True)
    if kind == "loop" and not os.path.lexists(root / "loop"):
        (root / "loop").symlink_to(root / "loop")
    if kind == "not UTF-8":
        Path(os.fsdecode(os.fsencode(root) + b"/caf\xe9")).write_text("x")
    return {
        "folder": str(root / "folder"),
        "file": str(root / "file"),
        "below a file": str(root / "file" / "below"),
        "nothing": str(root / "no" / "thing"),
        "NUL": "a\0b",
        "empty": "",
        "long": str(root / ("x" * 256)),
        "longer": "x" * 5000,
        "not UTF-8": os.fsdecode(os.fsencode(root) + b"/caf\xe9"),
        "loop": str(root / "loop"),
    }[kind]


def _ends(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> int:
    """The exit code, after making sure that a fault is said by one message."""
    capsys.readouterr()
    code = main([*SMALL, *arguments], prog="x")
    error = capsys.readouterr().err
    if code == 0:
        assert error == "", arguments
        return code
    assert code == 2, arguments
    message, *more = error.splitlines()
    assert message.startswith("error: "), arguments
    if more:  # how to fetch a dataset that is missing
        assert len(more) == 1, error
        assert more[0].endswith("--dataset-download"), error
        assert "--dataset cifar" in more[0], error
    return code


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("weights")
    assert main([*SMALL, "--output", str(folder), "--experiment", "run"], prog="x") == 0
    return folder / "run"


@pytest.mark.parametrize("option", PATHS)
def test_paths(option: str, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    codes = {}
    for number, kind in enumerate(KINDS):
        others = shlex.split(PATHS[option].format(weights=weights))
        output = ["--output", str(tmp_path / f"o{number}")]  # a later --output wins
        codes[kind] = _ends([*output, *others, f"{option.split()[0]}={_made(kind, tmp_path)}"], capsys)
    taken = {kind for kind, code in codes.items() if code == 0}
    assert taken == ({"folder", "nothing"} if option == "--output" else set())


FLOATS, WHOLE = ("0", "5e-324", "1e308"), ("1", "1000000000")
MORE = {"--seed": (str(2**64 - 1),), "--threads": ("1024",), "--workers": ("1024",)}
NUMBERS = {
    next(s for s in action.option_strings if s.startswith("--")): getattr(action.type, "__name__", "")
    for action in _build_parser("x")._actions
    if action.type is not None and getattr(action.type, "__name__", "") != "_text"
}


def test_the_sweep_knows_every_number() -> None:
    assert {"--lr", "--warmup-lr", "--min-lr", "--time-limit", "--threads", "--seed", "--clip-grad"} < NUMBERS.keys()
    assert set(NUMBERS.values()) == {"int", "float", "_numbers"}


@pytest.mark.parametrize("option", NUMBERS)
def test_one_real_step_at_the_ends_of_a_range(
    option: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    monkeypatch.setattr("swinpy.train.memory.host_memory", lambda: 1 << 30)
    values = FLOATS if NUMBERS[option] == "float" else WHOLE
    for number, value in enumerate((*values, *MORE.get(option, ()))):
        _ends(["--output", str(tmp_path / f"o{number}"), f"{option}={value}"], capsys)


def test_a_head_of_no_weights(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*SMALL, "--output", str(tmp_path), "--initial-head", "drop"], prog="x") == 2
    assert "--initial-head: expected weights whose head it is; got none. Name them" in capsys.readouterr().err


def test_only_what_can_be_fetched_is_offered(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "digits-swin_cifar_nano-seed42").mkdir()
    assert main(["--dataset", "folder", "--data-dir", str(tmp_path)], prog="x") == 2
    assert "--dataset-download" not in capsys.readouterr().err
