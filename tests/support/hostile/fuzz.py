"""Throw grown and bent files at a reader and measure what each costs.

    export PYTHONPATH=.:tests
    python -m support.hostile.fuzz zip --count 2000 --seed 1        by a seed: the same files each time
    python -m support.hostile.fuzz zip --seconds 600 --atheris      by what the reader's code does with them

Atheris (from PyPI) must be installed for the second. Both stop at the first broken promise, with the file kept beside
the message, and tell how many files were read, and which took most memory and time.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from support.hostile.choice import Guided, Seeded, one
from support.hostile.expensive import KINDS
from support.hostile.grow import GROWN
from support.hostile.mutations import mutations

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.hostile.choice import Choice
    from support.hostile.measure import Cost, Reader

__all__ = ["Worst", "files", "main"]


class Worst:
    """What the files cost, at worst."""

    def __init__(self) -> None:
        self.count = self.read = 0
        self.memory_share = self.time_share = self.ratio = self.byte_time = 0.0

    def add(self, cost: Cost) -> None:
        self.count += 1
        self.read += cost.read
        self.memory_share = max(self.memory_share, cost.memory_share)
        self.time_share = max(self.time_share, cost.time_share)
        if cost.size > 10_000:  # below, the allowance is all that counts
            self.ratio = max(self.ratio, cost.memory / cost.size)
            self.byte_time = max(self.byte_time, cost.seconds / cost.size)

    def __str__(self) -> str:
        return (
            f"{self.count} files, {self.read} of them read; at most {100 * self.memory_share:.0f}% of the promised "
            f"memory and {100 * self.time_share:.0f}% of the promised time; of files over 10 kB {self.ratio:.1f} bytes "
            f"and {1e6 * self.byte_time:.2f} us a byte"
        )


def _sound(form: str) -> bytes:
    """A sound file, to be bent."""
    from support.hostile import corpus
    from swinpy.snapshots.manifest import FileRecord, Manifest

    if form != "manifest":
        made: bytes = getattr(corpus, f"sound_{form}")()
        return made
    record = FileRecord(12, "0" * 64)
    return Manifest(7, 1, False, {"state.json": record, "model.safetensors": record}).encode()


def files(form: str, count: int, seed: int) -> Iterator[bytes]:
    """Files by number: first each expensive kind; then one in four a bent sound one, the others grown, every fifth of
    these bent, too.
    """
    kinds = list(KINDS[form].items())
    bent = mutations(_sound(form), count, seed)
    for number in range(count):
        choice = Seeded(f"{form} {seed} {number}")
        if number < len(kinds):
            yield kinds[number][1](choice)
        elif number % 4 == 3:
            yield next(bent)
        else:
            made = GROWN[form](choice)
            yield next(iter(mutations(made, 1, seed + number))) if number % 5 == 4 else made


def _guided(form: str, choice: Choice) -> bytes:
    """A file by a fuzzer's bytes: an expensive kind, or a grown one."""
    if choice.below(2):
        return GROWN[form](choice)
    return one(choice, list(KINDS[form].values()))(choice)  # type: ignore[no-any-return]


def _check(reader: Reader, data: bytes, worst: Worst) -> None:
    from support.hostile.measure import measure

    try:
        worst.add(measure(reader, data))
    except BaseException:
        path = Path(tempfile.gettempdir()) / f"broken-{time.time_ns()}.bin"
        path.write_bytes(data)
        print(f"broken by {path}, {len(data)} bytes, after {worst}", flush=True)
        raise


def _by_seed(form: str, count: int, seconds: float, seed: int) -> None:
    from support.hostile.measure import READERS

    worst, end = Worst(), time.monotonic() + seconds
    for data in files(form, count, seed):
        _check(READERS[form], data, worst)
        if time.monotonic() > end:
            break
    print(f"{form}: {worst}")


def _by_coverage(form: str, seconds: float, seed: int) -> None:
    import atheris

    with atheris.instrument_imports(include=["swinpy.io", "swinpy.data.cifar", "swinpy.snapshots", "swinpy.verify"]):
        from support.hostile.measure import READERS
    worst, end = Worst(), time.monotonic() + seconds

    def once(data: bytes) -> None:
        if time.monotonic() > end:
            print(f"{form}: {worst}", flush=True)
            atheris_exit()
        made = data[1:] if data[:1] < b"\x80" else _guided(form, Guided(atheris.FuzzedDataProvider(data[1:])))
        _check(READERS[form], made, worst)

    def atheris_exit() -> None:
        import os

        os._exit(0)  # libFuzzer takes an exception, SystemExit too, for a finding

    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "sound").write_bytes(b"\0" + _sound(form))
        rng = random.Random(seed)
        for number in range(60):
            (Path(folder) / f"grown{number}").write_bytes(b"\xff" + rng.randbytes(400))
        options = [f"-seed={seed + 1}", "-max_len=4096", "-timeout=600", "-rss_limit_mb=8000", "-verbosity=0"]
        atheris.Setup([sys.argv[0], *options, folder], once)
        atheris.Fuzz()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("form", choices=list(KINDS))
    parser.add_argument("--count", type=int, default=1 << 60)
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--atheris", action="store_true", help="let the reader's coverage choose the files")
    options = parser.parse_args()
    if options.atheris:
        _by_coverage(options.form, options.seconds, options.seed)
    else:
        _by_seed(options.form, options.count, options.seconds, options.seed)


if __name__ == "__main__":
    main()
