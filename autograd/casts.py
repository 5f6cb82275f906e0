"""Autocast's casts of parameters, made together: on a GPU one launch for all instead of one for each.

:func:`cast_together` casts leaves ahead of the ops that will want them. The results are kept as long as the autocast
block lasts and nothing is written to the leaves. The engine's ``astype`` then takes a kept result (:func:`ready`), and
its gradient stays in the low dtype until backward casts all of them together, at its end (``Ctx.uncast``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from autograd.context import STATE
from autograd.dtypes import FLOAT32
from autograd.kernels.casts import multi_cast

if TYPE_CHECKING:
    from collections.abc import Iterable

    import numpy as np

    from autograd.backend import Array
    from autograd.tensor import Tensor

__all__ = ["cast_together", "ready"]


def cast_together(leaves: Iterable[Tensor]) -> None:
    """Cast the float32 leaves on a GPU to the autocast dtype in one launch, for ops of the autocast block in force.

    Does nothing without autocast and on the CPU, where casting one by one costs no more.
    """
    state = STATE.get()
    if state.autocast is None:
        return
    wanted = [x for x in leaves if x.version is not None and x.device != "cpu" and x.dtype == FLOAT32]
    wanted = [x for x in wanted if ready(x, state.autocast) is None]
    if wanted:
        results = multi_cast([x.data for x in wanted], state.autocast)
        for x, result in zip(wanted, results, strict=True):
            if x.version is not None:
                # the entry holds the array itself, so that no other array can get its id
                state.casts[id(x.data)] = (x.data, x.version, x.version.count, result)


def ready(x: Tensor, dtype: np.dtype[Any]) -> Array | None:
    """The leaf ``x`` as ``dtype``, if :func:`cast_together` made that and nothing was written to ``x`` since."""
    kept = STATE.get().casts.get(id(x.data))
    if kept is None or x.edge is not None:
        return None
    _, version, count, result = kept
    current = version is x.version and version.count == count and result.dtype == dtype
    return result if current else None
