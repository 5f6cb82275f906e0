"""The command line ``python -m swinpy``: one module a command.

A command is a module here with ``HELP`` (one line), ``add_arguments(parser)`` and ``run(args) -> exit code``.
"""

from __future__ import annotations

import argparse
import sys
from typing import Any, NoReturn

import autograd as ag
from swinpy.cli import complexity, convert, gradcheck, inspect, predict, validate
from swinpy.cli import list as list_
from swinpy.console import printable, steady, tell
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
_INTERRUPTED = 130


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        super().error(printable(message))


def main(argv: list[str] | None = None) -> int:
    """Run one command. Device and seed of the process are put back afterwards.

    Returns:
        The exit code: 0; 2 for a fault that the user can mend; 130 for Ctrl-C; 141 if nobody reads on.
    """
    with steady(strict=True), ag.settings_kept():
        return _main(argv)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="python -m swinpy", description="Tools around Swin Transformers.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, module in COMMANDS.items():
        module.add_arguments(commands.add_parser(name, help=module.HELP, description=module.HELP))
    return parser


def _main(argv: list[str] | None) -> int:
    try:
        try:
            args = _parser().parse_args(argv)
            code: int = COMMANDS[args.command].run(args)
        finally:
            sys.stdout.flush()  # here, where a reader that has gone is caught
    except BrokenPipeError:
        return _BROKEN_PIPE
    except KeyboardInterrupt:
        return _INTERRUPTED
    except MemoryError:
        return _fail("out of memory: choose a smaller model, --img-size or --batch-size, or a machine with more.")
    except (ValueError, OSError, ImportError, ag.DeviceError) as error:
        return _fail(in_words(error))
    return code


def _fail(message: str) -> int:
    tell(f"error: {message}")
    return 2
