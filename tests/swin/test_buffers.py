"""Buffers, and the running statistics of batch norm: state, commits, checkpoints, training steps, resumes."""

from __future__ import annotations

import copy
import pickle
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from support.gpu import fake_cupy
from support.swin.parity import import_or_skip

import autograd as ag
from swinpy.data import ImageDataset, Loader
from swinpy.nn import BatchNorm2d, Buffer, GroupNorm, Linear, Module, ModuleList, Parameter, StateDictError
from swinpy.snapshots.store import SnapshotStore
from swinpy.train.optim import AdamW
from swinpy.train.schedule import CosineSchedule
from swinpy.train.trainer import NonFiniteError, Trainer
from swinpy.weights.dialects.buffers import batch_counters

if TYPE_CHECKING:
    from collections.abc import Callable

RNG = np.random.default_rng(5)


def _maps(*shape: int) -> Any:
    return RNG.standard_normal(shape).astype(np.float32) * 2 + 1


def _torch() -> Any:
    import torch

    return torch


class Net(Module):
    """Norms by batch, pixel by pixel, then by groups; the mean goes into a linear layer."""

    def __init__(self, checkpoint: bool = False) -> None:
        self.blocks = ModuleList([BatchNorm2d(4), BatchNorm2d(4)])
        self.norm = GroupNorm(2, 4)
        self.head = Linear(4, 3)
        self.checkpoint = checkpoint

    def _normed(self, x: ag.Tensor) -> ag.Tensor:
        for block in self.blocks:
            x = ag.relu(block(x))
        return x

    def forward(self, x: Any) -> ag.Tensor:
        x = x if isinstance(x, ag.Tensor) else ag.Tensor(x)
        x = ag.concatenate([x, x[:, :1]], axis=1)
        x = ag.checkpoint(self._normed, x) if self.checkpoint else self._normed(x)
        return self.head(ag.mean(self.norm(x), (2, 3)))


def _statistics(model: Module) -> dict[str, Any]:
    return {name: np.array(b.numpy()) for name, b in model.named_buffers()}


def _same(a: dict[str, Any], b: dict[str, Any]) -> bool:
    return a.keys() == b.keys() and all(a[k].tobytes() == b[k].tobytes() for k in a)


# ---- state


def test_a_buffer_is_state_and_no_parameter() -> None:
    model = Net()
    names = [f"blocks.{i}.{leaf}" for i in (0, 1) for leaf in ("weight", "bias", "running_mean", "running_var")]
    assert list(model.state_dict()) == [*names, "norm.weight", "norm.bias", "head.weight", "head.bias"]
    assert [n for n, _ in model.named_buffers()] == [n for n in names if "running" in n]
    assert not any("running" in n for n, _ in model.named_parameters())
    assert [n for n, _ in model.named_state()] == list(model.state_dict())
    assert model.num_parameters() == 2 * 8 + 8 + 15
    assert model.state_dict()["blocks.0.running_var"] is model.blocks[0].running_var.data
    assert "running_mean(4,)" in repr(model.blocks[0])
    model.requires_grad_()
    assert not model.blocks[0].running_mean.requires_grad


def test_state_round_trips_and_is_whole_or_refused() -> None:
    model, other = Net(), Net()
    model(_maps(2, 3, 2, 2))
    model.commit_statistics()
    other.load_state_dict(model.state_dict())
    assert _same(_statistics(other), _statistics(model))
    state = {k: v for k, v in model.state_dict().items() if k != "blocks.1.running_var"}
    with pytest.raises(StateDictError, match=r"the 12 parameters and buffers of Net; .*missing: blocks.1.running_var"):
        other.load_state_dict(state)
    with pytest.raises(StateDictError, match=r"shapes: blocks.0.running_mean: expected \(4,\); got \(3,\)"):
        other.load_state_dict({**model.state_dict(), "blocks.0.running_mean": np.zeros(3)})


def test_torch_s_counters_of_batches_are_passed_over() -> None:
    model = Net()
    state = {**model.state_dict(), "blocks.0.num_batches_tracked": np.array(7)}
    assert model.load_state_dict(state) == ([], [])
    for stranger in ("norm.num_batches_tracked", "num_batches_tracked", "blocks.0.num_batches_tracked.x", "blocks.0."):
        with pytest.raises(StateDictError, match=f"unexpected: {stranger}"):
            model.load_state_dict({**model.state_dict(), stranger: np.array(7)})


@pytest.mark.parity
def test_with_counters_a_state_has_the_keys_of_torch_s() -> None:
    torch = import_or_skip(_torch)
    ours, theirs = ModuleList([BatchNorm2d(4)]), torch.nn.ModuleList([torch.nn.BatchNorm2d(4)])
    state = ours.state_dict()
    assert batch_counters(["blocks.running_means", "running_mean", "head.weight"]) == {}
    theirs.load_state_dict({k: torch.tensor(v) for k, v in (state | batch_counters(state)).items()}, strict=True)
    assert list(state | batch_counters(state)) == list(theirs.state_dict())


