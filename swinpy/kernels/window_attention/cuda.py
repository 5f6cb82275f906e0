"""Window attention on a GPU: on tensor cores if they take the arguments, else by the general kernels.

Each twin has the contract of its namesake in reference.py; what is said here is how.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from autograd.extend import cuda_dtype, register_cuda
from swinpy.kernels.window_attention import general, mma, reference

if TYPE_CHECKING:
    from autograd.extend import Array
    from swinpy.kernels.window_attention.reference import AttentionSpec

__all__ = ["window_attention_bwd", "window_attention_fwd"]


def _takes(*args: Any) -> str | None:
    """None if a CUDA kernel takes the arguments of ``window_attention_fwd`` or ``_bwd``, else why not."""
    refusal = _shapes(*args) or cuda_dtype(*args)
    if refusal is None and mma.can_run(args[-5], args[-1]) is not None:
        refusal = general.can_run(*args)
    return refusal


def _shapes(*args: Any) -> str | None:
    """None if the arrays fit each other and the geometry, else why not: kernels would read and write out of bounds."""
    qkv, bias, qkv_bias, logit_scale, spec = args[-5:]
    n, heads = spec.geometry.tokens, spec.heads
    if qkv.ndim != 4 or qkv.shape[1:3] != spec.geometry.size or not qkv.shape[3] or qkv.shape[3] % (3 * heads):
        return (
            f"expected qkv (B, {spec.geometry.size[0]}, {spec.geometry.size[1]}, 3C) for {heads} heads; got {qkv.shape}"
        )
    if bias is not None and bias.shape != (heads, n, n):
        return f"expected a bias of shape {(heads, n, n)}; got {bias.shape}"
    if qkv_bias is not None and qkv_bias.shape != qkv.shape[3:]:
        return f"expected a qkv bias of shape {qkv.shape[3:]}; got {qkv_bias.shape}"
    if (0 if logit_scale is None else logit_scale.size) != (heads if spec.cosine else 0):
        return f"expected a logit scale of {heads} numbers with cosine attention, and only then"
    out = (*qkv.shape[:3], qkv.shape[3] // 3)
    wrong = [g.shape for g in args[:-5] if g.shape != out]
    return f"expected a gradient of shape {out}; got {wrong[0]}" if wrong else None


@register_cuda(reference.window_attention_fwd, _takes)
def window_attention_fwd(
    qkv: Array, bias: Array | None, qkv_bias: Array | None, logit_scale: Array | None, spec: AttentionSpec
) -> Array:
    """One launch; on tensor cores, packing of the bias is one more."""
    run = general.general_fwd if mma.can_run(qkv, spec) else mma.mma_fwd
    return run(qkv, bias, qkv_bias, logit_scale, spec)


@register_cuda(reference.window_attention_bwd, _takes)
def window_attention_bwd(
    g: Array, qkv: Array, bias: Array | None, qkv_bias: Array | None, logit_scale: Array | None, spec: AttentionSpec
) -> tuple[Array, Array | None, Array | None, Array | None]:
    """Probabilities are computed again; partial sums per thread block, then one launch that adds them up in order."""
    run = general.general_bwd if mma.can_run(qkv, spec) else mma.mma_bwd
    return run(g, qkv, bias, qkv_bias, logit_scale, spec)
