"""Tests of the tests: each planted fault is noticed by the check that is named for it."""

import pytest
from support.checks import CHECKS
from support.faults import FAULTS, Fault, assert_caught, generic


@pytest.mark.parametrize("fault", FAULTS, ids=[fault.name for fault in FAULTS])
def test_planted_fault_is_noticed(fault):
    assert_caught(fault)


def test_every_check_notices_something():
    assert {fault.check.args[0] for fault in FAULTS} == set(CHECKS)


def test_a_harmless_change_is_reported_as_unnoticed():
    with pytest.raises(AssertionError, match="nothing noticed"):
        assert_caught(Fault("nothing at all", generic("forward", "add"), lambda patch: None))
