"""The check that ``import autograd`` finds the engine of this distribution.

Another distribution on PyPI has the import name ``autograd``. pip installs both into one folder without a word, and
then either the wrong package is imported or the two are mixed.
"""

from __future__ import annotations

from pathlib import Path

__all__ = ["check_engine"]


def check_engine() -> None:
    """Make sure that ``autograd`` is ours.

    Raises:
        ImportError: if it is another package, or another distribution has installed files into it.
    """
    import autograd

    ours = Path(__file__).resolve().parent.parent / "autograd"
    found = Path(autograd.__file__ or ".").resolve().parent
    # What importlib.metadata would find, without the tenth of a second that importing it takes.
    foreign = next(iter(found.parent.glob("autograd-*.dist-info")), None)
    if getattr(autograd, "__swinpy_engine__", False) and foreign is None:
        return
    raise ImportError(
        f"swinpy: expected its own engine at {ours}; got the package autograd at {found}"
        + (f", into which the distribution 'autograd' has put its files ({foreign})" if foreign else "")
        + ". Two distributions share that import name: pip uninstall autograd, then "
        "pip install --force-reinstall swinpy, or keep them in separate environments."
    )
