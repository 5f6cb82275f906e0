"""Durable file operations, all through one seam.

Everything that reaches the disk goes through the object ``_fs``, one method for one system call. A test puts
another object there and makes the k-th call fail, for every k; nothing else in the project need know of it.
"""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import secrets
import stat
from typing import TYPE_CHECKING

try:
    import fcntl
except ImportError:  # on Windows
    fcntl = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = [
    "locked_file",
    "make_folder",
    "make_new_folder",
    "map_file",
    "open_regular",
    "read_at",
    "read_chunks",
    "read_into",
    "read_regular",
    "remove_tree",
    "rename",
    "replace_file",
    "sync_folder",
    "temporary_name",
    "write_new",
]

# One write(2) moves at most about 2 GiB on Linux; smaller pieces also let a signal be noticed in between.
_WRITE_CHUNK = 1 << 26
_READ_CHUNK = 1 << 30
# File systems that cannot sync a folder (some network and FUSE mounts) answer with one of these.
_NO_FOLDER_SYNC = {errno.EINVAL, errno.ENOTSUP, errno.EBADF}
# And those that cannot lock a file (some network mounts) with one of these; so does a system without flock.
_NO_LOCKS = {errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL}


class FileSystem:
    """The system calls that this project uses on files, each one a method."""

    def mkdir(self, path: Path) -> None:
        """Make a folder."""
        os.mkdir(path)

    def open(self, path: Path, flags: int) -> int:
        """Open a file, as ``flags`` say; returns its descriptor."""
        return os.open(path, flags | os.O_CLOEXEC, 0o666)

    def write(self, fd: int, data: memoryview) -> int:
        """Write a part of ``data``; returns how many bytes."""
        return os.write(fd, data)

    def truncate(self, fd: int) -> None:
        """Empty an open file."""
        os.ftruncate(fd, 0)

    def fsync(self, fd: int) -> None:
        """Wait until a file is on the disk."""
        os.fsync(fd)

    def close(self, fd: int) -> None:
        """Close a file that was written."""
        os.close(fd)

    def rename(self, source: Path, target: Path) -> None:
        """Rename a file or folder."""
        os.rename(source, target)

    def replace(self, source: Path, target: Path) -> None:
        """Rename a file over another one."""
        os.replace(source, target)

    def unlink(self, path: Path) -> None:
        """Remove a file."""
        os.unlink(path)

    def rmdir(self, path: Path) -> None:
        """Remove an empty folder."""
        os.rmdir(path)

    def open_read(self, path: Path, flags: int) -> int:
        """Open a file that exists; returns its descriptor."""
        return os.open(path, flags | os.O_CLOEXEC)

    def read(self, fd: int, count: int) -> bytes:
        """At most ``count`` bytes from where the descriptor stands."""
        return os.read(fd, count)

    def read_at(self, fd: int, count: int, position: int) -> bytes:
        """At most ``count`` bytes from ``position``."""
        return os.pread(fd, count, position)

    def read_into(self, fd: int, target: memoryview, position: int) -> int:
        """Fill a part of ``target`` from ``position``; returns how many bytes."""
        return os.preadv(fd, [target], position)

    def map(self, fd: int, size: int) -> mmap.mmap:
        """A private mapping: what is written to it does not reach the file."""
        return mmap.mmap(fd, size, access=mmap.ACCESS_COPY)

    def lock(self, fd: int) -> None:
        """Lock an open file for this process alone, or raise BlockingIOError where another one has it."""
        if fcntl is None:
            raise OSError(errno.ENOSYS, "this system has no flock")
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def close_read(self, fd: int) -> None:
        """Close a file that was read."""
        os.close(fd)


_fs = FileSystem()


