"""The steps of gpu_session.py that take times: kernels by stage, our model, and timm's beside it."""

from __future__ import annotations

import subprocess
import tempfile
import time
from statistics import median
from typing import TYPE_CHECKING, Any

import _gpu_kernels as kernels
import numpy as np
from _gpu_scale import Scale, SkippedError, command, cupy_module, is_fault, short, support

import autograd as ag
import swinpy
from swinpy.train.optim import AdamW

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["compiled_once", "ours", "peer_steps", "side_by_side", "stages", "timm_once", "timm_timed"]

Found = "Iterator[tuple[str, Any]]"


def stages(scale: Scale) -> Found:
    """What a copy and a product of random operands reach, then each handwritten kernel at each stage's shapes."""
    cupy = cupy_module()
    clock, side = kernels.EventClock(cupy, scale.copy_megabytes), scale.product_side
    yield "copy", {"bytes_per_second": clock.copy_bandwidth}
    for dtype in (np.float16, np.float32):
        a, b = (kernels.random_values(cupy, (side, side), dtype, seed) for seed in (1, 2))
        seconds = median(clock([lambda x=a, y=b: x @ y] * (scale.warmups + scale.repeats))[scale.warmups :])
        yield f"product {np.dtype(dtype)}", {"flops_per_second": 2 * side**3 / seconds}
    effort = {"warmups": scale.warmups, "repeats": scale.repeats, "group": scale.group}
    for i, sizes in enumerate(scale.stages, 1):
        for name, make in kernels.calls(cupy, sizes):
            try:
                yield f"stage {i}, {name}", kernels.seconds_of(cupy, name, make, clock, **effort)
            except Exception as error:
                if is_fault(error):
                    raise
                yield f"stage {i}, {name}", {"failed": short(error)}
            cupy.get_default_memory_pool().free_all_blocks()


