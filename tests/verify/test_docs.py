"""docs/verifying.md: every snippet runs and prints what it says."""

from __future__ import annotations

import doctest
import warnings
from pathlib import Path

from repo.sources import ROOT

DOCUMENT = ROOT / "docs" / "verifying.md"
FLAGS = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS


def test_snippets() -> None:
    text = DOCUMENT.read_text(encoding="utf-8").replace("```", "")  # a fence is no output
    test = doctest.DocTestParser().get_doctest(text, {}, DOCUMENT.name, str(DOCUMENT), 0)
    assert len(test.examples) > 60
    said: list[str] = []
    with warnings.catch_warnings():
        results = doctest.DocTestRunner(optionflags=FLAGS, verbose=False).run(test, out=said.append)
    assert results.failed == 0, "".join(said)


def test_every_tool_is_in_the_document() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    from swinpy import verify

    tools = [n for n in verify.__all__ if n[0].islower()]
    assert [n for n in tools if n not in text and n != "windows_to_map"] == []


def test_every_planted_fault_is_in_the_document() -> None:
    from support.swin import port, port_v2

    text = DOCUMENT.read_text(encoding="utf-8")
    assert [f for f in (*port.FAULTS, *port_v2.FAULTS) if f not in text] == []
    assert Path(DOCUMENT).is_file()
