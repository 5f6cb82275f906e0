"""Casts of parameters made together: the same bits as one by one, never of an older value, and few launches."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from support.gpu import fake_cupy, launches
from support.swin.models import ONE_STAGE

import autograd as ag
import swinpy
from autograd.extend import cast_together
from swinpy.train.optim import AdamW

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def cupy() -> Iterator[Any]:
    with fake_cupy.installed() as module:
        yield module


def _leaf(cupy: Any, values: Any) -> ag.Tensor:
    return ag.Tensor(cupy.asarray(np.asarray(values, np.float32)), requires_grad=True)


def _product(x: ag.Tensor, weight: ag.Tensor) -> list[list[float]]:
    return ag.linear(x, weight).numpy().tolist()  # type: ignore[no-any-return]


# ---- never an older value


def test_a_kept_cast_is_taken_until_the_leaf_is_written_to(cupy: Any) -> None:
    x, weight = _leaf(cupy, [[1.0]]), _leaf(cupy, [[2.0]])
    with ag.autocast("float16"):
        cast_together([weight])
        with launches.counted(values=True) as counts:
            assert _product(x, weight) == [[2.0]]
        assert [e.name for e in counts if e.name == "astype"] == ["astype"]
        assert counts.of("other") == 1  # of x alone
        weight.assign_(3.0)
        assert _product(x, weight) == [[3.0]]
        cast_together([weight])
        assert _product(x, weight) == [[3.0]]


def test_after_a_step_of_the_optimiser_in_the_same_block(cupy: Any) -> None:
    x, weight = ag.Tensor(cupy.ones((1, 1), np.float32)), swinpy.nn.Parameter(cupy.full((1, 1), 2, np.float32))
    optimizer = AdamW([("weight", weight)])
    with ag.autocast("float16"):
        for _ in range(2):
            cast_together([weight])
            out = ag.linear(x, weight)
            assert out.item() == np.float16(weight.data.get()[0, 0])
            out.sum().backward()
            optimizer.step(0.5)
        assert float(weight.data[0, 0]) < 1.5


def test_another_array_behind_the_leaf(cupy: Any) -> None:
    x, weight = _leaf(cupy, [[1.0]]), _leaf(cupy, [[2.0]])
    with ag.autocast("float16"):
        cast_together([weight])
        weight.data = cupy.full((1, 1), 5, np.float32)  # as Module.to does
        assert _product(x, weight) == [[5.0]]


def test_a_block_keeps_its_own(cupy: Any) -> None:
    """What was written past assign_ between two blocks is seen, as with torch."""
    x, weight = _leaf(cupy, [[1.0]]), _leaf(cupy, [[2.0]])
    block = ag.autocast("float16")
    for value in (2.0, 4.0):
        weight.data[...] = value
        with block:
            cast_together([weight])
            assert _product(x, weight) == [[value]]
    with block, ag.autocast("bfloat16" if _has_bfloat16() else "float16"):
        weight.data[...] = 7.0
        assert _product(x, weight) == [[7.0]]


def _has_bfloat16() -> bool:
    try:
        import ml_dtypes  # noqa: F401
    except ImportError:
        return False
    return True


def test_another_dtype_is_cast_from_the_leaf(cupy: Any) -> None:
    leaf, wide = _leaf(cupy, [0.1]), ag.Tensor(cupy.zeros(1))
    with ag.autocast("float16"):
        cast_together([leaf])
        found = leaf + wide
    assert (found.dtype, found.item()) == (np.float64, float(np.float32(0.1)))


def test_a_view_of_the_leaf_is_not_the_leaf(cupy: Any) -> None:
    x, weight = _leaf(cupy, [[1.0]]), _leaf(cupy, [[2.0], [3.0]])
    with ag.autocast("float16"):
        cast_together([weight])
        assert _product(x, weight[1:]) == [[3.0]]
        with ag.no_grad():
            assert _product(x, weight.detach()[1:]) == [[3.0]]


# ---- what is cast


def test_float32_leaves_on_a_gpu_under_autocast_alone(cupy: Any) -> None:
    leaves = [
        _leaf(cupy, [1.0]),
        ag.Tensor(cupy.ones(1)),
        ag.exp(_leaf(cupy, [1.0])),
        ag.Tensor(np.ones(1, np.float32)),
    ]
    with launches.counted() as counts:
        cast_together(leaves)
        assert not counts
        with ag.autocast("float16"):
            cast_together(leaves[1:])
            assert not counts
            cast_together(leaves)
            cast_together(leaves)
    assert counts.of("handwritten", "other") == 1


# ---- gradients


def _step(cupy: Any, checkpoint: bool, dtype: str = "float16") -> list[bytes]:
    """Two training steps of a tiny Swin: the bits of loss, gradients and weights."""
    ag.manual_seed(0)
    model = swinpy.create_model("swin_tiny_patch4_window7_224", device="gpu", drop_path_rate=0.2, **ONE_STAGE)
    model.set_grad_checkpointing(checkpoint)
    optimizer = AdamW(model.named_parameters(), model.no_weight_decay())
    rng, found = np.random.default_rng(0), []
    for _ in range(2):
        x = cupy.asarray(rng.standard_normal((2, 3, 12, 12)).astype(np.float32))
        with ag.autocast(dtype):
            loss = ag.cross_entropy(model(x), cupy.asarray(np.array([1, 3])))
        (loss * 64.0).backward()
        found += [loss.numpy().tobytes(), *(p.grad.get().tobytes() for p in model.parameters())]
        optimizer.step(1e-2, grad_divisor=64.0)
        optimizer.zero_grad()
    return [*found, *(p.data.get().tobytes() for p in model.parameters())]


@pytest.mark.parametrize("checkpoint", [False, True])
def test_training_has_the_bits_of_single_casts(cupy: Any, checkpoint: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    together = _step(cupy, checkpoint)
    monkeypatch.setattr("swinpy.models.swin.cast_together", lambda leaves: None)
    assert _step(cupy, checkpoint) == together


def test_a_leaf_that_is_used_twice_and_in_float32_too(cupy: Any) -> None:
    found = []
    for ahead in (False, True):
        x, weight = _leaf(cupy, [[1.0, 3.0]]), _leaf(cupy, [[0.1, 0.7], [1.3, 0.3]])
        with ag.autocast("float16"):
            if ahead:
                cast_together([weight])
            loss = ag.linear(ag.linear(x, weight), weight).sum() + (weight * weight).sum()
        loss.backward()
        loss = ag.linear(x, weight).sum()  # a second one adds to .grad
        loss.backward()
        assert weight.grad is not None
        found.append(weight.grad.get())
    np.testing.assert_array_equal(*found)


def test_hooks_and_observers_see_finished_gradients(cupy: Any) -> None:
    x, weight = _leaf(cupy, [[1.0]]), _leaf(cupy, [[2.0]])
    seen: list[Any] = []
    weight.register_grad_hook(seen.append)
    with ag.autocast("float16"):
        cast_together([weight])
        loss = ag.linear(x, weight).sum()
    with ag.detect_anomaly():
        loss.backward()
    assert [(g.dtype, float(g[0, 0])) for g in seen] == [(np.float32, 1.0)]


def test_gradients_own_their_memory(cupy: Any) -> None:
    leaves = [_leaf(cupy, np.ones((3, 3))) for _ in range(3)]
    x = ag.Tensor(cupy.ones((1, 3), np.float32))
    with ag.autocast("float16"):
        cast_together(leaves)
        for leaf in leaves:
            x = ag.linear(x, leaf)
    x.sum().backward()
    before = [leaf.grad.get() for leaf in leaves if leaf.grad is not None]
    assert leaves[0].grad is not None
    leaves[0].grad += 1
    for leaf, old in zip(leaves[1:], before[1:], strict=True):
        assert leaf.grad is not None
        np.testing.assert_array_equal(leaf.grad.get(), old)


def test_one_launch_forward_and_one_backward(cupy: Any) -> None:
    x, leaves = _leaf(cupy, np.ones((2, 4))), [_leaf(cupy, np.eye(4)) for _ in range(5)]
    with launches.counted() as counts:
        with ag.autocast("float16"):
            cast_together(leaves)
            out = x
            for leaf in leaves:
                out = ag.linear(out, leaf)
        out.sum().backward()
    assert sum(n for e, n in counts.items() if e.name == "multi_cast") == 2
    assert sum(n for e, n in counts.items() if e.name == "astype") == 3  # x, its gradient, and the sum
