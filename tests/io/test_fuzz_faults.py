"""The fuzzer sees what it is there to see: each charge that a reader makes is left out in turn, and it says so."""

from __future__ import annotations

import json
import zipfile
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

import pytest
from support.hostile.expensive import KINDS
from support.hostile.fuzz import files
from support.hostile.measure import READERS, measure

import swinpy.data.cifar.pickled as cifar
import swinpy.io.costs as costs
import swinpy.io.safetensors.read as safetensors
import swinpy.io.torch.pickle as machine
import swinpy.io.torch.zip as archive
from swinpy.io import arrays, entries, read
from swinpy.io.source import Budget
from swinpy.io.torch import objects, tar_form
from swinpy.snapshots import plain_json
from swinpy.verify import trace_file

if TYPE_CHECKING:
    from collections.abc import Callable

_NESTS = ("nested lists", "nested dicts", "flat")
_ROOM = 1 << 40


@dataclass(frozen=True)
class _Fault:
    """A charge that is left out.

    Attributes:
        kind: of the file that shows it (`support.hostile.expensive.KINDS`).
        charge: what is not charged.
        plant: leaves it out.
        forms: of the files; () for all that have the kind.
    """

    kind: str
    charge: str
    plant: Callable[[pytest.MonkeyPatch], None]
    forms: tuple[str, ...] = ()


def _set(owner: Any, **values: Any) -> Callable[[pytest.MonkeyPatch], None]:
    """Other values of names in a module or class."""

    def plant(patch: pytest.MonkeyPatch) -> None:
        for name, value in values.items():
            patch.setattr(owner, name, value)

    return plant


def _free(owner: type, name: str) -> Callable[[pytest.MonkeyPatch], None]:
    """A method whose charges are given back."""
    method = getattr(owner, name)

    def uncharged(self: Any, *arguments: Any) -> Any:
        left, self._budget.left = self._budget.left, _ROOM
        try:
            return method(self, *arguments)
        finally:
            self._budget.left = left

    return _set(owner, **{name: uncharged})


def _free_opcode(code: str) -> Callable[[pytest.MonkeyPatch], None]:
    """An opcode that costs nothing."""

    def plant(patch: pytest.MonkeyPatch) -> None:
        for grammar in (machine.TORCH, cifar._GRAMMAR):
            rows = list(grammar.rows)
            row = rows[ord(code)]
            rows[ord(code)] = row and (0, row[1])
            patch.setitem(grammar.__dict__, "rows", rows)

    return plant


def _all(*plants: Callable[[pytest.MonkeyPatch], None]) -> Callable[[pytest.MonkeyPatch], None]:
    def plant(patch: pytest.MonkeyPatch) -> None:
        for one in plants:
            one(patch)

    return plant


def _nothing(data: bytes) -> int:
    return 0


def _boundless(size: int) -> Budget:
    return Budget(_ROOM)


def _unchecked(data: bytes, op: str, place: str) -> None:
    pass


def _key_text(self: Any, value: Any, way: Any, depth: int) -> None:
    """The way to a value is made text for each value, not for a message alone."""
    step = way
    while step is not None:
        step, key = step
        repr(key)
    _check_value(self, value, way, depth)


_check_value = plain_json._Check.value


def _load_freely(tensors: Any, source: Any, order: str, budget: Budget, *, mmap: bool) -> Any:
    return arrays.load_arrays(tensors, source, order, Budget(_ROOM), mmap=mmap)


def _any_meta(text: Any) -> Any:
    return json.loads(text.tobytes())


