"""What has to hold on a GPU: kernels, ops and models against the CPU in float64, bitwise repeats, no hidden copies.

Each check takes the array module, so that the very same functions run on a real GPU (tests/gpu/test_gpu.py, ``pytest -m
gpu``) and, at tiny sizes, on the stand-in for CuPy (tests/gpu/test_on_stand_in.py). Low precision by DESIGN's rule:
err(on the GPU) <= 2 err(the reference in that precision) + 1 ulp of the largest.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import autograd as ag
import swinpy
from autograd.kernels import KERNELS, kernel_mode
from autograd.kernels.cuda.launch import Counts, counting
from swinpy.train.optim import AdamW

from .. import checks, skips
from ..precision import FEW, VARIANTS, Errors
from ..rows.table import find
from ..swin.models import redraw
from ..swin.naive import naive_attention
from .rows import ATTENTION_ROWS, arguments_of

if TYPE_CHECKING:
    from ..rows.opinfo import OpInfo

__all__ = [
    "OP_CHECKS",
    "check_model",
    "check_op",
    "check_row",
    "dtype_on",
    "on_device",
    "real_cupy",
    "repeats_bitwise",
    "run_row",
    "train_steps",
]

OP_CHECKS = ("forward", "forward_low", "gradients_low", "repeatable", "layouts")  # of support.checks


def real_cupy() -> Any:
    """CuPy with a GPU that works; else the test is skipped."""
    if not ag.has_gpu():
        pytest.skip(skips.NO_GPU)
    import cupy

    return cupy


def dtype_on(cupy: Any, name: str | None) -> Any:
    """The dtype (None for None); for bfloat16 the test is skipped where ml_dtypes or CuPy's part in it is missing."""
    if name != "bfloat16":
        return name if name is None else np.dtype(name)
    low = np.dtype(pytest.importorskip("ml_dtypes", reason=skips.NO_ML_DTYPES).bfloat16)
    try:
        x = cupy.asarray(np.ones((8, 8), low))
        works = float((x @ x).astype(np.float32).get()[0, 0]) == 8
    except (TypeError, ValueError, KeyError, RuntimeError):
        works = False
    if not works:
        pytest.skip(skips.NO_CUPY_BFLOAT16)
    return low


def _each_array(value: Any, change: Any) -> Any:
    """``value`` with every NumPy array in it, however nested, changed."""
    if isinstance(value, (list, tuple)):
        return type(value)(_each_array(v, change) for v in value)
    if isinstance(value, dict):
        return {k: _each_array(v, change) for k, v in value.items()}
    return change(value) if isinstance(value, (np.ndarray, np.generic)) else value


def on_device(cupy: Any, value: Any) -> Any:
    """``value`` with every NumPy array in it, however nested, copied to the GPU."""
    return _each_array(value, cupy.asarray)


def _is_float(x: Any) -> bool:
    return bool(x.dtype.kind == "f" or x.dtype.name == "bfloat16")


def _flat(value: Any) -> list[Any]:
    """The arrays in a result or among arguments, on the host."""
    if isinstance(value, (list, tuple)):
        return [array for v in value for array in _flat(v)]
    if hasattr(value, "get") and hasattr(value, "dtype"):
        return [value.get()]
    return [value] if isinstance(value, (np.ndarray, np.generic)) else []


def _call(name: str, mode: str, args: Any, options: Any) -> list[Any]:
    """All that kernel ``name`` gives: its results, and the arguments that it writes."""
    args = _each_array(args, np.copy)
    with kernel_mode(mode):
        result = KERNELS[name](*args, **options)
    return _flat(result) + _flat([args[i] for i in KERNELS[name].writes])


# ---- kernels


def _call_on(cupy: Any, name: str, args: Any, options: Any) -> list[Any]:
    return _call(name, "cuda", on_device(cupy, args), on_device(cupy, options))


