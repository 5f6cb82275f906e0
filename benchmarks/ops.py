"""Each kernel, forward and backward, against torch's op at the shapes of Swin-T, batch 8, float32.

Beside each time stands the share of the machine's limit that it reaches: of memory bandwidth (of a copy or a read of a
large array, the larger of the two, in the same run) for norms, GELU, residual, softmax, loss and optimiser; of BLAS's
best rate for products and attention. Small maps lie partly in the last cache, so their share may exceed 100%.

    python benchmarks/ops.py --torch-python PATH [--threads 2] [--rounds 7]
"""

from __future__ import annotations

import argparse
import math
import os
import sys
from typing import TYPE_CHECKING, Any

import _peers

if TYPE_CHECKING:
    from collections.abc import Callable

ROWS, C, HEADS, SIDE, BATCH, HIDDEN, CLASSES, PARAMETERS = 25088, 96, 3, 56, 8, 384, 1000, 28_288_354
IMAGE, PADDING, SMALL = 224, 4, (512, 3, 32, 32)  # augmentation is of CIFAR-10's images
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CLIP, STEP = 5.0, {"lr": 1e-4, "beta1": 0.9, "beta2": 0.999, "eps": 1e-8, "step": 10}
REPEAT = 20  # runs a turn: most of these ops take a millisecond
Steps = dict[str, "Callable[[], Any]"]

