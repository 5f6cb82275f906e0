"""Handwritten CUDA kernels behind the registry's rows, for arrays on a GPU.

This module only registers: a kernel's launcher is imported when it first runs, and CuPy compiles the kernel then.
``device.cuh`` holds all that kernels use of CUDA, ``source`` puts a program together, ``launch`` checks and starts it;
``accepts`` says what each kernel takes.
"""

from __future__ import annotations

from functools import lru_cache
from importlib import import_module
from typing import TYPE_CHECKING, Any

from autograd.kernels import rows as _rows  # noqa: F401 (the rows that the kernels go behind)
from autograd.kernels.cuda import accepts
from autograd.kernels.cuda.accepts import cuda_dtype
from autograd.kernels.registry import Implementation, register_implementation

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["cuda_dtype", "register_cuda"]


def register_cuda(
    kernel: str, module: str, can_run: Callable[..., str | None] = cuda_dtype, function: str | None = None
) -> None:
    """Put a CUDA implementation behind a row of the registry.

    Args:
        kernel: the row.
        module: full name of the module that launches it; imported at the first call.
        can_run: None if it takes the arguments (which are on a GPU), else why not.
        function: its name in the module, by default the row's.
    """

    @lru_cache(maxsize=1)
    def load() -> Callable[..., Any]:
        return getattr(import_module(module), function or kernel)  # type: ignore[no-any-return]

    register_implementation(kernel, cuda=Implementation(lambda *a, **k: load()(*a, **k), can_run))


_MODULES: dict[str, tuple[str, ...]] = {
    "adamw": ("grad_norm", "multi_adamw"),
    "dropout": ("dropout", "keep_scale"),
    "patches": ("patch_merge_fwd", "patch_merge_bwd"),
    "norm": ("layer_norm_fwd", "layer_norm_bwd", "residual_layer_norm_fwd", "residual_layer_norm_bwd"),
    "gelu": ("gelu_fwd", "gelu_bwd", "bias_gelu_fwd", "bias_gelu_bwd"),
    "softmax": ("softmax_fwd", "softmax_bwd"),
    "cross_entropy": ("cross_entropy_fwd", "cross_entropy_bwd"),
    "multi_cast": ("multi_cast",),
    "linear": ("linear_fwd", "linear_bwd", "mlp_fwd", "mlp_bwd"),
}

for _module, _kernels in _MODULES.items():
    for _kernel in _kernels:
        register_cuda(_kernel, f"autograd.kernels.cuda.{_module}", getattr(accepts, _kernel, cuda_dtype))


def _rows_can_run(*args: Any, **kwargs: Any) -> str | None:
    from autograd.kernels.cuda.patches import rows_can_run

    return rows_can_run(*args, **kwargs)


register_cuda("patch_rows", "autograd.kernels.cuda.patches", _rows_can_run)