def temporary_name(kind: str, suffix: str = "") -> str:
    """A name such as ``.tmp-1234-9f03ab52``: the writer's pid, so that a sweep can tell stale from live.

    Args:
        kind: the word after the dot.
        suffix: put after another hyphen when not empty.
    """
    name = f".{kind}-{os.getpid()}-{secrets.token_hex(4)}"
    return f"{name}-{suffix}" if suffix else name


def _write_all(fd: int, data: bytes, path: Path) -> None:
    rest = memoryview(data)
    while rest:
        written = _fs.write(fd, rest[:_WRITE_CHUNK])
        if written <= 0:
            raise OSError(errno.EIO, "a write stored no byte", str(path))
        rest = rest[written:]


def write_new(path: Path, data: bytes) -> None:
    """Write a file that must not exist yet, and wait until its bytes are on the disk.

    Args:
        path: the file to make.
        data: all of its bytes.

    Raises:
        OSError: any of the calls failed; a partial file may be left.
    """
    fd = _fs.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    try:
        _write_all(fd, data, path)
        _fs.fsync(fd)
    finally:
        _fs.close(fd)


def sync_folder(path: Path) -> None:
    """Wait until the names in a folder are on the disk; a rename survives a power cut only after this.

    Args:
        path: the folder.

    Raises:
        OSError: the folder cannot be opened or synced.
    """
    fd = _fs.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        _fs.fsync(fd)
    except OSError as error:
        if error.errno not in _NO_FOLDER_SYNC:
            raise
    finally:
        _fs.close(fd)


def make_new_folder(path: Path) -> None:
    """Make a folder that must not exist yet, in one that does.

    Args:
        path: the folder.

    Raises:
        OSError: it cannot be made.
    """
    _fs.mkdir(path)


def make_folder(path: Path) -> None:
    """Make a folder and its missing parents, durably.

    Args:
        path: the folder.

    Raises:
        OSError: it cannot be made, or a file stands in its place.
    """
    if path.is_dir():
        return
    if path.parent != path:
        make_folder(path.parent)
    try:
        _fs.mkdir(path)
    except FileExistsError:
        if not path.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, "a file stands where a folder should be", str(path)) from None
    sync_folder(path.parent)


def rename(source: Path, target: Path) -> None:
    """Give a file or folder another name; `target` must not exist.

    Args:
        source: the present name.
        target: the new name, on the same file system.

    Raises:
        OSError: the rename failed.
    """
    _fs.rename(source, target)


def remove_tree(path: Path) -> None:
    """Remove a folder and what is in it, or a single file; links are removed, never followed.

    Args:
        path: what to remove.

    Raises:
        OSError: something could not be removed; the rest is left.
    """
    if path.is_symlink() or not path.is_dir():
        _fs.unlink(path)
        return
    for child in sorted(path.iterdir()):
        remove_tree(child)
    _fs.rmdir(path)


@contextlib.contextmanager
def locked_file(path: Path, text: bytes) -> Iterator[OSError | None]:
    """A block in which this process alone holds a file. The lock ends with the process, however that ends.

    Args:
        path: the file, made if need be; it stays, because removing it would race with whoever has just opened it.
        text: written to the file once it is locked: who holds it.

    Yields:
        None; or, where the file system has no locks, its error: then there is no protection.

    Raises:
        BlockingIOError: somebody else holds it.
        OSError: the file cannot be made or written.
    """
    fd = _fs.open(path, os.O_RDWR | os.O_CREAT)
    try:
        without = None
        try:
            _fs.lock(fd)
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            without = error
        _fs.truncate(fd)
        _write_all(fd, text, path)
        yield without
    finally:
        _fs.close(fd)


