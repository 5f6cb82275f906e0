"""The figures of README.md and docs/performance.md, from the JSON files in benchmarks/results/.

python benchmarks/table.py            prints both parts
python benchmarks/table.py --write    puts each between the two markers of its file

Results that were measured with another BLAS than users have are refused (exit code 2): see ``TUNING`` in _peers.py.
"""

from __future__ import annotations

import argparse
import json
import sys
from statistics import median
from typing import TYPE_CHECKING, Any

from _peers import RESULTS, ROOT, TUNING

if TYPE_CHECKING:
    from collections.abc import Iterable

BEGIN, END = "<!-- figures: made by benchmarks/table.py -->", "<!-- end of figures -->"
SWIN_T_8, SWIN_T_1 = "cpu_vs_torch_swin_t_b8", "cpu_vs_torch_swin_t_b1"
BAR = 44  # characters of the longest bar
NAMES = {"ours": "ours", "plain": "ours, NumPy alone", "torch": "torch", "compiled": "torch.compile"}
NAMES["floor"] = "the products alone"
# Measured once with `pytest -m parity`, which holds all of it to 1e-9.
PARITY = (
    ("float64 against transformers' Swin-T at 224", "logits within 3.5e-15, gradients within 5.1e-14"),
    ("the same for V2, torchvision and timm, logits and every gradient", "within 1e-9"),
)
NOTE = (
    "The memory rate is that of NumPy's copy or read of a large array, whichever is more. Smaller arrays lie in the "
    "last cache in part, and may pass it. One row is against torch's AdamW as it comes, one "
    "against its fused one; both move the same bytes. AdamW with clipping is against "
    "clip_grad_norm_ and the fused AdamW on Swin-T's tensors."
)


class RefusedError(Exception):
    """Results that must not be shown."""


def _load(name: str) -> dict[str, Any] | None:
    """One file of results; None if it is not there.

    Raises:
        RefusedError: if BLAS was tuned while they were measured.
    """
    path = RESULTS / f"{name}.json"
    if not path.exists():
        return None
    record: dict[str, Any] = json.loads(path.read_text())
    for process, variables in record.get("environment", {}).items():
        tuned = [f"{n}={variables[n]}" for n in TUNING if n in variables]
        if tuned:
            raise RefusedError(
                f"table: expected results of BLAS as its users have it; got {path.name}, measured with "
                f"{' and '.join(tuned)} ({process}). Unset it and measure again."
            )
    return record


def _unrecorded(names: Iterable[str]) -> list[str]:
    """Which of the results are there but do not say what environment they were measured in."""
    return [n for n in names if (record := _load(n)) is not None and "environment" not in record]


def _ratio(r: dict[str, float] | None) -> str:
    return "" if r is None else f"{r['min']:.2f} ({r['median']:.2f})"


# ---- the README's table


def _against_torch(name: str, step: str, key: str = "min") -> str:
    """The ratios to torch, eager and compiled, of one step."""
    record = _load(name)
    ratios = {} if record is None else record["results"][step]["ours_divided_by"]
    shown = {"torch": "eager", "compiled": "compiled"}
    found = [(word, ratios[peer]) for peer, word in shown.items() if key in ratios.get(peer, {})]
    return ", ".join(f"{word} {_ratio(r) if key == 'min' else format(r[key], '.2f')}" for word, r in found)


