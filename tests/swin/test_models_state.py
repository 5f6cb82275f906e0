"""Modules: walking, state dicts, modes, devices, dtypes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from support.gpu import fake_cupy
from support.swin.models import images, tiny

import autograd as ag
from swinpy.nn import Linear, Module, ModuleList, Parameter, StateDictError


def _copy(state: dict[str, Any]) -> dict[str, Any]:
    return {name: np.array(array) for name, array in state.items()}


# ---- load_state_dict


def test_everything_that_differs_is_said_at_once_and_nothing_is_loaded() -> None:
    model = tiny()
    before = _copy(model.state_dict())
    state = {name: array + 1 for name, array in before.items()}
    del state["norm.bias"], state["layers.0.blocks.1.mlp.fc1.weight"]
    state["head.weight"] = np.zeros((3, 16))
    state["patch_embed.norm.weight"] = np.zeros((1, 8))
    state["extra"] = np.zeros(1)
    with pytest.raises(StateDictError) as caught:
        model.load_state_dict(state)
    text = str(caught.value)
    for words in (
        "missing: layers.0.blocks.1.mlp.fc1.weight, norm.bias",
        "unexpected: extra",
        "patch_embed.norm.weight: expected (8,); got (1, 8)",
        "head.weight: expected (5, 16); got (3, 16)",
        "Nothing was loaded",
    ):
        assert words in text
    for name, array in model.state_dict().items():
        np.testing.assert_array_equal(array, before[name])


def test_not_strict_allows_missing_and_unexpected_but_no_shape() -> None:
    model = tiny()
    model.load_state_dict({"head.bias": np.full(5, 2.0), "extra": np.zeros(1)}, strict=False)
    assert model.state_dict()["head.bias"].tolist() == [2.0] * 5
    with pytest.raises(StateDictError, match=r"shapes: head.bias: expected \(5,\); got \(4,\)\. Nothing"):
        model.load_state_dict({"head.bias": np.zeros(4)}, strict=False)


def test_a_value_that_is_no_number_loads_nothing() -> None:
    model = tiny()
    before = _copy(model.state_dict())
    state = {name: array + 1 for name, array in before.items()}
    state["head.bias"] = np.array(["a"] * 5)
    with pytest.raises(TypeError, match=r"load_state_dict: expected numbers; got .* for head.bias"):
        model.load_state_dict(state)
    for name, array in model.state_dict().items():
        np.testing.assert_array_equal(array, before[name])


def test_round_trip_casts_and_copies() -> None:
    source, target = tiny("float64"), tiny("float32", seed=1)
    target.load_state_dict(source.state_dict())
    assert target.dtype == np.float32
    for name, array in target.state_dict().items():
        np.testing.assert_array_equal(array, source.state_dict()[name].astype(np.float32))
        assert not np.shares_memory(array, source.state_dict()[name])
    x = images(20)
    np.testing.assert_allclose(target(x.astype(np.float32)).numpy(), source(x).numpy(), rtol=0, atol=1e-4)


def test_loading_is_noticed_by_backward() -> None:
    """A graph built before the load would mix old activations with new weights."""
    model = tiny()
    loss = model(images(20)).sum()
    model.load_state_dict(tiny(seed=1).state_dict())
    with pytest.raises(RuntimeError, match="got one that was written to"):
        loss.backward()


def test_state_dict_is_the_parameters_themselves() -> None:
    model = tiny()
    for name, p in model.named_parameters():
        assert model.state_dict()[name] is p.data


# ---- walking, modes


def test_modules_and_parameters_are_found_once() -> None:
    class Tied(Module):
        def __init__(self) -> None:
            self.first = Linear(2, 2)
            self.second = self.first
            self.stack = ModuleList([Linear(2, 2), Linear(2, 2)])
            self.own = Parameter(np.zeros(3))

    model = Tied()
    names = [name for name, _ in model.named_parameters()]
    assert names == [
        "own",
        "first.weight",
        "first.bias",
        "stack.0.weight",
        "stack.0.bias",
        "stack.1.weight",
        "stack.1.bias",
    ]
    assert len(model.stack) == 2
    assert model.stack[-1] is list(model.stack)[1]
    assert model.num_parameters() == 3 + 3 * 6
    with pytest.raises(IndexError):
        model.stack[2]


def test_train_and_eval_reach_every_module() -> None:
    model = tiny()
    assert model.train() is model
    assert all(m.training for _, m in model.named_modules())
    assert model.eval() is model
    assert not any(m.training for _, m in model.named_modules())
    assert len(model.layers[0].blocks) == 2
    model.reset_classifier(3)
    assert not any(m.training for _, m in model.named_modules())


def test_requires_grad_and_zero_grad() -> None:
    model = tiny().requires_grad_(False)
    assert not model(images(20)).requires_grad
    model.head.requires_grad_(True)
    model(images(20)).sum().backward()
    assert [name for name, p in model.named_parameters() if p.grad is not None] == ["head.weight", "head.bias"]
    model.zero_grad()
    assert all(p.grad is None for p in model.parameters())


def test_a_module_without_forward_says_so() -> None:
    with pytest.raises(TypeError, match="ModuleList: expected a subclass that defines forward"):
        ModuleList([])(1)


def test_forward_changes_no_attribute() -> None:
    """Nothing is cached in modules: every attribute is the same object afterwards."""
    model = tiny(position="both").train()
    before = {name: dict(vars(m)) for name, m in model.named_modules()}
    for size in (20, 11, (7, 30)):
        model(images(size)).sum().backward()
        model.features(images(size))
    for name, m in model.named_modules():
        assert vars(m).keys() == before[name].keys()
        for key, value in vars(m).items():
            assert value is before[name][key], f"{name}.{key}"


def test_no_weight_decay() -> None:
    model = tiny(position="both")
    decayed = {name for name, _ in model.named_parameters()} - model.no_weight_decay()
    assert "absolute_pos_embed" in model.no_weight_decay()
    assert all(name.endswith((".weight",)) and "norm" not in name for name in decayed)
    assert {"head.weight", "patch_embed.proj.weight", "layers.0.downsample.reduction.weight"} < decayed


# ---- dtype, device


def test_astype_refuses() -> None:
    with pytest.raises(TypeError, match="expected float64, float32 or float16 for a module; got int64"):
        tiny().astype("int64")


@pytest.mark.parametrize("options", [{}, {"attention": "composite"}, {"position": "absolute"}])
def test_on_the_gpu(options: dict[str, Any]) -> None:
    """Forward, backward and features on arrays that refuse what CuPy refuses; the values are the CPU's."""
    x, g = images((19, 14)), np.random.default_rng(0).standard_normal((2, 5))
    model = tiny(**options)
    logits = model(x)
    logits.backward(g)
    expected = {name: p.grad for name, p in model.named_parameters()}
    with fake_cupy.installed() as cupy, ag.kernel_mode("reference"):
        assert model.to("gpu") is model
        assert model.device == "cuda:0"
        assert all(p.grad is None for p in model.parameters())
        with pytest.raises(ValueError, match=r"expected images on cuda:0; got cpu. Use .to\(\)"):
            model(x)
        pixels = cupy.asarray(x)
        got = model(pixels)
        np.testing.assert_allclose(got.numpy(), logits.numpy(), rtol=0, atol=1e-12)
        got.backward(cupy.asarray(g))
        for name, p in model.named_parameters():
            want = expected[name]
            assert p.grad is not None
            assert want is not None
            np.testing.assert_allclose(p.grad.get(), want, rtol=0, atol=1e-12 * max(1.0, float(np.abs(want).max())))
        assert [f.device for f in model.features(pixels)] == ["cuda:0"] * 2
        model.reset_classifier(3)
        assert model.head.weight.device == "cuda:0"
        model.load_state_dict(tiny(num_classes=3, **options).state_dict())
        assert model.to("cpu").device == "cpu"


def test_training_on_the_gpu_draws_the_same_masks() -> None:
    x = images(20)
    model = tiny(drop_rate=0.3, drop_path_rate=0.4).train()
    ag.manual_seed(5)
    expected = model(x).numpy()
    with fake_cupy.installed() as cupy, ag.kernel_mode("reference"):
        model.to("gpu")
        ag.manual_seed(5)
        np.testing.assert_allclose(model(cupy.asarray(x)).numpy(), expected, rtol=0, atol=1e-12)


def test_load_state_dict_says_what_did_not_fit() -> None:
    model = tiny()
    state = model.state_dict()
    state["extra"] = np.zeros(3)
    del state["norm.bias"]
    assert model.load_state_dict(state, strict=False) == (["norm.bias"], ["extra"])
    assert model.load_state_dict(model.state_dict()).missing_keys == []
