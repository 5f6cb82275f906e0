"""The tool that tries seeded faults: what it changes, what it leaves alone, and its list of harmless ones."""

from __future__ import annotations

import ast
import tomllib
from typing import TYPE_CHECKING

from mutation.mutants import mutants_of
from repo.sources import ROOT

if TYPE_CHECKING:
    from pathlib import Path

LISTED = tomllib.loads((ROOT / "tests/mutation/equivalent.toml").read_text()).get("mutant", [])

SOURCE = '''
"""Words."""
__all__ = ["f"]

def f(x: int, y: int = 3) -> int:
    """More words 1 < 2."""
    if x < y and not y:
        raise ValueError(f"{x + y} is more than {1}")
    x += 1
    print(x - 1)
    g(x, y)
    return -x
'''


def test_changes(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text(SOURCE)
    found = mutants_of(tmp_path, "a.py")
    assert {(" ".join(m.before.split()), m.after, m.scope) for m in found} == {
        ("3", "(4)", "f"),
        ("x < y and not y", "(not (x < y and (not y)))", "f"),
        ("x < y and not y", "(x < y or not y)", "f"),
        ("x < y", "(x <= y)", "f"),
        ("not y", "(y)", "f"),
        ("x += 1", "x -= 1", "f"),
        ("1", "(2)", "f"),
        ("g(x, y)", "pass", "f"),
        ("g(x, y)", "(g(y, x))", "f"),
        ("-x", "(None)", "f"),
        ("-x", "(x)", "f"),
    }
    assert len({m.key for m in found}) == len(found)
    for m in found:
        changed = m.apply(SOURCE.encode()).decode()
        assert changed != SOURCE
        ast.parse(changed)
        assert m.before.splitlines()[0] in SOURCE.splitlines()[m.line - 1]


def test_a_key_outlives_changes_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text(SOURCE)
    before = [m.key for m in mutants_of(tmp_path, "a.py")]
    (tmp_path / "a.py").write_text("import os\n\n\ndef before(n):\n    return n + 1\n" + SOURCE)
    after = [m.key for m in mutants_of(tmp_path, "a.py")]
    assert after[-len(before) :] == before


def test_listed_faults_are_still_possible() -> None:
    """A row whose source has changed has to be judged anew."""
    for row in LISTED:
        found = {m.key for m in mutants_of(ROOT, row["change"].split(":")[0])}
        assert row["key"] in found, f"remove it from equivalent.toml, or judge again: {row['change']}"
        assert row["why"].strip()
