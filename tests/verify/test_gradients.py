"""gradcheck_model and its command: right models pass, a wrong gradient is found in the part that has it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from support.swin.models import TINY, build, images, redraw
from support.swin.port import Port

from swinpy.cli import main
from swinpy.models.parts import Mlp
from swinpy.nn import Linear, Module
from swinpy.verify import gradcheck_model

pytestmark = pytest.mark.gradcheck

SMALL = TINY.with_changes(img_size=14, depths=(2, 1), num_heads=(1, 2), num_classes=3)


class WrongMlp(Mlp):
    """Its output's gradient is a tenth too large."""

    def forward(self, x: Any) -> Any:
        y = super().forward(x)
        if y.requires_grad:
            y.register_grad_hook(lambda g: g * 1.1)
        return y


def _model(calm: bool = True, **changes: Any) -> Any:
    model = build(SMALL.with_changes(**changes))
    redraw(model, calm=calm)
    return model


def test_a_model_passes_and_is_not_touched() -> None:
    model = _model().astype("float32")
    before = {n: p.data.copy() for n, p in model.named_parameters()}
    seen = []
    report = gradcheck_model(model, images((11, 9), 1), each=False, on_row=seen.append)
    assert report.passed, report
    names = [row.name for row in report.rows]
    assert names[:4] == ["patch_embed", "layers.0.blocks.0", "layers.0.blocks.1", "layers.0.downsample"]
    assert names[4:] == ["layers.1.blocks.0", "head", "model"]
    assert tuple(seen) == report.rows
    assert "7 of 7 parts pass" in str(report)
    for name, p in model.named_parameters():
        assert p.dtype == np.float32
        np.testing.assert_array_equal(p.data, before[name])


def test_pending_branches_are_inputs_too() -> None:
    """The second block takes a stream of two tensors: both are moved."""
    rows = {row.name: row for row in gradcheck_model(_model(), images((6, 6), 1), whole=False).rows}
    assert rows["layers.0.blocks.1"].leaves == rows["layers.0.blocks.0"].leaves + 1


@pytest.mark.parametrize("each", [True, False])
def test_a_wrong_gradient_is_found_where_it_is(each: bool) -> None:
    model = _model()
    wrong = WrongMlp(8, 16, 0.0).astype("float64")
    redraw(wrong, calm=True)
    model.layers[0].blocks[1].mlp = wrong
    report = gradcheck_model(model, images((6, 6), 1), each=each)
    assert report.failed == ["layers.0.blocks.1", "model"]
    assert "gradcheck: expected input" in str(report)


def test_training_mode_repeats_its_draws() -> None:
    model = _model(drop_path_rate=0.5, drop_rate=0.2).train()
    assert gradcheck_model(model, images((6, 6), 3), each=False).passed


def test_the_port_passes() -> None:
    model = Port(SMALL).astype("float64").eval()
    redraw(model, calm=True)
    assert gradcheck_model(model, images((10, 6), 1), each=False).passed


class Plain(Module):
    def __init__(self) -> None:
        self.first, self.second = Linear(3, 4), Linear(4, 2)

    def forward(self, x: Any) -> Any:
        return self.second(self.first(x))


def test_other_names_fall_back_to_the_children() -> None:
    report = gradcheck_model(Plain(), np.ones((2, 3)))
    assert [r.name for r in report.rows] == ["first", "second", "model"]
    chosen = gradcheck_model(Plain(), np.ones((2, 3)), parts=["second"], whole=False)
    assert [r.name for r in chosen.rows] == ["second"]


def test_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["gradcheck", "--model", "swin_cifar_nano", "--full", "--img-size", "12", "10"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "swin_cifar_nano at 12x10"
    assert lines[-1] == "11 of 11 parts pass"
    assert all(line.endswith("ok") for line in lines[1:-1])


def test_the_command_narrows(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The default: a narrow twin, every parameter alone; here one that is wrong."""
    monkeypatch.setattr("swinpy.models.parts.Mlp", WrongMlp)
    assert main(["gradcheck", "--model", "swin_cifar_nano", "--img-size", "6"]) == 1
    out = capsys.readouterr().out
    assert "narrowed: embed_dim=8, depths=(2, 2, 2), num_classes=3" in out
    assert "layers.0.blocks.0         SwinBlock           14 leaves" in out
    assert "FAILED" in out


@pytest.mark.parametrize("step", [0.0, -1.0, np.inf, np.nan])
def test_a_step_that_is_none(step: float) -> None:
    with pytest.raises(ValueError, match=r"^gradcheck_model: expected a positive step; got"):
        gradcheck_model(Plain(), np.ones((2, 3)), step=step)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--model", "swin_nano"],
        *(["--model", "swin_cifar_nano", *rest] for rest in (["--img-size", "0"], ["--step", "0"], ["--step", "-1"])),
    ],
)
def test_wrong_arguments(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["gradcheck", *arguments]) == 2
    assert capsys.readouterr().err.startswith("error: ")
