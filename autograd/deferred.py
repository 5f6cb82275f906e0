"""DeferredBias: the result of a linear layer whose bias is still to be added.

On a GPU a product of matrices comes without a bias, and adding one takes another pass over memory. In a pre-norm
transformer the result is read by :func:`autograd.ops.residual_layer_norm`, whose kernel adds the bias at no cost. On a
CPU the product adds the bias while its rows are in the cache. So ``linear`` and ``mlp`` with ``defer_bias=True`` return
a DeferredBias on a GPU and an ordinary tensor on a CPU; :func:`product_adds_bias` alone decides. A caller need not know
which one it has: a DeferredBias is a tensor, and adds the bias itself for any other use.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from autograd.backend import device_of, is_array
from autograd.context import STATE
from autograd.graph import mark
from autograd.tensor import Tensor

if TYPE_CHECKING:
    from collections.abc import Callable

    from autograd.backend import Array
    from autograd.graph import Edge
    from autograd.tensor import TensorLike

__all__ = ["DeferredBias", "product_adds_bias", "with_bias"]


def product_adds_bias(x: TensorLike) -> bool:
    """Whether a product with ``x`` adds a bias at no cost: on the CPU."""
    array = x.data if isinstance(x, Tensor) else x
    return not is_array(array) or device_of(array) == "cpu"


def with_bias(layer: Callable[[TensorLike | None], Tensor], x: TensorLike, bias: TensorLike | None) -> Tensor:
    """``layer(bias)``, or with the bias deferred where a product with ``x`` does not add it at no cost."""
    if not isinstance(bias, Tensor) or product_adds_bias(x):
        return layer(bias)
    return DeferredBias(layer(None), bias)


class DeferredBias(Tensor):
    """The tensor ``product + bias`` before the addition.

    An op that adds the bias itself takes :meth:`parts`. For all else the sum is computed once, when its values
    (``data``) or its place in the graph (``edge``) are first asked for. The result is that of an addition at once: it
    is made under the switches (recording, autocast, kernels) that were on when the DeferredBias was made.

    Args:
        product: (..., C).
        bias: (C,).

    Attributes:
        product: as given.
        bias: as given.

    Raises:
        ValueError: for another shape of the bias.
        TypeError: for operands of different dtypes outside of autocast.
    """

    __slots__ = ("_count", "_number", "_state", "_sum", "bias", "product")

    def __init__(self, product: Tensor, bias: Tensor) -> None:
        state = STATE.get()
        if bias.shape != product.shape[-1:]:
            raise ValueError(f"defer_bias: expected bias {product.shape[-1:]} for {product.shape}; got {bias.shape}.")
        if bias.dtype != product.dtype and state.autocast is None:
            raise TypeError(
                f"defer_bias: expected operands of one dtype; got {product.dtype} and {bias.dtype}. Cast with .astype."
            )
        self.product, self.bias = product, bias
        self.needs_grad = state.grad != "off" and (product.needs_grad or bias.needs_grad)
        self.grad = self.version = self.hooks = None
        self._state = state
        self._sum: Tensor | None = None
        self._number = mark()
        self._count = None if bias.version is None else bias.version.count

    def parts(self) -> tuple[Tensor, Tensor | None]:
        """(product, bias), for an op that adds them itself.

        It is (sum, None) where the sum is there already, or recording has been switched on or off since.

        Raises:
            RuntimeError: if the bias was written to since.
        """
        if self._sum is not None or STATE.get().grad != self._state.grad:
            return self._added(), None
        return self._unwritten()

    def _unwritten(self) -> tuple[Tensor, Tensor]:
        """(product, bias), if the bias is as it was."""
        if self.bias.version is not None and self.bias.version.count != self._count:
            raise RuntimeError(
                "defer_bias: expected the bias as it was when the layer ran; got one that was written to since. "
                "Use the layer's result before the write."
            )
        return self.product, self.bias

    def _added(self) -> Tensor:
        """product + bias."""
        if self._sum is None:
            product, bias = self._unwritten()
            token = STATE.set(replace(self._state, observers=STATE.get().observers))
            try:
                self._sum = product + bias
            finally:
                STATE.reset(token)
            if self._sum.edge is not None:  # its place in the order of nodes is where it was deferred
                self._sum.edge[0].number = self._number
        return self._sum

    def __copy__(self) -> Tensor:
        return copy.copy(self._added())

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        return copy.deepcopy(self._added(), memo)

    @property
    def data(self) -> Array:
        """The values of the sum, which is computed now if it was not before."""
        return self._added().data

    @property
    def edge(self) -> Edge | None:  # type: ignore[override]
        """Where the sum stands in the graph; likewise."""
        return self._added().edge
