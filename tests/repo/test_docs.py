"""What the documents point at exists: files, tests, scripts, headings."""

import importlib
import re
import sys

import pytest
from repo.sources import ROOT

PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
every_page = pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)


def _headings(text):
    """Anchors as GitHub makes them."""
    titles = re.findall(r"^#+ (.+)$", text, re.M)
    return {re.sub(r"[^\w\- ]", "", title).strip().lower().replace(" ", "-") for title in titles}


@every_page
def test_links_lead_somewhere(page):
    text = page.read_text()
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith(("http://", "https://")):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), f"{page.name} links to {target}"
        assert not anchor or anchor in _headings(file.read_text()), f"{page.name} links to {target}"


@every_page
def test_named_files_exist(page):
    """Paths in backticks that begin with a folder of this repository, and names of test files."""
    for name in re.findall(r"`([\w./-]+)`", page.read_text()):
        top = name.split("/")[0]
        if "/" in name and top in ("tests", "benchmarks", "docs", "examples", "autograd", "swinpy"):
            assert (ROOT / name).exists(), f"{page.name} names {name}"
        elif re.fullmatch(r"test_\w+\.py", name):
            assert any(ROOT.glob(f"tests/**/{name}")), f"{page.name} names {name}"


def test_the_readmes_figures_are_those_of_the_results(monkeypatch):
    """``python benchmarks/table.py --write`` puts them there."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    made = importlib.import_module("table")
    for name in ("table", "_peers"):
        monkeypatch.delitem(sys.modules, name)
    shown = (ROOT / "README.md").read_text().partition(made.BEGIN)[2].partition(made.END)[0]
    assert shown.strip() == made.table().strip()
