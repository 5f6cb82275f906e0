"""A deliberately naive engine, the model that test_machine.py holds the real one to.

Every result of an op keeps whole Jacobian matrices, one for each input. Backward visits everything ever made, youngest
first, and multiplies. Nothing is dropped, shared or accumulated in place: slow, and too simple to be wrong.
"""

from __future__ import annotations

from typing import Any, ClassVar

__all__ = ["FreedError", "Naive", "StaleError"]


class FreedError(Exception):
    """Backward through an op that a backward without ``retain`` has passed."""


class StaleError(Exception):
    """Backward through an op one of whose inputs was written to since."""


class Naive:
    """A vector and how it was made.

    Attributes:
        version: [number of writes], shared by all that may be written to on the same memory; None for results of ops.
        inputs: (tensor, Jacobian, its number of writes when it was read); empty if nothing was recorded.
        op: {"freed": ...}, shared by the outputs of one op.
    """

    made: ClassVar[list[Naive]] = []

    def __init__(self, values: Any, needs: bool = False, version: list[int] | None = None) -> None:
        self.values, self.needs, self.version = values, needs, version
        self.inputs: list[tuple[Naive, Any, Any]] = []
        self.op: dict[str, bool] = {}
        self.grad: Any = None
        Naive.made.append(self)


def apply(recording: bool, *outputs: tuple[Any, list[tuple[Naive, Any]]]) -> list[Naive]:
    """One op: for each output its values and a Jacobian for each input."""
    needs = recording and any(x.needs for _, inputs in outputs for x, _ in inputs)
    op = {"freed": False}
    results = []
    for values, inputs in outputs:
        out = Naive(values, needs)
        if needs:
            out.op, out.inputs = op, [(x, j, x.version and x.version[0]) for x, j in inputs]
        results.append(out)
    return results


def backward(root: Naive, gradient: Any, retain: bool) -> None:
    """Add the gradients to the leaves, all or none."""
    arrived, passed = {root: gradient}, set()
    for node in reversed(Naive.made):
        if node not in arrived or not node.inputs:
            continue
        if id(node.op) not in passed:
            if node.op["freed"]:
                raise FreedError
            if any(x.version and x.version[0] != seen for x, _, seen in node.inputs):
                raise StaleError
            passed.add(id(node.op))
        for x, jacobian, _ in node.inputs:
            if x.needs:
                arrived[x] = arrived.get(x, 0) + arrived[node] @ jacobian
        node.op["freed"] = not retain
    for leaf, gradient in arrived.items():
        if not leaf.inputs:
            leaf.grad = gradient if leaf.grad is None else leaf.grad + gradient
