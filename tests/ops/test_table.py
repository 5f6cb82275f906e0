"""The table is complete: every primitive, public op and kernel of the engine has its row."""

import importlib.util

import numpy as np
import pytest
from support.checks import CHECKS
from support.layouts import LAYOUTS
from support.rows.table import KERNEL_ROWS, rows
from support.runner import outputs

import autograd as ag
from autograd import ops
from autograd.kernels import KERNELS
from autograd.primitive import PRIMITIVES

ROWS = {info.name: info for info in rows()}
# The engine's own, and swinpy's once its rows are there. What tests or doctests register is not checked.
OWNERS = ("autograd.", "swinpy.") if importlib.util.find_spec("support.rows.swin") else ("autograd.",)


def _owned(function):
    return function.__module__.startswith(OWNERS) and "<doctest" not in function.__code__.co_filename


def test_table_complete():
    primitives = {name for name, p in PRIMITIVES.items() if _owned(p.forward)}
    kernels = {name for name, kernel in KERNELS.items() if _owned(kernel.reference)}
    assert primitives - set(ROWS) == set()
    assert set(ops.__all__) - set(ROWS) == set()
    assert kernels - set(KERNEL_ROWS) == set()


@pytest.mark.parametrize("info", rows(), ids=lambda info: info.name)
def test_row_runs_its_primitive(info):
    names = set()
    with ag.observe(lambda event: names.add(event.name)):
        for case in info.samples:
            outputs(info.fn, info.sample(case))
    assert info.name in names or info.name not in PRIMITIVES or info.name == "checkpoint"


@pytest.mark.parametrize("info", rows(), ids=lambda info: info.name)
def test_row_is_whole(info):
    """Size 0, 0-d and bad calls are there or excused; exemptions name a check and give a reason."""
    for what, there in (
        ("empty", "empty" in info.samples),
        ("scalar", "scalar" in info.samples),
        ("errors", bool(info.errors)),
    ):
        assert there != (what in info.exempt), f"{what}: wanted, or else an exemption with a reason"
    for name, reason in info.exempt.items():
        assert name in {*CHECKS, *LAYOUTS, "empty", "scalar", "errors"}
        assert reason
    assert np.float64 in info.dtypes


@pytest.mark.parametrize("info", rows(), ids=lambda info: info.name)
def test_samples_are_what_they_say(info):
    if "empty" in info.samples:
        sample = info.sample("empty")
        arrays = (*sample.args, *sample.kwargs.values(), *outputs(info.fn, sample))
        assert any(isinstance(a, np.ndarray) and a.size == 0 for a in arrays)
    if "scalar" in info.samples:
        assert any(isinstance(a, np.ndarray) and a.ndim == 0 for a in info.sample("scalar").args)
    for case in info.samples:
        first, again, other = info.sample(case), info.sample(case), info.sample(case, seed=1)
        assert len(first.args) == len(again.args) == len(other.args)
        for a, b in zip(first.args, again.args, strict=True):
            np.testing.assert_array_equal(a, b)
            assert not isinstance(a, np.ndarray) or a.dtype == np.float64
