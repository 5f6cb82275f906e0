"""What the names and calls in torch's pickles stand for: the few that describe tensors, and records for all others."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from swinpy.io.weights.errors import Fault, shown
from swinpy.io.weights.records import DTYPES, STORAGES, Call, Global, Storage, StoredTensor

if TYPE_CHECKING:
    from collections.abc import Callable

    from swinpy.io.weights.records import Dtype

__all__ = ["MAX_DIMS", "TorchObjects", "as_count", "check_view", "storage_dtype"]

MAX_DIMS = 64  # NumPy's limit, and torch's own for what it saves
_REBUILD = "torch._utils"
_ORDERED = Global("collections", "OrderedDict")
_TENSOR_CLASSES = (Global("torch", "Tensor"), Global("torch.nn.parameter", "Parameter"))
_STORAGE_MODULES = ("torch", "torch.cuda", "torch.storage")


def as_count(value: Any) -> int | None:
    """The value when it is a whole number from 0 to 2**63 - 1, else None (so for True, too)."""
    return value if type(value) is int and 0 <= value < 1 << 63 else None


def storage_dtype(kind: Any) -> Dtype:
    """The element type that a storage class stands for.

    Raises:
        Fault: it is no storage class that is known.
    """
    if type(kind) is Global and kind.module in _STORAGE_MODULES and kind.name in STORAGES:
        return STORAGES[kind.name]
    raise Fault("one of torch's storage classes", str(kind) if type(kind) is Global else shown(kind))


def _dtype(name: Any) -> Dtype | None:
    return DTYPES.get(name.name) if type(name) is Global and name.module == "torch" else None


def _counts(values: Any, what: str) -> tuple[int, ...]:
    if type(values) not in (tuple, list) or any(as_count(value) is None for value in values):
        raise Fault(f"{what} of a tensor as whole numbers, none negative", _list(values))
    if len(values) > MAX_DIMS:
        raise Fault(f"a tensor of at most {MAX_DIMS} dimensions", f"one of {len(values)}")
    return tuple(values)


def _list(values: Any) -> str:
    if type(values) not in (tuple, list):
        return shown(values)
    return "(" + ", ".join(shown(value) for value in values[:8]) + (", ...)" if len(values) > 8 else ")")


def check_view(storage: Storage, dtype: Dtype, offset: Any, shape: Any, strides: Any) -> StoredTensor:
    """A tensor over a storage, once it is sure that it lies within.

    Args:
        storage: what it views.
        dtype: of its elements.
        offset: of its first element, in elements.
        shape: of the tensor.
        strides: in elements, one a dimension.

    Raises:
        Fault: numbers that are none, negative or too large, or a tensor that reaches beyond its storage.
    """
    shape, strides = _counts(shape, "the shape"), _counts(strides, "the strides")
    if len(shape) != len(strides):
        raise Fault("as many strides as dimensions", f"{len(strides)} for {len(shape)}")
    numel = storage.nbytes // dtype.itemsize
    first = as_count(offset)
    last = None if first is None else first + sum((d - 1) * s for d, s in zip(shape, strides, strict=True) if d)
    empty = 0 in shape
    if first is None or last is None or (first > numel if empty else last >= numel):
        raise Fault(
            f"a tensor within its storage of {numel} elements",
            f"offset {shown(offset)}, shape {_list(shape)}, strides {_list(strides)}",
        )
    if math.prod(d for d in shape if d) * 16 >= 1 << 63:
        raise Fault("a tensor that can be addressed", f"shape {_list(shape)}")
    return StoredTensor(storage, dtype, first, shape, strides)


class TorchObjects:
    """The meaning of names, calls and persistent ids in one file.

    Attributes:
        unknown: the names that were met and mean nothing here, in the order of their first use.
    """

    def __init__(self, identity: Callable[[Any], Any]) -> None:
        """Start.

        Args:
            identity: gives persistent ids their meaning, which differs between the forms of file.
        """
        self.unknown: dict[Global, None] = {}
        self._identity = identity
        self._calls: dict[Global, Callable[[tuple[Any, ...]], Any]] = {
            _ORDERED: _ordered_dict,
            Global(_REBUILD, "_rebuild_tensor"): lambda a: _tensor(a, 4, 4),
            Global(_REBUILD, "_rebuild_tensor_v2"): lambda a: _tensor(a, 6, 7),
            Global(_REBUILD, "_rebuild_tensor_v3"): _tensor_v3,
            Global(_REBUILD, "_rebuild_parameter"): lambda a: _parameter(a, 3),
            Global(_REBUILD, "_rebuild_parameter_with_state"): lambda a: _parameter(a, 4),
            Global("torch._tensor", "_rebuild_from_type_v2"): self._from_type,
        }

    def name(self, name: Global) -> Global:
        """Note a name."""
        known = name in self._calls or name in _TENSOR_CLASSES or _dtype(name) is not None
        if not known and not (name.module in _STORAGE_MODULES and name.name in STORAGES):
            self.unknown[name] = None
        return name

    def call(self, function: Any, arguments: tuple[Any, ...]) -> Any:
        """A tensor, a dict, or the record of a call."""
        known = self._calls.get(function) if type(function) is Global else None
        return Call(function, arguments) if known is None else known(arguments)

    def persistent(self, identity: Any) -> Any:
        """What the form of file says."""
        return self._identity(identity)

    def _from_type(self, arguments: tuple[Any, ...]) -> Any:
        """A tensor with attributes of its own, which are left out; a subclass may mean something else by its data."""
        if len(arguments) == 4 and arguments[1] in _TENSOR_CLASSES and type(arguments[2]) is tuple:
            value = self.call(arguments[0], arguments[2])
            if type(value) is StoredTensor:
                return value
        return Call(Global("torch._tensor", "_rebuild_from_type_v2"), arguments)


def _ordered_dict(arguments: tuple[Any, ...]) -> Any:
    # Python 2 wrote the items as a list of pairs; later versions put them in one by one.
    pairs = arguments[0] if len(arguments) == 1 else []
    if len(arguments) > 1 or type(pairs) is not list:
        raise Fault("an OrderedDict of pairs", shown(arguments))
    found: dict[str, Any] = {}
    for pair in pairs:
        if type(pair) not in (list, tuple) or len(pair) != 2 or type(pair[0]) is not str:
            raise Fault("an OrderedDict of pairs of text and value", shown(pair))
        found[pair[0]] = pair[1]
    return found


def _storage(value: Any) -> Storage:
    if type(value) is not Storage:
        raise Fault("a storage under a tensor", shown(value))
    return value


def _tensor(arguments: tuple[Any, ...], least: int, most: int) -> StoredTensor | Call:
    if not least <= len(arguments) <= most:
        raise Fault(f"{least} to {most} arguments for a tensor", str(len(arguments)))
    storage, offset, shape, strides = arguments[:4]
    tensor = check_view(_storage(storage), storage.dtype, offset, shape, strides)
    return _unless_lazy(tensor, "_rebuild_tensor_v2", arguments, 6)


def _tensor_v3(arguments: tuple[Any, ...]) -> StoredTensor | Call:
    if not 7 <= len(arguments) <= 8:
        raise Fault("7 or 8 arguments for a tensor", str(len(arguments)))
    storage, offset, shape, strides = arguments[:4]
    dtype = _dtype(arguments[6])
    if dtype is None:
        return Call(Global(_REBUILD, "_rebuild_tensor_v3"), arguments)  # a type that came later than this reader
    if _storage(storage).typed and storage.dtype != dtype:
        raise Fault(f"elements of {storage.dtype.name}, as the storage has,", dtype.name)
    return _unless_lazy(check_view(storage, dtype, offset, shape, strides), "_rebuild_tensor_v3", arguments, 7)


def _unless_lazy(tensor: StoredTensor, name: str, arguments: tuple[Any, ...], at: int) -> StoredTensor | Call:
    """A tensor whose conjugate or negative bit is set holds other values than its storage: left as a record."""
    metadata = arguments[at] if len(arguments) > at else None
    return Call(Global(_REBUILD, name), arguments) if metadata else tensor


def _parameter(arguments: tuple[Any, ...], count: int) -> Any:
    if len(arguments) != count:
        raise Fault(f"{count} arguments for a parameter", str(len(arguments)))
    data = arguments[0]
    if type(data) not in (StoredTensor, Call):
        raise Fault("a tensor in a parameter", shown(data))
    return data
