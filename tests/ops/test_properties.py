"""The generic checks on drawn samples: hypothesis chooses case, shapes, options, layouts and a seed."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import strategies
from support.checks import CHECKS, applies, layout_of_all
from support.rows.table import cases, rows

# Values that a check's own rules are about (kinks), and checks that draw nothing new, are left to test_generic.
DRAWN = ("forward", "composite", "adjoint", "linearity", "unaliased")


@pytest.mark.parametrize("info", rows(), ids=lambda info: info.name)
@given(data=st.data())
def test_drawn_sample(info, data):
    _case, sample = strategies.sample_of(data, info)
    layout = data.draw(strategies.layouts, label="layout")
    for check in DRAWN:
        if applies(check, info):
            CHECKS[check].run(info, sample)
    layout_of_all(info, sample, layout)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 21))
@pytest.mark.parametrize("info", rows(), ids=lambda info: info.name)
def test_sweep(info, seed):
    """Everything again, with other values and shapes."""
    for check in CHECKS:
        if applies(check, info):
            for _, case in (pair for pair in cases() if pair[0] is info):
                CHECKS[check].run(info, info.sample(case, seed))
