"""The door for code outside the engine that adds a primitive or a kernel.

The engine's other doors: ``autograd`` for those who compute, ``autograd.kernels`` and its rooms for kernels called by
name, explained and compared, ``autograd.random`` for draws by counters, and ``autograd.kernels.compiled`` for twins
that Numba compiles (their files alone may import its modules, which import Numba).

>>> import numpy as np
>>> from autograd.extend import Primitive
>>> def forward(ctx, x):
...     ctx.save(x)
...     return x**3
>>> def vjp(ctx, grad):
...     (x,) = ctx.saved
...     return 3 * x**2 * grad
>>> cube = Primitive("doctest_cube", forward, vjp, fresh=True)
>>> import autograd as ag
>>> x = ag.Tensor(np.array([1.0, 2.0]), requires_grad=True)
>>> cube(x).sum().backward()
>>> x.grad
array([ 3., 12.])
"""

from autograd.backend import Array, array_module, device_memory, device_of, device_scope, is_array
from autograd.casts import cast_together
from autograd.checkpoint import replaying
from autograd.context import autocast_dtype
from autograd.deferred import DeferredBias
from autograd.dtypes import accumulator, is_float
from autograd.graph import Node, graph_nodes
from autograd.kernels.blocks import run_blocks, total_of
from autograd.kernels.buffers import empty
from autograd.kernels.casts.cuda import takes_multi_cast
from autograd.kernels.compiled import compiled_dtype, register_compiled
from autograd.kernels.cuda import cuda_dtype, register_cuda
from autograd.kernels.cuda.budget import Budget
from autograd.kernels.cuda.launch import capability, contiguous, launch, multiprocessors
from autograd.kernels.cuda.source import FLOAT_NAMES, Program, program
from autograd.kernels.registry import Cost, Implementation, Kernel, elementwise, kernel
from autograd.kernels.threads import map_pieces
from autograd.primitive import Ctx, Primitive
from autograd.shapes import normalize_axes, normalize_axis, unbroadcast
from autograd.tensor import TensorLike

__all__ = [
    "FLOAT_NAMES",
    "Array",
    "Budget",
    "Cost",
    "Ctx",
    "DeferredBias",
    "Implementation",
    "Kernel",
    "Node",
    "Primitive",
    "Program",
    "TensorLike",
    "accumulator",
    "array_module",
    "autocast_dtype",
    "capability",
    "cast_together",
    "compiled_dtype",
    "contiguous",
    "cuda_dtype",
    "device_memory",
    "device_of",
    "device_scope",
    "elementwise",
    "empty",
    "graph_nodes",
    "is_array",
    "is_float",
    "kernel",
    "launch",
    "map_pieces",
    "multiprocessors",
    "normalize_axes",
    "normalize_axis",
    "program",
    "register_compiled",
    "register_cuda",
    "replaying",
    "run_blocks",
    "takes_multi_cast",
    "total_of",
    "unbroadcast",
]
