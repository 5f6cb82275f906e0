"""Running window attention's CUDA kernels in the stand-in, and the rule of low precision for what they return."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

import autograd as ag
from autograd.kernels import KERNELS
from swinpy.kernels.window_attention import window_attention_bwd, window_attention_fwd

from .. import tolerances
from ..rows.opinfo import Source
from ..rows.swin import Case, make
from ..runner import error_of, largest
from ..swin.naive import naive_attention
from . import fake_cupy
from .host_cuda.raw_module import scheduled

if TYPE_CHECKING:
    from ..rows.opinfo import Sample

__all__ = ["Call", "check", "check_logit_scale", "low_dtype", "run"]

LOGIT_SCALE = "gradient of logit_scale"
NAMES = ("output", "gradient of qkv", "gradient of bias", "gradient of qkv_bias", LOGIT_SCALE)
_VARIANTS = 8


def low_dtype(name: str) -> Any:
    """A dtype by name; bfloat16 is ml_dtypes'."""
    if name != "bfloat16":
        return np.dtype(name)
    import ml_dtypes

    return np.dtype(ml_dtypes.bfloat16)


@dataclass(frozen=True)
class Call:
    """A sample in a storage type, with the gradient of its output."""

    sample: Sample
    g: Any

    @staticmethod
    def of(case: Case, dtype: str, seed: int = 0) -> Call:
        sample = make(case, Source(seed)).cast(low_dtype(dtype))
        shape = (case.batch, *case.size, case.heads * case.head_dim)
        return Call(sample, np.random.default_rng(seed).standard_normal(shape).astype(low_dtype(dtype)))

    @property
    def spec(self) -> Any:
        return self.sample.kwargs["spec"]


def run(call: Call, schedule: str = "forward", seed: int = 1) -> list[Any]:
    """The output and the gradients by the CUDA kernels, None for those of arguments that are None."""
    with fake_cupy.installed() as cupy, scheduled(schedule, seed), ag.kernel_mode("cuda"):
        args = [None if a is None else cupy.asarray(a) for a in call.sample.args]
        out = KERNELS["window_attention_fwd"](*args, call.spec)
        grads = KERNELS["window_attention_bwd"](cupy.asarray(call.g), *args, call.spec)
        return [None if a is None else a.get() for a in (out, *grads)]


def _exact(call: Call) -> list[Any]:
    wide = call.sample.cast(np.float64)
    grads = window_attention_bwd.reference(call.g.astype(np.float64), *wide.args, call.spec)
    return [window_attention_fwd.reference(*wide.args, call.spec), *grads]


def _naive_errors(call: Call, exact: list[Any]) -> list[float]:
    """The naive computation's largest errors, over the call and some with values up to 0.1% away (as precision.py)."""
    rng, dtype, errors = np.random.default_rng(11), call.g.dtype, []
    for i in range(_VARIANTS):
        args = tuple(
            a if a is None or not i else (a.astype(np.float64) * rng.uniform(0.999, 1.001, a.shape)).astype(dtype)
            for a in call.sample.args
        )
        near = Call(replace(call.sample, args=args), call.g)
        want = _exact(near) if i else exact
        got = naive_attention(args, call.spec, call.g, dtype)
        errors.append([0.0 if w is None else error_of(n, w) for n, w in zip(got, want, strict=True)])
    return [float(e) for e in np.max(errors, axis=0)]


def check(call: Call, results: list[Any] | None = None) -> None:
    """Assert err(kernel) <= 2 err(naive) + 1 ulp of the largest, of the output and every gradient of many numbers.

    The gradient of logit_scale is one number a head, a sum that cancels: see :func:`check_logit_scale`.

    Raises:
        AssertionError: naming the result that is off, with its error and what is allowed.
    """
    got, exact = run(call) if results is None else results, _exact(call)
    naive = _naive_errors(call, exact)
    for what, have, want, error in zip(NAMES, got, exact, naive, strict=True):
        if want is None:
            assert have is None, what
            continue
        assert have.shape == want.shape, what
        assert have.dtype == call.g.dtype, what
        assert np.isfinite(have.astype(np.float64)).all(), what
        if what == LOGIT_SCALE:
            continue
        off = error_of(have.astype(np.float64), want)
        limit = tolerances.LOW_FACTOR * error + tolerances.spacing(largest(want), have.dtype)
        assert off <= limit, f"{what} in {have.dtype}: off by {off:.3e}, allowed {limit:.3e}"


def check_logit_scale(calls: list[Call]) -> None:
    """The same for the gradient of logit_scale, by the root mean square over many calls, as precision.py does."""
    errors, size = [], 0.0
    for call in calls:
        want, got = _exact(call)[-1], run(call)[-1].astype(np.float64)
        naive = naive_attention(call.sample.args, call.spec, call.g, call.g.dtype)[-1]
        assert naive is not None
        errors.append((error_of(got, want), error_of(naive, want)))
        size = max(size, largest(want))
    kernel, naive_error = np.sqrt(np.mean(np.square(errors), axis=0))
    limit = tolerances.LOW_FACTOR * naive_error + tolerances.spacing(size, calls[0].g.dtype)
    assert kernel <= limit, f"{LOGIT_SCALE}: off by {kernel:.3e}, allowed {limit:.3e}"
