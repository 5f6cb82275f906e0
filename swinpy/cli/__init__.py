"""The command line ``python -m swinpy``: one module a command.

A command is a module here with ``HELP`` (one line), ``add_arguments(parser)`` and ``run(args) -> exit code``.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from typing import Any

import autograd as ag
from swinpy.cli import complexity, convert, gradcheck, inspect, predict, validate
from swinpy.cli import list as list_
from swinpy.io.words import in_words

__all__ = ["COMMANDS", "main"]

COMMANDS: dict[str, Any] = {
    "complexity": complexity,
    "convert": convert,
    "gradcheck": gradcheck,
    "inspect": inspect,
    "list": list_,
    "predict": predict,
    "validate": validate,
}
_BROKEN_PIPE = 141  # what a shell says of a command that SIGPIPE ended


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns its exit code (0; 2 for a fault that the user can mend; 141 if nobody reads on)."""
    parser = argparse.ArgumentParser(prog="python -m swinpy", description="Tools around Swin Transformers.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, module in COMMANDS.items():
        module.add_arguments(commands.add_parser(name, help=module.HELP, description=module.HELP))
    args = parser.parse_args(argv)
    try:
        code: int = COMMANDS[args.command].run(args)
        sys.stdout.flush()  # here, where a reader that has gone is caught
    except BrokenPipeError:
        _forget_output()
        return _BROKEN_PIPE
    except MemoryError:
        return _fail("out of memory: choose a smaller model, --img-size or --batch-size, or a machine with more.")
    except (ValueError, OSError, ImportError, ag.DeviceError) as error:
        return _fail(in_words(error))
    return code


def _fail(message: str) -> int:
    print(f"error: {message}", file=sys.stderr, flush=True)
    return 2


def _forget_output() -> None:
    """What is still buffered goes nowhere: the interpreter would try the closed pipe again when it ends."""
    with contextlib.suppress(OSError, ValueError):  # ValueError: a stdout without a descriptor, or closed
        nowhere = os.open(os.devnull, os.O_WRONLY)
        try:
            os.dup2(nowhere, sys.stdout.fileno())
        finally:
            os.close(nowhere)
