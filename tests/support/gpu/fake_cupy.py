"""A strict stand-in for CuPy, so that code for a GPU is tested without one.

Its arrays hold NumPy arrays, but what CuPy refuses, they refuse: a NumPy array as an operand, conversion by
``np.asarray``, an attribute, function or keyword that CuPy has not (``cupy_api.json`` lists what it has), arrays of two
devices in one operation. It is stricter than CuPy where CuPy would copy or dispatch silently: a NumPy function never
takes its arrays, and a NumPy array is no index and no value to assign.

    with fake_cupy.installed(devices=2) as cupy:
        x = ag.Tensor(cupy.ones(3), requires_grad=True)     # x.device == "cuda:0"

Values are NumPy's; CUDA kernels run thread by thread (``host_cuda``), and fresh memory is NaN. What it cannot tell:
speed, asynchronous errors.
"""

from __future__ import annotations

import sys
import threading
import time
import types
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from autograd import backend
from autograd.kernels.cuda import launch

from . import cupy_api, launches
from .host_cuda.raw_module import RawModule

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["install", "installed", "ndarray", "to_device"]

_API = cupy_api.load()
_MODULE: dict[str, str] = _API["module"]
_NDARRAY: dict[str, str] = _API["ndarray"]
_UFUNC_KEYWORDS = {"out", "casting", "dtype"}
_FROM_HOST = {"array", "asarray", "asanyarray"}
_NUMPY_ONLY = {"blocking", "stream"}  # keywords of CuPy that NumPy has not, all without effect on values

_current = [0]


class _Handles(threading.local):
    """cuBLAS's math mode of each device's handle, of which every thread has its own."""

    def __init__(self) -> None:
        self.modes: dict[int, int] = {}


_handles = _Handles()
_WIDE_SUMS = 16  # CUBLAS_MATH_DISALLOW_REDUCED_PRECISION_REDUCTION


class _Device:
    """``cupy.cuda.Device``: a number, and a block that makes it the current device."""

    def __init__(self, id: int | None = None) -> None:
        self.id = _current[-1] if id is None else id

    def __enter__(self) -> _Device:
        _current.append(self.id)
        return self

    def __exit__(self, *_: object) -> None:
        _current.pop()

    def use(self) -> None:
        _current[-1] = self.id

    def synchronize(self) -> None:
        """All is done when a call returns."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Device) and self.id == other.id

    def __hash__(self) -> int:
        return hash(self.id)


def _cublas_handle() -> int:
    """Of this thread and the current device; here a handle is the device's number."""
    _handles.modes.setdefault(_current[-1], 0)
    return _current[-1]


class _Event:
    """``cupy.cuda.Event``: the time when it was recorded."""

    def record(self, stream: Any = None) -> None:
        self.seconds = time.perf_counter()

    def synchronize(self) -> None:
        """All is done when a call returns."""


def _elapsed(begin: _Event, end: _Event) -> float:
    """Milliseconds between two events."""
    return 1e3 * (end.seconds - begin.seconds)


def _host(x: Any, devices: set[int]) -> Any:
    """``x`` for NumPy: fake arrays opened, their devices noted; NumPy arrays refused."""
    if isinstance(x, ndarray):
        devices.add(x.device.id)
        return x._values
    if isinstance(x, np.ndarray):
        raise TypeError(f"Unsupported type {type(x)}")
    if isinstance(x, (tuple, list)):
        return type(x)(_host(item, devices) for item in x)
    return x


def _elsewhere(device: int) -> str:
    """CuPy's words: it works on the current device alone (or, with peer access, leaves the result there)."""
    return f"The device where the array resides ({device}) is different from the current device ({_current[-1]})."


def _device_result(result: Any, device: int) -> Any:
    if isinstance(result, (np.ndarray, np.generic)):
        return ndarray._made(np.asarray(result), device)
    if isinstance(result, (tuple, list)):
        return type(result)(_device_result(item, device) for item in result)
    return result


def _check_sums(name: str, args: tuple[Any, ...]) -> None:
    """The engine's own products of 16 bits ask for a handle that adds them up in float32."""
    if not any(isinstance(a, np.ndarray) and a.dtype.itemsize == 2 for a in args):
        return
    if not _handles.modes.get(_current[-1], 0) & _WIDE_SUMS and (line := launches.places()[0]):
        raise AssertionError(f"{line}: {name} on cuda:{_current[-1]} by a handle that may add up in 16 bits")


