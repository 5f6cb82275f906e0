"""The command line of training: timm's names, with the official and torchvision aliases."""

from __future__ import annotations

import argparse
import math
import tomllib
from pathlib import Path
from typing import Any, NoReturn

from swinpy.io.atomic import read_regular
from swinpy.io.errors import shown
from swinpy.train.amp import AMP_DTYPES

__all__ = ["UsageError", "parse_options"]

# Options that may differ between a run and its continuation without changing any number.
FREE_ON_RESUME = frozenset(
    {
        "config",
        "data_dir",
        "dataset_download",
        "workers",
        "device",
        "threads",
        "log_interval",
        "val_batch_size",
        "val_interval",
        "output",
        "experiment",
        "resume",
        "max_steps",
        "time_limit",
        "progress",
        "no_plots",
        "grad_checkpointing",
    }
)


class UsageError(ValueError):
    """An option that is not valid: one line, exit code 2."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        short = message if len(message) <= _LONGEST_MESSAGE else message[:_LONGEST_MESSAGE] + "..."
        raise UsageError(f"{self.prog}: {short}. See --help.")


# Whole numbers beyond this are slips; far below it the arithmetic of steps and shapes is exact.
_LARGEST = 10**9
_MOST_THREADS = 1024
_LONGEST_MESSAGE = 300
_LARGEST_FILE = 1 << 16  # bytes of a config file
_MOST_DOTS = 64  # of a line of it: names of options have none, and a name of n parts takes n^2 time and memory


def _whole(text: str) -> int:
    """An int of Python's grammar, or a ValueError: of more than 4300 digits, too."""
    return int(text)


