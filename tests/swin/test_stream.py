"""The residual stream: what it computes, when, and how often."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from support.swin.models import TINY, build, images, tiny

import autograd as ag
from swinpy.models.parts import Stream
from swinpy.nn import LayerNorm
from swinpy.verify import complexity

RNG = np.random.default_rng(0)
X, BRANCH = (RNG.standard_normal((3, 2, 2, 4)) for _ in range(2))
KEEP = np.array([2.0, 0.0, 2.0])
TOTAL = X + BRANCH * KEEP.reshape(-1, 1, 1, 1)


def _stream() -> Stream:
    return Stream(ag.Tensor(X)).add(ag.Tensor(BRANCH), KEEP)


def _norm() -> LayerNorm:
    layer = LayerNorm(4)
    layer.weight, layer.bias = (ag.Tensor(RNG.standard_normal(4)) for _ in range(2))  # type: ignore[assignment]
    return layer


def _ops(run: Any) -> list[str]:
    names: list[str] = []
    with ag.observe(lambda event: names.append(event.name)):
        run()
    return names


def test_a_norm_and_the_sum_are_one_op() -> None:
    stream, layer = _stream(), _norm()
    assert _ops(lambda: (stream.norm(layer), stream.value(), stream.add(ag.Tensor(X)))) == ["residual_layer_norm"]
    np.testing.assert_array_equal(stream.copy().value().numpy(), TOTAL)
    want = layer(ag.Tensor(TOTAL)).numpy()
    np.testing.assert_array_equal(_stream().norm(layer).numpy(), want)
    after = _stream()
    after.value()
    np.testing.assert_array_equal(after.norm(layer).numpy(), want)
    assert _ops(lambda: Stream(ag.Tensor(X)).norm(layer)) == ["layer_norm"]


def test_a_sum_is_made_once() -> None:
    stream = _stream()
    assert _ops(lambda: (stream.value(), stream.value(), stream.add(ag.Tensor(X)))) == ["multiply", "add"]
    assert _ops(lambda: Stream(ag.Tensor(X)).add(ag.Tensor(BRANCH)).value()) == ["add"]


def test_adding_leaves_the_stream_as_it_is() -> None:
    stream = _stream()
    longer = stream.add(ag.Tensor(X))
    np.testing.assert_array_equal(longer.value().numpy(), TOTAL + X)
    np.testing.assert_array_equal(stream.value().numpy(), TOTAL)
    assert (stream.x.data is X, stream.keep is KEEP) == (True, True)


def test_looking_at_a_copy_leaves_the_sum_to_be_made() -> None:
    stream = _stream()
    with ag.no_grad():
        stream.copy().value()
    assert _ops(stream.value) == ["multiply", "add"]


def test_rounded_under_autocast_for_linear_layers_alone() -> None:
    x, layer = ag.Tensor(X.astype(np.float32)), LayerNorm(4)
    with ag.autocast("float16"):
        dtypes = [Stream(x).add(x).norm(layer, **wide).dtype for wide in ({}, {"wide": True})]
        stream = Stream(x).add(x)
        stream.norm(layer)
        assert stream.value().dtype == np.float32
    assert dtypes == [np.float16, np.float32]


@pytest.mark.parametrize("given", [Stream(ag.Tensor(X)), _stream()], ids=["x", "sum"])
@pytest.mark.parametrize("read", ["norm", "value", "add"])
def test_recomputed(given: Stream, read: str) -> None:
    """The same values and gradients; of the part nothing is kept."""
    layer, found = _norm(), []
    for again in (False, True):
        x = ag.Tensor(X.copy(), requires_grad=True)
        stream = Stream(x, given.branch, given.keep)

        def part(stream: Stream) -> Stream:
            return stream.add(ag.exp(stream.norm(layer)), KEEP)

        stream = stream.recomputed(part) if again else part(stream)
        if read == "add":
            stream = stream.add(ag.Tensor(BRANCH))
        out = stream.norm(layer) * 1 + stream.value() if read == "norm" else stream.value()
        names = _ops((out * out).sum().backward)
        assert ("checkpoint" in names) == again
        found.append((out.numpy(), x.grad))
    for want, got in zip(*found, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-13)


def test_nothing_runs_before_a_recomputed_stream_is_read() -> None:
    ran: list[Stream] = []

    def part(stream: Stream) -> Stream:
        ran.append(stream)
        return stream.add(ag.Tensor(X))

    stream = _stream().recomputed(part)
    assert ran == []
    np.testing.assert_array_equal(stream.value().numpy(), TOTAL + X)
    assert stream.value() is stream.value()
    assert len(ran) == 1


# Maps of (B, H, W, C): x, the branch that is to be added, what the MLP reads. In V2 the last is the next block's x, and
# norm2 keeps its input and two numbers a row.
@pytest.mark.parametrize(("architecture", "maps"), [("v1", 3.0), ("mlp", 3.0), ("v2", 3 + 2 / 8)])
def test_a_checkpointed_block_keeps_its_inputs_and_the_input_of_the_mlp(architecture: str, maps: float) -> None:
    model = build(TINY.with_changes(checkpoint="block", depths=(4, 1), architecture=architecture))
    layers = {layer.name: layer for layer in complexity(model, 20, 4).layers}
    blocks = [layers[f"layers.0.blocks.{i}"] for i in (1, 2)]
    assert [b.activation_bytes / (8 * math.prod(b.output)) for b in blocks] == [maps, maps]


def test_the_next_stage_does_not_depend_on_the_features_asked_for() -> None:
    model, x = tiny(feature_norms=(0,)), images(20)
    (last,) = model.features(x, (1,), layout="NHWC")
    np.testing.assert_array_equal(model.features(x, layout="NHWC")[1].numpy(), last.numpy())
    np.testing.assert_array_equal(model.forward_features(x).numpy(), last.numpy())


def test_a_recomputed_part_runs_once_and_is_copied_whole() -> None:
    ran: list[int] = []

    def part(stream: Stream) -> Stream:
        ran.append(1)
        return stream.add(ag.Tensor(2 * X))

    layer, want = _norm(), Stream(ag.Tensor(X)).add(ag.Tensor(2 * X))
    stream = Stream(ag.Tensor(X)).recomputed(part)
    np.testing.assert_array_equal(stream.copy().value().numpy(), 3 * X)
    ran.clear()
    np.testing.assert_array_equal(stream.value().numpy(), 3 * X)
    np.testing.assert_array_equal(stream.norm(layer).numpy(), want.norm(layer).numpy())
    assert len(ran) == 1
