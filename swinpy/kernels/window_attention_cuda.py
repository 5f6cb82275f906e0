"""Window attention on a GPU: by the tensor cores where they take it, else by the general kernels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from autograd.extend import cuda_dtype
from swinpy.kernels import window_attention_general as general
from swinpy.kernels import window_attention_mma as mma

if TYPE_CHECKING:
    from autograd.extend import Array
    from swinpy.kernels.window_attention import AttentionSpec

__all__ = ["can_run", "window_attention_bwd", "window_attention_fwd"]


def can_run(*args: Any) -> str | None:
    """None if a CUDA kernel takes the arguments of ``window_attention_fwd`` or ``_bwd``, else why not."""
    refusal = cuda_dtype(*args)
    if refusal is None and mma.can_run(args[-5], args[-1]) is not None:
        refusal = general.can_run(*args)
    return refusal


def window_attention_fwd(
    qkv: Array, bias: Array | None, qkv_bias: Array | None, logit_scale: Array | None, spec: AttentionSpec
) -> Array:
    """As the reference ``swinpy.kernels.window_attention.window_attention_fwd``."""
    run = general.general_fwd if mma.can_run(qkv, spec) else mma.mma_fwd
    return run(qkv, bias, qkv_bias, logit_scale, spec)


def window_attention_bwd(
    g: Array, qkv: Array, bias: Array | None, qkv_bias: Array | None, logit_scale: Array | None, spec: AttentionSpec
) -> tuple[Array, Array | None, Array | None, Array | None]:
    """As the reference ``swinpy.kernels.window_attention.window_attention_bwd``."""
    run = general.general_bwd if mma.can_run(qkv, spec) else mma.mma_bwd
    return run(g, qkv, bias, qkv_bias, logit_scale, spec)
