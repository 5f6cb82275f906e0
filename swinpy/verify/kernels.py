"""Kernels under validation: every implementation against its reference, on the arguments of a real run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from autograd.kernels import KernelCheck, validation

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["KernelReport", "validate_kernels"]


@dataclass(frozen=True)
class KernelReport:
    """The result of :func:`validate_kernels`; prints a line for each kernel."""

    checks: tuple[KernelCheck, ...]

    @property
    def faulty(self) -> list[str]:
        """Kernels that differ from their reference, or raised."""
        return [c.kernel for c in self.checks if c.failed]

    @property
    def compared(self) -> list[str]:
        """Kernels that had an implementation which took at least one call."""
        return [c.kernel for c in self.checks if c.compared]

    def __str__(self) -> str:
        lines = [f"{'kernel':<28}{'compared':<22}{'calls':>7}{'largest difference':>22}"]
        for check in self.checks:
            calls = check.compared + sum(check.refused.values())
            against = f"{check.kind} with reference" if check.compared else "reference alone"
            largest = "" if not check.compared else "DIFFERS" if check.failed else f"{check.largest:.1e}"
            lines.append(f"{check.kernel:<28}{against:<22}{calls:>7}{largest:>22}")
            lines += [f"    refused {n} of {calls}: {reason}" for reason, n in check.refused.items()]
            lines += [f"    {fault}" for fault in check.faults[:3]]
        good = len(self.compared) - len(self.faulty)
        lines.append(f"{len(self.checks)} kernels ran; {len(self.compared)} compared, {good} agree")
        if self.faulty:
            lines.append(f"at fault: {', '.join(self.faulty)}")
        return "\n".join(lines)


def validate_kernels(step: Callable[[], Any]) -> KernelReport:
    """Run ``step`` with every kernel call made twice, by the implementation and by the reference, and compare.

    Differences are relative to the largest value of an output. After a difference the run goes on with the reference's
    values, so that every faulty kernel is found in one run.

    Args:
        step: any code that calls kernels, e.g. forward and backward of a model and an optimiser step.

    >>> import autograd as ag, numpy as np
    >>> report = validate_kernels(lambda: ag.softmax(np.ones(3)))
    >>> report.faulty
    []
    """
    with validation() as checks:
        step()
    return KernelReport(tuple(checks[name] for name in sorted(checks)))
