"""On a GPU: each kernel's time and share of the machine's limit, and whole models against timm, eager and compiled.

A kernel's limit is the longer of two times: its bytes (by its cost function) at the bandwidth that a large copy reaches
in the same run, and its operations at the rate of a large float16 product. Times are by events: 10 warm-ups,
the median of 30, inputs rotated so that they do not stay in the L2 cache.

    python benchmarks/gpu.py                     # kernels, then Swin-T at batch 1, 8, 64 and 256
    python benchmarks/gpu.py --part models --model swin_small_patch4_window7_224 --torch-python PATH
"""

from __future__ import annotations

import argparse
import os
import sys
from typing import TYPE_CHECKING, Any

import _peers
from _gpu_kernels import Sizes, calls, event_clock, measure

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

sys.path.insert(0, str(_peers.ROOT))

BATCHES = (1, 8, 64, 256)
PEERS = ("ours", "timm", "timm_fused", "timm_compiled")
L2_SHARE = 3  # the sets of arguments together are at least this many times the L2 cache
NO_FIT = "out of memory"


# ---- the device


def device_record(cupy: Any) -> dict[str, Any]:
    """Name and numbers of the current device, and versions of what drives it."""
    properties = cupy.cuda.runtime.getDeviceProperties(0)
    return {
        "name": properties["name"].decode(),
        "memory_gib": round(properties["totalGlobalMem"] / 2**30, 1),
        "capability": f"{properties['major']}.{properties['minor']}",
        "multiprocessors": properties["multiProcessorCount"],
        "l2_bytes": properties.get("l2CacheSize", 0),
        "driver": cupy.cuda.runtime.driverGetVersion(),
        "runtime": cupy.cuda.runtime.runtimeGetVersion(),
        "cupy": cupy.__version__,
    }


def limits(cupy: Any, clock: Any, megabytes: int = 1024, side: int = 8192) -> dict[str, float]:
    """Bytes a second of a large copy (read and written), and operations a second of a large float16 product."""
    import numpy as np

    words = megabytes * 2**20 // 4
    source, target = cupy.full(words, 0.5, np.float32), cupy.empty(words, np.float32)
    a, b = (cupy.full((side, side), 0.5, np.float16) for _ in range(2))

    def copy(_: int) -> Callable[[], Any]:
        return lambda: target.__setitem__(slice(None), source)

    def product(_: int) -> Callable[[], Any]:
        return lambda: a @ b

    return {
        "bytes_per_second": 2 * 4 * words / measure(copy, 1, clock),
        "flops_per_second": 2 * side**3 / measure(product, 1, clock),
    }


# ---- kernels


