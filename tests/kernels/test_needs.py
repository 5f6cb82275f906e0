"""Backward kernels that are told which gradients to compute: none beyond them, and these with the same values."""

from __future__ import annotations

import inspect
from contextlib import nullcontext
from itertools import product
from typing import Any

import numpy as np
import pytest
from support.gpu import fake_cupy
from support.gpu.fake_cupy import to_device
from support.implementations import needs_numba
from support.rows.table import KERNEL_ROWS
from support.tolerances import COMPOSITE

import autograd as ag
from autograd.backend import to_device as host
from autograd.kernels import KERNELS, explain

NAMES = [name for name in sorted(KERNEL_ROWS) if "needs" in inspect.signature(KERNELS[name].reference).parameters]


def test_the_kernels_are_known() -> None:
    assert NAMES == ["conv2d_bwd", "linear_bwd", "mlp_bwd"]


@pytest.mark.parametrize(
    ("name", "implementation"),
    [
        pytest.param(name, kind, marks=needs_numba if kind == "cpu" else ())
        for name in NAMES
        for kind in ("reference", "cpu", "cuda")
        if kind == "reference" or getattr(KERNELS[name], kind) is not None
    ],
)
def test_every_choice(name: str, implementation: str) -> None:
    gpu = implementation == "cuda"
    with fake_cupy.installed() if gpu else nullcontext():
        dtype: Any = np.float64 if implementation == "reference" else np.float32
        (*args, needs), _ = KERNEL_ROWS[name].arguments(np.random.default_rng(0), dtype)
        args = to_device(args) if gpu else args
        with ag.kernel_mode("reference" if implementation == "reference" else "auto"):
            assert implementation == "reference" or f"runs {implementation}" in explain(
                name, *args, (True,) * len(needs)
            )
            everything = KERNELS[name](*args, (True,) * len(needs))
            for choice in product((True, False), repeat=len(needs)):
                grads = KERNELS[name](*args, choice)
                assert [grad is not None for grad in grads] == list(choice)
                for one, every in zip(grads, everything, strict=True):
                    if one is not None:
                        tolerance = COMPOSITE if dtype is np.float64 else 1e-5
                        np.testing.assert_allclose(host(one, "cpu"), host(every, "cpu"), rtol=tolerance, atol=tolerance)