@contextlib.contextmanager
def open_regular(path: Path, *, follow: bool = True) -> Iterator[tuple[int, int]]:
    """Open a regular file for reading, refusing pipes, devices and folders before reading a byte.

    Args:
        path: the file.
        follow: whether `path` may be a symbolic link.

    Yields:
        The descriptor, closed at the end, and the number of bytes in the file.

    Raises:
        OSError: it cannot be opened, or is no regular file.
    """
    # O_NONBLOCK: opening a pipe that nobody writes to would otherwise wait forever.
    fd = _fs.open_read(path, os.O_RDONLY | os.O_NONBLOCK | (0 if follow else os.O_NOFOLLOW))
    try:
        info = os.fstat(fd)
        if not stat.S_ISREG(info.st_mode):
            raise OSError(errno.EINVAL, "not a regular file", str(path))
        yield fd, info.st_size
    finally:
        _fs.close_read(fd)


def read_at(fd: int, count: int, position: int) -> bytes:
    """Read bytes of an open file from a position, whatever the descriptor's own is.

    Args:
        fd: the descriptor.
        count: the most bytes to read.
        position: of the first byte in the file.

    Returns:
        The bytes, at most `count`; none at the end of the file.

    Raises:
        OSError: the read failed.
    """
    return _fs.read_at(fd, min(count, _READ_CHUNK), position)


def read_into(fd: int, target: memoryview, position: int) -> int:
    """Read bytes of an open file into memory, from a position, whatever the descriptor's own is.

    Args:
        fd: the descriptor.
        target: where the bytes go.
        position: of the first byte in the file.

    Returns:
        The number of bytes read, at most ``len(target)``; 0 at the end of the file.

    Raises:
        OSError: the read failed.
    """
    return _fs.read_into(fd, target[:_READ_CHUNK], position)


def map_file(fd: int, size: int) -> mmap.mmap:
    """Map an open file into memory. What is written there stays there: the file does not change.

    Args:
        fd: the descriptor, which may be closed afterwards.
        size: the number of bytes to map, at least 1.

    Returns:
        The mapping. Touching it past the end of a file that was cut short meanwhile ends the process (SIGBUS).

    Raises:
        OSError: the file cannot be mapped.
        ValueError: it is shorter than `size`.
    """
    return _fs.map(fd, size)


def read_chunks(path: Path, *, limit: int | None = None, follow: bool = True, chunk: int = 1 << 22) -> Iterator[bytes]:
    """Yield a regular file's bytes, refusing pipes, devices and folders before reading a byte.

    Args:
        path: the file.
        limit: the most bytes that the file may have.
        follow: whether `path` may be a symbolic link.
        chunk: the most bytes in one piece.

    Yields:
        Pieces of the file, in order.

    Raises:
        OSError: it cannot be read, is no regular file, or is larger than `limit`.
    """
    with open_regular(path, follow=follow) as (fd, size):
        if limit is not None and size > limit:
            raise OSError(errno.EFBIG, f"{size} bytes where at most {limit} are allowed", str(path))
        left = size
        while left and (piece := _fs.read(fd, min(left, chunk))):
            left -= len(piece)
            yield piece


def read_regular(path: Path, *, limit: int | None = None, follow: bool = True) -> bytes:
    """A regular file's bytes; see `read_chunks`.

    Args:
        path: the file.
        limit: the most bytes that the file may have.
        follow: whether `path` may be a symbolic link.

    Returns:
        The bytes.

    Raises:
        OSError: it cannot be read, is no regular file, or is larger than `limit`.
    """
    pieces = list(read_chunks(path, limit=limit, follow=follow, chunk=_READ_CHUNK))
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def replace_file(path: Path, data: bytes) -> None:
    """Write a file so that a reader, or a crash, finds the old bytes or the new ones and nothing between.

    Args:
        path: the file to make or replace.
        data: all of its bytes.

    Raises:
        OSError: nothing was replaced, or the last folder sync failed.
    """
    temporary = path.with_name(temporary_name("tmp"))
    try:
        write_new(temporary, data)
        if read_regular(temporary) != data:
            raise OSError(errno.EIO, "the bytes read back differ from those written", str(path))
        _fs.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            _fs.unlink(temporary)
        raise
    sync_folder(path.parent)
