"""What the names and calls in torch's pickles stand for: the few that describe tensors, and records for all others."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from swinpy.io.costs import ENTRY, ITEM
from swinpy.io.errors import Fault, plain, shown
from swinpy.io.records import DTYPES, STORAGES, Call, Global, Storage, StoredTensor, check_view

if TYPE_CHECKING:
    from collections.abc import Callable

    from swinpy.io.records import Dtype
    from swinpy.io.source import Budget

__all__ = ["TorchObjects", "storage_dtype"]

_REBUILD = "torch._utils"
_ORDERED = Global("collections", "OrderedDict")
_TENSOR_CLASSES = (Global("torch", "Tensor"), Global("torch.nn.parameter", "Parameter"))
_STORAGE_MODULES = ("torch", "torch.cuda", "torch.storage")


def storage_dtype(kind: Any) -> Dtype:
    """The element type that a storage class stands for.

    Raises:
        Fault: it is no storage class that is known.
    """
    if type(kind) is Global and kind.module in _STORAGE_MODULES and kind.name in STORAGES:
        return STORAGES[kind.name]
    raise Fault("one of torch's storage classes", plain(str(kind), 100) if type(kind) is Global else shown(kind))


def _dtype(name: Any) -> Dtype | None:
    return DTYPES.get(name.name) if type(name) is Global and name.module == "torch" else None


class TorchObjects:
    """The meaning of names, calls and persistent ids in one file.

    Attributes:
        unknown: the names that were met and mean nothing here, in the order of their first use.
    """

    def __init__(self, identity: Callable[[Any], Any], budget: Budget) -> None:
        """Start.

        Args:
            identity: gives persistent ids their meaning, which differs between the forms of file.
            budget: what the file may take.
        """
        self.unknown: dict[Global, None] = {}
        self._budget = budget
        self._identity = identity
        self._calls: dict[Global, Callable[[tuple[Any, ...]], Any]] = {
            _ORDERED: self._ordered_dict,
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
            if name not in self.unknown:  # it is told as text, and two short texts of the file make many names
                self._budget.take(2 * ENTRY + 4 * (len(name.module) + len(name.name)))
            self.unknown[name] = None
        return name

    def call(self, function: Any, arguments: tuple[Any, ...]) -> Any:
        """A tensor, a dict, or the record of a call."""
        known = self._calls.get(function) if type(function) is Global else None
        if known is None:
            return Call(function, arguments)
        self._budget.take(ITEM * sum(len(part) for part in arguments if type(part) is list))  # shapes are copied
        return known(arguments)

    def persistent(self, identity: Any) -> Any:
        """What the form of file says."""
        return self._identity(identity)

    def set_state(self, target: Any, state: Any) -> bool:
        """Keep a call's state; leave out that of an OrderedDict: its attributes, such as a state dict's _metadata."""
        if type(target) is Call:
            target.state = state
        return type(target) in (Call, dict)

    def _ordered_dict(self, arguments: tuple[Any, ...]) -> Any:
        # Python 2 wrote the items as a list of pairs; later versions put them in one by one.
        pairs = arguments[0] if len(arguments) == 1 else []
        if len(arguments) > 1 or type(pairs) is not list:
            raise Fault("an OrderedDict of pairs", shown(arguments))
        self._budget.take(ENTRY * len(pairs))
        found: dict[str, Any] = {}
        for pair in pairs:
            if type(pair) not in (list, tuple) or len(pair) != 2 or type(pair[0]) is not str:
                raise Fault("an OrderedDict of pairs of text and value", shown(pair))
            found[pair[0]] = pair[1]
        return found

    def _from_type(self, arguments: tuple[Any, ...]) -> Any:
        """A tensor with attributes of its own, which are left out; a subclass may mean something else by its data."""
        if len(arguments) == 4 and arguments[1] in _TENSOR_CLASSES and type(arguments[2]) is tuple:
            value = self.call(arguments[0], arguments[2])
            if type(value) is StoredTensor:
                return value
        return Call(Global("torch._tensor", "_rebuild_from_type_v2"), arguments)


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
