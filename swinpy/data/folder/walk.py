"""Which files of a folder are a class's images: one rule, torchvision's (``ImageFolder``) where it has one.

Taken are files with one of torchvision's extensions, in upper or lower case, at any depth below the folder of a class;
links to files and to directories are followed. Left out, and counted, are other extensions, broken links and files
beside the folders of classes. Ours differs in three places: names that begin with a dot are left out (copies and
thumbnails that programs keep), a link to a directory that holds it is not followed (torchvision follows it until the
system refuses, and takes its images some forty times), and what is no regular file is left out (a pipe would be waited
for).
"""

from __future__ import annotations

import os
from collections import Counter
from typing import TYPE_CHECKING

from swinpy.data.errors import DatasetCorrupt

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["IMAGE_SUFFIXES", "LeftOut", "class_folders", "image_files"]

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
_Identity = tuple[int, int]


class LeftOut:
    """What was passed over, counted by its reason."""

    def __init__(self) -> None:
        self.suffixes: Counter[str] = Counter()
        self.reasons: Counter[str] = Counter()

    def note(self, folder: Path) -> str:
        """One line; empty where nothing was left out."""
        parts = [f"{count} {reason}" for reason, count in sorted(self.reasons.items())]
        if self.suffixes:
            each = ", ".join(f"{count} {suffix}" for suffix, count in sorted(self.suffixes.items()))
            parts.insert(0, f"{each} (images are {', '.join(IMAGE_SUFFIXES)})")
        return f"left out of {folder}: {'; '.join(parts)}" if parts else ""


def _entries(folder: Path) -> list[str]:
    """The names in a folder.

    Raises:
        DatasetCorrupt: if it cannot be read: nobody knows what would be missing.
    """
    try:
        return sorted(os.listdir(folder))
    except OSError as error:
        raise DatasetCorrupt(
            f"folder: expected a folder that can be read; got {folder}: {error.strerror}. Allow it to be read "
            "(chmod u+rx), or move it away."
        ) from None


def _identity(folder: Path) -> _Identity:
    status = folder.stat()
    return status.st_dev, status.st_ino


def _faults(path: Path, left_out: LeftOut) -> bool:
    """Whether a path is neither file nor directory, or hidden; counted."""
    reason = ""
    if path.name.startswith("."):
        reason = "hidden (a name with a dot in front)"
    elif not (os.path.isfile(path) or os.path.isdir(path)):
        reason = "broken links" if path.is_symlink() else "that are neither files nor directories"
    if reason:
        left_out.reasons[reason] += 1
    return bool(reason)


def class_folders(folder: Path, left_out: LeftOut) -> tuple[str, ...]:
    """The names of the directories of classes, sorted; links to directories are some as well.

    Raises:
        DatasetCorrupt: if the folder cannot be read.
    """
    names = []
    for name in _entries(folder):
        if _faults(folder / name, left_out):
            continue
        if os.path.isdir(folder / name):
            names.append(name)
        else:
            left_out.reasons["files beside the classes' directories"] += 1
    return tuple(names)


def image_files(folder: Path, left_out: LeftOut) -> list[Path]:
    """The images of a class, sorted by their path below ``folder``.

    Raises:
        DatasetCorrupt: if a directory cannot be read.
    """
    found: list[Path] = []
    holders = frozenset(_identity(above) for above in folder.absolute().parents)
    waiting: list[tuple[Path, frozenset[_Identity]]] = [(folder, holders)]
    while waiting:
        place, above = waiting.pop()
        here = _identity(place)
        if here in above:
            left_out.reasons["links to a directory that holds them"] += 1
            continue
        for name in _entries(place):
            path = place / name
            if _faults(path, left_out):
                continue
            if os.path.isdir(path):
                waiting.append((path, above | {here}))
            elif path.suffix.lower() in IMAGE_SUFFIXES:
                found.append(path)
            else:
                left_out.suffixes[path.suffix.lower() or "without an extension"] += 1
    return sorted(found, key=lambda p: p.relative_to(folder).as_posix())
