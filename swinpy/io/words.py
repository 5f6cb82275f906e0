"""Errors in words, for the command lines."""

from __future__ import annotations

__all__ = ["in_words", "plain"]


def in_words(error: BaseException) -> str:
    """The message of an error; of one from the operating system, what it said and which file it was about.

    >>> in_words(FileNotFoundError(2, "No such file or directory", "a.npz"))
    'a.npz: No such file or directory. Check the path, its permissions and the room on the disk.'
    >>> in_words(OSError(5, "Input/output error"))
    'Input/output error. Check the disk and what the output goes to.'
    """
    if not isinstance(error, OSError) or type(error).__module__ != "builtins" or error.strerror is None:
        return str(error)
    if error.filename is None:
        return f"{error.strerror}. Check the disk and what the output goes to."
    path = error.filename2 or error.filename
    return f"{path}: {error.strerror}. Check the path, its permissions and the room on the disk."


def plain(text: str) -> str:
    """Text from a file as it is, unless it could garble a terminal; then escaped.

    >>> plain("ant"), plain("\x1b[2J")
    ('ant', "'\\\\x1b[2J'")
    """
    return text if text.isprintable() else ascii(text)
