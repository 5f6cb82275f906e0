"""Reading weight files of every common form, without torch and without running anything that is in them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from swinpy.io.arrays import check_expansion, load_arrays
from swinpy.io.entries import Survey
from swinpy.io.errors import Fault, WeightsFileError, shown
from swinpy.io.safetensors.read import read_safetensors
from swinpy.io.source import Budget, open_source
from swinpy.io.torch.legacy_form import read_torch_legacy
from swinpy.io.torch.tar_form import read_torch_tar
from swinpy.io.torch.zip_form import read_torch_zip

if TYPE_CHECKING:
    import os

    from numpy.typing import NDArray

    from swinpy.io.records import Content, StoredTensor
    from swinpy.io.source import Source

    File = str | os.PathLike[str] | bytes | bytearray | memoryview

__all__ = ["Checkpoint", "read_checkpoint", "read_weights"]


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """What a weight file holds.

    Attributes:
        form: "torch zip", "torch legacy", "torch tar" or "safetensors".
        size: of the file in bytes.
        entry: where in the file the weights lie, names joined by dots; "" for the top.
        tensors: the weights by name; empty if they were not asked for.
        stored: the same names with shape, strides and element type as the file has them. bfloat16 is told here: its
            array is float32.
        skipped: by the path in the file, what was not read: other entries, and what is no tensor among the weights.
        unreadable: those of `skipped` that are tensors, but quantized, sparse, lazily conjugated, nameless or of a type
            that NumPy does not have.
        globals: names of code that the file's pickle refers to beyond what tensors need. Nothing of it was imported.
        metadata: free text of a safetensors file.
        tree: everything in the file as plain values and inert records. It may contain itself.
    """

    form: str
    size: int
    entry: str
    tensors: dict[str, NDArray[Any]] = field(repr=False)
    stored: dict[str, StoredTensor] = field(repr=False)
    skipped: dict[str, str]
    unreadable: tuple[str, ...]
    globals: tuple[str, ...]
    metadata: dict[str, str]
    tree: Any = field(repr=False)


def read_weights(file: File, *, entry: str | None = None, mmap: bool = False) -> dict[str, NDArray[Any]]:
    """Read a model's weights from a ``.pth``, ``.pt``, ``.bin`` or ``.safetensors`` file.

    The form is told by the content, never by the name: torch's zip form, its legacy stream, its oldest tar form, or
    safetensors. Nothing in the file is run, and reading takes at most twice the file's size in memory (and 8 MiB).

    Where a file holds more than weights, one part of it is taken: the first of these that holds tensors: ``model``,
    ``state_dict``, ``model_state_dict``, ``module``, ``net``, ``network``, ``weights``, ``params``, ``model_ema``,
    ``state_dict_ema``, ``ema``, ``params_ema``, ``teacher``. If there is none, the top of the file is taken, or the
    only dict of tensors in it. `read_checkpoint` says which part it was, and what else there is.

    Args:
        file: path of the file, or its content as bytes.
        entry: which part to read instead, names joined by dots, e.g. ``"model_ema"``; "" for the top.
        mmap: let the file itself be the arrays' memory where its layout allows, so that numbers are read when they are
            first used. They may be written to, which does not change the file. But a file that is overwritten in place
            changes them, and one that is truncated meanwhile ends the process.

    Returns:
        Arrays by name in the order of the file, in native byte order; bfloat16 is widened to float32, which is exact.
        Tensors that share memory in the file do so here, and strides are the file's. Arrays may be written to, except
        those that overlap themselves.

    Raises:
        WeightsFileError: the file is missing, damaged, hostile or of another kind, has no such entry or several that
            could be meant, or a tensor among the weights cannot be read.

    >>> import io, numpy as np
    >>> from swinpy.io import torch_file_bytes
    >>> data = torch_file_bytes({"model": {"norm.weight": np.ones(3, np.float32)}, "epoch": 300})
    >>> read_weights(data)
    {'norm.weight': array([1., 1., 1.], dtype=float32)}
    """
    op = "read_weights"
    found = _read(op, file, entry, load=True, strict=True, mmap=mmap)
    return found.tensors


def read_checkpoint(file: File, *, entry: str | None = None, load: bool = True) -> Checkpoint:
    """Read a weight file and say what is in it; see `read_weights`.

    Args:
        file: path of the file, or its content as bytes.
        entry: which part holds the weights, names joined by dots; None to search.
        load: whether to read the weights' numbers, or only names, shapes and types.

    Returns:
        The weights and a list of everything else. A tensor that cannot be read is listed, not refused.

    Raises:
        WeightsFileError: the file is missing, damaged, hostile or of another kind, or has no such entry or several that
            could be meant.
    """
    return _read("read_checkpoint", file, entry, load=load, strict=False, mmap=False)


def _read(op: str, file: File, entry: str | None, *, load: bool, strict: bool, mmap: bool) -> Checkpoint:
    name = "memory" if isinstance(file, (bytes, bytearray, memoryview)) else str(file)
    try:
        with open_source(file) as source:
            budget = Budget(source.size)
            return _collect(source, _parse(source, budget), budget, entry, load=load, strict=strict, mmap=mmap)
    except Fault as fault:
        raise WeightsFileError(fault.message(op, _shown_path(name))) from fault
    except OSError as error:
        unread = Fault("a readable file", error.strerror or str(error), "Check the disk and try again.")
        raise WeightsFileError(unread.message(op, _shown_path(name))) from error


def _shown_path(path: str) -> str:
    """A path for a message: as it is, unless it could garble a terminal."""
    return path if path.isprintable() else ascii(path)


def _collect(
    source: Source, content: Content, budget: Budget, entry: str | None, *, load: bool, strict: bool, mmap: bool
) -> Checkpoint:
    survey = Survey(content.tree, budget=budget)
    path, weights = survey.choose(entry)
    skipped = survey.around(path)
    stored, unreadable = survey.split(weights, "".join(f"{name}." for name in path), skipped)
    if strict and unreadable:
        got = f"{shown(unreadable[0])}, {skipped[unreadable[0]]}"
        fix = "Convert it to float32 where it was made; read_checkpoint reads what else is there."
        raise Fault(f"tensors that NumPy can hold among the {len(weights)} weights", got, fix)
    check_expansion(stored, source.size)
    return Checkpoint(
        form=content.form,
        size=source.size,
        entry=".".join(path),
        tensors=load_arrays(stored, source, content.order, budget, mmap=mmap) if load else {},
        stored=stored,
        skipped=skipped,
        unreadable=tuple(unreadable),
        globals=content.unknown,
        metadata=content.metadata,
        tree=content.tree,
    )


# ---- which form it is

_KINDS = (
    (b"version https://git-lfs", "a git-lfs pointer", "Run `git lfs pull`."),
    (b"\x89HDF\r\n", "an HDF5 file", "Convert it to safetensors where it was made."),
    (b"\x93NUMPY", "a NumPy file", "Read it with numpy.load(..., allow_pickle=False)."),
    (b"\x1f\x8b", "a gzip file", "Unpack it first."),
    (b"<", "text that starts like a web page", "The download gave an error page; look at it and fetch the file again."),
)


def _parse(source: Source, budget: Budget) -> Content:
    head = source.read(0, min(source.size, 512))
    if head[:2] == b"PK":
        return read_torch_zip(source, budget)
    if head[257:262] == b"ustar":
        return read_torch_tar(source, budget)
    # Ahead of the pickles: a header of 640 bytes starts with the two bytes of one.
    if head[4:9] == b"\0\0\0\0{":
        return read_safetensors(source, budget)
    if head[:1] == b"\x80":
        return read_torch_legacy(source, budget)
    expected = "a file of torch.save or a safetensors file"
    for start, what, fix in _KINDS:
        if head.lstrip().startswith(start):
            raise Fault(expected, what, fix)
    raise Fault(expected, f"{source.size} bytes that start {shown(head[:8])}" if head else "an empty file")
