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
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.hostile.measure import Cost, Reader

__all__ = ["Worst", "files", "main"]


class _Seeded:
    """A `Choice` by a seed."""

    def __init__(self, seed: str) -> None:
        self._random = random.Random(seed)

    def below(self, count: int) -> int:
        return self._random.randrange(count)


class _Guided:
    """A `Choice` by the bytes that a fuzzer gives; the first alternative where they have run out."""

    def __init__(self, provider: Any) -> None:
        self._provider = provider

    def below(self, count: int) -> int:
        number: int = self._provider.ConsumeIntInRange(0, count - 1)
        return number


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


def _bases(form: str) -> list[bytes]:
    """Sound files, to be bent."""
    from support.hostile import corpus, grow
    from swinpy.snapshots.manifest import FileRecord, Manifest

    record = FileRecord(12, "0" * 64)
    sound: dict[str, Any] = {
        "zip": corpus.sound_zip,
        "legacy": corpus.sound_legacy,
        "tar": corpus.sound_tar,
        "safetensors": corpus.sound_safetensors,
        "npz": grow.sound_npz,
        "cifar": grow.sound_cifar,
        "manifest": Manifest(7, 1, False, {"state.json": record, "model.safetensors": record}).encode,
    }
    return [sound[form]()]


def _grown(form: str, choice: Any) -> bytes:
    from support.hostile import grow

    if form == "manifest":
        return grow.grow_json(choice).encode("utf-8", "surrogatepass")
    made: bytes = getattr(grow, f"grow_{form}")(choice)
    return made


def files(form: str, count: int, seed: int) -> Iterator[bytes]:
    """Files by number: one in four a bent sound one, the others grown, and every fifth of these bent, too."""
    from support.hostile.mutations import mutations

    (base,) = _bases(form)
    bent = mutations(base, count, seed)
    for number in range(count):
        if number % 4 == 3:
            yield next(bent)
            continue
        made = _grown(form, _Seeded(f"{form} {seed} {number}"))
        yield next(iter(mutations(made, 1, seed + number))) if number % 5 == 4 else made


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
        made = data[1:] if data[:1] < b"\x80" else _grown(form, _Guided(atheris.FuzzedDataProvider(data[1:])))
        _check(READERS[form], made, worst)

    def atheris_exit() -> None:
        import os

        os._exit(0)  # libFuzzer takes an exception, SystemExit too, for a finding

    with tempfile.TemporaryDirectory() as folder:
        for number, base in enumerate(_bases(form)):
            (Path(folder) / f"sound{number}").write_bytes(b"\0" + base)
        rng = random.Random(seed)
        for number in range(60):
            (Path(folder) / f"grown{number}").write_bytes(b"\xff" + rng.randbytes(400))
        options = [f"-seed={seed + 1}", "-max_len=4096", "-timeout=600", "-rss_limit_mb=8000", "-verbosity=0"]
        atheris.Setup([sys.argv[0], *options, folder], once)
        atheris.Fuzz()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("form", choices=["zip", "legacy", "tar", "safetensors", "npz", "cifar", "manifest"])
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