# What limits each op: the fewest bytes that it can move, or its floating-point operations.
_MAP, _HIDDEN = 4 * ROWS * C, 4 * ROWS * HIDDEN
_ATTENTION = 2 * 2 * BATCH * (SIDE // 7) ** 2 * 49**2 * C
_MLP = 2 * 2 * ROWS * C * HIDDEN
LIMITS: dict[str, tuple[str, int]] = {
    "layer norm forward": ("bytes", 2 * _MAP),
    "layer norm backward": ("bytes", 3 * _MAP),
    "residual layer norm forward": ("bytes", 4 * _MAP),
    "residual layer norm backward": ("bytes", 4 * _MAP),
    "gelu forward": ("bytes", 2 * _HIDDEN),
    "gelu backward": ("bytes", 3 * _HIDDEN),
    "bias gelu forward": ("bytes", 2 * _HIDDEN),
    "bias gelu backward": ("bytes", 3 * _HIDDEN),
    "softmax forward": ("bytes", 2 * 4 * BATCH * 64 * HEADS * 49 * 49),
    "softmax backward": ("bytes", 3 * 4 * BATCH * 64 * HEADS * 49 * 49),
    "cross entropy forward": ("bytes", 2 * 4 * 1024 * CLASSES),
    "cross entropy backward": ("bytes", 2 * 4 * 1024 * CLASSES),
    "AdamW against the default": ("bytes", 7 * 4 * PARAMETERS),
    "AdamW against the fused": ("bytes", 7 * 4 * PARAMETERS),
    "gradient norm": ("bytes", 4 * PARAMETERS),
    "AdamW with clipping, all of a model": ("bytes", 8 * 4 * PARAMETERS),
    "patches as rows": ("bytes", 5 * BATCH * 3 * IMAGE**2),
    "crop, flip, normalise": ("bytes", 5 * math.prod(SMALL)),
    "position bias forward": ("bytes", 4 * HEADS * 49**2),
    "position bias backward": ("bytes", 4 * HEADS * 49**2),
    "patch merge forward": ("bytes", 2 * _MAP),
    "patch merge backward": ("bytes", 2 * _MAP),
    "linear forward": ("flops", _MLP // 2),
    "linear backward": ("flops", _MLP),
    "mlp forward": ("flops", _MLP),
    "mlp backward": ("flops", 2 * _MLP),
    "window attention forward": ("flops", _ATTENTION),
    "window attention backward": ("flops", 5 * _ATTENTION // 2),
}


def _arrays() -> dict[str, Any]:
    """The same numbers for both peers."""
    import numpy as np

    rng = np.random.default_rng(0)

    def normal(*shape: int) -> Any:
        return rng.standard_normal(shape, np.float32)

    return {
        "x": normal(BATCH, SIDE, SIDE, C),
        "branch": normal(BATCH, SIDE, SIDE, C),
        "g": normal(BATCH, SIDE, SIDE, C),
        "g_sum": normal(BATCH, SIDE, SIDE, C),
        "weight": normal(C),
        "bias": normal(C),
        "hidden": normal(ROWS, HIDDEN),
        "g_hidden": normal(ROWS, HIDDEN),
        "bias_hidden": normal(HIDDEN),
        "g_merged": normal(BATCH, SIDE // 2, SIDE // 2, 4 * C),
        "scores": normal(BATCH * 64, HEADS, 49, 49),
        "g_scores": normal(BATCH * 64, HEADS, 49, 49),
        "logits": normal(1024, CLASSES),
        "labels": rng.integers(0, CLASSES, 1024),
        "w1": normal(HIDDEN, C) / 10,
        "w2": normal(C, HIDDEN) / 20,
        "qkv": normal(BATCH, SIDE, SIDE, 3 * C),
        "table": normal(HEADS, 49, 49),
        "qkv_bias": normal(3 * C),
        "images": rng.integers(0, 256, (BATCH, 3, IMAGE, IMAGE), np.uint8),
        "small": rng.integers(0, 256, SMALL, np.uint8),
        "corners": rng.integers(0, 2 * PADDING + 1, (2, SMALL[0])),
        "mirrored": rng.random(SMALL[0]) < 0.5,
        "biases": normal(13 * 13, HEADS),
    }


def _parameter_sizes() -> list[int]:
    """Of Swin-T's parameters, about: its blocks, and what is left as one."""
    sizes = []
    for width, depth in ((96, 2), (192, 2), (384, 6), (768, 2)):
        sizes += depth * [width] * 4 + depth * [3 * width**2, 3 * width, width**2, width, 169 * width // 32]
        sizes += depth * [4 * width**2, 4 * width, 4 * width**2, width]
    return [*sizes, PARAMETERS - sum(sizes)]


def _ours() -> tuple[Steps, dict[str, str]]:
    sys.path.insert(0, str(_peers.ROOT))
    import numpy as np

    import swinpy
    from autograd.kernels import adamw, cross_entropy, gelu, layer_norm, linear, mlp, patches, softmax
    from swinpy.data import pixels
    from swinpy.geometry import geometry, position_index
    from swinpy.kernels import position_bias, window_attention
    from swinpy.ops import AttentionSpec

    swinpy.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    a = _arrays()
    eps, everything = 1e-5, (True,) * 5
    _, mean, rstd = layer_norm.layer_norm_fwd(a["x"], a["weight"], a["bias"], eps)
    probabilities = softmax.softmax_fwd(a["scores"])
    _, log_probs = cross_entropy.cross_entropy_fwd(a["logits"], a["labels"], 0.0)
    layers = (a["w1"], a["bias_hidden"], a["w2"])
    _, kept = mlp.mlp_fwd(a["x"], *layers, a["bias"], True)
    spec = AttentionSpec(geometry((SIDE, SIDE), (7, 7), (3, 3)), HEADS, (C // HEADS) ** -0.5)
    attended = (a["qkv"], a["table"], a["qkv_bias"], None, spec)
    param, grad, first, second = (np.full(PARAMETERS, 0.1, np.float32) for _ in range(4))
    lists = [[np.full(n, 0.1, np.float32) for n in _parameter_sizes()] for _ in range(4)]
    index = position_index((7, 7), (7, 7))
    mean_std = np.array(MEAN, np.float32), np.array(STD, np.float32)
    calls: dict[str, tuple[Any, tuple[Any, ...]]] = {
        "layer norm forward": (layer_norm.layer_norm_fwd, (a["x"], a["weight"], a["bias"], eps)),
        "layer norm backward": (layer_norm.layer_norm_bwd, (a["g"], a["x"], a["weight"], mean, rstd)),
        "residual layer norm forward": (
            layer_norm.residual_layer_norm_fwd,
            (a["x"], a["branch"], None, a["weight"], a["bias"], eps),
        ),
        "residual layer norm backward": (
            layer_norm.residual_layer_norm_bwd,
            (a["g_sum"], a["g"], a["x"], None, a["weight"], mean, rstd),
        ),
        "gelu forward": (gelu.gelu_fwd, (a["hidden"],)),
        "gelu backward": (gelu.gelu_bwd, (a["g_hidden"], a["hidden"])),
        "bias gelu forward": (gelu.bias_gelu_fwd, (a["hidden"], a["bias_hidden"])),
        "bias gelu backward": (gelu.bias_gelu_bwd, (a["g_hidden"], a["hidden"], a["bias_hidden"])),
        "softmax forward": (softmax.softmax_fwd, (a["scores"],)),
        "softmax backward": (softmax.softmax_bwd, (a["g_scores"], probabilities)),
        "cross entropy forward": (cross_entropy.cross_entropy_fwd, (a["logits"], a["labels"], 0.0)),
        "cross entropy backward": (
            cross_entropy.cross_entropy_bwd,
            (np.full(1024, 1e-3, np.float32), log_probs, a["labels"], 0.0),
        ),
        "patch merge forward": (patches.patch_merge_fwd, (a["x"],)),
        "patch merge backward": (patches.patch_merge_bwd, (a["g_merged"], SIDE, SIDE)),
        "linear forward": (linear.linear_fwd, (a["x"].reshape(ROWS, C), a["w1"], a["bias_hidden"])),
        "linear backward": (linear.linear_bwd, (a["g_hidden"], a["x"].reshape(ROWS, C), a["w1"], everything[:3])),
        "mlp forward": (mlp.mlp_fwd, (a["x"], *layers, a["bias"], True)),
        "mlp backward": (mlp.mlp_bwd, (a["g"], a["x"], kept, *layers, everything)),
        "window attention forward": (window_attention.window_attention_fwd, attended),
        "window attention backward": (window_attention.window_attention_bwd, (a["g"], *attended)),
        "patches as rows": (patches.patch_rows, (a["images"], (4, 4), MEAN, STD, np.dtype(np.float32))),
        "crop, flip, normalise": (
            pixels.crop_flip_normalise,
            (a["small"], *a["corners"], a["mirrored"], PADDING, False, *mean_std),
        ),
        "position bias forward": (position_bias.position_bias_fwd, (a["biases"], index)),
        "position bias backward": (position_bias.position_bias_bwd, (a["table"], index, 13 * 13)),
        "gradient norm": (adamw.grad_norm, (lists[1],)),
    }

    steps: Steps = {label: (lambda k=kernel, c=c: _run(k, c)) for label, (kernel, c) in calls.items()}
    steps["AdamW against the default"] = lambda: adamw.adamw(param, grad, first, second, weight_decay=0.05, **STEP)
    steps["AdamW against the fused"] = steps["AdamW against the default"]
    decays = [0.05] * len(lists[0])
    steps["AdamW with clipping, all of a model"] = lambda: (
        adamw.multi_adamw(*lists, decays, clip_grad=CLIP, **STEP),
        None,
    )[1]
    source, target = np.ones(1 << 25, np.float32), np.ones(1 << 25, np.float32)
    square = np.ones((2048, 2048), np.float32)
    steps["copy"] = lambda: _copy(source, target)
    steps["read"] = lambda: _read(source)
    steps["gemm"] = lambda: (square @ square, None)[1]
    return steps, {"numpy": np.__version__, "swinpy": swinpy.__version__}


def _run(kernel: Any, arguments: tuple[Any, ...]) -> None:
    kernel(*arguments)


def _copy(source: Any, target: Any) -> None:
    """A large copy by all threads."""
    from autograd.extend import map_pieces

    n = len(source) // 8
    map_pieces(lambda i: target.__setitem__(slice(i * n, i * n + n), source[i * n : i * n + n]), list(range(8)))


def _read(source: Any) -> None:
    """A large array once through the processor, by all threads."""
    from autograd.extend import map_pieces

    n = len(source) // 8
    map_pieces(lambda i: source[i * n : i * n + n].max(), list(range(8)))


def _torch() -> tuple[Steps, dict[str, str]]:
    import torch
    from torch.nn import functional

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    t = {name: torch.from_numpy(array) for name, array in _arrays().items()}
    leaves = {name: v.clone().requires_grad_() for name, v in t.items() if v.is_floating_point()}

    def norm(v: Any) -> Any:
        return functional.layer_norm(v["x"], (C,), v["weight"], v["bias"], 1e-5)

    def residual(v: Any) -> Any:
        total = v["x"] + v["branch"]
        return total, functional.layer_norm(total, (C,), v["weight"], v["bias"], 1e-5)

    def mlp(v: Any) -> Any:
        hidden = functional.gelu(functional.linear(v["x"], v["w1"], v["bias_hidden"]))
        return functional.linear(hidden, v["w2"], v["bias"])

    def merge(v: Any) -> Any:
        return torch.cat([v["x"][:, i::2, j::2] for j in (0, 1) for i in (0, 1)], -1)

    index = _position_index(torch)
    ops: dict[str, tuple[Any, Any]] = {  # forward, and the gradients of its results
        "layer norm": (norm, t["g"]),
        "residual layer norm": (residual, (t["g_sum"], t["g"])),
        "gelu": (lambda v: functional.gelu(v["hidden"]), t["g_hidden"]),
        "bias gelu": (lambda v: functional.gelu(v["hidden"] + v["bias_hidden"]), t["g_hidden"]),
        "softmax": (lambda v: v["scores"].softmax(-1), t["g_scores"]),
        "cross entropy": (lambda v: functional.cross_entropy(v["logits"], t["labels"]), torch.tensor(1.0)),
        "patch merge": (merge, t["g_merged"]),
        "linear": (lambda v: functional.linear(v["x"].reshape(ROWS, C), v["w1"], v["bias_hidden"]), t["g_hidden"]),
        "mlp": (mlp, t["g"]),
        "position bias": (
            lambda v: v["biases"][index.reshape(-1)].reshape(49, 49, -1).permute(2, 0, 1).contiguous(),
            t["table"],
        ),
        "window attention": (_torch_attention(torch), t["g"]),
    }
    steps: Steps = {}
    for label, (op, g) in ops.items():
        graph = op(leaves)
        steps[f"{label} forward"] = lambda op=op: _without_grad(torch, op, t)
        steps[f"{label} backward"] = lambda graph=graph, g=g: _backward(torch, graph, g, leaves)
    return {**steps, **_torch_pixels(torch, t), **_torch_optimisers(torch)}, {"torch": torch.__version__}


def _torch_pixels(torch: Any, t: Any) -> Steps:
    """What is done to 8-bit images, from torch's ops."""
    mean, std = (torch.tensor(v).reshape(-1, 1, 1) for v in (MEAN, STD))

    def normalised(images: Any) -> Any:
        return images.float().div_(255).sub_(mean).div_(std)

    def rows() -> None:
        side = IMAGE // 4
        cells = normalised(t["images"]).reshape(BATCH, 3, side, 4, side, 4)
        cells.permute(0, 2, 4, 1, 3, 5).reshape(BATCH * side**2, 48)

    def augmented() -> None:
        height, width = SMALL[2:]
        padded = torch.nn.functional.pad(t["small"], (PADDING,) * 4)
        top, left = t["corners"]
        cut = padded.unfold(2, height, 1).unfold(3, width, 1)[torch.arange(SMALL[0]), :, top, left]
        normalised(torch.where(t["mirrored"][:, None, None, None], cut.flip(-1), cut))

    return {"patches as rows": rows, "crop, flip, normalise": augmented}


def _torch_optimisers(torch: Any) -> Steps:
    """AdamW as it comes, and fused; fused after clipping, on a model's tensors; and the norm of their gradients."""

    def parameters(sizes: list[int]) -> list[Any]:
        found = [torch.nn.Parameter(torch.full((n,), 0.1)) for n in sizes]
        for parameter in found:
            parameter.grad = torch.full_like(parameter, 0.1)
        return found

    one, model = parameters([PARAMETERS]), parameters(_parameter_sizes())
    plain = torch.optim.AdamW(one, lr=1e-4, weight_decay=0.05)
    fused, whole = (torch.optim.AdamW(p, lr=1e-4, weight_decay=0.05, fused=True) for p in (one, model))

    def clipped() -> None:
        torch.nn.utils.clip_grad_norm_(model, CLIP)
        whole.step()

    return {
        "AdamW against the default": lambda: (plain.step(), None)[1],
        "AdamW against the fused": lambda: (fused.step(), None)[1],
        "gradient norm": lambda: (torch.nn.utils.get_total_norm([p.grad for p in model]), None)[1],
        "AdamW with clipping, all of a model": clipped,
    }


def _position_index(torch: Any) -> Any:
    """(49, 49): the row of the table for each pair of tokens of a 7x7 window."""
    place = torch.stack(torch.meshgrid(torch.arange(7), torch.arange(7), indexing="ij")).reshape(2, 49)
    apart = place[:, :, None] - place[:, None, :] + 6
    return apart[0] * 13 + apart[1]


def _torch_attention(torch: Any) -> Any:
    """sdpa with the copies that it needs: bias, roll, partition, mask, reverse, roll back."""
    windows = SIDE // 7
    region = torch.zeros(SIDE, SIDE)
    for i, rows in enumerate((slice(0, -7), slice(-7, -3), slice(-3, None))):
        for j, columns in enumerate((slice(0, -7), slice(-7, -3), slice(-3, None))):
            region[rows, columns] = 3 * i + j
    cut = region.reshape(windows, 7, windows, 7).transpose(1, 2).reshape(-1, 49)
    mask = (cut[:, None] != cut[:, :, None]) * -100.0

    def attend(v: Any) -> Any:
        x = torch.roll(v["qkv"] + v["qkv_bias"], (-3, -3), (1, 2)).reshape(BATCH, windows, 7, windows, 7, 3, HEADS, -1)
        q, k, value = x.permute(5, 0, 1, 3, 6, 2, 4, 7).reshape(3, BATCH * windows**2, HEADS, 49, -1)
        added = (v["table"][None] + mask[:, None]).repeat(BATCH, 1, 1, 1)
        out = torch.nn.functional.scaled_dot_product_attention(q, k, value, attn_mask=added)
        out = out.reshape(BATCH, windows, windows, HEADS, 7, 7, -1).permute(0, 1, 4, 2, 5, 3, 6)
        return torch.roll(out.reshape(BATCH, SIDE, SIDE, C), (3, 3), (1, 2))

    return attend


def _without_grad(torch: Any, op: Any, tensors: Any) -> None:
    with torch.no_grad():
        op(tensors)


def _backward(torch: Any, graph: Any, g: Any, leaves: Any) -> None:
    for leaf in leaves.values():
        leaf.grad = None
    torch.autograd.backward(graph, g, retain_graph=True)


PEERS = {"ours": _ours, "torch": _torch}


def _main() -> None:
    parser = _peers.add_options(argparse.ArgumentParser(description=__doc__.partition("\n")[0]), rounds=7)
    parser.set_defaults(threads=len(os.sched_getaffinity(0)))
    parser.add_argument("--torch-python", default=os.environ.get("SWINPY_TORCH_PYTHON", sys.executable))
    parser.add_argument("--op", action="append", default=[], help="this op alone; may be given more than once")
    options = parser.parse_args()
    if options.worker:
        _peers.serve(*PEERS[options.worker]())
        return
    _peers.refuse_when_loaded(options.max_load, options.force)
    peers = [_peers.Peer("ours", __file__, threads=options.threads)]
    peers.append(_peers.Peer("torch", __file__, options.torch_python, threads=options.threads))
    results: dict[str, Any] = {}
    with _peers.start(peers) as workers:
        alone = {"copy": REPEAT, "read": REPEAT, "gemm": 1}
        copy, read, gemm = (
            _peers.interleave(workers[:1], step, options.rounds, repeat=n)["ours"]["min"] for step, n in alone.items()
        )
        rates = {"bytes": 4 * (1 << 25) * max(2 / copy, 1 / read), "flops": 2 * 2048**3 / gemm}
        print(f"limits: memory {rates['bytes'] / 1e9:.1f} GB/s, product {rates['flops'] / 1e9:.0f} GFLOP/s")
        for name, (kind, amount) in LIMITS.items():
            if options.op and name not in options.op:
                continue
            figures = _peers.interleave(workers, name, options.rounds, repeat=REPEAT)
            r, mine = _peers.ratio(figures, "torch"), figures["ours"]["min"]
            share = amount / mine / rates[kind]
            results[name] = {"figures": figures, "ours_divided_by_torch": r, "limit": kind, "share_of_limit": share}
            print(
                f"{name:24s} ours {1e3 * mine:7.2f} ms  torch {1e3 * figures['torch']['min']:7.2f} ms  "
                f"ratio {r['min']:.2f} ({r['median']:.2f})  {100 * share:.0f}% of the limit ({kind})",
                flush=True,
            )
        record = _peers.record(workers, options)
    what = "kernels at the shapes of Swin-T's first stage, batch 8, float32"
    path = _peers.write_json("ops", {"what": what, "limits": rates, "results": results, **record})
    print(f"written: {path.relative_to(_peers.ROOT)}")


if __name__ == "__main__":
    _main()
