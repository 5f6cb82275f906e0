"""The command line ``python -m swinpy``: one module a command, imported when it is asked for.

A command is a module here with ``HELP`` (one line), ``add_arguments(parser)`` and ``run(args) -> exit code``.
"""

from __future__ import annotations

import argparse
import importlib
import sys

__all__ = ["COMMANDS", "main"]

COMMANDS: tuple[str, ...] = ("complexity", "convert", "gradcheck", "inspect", "list", "predict", "validate")


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns its exit code (0; 2 for a fault that the user can mend)."""
    parser = argparse.ArgumentParser(prog="python -m swinpy", description="Tools around Swin Transformers.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    modules = {name: importlib.import_module(f"swinpy.cli.{name}") for name in COMMANDS}
    for name, module in modules.items():
        module.add_arguments(commands.add_parser(name, help=module.HELP, description=module.HELP))
    args = parser.parse_args(argv)
    try:
        code: int = modules[args.command].run(args)
    except (ValueError, OSError, ImportError) as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        return 2
    return code
