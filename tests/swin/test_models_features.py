"""Features, the head, and what a model says of itself."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from support.swin.models import images, tiny

import autograd as ag

THREE: dict[str, Any] = {"depths": (1, 2, 1), "num_heads": (1, 2, 4)}


def test_shapes_and_order() -> None:
    model, x = tiny(**THREE), images((22, 17))
    maps = model.features(x)
    assert [f.shape for f in maps] == [(2, 8, 11, 9), (2, 16, 6, 5), (2, 32, 3, 3)]
    assert [i["num_chs"] for i in model.feature_info] == [8, 16, 32]
    assert [i["reduction"] for i in model.feature_info] == [2, 4, 8]
    assert [i["module"] for i in model.feature_info] == ["layers.0", "layers.1", "layers.2"]
    modules = dict(model.named_modules())
    assert all(i["module"] in modules for i in model.feature_info)


@pytest.mark.parametrize(
    ("indices", "stages"),
    [
        ((0,), [0]),
        ((2,), [2]),
        ((-1,), [2]),
        ((-3, 1), [0, 1]),
        ((2, 0), [0, 2]),
        ([1, -2], [1]),
        ((), []),
        (None, [0, 1, 2]),
    ],
)
def test_out_indices(indices: Any, stages: list[int]) -> None:
    """Ascending, each stage once; negative ones count from the end."""
    model, x = tiny(**THREE), images(20)
    every = model.features(x)
    some = model.features(x, out_indices=indices)
    assert len(some) == len(stages)
    for got, stage in zip(some, stages, strict=True):
        np.testing.assert_array_equal(got.numpy(), every[stage].numpy())


def test_later_stages_do_not_run_for_nothing() -> None:
    model, seen = tiny(**THREE), []
    with ag.observe(lambda event: seen.append(event.name)):
        model.features(images(20), out_indices=[0])
    assert seen.count("window_attention") == 1
    assert seen.count("mlp") == 1
    assert seen.count("linear") == 2  # qkv, proj: no merging either


def test_nhwc_is_the_transpose_of_nchw() -> None:
    model, x = tiny(feature_norms=(0,)), images((20, 14))
    for norm in (True, False):
        for last, first in zip(model.features(x, norm=norm, layout="NHWC"), model.features(x, norm=norm), strict=True):
            np.testing.assert_array_equal(last.numpy(), first.numpy().transpose(0, 2, 3, 1))


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"out_indices": (2,)}, r"features: expected out_indices in \[-2, 1\]; got \(2,\)"),
        ({"out_indices": (-3,)}, r"features: expected out_indices in \[-2, 1\]; got \(-3,\)"),
        ({"layout": "NCWH"}, "features: expected layout 'NCHW' or 'NHWC'; got 'NCWH'"),
    ],
)
def test_features_refuse(options: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        tiny().features(images(20), **options)


def _normed(x: Any, layer: Any) -> Any:
    return ag.layer_norm(x, layer.weight, layer.bias).numpy()


def test_norms_of_features() -> None:
    """The last stage has the model's norm; others only where built; ``norm=False`` leaves all of them out."""
    model, x = tiny(**THREE, feature_norms=(1,)), images(20)
    raw = model.features(x, norm=False, layout="NHWC")
    normed = model.features(x, layout="NHWC")
    np.testing.assert_array_equal(normed[0].numpy(), raw[0].numpy())
    np.testing.assert_allclose(normed[1].numpy(), _normed(raw[1], model.norm1), rtol=0, atol=1e-12)
    np.testing.assert_allclose(normed[2].numpy(), _normed(raw[2], model.norm), rtol=0, atol=1e-12)
    assert "norm1.weight" in model.state_dict()
    assert "norm0.weight" not in model.state_dict()
    own_last = tiny(**THREE, feature_norms=(2,))
    raw_last = own_last.features(x, out_indices=[2], norm=False, layout="NHWC")[0]
    got = own_last.features(x, out_indices=[2], layout="NHWC")[0].numpy()
    np.testing.assert_allclose(got, _normed(raw_last, own_last.norm2), rtol=0, atol=1e-12)


def test_features_are_before_merging() -> None:
    model, x = tiny(), images(20)
    first, second = model.features(x, norm=False, layout="NHWC")
    merged = model.layers[0].downsample(first)
    again = model.layers[1](merged).value()
    np.testing.assert_allclose(again.numpy(), second.numpy(), rtol=0, atol=1e-12)


def test_logits_are_the_head_on_the_mean_of_the_last_features() -> None:
    model, x = tiny(), images((18, 25))
    last = model.features(x, out_indices=[-1], layout="NHWC")[0]
    np.testing.assert_allclose(model.forward_head(last, layout="NHWC").numpy(), model(x).numpy(), rtol=0, atol=1e-12)
    state = model.state_dict()
    by_hand = last.numpy().mean(axis=(1, 2)) @ state["head.weight"].T + state["head.bias"]
    np.testing.assert_allclose(model(x).numpy(), by_hand, rtol=0, atol=1e-12)


def test_head_takes_features_as_they_come_and_refuses_the_other_layout() -> None:
    model, x = tiny(), images((18, 25))
    (last,) = model.features(x, out_indices=[-1])
    np.testing.assert_allclose(model.forward_head(last).numpy(), model(x).numpy(), rtol=0, atol=1e-12)
    with pytest.raises(ValueError, match=r"forward_head: expected a map of \d+ channels, NHWC"):
        model.forward_head(last, layout="NHWC")


def test_gradients_of_features_reach_every_stage() -> None:
    model, x = tiny(feature_norms=(0, 1)), images(20)
    loss = sum((f * f).mean() for f in model.features(x))
    loss.backward()
    idle = {name for name, p in model.named_parameters() if p.grad is None}
    assert idle == {"norm.weight", "norm.bias", "head.weight", "head.bias"}


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_reset_classifier(dtype: str) -> None:
    model, x = tiny(dtype), images(20, dtype=np.dtype(dtype))
    pooled = model.features(x, out_indices=[-1], layout="NHWC")[0].mean(axis=(1, 2)).numpy()
    model.reset_classifier(9)
    assert model(x).shape == (2, 9)
    assert (model.num_classes, model.config.num_classes, model.head.weight.dtype) == (9, 9, np.dtype(dtype))
    model.reset_classifier(0)
    assert (model.num_classes, model.config.num_classes, model.head) == (0, 0, None)
    assert "head.weight" not in model.state_dict()
    np.testing.assert_allclose(model(x).numpy(), pooled, rtol=0, atol=1e-6)
    model.reset_classifier(2)
    assert model(x).shape == (2, 2)
    with pytest.raises(ValueError, match="num_classes >= 0"):
        model.reset_classifier(-1)
    assert model(x).shape == (2, 2)


def test_what_it_says_of_itself() -> None:
    model = tiny(**THREE)
    assert (model.num_features, model.num_classes) == (32, 5)
    assert (model.device, model.dtype) == ("cpu", np.float64)
    assert model.num_parameters() == sum(p.size for p in model.parameters())
