"""A model on cuda:1 while cuda:0 is the current device: everything that it makes is where the model is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from support.gpu import fake_cupy, launches
from support.swin.models import ONE_STAGE

import autograd as ag
import swinpy
from swinpy.train.optim import AdamW, grad_norm

if TYPE_CHECKING:
    from collections.abc import Iterator

NANO = {**ONE_STAGE, "depths": (2, 2), "num_heads": (2, 2), "drop_path_rate": 0.2}
V1, V2 = "swin_tiny_patch4_window7_224", "swinv2_tiny_window8_256"


@pytest.fixture(autouse=True)
def cupy() -> Iterator[Any]:
    with fake_cupy.installed(devices=2) as module:
        yield module


def _all_there(arrays: Any) -> bool:
    return all(ag.Tensor(a).device == "cuda:1" for a in arrays)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        (V1, {}),
        (V1, {"attention": "composite", "position": "both"}),
        (V1, {"drop_rate": 0.1}),
        (V2, {}),
        (V2, {"attention": "composite"}),
    ],
)
@pytest.mark.parametrize("checkpoint", [False, True])
@pytest.mark.parametrize("autocast", [None, "float16"])
def test_train_steps(name: str, options: dict[str, Any], checkpoint: bool, autocast: str | None) -> None:
    with launches.counted():  # where things are, not what is in them
        model = swinpy.create_model(name, device="cuda:1", **NANO, **options)
        model.set_grad_checkpointing(checkpoint)
        optimizer = AdamW(model.named_parameters(), model.no_weight_decay())
        for size in (12, 14):
            images = ag.Tensor(np.zeros((2, 3, size, size), np.float32)).to("cuda:1")
            with ag.autocast(autocast):
                out = model(images)
                loss = ag.cross_entropy(out, np.array([1, 2]))
            assert (out.device, loss.device) == ("cuda:1", "cuda:1")
            loss.backward()
            loss = model(images.astype("float32")).sum()
            loss.backward()  # adds to the gradients that are there
            assert _all_there(p.grad for p in model.parameters())
            norm = optimizer.step(1e-3, clip_grad=5.0)
            assert _all_there([norm, *model.state_dict().values(), *optimizer.state_arrays().values()])
            optimizer.zero_grad()


def test_states_come_and_go() -> None:
    model = swinpy.create_model(V1, device="cuda:1", **NANO)
    optimizer = AdamW(model.named_parameters())
    state = {name: array.get() for name, array in model.state_dict().items()}
    moments = {name: array.get() + 1 for name, array in optimizer.state_arrays().items()}
    model.load_state_dict({name: array + 1 for name, array in state.items()})
    optimizer.load_state(moments, 3)
    assert optimizer.steps == 3
    assert _all_there([*model.state_dict().values(), *optimizer.state_arrays().values()])
    for name, array in model.state_dict().items():
        np.testing.assert_array_equal(array.get(), state[name] + 1)
    model.reset_classifier(3)
    model.astype("float16")
    assert _all_there(model.state_dict().values())
    swinpy.resize_model(model, img_size=18)
    assert model.to("cuda:0").device == "cuda:0"
    for parameter in model.parameters():
        parameter.grad = parameter.data
    assert grad_norm(model.parameters()) > 0


def test_values_are_those_of_the_first_gpu() -> None:
    found = []
    for device in ("cuda:0", "cuda:1"):
        ag.manual_seed(0)
        model = swinpy.create_model(V1, device=device, **{**NANO, "depths": (2,), "num_heads": (2,)})
        optimizer = AdamW(model.named_parameters())
        images = ag.Tensor(np.random.default_rng(0).standard_normal((2, 3, 12, 12)).astype(np.float32)).to(device)
        with ag.autocast("float16"):
            ag.cross_entropy(model(images), np.array([1, 2])).backward()
        optimizer.step(1e-2)
        found.append([p.data.get().tobytes() for p in model.parameters()])
    assert found[0] == found[1]


def test_a_graph_over_both(cupy: Any) -> None:
    x = ag.Tensor(np.arange(3.0), requires_grad=True).to("cuda:1")
    total = (x * x).sum().to("cuda:0") + (x * 2).sum().to("cuda:0")
    leaf = ag.Tensor(cupy.ones(3), requires_grad=True)
    total = (
        total + (leaf.to("cuda:1") * x).sum().to("cuda:0") + (leaf.to("cuda:1") + leaf.to("cuda:1")).sum().to("cuda:0")
    )
    with ag.detect_anomaly():
        total.backward()
    assert leaf.grad is not None
    assert leaf.grad.device.id == 0
    np.testing.assert_array_equal(leaf.grad.get(), [2, 3, 4])
