"""``python -m swinpy``: the frame around the commands."""

import io
import os
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest

import autograd as ag
import swinpy
from swinpy import cli
from swinpy.cli import COMMANDS, main
from swinpy.io import write_tensors


def test_list(capsys):
    assert main(["list", "swin_cifar*"]) == 0
    assert capsys.readouterr().out.split() == ["swin_cifar_nano", "swin_cifar_tiny"]


def test_list_of_nothing(capsys):
    assert main(["list", "zzz*"]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("error: list: expected a pattern that fits a model's name; got 'zzz*'.")


def _command_that_raises(monkeypatch, error):
    def run(args):
        print("a line that is still buffered")
        raise error

    module = SimpleNamespace(HELP="none", add_arguments=lambda parser: None, run=run)
    monkeypatch.setattr(cli, "COMMANDS", dict.fromkeys(COMMANDS, module))


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ValueError("words"), "words"),
        (ag.DeviceError("gpu: expected CuPy"), "gpu: expected CuPy"),
        (MemoryError(), "out of memory: choose a smaller model, "),
        (FileNotFoundError(2, "No such file or directory", "a/b"), "a/b: No such file or directory. Check the path"),
        (OSError(5, "Input/output error"), "Input/output error. Check the disk"),
    ],
)
def test_faults_that_a_user_can_mend(error, message, monkeypatch, capsys):
    _command_that_raises(monkeypatch, error)
    assert main(["list"]) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"error: {message}")
    assert "Errno" not in err


def test_bugs_keep_their_traceback(monkeypatch):
    _command_that_raises(monkeypatch, ZeroDivisionError("ours"))
    with pytest.raises(ZeroDivisionError):
        main(["list"])


def test_no_gpu(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "cupy", None)
    assert main(["validate", "--device", "gpu", "--img-size", "8"]) == 2
    assert capsys.readouterr().err.startswith("error: ")


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_reader_that_has_gone(unbuffered):
    """As in ``swinpy list | head -0``: quiet, whether the pipe breaks on a line or when the buffer is flushed."""
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "swinpy", "list"],
            stdout=writing,
            stderr=subprocess.PIPE,
            check=False,
            timeout=60,
            env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
        )
    finally:
        os.close(writing)
    assert done.stderr == b""
    assert done.returncode == 141


def test_a_broken_pipe_without_a_descriptor(monkeypatch):
    _command_that_raises(monkeypatch, BrokenPipeError(32, "Broken pipe"))
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    assert main(["list"]) == 141


def test_inspect_names_dialect_and_model(tmp_path, capsys):
    model = swinpy.create_model("swin_cifar_nano")
    swinpy.save_weights(model, tmp_path / "whole.safetensors", "timm")
    assert main(["inspect", str(tmp_path / "whole.safetensors")]) == 0
    line = capsys.readouterr().out.splitlines()[1]
    assert line == f"dialect: timm; model: swin_cifar_nano, {model.num_classes} classes"
    block = {k: v for k, v in model.state_dict().items() if k.startswith(("patch_embed", "layers.0"))}
    write_tensors(tmp_path / "part.safetensors", block)
    assert main(["inspect", str(tmp_path / "part.safetensors")]) == 0
    assert capsys.readouterr().out.splitlines()[1] == "dialect: official"
    write_tensors(tmp_path / "other.safetensors", {"w": np.ones(3)})
    assert main(["inspect", str(tmp_path / "other.safetensors")]) == 0
    out = capsys.readouterr().out
    assert "dialect" not in out
    assert out.splitlines()[1] == ""


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command, capsys):
    with pytest.raises(SystemExit) as end:
        main([command, "--help"])
    assert end.value.code == 0
    assert command in capsys.readouterr().out


def test_as_a_module():
    done = subprocess.run(
        [sys.executable, "-m", "swinpy", "nonsense"], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 2
    assert "invalid choice" in done.stderr
