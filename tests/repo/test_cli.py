"""``python -m swinpy``: the frame around the commands."""

import subprocess
import sys

import pytest

from swinpy.cli import COMMANDS, main


def test_list(capsys):
    assert main(["list", "swin_cifar*"]) == 0
    assert capsys.readouterr().out.split() == ["swin_cifar_nano", "swin_cifar_tiny"]


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
