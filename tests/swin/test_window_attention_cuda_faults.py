"""Faults planted in the text of window attention's CUDA kernels: each must fail the checks that the clean ones pass."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from support.gpu.attention import Call, check, run
from support.gpu.host_cuda.raw_module import KernelFault
from support.rows.swin import Case
from support.runner import identical

from autograd.kernels.cuda import launch
from autograd.kernels.cuda.source import Program
from swinpy.kernels.window_attention import mma

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# 4 x 3 windows: not square, rows and columns of padding, another shift down than across; one program each.
SMALL = Case(size=(7, 7), window=(4, 3), shift=(1, 2), heads=2, head_dim=32, batch=2)
COSINE = replace(SMALL, cosine=True)
WARPS = replace(SMALL, window=(5, 5))  # more than one warp of the backward kernel has work
LARGE = replace(SMALL, window=(11, 6), size=(12, 7), shift=(4, 2), batch=1)


def _accurate(case: Case) -> Callable[[], None]:
    return lambda: check(Call.of(case, "float16"))


def _ordered(case: Case) -> Callable[[], None]:
    """Orders of threads that tell a missing barrier: one warp runs as far as it can before another begins."""

    def run_both() -> None:
        call = Call.of(case, "float16")
        expected = run(call, "forward")
        for seed in range(1, 4):
            for got, want in zip(run(call, "greedy", seed), expected, strict=True):
                identical(got, want, f"greedy {seed}")
        check(call, expected)

    return run_both


@dataclass(frozen=True)
class Fault:
    """A change of a text: what is wrong, the file, words and their replacement, and the check that has to notice.

    Those that are much like another are marked slow: each is compiled anew.
    """

    name: str
    file: str
    right: str
    wrong: str
    notices: Callable[[], None]
    slow: bool = False


_SMALL, _COSINE, _LARGE = _accurate(SMALL), _accurate(COSINE), _accurate(LARGE)
_GREEDY, _GREEDY_LARGE = _ordered(WARPS), _ordered(LARGE)
_BWD, _TILES, _MASK = "small_bwd.cu", "tiles.cuh", "small.cuh"

FAULTS = (
    Fault("mask dropped", _MASK, "s[n][2 * half + e] += mask;", ";", _SMALL),
    Fault(
        "seams of rows and columns swapped",
        _MASK,
        "if (window.last_row) hidden |= seams.rows >> i & 1 ? ~seams.rows : seams.rows;",
        "if (window.last_row) hidden |= seams.columns >> i & 1 ? ~seams.columns : seams.columns;",
        _SMALL,
        slow=True,
    ),
    Fault(
        "H and W swapped",
        _TILES,
        "place / across == down - 1, place % across == across - 1",
        "place % across == across - 1, place / across == down - 1",
        _SMALL,
    ),
    Fault(
        "last row of windows off by one",
        _TILES,
        "place / across == down - 1",
        "place / across == down - 2",
        _SMALL,
        slow=True,
    ),
    Fault("tile padding left in", _MASK, "= minus_infinity();", "+= 0;", _SMALL, slow=True),
    Fault("tile padding off by one", _MASK, "+ e % 2 >= TOKENS", "+ e % 2 >= TOKENS - 1", _SMALL),
    Fault(
        "tokens of map padding hidden, as if they filled a tile",
        _MASK,
        "if (n * 8 + 2 * t + e % 2 >= TOKENS)",
        "if (n * 8 + 2 * t + e % 2 >= TOKENS || window.pixel(n * 8 + 2 * t + e % 2) < 0)",
        _SMALL,
    ),
    Fault(
        "tokens of map padding zero after qkv",
        _BWD,
        "v = add_bias(v, bias);",
        "v = window.pixel(i) < 0 ? v : add_bias(v, bias);",
        _SMALL,
        slow=True,
    ),
    Fault(
        "padded tokens bring the qkv bias nothing",
        _BWD,
        "UNROLL for (int c = 0; c < 8; c++) sums[c] += v[c];",
        "UNROLL for (int c = 0; c < 8; c++) sums[c] += pixel < 0 ? 0 : v[c];",
        _SMALL,
    ),
    Fault("bias transposed", "sums.cu", "tokens + query) * tokens + key]", "tokens + key) * tokens + query]", _SMALL),
    Fault(
        "softmax backward without the row sum",
        _BWD,
        "(dp[n][e] - mean[e / 2])",
        "(dp[n][e] - 0 * mean[e / 2])",
        _SMALL,
        slow=True,
    ),
    Fault(
        "scale dropped",
        _BWD,
        "take_row(v, d, half, part < 2 ? scale : 1);",
        "take_row(v, d, half, 1);",
        _SMALL,
        slow=True,
    ),
    Fault(
        "one window of each block lost", _BWD, "index < windows; index", "index < windows - 1; index", _SMALL, slow=True
    ),
    Fault("lengths of keys forgotten", "small_fwd.cu", "s[e] *= rest, s[2 + e] *= rest;", "", _COSINE),
    Fault("gradient along the row left in", _TILES, "(d[i] - u[i] * along)", "(d[i] - 0 * along)", _COSINE),
    Fault("logit scale not clamped", _TILES, "expf(x > MAX_LOGIT_SCALE ? MAX_LOGIT_SCALE : x)", "expf(x)", _COSINE),
    Fault("sums not shrunk when the top rises", "large_fwd.cu", "sums[half] *= shrink[half];", "", _LARGE),
    Fault(
        "regions of the large window swapped",
        "large.cuh",
        "!= staged.regions()[query]",
        "== staged.regions()[query]",
        _LARGE,
        slow=True,
    ),
    Fault("bias gradient of the last window only", "large_bwd.cu", "index == blockIdx.x, lse", "true, lse", _LARGE),
    Fault(
        "barrier after loading missing",
        _BWD,
        "channels, column);\n    barrier();",
        "channels, column);",
        _GREEDY,
        slow=True,
    ),
    Fault(
        "barrier before the keys missing",
        _BWD,
        "    }\n    barrier();\n    if (working) {",
        "    }\n    if (working) {",
        _GREEDY,
    ),
    Fault("barrier between windows missing", _BWD, "barrier();  // the next", "// the next", _GREEDY),
    Fault(
        "barrier between large windows missing", "large_bwd.cu", "barrier();  // the next", "// the next", _GREEDY_LARGE
    ),
)


@contextmanager
def planted(fault: Fault) -> Iterator[None]:
    """The programs with the fault in their text; what the launcher has compiled is forgotten before and after."""
    own = (mma.FOLDER / fault.file).read_text(encoding="utf-8")
    assert fault.right in own, "the text has changed: the fault is planted nowhere"
    right: Any = Program.text
    launch._compiled.cache_clear()
    with pytest.MonkeyPatch.context() as patch:
        text = property(lambda program: right.fget(program).replace(fault.right, fault.wrong))
        patch.setattr(Program, "text", text)
        yield
    launch._compiled.cache_clear()


@pytest.mark.parametrize("check_of", [_SMALL, _COSINE, _LARGE, _GREEDY, _GREEDY_LARGE])
def test_clean_kernels_pass(check_of: Callable[[], None]) -> None:
    check_of()


@pytest.mark.parametrize(
    "fault", [pytest.param(f, marks=[pytest.mark.slow] if f.slow else [], id=f.name) for f in FAULTS]
)
def test_fault_is_noticed(fault: Fault) -> None:
    with planted(fault), pytest.raises((AssertionError, KernelFault)), np.errstate(all="ignore"):
        fault.notices()


def test_pixels_of_a_turned_map_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """H and W swapped in the table."""
    right = mma.window_tokens

    def turned(cut: Any) -> Any:
        table = right(cut)
        return np.where(table < 0, -1, table % cut.size[1] * cut.size[0] + table // cut.size[1])

    monkeypatch.setattr(mma, "window_tokens", turned)
    mma._table.cache_clear()
    try:
        with pytest.raises(AssertionError):
            check(Call.of(replace(SMALL, size=(7, 5)), "float16"))
    finally:
        monkeypatch.undo()
        mma._table.cache_clear()
