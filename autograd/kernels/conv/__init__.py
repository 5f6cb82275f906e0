"""2-D convolution: the reference, compiled twins, and the choice between their ways."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from autograd.kernels.compiled import register_compiled
from autograd.kernels.conv.choice import conv_algorithm
from autograd.kernels.conv.reference import conv2d_bwd, conv2d_fwd, output_size

if TYPE_CHECKING:
    from types import ModuleType

__all__ = ["conv2d_bwd", "conv2d_fwd", "conv_algorithm", "output_size"]


def _forward_way(x: Any, weight: Any, bias: Any, stride: Any, padding: Any) -> str:
    from autograd.kernels.conv import cpu

    return cpu.way(x, weight, stride, padding)


def _backward_way(g: Any, x: Any, weight: Any, stride: Any, padding: Any, needs: Any) -> str:
    return _forward_way(x, weight, None, stride, padding)


@register_compiled(conv2d_fwd, way=_forward_way)
@register_compiled(conv2d_bwd, way=_backward_way)
def _compiled() -> ModuleType:
    from autograd.kernels.conv import cpu

    return cpu
