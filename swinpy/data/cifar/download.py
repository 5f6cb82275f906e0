"""Fetching an archive over HTTPS: resumable, checked before it gets its name, and never begun unasked."""

from __future__ import annotations

import http.client
import os
import re
import urllib.error
import urllib.request
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from swinpy.data.cifar.archive import Archive, looks_like_html, sha256_of
from swinpy.data.errors import DatasetMissing

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

__all__ = ["fetch"]

_CHUNK = 1 << 18
_SIZE_UNKNOWN_LIMIT = 1 << 30  # where an archive's size is not known, stop a server that never ends


class _Unusable(Exception):
    """Why one address did not give the archive; ``retry`` where asking it again may help."""

    def __init__(self, reason: str, retry: bool = False) -> None:
        super().__init__(reason)
        self.retry = retry


class _SameScheme(urllib.request.HTTPRedirectHandler):
    """Follows redirects, but not from https to http."""

    def __init__(self, schemes: Sequence[str]) -> None:
        self._schemes = schemes

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        _check_scheme(newurl, self._schemes)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def fetch(
    urls: Sequence[str],
    target: Path,
    archive: Archive,
    op: str,
    *,
    timeout: float = 30.0,
    attempts: int = 3,
    schemes: Sequence[str] = ("https",),
) -> Path:
    """Fetch ``archive`` from the first of ``urls`` that has it.

    The bytes go to ``<target>.part``, which a later call resumes where the server allows ranges; size and SHA-256 are
    checked before the file is renamed to ``target``.

    Args:
        urls: addresses of the file, tried in order.
        target: the file to make.
        archive: what its size and SHA-256 must be.
        op: who asks, for messages.
        timeout: seconds without an answer before an attempt is given up.
        attempts: how often one address is asked when the connection breaks.
        schemes: what an address (and a redirect) may begin with; tests on the loopback interface allow "http".

    Raises:
        DatasetMissing: no address gave the archive; names each with its reason.
        OSError: the folder cannot be written.
    """
    part = target.with_name(target.name + ".part")
    reasons = []
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        for url in urls:
            reason = _try_address(url, part, archive, timeout, attempts, schemes)
            if reason is None:
                os.replace(part, target)
                return target
            reasons.append(f"{url}: {reason}")
    except OSError as error:
        raise OSError(
            f"{op}: expected to write {part}; got {error.strerror or error}. "
            "Choose a folder that can be written and has room, with --data-dir."
        ) from error
    kept = f" What has come is kept in {part} and will be resumed." if part.exists() else ""
    raise DatasetMissing(
        f"{op}: expected to fetch {archive.filename} (SHA-256 {archive.sha256}); got {'; '.join(reasons)}.{kept} "
        f"Try again, set SWINPY_CIFAR_URL to a mirror, or put the file into {target.parent} yourself."
    )


def _try_address(
    url: str, part: Path, archive: Archive, timeout: float, attempts: int, schemes: Sequence[str]
) -> str | None:
    """Bring ``part`` up to the whole, checked archive; the reason where that fails."""
    for attempt in range(1, attempts + 1):
        try:
            _check_scheme(url, schemes)
            _receive(url, part, archive, timeout, schemes)
            _check_digest(part, archive)
            return None
        except _Unusable as error:
            if not error.retry or attempt == attempts:
                return str(error)
    return "not tried"


def _check_scheme(url: str, schemes: Sequence[str]) -> None:
    try:
        scheme = urlsplit(url).scheme
    except ValueError as error:
        raise _Unusable(f"an unreadable address ({error})") from error
    if scheme not in schemes:
        raise _Unusable(f"scheme {scheme!r} (only {', '.join(schemes)} is fetched)")


def _receive(url: str, part: Path, archive: Archive, timeout: float, schemes: Sequence[str]) -> None:
    """Bring ``part`` up to the whole file, continuing what is there."""
    have = part.stat().st_size if part.exists() else 0
    if have and archive.size in (None, have) and sha256_of(part) == archive.sha256:
        return  # an earlier call ended between the last byte and the renaming
    request = urllib.request.Request(url, headers={"User-Agent": "swinpy", "Accept-Encoding": "identity"})
    if have:
        request.add_header("Range", f"bytes={have}-")
    opener = urllib.request.build_opener(_SameScheme(schemes))
    try:
        response = opener.open(request, timeout=timeout)
    except urllib.error.HTTPError as error:
        with error:
            if error.code == 416 and have:
                raise _cannot_continue(part) from None
            raise _Unusable(f"HTTP {error.code} {error.reason}", retry=error.code >= 500) from None
    except urllib.error.URLError as error:
        raise _Unusable(str(error.reason)) from error
    except (http.client.HTTPException, OSError) as error:
        raise _broken(error) from error
    with response:
        _copy(response, part, have, archive)


def _broken(error: Exception) -> _Unusable:
    return _Unusable(f"{type(error).__name__}: {error}", retry=True)


def _read(response: Any) -> bytes:
    """The next piece. Apart from writing, so that a lost connection is not taken for a full disk."""
    try:
        return bytes(response.read(_CHUNK))
    except (http.client.HTTPException, OSError) as error:
        raise _broken(error) from error


def _cannot_continue(part: Path) -> _Unusable:
    part.unlink()
    return _Unusable("the server cannot continue what was fetched before", retry=True)


def _copy(response: Any, part: Path, have: int, archive: Archive) -> None:
    """Write the body to ``part``: after what is there where the server honours ranges, else from the beginning."""
    from tqdm import tqdm

    at = have if response.status == 206 else 0
    if at and not re.match(rf"bytes {at}-", response.headers.get("Content-Range", "")):
        raise _cannot_continue(part)
    chunk = _read(response)
    if not chunk:
        raise _Unusable("an empty answer", retry=True)
    if not at and looks_like_html(chunk):  # seen before the file is opened: a login page must not cost what has come
        raise _Unusable("an HTML page instead of the archive")
    limit = archive.size or _SIZE_UNKNOWN_LIMIT
    # disable=None: no bar where stderr is no terminal
    with (
        part.open("ab" if at else "wb") as file,
        tqdm(total=archive.size, initial=at, unit="B", unit_scale=True, desc=archive.filename, disable=None) as bar,
    ):
        while chunk:
            at += len(chunk)
            if at > limit:
                part.unlink()
                raise _Unusable(f"more than the {limit} bytes expected")
            file.write(chunk)
            bar.update(len(chunk))
            chunk = _read(response)
        file.flush()
        os.fsync(file.fileno())
    if archive.size is not None and at < archive.size:
        raise _Unusable(f"the connection ended after {at} of {archive.size} bytes", retry=True)


def _check_digest(part: Path, archive: Archive) -> None:
    digest = sha256_of(part)
    if digest != archive.sha256:
        size = part.stat().st_size
        part.unlink()  # what is wrong somewhere cannot be resumed
        raise _Unusable(f"{size} bytes with SHA-256 {digest}; thrown away", retry=True)
