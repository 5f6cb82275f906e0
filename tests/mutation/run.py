"""Seeded faults in the packages: how many do the tests find?

    pip install ".[dev]"
    python tests/mutation/run.py lines --out build/mutation      (once: which test runs which line; 15 minutes)
    python tests/mutation/run.py mutants --out build/mutation    (320 mutants; an hour on two cores)

A mutant is tried in a copy of the project. Tests that run its lines are run, the most particular first, until one
fails. ``--python-fast`` names an interpreter with the extra ``fast`` for mutants of compiled kernels. ``--again`` keeps
the kills of an earlier run in files that are still the same. Mutants of ``equivalent.toml`` change nothing that a
caller can see; they are left out of the score, each with its reason.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import queue
import shutil
import subprocess
import sys
import threading
import time
import tomllib
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from mutation.mutants import Mutant, mutants_of  # noqa: E402 (after the line above)
from repo.sources import modules  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

# How many mutants of each package, and the tests of an area: all that is tried where no test runs the line itself.
SHARES = {"autograd": 120, "swinpy/models": 50, "swinpy/train": 50, "swinpy/data": 50, "swinpy/io": 50}
AREAS = {
    "autograd": ["tests/engine", "tests/ops", "tests/kernels"],
    "swinpy/models": ["tests/swin"],
    "swinpy/train": ["tests/train"],
    "swinpy/data": ["tests/data"],
    "swinpy/io": ["tests/io", "tests/snapshots"],
}
COMPILED_TESTS = [
    "tests/kernels",
    "tests/ops",
    "tests/swin",
    "tests/train/test_amp.py",
    "tests/data/test_data_augment.py",
]
COMPILED_OPTIONS = ["--ignore-glob=*cuda*", "--ignore-glob=*_general.py"]  # Numba has no part in these
FIRST, OF_ONE_FUNCTION = 80, 6  # tests of the first call, and of one parametrised function in it
PATIENCE = 1200  # seconds for a call of pytest; a mutant that needs longer has come into an endless loop


def package_of(path: str) -> str:
    """The row of SHARES that a file belongs to."""
    return next(p for p in SHARES if path.startswith(f"{p}/"))


def equivalent() -> dict[str, str]:
    """The reasons of the mutants that change nothing, by key."""
    listed = tomllib.loads((Path(__file__).parent / "equivalent.toml").read_text())
    return {row["key"]: row["why"] for row in listed.get("mutant", [])}


def compiled_files() -> set[str]:
    """Files that import Numba, whose lines no tracer sees."""
    return {str(m.path.relative_to(ROOT)) for m in modules() if m.compiled}


def chosen(seed: int, share: float) -> list[Mutant]:
    """The mutants of a seed: those with the smallest hashes, so that edits elsewhere do not change the choice."""
    picked = []
    for package, count in SHARES.items():
        files = sorted(str(f.relative_to(ROOT)) for f in (ROOT / package).rglob("*.py"))
        found = [m for f in files for m in mutants_of(ROOT, f)]
        found.sort(key=lambda m: hashlib.sha256(f"{seed} {m.key}".encode()).digest())
        picked += found[: round(count * share)]
    return picked


class Lines:
    """Which tests run a line, from the data of ``lines``."""

    def __init__(self, folder: Path, known: set[str]) -> None:
        import coverage

        self._data = coverage.CoverageData(basename=str(folder / "lines"))
        self._data.read()
        self._known = known  # tests that are no longer there would end a call of pytest as a failure does
        self._by_file: dict[str, dict[int, list[str]]] = {}
        self.new = sorted(known - self._all_contexts())  # written after the lines were
        self.files_of = Counter(c for f in self._data.measured_files() for c in self._contexts(f))

    def _all_contexts(self) -> set[str]:
        return {c for f in self._data.measured_files() for c in self._contexts(f)}

    def _contexts(self, file: str) -> set[str]:
        return {c for contexts in self._data.contexts_by_lineno(file).values() for c in contexts}

    def tests(self, mutant: Mutant) -> list[str]:
        """Tests that run the mutant's lines, or any of its file's if those run at import; the most particular first."""
        if mutant.path not in self._by_file:
            self._by_file[mutant.path] = self._data.contexts_by_lineno(str(self._home() / mutant.path))
        by_line = self._by_file[mutant.path]
        first, last = mutant.lines
        tests = {c for line in range(first, last + 1) for c in by_line.get(line, [])} & self._known
        if not tests:
            tests = {c for contexts in by_line.values() for c in contexts} & self._known
        return sorted(tests, key=lambda t: (self.files_of[t], t))

    def _home(self) -> Path:
        any_file = next(f for f in self._data.measured_files() if f.endswith("autograd/__init__.py"))
        return Path(any_file).parent.parent


def known_tests() -> set[str]:
    """The names of all tests."""
    command = [sys.executable, "-m", "pytest", "-q", "--collect-only", "-p", "no:cacheprovider", "tests"]
    said = subprocess.run(command, cwd=ROOT, env=_environment(), capture_output=True, text=True, check=True).stdout
    return {line for line in said.splitlines() if "::" in line}


def record_lines(out: Path) -> None:
    """Run the default suite once under the tracer."""
    import coverage

    shutil.rmtree(out / "parts", ignore_errors=True)
    (out / "parts").mkdir(parents=True)
    command = [sys.executable, "-m", "pytest", "-q", "-n", "2", "-p", "mutation.lines", "--timeout", "1200", "tests"]
    subprocess.run(command, cwd=ROOT, env=_environment(SWINPY_LINES=str(out / "parts")), check=False)
    (out / "lines").unlink(missing_ok=True)
    whole = coverage.CoverageData(basename=str(out / "lines"))
    for part in sorted((out / "parts").glob(".coverage.*")):
        data = coverage.CoverageData(basename=str(part))
        data.read()
        whole.update(data)


def _environment(**more: str) -> dict[str, str]:
    paths = {"PYTHONPATH": "tests", "OPENBLAS_NUM_THREADS": "1", "CI": "true", "PYTHONDONTWRITEBYTECODE": "1"}
    return os.environ | paths | more


@dataclass
class Copy:
    """A copy of the project in which mutants are tried, one at a time."""

    root: Path
    clock: int

    @classmethod
    def make(cls, root: Path) -> Copy:
        listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        names = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
        shutil.rmtree(root, ignore_errors=True)
        for name in filter(None, names):
            if (ROOT / name).is_file():
                (root / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(ROOT / name, root / name)
        subprocess.run([sys.executable, "-m", "compileall", "-q", "autograd", "swinpy", "tests"], cwd=root, check=True)
        return cls(root, int(time.time()) - 10**6)

    def write(self, path: str, content: bytes) -> None:
        """A time of its own for each content: bytecode is kept by time and size."""
        self.clock += 2
        (self.root / path).write_bytes(content)
        os.utime(self.root / path, (self.clock, self.clock))

    def pytest(self, python: str, tests: Iterable[str], *options: str) -> tuple[int, str]:
        """(exit code, output) of a call; the code is -1 when it took longer than PATIENCE."""
        (self.root / "tests.txt").write_text("\n".join(tests))
        command = [python, "-m", "pytest", "-q", "-x", "--no-header", "-p", "no:cacheprovider", *options, "@tests.txt"]
        with subprocess.Popen(
            command, cwd=self.root, env=_environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True, start_new_session=True,
        ) as process:  # fmt: skip
            try:
                said, _ = process.communicate(timeout=PATIENCE)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, 9)
                return -1, ""
        return process.returncode, said


def _calls(mutant: Mutant, lines: Lines, compiled: set[str]) -> Iterator[list[str]]:
    """The tests to run, call by call."""
    if mutant.path in compiled:
        room = mutant.path.split("/")[-2]
        if room != "compiled":
            yield [*COMPILED_TESTS[:1], *COMPILED_OPTIONS, "-k", room]
        yield [*COMPILED_TESTS, *COMPILED_OPTIONS]
        return
    tests = lines.tests(mutant)
    taken: Counter[str] = Counter()
    first = []
    for test in tests:
        function = test.partition("[")[0]
        taken[function] += 1
        if taken[function] <= OF_ONE_FUNCTION and len(first) < FIRST:
            first.append(test)
    if first:
        yield first
    rest = [t for t in tests if t not in set(first)]
    yield rest or AREAS[package_of(mutant.path)]
    of_area = tuple(AREAS[package_of(mutant.path)])
    yield [test for test in lines.new if test.startswith(of_area)]


def try_mutant(mutant: Mutant, copy: Copy, calls: Iterable[list[str]], python: str) -> dict[str, object]:
    """Run the tests on a mutant until one fails."""
    source = (copy.root / mutant.path).read_bytes()
    copy.write(mutant.path, mutant.apply(source))
    start, status, by = time.monotonic(), "survived", ""
    try:
        for tests in filter(None, calls):
            start_of_options = next((i for i, test in enumerate(tests) if test.startswith("-")), len(tests))
            code, said = copy.pytest(python, tests[:start_of_options], *tests[start_of_options:])
            if code == 4 and "ERROR: not found" in said:
                raise RuntimeError(f"tests that cannot be called by name: {said[-2000:]}")
            if code not in (0, 5):
                status = "timeout" if code == -1 else "killed"
                by = next(
                    (line[7:].split(" - ")[0] for line in said.splitlines() if line.startswith("FAILED ")),
                    f"exit {code}",
                )
                break
    finally:
        copy.write(mutant.path, source)
    return {
        "key": mutant.key, "package": package_of(mutant.path), "change": str(mutant), "kind": mutant.kind,
        "status": status, "by": by, "seconds": round(time.monotonic() - start, 1),
        "file": hashlib.sha256(source).hexdigest()[:16],
    }  # fmt: skip


def kept(path: Path | None) -> dict[tuple[str, str], dict[str, object]]:
    """Kills of an earlier run, by mutant and content of its file."""
    rows = json.loads(path.read_text())["mutants"] if path else []
    return {(r["key"], r["file"]): r for r in rows if r["status"] != "survived"}


def run(args: argparse.Namespace) -> int:
    """Try all mutants, write the results, and print the score."""
    lines, compiled, same = Lines(args.out, known_tests()), compiled_files(), equivalent()
    earlier = kept(args.again)
    todo: queue.Queue[Mutant] = queue.Queue()
    rows: list[dict[str, object]] = []
    for mutant in chosen(args.seed, args.share):
        digest = hashlib.sha256((ROOT / mutant.path).read_bytes()).hexdigest()[:16]
        if mutant.key in same or (mutant.path in compiled and not args.python_fast):
            continue
        if (mutant.key, digest) in earlier:
            rows.append(earlier[mutant.key, digest])
        else:
            todo.put(mutant)
    lock = threading.Lock()

    def work(number: int) -> None:
        copy = Copy.make(args.out / f"copy{number}")
        while True:
            try:
                mutant = todo.get_nowait()
            except queue.Empty:
                return
            python = args.python_fast if mutant.path in compiled else sys.executable
            with lock:  # the data of coverage are for one thread at a time
                calls = list(_calls(mutant, lines, compiled))
            row = try_mutant(mutant, copy, calls, python)
            with lock:
                rows.append(row)
                print(f"{row['status']:9}{row['seconds']:7} s  {row['change']}   {row['by']}", flush=True)
                (args.out / "mutants.json").write_text(json.dumps({"seed": args.seed, "mutants": rows}, indent=1))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(args.jobs)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return report(rows) or control(rows, args.out, compiled, args.python_fast)


def report(rows: list[dict[str, object]]) -> int:
    """Print the table of the score; 1 if a mutant survived."""
    counts: dict[object, Counter[object]] = defaultdict(Counter)
    for row in rows:
        counts[row["package"]][row["status"] == "survived"] += 1
        counts["all"][row["status"] == "survived"] += 1
    for package, count in counts.items():
        total = count.total()
        print(f"{package:16}{count[False]:4} of {total:4} killed  {100 * count[False] / total:.1f}%")
    for row in rows:
        if row["status"] == "survived":
            print("survived", row["key"], row["change"])
    return int(counts["all"][True] > 0)


def control(rows: list[dict[str, object]], out: Path, compiled: set[str], fast: str | None) -> int:
    """The tests that killed must pass where nothing is mutated."""
    copy = Copy.make(out / "control")
    for python, options, ours in ((sys.executable, [], False), (fast, COMPILED_OPTIONS, True)):
        of = [r for r in rows if (str(r["change"]).partition(":")[0] in compiled) == ours]
        tests = sorted({str(r["by"]) for r in of if "::" in str(r["by"])})
        code, said = copy.pytest(python, tests, *options) if tests and python else (0, "")
        if code:
            print(said[-3000:])
            print("a test that killed a mutant fails without one, too")
            return code
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["lines", "mutants"])
    parser.add_argument("--out", type=Path, required=True, help="a folder for copies and results")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--share", type=float, default=1.0, help="of the 320 mutants")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--again", type=Path, help="results of an earlier run")
    parser.add_argument("--python-fast", help="an interpreter with the extra fast, for compiled kernels")
    args = parser.parse_args()
    args.out = args.out.resolve()
    if args.what == "lines":
        record_lines(args.out)
        return 0
    return run(args)


if __name__ == "__main__":
    sys.exit(main())