@pytest.mark.parametrize("clone", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))], ids=["copy", "pickle"])
def test_copies_are_whole_and_their_own(clone: Callable[[Net], Net]) -> None:
    model = Net()
    model(_maps(2, 3, 2, 2))
    model.commit_statistics()
    twin = clone(model)
    assert isinstance(twin.blocks[0].running_mean, Buffer)
    assert isinstance(twin.blocks[0].weight, Parameter)
    before = _statistics(model)
    assert _same(_statistics(twin), before)
    twin(_maps(2, 3, 2, 2))
    twin.commit_statistics()
    assert not _same(_statistics(twin), before)
    assert _same(_statistics(model), before)


@pytest.mark.parametrize("dtype", [np.float64, np.float16])
def test_buffers_are_cast_and_moved(dtype: Any) -> None:
    model = Net().astype(dtype)
    assert {leaf.dtype for _, leaf in model.named_state()} == {np.dtype(dtype)}
    with fake_cupy.installed() as cupy:
        model.to("gpu")
        assert {leaf.device for _, leaf in model.named_state()} == {"cuda:0"}
        y = model(cupy.asarray(_maps(2, 3, 2, 2).astype(dtype)))
        model.commit_statistics()
        assert (y.dtype, y.device) == (dtype, "cuda:0")
        assert {(b.dtype, b.device) for _, b in model.named_buffers()} == {(np.dtype(dtype), "cuda:0")}
        model.to("cpu")
    assert all(np.isfinite(b.data).all() and b.data.any() for _, b in model.named_buffers())


# ---- statistics


def test_forward_leaves_the_state_alone_until_the_commit() -> None:
    model, x = Net(), _maps(3, 3, 4, 5)
    before = _statistics(model)
    model(x)
    assert _same(_statistics(model), before)
    model.commit_statistics()
    whole = np.concatenate([x, x[:, :1]], axis=1)
    found = _statistics(model)
    np.testing.assert_allclose(found["blocks.0.running_mean"], 0.1 * whole.mean(axis=(0, 2, 3)), rtol=1e-5)
    np.testing.assert_allclose(found["blocks.0.running_var"], 0.9 + 0.1 * whole.var(axis=(0, 2, 3), ddof=1), rtol=1e-5)
    model.commit_statistics()
    assert _same(_statistics(model), found), "one batch, one commit"


def test_evaluation_norms_by_running_statistics_and_takes_none() -> None:
    model = Net()
    norm = model.blocks[0]
    norm.running_mean.assign_(np.float32([1, 2, 3, 4]))
    norm.running_var.assign_(np.float32([4, 4, 1, 1]))
    model.eval()
    before = _statistics(model)
    x = _maps(1, 4, 1, 1)
    want = (x[0, :, 0, 0] - [1, 2, 3, 4]) / np.sqrt(np.float32([4, 4, 1, 1]) + 1e-5)
    np.testing.assert_allclose(norm(ag.Tensor(x)).numpy()[0, :, 0, 0], want, rtol=1e-6)
    model.commit_statistics()
    assert _same(_statistics(model), before)


@pytest.mark.parametrize(
    "forget",
    [
        lambda m: m.drop_statistics(),
        lambda m: m.load_state_dict(m.state_dict()),
        lambda m: m.astype(np.float32),
        lambda m: m.to("cpu"),
    ],
    ids=["drop", "load", "astype", "to"],
)
def test_what_was_dropped_is_not_committed(forget: Callable[[Net], Any]) -> None:
    model = Net()
    before = _statistics(model)
    model(_maps(2, 3, 2, 2))
    forget(model)
    model.commit_statistics()
    assert _same(_statistics(model), before)


@pytest.mark.parametrize("grad", [True, False])
def test_a_checkpointed_block_counts_a_batch_once(grad: bool) -> None:
    x, found = _maps(2, 3, 3, 3), []
    for checkpoint in (False, True):
        ag.manual_seed(0)
        model = Net(checkpoint)
        leaf = ag.Tensor(x, requires_grad=grad)
        model(leaf).sum().backward()
        model.commit_statistics()
        found.append({**_statistics(model), **{n: p.grad for n, p in model.named_parameters()}})
    assert _same(*found)


def test_statistics_are_float32_under_autocast() -> None:
    model = Net()
    with ag.autocast("float16"):
        model(_maps(2, 3, 4, 4) * 300)  # a variance beyond float16
    model.commit_statistics()
    assert all(np.isfinite(a).all() for a in _statistics(model).values())
    assert _statistics(model)["blocks.0.running_var"].max() > 1e4


