"""gradcheck_model: every part of a model and the whole of it against numerical derivatives, in float64.

Each part is checked alone, on the arguments that it gets in a run of the model. So the cases (padded, shifted, odd
maps, one window) are those that occur.
"""

from __future__ import annotations

import copy
import fnmatch
import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

import autograd as ag
from swinpy.probe import watching
from swinpy.verify.foreign import as_array, require_module

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from swinpy.nn import Module

__all__ = ["PARTS", "GradcheckReport", "GradcheckRow", "gradcheck_model"]

# The units of a Swin by their official names; a model in which nothing is called so is checked child by child.
PARTS = ("patch_embed", "layers.*.blocks.*", "layers.*.downsample", "norm", "head")


@dataclass(frozen=True)
class GradcheckRow:
    """One part.

    Attributes:
        name: its path; "model" for the whole.
        kind: its class.
        leaves: inputs and parameters that were moved.
        error: what is wrong, or None.
        seconds: taken.
    """

    name: str
    kind: str
    leaves: int
    error: str | None
    seconds: float

    def __str__(self) -> str:
        verdict = "ok" if self.error is None else f"FAILED\n    {self.error}"
        return f"{self.name:<26}{self.kind:<18}{self.leaves:>4} leaves{self.seconds:>8.1f} s  {verdict}"


@dataclass(frozen=True)
class GradcheckReport:
    """The result of :func:`gradcheck_model`; prints a line a part."""

    rows: tuple[GradcheckRow, ...]

    @property
    def failed(self) -> list[str]:
        """Paths of the parts whose gradients are wrong."""
        return [row.name for row in self.rows if row.error is not None]

    @property
    def passed(self) -> bool:
        """Something was checked and nothing failed."""
        return bool(self.rows) and not self.failed

    def __str__(self) -> str:
        good = len(self.rows) - len(self.failed)
        return "\n".join([*map(str, self.rows), f"{good} of {len(self.rows)} parts pass"])


class _FirstCalls:
    """Keeps the arguments of the first call of each module."""

    def __init__(self, model: Module) -> None:
        self.paths = {id(m): path for path, m in model.named_modules()}
        self.found: dict[str, tuple[Module, tuple[Any, ...], dict[str, Any]]] = {}

    def entered(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        path = self.paths.get(id(module), "")
        if path and path not in self.found:
            self.found[path] = (module, args, kwargs)

    def returned(self, module: Any, result: Any) -> None: ...

    def left(self, module: Any) -> None: ...

    def tapped(self, name: str, value: Any) -> None: ...


def _flat(value: Any, leaves: list[ag.Tensor]) -> Any:
    """``value`` with each float Tensor replaced by its number in ``leaves``."""
    if isinstance(value, ag.Tensor) and value.dtype.kind == "f":
        leaves.append(value)
        return _Slot(len(leaves) - 1)
    if isinstance(value, tuple):
        parts = [_flat(v, leaves) for v in value]
        return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)
    return value


@dataclass(frozen=True)
class _Slot:
    index: int


def _filled(value: Any, leaves: Sequence[ag.Tensor]) -> Any:
    if isinstance(value, _Slot):
        return leaves[value.index]
    if isinstance(value, tuple):
        parts = [_filled(v, leaves) for v in value]
        return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)
    return value


def _tensors(value: Any) -> tuple[ag.Tensor, ...]:
    leaves: list[ag.Tensor] = []
    _flat(tuple(value) if isinstance(value, list) else value, leaves)
    return tuple(leaves)


def _as_function(module: Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Callable[..., Any], list[Any]]:
    """The call as a function of its Tensors alone, and those."""
    leaves: list[ag.Tensor] = []
    shape = _flat(args, leaves)

    def run(*tensors: ag.Tensor) -> tuple[ag.Tensor, ...]:
        with ag.fork_rng({"seed": 0, "offset": 0}):
            return _tensors(module(*_filled(shape, tensors), **kwargs))

    return run, [t.numpy() for t in leaves]


def gradcheck_model(
    model: Module,
    x: Any,
    *,
    parts: Sequence[str] = PARTS,
    whole: bool = True,
    each: bool = True,
    step: float = 1e-3,
    seed: int = 0,
    on_row: Callable[[GradcheckRow], None] | None = None,
) -> GradcheckReport:
    """Check gradients of every part and of the whole model against numerical derivatives.

    The model itself is not touched: a copy in float64 is checked, in the mode (training or evaluation) that the model
    is in, with its random draws repeated.

    Args:
        model: any Module.
        x: its input; cast to float64.
        parts: shell patterns of the modules to check alone; where none fits, the model's direct children are.
        whole: check the whole model too.
        each: check along every parameter and input alone, then along all together; False checks only along all
            together, which suits large models.
        step: the largest step of a component, see :func:`autograd.gradcheck`. Keep ReLUs (V2's position bias has
            thousands) away from their kinks by the choice of weights, or choose a smaller step.
        seed: of the directions.
        on_row: is told of each part when it is done.

    Returns:
        A :class:`GradcheckReport`; nothing is raised for a gradient that is wrong.

    Raises:
        TypeError: for what is no Module.
        ValueError: for a step that is not positive.
    """
    require_module("gradcheck_model", model)
    if not 0 < step < math.inf:
        raise ValueError(f"gradcheck_model: expected a positive step; got {step}.")
    twin = copy.deepcopy(model).astype("float64")
    image = np.array(as_array(x), dtype=np.float64)
    calls = _FirstCalls(twin)
    with ag.no_grad(), ag.fork_rng({"seed": 0, "offset": 0}), watching(calls):
        twin(ag.Tensor(image))
    chosen = [p for p in calls.found if _fits(p, parts)] or [p for p in calls.found if p.count(".") == 0]
    todo = [(name, *calls.found[name]) for name in chosen]
    if whole:
        todo.append(("model", twin, (ag.Tensor(image),), {}))
    rows = []
    for name, module, args, kwargs in todo:
        row = _row(name, module, args, kwargs, {"each": each, "step": step, "seed": seed})
        rows.append(row)
        if on_row is not None:
            on_row(row)
    return GradcheckReport(tuple(rows))


def _fits(path: str, patterns: Sequence[str]) -> bool:
    """Shell patterns in which ``*`` does not cross a dot."""
    names = path.split(".")
    return any(
        len(names) == len(wanted) and all(map(fnmatch.fnmatchcase, names, wanted))
        for wanted in (p.split(".") for p in patterns)
    )


def _row(name: str, module: Module, args: Any, kwargs: Any, options: dict[str, Any]) -> GradcheckRow:
    run, inputs = _as_function(module, args, kwargs)
    parameters = [p for p in module.parameters() if p.requires_grad]
    start, error = time.perf_counter(), None
    try:
        ag.gradcheck(run, inputs, parameters, **options)
    except (ag.GradcheckError, FloatingPointError, AssertionError) as wrong:
        error = str(wrong)
    kind = type(module).__name__
    return GradcheckRow(name, kind, len(inputs) + len(parameters), error, time.perf_counter() - start)