def _run(name: str, function: Callable[..., Any], args: Any, kwargs: dict[str, Any]) -> Any:
    """Call a NumPy function on the values inside; the result is on the device where the arguments are.

    ``name``: what CuPy calls it, for who counts launches.
    """
    devices: set[int] = set()
    host_args = _host(tuple(args), devices)
    host_kwargs = {k: _host(v, devices) for k, v in kwargs.items() if k not in _NUMPY_ONLY and v is not None}
    if len(devices) > 1:
        raise ValueError(f"Array device must be same as the current device: got {sorted(devices)}")
    with np.errstate(all="ignore"):  # a GPU never warns
        result = launches.call(name, function, host_args, host_kwargs)
    if name in launches.PRODUCTS | {"einsum"}:
        _check_sums(name, host_args)
    if devices and devices != {_current[-1]} and launches.has_work(name, host_args, host_kwargs, result):
        raise ValueError(_elsewhere(devices.pop()))
    out = kwargs.get("out")
    return out if out is not None else _device_result(result, devices.pop() if devices else _current[-1])


class ndarray:
    """An array "on the GPU". Public attributes are those of ``cupy.ndarray`` and no others."""

    __slots__ = ("__weakref__", "_device", "_values")
    __hash__ = None  # type: ignore[assignment]
    __array_priority__ = 100

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        made = np.ndarray(*args, **kwargs)
        self._values, self._device = made, _Device()

    @classmethod
    def _made(cls, values: np.ndarray[Any, Any], device: int) -> ndarray:
        self = cls.__new__(cls)
        self._values, self._device = values, _Device(device)
        return self

    @property
    def device(self) -> _Device:
        return self._device

    @property
    def data(self) -> Any:
        return types.SimpleNamespace(ptr=self._values.ctypes.data)

    @property
    def flags(self) -> Any:
        flags = self._values.flags
        names = ("c_contiguous", "f_contiguous", "owndata")
        return types.SimpleNamespace(**{n: getattr(flags, n) for n in names})

    @property
    def base(self) -> Any:
        return None if self._values.base is None else ndarray._made(np.asarray(self._values.base), self._device.id)

    def get(self, stream: Any = None, order: str = "C", out: Any = None, blocking: bool = True) -> Any:
        launches.note("wait", "get")
        return self._values.copy(order="C")

    def set(self, arr: Any, stream: Any = None) -> None:
        launches.note("upload", "set")
        self._values[...] = arr

    def astype(
        self, dtype: Any, order: str = "K", casting: Any = None, subok: Any = None, copy: bool = True
    ) -> ndarray:
        if not copy and self._values.dtype == dtype:
            return self
        if self._values.size:
            if self.device.id != _current[-1]:
                raise ValueError(_elsewhere(self.device.id))
            launches.note("other", "astype")
        with np.errstate(all="ignore"):
            return ndarray._made(self._values.astype(dtype, order=order), self._device.id)  # type: ignore[arg-type]

    def __getattr__(self, name: str) -> Any:
        if name not in _NDARRAY:
            raise AttributeError(f"'cupy.ndarray' object has no attribute {name!r}")
        if _NDARRAY[name] == "attribute":
            return _device_result(getattr(self._values, name), self._device.id)
        return _method(self, name)

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        raise TypeError(
            "Implicit conversion to a NumPy array is not allowed. "
            "Please use `.get()` to construct a NumPy array explicitly."
        )

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **kwargs: Any) -> Any:
        if method == "__call__" and any(isinstance(x, np.generic) for x in inputs):  # np.float32(2) * x
            return _run(ufunc.__name__, ufunc, inputs, kwargs)
        raise TypeError(f"np.{ufunc.__name__} was called with an array of the GPU: {[type(x) for x in inputs]}")

    def __array_function__(self, function: Any, *_: Any) -> Any:
        raise TypeError(f"np.{function.__name__} was called with an array of the GPU")

    def __getitem__(self, index: Any) -> Any:
        def pick(x: Any, i: Any) -> Any:
            found = x[i]  # NumPy copies a number out; CuPy's is a view too
            return x[(*(i if isinstance(i, tuple) else (i,)), ...)] if isinstance(found, np.generic) else found

        return _run("__getitem__", pick, (self, index), {})

    def __setitem__(self, index: Any, value: Any) -> None:
        def assign(x: Any, i: Any, v: Any) -> None:
            x[i] = v

        _run("__setitem__", assign, (self, index, value), {})

    def __len__(self) -> int:
        return len(self._values)

    def __iter__(self) -> Iterator[Any]:
        return (self[i] for i in range(len(self)))

    def __repr__(self) -> str:
        return repr(self._values)

    def __bool__(self) -> bool:
        launches.note("wait", "bool")
        return bool(self._values)

    def __int__(self) -> int:
        launches.note("wait", "int")
        return int(self._values)

    def __float__(self) -> float:
        launches.note("wait", "float")
        return float(self._values)


