"""From described tensors to arrays: each storage that is wanted is read once, straight into the memory it stays in."""

from __future__ import annotations

import math
import sys
from typing import TYPE_CHECKING, Any

import numpy as np

from swinpy.io.costs import ENTRY
from swinpy.io.errors import Fault, shown
from swinpy.io.records import listed

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from mmap import mmap as Buffer

    from numpy.typing import NDArray

    from swinpy.io.records import Dtype, Storage, StoredTensor
    from swinpy.io.source import Budget, Source

__all__ = ["check_expansion", "load_arrays"]

_EXPANSION = 16
_FREE_EXPANSION = 1 << 23
# Storages share allocations of this size: the system hands out large ones in large pages, which halves the time. More
# would keep too much alive for the sake of one array.
_ARENA = 1 << 25
_ALIGNMENT = 64
# Of Python objects: for a storage, and for a tensor and each of its dimensions.
_STORAGE, _VIEW, _DIM = 900, 300, 16
_CHUNK = 1 << 16
_NATIVE = {"little": "<", "big": ">"}[sys.byteorder]
_Key = tuple[int, str]


def check_expansion(tensors: Mapping[str, StoredTensor], size: int) -> None:
    """Refuse tensors that, written out, would be far more than the file.

    In a file a stride of 0 repeats elements at no cost, and a thousand tensors may view one storage. To read such a
    file costs no memory, but to use it does.

    Args:
        tensors: by name.
        size: of the file in bytes.

    Raises:
        Fault: together they are more than `_EXPANSION` times the file (and 8 MiB).
    """
    total = 0
    for name, tensor in tensors.items():
        total += math.prod(tensor.shape) * tensor.dtype.itemsize
        if total > _EXPANSION * size + _FREE_EXPANSION:
            raise Fault(
                f"tensors that are together at most {_EXPANSION} times the file's {size} bytes",
                f"{shown(total)} bytes up to {shown(name)}, of shape {listed(tensor.shape)}",
                "Such a file is made to exhaust memory; get it from where it was published.",
            )


def load_arrays(
    tensors: Mapping[str, StoredTensor], source: Source, order: str, budget: Budget, *, mmap: bool
) -> dict[str, NDArray[Any]]:
    """Read tensors.

    Args:
        tensors: by name, all readable.
        source: the file.
        order: byte order in the file, "<" or ">".
        budget: what it may take.
        mmap: whether the file itself may serve as memory, where its layout allows that.

    Returns:
        By name, in native byte order, with the strides of the file; tensors on one storage share memory. An array
        that overlaps itself is read-only.

    Raises:
        Fault: the file is too short, or a bool is neither 0 nor 1.
    """
    budget.take(sum(ENTRY + _VIEW + _DIM * len(tensor.shape) for tensor in tensors.values()))
    budget.take(_STORAGE * len({id(tensor.storage) for tensor in tensors.values()}))
    wanted = {_key(tensor): (tensor.storage, tensor.dtype) for tensor in tensors.values()}
    whole = source.mapped() if mmap else None
    inside: dict[_Key, NDArray[Any]] = {}
    if whole is not None:
        for key in [key for key, pair in wanted.items() if _fits(*pair, order)]:
            inside[key] = _elements(whole, *wanted.pop(key))
    budget.take(sum(_room(*pair) + _ALIGNMENT for pair in wanted.values()))
    memory = dict(zip(wanted, _allocate(_room(*pair) for pair in wanted.values()), strict=True))
    for key, (storage, dtype) in wanted.items():
        memory[key] = _fill(memory[key], storage, dtype, source, order)
    memory |= inside
    return {name: _view(memory[_key(tensor)], tensor) for name, tensor in tensors.items()}


def _fits(storage: Storage, dtype: Dtype, order: str) -> bool:
    """Whether the bytes in the file are an array as they lie. Arithmetic on unaligned numbers is slow or impossible."""
    return order == _NATIVE and dtype.name != "bfloat16" and storage.position % dtype.itemsize == 0


