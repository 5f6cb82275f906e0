"""The check that ``import autograd`` finds the engine of this distribution.

Another distribution on PyPI has the import name ``autograd``. pip installs both into one folder without a word, and
then either the wrong package is imported or the two are mixed.
"""

from __future__ import annotations

from importlib import metadata
from pathlib import Path

__all__ = ["check_engine"]


def _foreign_distribution() -> str | None:
    """Where the other distribution has put its files, if it is installed where ``autograd`` is looked for."""
    try:
        distribution = metadata.distribution("autograd")
    except metadata.PackageNotFoundError:
        return None
    return str(Path(str(distribution.locate_file("autograd"))).resolve())


def check_engine() -> None:
    """Make sure that ``autograd`` is ours.

    Raises:
        ImportError: if it is another package, or another distribution has installed files into it.
    """
    import autograd

    ours = Path(__file__).resolve().parent.parent / "autograd"
    found = str(Path(autograd.__file__ or ".").resolve().parent)
    foreign = _foreign_distribution()
    if getattr(autograd, "__swinpy_engine__", False) and foreign != found:
        return
    raise ImportError(
        f"swinpy: expected its own engine at {ours}; got the package autograd at {found}"
        + (f", where the distribution 'autograd' is installed ({foreign})" if foreign else "")
        + ". Two distributions share that import name: pip uninstall autograd, then "
        "pip install --force-reinstall swinpy, or keep them in separate environments."
    )