def _method(self: ndarray, name: str) -> Callable[..., Any]:
    signature = cupy_api.signature(_NDARRAY[name])

    def call(*args: Any, **kwargs: Any) -> Any:
        if signature is not None:
            signature.bind(self, *args, **kwargs)
        return _run(name, lambda x, *a, **k: getattr(x, name)(*a, **k), (self, *args), kwargs)

    return call


def _bind_operators() -> None:
    def binary(name: str) -> Callable[[ndarray, Any], Any]:
        def operate(self: ndarray, other: Any) -> Any:
            if getattr(other, "__array_ufunc__", False) is None:  # as CuPy: leave it to the other operand
                return NotImplemented
            result = _run(name, lambda x, y: getattr(x, name)(y), (self, other), {})
            if name.startswith("__i") and result is not NotImplemented:
                return self
            return result

        return operate

    words = ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul", "and", "or", "xor", "lshift", "rshift")
    names = [f"__{prefix}{word}__" for word in words for prefix in ("", "r", "i")]
    for name in [*names, *(f"__{word}__" for word in ("eq", "ne", "lt", "le", "gt", "ge"))]:
        if name in _NDARRAY:
            setattr(ndarray, name, binary(name))
    for name in ("__neg__", "__abs__", "__pos__", "__invert__"):
        setattr(ndarray, name, lambda self, name=name: _run(name, lambda x: getattr(x, name)(), (self,), {}))


_bind_operators()


class _Ufunc:
    """A CuPy ufunc: the values of NumPy's, the keywords of CuPy's."""

    def __init__(self, name: str) -> None:
        self.__name__ = name
        self._ufunc = getattr(np, name)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if not set(kwargs) <= _UFUNC_KEYWORDS:
            raise TypeError(f"Wrong arguments {kwargs}")
        return _run(self.__name__, self._ufunc, args, kwargs)

    def at(self, a: ndarray, indices: Any, b: Any = None) -> None:
        if self.__name__ not in ("add", "subtract", "maximum", "minimum", "bitwise_and", "bitwise_or", "bitwise_xor"):
            raise NotImplementedError(f"`{self.__name__}.at` is not supported yet")
        _run(f"{self.__name__}.at", self._ufunc.at, (a, indices, b), {})


def _from_host(name: str, source: Any, dtype: Any = None, copy: bool = True, **_: Any) -> Any:
    """``cupy.array`` and its like: to the current device, from anywhere; ``asarray`` of what is there already is it."""
    if not isinstance(source, ndarray):
        launches.note("upload", name)
        return ndarray._made(np.array(source, dtype=dtype), _current[-1])
    there = source.device.id == _current[-1] and dtype in (None, source._values.dtype)
    if there and (name != "array" or not copy):
        return source
    launches.note("other", name)
    return ndarray._made(np.array(source._values, dtype=dtype), _current[-1])


def _function(name: str) -> Callable[..., Any]:
    signature = cupy_api.signature(_MODULE[name])
    target = getattr(np, name)

    def call(*args: Any, **kwargs: Any) -> Any:
        if signature is not None:
            signature.bind(*args, **kwargs)
        if name in _FROM_HOST:
            return _from_host(name, *args, **kwargs)
        result = _run(name, target, args, kwargs)
        if name in ("empty", "empty_like"):
            result._values.reshape(-1).view(np.uint8)[...] = 0xFF  # NaN: what a kernel forgets to write is seen
        return result

    call.__name__ = name
    return call


