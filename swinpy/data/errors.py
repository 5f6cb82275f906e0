"""What can be wrong with the files of a dataset."""

from __future__ import annotations

__all__ = ["DatasetCorrupt", "DatasetMissing"]


class DatasetMissing(FileNotFoundError):
    """The files of a dataset are not there (or could not be fetched)."""


class DatasetCorrupt(ValueError):
    """The files of a dataset are there, but are not what they should be."""
