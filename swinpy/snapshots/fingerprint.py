"""What a resumed run should have in common with the run it continues.

Exactness holds within one numeric fingerprint: other libraries, another processor or other kernels round otherwise.
And a run continued under another configuration is another run. Both differences are said.
"""

from __future__ import annotations

import math
import platform
import sys
from typing import Any

from autograd.kernels import numerics

__all__ = ["compare", "config_difference", "numeric_fingerprint"]

_MISSING = object()


def numeric_fingerprint(device: str = "cpu") -> dict[str, str]:
    """What decides the last bits of a float result on this machine, as plain text.

    Args:
        device: that of the model, "cpu" or "cuda:N".

    Returns:
        The version of Python, the machine, and :func:`autograd.kernels.numerics`.
    """
    return {
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()} {sys.byteorder}-endian",
        **numerics(device),
    }


def compare(saved: dict[str, str], now: dict[str, str]) -> list[str]:
    """One line for each entry in which two fingerprints differ.

    Args:
        saved: the fingerprint in a snapshot.
        now: the present one.

    Returns:
        The lines; none when a resume will be exact.

    Example:
        >>> compare({"numpy": "2.4.0", "python": "3.11"}, {"numpy": "2.4.6", "python": "3.11"})
        ["numpy: saved '2.4.0', now '2.4.6'"]
    """
    return config_difference(saved, now)


def config_difference(
    saved: dict[str, Any], now: dict[str, Any], ignore: set[str] | frozenset[str] = frozenset()
) -> list[str]:
    """One line for each setting in which two configurations differ.

    Tuples count as lists and 1 as 1.0, because one side has been through JSON; True does not count as 1.

    Args:
        saved: the configuration in a snapshot, possibly of dicts in dicts.
        now: the present one.
        ignore: settings that may differ, by dotted name; ``"data"`` covers ``"data.root"`` too.

    Returns:
        The lines, sorted by setting.

    Example:
        >>> config_difference({"lr": 0.1, "opt": {"name": "sgd"}}, {"lr": 0.2, "opt": {"name": "adamw"}}, {"lr"})
        ["opt.name: saved 'sgd', now 'adamw'"]
    """
    lines = []
    before, after = _flatten(saved), _flatten(now)
    for key in sorted(before.keys() | after.keys()):
        if any(key == name or key.startswith(name + ".") for name in ignore):
            continue
        old, new = before.get(key, _MISSING), after.get(key, _MISSING)
        if not _equal(old, new):
            lines.append(f"{key}: saved {_show(old)}, now {_show(new)}")
    return lines


def _flatten(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, dict) and value:
            flat.update(_flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _equal(old: Any, new: Any) -> bool:
    if isinstance(old, (list, tuple)) and isinstance(new, (list, tuple)):
        return len(old) == len(new) and all(map(_equal, old, new))
    if isinstance(old, dict) and isinstance(new, dict):
        return old.keys() == new.keys() and all(_equal(old[key], new[key]) for key in old)
    if isinstance(old, bool) or isinstance(new, bool):
        return old is new
    if isinstance(old, float) and isinstance(new, float) and math.isnan(old):
        return math.isnan(new)
    return bool(old == new)


def _show(value: Any) -> str:
    return "nothing" if value is _MISSING else repr(value)
