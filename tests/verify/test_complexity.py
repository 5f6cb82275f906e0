"""complexity: published counts, the official formula, and memory against what the interpreter really holds."""

from __future__ import annotations

import gc
import math
import tracemalloc
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from support.swin.models import TINY, build, images, shapes_only
from support.swin.port import Port

import swinpy
from swinpy.cli import main
from swinpy.models.cost import model_cost
from swinpy.verify import complexity

if TYPE_CHECKING:
    from swinpy import SwinConfig


def _official(config: SwinConfig) -> int:
    """What the official code's flops() adds up, without its terms for norms (H * W * C each), which are no products."""
    h, w = config.map_size(0)
    c = config.embed_dim
    total = h * w * c * config.in_chans * config.patch_size**2
    for stage, depth in enumerate(config.depths):
        heads, n = config.num_heads[stage], math.prod(config.window(stage))
        windows = h * w // n
        attention = n * c * 3 * c + 2 * heads * n * (c // heads) * n + n * c * c
        total += depth * (windows * attention + int(2 * h * w * c * c * config.mlp_ratio))
        if stage < len(config.depths) - 1:
            total += (h // 2) * (w // 2) * 4 * c * 2 * c
            h, w, c = h // 2, w // 2, 2 * c
    return total + c * config.num_classes


# Parameters, and GFLOPs as the papers print them (the official repository rounds B at 384 to 47.1, the paper to 47.0).
PUBLISHED = {
    "swin_tiny_patch4_window7_224": (28_288_354, 4.5),
    "swin_small_patch4_window7_224": (49_606_258, 8.7),
    "swin_base_patch4_window7_224": (87_768_224, 15.4),
    "swin_base_patch4_window12_384": (87_903_584, 47.1),
    "swin_large_patch4_window12_384": (196_735_516, 103.9),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published(name: str) -> None:
    config = swinpy.models.model_config(name)
    if config.embed_dim > 96:  # the smaller ones run; of the larger ones one stage tells of all
        assert round(_official(config) / 1e9, 1) == PUBLISHED[name][1]
        with shapes_only():
            assert swinpy.create_model(name).num_parameters() == PUBLISHED[name][0]
        return
    counted = complexity(swinpy.create_model(name).eval(), 224)
    assert counted.parameters == PUBLISHED[name][0]
    assert round(counted.macs / 1e9, 1) == PUBLISHED[name][1]
    assert counted.macs == _official(config)


@pytest.mark.parametrize(("name", "published"), [("swinv2_tiny_window8_256", 5.9), ("swinv2_tiny_window16_256", 6.6)])
def test_published_v2(name: str, published: float) -> None:
    """The official count leaves out the MLP of the position bias."""
    counted = complexity(swinpy.create_model(name).eval(), 256)
    assert counted.parameters == 28_347_154
    bias = sum(layer.macs for layer in counted.layers if layer.name.endswith("cpb_mlp"))
    assert round((counted.macs - bias) / 1e9, 1) == published


@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n in PUBLISHED if "tiny" not in n and "small" not in n])
def test_published_large(name: str) -> None:
    config = swinpy.models.model_config(name)
    counted = complexity(swinpy.create_model(name).eval(), config.image)
    assert (counted.parameters, counted.macs) == (PUBLISHED[name][0], _official(config))


@pytest.mark.parametrize("fails", [False, True])
def test_the_cost_of_a_model_leaves_its_modes(fails: bool) -> None:
    """A training run asks for the cost at its start; even where that fails, each module keeps its mode."""
    model = build(TINY).train()
    model.norm.eval()
    before = [module.training for _, module in model.named_modules()]
    assert True in before
    assert False in before
    if fails:
        with pytest.raises(ValueError, match="image"):
            model_cost(model, (0, 20))
    else:
        model_cost(model, (20, 20))
    assert [module.training for _, module in model.named_modules()] == before


def test_layers_add_up() -> None:
    model = build(TINY)
    counted = complexity(model, 20, batch=3)
    children = [counted[n] for n in ("patch_embed", "layers", "norm", "head")]
    assert counted.parameters == sum(c.parameters for c in children) == model.num_parameters()
    assert counted.macs == sum(c.macs for c in children)
    assert counted.activation_bytes >= sum(c.activation_bytes for c in children) > 0
    assert counted.macs == 3 * complexity(model, 20).macs == 3 * model_cost(model, (20, 20)).macs
    assert counted.flops == 2 * counted.macs
    block = counted["layers.0.blocks.1"]
    parts = [counted[f"layers.0.blocks.1.{n}"].macs for n in ("attn", "mlp")]
    assert block.macs == sum(parts)
    assert counted["layers.0.blocks.1.mlp.fc1"].macs == 3 * 100 * 8 * 16
    assert counted["layers.0.blocks.1.mlp.fc1"].output == (3, 10, 10, 16)
    assert counted["norm"].output == (3, 5, 5, 16)
    with pytest.raises(KeyError, match="expected the path of a module; got 'layer'"):
        counted["layer"]


def test_padding_costs() -> None:
    """A map padded to windows attends with its padding; the projections do not see it."""
    plain, padded = (complexity(build(TINY.with_changes(depths=(1,), num_heads=(2,))), n) for n in (24, 20))
    attention = {p.layers[0].macs: p["layers.0.blocks.0.attn"].macs for p in (plain, padded)}
    tokens = {24: 144, 20: 100}
    for (_, macs), n in zip(attention.items(), (24, 20), strict=True):
        assert macs == tokens[n] * 8 * 8 * 4 + 2 * 16 * 9 * 9 * 8


def _measured(model: Any, x: Any) -> int:
    """Bytes that one forward leaves allocated while its output is held."""
    model(x)  # fills the caches of geometry
    gc.collect()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        output = model(x)
        gc.collect()
        held = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert output.requires_grad
    return held


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"attention": "composite"},
        {"checkpoint": "block"},
        {"checkpoint": "stage"},
        {"drop_path_rate": 0.2, "drop_rate": 0.1},
        {"position": "both", "img_size": 26},
    ],
    ids=str,
)
def test_activation_memory_is_what_is_held(changes: dict[str, Any]) -> None:
    """Arrays are all but some hundred small objects of what a forward allocates and keeps."""
    model = build(TINY.with_changes(**changes)).train()
    x = images((20, 26), batch=64)
    counted, held = complexity(model, (20, 26), batch=64).activation_bytes, _measured(model, x)
    assert abs(held - counted) <= 0.02 * counted + 100_000, (held, counted)


