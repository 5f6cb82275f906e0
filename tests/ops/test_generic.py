"""Every generic check on every case of every row of the table; kernels by each of their implementations."""

from __future__ import annotations

import pytest
from support.checks import CHECKS, applies, error_text
from support.implementations import COMPILED_OPS, needs_numba, using
from support.rows.table import cases, rows

_ERRORS = [(info, i) for info in rows() for i in range(len(info.errors))]


def _parameters():
    for check in CHECKS:
        marks = [pytest.mark.gradcheck] if check == "gradcheck" else []
        for info, case in cases():
            if applies(check, info) and (check != "kinks" or case == next(iter(info.samples))):
                name = f"{check}-{info.name}-{case}"
                yield pytest.param(check, info, case, "reference", id=name, marks=marks)
                if info.name in COMPILED_OPS:
                    yield pytest.param(
                        check, info, case, "compiled", id=f"{name}-compiled", marks=[*marks, needs_numba]
                    )


@pytest.mark.parametrize(("check", "info", "case", "implementation"), list(_parameters()))
def test_op(check, info, case, implementation):
    with using(implementation):
        CHECKS[check].run(info, info.sample(case))


@pytest.mark.parametrize(("info", "index"), _ERRORS, ids=[f"{info.name}-{i}" for info, i in _ERRORS])
def test_error(info, index):
    error_text(info.name, info.errors[index])
