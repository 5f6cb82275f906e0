"""Learning rate: linear warm-up, then a cosine to the minimum, a value for each optimiser step."""

from __future__ import annotations

import math
from dataclasses import dataclass

__all__ = ["CosineSchedule"]


@dataclass(frozen=True)
class CosineSchedule:
    """lr as a pure function of the step, so that a resume needs no state.

    Attributes:
        lr: after the warm-up.
        total_steps: of the whole run, warm-up included.
        warmup_steps: of linear growth from warmup_lr.
        warmup_lr: at step 0.
        min_lr: at the end.

    Source: Loshchilov & Hutter 2017 (SGDR), without restarts; the cosine covers the steps after the warm-up.
    """

    lr: float
    total_steps: int
    warmup_steps: int = 0
    warmup_lr: float = 0.0
    min_lr: float = 0.0

    def __post_init__(self) -> None:
        if not (self.lr > 0 and 0 <= self.min_lr <= self.lr and self.warmup_lr >= 0):
            raise ValueError(
                "CosineSchedule: expected 0 < lr, 0 <= min_lr <= lr and 0 <= warmup_lr; got "
                f"{self.lr}, {self.min_lr} and {self.warmup_lr}."
            )
        if not 0 <= self.warmup_steps <= self.total_steps or self.total_steps < 1:
            raise ValueError(
                f"CosineSchedule: expected 0 <= warmup_steps <= total_steps; got {self.warmup_steps} and "
                f"{self.total_steps}. Lower --warmup-epochs or raise --epochs."
            )

    def __call__(self, step: int) -> float:
        """The rate of optimiser step ``step``, counted from 0.

        >>> CosineSchedule(1.0, total_steps=12, warmup_steps=2)(1)
        0.5
        """
        if step < self.warmup_steps:
            return self.warmup_lr + (self.lr - self.warmup_lr) * step / self.warmup_steps
        done = min(1.0, (step - self.warmup_steps) / max(1, self.total_steps - self.warmup_steps))
        return self.min_lr + 0.5 * (self.lr - self.min_lr) * (1 + math.cos(math.pi * done))