def _no_driver(*_: Any, **__: Any) -> Any:
    raise NotImplementedError("the stand-in for CuPy runs no CUDA code; use kernel_mode('reference')")


class _Module(types.ModuleType):
    """``import cupy`` while the stand-in is installed."""

    def __getattr__(self, name: str) -> Any:
        what = _MODULE.get(name)
        if what is None:
            raise AttributeError(f"module 'cupy' has no attribute {name!r}")
        if what == "ufunc":
            made: Any = _Ufunc(name)
        elif what in ("type", "constant"):
            made = getattr(np, name, _no_driver)
        elif what == "module" or not hasattr(np, name):
            made = _no_driver
        else:
            made = _function(name)
        setattr(self, name, made)
        return made


def _as_strided(x: ndarray, shape: Any = None, strides: Any = None) -> Any:
    return _run("as_strided", np.lib.stride_tricks.as_strided, (x, shape, strides), {})


def _module(devices: int, multiprocessors: int) -> _Module:
    cupy = _Module("cupy")
    cupy.__version__ = _API["version"]
    cupy.ndarray = ndarray
    cupy.RawKernel = _no_driver
    cupy.RawModule = RawModule
    tricks = types.SimpleNamespace(as_strided=_as_strided)
    cupy.lib = types.SimpleNamespace(stride_tricks=tricks)
    runtime = types.SimpleNamespace(
        getDeviceCount=lambda: devices,
        getDeviceProperties=lambda device: {
            "name": b"stand-in",
            "totalGlobalMem": 80 << 30,
            "major": 9,
            "minor": 0,
            "multiProcessorCount": multiprocessors,
        },
        driverGetVersion=lambda: 13010,
        runtimeGetVersion=lambda: 12090,
    )
    nvrtc = types.SimpleNamespace(getVersion=lambda: (12, 9))
    cublas = types.SimpleNamespace(
        CUBLAS_MATH_DISALLOW_REDUCED_PRECISION_REDUCTION=_WIDE_SUMS,
        getMathMode=lambda handle: _handles.modes[handle],
        getVersion=lambda handle: 130000,
        setMathMode=lambda handle, mode: _handles.modes.__setitem__(handle, mode),
    )
    cupy.cuda = types.SimpleNamespace(
        Device=_Device,
        device=types.SimpleNamespace(get_cublas_handle=_cublas_handle),
        Event=_Event,
        get_elapsed_time=_elapsed,
        set_allocator=lambda allocator: None,
        runtime=runtime,
        nvrtc=nvrtc,
        cublas=cublas,
        is_available=lambda: devices > 0,
    )
    pool = types.SimpleNamespace(total_bytes=lambda: 0, free_all_blocks=lambda: None)
    cupy.get_default_memory_pool = lambda: pool
    cupy.asnumpy = lambda a, *_, **__: a.get() if isinstance(a, ndarray) else np.asarray(a)
    cupy.get_array_module = lambda *args: cupy if any(isinstance(a, ndarray) for a in args) else np
    return cupy


def _forget() -> None:
    """What this thread and the engine know of devices."""
    launch._properties.cache_clear()
    _handles.modes.clear()
    backend._handles.ready.clear()


def install(devices: int = 1, multiprocessors: int = 2) -> Callable[[], None]:
    """Put a stand-in with ``devices`` GPUs into ``sys.modules``; returns what takes it out again.

    Of few multiprocessors, so that kernels that loop over a grid do loop.
    """
    before = sys.modules.get("cupy")
    sys.modules["cupy"] = _module(devices, multiprocessors)
    _forget()

    def remove() -> None:
        del sys.modules["cupy"]
        _forget()
        if before is not None:
            sys.modules["cupy"] = before

    return remove


@contextmanager
def installed(devices: int = 1, multiprocessors: int = 2) -> Iterator[Any]:
    """A block in which ``import cupy`` gives the stand-in."""
    remove, before = install(devices, multiprocessors), _current[-1]
    try:
        yield sys.modules["cupy"]
    finally:
        _current[-1] = before
        remove()


def to_device(value: Any) -> Any:
    """``value`` with every NumPy array in it, also in lists and tuples, on the current device."""
    if isinstance(value, (list, tuple)):
        return type(value)(to_device(item) for item in value)
    return sys.modules["cupy"].asarray(value) if isinstance(value, np.ndarray) else value
