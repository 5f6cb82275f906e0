"""How time grows with the image: attention within windows, and global attention over the same maps.

One block's attention at the first stage of Swin-T (96 channels, 3 heads; patches of 4 pixels). Windowed attention is
the fused op; in global attention every token attends to every token, in chunks of queries, so that the scores of one
chunk are all that is kept. Counted FLOPs stand beside fitted exponents of time against pixels: 1 is linear.

    python benchmarks/scaling.py [--threads 2] [--rounds 3]
"""

from __future__ import annotations

import argparse
import math
import os
import sys
import time
from statistics import median
from typing import Any

import _peers

WINDOWED = (224, 448, 672, 896, 1344, 1792)
GLOBAL = (224, 336, 448, 560, 672)
CHANNELS, HEADS, WINDOW, PATCH = 96, 3, 7, 4


def _call(size: int, windowed: bool) -> tuple[Any, int]:
    """A forward of attention over a ``size`` x ``size`` image, and its FLOPs."""
    import numpy as np

    import autograd as ag
    from swinpy.geometry import geometry
    from swinpy.kernels.window_attention import window_attention_fwd
    from swinpy.ops import AttentionSpec, window_attention

    side = size // PATCH
    window, shift = (WINDOW, WINDOW // 2) if windowed else (side, 0)
    spec = AttentionSpec(geometry((side, side), (window, window), (shift, shift)), HEADS, (CHANNELS // HEADS) ** -0.5)
    rng = np.random.default_rng(0)
    qkv = ag.Tensor(rng.standard_normal((1, side, side, 3 * CHANNELS)).astype(np.float32))
    cost = window_attention_fwd.cost(qkv.data, None, None, None, spec)
    if windowed:
        return lambda: window_attention(qkv, None, None, spec=spec), cost.flops
    return lambda: _global_attention(qkv.data), cost.flops


def _global_attention(qkv: Any, chunk: int = 256) -> Any:
    """Every token attends to every token; ``chunk`` queries at a time."""
    import numpy as np

    from autograd.extend import map_pieces
    from autograd.kernels.softmax import softmax_fwd

    rows = qkv.reshape(-1, 3, HEADS, CHANNELS // HEADS)
    q, k, v = (np.ascontiguousarray(rows[:, i].swapaxes(0, 1)) for i in range(3))
    q *= np.float32((CHANNELS // HEADS) ** -0.5)
    out = np.empty_like(q)

    def piece(at: tuple[int, int]) -> None:
        head, start = at
        scores = q[head, start : start + chunk] @ k[head].T
        np.matmul(softmax_fwd(scores), v[head], out=out[head, start : start + chunk])

    map_pieces(piece, [(h, s) for h in range(HEADS) for s in range(0, q.shape[1], chunk)])
    return out


def _exponent(sizes: tuple[int, ...], seconds: list[float]) -> float:
    """Slope of log time against log pixels."""
    x, y = [2 * math.log(s) for s in sizes], [math.log(t) for t in seconds]
    mx, my = sum(x) / len(x), sum(y) / len(y)
    return sum((a - mx) * (b - my) for a, b in zip(x, y, strict=True)) / sum((a - mx) ** 2 for a in x)


def _serve(kind: str) -> None:
    sys.path.insert(0, str(_peers.ROOT))
    import numpy as np

    import swinpy

    swinpy.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    steps, flops = {}, {}
    for size in WINDOWED if kind == "windowed" else GLOBAL:
        steps[str(size)], flops[str(size)] = _call(size, kind == "windowed")
    steps["flops"] = lambda: " ".join(str(flops[s]) for s in flops)
    _peers.serve(steps, {"numpy": np.__version__, "swinpy": swinpy.__version__})


def _main() -> None:
    parser = _peers.add_options(argparse.ArgumentParser(description=__doc__.partition("\n")[0]), rounds=5)
    parser.set_defaults(threads=len(os.sched_getaffinity(0)))
    options = parser.parse_args()
    if options.worker:
        _serve(options.worker)
        return
    _peers.refuse_when_loaded(options.max_load, options.force)
    peers = [_peers.Peer(kind, __file__, threads=options.threads) for kind in ("windowed", "global")]
    results = {}
    with _peers.start(peers) as workers:
        for worker, sizes in zip(workers, (WINDOWED, GLOBAL), strict=True):
            flops = [int(f) for f in worker.step("flops")["value"].split()]
            taken: list[list[float]] = [[] for _ in sizes]
            for i in range(options.rounds + 1):  # sizes take turns; the first round warms up
                for j, size in enumerate(sizes):  # as many runs of each as have the FLOPs of the largest
                    seconds = worker.step(str(size), repeat=max(1, flops[-1] // flops[j]))["seconds"]
                    if i:
                        taken[j].append(seconds)
            best = [min(t) for t in taken]
            kind = worker.peer.name
            results[kind] = {
                "sizes": sizes,
                "flops": flops,
                "min": best,
                "median": [median(t) for t in taken],
                "exponent_of_time": _exponent(sizes, best),
                "exponent_of_flops": _exponent(sizes, [float(f) for f in flops]),
            }
            for size, f, t in zip(sizes, flops, best, strict=True):
                print(f"{kind:9s}{size:5d} px  {f / 1e9:8.2f} GFLOP  {1e3 * t:9.1f} ms  {f / t / 1e9:6.1f} GFLOP/s")
            r = results[kind]
            print(f"{kind:9s}exponent of time {r['exponent_of_time']:.3f}, of FLOPs {r['exponent_of_flops']:.3f}")
        record = _peers.record(workers, options)
    path = _peers.write_json("scaling", {"what": "attention of Swin-T's first stage", "results": results, **record})
    print(f"written: {path.relative_to(_peers.ROOT)} at {time.strftime('%H:%M')}")


if __name__ == "__main__":
    _main()
