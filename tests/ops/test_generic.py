"""Every generic check on every case of every row of the table."""

from __future__ import annotations

import pytest
from support.checks import CHECKS, applies, error_text
from support.table import cases, rows

_ERRORS = [(info, i) for info in rows() for i in range(len(info.errors))]


def _parameters():
    for check in CHECKS:
        marks = [pytest.mark.gradcheck] if check == "gradcheck" else []
        for info, case in cases():
            if applies(check, info) and (check != "kinks" or case == next(iter(info.samples))):
                yield pytest.param(check, info, case, id=f"{check}-{info.name}-{case}", marks=marks)


@pytest.mark.parametrize(("check", "info", "case"), list(_parameters()))
def test_op(check, info, case):
    CHECKS[check].run(info, info.sample(case))


@pytest.mark.parametrize(("info", "index"), _ERRORS, ids=[f"{info.name}-{i}" for info, i in _ERRORS])
def test_error(info, index):
    error_text(info.name, info.errors[index])
