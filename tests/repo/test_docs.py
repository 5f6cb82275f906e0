"""What the documents point at exists: files, tests, scripts, headings."""

import argparse
import importlib
import json
import os
import re
import shutil
import subprocess
import sys

import numpy as np
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


@pytest.fixture
def table(monkeypatch):
    """benchmarks/table.py."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    made = importlib.import_module("table")
    for name in ("table", "_peers"):
        monkeypatch.delitem(sys.modules, name)
    return made


@pytest.mark.parametrize("name", ["README.md", "docs/performance.md"])
def test_the_figures_are_those_of_the_results(table, name):
    """``python benchmarks/table.py --write`` puts them there."""
    shown = (ROOT / name).read_text().partition(table.BEGIN)[2].partition(table.END)[0]
    assert shown.strip() == table.parts()[name].strip()
    assert shown.count("\n|") > 5


def _with_environment(table, monkeypatch, folder, **variables):
    """The results as they are, but for what one peer of one of them ran in."""
    shutil.copytree(table.RESULTS, folder / "results")
    path = folder / "results" / "cpu_vs_torch_swin_t_b1.json"
    record = json.loads(path.read_text())
    record["environment"] = {"here": {"OMP_NUM_THREADS": "2"}, "torch": variables}
    path.write_text(json.dumps(record))
    monkeypatch.setattr(table, "RESULTS", folder / "results")


@pytest.mark.parametrize("variable", ["OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE"])
def test_results_of_a_tuned_blas_are_refused(table, monkeypatch, tmp_path, capsys, variable):
    before = (ROOT / "README.md").read_text()
    _with_environment(table, monkeypatch, tmp_path, **{variable: "Haswell"})
    assert table.main(["--write"]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert f"got cpu_vs_torch_swin_t_b1.json, measured with {variable}=Haswell (torch)" in printed.err
    assert (ROOT / "README.md").read_text() == before


def test_results_of_blas_as_it_comes_are_not(table, monkeypatch, tmp_path, capsys):
    _with_environment(table, monkeypatch, tmp_path, OPENBLAS_NUM_THREADS="2")
    assert table.main([]) == 0
    assert table.BEGIN not in capsys.readouterr().out


def test_no_benchmark_starts_with_a_tuned_blas(monkeypatch):
    """And what the environment was stands in the record."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    peers = importlib.import_module("_peers")
    monkeypatch.delitem(sys.modules, "_peers")
    monkeypatch.setenv("OPENBLAS_L2_SIZE", "1")
    with pytest.raises(SystemExit, match="got OPENBLAS_L2_SIZE=1 in the environment"):
        peers.refuse_when_loaded(1e9, force=False)
    peers.refuse_when_loaded(1e9, force=True)
    options = argparse.Namespace(rounds=3, force=True)
    assert peers.record((), options)["environment"]["here"]["OPENBLAS_L2_SIZE"] == "1"


def test_the_readmes_program_prints_what_it_shows():
    """It is the first thing in the README, has 20 lines at most, and needs nothing but the package."""
    text = (ROOT / "README.md").read_text()
    program, shown = re.findall(r"^```(?:python|text)\n(.*?)^```$", text, re.M | re.S)[:2]
    assert len(program.splitlines()) <= 20
    assert text.index(program) < text.index("\n## ")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OPENBLAS_NUM_THREADS": "1"}
    run = [sys.executable, "-c", program]
    printed = subprocess.run(run, env=environment, capture_output=True, text=True, check=True, timeout=200).stdout
    assert re.sub(r"\d+\.\d+", "?", printed) == re.sub(r"\d+\.\d+", "?", shown)
    found, wanted = (np.array(re.findall(r"\d+\.\d+", lines), float) for lines in (printed, shown))
    np.testing.assert_allclose(found, wanted, rtol=0, atol=0.1)  # forty steps make much of a last digit


@pytest.mark.parametrize(("title", "word"), [("Train", "train_cifar.py"), ("Test", "pytest")])
def test_the_readmes_commands_stand_where_ci_looks_for_them(title, word):
    """.ci/run takes the first block of code under each of these headings."""
    section = (ROOT / "README.md").read_text().partition(f"\n## {title}\n")[2]
    assert word in re.search(r"^```sh\n(.*?)^```$", section, re.M | re.S)[1]


def _tour_snippets():
    """The programs that docs/tour.md gives for a shell, without the comments that say what they print."""
    blocks = re.findall(r"^```sh\n(.*?)^```$", (ROOT / "docs" / "tour.md").read_text(encoding="utf-8"), re.M | re.S)
    lines = ["\n".join(x for x in block.split("\n") if not x.startswith("#")) for block in blocks]
    return [code for code in lines if code.startswith("python -c ")]


def test_the_tour_has_snippets():
    assert len(_tour_snippets()) >= 7


@pytest.mark.parametrize("snippet", _tour_snippets(), ids=lambda code: code.split("import")[1][:20])
def test_the_tours_snippets_run(snippet):
    code = snippet.removeprefix("python -c ").strip().strip('"')
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout
