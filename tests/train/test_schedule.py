"""The learning rate of each step, against values worked out by hand."""

import math

import pytest

from swinpy.train.schedule import CosineSchedule


def test_warms_up_linearly_then_follows_a_cosine_to_the_minimum():
    lr = CosineSchedule(1.0, total_steps=110, warmup_steps=10, warmup_lr=0.1, min_lr=0.2)
    assert lr(0) == 0.1
    assert lr(5) == pytest.approx(0.55, abs=1e-15)
    assert lr(10) == 1.0
    assert lr(60) == pytest.approx(0.6, abs=1e-15)  # half-way: the mean of lr and min_lr
    assert lr(35) == pytest.approx(0.2 + 0.4 * (1 + math.cos(math.pi / 4)), abs=1e-15)
    assert lr(110) == pytest.approx(0.2, abs=1e-15)
    assert lr(500) == lr(110)


def test_without_warm_up_starts_at_the_full_rate():
    assert CosineSchedule(0.5, total_steps=4)(0) == 0.5


@pytest.mark.parametrize(
    ("kwargs", "words"),
    [
        ({"lr": 0.0, "total_steps": 5}, "expected 0 < lr"),
        ({"lr": 1.0, "total_steps": 5, "min_lr": 2.0}, "min_lr <= lr"),
        ({"lr": 1.0, "total_steps": 5, "warmup_steps": 6}, "Lower --warmup-epochs"),
        ({"lr": 1.0, "total_steps": 0}, "total_steps"),
    ],
)
def test_refuses_schedules_that_cannot_be(kwargs, words):
    with pytest.raises(ValueError, match=words):
        CosineSchedule(**kwargs)
