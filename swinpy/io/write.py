"""Write a file of weights: its suffix says which container it is."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from swinpy.io.safetensors.write import write_tensors
from swinpy.io.torch.write import write_torch_file

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping

    import numpy as np

__all__ = ["TORCH_SUFFIXES", "has_metadata", "write_weights"]

TORCH_SUFFIXES = (".pth", ".pt", ".bin")


def has_metadata(path: str | os.PathLike[str], wrapper: str) -> bool:
    """Whether a file has a place for metadata beside the tensors: not a torch file that is their dict alone."""
    return bool(wrapper) or Path(path).suffix.lower() not in TORCH_SUFFIXES


def write_weights(
    path: str | os.PathLike[str],
    arrays: Mapping[str, np.ndarray[Any, Any]],
    wrapper: str = "",
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write arrays to the container that the suffix names.

    Args:
        path: .safetensors, or .pth, .pt or .bin.
        arrays: by name.
        wrapper: for torch files, the key under which the dict of tensors is put; "" for none.
        metadata: free text by name, for the header of a safetensors file, and beside the dict of tensors in a torch
            file with a wrapper; left out of one without.

    Raises:
        ValueError: for another suffix.
        OSError: the disk refused, or there is no such folder; the message names ``path``. A file that was there is as
            it was.
    """
    try:
        _write(path, arrays, wrapper, metadata or {})
    except OSError as error:
        raise _about(path, error) from error


def _about(path: str | os.PathLike[str], error: OSError) -> OSError:
    """The error in terms of the file that was asked for, not of the temporary one beside it."""
    folder = Path(path).parent
    if folder.is_dir():
        got, fix = error.strerror or str(error), "Check its permissions and the room on the disk."
    else:
        got, fix = f"no folder {folder}", "Make it first, or choose another."
    told = type(error)(f"write_weights: expected to write {Path(path)}; got {got}. {fix}")
    told.errno = error.errno
    return told


def _write(
    path: str | os.PathLike[str],
    arrays: Mapping[str, np.ndarray[Any, Any]],
    wrapper: str,
    metadata: Mapping[str, str],
) -> None:
    suffix = Path(path).suffix.lower()
    if suffix == ".safetensors":
        # transformers asks for this entry, which says whose tensors they are.
        write_tensors(path, arrays, {"format": "pt", **metadata})
    elif suffix in TORCH_SUFFIXES:
        write_torch_file(path, {wrapper: dict(arrays), **metadata} if wrapper else arrays)
    else:
        raise ValueError(
            f"write_weights: expected a file name that ends in .safetensors, {', '.join(TORCH_SUFFIXES)}; got "
            f"{str(path)!r}. The suffix chooses the container."
        )