def kernel_figures(
    cupy: Any, sizes: Sizes, clock: Any, limit: dict[str, float], wanted: Sequence[str] = (), **effort: int
) -> dict[str, dict[str, float]]:
    """Of each kernel: seconds, GB/s, GFLOP/s and the share of its limit. ``effort`` is for :func:`measure`."""
    from autograd.kernels import KERNELS, explain

    figures = {}
    l2 = cupy.cuda.runtime.getDeviceProperties(0).get("l2CacheSize", 0)
    for name, make in calls(cupy, sizes, wanted):
        args, options = make(0)
        cost = KERNELS[name].cost(*args, **options)
        if not explain(name, *args, **options).startswith(f"{name}: runs cuda"):
            raise SystemExit(f"gpu.py: expected {name} to run on the GPU; got {explain(name, *args, **options)}")

        def call(i: int, n: str = name, m: Any = make) -> Callable[[], Any]:
            arguments, keywords = m(i)
            return lambda: KERNELS[n](*arguments, **keywords)

        copies = min(16, max(2, -(-L2_SHARE * l2 // max(1, cost.bytes))))
        seconds = measure(call, copies, clock, **effort)
        floor = max(cost.bytes / limit["bytes_per_second"], cost.flops / limit["flops_per_second"])
        figures[name] = {
            "seconds": seconds,
            "gigabytes_per_second": cost.bytes / seconds / 1e9,
            "gigaflops_per_second": cost.flops / seconds / 1e9,
            "share_of_limit": floor / seconds,
        }
    return figures


def _kernels(options: argparse.Namespace) -> None:
    import cupy

    sizes, clock = Sizes(batch=options.batch[-1], dtype=options.dtype), event_clock(cupy)
    limit = limits(cupy, clock)
    print(f"copy {limit['bytes_per_second'] / 1e9:.0f} GB/s, product {limit['flops_per_second'] / 1e12:.0f} TFLOP/s")
    figures = kernel_figures(cupy, sizes, clock, limit, options.kernel)
    for name, f in figures.items():
        share = f"{100 * f['share_of_limit']:.0f}% of the limit"
        print(f"{name:26} {1e6 * f['seconds']:9.1f} us  {f['gigabytes_per_second']:7.0f} GB/s  {share}", flush=True)
    record = {**_peers.record((), options), "device": device_record(cupy), "sizes": vars(sizes), "limits": limit}
    print(f"written: {_peers.write_json('gpu_kernels', {'kernels': figures, **record})}")


# ---- models, a worker


def _until_full(step: Callable[[], float]) -> Callable[[], Any]:
    """The step, with a word for where memory did not suffice: the parent tries that peer alone."""

    def run() -> Any:
        try:
            return step()
        except Exception as error:
            if "outofmemory" in type(error).__name__.lower() or "out of memory" in str(error).lower():
                return NO_FIT
            raise

    return run


def our_steps(
    cupy: Any, name: str, batch: int, clock: Any, warmups: int = 10, repeats: int = 30, **options: Any
) -> dict[str, Any]:
    """Inference of a float16 model and a training step under autocast, each the median in seconds."""
    import numpy as np

    import autograd as ag
    import swinpy
    from swinpy.train.optim import AdamW

    rng, fast = np.random.default_rng(0), swinpy.create_model(name, device="gpu", dtype="float16", **options)
    fast.eval()
    model = swinpy.create_model(name, device="gpu", **options)
    optimizer = AdamW(model.named_parameters(), model.no_weight_decay(), weight_decay=0.05)
    size = fast.config.img_size
    size = (size, size) if isinstance(size, int) else size
    images = [cupy.asarray(rng.standard_normal((batch, 3, *size)).astype(np.float32)) for _ in range(2)]
    halves = [image.astype(np.float16) for image in images]
    labels = cupy.asarray(rng.integers(0, fast.config.num_classes, batch))
    scale = 1024.0

    def infer(i: int) -> Callable[[], Any]:
        def call() -> None:
            with ag.no_grad():
                fast(halves[i])

        return call

    def train(i: int) -> Callable[[], Any]:
        def call() -> None:
            with ag.autocast("float16"):
                (ag.cross_entropy(model(images[i]), labels) * scale).backward()
            optimizer.step(1e-4, clip_grad=5.0, grad_divisor=scale)
            model.zero_grad()

        return call

    return {
        "inference": _until_full(lambda: measure(infer, 2, clock, warmups, repeats)),
        "training": _until_full(lambda: measure(train, 2, clock, warmups, repeats)),
    }


def _our_worker(name: str, batch: int) -> tuple[dict[str, Any], dict[str, str]]:
    import cupy

    import swinpy

    return our_steps(cupy, name, batch, event_clock(cupy)), {"swinpy": swinpy.__version__, "cupy": cupy.__version__}


def _timm_worker(peer: str, name: str, batch: int) -> tuple[dict[str, Any], dict[str, str]]:
    import timm
    import torch

    timm.layers.set_fused_attn(peer != "timm")
    torch.backends.cudnn.benchmark = True
    fast = timm.create_model(name).cuda().half().eval()
    model = timm.create_model(name).cuda().train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.05, fused=True)
    scaler = torch.amp.GradScaler("cuda", init_scale=1024.0)
    if peer == "timm_compiled":
        fast, model = torch.compile(fast), torch.compile(model)
    images = [torch.randn(batch, 3, *fast.default_cfg["input_size"][1:], device="cuda") for _ in range(2)]
    halves, labels = [i.half() for i in images], torch.randint(0, 1000, (batch,), device="cuda")

    def clock(queue: Sequence[Callable[[], Any]]) -> list[float]:
        marks = []
        for call in queue:
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            call()
            end.record()
            marks.append((begin, end))
        torch.cuda.synchronize()
        return [begin.elapsed_time(end) / 1e3 for begin, end in marks]

    def infer(i: int) -> Callable[[], Any]:
        def call() -> None:
            with torch.inference_mode():
                fast(halves[i])

        return call

    def train(i: int) -> Callable[[], Any]:
        def call() -> None:
            with torch.autocast("cuda", torch.float16):
                loss = torch.nn.functional.cross_entropy(model(images[i]), labels)
            scaler.scale(loss).backward()
            scaler.unscale_(optimizer)
            torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()

        return call

    steps = {
        "inference": _until_full(lambda: measure(infer, 2, clock)),
        "training": _until_full(lambda: measure(train, 2, clock)),
    }
    return steps, {"torch": torch.__version__, "timm": timm.__version__}


# ---- models, the parent


def throughput(replies: dict[str, list[Any]], batch: int) -> dict[str, Any]:
    """By peer: images a second, the best round's and the median's, or why not; and ours over each other's."""
    from statistics import median

    found: dict[str, Any] = {}
    for peer, values in replies.items():
        if any(isinstance(v, str) for v in values):
            found[peer] = {"failed": next(v for v in values if isinstance(v, str))}
        else:
            found[peer] = {"best": batch / min(values), "median": batch / median(values), "seconds": values}
    ours = found.get("ours", {}).get("best")
    for peer, figures in found.items():
        if peer != "ours" and ours and "best" in figures:
            figures["ours_divided_by"] = ours / figures["best"]
    return found


def _rounds(workers: Sequence[_peers.Worker], step: str, rounds: int) -> dict[str, list[Any]]:
    replies: dict[str, list[Any]] = {w.peer.name: [] for w in workers}
    for i in range(rounds):
        for worker in workers if i % 2 == 0 else list(reversed(workers)):
            replies[worker.peer.name].append(worker.step(step)["value"])
    return replies


def _one_batch(options: argparse.Namespace, batch: int) -> dict[str, Any]:
    """All peers beside each other, in turns; where they do not fit, each alone."""
    names = [p for p in PEERS if p == "ours" or options.torch_python]
    arguments = ("--model", options.model, "--batch", str(batch))
    pythons = {p: sys.executable if p == "ours" else options.torch_python for p in names}
    peers = [_peers.Peer(p, __file__, pythons[p], arguments) for p in names]
    results: dict[str, Any] = {}
    with _peers.start(peers) as workers:
        record = _peers.record(workers, options)
        replies = {step: _rounds(workers, step, options.rounds) for step in ("inference", "training")}
    alone = any(NO_FIT in values for found in replies.values() for values in found.values())
    if alone:
        replies = {step: {} for step in replies}
        for peer in peers:
            with _peers.start([peer]) as workers:
                for step, found in replies.items():
                    found |= _rounds(workers, step, options.rounds)
    for step, found in replies.items():
        results[step] = throughput(found, batch)
        shown = "  ".join(f"{p} {f.get('failed') or round(f['best'])}" for p, f in results[step].items())
        print(f"{options.model}, batch {batch}, {step}, images/s: {shown}", flush=True)
    return {**results, "each_alone": alone, "record": record}


def _models(options: argparse.Namespace) -> None:
    import cupy

    batches: dict[str, Any] = {}
    payload = {"model": options.model, "dtype": "float16", "batches": batches, "device": device_record(cupy)}
    for batch in options.batch:
        batches[str(batch)] = _one_batch(options, batch)
        written = _peers.write_json(f"gpu_{options.model}", payload)  # each time: a later batch may end it all
    print(f"written: {written}")


def parser() -> argparse.ArgumentParser:
    made = _peers.add_options(argparse.ArgumentParser(description=__doc__.partition("\n")[0]), rounds=3)
    made.add_argument("--part", choices=("kernels", "models", "all"), default="all", help="(default %(default)s)")
    made.add_argument("--kernel", action="append", default=[], help="this kernel alone; may be given more than once")
    made.add_argument("--model", default="swin_tiny_patch4_window7_224", help="(default %(default)s)")
    made.add_argument("--batch", type=int, nargs="+", default=list(BATCHES), help="kernels take the last (%(default)s)")
    made.add_argument("--dtype", default="float16", choices=("float16", "bfloat16", "float32"), help="of the kernels")
    made.add_argument(
        "--torch-python",
        default=os.environ.get("SWINPY_TORCH_PYTHON"),
        help="an interpreter with torch (CUDA) and timm; without it the models run alone",
    )
    return made


def main(arguments: Sequence[str] | None = None) -> None:
    options = parser().parse_args(arguments)
    if options.worker:
        worker = _our_worker if options.worker == "ours" else lambda *a: _timm_worker(options.worker, *a)
        _peers.serve(*worker(options.model, options.batch[0]))
        return
    import autograd as ag

    try:
        ag.resolve_device("gpu")
    except ag.DeviceError as error:
        raise SystemExit(f"benchmarks/gpu.py: nothing to measure. {error}") from None
    if options.part != "models":
        _kernels(options)
    if options.part != "kernels":
        _models(options)


if __name__ == "__main__":
    main()