def _elements(whole: Buffer, storage: Storage, dtype: Dtype) -> NDArray[Any]:
    count = storage.nbytes // dtype.itemsize
    raw: NDArray[Any] = np.frombuffer(whole, np.uint8, count * dtype.itemsize, storage.position)
    _check_bools(raw, storage, dtype)
    return raw.view(np.dtype(dtype.code))


def _check_bools(raw: NDArray[Any], storage: Storage, dtype: Dtype) -> None:
    if dtype.name == "bool" and raw.size and raw.max() > 1:
        raise Fault(f"bools of 0 and 1 in storage {shown(storage.key)}", f"a byte {int(raw.max())}")


def _key(tensor: StoredTensor) -> _Key:
    return id(tensor.storage), tensor.dtype.name


def _room(storage: Storage, dtype: Dtype) -> int:
    """Bytes that a storage takes in memory: bfloat16 doubles."""
    return storage.nbytes // dtype.itemsize * np.dtype(dtype.code).itemsize


def _allocate(sizes: Iterable[int]) -> list[NDArray[Any]]:
    """One stretch of bytes for each size, out of few allocations."""
    groups: list[list[int]] = [[]]
    room = 0
    for size in sizes:
        padded = -(-size // _ALIGNMENT) * _ALIGNMENT
        if groups[-1] and room + padded > _ARENA:
            groups.append([])
            room = 0
        groups[-1].append(size)
        room += padded
    pieces: list[NDArray[Any]] = []
    for group in groups:
        starts = [0]
        for size in group:
            starts.append(starts[-1] + -(-size // _ALIGNMENT) * _ALIGNMENT)
        arena = np.empty(starts[-1], np.uint8)
        pieces += [arena[at : at + size] for at, size in zip(starts, group, strict=False)]
    return pieces


def _fill(room: NDArray[Any], storage: Storage, dtype: Dtype, source: Source, order: str) -> NDArray[Any]:
    """The elements of a storage in the memory set aside for them."""
    numel = storage.nbytes // dtype.itemsize
    count = numel * dtype.itemsize
    raw = room[len(room) - count :]  # bfloat16 goes into the upper half
    if count:
        source.read_into(storage.position, raw.data)
    if dtype.name == "bfloat16":
        return _widen(room, numel, order)
    _check_bools(raw, storage, dtype)
    values: NDArray[Any] = raw.view(np.dtype(dtype.code))
    return values if order == _NATIVE else values.byteswap(inplace=True)


def _widen(room: NDArray[Any], numel: int, order: str) -> NDArray[Any]:
    """Turn bfloat16 in the upper half of the memory into float32 in all of it.

    In chunks from the front, which never overwrites what is still to be read: element k is written up to byte 4 (k +
    1), and the next one is read from byte 2 numel + 2 (k + 1), which is no less.
    """
    halves: NDArray[Any] = room[2 * numel :].view(np.dtype(order + "u2"))
    words: NDArray[Any] = room.view(np.uint32)
    for at in range(0, numel, _CHUNK):
        words[at : at + _CHUNK] = halves[at : at + _CHUNK].astype(np.uint32) << 16
    return room.view(np.float32)


def _view(elements: NDArray[Any], tensor: StoredTensor) -> NDArray[Any]:
    shape = tensor.shape
    contiguous, expected, overlaps = True, 1, False
    for size, stride in zip(reversed(shape), reversed(tensor.strides), strict=True):
        if size != 1 and stride != expected:
            contiguous = False
        expected *= size
    count = math.prod(shape)
    if contiguous or not count:
        at = tensor.offset if count else 0
        return elements[at : at + count].reshape(shape)
    step = elements.dtype.itemsize
    # The stride of an axis of one element means nothing and may be any number.
    strides = [stride * step if size > 1 else 0 for size, stride in zip(shape, tensor.strides, strict=True)]
    reach = 1
    for size, stride in sorted(zip(shape, tensor.strides, strict=True), key=lambda pair: pair[1]):
        if size > 1:
            overlaps = overlaps or stride < reach
            reach += (size - 1) * stride
    view: NDArray[Any] = np.ndarray(shape, elements.dtype, elements.data, tensor.offset * step, strides)
    view.flags.writeable = not overlaps
    return view
