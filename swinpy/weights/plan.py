"""What is to be written into each parameter, worked out whole before anything is written."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from swinpy.geometry import log_coordinates
from swinpy.weights.dialects import find_dialect
from swinpy.weights.fit import Misfit, cast, fit_channels, fit_position, fit_table
from swinpy.weights.given import WeightsError
from swinpy.weights.head import HEAD_CHOICES, read_class_map

if TYPE_CHECKING:
    import os

    from swinpy.geometry import Coordinates, Pair
    from swinpy.models import SwinTransformer
    from swinpy.weights.dialects import Translation
    from swinpy.weights.fit import Channels, Resize

__all__ = ["Choices", "Plan", "make_plan"]

Array = np.ndarray[Any, Any]

# Tables may be stored in half precision; those of two windows or formulas differ by more.
_HALF = 8e-3

_STAGE_NORM = re.compile(r"norm(\d+)\.(weight|bias)")
_OF_A_STAGE = re.compile(r".*norm\d+\.(weight|bias)")
_TABLE = re.compile(r"layers\.(\d+)\.blocks\.\d+\.attn\.relative_position_bias_table")
_COORDINATES = re.compile(r"layers\.(\d+)\.blocks\.\d+\.attn\.relative_coords_table")


def learned_window(table: Array) -> int:
    """The window that scales a table of V2's coordinates, (1, 2w - 1, 2w - 1, 2); 0 if it does not say.

    Its corner is log2(1 + 8 (w - 1) / (learned - 1)) / 3.
    """
    if table.ndim != 4 or table.shape[1] < 3 or not table.max() > 0:
        return 0
    corner = float(table.max())
    side: int = table.shape[1] // 2
    return 1 + round(8 * side / math.expm1(3 * corner * math.log(2)))


def other_coordinates(table: Array, formula: str, own: Pair) -> str:
    """What is different about the coordinates of a file's table; "" if they are the model's, or cannot be told.

    Args:
        table: of the file, (1, 2 Wh - 1, 2 Ww - 1, 2).
        formula: of the model.
        own: the window that scales the model's coordinates.
    """
    if table.ndim != 4 or (table.shape[0], table.shape[3]) != (1, 2) or 0 in (table.shape[1] % 2, table.shape[2] % 2):
        return ""
    window = (table.shape[1] + 1) // 2, (table.shape[2] + 1) // 2
    learned = learned_window(table)

    def same(of: Pair, how: Coordinates) -> bool:
        want = log_coordinates(window, of, how).reshape(table.shape)
        return np.allclose(table.astype(np.float64), want, rtol=_HALF, atol=_HALF)

    came = ""
    if max(window) > 1 and same(own, "paper"):
        came = "paper"
    elif learned and same((learned, learned), "code"):
        came = "code"
    if came and came != formula:
        return (
            f"positions learned in the coordinates of the {came}, read in those of the {formula}: "
            f"build the model with coordinates={came!r}"
        )
    if came == "code" and own != (learned, learned):
        return f"positions learned at window {learned}, read at {own[0]}: set pretrained_window_sizes"
    return ""


@dataclass(frozen=True)
class Choices:
    """What the caller of load_weights decided, as its arguments say."""

    resize: Resize
    head: str | os.PathLike[str]
    in_chans: Channels


@dataclass
class Plan:
    """The values, and what is to be said about them; names are the parameters', keys the file's.

    Attributes:
        values: parameter -> array of its shape and dtype.
        ignored: as in the report, like the fields below.
        problems: parameter or key -> what is wrong with it.
        absent: parameters for which the file has nothing and should.
        notes: what the weights mean differently in the model.
        source: parameter -> the key that it is read from.
    """

    values: dict[str, Array] = field(default_factory=dict)
    used: list[str] = field(default_factory=list)
    ignored: dict[str, str] = field(default_factory=dict)
    resized: dict[str, str] = field(default_factory=dict)
    cast: dict[str, str] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    unexpected: dict[str, str] = field(default_factory=dict)
    problems: dict[str, str] = field(default_factory=dict)
    absent: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    source: dict[str, str] = field(default_factory=dict)


class _Planner:
    """Holds what every decision needs."""

    def __init__(self, model: SwinTransformer, read: Translation, choices: Choices) -> None:
        self.model, self.read = model, read
        self.resize, self.head, self.in_chans = choices.resize, choices.head, choices.in_chans
        self.own = dict(model.named_state())
        self.state = dict(read.arrays)
        self.plan = Plan(ignored=dict(read.ignored), source=dict(read.source))
        self.plan.unexpected.update(dict.fromkeys(read.unknown, f"no key of the dialect {read.dialect}"))

    def key(self, name: str) -> str:
        """The file's key of an official name."""
        return self.plan.source.get(name, name)

    def ignore(self, name: str, why: str) -> None:
        if self.state.pop(name, None) is not None:
            self.plan.ignored[self.key(name)] = why

    def run(self) -> Plan:
        self._key_bias()
        self._coordinates()
        self._one_norm()
        self._head()
        self._foreign()
        for name in self.own:
            if name in self.state:
                self._take(name, self.state[name])
            elif name not in self.plan.values and name not in self.plan.missing:
                self._lack(name)
        return self.plan

    # ---- what the file has and the model has not

    def _key_bias(self) -> None:
        """V2 with qkv.bias (a torchvision preset) from q_bias and v_bias: the keys' third is 0. V1's is needed."""
        if self.model.config.architecture != "v2":
            return
        for name in [n for n in self.state if n.endswith(".attn.q_bias")]:
            whole, value = name.replace("q_bias", "qkv.bias"), name.replace("q_bias", "v_bias")
            if whole in self.own and name not in self.own and value in self.state:
                query = self.state.pop(name)
                self.state[whole] = np.concatenate([query, np.zeros_like(query), self.state.pop(value)])

    def _one_norm(self) -> None:
        """OpenMMLab's models norm the last stage's output once: a feature's norm and the final one are the same there.

        Which it is for this model says the model; with several norms and no head, the file is a detector's.
        """
        last = f"norm{len(self.model.config.depths) - 1}"
        stages = {name.partition(".")[0] for name in self.state if _STAGE_NORM.fullmatch(name)}
        classifier = stages == {last} or "head.weight" in self.state
        if not find_dialect(self.read.dialect).one_norm:
            return
        for leaf in (".weight", ".bias"):
            final, stage = f"norm{leaf}", last + leaf
            if final not in self.state and stage in self.state and classifier:
                array = self.state[stage] if stage in self.own else self.state.pop(stage)
                self.state[final], self.plan.source[final] = array, self.key(stage)
            elif final in self.state and stage in self.own and _OF_A_STAGE.fullmatch(self.key(final)):
                self.state[stage], self.plan.source[stage] = self.state[final], self.key(final)

    def _coordinates(self) -> None:
        """Say so where V2's biases would be read in coordinates other than those that they were learned in."""
        config = self.model.config
        if config.architecture != "v2":
            return
        notes: dict[str, set[int]] = {}
        for name, table in self.read.buffers.items():
            found = _COORDINATES.fullmatch(name)
            if found is None or int(found[1]) >= len(config.depths):
                continue
            text = other_coordinates(table, config.coordinates, config.pretrained_window(int(found[1])))
            if text:
                notes.setdefault(text, set()).add(int(found[1]))
        for text, stages in notes.items():
            self.plan.notes.append(f"stage {', '.join(map(str, sorted(stages)))}: {text}")

    def _head(self) -> None:
        """The head that is asked for; afterwards ``state`` holds what is to be read of it."""
        file = [n for n in self.state if n.startswith("head.")]
        own = [n for n in self.own if n.startswith("head.")]
        if not own:
            for name in file:
                self.ignore(name, "the model has no head")
            if self.head not in HEAD_CHOICES:
                raise WeightsError(
                    f"load_weights: expected a model with a head for the class map {self.head}; got one without. "
                    "Build it with num_classes=, or leave head= out."
                )
        elif self.head in ("drop", "zero"):
            for name in file:
                self.ignore(name, f"head={self.head!r}")
            for name in own:
                self.plan.missing[name] = f"head={self.head!r}: " + (
                    "the model's own" if self.head == "drop" else "zeros"
                )
                if self.head == "zero":
                    self.plan.values[name] = np.zeros(self.own[name].shape, self.own[name].dtype)
        elif self.head != "keep":
            self._map_head(file)

    def _map_head(self, file: list[str]) -> None:
        weight = self.state.get("head.weight")
        if weight is None or weight.ndim != 2:
            raise WeightsError(
                f"load_weights: expected a head in the file for the class map {self.head}; got none. Pass head='zero'."
            )
        rows = read_class_map(self.head, self.model.num_classes, weight.shape[0])
        for name in file:
            self.state[name] = self.state[name][rows]
            self.plan.resized[name] = f"{weight.shape[0]} to {len(rows)} classes by {self.head}"

    def _foreign(self) -> None:
        """Tensors that the model has no parameter for."""
        for name in [n for n in self.state if n not in self.own]:
            why = self._needless(name)
            if why:
                self.ignore(name, why)
            else:
                del self.state[name]
                self.plan.unexpected[self.key(name)] = self._unexpected(name)

    @staticmethod
    def _needless(name: str) -> str:
        stage = _STAGE_NORM.fullmatch(name)
        if stage:
            return f"norm of a stage's output; feature_norms=(..., {stage[1]}) makes use of it"
        if name == "mask_token" or name.startswith("decoder."):
            return "for masked-image pretraining"
        return ""

    def _unexpected(self, name: str) -> str:
        fix = {
            "absolute_pos_embed": "position='absolute' or 'both' has it",
            "relative_position_bias_table": "position='relative' or 'both' has it",
            "qkv.bias": "qkv_bias=True has it",
            "q_bias": "a V2 model with qkv_bias=True has it",
            "v_bias": "a V2 model with qkv_bias=True has it",
            "logit_scale": "a V2 model has it",
        }
        hint = next((text for ending, text in fix.items() if name.endswith(ending)), "")
        return "no parameter of the model" + (f" ({hint})" if hint else "")

    # ---- what the model has

    def _take(self, name: str, array: Array) -> None:
        plan, parameter = self.plan, self.own[name]
        try:
            value, dtype_note = cast(array, parameter.dtype)
            value, size_note = self._sized(name, value)
        except Misfit as problem:
            plan.problems[self.key(name)] = str(problem)
            return
        plan.values[name] = value.astype(parameter.dtype, copy=False)
        plan.used.append(name)
        if dtype_note:
            plan.cast[name] = dtype_note
        if size_note:
            plan.resized[name] = size_note

    def _sized(self, name: str, value: Array) -> tuple[Array, str]:
        shape, config = self.own[name].shape, self.model.config
        table = _TABLE.fullmatch(name)
        if name == "absolute_pos_embed":
            wanted, given = config.map_size(0), self.read.position_map
            if value.shape != shape or (given is not None and given != wanted):
                return fit_position(value, shape, given, wanted, self.resize)
        if value.shape == shape:
            return value, ""
        if table:
            return fit_table(value, shape, config.window(int(table[1])), self.resize)
        if name == "patch_embed.proj.weight":
            return fit_channels(value, shape, self.in_chans)
        if name.startswith("head."):
            raise Misfit(
                f"expected {shape}; got {value.shape}. Pass head='drop' (keep the model's own), head='zero' or a class "
                f"map file, or build the model with num_classes={value.shape[0] if value.ndim else '...'}"
            )
        raise Misfit(f"expected {shape}; got {value.shape}")

    def _lack(self, name: str) -> None:
        """A parameter that the file has nothing for."""
        stages = any(_STAGE_NORM.fullmatch(n) for n in self.read.arrays)
        final = any(n.startswith("norm.") for n in self.read.arrays)
        if _STAGE_NORM.fullmatch(name) and not stages:
            self.plan.missing[name] = "no norms of stages in the file: the model's own"
        elif name.startswith("norm.") and not final and (stages or "norm" in find_dialect(self.read.dialect).absent):
            self.plan.missing[name] = "a backbone without a final norm: the model's own"
        else:
            self.plan.absent.append(name)


def make_plan(model: SwinTransformer, read: Translation, choices: Choices) -> Plan:
    """Decide about every key and every parameter.

    Raises:
        WeightsError: for a class map that cannot be used.
    """
    return _Planner(model, read, choices).run()
