"""The bias of a branch's last layer, left to the norm that adds the branch: as on a GPU, here in float64 on the CPU."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from support.gpu import fake_cupy
from support.swin.checks import RANDOM
from support.swin.models import images, tiny

import autograd as ag
from autograd import deferred
from swinpy.verify import diff, trace

X = images((18, 23), 3)
LABELS = np.array([0, 4, 2])
# DropPath alone leaves the biases pending; with dropout after the layers there is nothing to leave.
OPTIONS: list[dict[str, Any]] = [
    {"drop_path_rate": 0.5},
    {"drop_path_rate": 0.5, "checkpoint": "block"},
    {"drop_path_rate": 0.5, "checkpoint": "stage"},
    {"attention": "composite"},
    {"architecture": "mlp"},
    dict(RANDOM),
]


def _fold(monkeypatch: pytest.MonkeyPatch, wanted: bool) -> None:
    monkeypatch.setattr(deferred, "product_adds_bias", lambda x: not wanted)


def _run(options: dict[str, Any]) -> tuple[list[Any], dict[str, Any], int]:
    """Logits and features, parameter gradients, and how many norms of a residual added a bias."""
    model = tiny(**options).train()
    ag.manual_seed(11)
    seen: list[Any] = []
    with ag.observe(seen.append):
        maps = model.features(X, layout="NHWC")
        logits = model.forward_head(maps[-1], layout="NHWC")
        (ag.cross_entropy(logits, LABELS) + sum((f * f).mean() for f in maps)).backward()
    forward = [e for e in seen if e.phase == "forward" and e.name == "residual_layer_norm"]
    folded = sum(e.inputs[4] is not None for e in forward)
    return [o.numpy() for o in (*maps, logits)], {n: p.grad for n, p in model.named_parameters()}, folded


@pytest.mark.parametrize("options", OPTIONS, ids=lambda o: "-".join(map(str, o.values())))
def test_values_and_gradients_are_the_same(monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]) -> None:
    _fold(monkeypatch, False)
    maps, grads, none = _run(options)
    _fold(monkeypatch, True)
    got, got_grads, folded = _run(options)
    assert none == 0
    assert (folded > 0) == ("drop_rate" not in options)
    for a, b in zip(got, maps, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-12 * np.abs(b).max())
    for name, want in grads.items():
        np.testing.assert_allclose(got_grads[name], want, rtol=0, atol=1e-11 * np.abs(want).max(), err_msg=name)


def test_a_trace_has_the_same_names_and_values(monkeypatch: pytest.MonkeyPatch) -> None:
    _fold(monkeypatch, False)
    plain = trace(tiny(), X)
    _fold(monkeypatch, True)
    folded = trace(tiny(), X)
    assert set(folded.names) == set(plain.names)
    assert set(folded.gradients) == set(plain.gradients)
    assert diff(plain, folded, rtol=1e-9).same


def test_it_is_left_on_a_gpu_only() -> None:
    for options in ({}, {"architecture": "v2"}):
        block, x = tiny("float32", **options).layers[0].blocks[0], np.ones((2, 3, 4, 8), np.float32)
        assert type(block.attn(ag.Tensor(x))) is type(block.mlp(ag.Tensor(x))) is ag.Tensor
        with fake_cupy.installed() as cupy:
            on_gpu = ag.Tensor(cupy.asarray(x))
            for part in (block.to("gpu").attn, block.mlp):
                assert isinstance(part(on_gpu), deferred.DeferredBias) == (not options)
            block.train().attn.drop = block.mlp.drop = 0.5
            for part in (block.attn, block.mlp):
                assert type(part(on_gpu)) is ag.Tensor  # dropout comes after the layer