def _readme_rows() -> list[tuple[str, str, str]]:
    """(what, figure, script)."""
    torch = "benchmarks/cpu_vs_torch.py"
    rows = [(what, figure, "pytest -m parity") for what, figure in PARITY]
    rows += [
        ("Swin-T, batch 8, forward: time over torch's", _against_torch(SWIN_T_8, "forward"), torch),
        ("Swin-T, batch 8, train step: time over torch's", _against_torch(SWIN_T_8, "train"), torch),
        ("Swin-T, batch 1, forward: time over torch's", _against_torch(SWIN_T_1, "forward"), torch),
        ("Swin-T, batch 8, forward: memory over torch's", _against_torch(SWIN_T_8, "forward", "memory"), torch),
        ("Swin-T, batch 8, train step: memory over torch's", _against_torch(SWIN_T_8, "train", "memory"), torch),
    ]
    if (record := _load("ops")) is not None:
        found = [row["ours_divided_by_torch"]["min"] for row in record["results"].values()]
        faster = f"{sum(r < 1 for r in found)} of {len(found)} take less, the middle one {median(found):.2f}"
        rows.append(("kernels at Swin-T's shapes: time over torch's op", faster, "benchmarks/ops.py"))
    if (record := _load("checkpointing")) is not None:
        block = record["modes"]["block"]
        kept = f"{100 * block['kept_ratio']:.0f}% for {block['time_ratio']['min']:.2f} times the time"
        rows.append(("activations kept with checkpointing, Swin-T, batch 8", kept, "benchmarks/checkpointing.py"))
    if (record := _load("engine_overhead")) is not None:
        of = record["ours_divided_by"]["hips"]
        rows.append(("time of a small op over HIPS autograd's", _ratio(of), "benchmarks/engine_overhead.py"))
    return [row for row in rows if row[1]]


def readme() -> str:
    rows = _readme_rows()
    lines = ["| what | figure | measured by |", "|---|---|---|"]
    lines += [f"| {what} | {figure} | `{script}` |" for what, figure, script in rows]
    record = _load(SWIN_T_8)
    if record is not None:
        machine, torch = record["machine"], record["versions"]["torch"]
        lines += [
            "",
            f"Times are of float32 on {machine['cores']} cores of an {machine['processor']}, with the extra `fast`, "
            f"against torch {torch['torch'].partition('+')[0]} with transformers {torch['transformers']} (sdpa): "
            "ratios of minima, of medians in brackets, below 1 where we take less. All figures, and where the time "
            "goes: [docs/performance.md](docs/performance.md).",
        ]
    return "\n".join([*lines, *_warning([SWIN_T_8, SWIN_T_1, "ops"])])


def _warning(names: Iterable[str]) -> list[str]:
    unsure = _unrecorded(names)
    if not unsure:
        return []
    return [
        "",
        f"To be measured again: {', '.join(unsure)}. These results do not say whether BLAS was tuned by "
        f"{' or '.join(TUNING)}, so figures from them may be wrong.",
    ]


# ---- docs/performance.md


def _models() -> list[str]:
    """One row a case and step: our time, and ratios of minima (medians) to the other peers."""
    lines = [
        "| model, step | ours, ms | over torch | over torch.compile | over its products | plain NumPy over torch |",
        "|---|---|---|---|---|---|",
    ]
    for name in _cases():
        record = _load(name)
        assert record is not None
        for step, found in record["results"].items():
            ratios = found["ours_divided_by"]
            cells = [_ratio(ratios.get(peer)) for peer in ("torch", "compiled", "floor")]
            cells.append(_ratio(found.get("plain_divided_by_torch")))
            ours = 1e3 * found["figures"]["ours"]["min"]
            lines.append(f"| {record['what']}, {step} | {ours:.0f} | {' | '.join(cells)} |")
    return lines


def _cases() -> list[str]:
    return sorted(path.stem for path in RESULTS.glob("cpu_vs_torch_*.json"))


def _bars(title: str, values: list[tuple[str, float]], unit: str) -> list[str]:
    """A picture in text: one bar a value."""
    longest, width = max(v for _, v in values), max(len(n) for n, _ in values)
    bars = [f"{n:{width}s}  {'#' * max(1, round(BAR * v / longest)):{BAR}s} {v:6.0f} {unit}" for n, v in values]
    return ["", title, "", "```text", *bars, "```"]


def _race() -> list[str]:
    """Swin-T's steps, a bar a peer."""
    lines: list[str] = []
    for name in (SWIN_T_8, SWIN_T_1):
        record = _load(name)
        for step, found in {} if record is None else record["results"].items():
            figures = found["figures"]
            values = [(NAMES[p], 1e3 * figures[p]["min"]) for p in NAMES if p in figures]
            lines += _bars(f"{record['what']}, {step}:", values, "ms")  # type: ignore[index]
    return lines


