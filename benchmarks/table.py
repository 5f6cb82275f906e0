"""The README's table of speed on a CPU, from the JSON files in benchmarks/results/.

python benchmarks/table.py            prints it
python benchmarks/table.py --write    puts it between the two markers of README.md
"""

from __future__ import annotations

import argparse
import json
from typing import Any

from _peers import RESULTS, ROOT

BEGIN, END = "<!-- cpu speed: made by benchmarks/table.py -->", "<!-- end of cpu speed -->"


def _load(name: str) -> dict[str, Any] | None:
    path = RESULTS / f"{name}.json"
    return json.loads(path.read_text()) if path.exists() else None


def _models() -> list[str]:
    """One row a case and step: our time, and ratios of minima (medians) to the other peers."""
    lines = [
        "| model, step | ours, ms | over torch | over torch.compile | over its products | plain NumPy over torch |",
        "|---|---|---|---|---|---|",
    ]
    for path in sorted(RESULTS.glob("cpu_vs_torch_*.json")):
        record = json.loads(path.read_text())
        for step, found in record["results"].items():
            ratios = found["ours_divided_by"]
            cells = [_ratio(ratios.get(peer)) for peer in ("torch", "compiled", "floor")]
            cells.append(_ratio(found.get("plain_divided_by_torch")))
            ours = 1e3 * found["figures"]["ours"]["min"]
            lines.append(f"| {record['what']}, {step} | {ours:.0f} | {' | '.join(cells)} |")
    return lines


def _ratio(r: dict[str, float] | None) -> str:
    return "" if r is None else f"{r['min']:.2f} ({r['median']:.2f})"


def _kernels() -> list[str]:
    record = _load("ops")
    if record is None:
        return []
    lines = ["", "| kernel | ours, ms | over torch's op | share of the limit |", "|---|---|---|---|"]
    for name, found in record["results"].items():
        ours, share = 1e3 * found["figures"]["ours"]["min"], 100 * found["share_of_limit"]
        limit = {"bytes": "memory rate", "flops": "product rate"}[found["limit"]]
        lines.append(f"| {name} | {ours:.2f} | {_ratio(found['ours_divided_by_torch'])} | {share:.0f}% of {limit} |")
    lines += [
        "",
        "The memory rate is that of NumPy's copy or read of a large array, whichever is more; smaller arrays lie in "
        "the last cache in part. adamw_to_default is against torch's AdamW as it comes, adamw_to_fused "
        "against its fused one (memory's rate bounds both, and both move the same bytes); multi_adamw clips, too, "
        "against clip_grad_norm_ and the fused one on Swin-T's tensors.",
    ]
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
    text = f'The command under "Train" with `fast` takes {_ratio(record["fast_divided_by_plain"])} of the time a step'
    if "whole" in record:
        fast, plain = (record["whole"][name]["seconds"] for name in ("fast", "plain"))
        text += f", {record['whole_ratio']:.2f} as a whole ({fast:.0f} s and {plain:.0f} s)"
    return ["", text + "."]


def _profile() -> list[str]:
    """What a step is made of: kernels from 2% on."""
    record = _load("profile")
    if record is None:
        return []
    lines = []
    for case, found in record["results"].items():
        parts = sorted([*found["kernels"].items(), ("between kernels", found["between_kernels"])], key=lambda p: -p[1])
        shares = [f"{name} {100 * s / found['seconds']:.0f}%" for name, s in parts if s >= 0.02 * found["seconds"]]
        lines += ["", f"Where the time of a {found['step']} step goes, {case}: {', '.join(shares)}."]
    return lines


def table() -> str:
    return "\n".join([*_models(), *_kernels(), *_scaling(), *_main_job(), *_profile()])


def _main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--write", action="store_true", help="into README.md, between the markers")
    if not parser.parse_args().write:
        print(table())
        return
    readme = ROOT / "README.md"
    text = readme.read_text(encoding="utf-8")
    if BEGIN not in text or END not in text:
        raise SystemExit(f"table: expected the lines {BEGIN} and {END} in README.md; put them where the table goes.")
    before, after = text.partition(BEGIN)[0], text.partition(END)[2]
    readme.write_text(f"{before}{BEGIN}\n\n{table()}\n\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    _main()