def test_checkpointing_shows() -> None:
    kept = [complexity(build(TINY.with_changes(checkpoint=c)), 20, 4).activation_bytes for c in ("none", "block")]
    assert kept[1] < 0.5 * kept[0]


def test_a_port_of_ones_own() -> None:
    config = TINY.with_changes(img_size=24)
    ours, port = complexity(build(config), 24), complexity(Port(config).astype("float64").eval(), 24)
    assert port.parameters == ours.parameters
    assert port.macs == ours.macs == _official(config)
    assert port.activation_bytes > ours.activation_bytes  # it keeps what the fused ops do not


def test_table_and_command(capsys: pytest.CaptureFixture[str]) -> None:
    text = str(complexity(build(TINY), 20))
    lines = text.splitlines()
    assert lines[1].split()[:3] == ["SwinTransformer", "1x3x20x20", "1x5"]
    assert any(line.startswith("layers.1.blocks.1 ") for line in lines)
    assert not any(".attn" in line for line in lines)
    assert main(["complexity", "--model", "swin_cifar_nano", "--depth", "1"]) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("100,808 parameters, 3.92 MMACs, ")
    assert main(["complexity", "--model", "swin_cifar_nano", "-b", "0"]) == 2
    assert main(["complexity", "--model", "swin_cifar_nano", "--depth", "-1"]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "error: --depth: expected 0" in printed.err
    with pytest.raises(ValueError, match=r"^Complexity.table: expected a depth of 0 or more; got -1"):
        complexity(build(TINY), 20).table(-1)
    assert np.isfinite(complexity(build(TINY), 20).macs)
