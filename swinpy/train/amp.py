"""Mixed precision: which 16-bit type a run computes in, and the factor that keeps its gradients from vanishing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["AMP_DTYPES", "LossScaler", "scaler_for"]

AMP_DTYPES = ("float16", "bfloat16")


@dataclass
class LossScaler:
    """The factor of the loss, found while training.

    float16 ends at 6e-8: small gradients become 0. So the loss is multiplied by ``scale``, and gradients are divided by
    it before they are used. Where that makes one infinite the step is left out and the factor is lowered.

    Attributes:
        scale: what the loss is multiplied by.
        good_steps: steps since it was last changed.
        growth_factor: the scale is multiplied by it after ``growth_interval`` good steps in a row.
        backoff_factor: the scale is multiplied by it where a gradient is not finite.
        growth_interval: steps.

    Source: Micikevicius et al. 2018, section 3.2; the defaults are torch.amp.GradScaler's.
    """

    scale: float = 65536.0
    good_steps: int = 0
    growth_factor: float = 2.0
    backoff_factor: float = 0.5
    growth_interval: int = 2000

    def update(self, finite: bool) -> None:
        """Adapt the scale after a step whose gradients were ``finite`` or not."""
        if not finite:
            self.scale *= self.backoff_factor
            self.good_steps = 0
            return
        self.good_steps += 1
        if self.good_steps == self.growth_interval:
            self.scale *= self.growth_factor
            self.good_steps = 0

    def state(self) -> dict[str, Any]:
        """What a resumed run needs, as plain values."""
        return {"scale": self.scale, "good_steps": self.good_steps}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Go to a state that :meth:`state` returned."""
        self.scale, self.good_steps = float(state["scale"]), int(state["good_steps"])


def scaler_for(amp_dtype: str | None) -> LossScaler | None:
    """A scaler for float16. bfloat16 has float32's range and needs none."""
    return LossScaler() if amp_dtype == "float16" else None