@pytest.mark.parity
def test_running_statistics_are_torch_s() -> None:
    """Over several batches, one of them through the layer twice, and commits now and then."""

    torch = import_or_skip(_torch)
    ours, theirs = BatchNorm2d(4, 1e-3, 0.3).astype(np.float64), torch.nn.BatchNorm2d(4, 1e-3, 0.3).double()
    for i, size in enumerate((2, 3, 1, 4)):
        x = _maps(size, 4, 3, 2).astype(np.float64)
        got = ours(ours(ag.Tensor(x))).numpy()
        np.testing.assert_allclose(got, theirs(theirs(torch.tensor(x))).detach().numpy(), rtol=1e-12, atol=1e-12)
        if i % 2:
            ours.commit_statistics()
    for name, b in ours.named_buffers():
        np.testing.assert_allclose(b.data, getattr(theirs, name).numpy(), rtol=1e-13, atol=1e-13)
    x = _maps(2, 4, 3, 2).astype(np.float64)
    want = theirs.eval()(torch.tensor(x)).detach().numpy()
    np.testing.assert_allclose(ours.eval()(ag.Tensor(x)).numpy(), want, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("checkpoint", [False, True])
def test_one_value_a_channel_names_the_layer(checkpoint: bool) -> None:
    class Outer(Module):
        def __init__(self) -> None:
            self.parts = ModuleList([Linear(2, 2), Net(checkpoint)])

        def forward(self, x: Any) -> Any:
            return self.parts[1](x)

    for model, name in ((Outer(), r"parts\.1\.blocks\.0"), (Net(checkpoint), r"blocks\.0")):
        words = (
            rf"^batch_norm: expected more than one value a channel in training; got x \(1, 4, 1, 1\) in {name}\. Use "
        )
        with pytest.raises(ValueError, match=words):
            model(_maps(1, 3, 1, 1))
        model.eval()(_maps(1, 3, 1, 1))
    with pytest.raises(ValueError, match=r"in BatchNorm2d\. Use"):
        BatchNorm2d(4)(ag.Tensor(_maps(1, 4, 1, 1)))


def test_groups_divide_the_channels() -> None:
    for groups in (3, 0, 8):
        with pytest.raises(
            ValueError, match=rf"^GroupNorm: expected groups that divide the channels; got {groups} of 4"
        ):
            GroupNorm(groups, 4)


# ---- training


def _trainer(accumulation: int = 1, amp_dtype: str | None = None, batch: int = 4) -> Trainer:
    ag.manual_seed(1)
    model: Any = Net()
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (20, 3, 4, 4), dtype=np.uint8), rng.integers(0, 3, 20)
    half = (0.5, 0.5, 0.5)
    data = ImageDataset("noise", images, labels, ("a", "b", "c"), True, "memory", half, half)
    loader = Loader(data, batch, shuffle=True, seed=2)
    return Trainer(
        model, AdamW(model.named_parameters()), CosineSchedule(1e-2, 12, 3), loader, accumulation, 1.0, amp_dtype
    )


def test_a_step_commits_its_batches_in_order() -> None:
    whole, parts = _trainer(batch=4, accumulation=2), _trainer(batch=4)
    batches = parts.loader.epoch(0)
    next(whole.epoch())
    for _ in range(2):
        parts.loss(next(batches))
        parts.model.commit_statistics()
    assert _same(_statistics(whole.model), _statistics(parts.model))
    assert _statistics(whole.model)["blocks.0.running_mean"].any()


def test_a_skipped_step_leaves_statistics_alone() -> None:
    trainer = _trainer(amp_dtype="float16")
    steps = trainer.epoch()
    next(steps)
    before = _statistics(trainer.model)
    assert trainer.scaler is not None
    trainer.scaler.scale = 2.0**200
    assert not np.isfinite(next(steps).grad_norm)
    assert _same(_statistics(trainer.model), before)
    trainer.scaler.scale = 1.0
    next(steps)
    assert not _same(_statistics(trainer.model), before)


def test_a_step_that_raised_leaves_no_statistics_to_the_next() -> None:
    trainer, other = _trainer(), _trainer()
    good = trainer.loss
    trainer.loss = lambda batch: good(batch) * np.nan  # type: ignore[method-assign]
    with pytest.raises(NonFiniteError):
        next(trainer.epoch())
    assert _same(_statistics(trainer.model), _statistics(other.model))
    trainer.loss = good  # type: ignore[method-assign]
    next(trainer.epoch())
    next(other.epoch())
    assert _same(_statistics(trainer.model), _statistics(other.model))


def test_a_resumed_run_has_the_statistics_of_the_whole_one(tmp_path: Any) -> None:
    whole = _trainer()
    steps = whole.epoch()
    for _ in range(2):
        next(steps)
    store = SnapshotStore(tmp_path)
    path = store.save(2, whole.groups(), {"trainer": whole.state()})
    list(steps)
    again = _trainer()
    snapshot = store.load(path)
    assert "blocks.0.running_mean" in snapshot.groups["model"]
    assert not any("running" in name for name in snapshot.groups["optim"])
    again.restore(snapshot.groups, snapshot.state["trainer"])
    list(again.epoch())
    assert _same(whole.groups()["model"], again.groups()["model"])
