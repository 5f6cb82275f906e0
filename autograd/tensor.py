"""Tensor: an array, whether a gradient is wanted, and where in the graph it came from.

The methods declared under ``TYPE_CHECKING`` are ``graph.backward`` and the functions of ``autograd.ops``;
``autograd.methods`` binds them, because this module stands below the graph and knows no op.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from autograd import backend
from autograd.dtypes import is_float

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from autograd.backend import Array
    from autograd.graph import Edge

__all__ = ["Tensor", "TensorLike", "Version"]


class Version:
    """How often the memory of a leaf was written in place; see :attr:`Tensor.version`."""

    __slots__ = ("count",)

    def __init__(self) -> None:
        self.count = 0


class Tensor:
    """An array with a place in the graph.

    Args:
        array: a NumPy or CuPy array (not copied, but to the native byte order), or anything ``np.asarray`` takes.
        requires_grad: whether ``backward`` fills ``.grad``; floats only.

    Attributes:
        data: the array itself, not a copy and not locked. Write to it through :meth:`assign_`, or say so by
            :meth:`written`: a write that nobody tells of (``x.data[:] = 0``) between forward and backward gives wrong
            gradients, as in torch.
        grad: the gradient, a raw array of the same shape and dtype that is shared with nothing; None before backward.
        edge: where the tensor came from, or None for a leaf.
        version: counts the in-place writes to a leaf's memory. Tensors on the same memory that no graph connects share
            it: detached twins, and views made under no_grad. None for other results of ops.
    """

    __slots__ = ("__weakref__", "data", "edge", "grad", "hooks", "needs_grad", "version")

    data: Array
    grad: Array | None
    edge: Edge | None
    version: Version | None
    hooks: list[Callable[[Array], Array | None]] | None
    needs_grad: bool

    # NumPy then leaves array * tensor to Tensor.__rmul__, and likewise for the other operators.
    __array_ufunc__ = None
    __hash__ = object.__hash__

    def __init__(self, array: Any, requires_grad: bool = False) -> None:
        if isinstance(array, Tensor):
            raise TypeError("Tensor: expected an array; got a Tensor. Use .detach() for a second one on the same data.")
        self.data = array if backend.is_array(array) else np.asarray(array)
        if self.data.dtype.kind not in "fiub" and not is_float(self.data.dtype):
            raise TypeError(f"Tensor: expected floats, integers or booleans; got dtype {self.data.dtype}.")
        if not self.data.dtype.isnative:  # as files may hold it; no kernel and no CuPy takes the other byte order
            self.data = self.data.astype(self.data.dtype.newbyteorder("="))
        self.grad = None
        self.edge = None
        self.version = Version()
        self.hooks = None
        self.needs_grad = False
        if requires_grad:
            self.requires_grad = True

    @classmethod
    def from_op(cls, data: Array, edge: Edge | None, needs_grad: bool) -> Tensor:
        """What an op returns: no checks, no version (only leaves are written to)."""
        self = Tensor.__new__(Tensor)
        self.data = data
        self.edge = edge
        self.needs_grad = needs_grad
        self.grad = self.version = self.hooks = None
        return self

    # ---- what it is

    @property
    def shape(self) -> tuple[int, ...]:
        """Size along each axis."""
        return self.data.shape

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return self.data.ndim

    @property
    def size(self) -> int:
        """Number of elements."""
        return int(self.data.size)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the elements."""
        return self.data.dtype

    @property
    def device(self) -> str:
        """Where the memory is: "cpu" or "cuda:N"."""
        return backend.device_of(self.data)

    @property
    def is_leaf(self) -> bool:
        """Whether no op made it."""
        return self.edge is None

    @property
    def requires_grad(self) -> bool:
        """Whether a gradient is wanted: for a leaf by choice, for the result of an op because an input wants one."""
        return self.needs_grad

    @requires_grad.setter
    def requires_grad(self, flag: bool) -> None:
        if self.edge is not None and not flag:
            raise RuntimeError("requires_grad: expected a leaf; got the result of an op. Use .detach() instead.")
        if flag and not is_float(self.data.dtype):
            raise TypeError(f"requires_grad: expected a float dtype; got {self.data.dtype}. Cast with .astype first.")
        self.needs_grad = bool(flag)

    def __len__(self) -> int:
        if not self.shape:
            raise TypeError("len: expected at least one dimension; got a 0-d tensor.")
        return self.shape[0]

    def __iter__(self) -> Iterator[Tensor]:
        if not self.shape:
            raise TypeError("iter: expected at least one dimension; got a 0-d tensor.")
        return (self[i] for i in range(self.shape[0]))

    def __bool__(self) -> bool:
        if self.size != 1:
            raise ValueError(
                f"bool: expected a tensor of size 1; got shape {self.shape}. "
                "Say which is meant: (x != 0).data.any() or .all()."
            )
        return bool(self.item())

    def __float__(self) -> float:
        return float(self.item())

    def __int__(self) -> int:
        return int(self.item())

    def __repr__(self) -> str:
        extra = f", device='{self.device}'" if self.device != "cpu" else ""
        extra += ", requires_grad=True" if self.needs_grad else ""
        text = np.array2string(self.numpy(), separator=", ", prefix="Tensor(", threshold=200)
        return f"Tensor({text}, dtype={self.dtype}{extra})"

    # ---- getting the numbers out

    def item(self) -> float | int | bool:
        """The one number of a tensor of size 1.

        Raises:
            ValueError: for another size.
        """
        if self.size != 1:
            raise ValueError(f"item: expected one element; got shape {self.shape}.")
        return self.data.item()

    def numpy(self) -> np.ndarray[Any, Any]:
        """The values as a NumPy array: the tensor's own memory on the CPU, a copy from a GPU."""
        return self.data if isinstance(self.data, np.ndarray) else self.data.get()

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray[Any, Any]:
        if self.needs_grad or self.device != "cpu":
            raise TypeError("np.asarray: expected a CPU tensor without requires_grad. Use .detach() and .numpy().")
        return np.array(self.data, dtype=dtype, copy=copy)

    def detach(self) -> Tensor:
        """The same memory without a graph and without requires_grad; it shares the version counter.

        The twin of an op's result cannot be written to: backward may need that memory as it is.
        """
        twin = Tensor.from_op(self.data, None, False)
        twin.version = self.version
        return twin

    # ---- leaves

    def assign_(self, value: Any) -> Tensor:
        """Write ``value`` into the leaf's array in place and bump its version.

        A backward through a graph that was built before the write raises.

        Args:
            value: real numbers: a Tensor, an array, a list or one number.

        Raises:
            RuntimeError: if the tensor is the result of an op.
            TypeError: for what is no real number, and for floats into integers or booleans.
            ValueError: if the shape or the device differs, or the memory is read-only.
        """
        if self.version is None:
            raise RuntimeError(
                "assign_: expected a leaf; got the result of an op, whose memory backward may need. "
                "Make a leaf with Tensor(x.data.copy())."
            )
        source = value.data if isinstance(value, Tensor) else value
        if backend.is_array(source) and backend.device_of(source) != self.device:
            raise ValueError(
                f"assign_: expected a value on {self.device}; got one on {backend.device_of(source)}. Use .to()."
            )
        array = source if backend.is_array(source) else np.asarray(source)
        if array.dtype.kind not in "fiub" and not is_float(array.dtype):
            got = f"dtype {array.dtype}" if array.dtype.kind != "O" else type(source).__name__
            raise TypeError(f"assign_: expected real numbers; got {got}.")
        if is_float(array.dtype) and not is_float(self.dtype):
            raise TypeError(f"assign_: expected integers for a leaf of {self.dtype}; got {array.dtype}. Cast first.")
        if array.shape not in ((), self.shape):
            raise ValueError(f"assign_: expected shape {self.shape}; got {array.shape}.")
        if not getattr(self.data.flags, "writeable", True):  # CuPy has no read-only arrays
            raise ValueError("assign_: expected memory that can be written to; got a read-only array. Copy it first.")
        with backend.device_scope(self.data):
            self.data[...] = source
        self.written()
        return self

    def written(self) -> None:
        """Say that the leaf's memory was written to without :meth:`assign_`, as an optimiser's kernel does.

        Call it after the write. A later backward through a graph that was built before the write raises, and a cast
        that autocast kept is not used again.

        Raises:
            RuntimeError: if the tensor is the result of an op.
        """
        if self.version is None:
            raise RuntimeError(
                "written: expected a leaf; got the result of an op, whose memory backward may need. "
                "Make a leaf with Tensor(x.data.copy())."
            )
        self.version.count += 1

    def register_grad_hook(self, hook: Callable[[Array], Array | None]) -> Callable[[], None]:
        """Call ``hook(gradient)`` once a backward, when this tensor's gradient is complete.

        What the hook returns (unless None) takes the gradient's place. The hook must not write to what it is given.

        Returns:
            A function that removes the hook.

        Raises:
            RuntimeError: if the tensor wants no gradient.
        """
        if not self.needs_grad:
            raise RuntimeError("register_grad_hook: expected requires_grad=True; got a tensor without it.")
        if self.edge is None:
            hooks = self.hooks = self.hooks if self.hooks is not None else []
        else:
            node, index = self.edge[:2]
            hooks = node.hooks.setdefault(index, [])
        hooks.append(hook)
        return lambda: hooks.remove(hook)

    if TYPE_CHECKING:

        def backward(self, gradient: Array | None = None, retain_graph: bool = False) -> None: ...
        def __add__(self, other: TensorLike) -> Tensor: ...
        def __radd__(self, other: TensorLike) -> Tensor: ...
        def __sub__(self, other: TensorLike) -> Tensor: ...
        def __rsub__(self, other: TensorLike) -> Tensor: ...
        def __mul__(self, other: TensorLike) -> Tensor: ...
        def __rmul__(self, other: TensorLike) -> Tensor: ...
        def __truediv__(self, other: TensorLike) -> Tensor: ...
        def __rtruediv__(self, other: TensorLike) -> Tensor: ...
        def __pow__(self, other: TensorLike) -> Tensor: ...
        def __rpow__(self, other: TensorLike) -> Tensor: ...
        def __matmul__(self, other: TensorLike) -> Tensor: ...
        def __rmatmul__(self, other: TensorLike) -> Tensor: ...
        def __neg__(self) -> Tensor: ...
        def __abs__(self) -> Tensor: ...
        def __eq__(self, other: object) -> Tensor: ...  # type: ignore[override]
        def __ne__(self, other: object) -> Tensor: ...  # type: ignore[override]
        def __lt__(self, other: TensorLike) -> Tensor: ...
        def __le__(self, other: TensorLike) -> Tensor: ...
        def __gt__(self, other: TensorLike) -> Tensor: ...
        def __ge__(self, other: TensorLike) -> Tensor: ...
        def __getitem__(self, index: Any) -> Tensor: ...
        @property
        def T(self) -> Tensor: ...
        def astype(self, dtype: Any) -> Tensor: ...
        def to(self, device: str) -> Tensor: ...
        def exp(self) -> Tensor: ...
        def log(self) -> Tensor: ...
        def sqrt(self) -> Tensor: ...
        def tanh(self) -> Tensor: ...
        def sigmoid(self) -> Tensor: ...
        def relu(self) -> Tensor: ...
        def clip(self, min: float | None = None, max: float | None = None) -> Tensor: ...
        def sum(self, axis: Axis = None, keepdims: bool = False) -> Tensor: ...
        def mean(self, axis: Axis = None, keepdims: bool = False) -> Tensor: ...
        def var(self, axis: Axis = None, ddof: int = 0, keepdims: bool = False) -> Tensor: ...
        def max(self, axis: Axis = None, keepdims: bool = False) -> Tensor: ...
        def min(self, axis: Axis = None, keepdims: bool = False) -> Tensor: ...
        def argmax(self, axis: int | None = None, keepdims: bool = False) -> Tensor: ...
        def softmax(self, axis: int = -1) -> Tensor: ...
        def log_softmax(self, axis: int = -1) -> Tensor: ...
        def reshape(self, *shape: Any) -> Tensor: ...
        def transpose(self, *axes: Any) -> Tensor: ...
        def swapaxes(self, axis1: int, axis2: int) -> Tensor: ...
        def squeeze(self, axis: Axis = None) -> Tensor: ...
        def take(self, indices: Any, axis: int | None = None) -> Tensor: ...


Axis: TypeAlias = "int | Sequence[int] | None"
TensorLike: TypeAlias = "Tensor | Array | float | int | bool"
