"""Archives that are known by size and SHA-256, and files taken from them (or from their folder) without unpacking."""

from __future__ import annotations

import hashlib
import tarfile
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from swinpy.data.errors import DatasetCorrupt

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

__all__ = ["Archive", "looks_like_html", "members_of_folder", "members_of_tar", "sha256_of", "verify_archive"]


@dataclass(frozen=True)
class Archive:
    """A published archive.

    Attributes:
        filename: its name on the server.
        folder: the one folder inside, and the name of the folder that unpacking makes.
        layout: "binary" (fixed-size records) or "python" (pickles, see `pickled`).
        train: names of the training files in ``folder``, in order.
        test: names of the test files.
        size: bytes of the archive; None where it is not known.
        sha256: of the archive, lower-case hexadecimal.
    """

    filename: str
    folder: str
    layout: Literal["binary", "python"]
    train: tuple[str, ...]
    test: tuple[str, ...]
    size: int | None
    sha256: str


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def looks_like_html(head: bytes) -> bool:
    """Whether a file beginning with ``head`` is a web page (what a login or error page leaves behind)."""
    start = head.lstrip()[:64].lower()
    return start.startswith((b"<!doctype", b"<html", b"<head", b"<?xml", b"<!--", b"<body"))


def verify_archive(path: Path, archive: Archive, op: str, url: str) -> None:
    """Check size and SHA-256.

    Raises:
        DatasetCorrupt: they differ; says how, and what the file looks like.
    """
    size, digest = path.stat().st_size, sha256_of(path)
    if digest == archive.sha256 and archive.size in (None, size):
        return
    with path.open("rb") as file:
        head = file.read(512)
    if looks_like_html(head):
        guess = "it is an HTML page saved under the archive's name"
    elif archive.size is not None and size < archive.size and (not head or head[:2] == b"\x1f\x8b"):
        guess = f"it is truncated, {archive.size - size} bytes short"
    elif head[:2] != b"\x1f\x8b":
        guess = "it is not a gzip file"
    else:
        guess = "its contents differ"
    expected_size = "" if archive.size is None else f"{archive.size} bytes, "
    raise DatasetCorrupt(
        f"{op}: expected {path} to be {expected_size}SHA-256 {archive.sha256}; got {size} bytes, SHA-256 {digest}: "
        f"{guess}. Delete the file and fetch it again from {url}"
    )


def _check_size(size: int, limits: tuple[int, int], op: str, where: str) -> None:
    low, high = limits
    if not low <= size <= high:
        expected = f"{low} bytes" if low == high else f"{low} to {high} bytes"
        raise DatasetCorrupt(
            f"{op}: expected {where} to have {expected}; got {size} bytes. "
            "The file is truncated or another one; fetch the dataset again."
        )


def members_of_folder(folder: Path, limits: Mapping[str, tuple[int, int]], op: str) -> dict[str, bytes]:
    """Read the files ``limits`` names from an unpacked ``folder``, after a look at their sizes (least, most)."""
    contents = {}
    for name, sizes in limits.items():
        path = folder / name
        if not path.is_file():
            raise DatasetCorrupt(
                f"{op}: expected the files {', '.join(limits)} in {folder}; got no {name}. "
                "The folder is incomplete: remove it, or unpack the archive again."
            )
        _check_size(path.stat().st_size, sizes, op, str(path))
        contents[name] = path.read_bytes()
    return contents


def members_of_tar(
    path: Path, folder: str, limits: Mapping[str, tuple[int, int]], op: str, url: str
) -> dict[str, bytes]:
    """Read ``folder/name`` for each name of ``limits`` straight from a .tar.gz; nothing is written to disk.

    Members with any other name are passed over unread, so that absolute paths and ``..`` have nowhere to lead. A link,
    a device or a second member under one of the expected names is refused.
    """
    wanted = {f"{folder}/{name}": name for name in limits}
    contents: dict[str, bytes] = {}
    try:
        with tarfile.open(path, "r:gz") as tar:
            for member in tar:
                name = wanted.get(member.name)
                if name is None:
                    continue
                if not member.isreg() or name in contents:
                    what = "a second member of that name" if name in contents else "a link or a special file"
                    raise DatasetCorrupt(
                        f"{op}: expected {member.name} in {path} to be one regular file; got {what}. "
                        f"Do not trust this archive; fetch it again from {url}"
                    )
                _check_size(member.size, limits[name], op, f"{member.name} in {path}")
                file = tar.extractfile(member)
                contents[name] = file.read() if file is not None else b""
                if len(contents) == len(limits):
                    break
    except (tarfile.TarError, EOFError, zlib.error, OSError) as error:
        raise DatasetCorrupt(
            f"{op}: expected {path} to be a whole .tar.gz; got {type(error).__name__}: {error}. "
            f"Delete the file and fetch it again from {url}"
        ) from error
    missing = [f"{folder}/{name}" for name in limits if name not in contents]
    if missing:
        raise DatasetCorrupt(
            f"{op}: expected {', '.join(missing)} in {path}; got an archive without. "
            f"Delete the file and fetch it again from {url}"
        )
    return contents