def side_by_side(
    call: Callable[[int], Any], clock: Callable[..., list[float]], wait: Callable[[], Any], scale: Scale
) -> dict[str, float]:
    """A step's median time by events, until it returns (the host's part), and from asking to the end of all."""
    call(0)
    call(1)
    wait()
    clock([lambda i=i: call(i % 2) for i in range(max(1, scale.warmups))])
    asked = []
    for i in range(max(1, scale.repeats // 3)):
        begin = time.perf_counter()
        call(i % 2)
        asked.append(time.perf_counter() - begin)
        wait()
    begin = time.perf_counter()
    events = clock([lambda i=i: call(i % 2) for i in range(scale.repeats)])
    wait()
    whole = (time.perf_counter() - begin) / scale.repeats
    return {"events": median(events), "host": median(asked), "whole": whole}


def _size(config: Any) -> tuple[int, int]:
    return config.img_size if isinstance(config.img_size, tuple) else (config.img_size,) * 2


def ours(scale: Scale) -> Found:
    """Inference of a float16 model and a training step under autocast, in seconds, by batch."""
    cupy = cupy_module()
    fast = swinpy.create_model(scale.model, device="gpu", dtype="float16", **scale.options).eval()
    model = swinpy.create_model(scale.model, device="gpu", **scale.options)
    optimizer = AdamW(model.named_parameters(), model.no_weight_decay(), weight_decay=0.05)
    clock, grade = kernels.EventClock(cupy, 1), 1024.0
    for batch in scale.timed:
        size, classes = (batch, 3, *_size(fast.config)), fast.config.num_classes
        images = [kernels.random_values(cupy, size, np.float32, i) for i in (1, 2)]
        halves = [image.astype(np.float16) for image in images]
        labels = (kernels.random_bits(cupy, batch, 3) % classes).astype(np.int64)

        def infer(i: int, halves: Any = halves) -> None:
            with ag.no_grad():
                fast(halves[i])

        def train(i: int, images: Any = images, labels: Any = labels) -> None:
            with ag.autocast("float16"):
                (ag.cross_entropy(model(images[i]), labels) * grade).backward()
            optimizer.step(1e-4, clip_grad=5.0, grad_divisor=grade)
            model.zero_grad()

        for what, call in (("inference", infer), ("training", train)):
            found = side_by_side(call, clock, cupy.cuda.Device().synchronize, scale)
            pool = {"pool_gib": cupy.get_default_memory_pool().total_bytes() / 2**30}
            yield f"batch {batch}, {what}", {**found, "images_per_second": batch / found["whole"], **pool}


# ---- timm


def _torch_clock(torch: Any, device: str) -> tuple[Callable[..., list[float]], Callable[[], Any]]:
    """What times calls, and what waits for the device."""
    if device == "cpu":

        def by_host(queue: Any) -> list[float]:
            found = []
            for call in queue:
                begin = time.perf_counter()
                call()
                found.append(time.perf_counter() - begin)
            return found

        return by_host, lambda: None

    def by_events(queue: Any) -> list[float]:
        marks = []
        for call in queue:
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            call()
            end.record()
            marks.append((begin, end))
        torch.cuda.synchronize()
        return [begin.elapsed_time(end) / 1e3 for begin, end in marks]

    return by_events, torch.cuda.synchronize


def peer_steps(scale: Scale, peer: str, batch: int) -> dict[str, Callable[[int], Any]]:
    """timm's model of the same name in the same two steps, as its users would run it."""
    import timm
    import torch

    device, options = scale.device, scale.compile[peer]
    torch.backends.cudnn.benchmark = True
    fast = timm.create_model(scale.model, **scale.peer_options).to(device).half().eval()
    model = timm.create_model(scale.model, **scale.peer_options).to(device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.05, fused=True)
    scaler = torch.amp.GradScaler(device, init_scale=1024.0)
    size, classes = model.patch_embed.img_size, model.num_classes
    if options is not None:
        fast, model = torch.compile(fast, **options), torch.compile(model, **options)
    images = [torch.randn(batch, 3, *size, device=device) for _ in range(2)]
    halves, labels = [i.half() for i in images], torch.randint(0, classes, (batch,), device=device)

    def infer(i: int) -> None:
        with torch.inference_mode():
            fast(halves[i])

    def train(i: int) -> None:
        with torch.autocast(device, torch.float16):
            loss = torch.nn.functional.cross_entropy(model(images[i]), labels)
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_(list(model.parameters()), 5.0)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()

    return {"inference": infer, "training": train}


def _need_timm(scale: Scale) -> Any:
    try:
        import torch

        if scale.dry:  # beside a torch without CUDA, torchvision's compiled half may not load
            support("swin.torchvision_stub").make_importable(torch)
        import timm  # noqa: F401 (torch alone is no peer)
    except ImportError as error:
        raise SkippedError(f"timm is the peer: {error}. pip install torch timm") from None
    return torch


def _once(scale: Scale, peer: str, batch: int, sink: Any) -> subprocess.Popen[bytes]:
    return subprocess.Popen(command(f"timm_once {peer} {batch}", scale), stdout=sink)


def compiled_once(scale: Scale) -> Found:
    """Every compiled peer at every batch, all at the same time: what is timed later finds its code on disk."""
    _need_timm(scale)
    pairs = [(peer, batch) for batch in reversed(scale.peers_timed) for peer in scale.compile if scale.compile[peer]]
    begin = time.perf_counter()
    with tempfile.TemporaryFile() as sink:
        running = {pair: _once(scale, *pair, sink) for pair in pairs}
        while running:
            for pair in [pair for pair, process in running.items() if process.poll() is not None]:
                code = running.pop(pair).returncode
                yield f"{pair[0]}, batch {pair[1]}", {"seconds": time.perf_counter() - begin, "exit_code": code}
            time.sleep(0.05)


def timm_once(scale: Scale, peer: str, batch: str) -> Found:
    """Each step of a peer once."""
    torch = _need_timm(scale)
    _, wait = _torch_clock(torch, scale.device)
    for what, call in peer_steps(scale, peer, int(batch)).items():
        begin = time.perf_counter()
        call(0)
        wait()
        yield what, time.perf_counter() - begin


def timm_timed(scale: Scale, peer: str) -> Found:
    """The two steps of a peer, in seconds, by batch."""
    torch = _need_timm(scale)
    clock, wait = _torch_clock(torch, scale.device)
    for batch in scale.peers_timed:
        for what, call in peer_steps(scale, peer, batch).items():
            try:
                found: dict[str, Any] = side_by_side(call, clock, wait, scale)
                found["images_per_second"] = batch / found["whole"]
            except Exception as error:
                if is_fault(error):
                    raise
                found = {"failed": short(error)}
            yield f"batch {batch}, {what}", found
