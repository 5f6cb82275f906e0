"""Compiled twins of the references for NumPy arrays, by Numba (extra ``fast``), used by themselves if it is installed.

This module only registers: a kernel's file, and with it Numba, is imported when the kernel first runs. The files here
may import Numba at their top; nothing else may import them.
"""

from __future__ import annotations

from functools import lru_cache
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np

from autograd.dtypes import is_float
from autograd.kernels import rows as _rows  # noqa: F401 (the rows that the twins go behind)
from autograd.kernels.registry import Implementation, arrays_in, register_implementation

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["compiled_dtype", "is_available", "register_compiled", "warmup"]

_COMPILED = (np.dtype(np.float32), np.dtype(np.float64))


_modules: set[str] = set()


def warmup() -> None:
    """Import Numba and all compiled kernels now, not when each first runs (a second or so); nothing without Numba.

    Code for the types of a call is still compiled, or read from the disk, at the first such call.
    """
    if is_available() is None:
        for module in sorted(_modules):
            import_module(module)


@lru_cache(maxsize=1)
def is_available() -> str | None:
    """None if Numba is installed, else what to do about it."""
    return None if find_spec("numba") else "Numba is not installed (pip install 'swinpy[fast]')"


def compiled_dtype(*args: Any, **_: Any) -> str | None:
    """None if the arrays among the arguments, and the dtypes asked for, are one that kernels are compiled for, else why
    not."""
    dtypes = {a.dtype for a in arrays_in(args) if isinstance(a, np.ndarray) and is_float(a.dtype)}
    dtypes |= {a for a in args if isinstance(a, np.dtype)}
    if len(dtypes) == 1 and dtypes <= set(_COMPILED):
        return None
    found = ", ".join(sorted(map(str, dtypes))) or "none"
    return f"compiled kernels take float32 or float64 arrays of one dtype; got {found}"


def compiled_floats(*args: Any, **_: Any) -> str | None:
    """As :func:`compiled_dtype`, and no other arrays: of kernels that find arrays by their addresses."""
    other = next((a.dtype for a in arrays_in(args) if not is_float(a.dtype)), None)
    return compiled_dtype(*args) if other is None else f"compiled kernels take float32 or float64 arrays; got {other}"


def register_compiled(
    kernel: str, module: str, can_run: Callable[..., str | None] = compiled_dtype, function: str | None = None
) -> None:
    """Put a compiled implementation behind a row of the registry.

    Args:
        kernel: the row.
        module: full name of the module that has it; imported at the first call.
        can_run: None if it takes the arguments, else why not.
        function: its name in the module, by default the row's.
    """

    _modules.add(module)

    @lru_cache(maxsize=1)
    def load() -> Callable[..., Any]:
        return getattr(import_module(module), function or kernel)  # type: ignore[no-any-return]

    register_implementation(
        kernel,
        cpu=Implementation(lambda *a, **k: load()(*a, **k), lambda *a, **k: is_available() or can_run(*a, **k)),
    )


_MODULES = {
    "adamw": ("adamw", "grad_norm", "multi_adamw"),
    "gelu": ("gelu_fwd", "gelu_bwd", "bias_gelu_fwd", "bias_gelu_bwd"),
    "linear": ("linear_fwd", "linear_bwd"),
    "mlp": ("mlp_fwd", "mlp_bwd"),
    "patches": ("patch_merge_fwd", "patch_merge_bwd"),
    "norm": ("layer_norm_fwd", "layer_norm_bwd", "residual_layer_norm_fwd", "residual_layer_norm_bwd"),
    "softmax": ("softmax_fwd", "softmax_bwd", "cross_entropy_fwd", "cross_entropy_bwd"),
}

for _module, _kernels in _MODULES.items():
    for _kernel in _kernels:
        can_run = compiled_floats if _module == "adamw" else compiled_dtype
        register_compiled(_kernel, f"autograd.kernels.cpu.{_module}", can_run)


def _rows_can_run(
    images: Any, patch: tuple[int, int], mean: Any = None, std: Any = None, dtype: Any = None
) -> str | None:
    wanted = np.dtype(images.dtype if dtype is None else dtype)
    if wanted not in _COMPILED:
        return f"compiled kernels take float32 or float64 arrays; got {wanted} wanted of patch_rows"
    taken = wanted if mean is None else np.dtype(np.uint8)
    return None if images.dtype == taken else f"patch_rows takes {taken} images here; got {images.dtype}"


register_compiled("patch_rows", "autograd.kernels.cpu.patches", _rows_can_run)
