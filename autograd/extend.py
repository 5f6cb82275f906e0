"""The only door for code outside the engine that adds a primitive or a kernel.

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

from autograd.backend import Array, array_module, device_of, device_scope, is_array
from autograd.casts import cast_together
from autograd.context import autocast_dtype
from autograd.deferred import DeferredBias
from autograd.dtypes import accumulator, is_float
from autograd.graph import Node, graph_nodes
from autograd.kernels.buffers import empty
from autograd.kernels.cpu import compiled_dtype, register_compiled
from autograd.kernels.cuda import cuda_dtype, register_cuda
from autograd.kernels.cuda.accepts import multi_cast as cuda_cast
from autograd.kernels.cuda.budget import Budget
from autograd.kernels.cuda.launch import capability, contiguous, launch, multiprocessors
from autograd.kernels.cuda.source import FLOAT_NAMES, Program, program
from autograd.kernels.reference.blocks import run_blocks, total_of
from autograd.kernels.registry import Cost, Implementation, Kernel, call_kernel, register_kernel
from autograd.kernels.threads import map_pieces
from autograd.primitive import Ctx, Primitive
from autograd.shapes import normalize_axes, normalize_axis, unbroadcast

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
    "accumulator",
    "array_module",
    "autocast_dtype",
    "call_kernel",
    "capability",
    "cast_together",
    "compiled_dtype",
    "contiguous",
    "cuda_cast",
    "cuda_dtype",
    "device_of",
    "device_scope",
    "empty",
    "graph_nodes",
    "is_array",
    "is_float",
    "launch",
    "map_pieces",
    "multiprocessors",
    "normalize_axes",
    "normalize_axis",
    "program",
    "register_compiled",
    "register_cuda",
    "register_kernel",
    "run_blocks",
    "total_of",
    "unbroadcast",
]
