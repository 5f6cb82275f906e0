"""Another distribution has the import name ``autograd``: swinpy must notice, say where both are, and how to mend it.

The real one (HIPS autograd) is used where SWINPY_HIPS_PYTHON names an interpreter that has it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from repo.sources import ROOT
from support import skips

CURE = ("pip uninstall autograd", "pip install --force-reinstall swinpy")
METADATA = "Metadata-Version: 2.1\nName: autograd\nVersion: 1.9.1\n"


def _import_swinpy(*paths: Path, python: str = sys.executable, last: bool = False) -> str:
    """What ``import swinpy`` says, with ``paths`` first (or last) on sys.path; "" if it succeeds."""
    place = "sys.path.extend(paths)" if last else "sys.path[:0] = paths"
    code = (
        f"import sys; paths = {[str(p) for p in paths]!r}; {place}\n"
        "try:\n    import swinpy\nexcept ImportError as error:\n    print(error)\n"
    )
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, check=False, env=environment, cwd="/")
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def _names_both(message: str, ours: Path, found: Path) -> None:
    for words in (str(ours.resolve()), str(found.resolve()), *CURE):
        assert words in message


@pytest.fixture
def stub(tmp_path: Path) -> Path:
    """A foreign package, as a folder for sys.path."""
    package = tmp_path / "foreign" / "autograd"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("def grad(f): return f\n")
    return package.parent


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A site folder with both of our packages."""
    site = tmp_path / "site"
    for package in ("autograd", "swinpy"):
        shutil.copytree(ROOT / package, site / package, ignore=shutil.ignore_patterns("__pycache__"))
    return site


def _distribution(site: Path) -> None:
    info = site / "autograd-1.9.1.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(METADATA)


def test_ours_alone_is_fine(copy: Path) -> None:
    assert _import_swinpy(copy) == ""


def test_foreign_package_found_first(stub: Path) -> None:
    _names_both(_import_swinpy(stub, ROOT), ROOT / "autograd", stub / "autograd")


def test_foreign_distribution_in_our_folder(copy: Path) -> None:
    """pip has merged both into one folder and ours happens to be on top: the marker is there, and so is the other."""
    _distribution(copy)
    _names_both(_import_swinpy(copy), copy / "autograd", copy / "autograd")


def test_foreign_distribution_elsewhere_is_none_of_our_business(copy: Path, stub: Path) -> None:
    _distribution(stub)
    assert _import_swinpy(copy, stub) == ""


# ---- with HIPS autograd itself


@pytest.fixture
def hips() -> str:
    python = os.environ.get("SWINPY_HIPS_PYTHON")
    if not python:
        pytest.skip(skips.NO_HIPS)
    return python


@pytest.fixture
def hips_site(hips: str) -> Path:
    code = "import autograd, os; print(os.path.dirname(os.path.dirname(autograd.__file__)))"
    done = subprocess.run([hips, "-I", "-c", code], capture_output=True, text=True, check=True)
    return Path(done.stdout.strip())


def test_hips_found_first(hips: str, hips_site: Path) -> None:
    _names_both(_import_swinpy(ROOT, python=hips, last=True), ROOT / "autograd", hips_site / "autograd")


@pytest.mark.parametrize("on_top", ["hips", "ours"])
def test_hips_merged_into_our_folder(copy: Path, hips_site: Path, tmp_path: Path, on_top: str) -> None:
    """As pip leaves it: one folder, the files of both, those of the one that came last on top."""
    merged = tmp_path / "merged"
    first, second = (copy, hips_site) if on_top == "hips" else (hips_site, copy)
    for site in (first, second):
        shutil.copytree(site / "autograd", merged / "autograd", dirs_exist_ok=True)
    shutil.copytree(copy / "swinpy", merged / "swinpy")
    for info in hips_site.glob("autograd-*.dist-info"):
        shutil.copytree(info, merged / info.name)
    _names_both(_import_swinpy(merged), merged / "autograd", merged / "autograd")