def _kernels() -> list[str]:
    record = _load("ops")
    if record is None:
        return []
    lines = ["", "| kernel | ours, ms | over torch's op | share of the limit |", "|---|---|---|---|"]
    for name, found in record["results"].items():
        ours, share = 1e3 * found["figures"]["ours"]["min"], 100 * found["share_of_limit"]
        limit = {"bytes": "memory rate", "flops": "product rate"}[found["limit"]]
        lines.append(f"| {name} | {ours:.2f} | {_ratio(found['ours_divided_by_torch'])} | {share:.0f}% of {limit} |")
    return [*lines, "", NOTE]


def _profile() -> list[str]:
    """What a step is made of: kernels from 2% on, a bar each."""
    record = _load("profile")
    lines: list[str] = []
    for case, found in {} if record is None else record["results"].items():
        parts = sorted([*found["kernels"].items(), ("between kernels", found["between_kernels"])], key=lambda p: -p[1])
        shares = [(name, 100 * s / found["seconds"]) for name, s in parts if s >= 0.02 * found["seconds"]]
        step = f"Where the {1e3 * found['seconds']:.0f} ms of a {found['step']} step go, {case}:"
        lines += _bars(step, shares, "%")
    return lines


def _scaling() -> list[str]:
    record = _load("scaling")
    if record is None:
        return []
    windowed, everywhere = (record["results"][kind] for kind in ("windowed", "global"))
    return [
        "",
        f"Time grows with pixels to the power {windowed['exponent_of_time']:.2f} for windowed attention "
        f"({windowed['sizes'][0]} to {windowed['sizes'][-1]} pixels a side), {everywhere['exponent_of_time']:.2f} for "
        "global attention over the same maps.",
    ]


def _main_job() -> list[str]:
    record = _load("main_job")
    if record is None:
        return []
    text = f'The command under "Train" takes, with `fast`, {_ratio(record["fast_divided_by_plain"])} of the time a step'
    if "whole" in record:
        fast, plain = (record["whole"][name]["seconds"] for name in ("fast", "plain"))
        text += f", and {record['whole_ratio']:.2f} as a whole ({fast:.0f} s and {plain:.0f} s)"
    return ["", text + "."]


def _others() -> list[str]:
    """What is not a step of a model on two threads."""
    lines = []
    if (record := _load("engine_overhead")) is not None:
        of = record["ours_divided_by"]["hips"]
        lines.append(f"- A small op, forward and backward, takes {_ratio(of)} of the time of HIPS autograd's.")
    if (record := _load("checkpointing")) is not None:
        parts = [
            f"per {mode} keeps {100 * m['kept_ratio']:.0f}% of the activations for {m['time_ratio']['min']:.2f} times "
            "the time"
            for mode, m in record["modes"].items()
            if mode != "none"
        ]
        lines.append(f"- Checkpointing of Swin-T at batch 8 {', '.join(parts)}.")
    if (record := _load("read_weights")) is not None:
        zipped, legacy = (record[f"{kind}-read"]["ratios"]["ours / torch"] for kind in ("zip", "legacy"))
        lines.append(
            f"- Reading Swin-T's weights takes {_ratio(zipped)} of torch.load's time from a zip file, {_ratio(legacy)} "
            "from a legacy one."
        )
    return ["", *lines] if lines else []


def performance() -> str:
    used = [*_cases(), "ops", "profile", "scaling", "main_job"]
    parts = [_models(), _race(), _kernels(), _profile(), _scaling(), _main_job(), _others(), _warning(used)]
    return "\n".join(line for part in parts for line in part)


# ---- into the files


def parts() -> dict[str, str]:
    """What stands between the markers, by file.

    Raises:
        RefusedError: see :func:`_load`.
    """
    return {"README.md": readme(), "docs/performance.md": performance()}


def _write(name: str, made: str) -> None:
    path = ROOT / name
    text = path.read_text(encoding="utf-8")
    if BEGIN not in text or END not in text:
        raise RefusedError(f"table: expected the lines {BEGIN} and {END} in {name}; put them where the figures go.")
    before, after = text.partition(BEGIN)[0], text.partition(END)[2]
    path.write_text(f"{before}{BEGIN}\n\n{made}\n\n{END}{after}", encoding="utf-8")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--write", action="store_true", help="into the files, between the markers")
    options = parser.parse_args(arguments)
    try:
        for name, made in parts().items():
            if options.write:
                _write(name, made)
            else:
                print(f"---- {name}\n\n{made}\n")
    except RefusedError as refused:
        print(refused, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