_FAULTS = [
    _Fault("none", "constants and items", _all(_free_opcode("N"), _set(machine, ITEM=0))),
    _Fault("numbers", "numbers and items", _all(_free_opcode("M"), _set(machine, ITEM=0))),
    _Fault("lists", "empty lists", _free_opcode("]")),
    _Fault("dicts", "empty dicts", _free_opcode("}")),
    _Fault("sets", "sets", _free_opcode("\x8f")),
    _Fault("tuples", "small tuples", _free_opcode("\x85")),
    _Fault("stored", "the memo", _free_opcode("\x94")),
    _Fault("calls", "calls and their names", _all(_free_opcode("c"), _free_opcode("R"))),
    _Fault("texts", "decoded text", _set(machine, text_cost=len)),
    _Fault("ordered dicts", "dicts made by calls", _set(objects, ENTRY=0, ITEM=0)),
    _Fault("names", "names of code", _free(objects.TorchObjects, "name")),
    _Fault("shapes", "copies of shapes", _set(objects, ITEM=0)),
    _Fault("keys", "steps to chosen keys", _set(Budget, walk=lambda self, steps: None)),
    _Fault("descriptions", "what is told of a value", _free(entries.Survey, "_tell")),
    _Fault("way", "the way to a value", _free(entries.Survey, "_tell")),
    _Fault("dims", "dimensions of arrays", _set(arrays, _DIM=0)),
    _Fault("types", "memory of arrays", _set(read, load_arrays=_load_freely)),
    _Fault("long entries", "names of zip entries", _set(archive, text_cost=_nothing)),
    _Fault("entries", "zip entries", _set(archive, _ENTRY_COST=0)),
    _Fault("tensors", "numbers of a shape", _set(tar_form, _NUMBER=0)),
    _Fault("nested lists", "JSON", _set(safetensors, json_cost=_nothing), ("safetensors",)),
    _Fault("nested dicts", "JSON", _set(safetensors, json_cost=_nothing), ("safetensors",)),
    _Fault("flat", "JSON", _set(safetensors, json_cost=_nothing), ("safetensors",)),
    _Fault("nested lists", "JSON of a snapshot's group", _set(safetensors, Budget=_boundless), ("safetensors",)),
    _Fault("astral", "the width of text in JSON", _set(costs, _WIDE=1, _ESCAPED=1), ("safetensors",)),
    _Fault("escaped", "the width of escaped text in JSON", _set(costs, _ESCAPED=1), ("safetensors",)),
    _Fault("bz2", "blocks of bz2", _set(trace_file, _METHODS=(zipfile.ZIP_BZIP2,))),
    _Fault("lzma", "blocks of lzma", _set(trace_file, _METHODS=(zipfile.ZIP_LZMA,))),
    _Fault("expanding", "arrays that expand", _set(trace_file, _EXPANSION=1 << 30)),
    _Fault("meta", "JSON of a trace", _set(trace_file, _meta=_any_meta)),
    *(_Fault(kind, "JSON of a state", _set(plain_json, _check_size=_unchecked), ("manifest",)) for kind in _NESTS),
    _Fault("long key", "text for each value", _set(plain_json._Check, value=_key_text)),
]
_SLOW = {("legacy", "keys"), ("tar", "keys")}  # seconds each; zip has the same
_CASES = [
    pytest.param(
        fault,
        form,
        id=f"{form}-{fault.charge}-{fault.kind}",
        marks=[pytest.mark.slow] * ((form, fault.kind) in _SLOW),
    )
    for fault in _FAULTS
    for form in fault.forms or KINDS
    if fault.kind in KINDS[form]
]


@pytest.mark.parametrize(("fault", "form"), _CASES)
def test_a_charge_left_out_is_reported(fault: _Fault, form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    number = list(KINDS[form]).index(fault.kind)
    data = next(islice(files(form, number + 1, seed=0), number, None))
    fault.plant(monkeypatch)
    with pytest.raises(AssertionError, match="times what is promised"):
        measure(READERS[form], data)


def test_each_kind_shows_a_fault() -> None:
    shown = {(form, fault.kind) for fault in _FAULTS for form in fault.forms or KINDS}
    kinds = {(form, kind) for form in KINDS for kind in KINDS[form]}
    assert kinds <= shown