def _numbers(text: str) -> tuple[int, ...]:
    """ "2,6,4" as (2, 6, 4)."""
    try:
        values = tuple(_whole(part) for part in text.replace(" ", "").split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected integers separated by commas; got {shown(text)}") from None
    if not all(1 <= value <= _LARGEST for value in values):
        raise argparse.ArgumentTypeError(f"expected numbers in [1, {_LARGEST}]; got {shown(text)}")
    return values


def _at_least(least: float, kind: type = int, below: float = math.inf, most: float = math.inf) -> Any:
    """A parser of finite numbers in [least, below) and [least, most]; whole ones are at most `_LARGEST`."""
    if kind is int and below == math.inf:
        most = min(most, _LARGEST)

    def parse(text: str) -> Any:
        try:
            value = kind(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"expected {kind.__name__}; got {shown(text)}") from None
        if not (least <= value < below and value <= most):
            end = f"{most}]" if most < below else f"{below})"
            limit = f"at least {least} and finite" if min(below, most) == math.inf else f"in [{least}, {end}"
            raise argparse.ArgumentTypeError(f"expected a number {limit}; got {shown(text)}")
        return value

    parse.__name__ = kind.__name__
    return parse


def _text(text: str) -> str:
    """A name or path: one that a snapshot, which stores the options, can hold, and that can be one at all."""
    if not text or "\0" in text:
        raise argparse.ArgumentTypeError(f"expected a name or path; got {shown(text)}")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise argparse.ArgumentTypeError(
            f"expected text with a UTF-8 form, because snapshots store the options; got {shown(text)}. Rename it, or "
            "name a link to it"
        ) from None
    return text


def _data(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("data")
    add = group.add_argument
    add(
        "--data-dir",
        "--data-path",
        default="data",
        type=_text,
        metavar="DIR",
        help="where datasets are; for folder, what holds train and val (default: %(default)s)",
    )
    add("--dataset", default="cifar10", choices=("cifar10", "cifar100", "scenes", "digits", "folder"))
    add("--dataset-download", action="store_true", help="fetch a CIFAR archive that is missing")
    add(
        "--img-size",
        type=_at_least(1),
        metavar="N",
        help="size of the images (default: the data's; only folder resizes)",
    )
    add("--num-classes", type=_at_least(1), metavar="N", help="outputs of the head (default: the data's)")
    add(
        "-j",
        "--workers",
        type=_at_least(0, most=_MOST_THREADS),
        default=1,
        metavar="N",
        help="loader threads (default: %(default)s)",
    )
    add(
        "--train-subset",
        type=_at_least(1),
        metavar="N",
        help="train on N images, drawn by --seed, classes in proportion",
    )
    add("--val-subset", type=_at_least(1), metavar="N", help="evaluate on N test images, drawn in the same way")


def _augmentation(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("augmentation (defaults depend on the dataset)")
    add = group.add_argument
    rate = _at_least(0, float, most=1)
    add("--no-aug", action="store_true", help="no augmentation at all, hard labels")
    add("--hflip", type=rate, metavar="P", help="probability of mirroring")
    add("--reprob", type=rate, metavar="P", help="probability of random erasing")
    add("--mixup", type=_at_least(0, float), metavar="ALPHA")
    add("--cutmix", type=_at_least(0, float), metavar="ALPHA")
    add("--mixup-prob", type=rate, metavar="P", help="probability that a batch is mixed")
    add("--mixup-switch-prob", type=rate, default=0.5, metavar="P", help="of cutmix where both are on")
    add("--mixup-off-epoch", type=_at_least(0), default=0, metavar="N", help="no mixing from this epoch on; 0: never")
    add("--smoothing", type=_at_least(0, float, 1), metavar="S", help="label smoothing")


def _model(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("model")
    add = group.add_argument
    add(
        "--model",
        metavar="NAME",
        type=_text,
        help="see --list-models (default: swin_cifar_tiny, or _nano for scenes, digits)",
    )
    add("--window-size", type=_at_least(1), metavar="N")
    add("--patch-size", type=_at_least(1), metavar="N")
    add("--embed-dim", type=_at_least(1), metavar="N")
    add("--depths", type=_numbers, metavar="N,N,...")
    add("--num-heads", type=_numbers, metavar="N,N,...")
    add("--drop", type=_at_least(0, float, 1), metavar="P", help="dropout")
    add("--drop-path", type=_at_least(0, float, 1), metavar="P", help="stochastic depth of the last block")
    add("--initial-checkpoint", metavar="FILE", type=_text, help="weights to start from, of any published layout")
    add(
        "--initial-head",
        default="keep",
        type=_text,
        metavar="HOW",
        help="its head: keep, drop, zero, or a text file of class numbers (map22kto1k.txt) (default: %(default)s)",
    )
    add(
        "--grad-checkpointing",
        "--use-checkpoint",
        action="store_true",
        help="recompute each block in backward: less memory, more time",
    )


def _optimiser(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("optimiser")
    add = group.add_argument
    add("-b", "--batch-size", type=_at_least(1), metavar="N", help="(default: 128; 64 for scenes, digits)")
    add(
        "-vb",
        "--val-batch-size",
        "--validation-batch-size",
        dest="val_batch_size",
        type=_at_least(1),
        metavar="N",
        help="of the evaluation (default: --batch-size, which needs less memory there than in training)",
    )
    add("--epochs", type=_at_least(1), metavar="N")
    add("--opt", default="adamw", choices=("adamw",))
    add("--weight-decay", type=_at_least(0, float), default=0.05, metavar="W", help="(default: %(default)s)")
    add("--clip-grad", type=_at_least(0, float), default=5.0, metavar="NORM", help="0: none (default: %(default)s)")
    add("--sched", default="cosine", choices=("cosine",))
    add("--lr", type=_at_least(0, float), metavar="LR", help="as given; default: scaled by the effective batch")
    add("--warmup-epochs", type=_at_least(0, float), metavar="N")
    add("--warmup-lr", type=_at_least(0, float), default=1e-6, metavar="LR", help="(default: %(default)s)")
    add("--min-lr", type=_at_least(0, float), default=1e-5, metavar="LR", help="(default: %(default)s)")
    add("--grad-accum-steps", "--accumulation-steps", type=_at_least(1), default=1, metavar="N")


def _run(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("run")
    add = group.add_argument
    add(
        "--device", default="cpu", metavar="D", type=_text, help="cpu, gpu, cuda, cuda:N or auto (default: %(default)s)"
    )
    add("--amp", action="store_true", help="mixed precision: products in 16 bits, the rest and the weights in float32")
    add("--amp-dtype", default="float16", choices=AMP_DTYPES, help="of --amp (default: %(default)s)")
    add(
        "--threads",
        type=_at_least(1, most=_MOST_THREADS),
        metavar="N",
        help="of BLAS and kernels (default: the cores there are)",
    )
    add("--seed", type=_at_least(0, below=2**64), default=42, metavar="N", help="(default: %(default)s)")
    add("--log-interval", type=_at_least(1), default=50, metavar="N", help="steps between log lines")
    add("--val-interval", type=_at_least(1), default=1, metavar="N", help="epochs between evaluations")
    add("--output", default="output", metavar="DIR", type=_text, help="parent of run folders (default: %(default)s)")
    add("--experiment", metavar="NAME", type=_text, help="name of the run's folder (default: dataset-model-seedN)")
    add(
        "--resume",
        nargs="?",
        const="auto",
        metavar="PATH",
        type=_text,
        help="a snapshot, or auto: the newest of the run's folder",
    )
    add("--eval", "--test-only", dest="eval_only", action="store_true", help="evaluate and end")
    add("--throughput", action="store_true", help="time inference and a train step, and end")
    add("-c", "--config", metavar="FILE", type=_text, help="TOML file of option = value; the command line wins")
    add("--max-steps", type=_at_least(1), metavar="N", help="end after this many optimiser steps in all")
    add("--time-limit", type=_at_least(0, float), metavar="S", help="save and end after this many seconds")
    add("--progress", default="auto", choices=("auto", "bar", "log", "none"))
    add("--no-plots", action="store_true")
    add("--overfit-batches", type=_at_least(1), metavar="N", help="train and evaluate on N batches, unaugmented")
    add("--check", action="store_true", help="one step, gradcheck, save, load, and end")
    add("--list-models", action="store_true")


def _build_parser(prog: str | None = None) -> argparse.ArgumentParser:
    """Every option; unset ones that depend on the dataset are None."""
    parser = _Parser(
        prog=prog,
        description="Train a Swin Transformer on CIFAR-10/100, procedural scenes, digits or images of your own.",
        allow_abbrev=False,
    )
    for section in (_data, _augmentation, _model, _optimiser, _run):
        section(parser)
    return parser


# The official ImageNet recipe (Liu et al. 2021, section 4.1) without RandAugment and colour jitter; its lr of 5e-4 is
# for a batch of 512.
_FOLDER = {
    "model": "swin_tiny_patch4_window7_224",
    "epochs": 300,
    "warmup_epochs": 20.0,
    "batch_size": 128,
    "base_lr": 1.25e-4,
    "hflip": 0.5,
    "reprob": 0.25,
    "mixup": 0.8,
    "cutmix": 1.0,
    "mixup_prob": 1.0,
    "smoothing": 0.1,
}
# What None becomes, by dataset. CIFAR's is the SPT_LSA recipe (Lee et al. 2021) without auto-augmentation and
# repeated augmentation; scenes and digits are small and tell their classes by shape, so they get less of everything.
_CIFAR = {
    "model": "swin_cifar_tiny",
    "epochs": 100,
    "warmup_epochs": 10.0,
    "batch_size": 128,
    "base_lr": 1e-3,
    "hflip": 0.5,
    "reprob": 0.25,
    "mixup": 0.8,
    "cutmix": 1.0,
    "mixup_prob": 0.5,
    "smoothing": 0.1,
}
_SMALL = {
    "model": "swin_cifar_nano",
    "epochs": 10,
    "warmup_epochs": 1.0,
    "batch_size": 64,
    "base_lr": 4e-3,
    "hflip": 0.5,
    "reprob": 0.0,
    "mixup": 0.0,
    "cutmix": 0.0,
    "mixup_prob": 0.0,
    "smoothing": 0.1,
}
RECIPES: dict[str, dict[str, Any]] = {
    "cifar10": _CIFAR,
    "cifar100": _CIFAR,
    "scenes": _SMALL,
    "digits": {**_SMALL, "epochs": 60, "warmup_epochs": 6.0, "hflip": 0.0},
    "folder": _FOLDER,
}
_DEST = {"--eval": "eval_only"}
_UNAUGMENTED = {"hflip": 0.0, "reprob": 0.0, "mixup": 0.0, "cutmix": 0.0, "mixup_prob": 0.0, "smoothing": 0.0}


def _from_file(path: str, parser: argparse.ArgumentParser) -> dict[str, Any]:
    """Options of a TOML file, checked as on the command line."""
    try:
        values = _parsed(read_regular(Path(path), limit=_LARGEST_FILE).decode())
    except (OSError, ValueError) as error:
        got = error.strerror if isinstance(error, OSError) else error
        raise UsageError(f"--config: expected a readable TOML file; got {shown(path)}: {got}.") from None
    argv: list[str] = []
    actions = {s.lstrip("-"): a for a in parser._actions for s in a.option_strings if s.startswith("--")}
    wanted = set()
    for name, value in values.items():
        action = actions.get(name.replace("_", "-"))
        if action is None or action.dest in ("config", "help") or isinstance(value, dict):
            raise UsageError(f"--config: expected option names in {path}; got {shown(name)}. See --help.")
        wanted.add(action.dest)
        if action.nargs == 0:
            if not isinstance(value, bool):
                raise UsageError(f"--config: expected true or false for {name} in {path}; got {shown(value)}.")
            argv += [action.option_strings[0]] if value else []
        else:
            argv.append(f"{action.option_strings[-1]}={_as_text(name, value, path)}")
    return {k: v for k, v in vars(parser.parse_args(argv)).items() if k in wanted}


def _parsed(text: str) -> dict[str, Any]:
    """The values of a TOML text; a ValueError says what is wrong with it."""
    dotted = next((i for i, line in enumerate(text.splitlines(), 1) if line.count(".") > _MOST_DOTS), None)
    if dotted:
        raise ValueError(f"more than {_MOST_DOTS} dots in line {dotted}; write one option a line")
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise ValueError("values within values, too deep; write one option a line") from None
    except ValueError as error:
        if "digits" not in str(error):  # int(), by which tomllib reads numbers, speaks to programmers
            raise
        raise ValueError("a number of thousands of digits; write a smaller one") from None


def _as_text(name: str, value: Any, path: str) -> str:
    """A value of a TOML file as it is on the command line."""
    parts = value if isinstance(value, list) else [value]
    try:
        if parts and all(isinstance(part, (str, int, float)) for part in parts):
            return ",".join(map(str, parts))
    except ValueError:  # a number of more than 4300 digits, which TOML can spell in hexadecimal
        pass
    raise UsageError(f"--config: expected text or a number for {name} in {path}; got another value. See --help.")


def parse_options(argv: list[str], prog: str | None = None) -> argparse.Namespace:
    """Command line over config file over the dataset's recipe.

    Raises:
        UsageError: for options that are not valid, in one line.
    """
    parser = _build_parser(prog)
    first = parser.parse_args(argv)
    if first.config:
        parser.set_defaults(**_from_file(first.config, parser))
        first = parser.parse_args(argv)
    recipe = RECIPES[first.dataset] | (_UNAUGMENTED if first.no_aug or first.overfit_batches else {})
    if first.epochs is not None:  # the warm-up keeps its share of the run
        recipe["warmup_epochs"] *= first.epochs / recipe["epochs"]
    first.base_lr = None
    for name, value in recipe.items():
        if getattr(first, name) is None:
            setattr(first, name, value)
    first.val_batch_size = first.val_batch_size or first.batch_size
    plain = first.no_aug or bool(first.overfit_batches)
    first.random_crop = first.dataset == "folder" and not plain
    first.crop_padding = 0 if plain or first.random_crop else 4 if first.dataset.startswith("cifar") else 2
    if first.lr is not None and first.lr <= 0:
        raise UsageError(f"--lr: expected a positive number; got {first.lr}. Leave it out for the recipe's.")
    if first.experiment is not None and (Path(first.experiment).name != first.experiment or first.experiment == ".."):
        raise UsageError(
            f"--experiment: expected the name of one folder in --output; got {first.experiment!r}. "
            "Put the path in --output."
        )
    if first.initial_head != "keep" and not first.initial_checkpoint:
        raise UsageError(
            "--initial-head: expected weights whose head it is; got none. Name them with --initial-checkpoint FILE."
        )
    tasks = [flag for flag in ("--check", "--eval", "--throughput") if getattr(first, _DEST.get(flag, flag[2:]))]
    if len(tasks) > 1:
        raise UsageError(f"{tasks[0]}: expected one task at a time; got {' and '.join(tasks)}. Run them one by one.")
    if first.warmup_epochs >= first.epochs:
        raise UsageError(
            f"--warmup-epochs: expected fewer than --epochs {first.epochs}; got {first.warmup_epochs:g}. "
            "Lower --warmup-epochs."
        )
    return first