def _naive_attention(args: Any, dtype: Any) -> list[Any]:
    """Output, or gradients, by steps that each round to 16 bits, as operands of tensor cores are rounded; the reference
    rounds its result alone."""
    g = args[0] if len(args) == 6 else np.zeros((*args[0].shape[:3], args[0].shape[3] // 3))
    found = naive_attention(args[-5:-1], args[-1], g, dtype)
    return [a for a in (found[1:] if len(args) == 6 else found[:1]) if a is not None]


def check_row(cupy: Any, name: str, dtype: Any, variants: int = 0) -> None:
    """The CUDA implementation of a kernel against its reference in float64, over operands a little apart.

    Naive is the reference in ``dtype`` on the CPU. ``variants``: how many; 0 for as many as the rule asks for.
    """
    rng, errors = np.random.default_rng(11), Errors()
    kernel, (args, options) = arguments_of(name, np.random.default_rng(0), dtype)
    few = any(0 < a.size < FEW for a in _flat(_call(kernel, "reference", args, options)))
    for i in range(variants or (2 if few else 1) * VARIANTS):
        near = 1e-3 if i else 0.0
        low = _each_array(
            args, lambda a, n=near: (a * rng.uniform(1 - n, 1 + n, a.shape)).astype(a.dtype) if _is_float(a) else a
        )
        exact = _each_array(low, lambda a: a.astype(np.float64) if _is_float(a) else a)
        want = _call(kernel, "reference", exact, options)
        reference = _call(kernel, "reference", low, options)
        got = _call_on(cupy, kernel, low, options)
        assert [(a.shape, a.dtype) for a in got] == [(a.shape, a.dtype) for a in reference], name
        naive = _naive_attention(low, dtype) if name in ATTENTION_ROWS and dtype.itemsize == 2 else reference
        for index, (g, n, w) in enumerate(zip(got, naive, want, strict=True)):
            errors.add(index, g, [n], w)
    errors.judge(name, dtype)


def run_row(cupy: Any, name: str, dtype: Any) -> None:
    """The CUDA implementation once, for whoever watches it."""
    kernel, (args, options) = arguments_of(name, np.random.default_rng(0), dtype)
    _call_on(cupy, kernel, args, options)


def repeats_bitwise(cupy: Any, name: str, dtype: Any, times: int) -> None:
    """The same bits every time."""
    kernel, (args, options) = arguments_of(name, np.random.default_rng(0), dtype)
    first = [a.tobytes() for a in _call_on(cupy, kernel, args, options)]
    for i in range(1, times):
        assert [a.tobytes() for a in _call_on(cupy, kernel, args, options)] == first, f"{name}: run {i} differs"


# ---- ops


def _through_gpu(info: OpInfo) -> OpInfo:
    """The row with its op computed on the GPU; operands and results are on the CPU, moved by the engine."""

    def moved(x: Any) -> Any:
        if isinstance(x, ag.Tensor):
            return x.to("gpu")
        return type(x)(map(moved, x)) if isinstance(x, (list, tuple)) else x

    def fn(*args: Any, **kwargs: Any) -> Any:
        result = info.fn(*map(moved, args), **{k: moved(v) for k, v in kwargs.items()})
        return type(result)(t.to("cpu") for t in result) if isinstance(result, (list, tuple)) else result.to("cpu")

    return replace(info, fn=fn)


def check_op(check: str, name: str, case: str) -> None:
    """A generic check of the op table with the op on the GPU."""
    info = find(name)
    checks.CHECKS[check].run(_through_gpu(info), info.sample(case))


# ---- models


def _size(config: Any) -> tuple[int, int]:
    size = config.img_size
    return (size, size) if isinstance(size, int) else size


def _outputs_and_gradients(model: Any, x: Any, g: Any) -> list[Any]:
    for parameter in model.parameters():
        parameter.grad = None
    out = model(x)
    out.backward(g.astype(out.dtype))
    return [out.numpy(), *(p.grad for p in model.parameters())]


def check_model(
    cupy: Any, name: str, batch: int, autocast: str | None = None, variants: int = VARIANTS, **options: Any
) -> None:
    """Logits and every gradient of a whole model, on the GPU against the CPU in float64, for some images.

    Naive is the CPU with the references in float32, under the same autocast.
    """
    wide = swinpy.create_model(name, dtype="float64", drop_path_rate=0.0, **options)
    redraw(wide)
    state, config = {k: v.astype(np.float32) for k, v in wide.state_dict().items()}, wide.config
    wide.load_state_dict(state)
    rng = np.random.default_rng(0)
    narrow = {
        device: swinpy.create_model(name, device=device, drop_path_rate=0.0, **options) for device in ("cpu", "gpu")
    }
    for model in narrow.values():
        model.load_state_dict(state)
    errors = Errors()
    for _ in range(variants):
        low = rng.standard_normal((batch, 3, *_size(config))).astype(np.float32)
        low_g = rng.standard_normal((batch, config.num_classes)).astype(np.float32)
        with kernel_mode("reference"):
            want = _outputs_and_gradients(wide, low.astype(np.float64), low_g)
            with ag.autocast(autocast):
                naive = _outputs_and_gradients(narrow["cpu"], low, low_g)
        with ag.autocast(autocast):
            got = _flat(_outputs_and_gradients(narrow["gpu"], *on_device(cupy, [low, low_g])))
        for i, arrays in enumerate(zip(got, naive, want, strict=True)):
            errors.add(i, arrays[0], [arrays[1]], arrays[2])
    errors.judge(f"{name}: result", np.dtype(autocast or "float32"))


def train_steps(
    cupy: Any, name: str, batch: int, steps: int, autocast: str | None = None, **options: Any
) -> tuple[Counts, list[bytes]]:
    """Train a few steps from the same start: what the last step launched and copied, and the bits of all parameters."""
    ag.manual_seed(0)
    model = swinpy.create_model(name, device="gpu", **options)
    optimizer = AdamW(model.named_parameters(), model.no_weight_decay(), weight_decay=0.05)
    rng, classes, seen = np.random.default_rng(0), model.config.num_classes, [Counts()]
    for _ in range(steps):
        x = cupy.asarray(rng.standard_normal((batch, 3, *_size(model.config))).astype(np.float32))
        labels = cupy.asarray(rng.integers(0, classes, batch))
        with counting() as counts, ag.autocast(autocast):
            ag.cross_entropy(model(x), labels).backward()
            optimizer.step(1e-3, clip_grad=5.0)
        seen.append(counts)
        model.zero_grad()
    return seen[-1], [p.data.get().tobytes() for p in model.parameters()]
