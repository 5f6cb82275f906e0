"""What a training step asks of a GPU, counted on the stand-in: launches of every kind, waits, uploads."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from support.gpu import fake_cupy, launches

import autograd as ag
import swinpy
from autograd.kernels import KERNELS
from swinpy.train.optim import AdamW

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from support.gpu.launches import Counts

SWIN_T = "swin_tiny_patch4_window7_224"


@pytest.fixture
def cupy() -> Iterator[Any]:
    with fake_cupy.installed(multiprocessors=132) as module:  # of an H100: the cut of sums depends on it
        yield module


def _kinds(counts: Counts) -> dict[str, int]:
    return {event.kind: counts.of(event.kind) for event in counts}


VIEWS: dict[str, Callable[[Any, Any], Any]] = {
    "reshape": lambda cupy, x: x.reshape(-1),
    "transpose": lambda cupy, x: x.T.transpose(1, 0),
    "slice": lambda cupy, x: x[1:, None, ::2],
    "number": lambda cupy, x: x[1, 2],
    "broadcast": lambda cupy, x: cupy.broadcast_to(x[0], (5, 4)),
    "ravel": lambda cupy, x: x.ravel(),
    "contiguous": lambda cupy, x: cupy.ascontiguousarray(x),
    "as it is": lambda cupy, x: (x.astype(np.float32, copy=False), cupy.asarray(x)),
    "empty": lambda cupy, x: cupy.empty((3, 4), np.float32),
    "nothing in it": lambda cupy, x: cupy.exp(x[:0]).sum(axis=1),
    "question": lambda cupy, x: (cupy.may_share_memory(x, x), x.shape, x.flags.c_contiguous),
}
OTHERS: dict[str, Callable[[Any, Any], Any]] = {
    "ufunc": lambda cupy, x: cupy.exp(x),
    "ufunc into": lambda cupy, x: cupy.exp(x, out=x),
    "operator": lambda cupy, x: 2 * x,
    "in place": lambda cupy, x: x.__iadd__(1),
    "sum": lambda cupy, x: x.sum(),
    "mean of an axis": lambda cupy, x: cupy.mean(x, axis=0),
    "cast": lambda cupy, x: x.astype(np.float16),
    "copy": lambda cupy, x: x.copy(),
    "copy by reshape": lambda cupy, x: x.T.reshape(-1),
    "copy by array": lambda cupy, x: cupy.array(x),
    "zeros": lambda cupy, x: cupy.zeros(3),
    "fill": lambda cupy, x: x.__setitem__(slice(None), 0),
    "gather": lambda cupy, x: x[_two(x)],
    "scatter": lambda cupy, x: cupy.add.at(x, _two(x), 1),
    "where": lambda cupy, x: cupy.where(x, x, 0),
    "concatenate": lambda cupy, x: cupy.concatenate([x, x]),
}
WAITS: dict[str, Callable[[Any, Any], Any]] = {
    "int": lambda cupy, x: int(x[0, 0]),
    "float": lambda cupy, x: float(x[0, 0]),
    "bool": lambda cupy, x: bool(x[0, 0]),
    "item": lambda cupy, x: x[0, 0].item(),
    "get": lambda cupy, x: x.get(),
    "asnumpy": lambda cupy, x: cupy.asnumpy(x),
    "tensor": lambda cupy, x: ag.Tensor(x).numpy(),
}


def _two(x: Any) -> Any:
    """Row numbers that are on the GPU already."""
    return fake_cupy.ndarray._made(np.array([0, 2]), x.device.id)


@pytest.mark.parametrize(
    ("kind", "name"), [(k, n) for k, t in (("view", VIEWS), ("other", OTHERS), ("wait", WAITS)) for n in t]
)
def test_one_call(cupy: Any, kind: str, name: str) -> None:
    x = cupy.asarray(np.ones((3, 4), np.float32))
    with launches.counted(values=True) as counts:
        {"view": VIEWS, "other": OTHERS, "wait": WAITS}[kind][name](cupy, x)
    assert _kinds(counts) == ({} if kind == "view" else {kind: 1})


def test_products_uploads_kernels_and_copies(cupy: Any) -> None:
    host = np.ones((4, 4), np.float32)
    with launches.counted(values=True) as counts:
        x = cupy.asarray(host)
        y = x @ x.T
        x[:, ::2] @ y[::2]  # copies of both: CuPy hands on C- and F-ordered operands alone
        KERNELS["gelu_fwd"](y)
    assert _kinds(counts) == {"upload": 1, "product": 2, "handwritten": 1, "other": 2}
    np.testing.assert_array_equal(y.get(), host @ host)


def test_only_counting_computes_no_products_and_no_kernels(cupy: Any) -> None:
    x = cupy.asarray(np.ones((4, 4), np.float16))
    with launches.counted() as counts:
        y = x @ x
        z = KERNELS["gelu_fwd"](x)
    assert _kinds(counts) == {"product": 1, "handwritten": 1}
    assert (y.dtype, y.shape) == (np.float16, (4, 4))
    assert np.isnan(z.get()).all()
    np.testing.assert_array_equal((x @ x).get(), 4)


def test_events_say_where(cupy: Any) -> None:
    x = ag.Tensor(cupy.asarray(np.ones((2, 3), np.float32)))
    with launches.counted() as counts, launches.counted() as inner:
        ag.exp(x)
    (event,) = inner
    assert (event.kind, event.name, event.model) == ("other", "exp", "")
    assert event.line.startswith("autograd/ops/elementwise.py:")
    assert not counts
    assert "1 launches: 0 handwritten, 0 product, 1 other, 0 wait, 0 upload" in str(inner)


# ---- a whole step


def train_step(cupy: Any, name: str, batch: int, autocast: str | None) -> Counts:
    """The counts of a step that is not the first (tables are cached then), with loss scaling and clipping."""
    model = swinpy.create_model(name, device="gpu")
    optimizer = AdamW(model.named_parameters(), model.no_weight_decay())
    size = model.config.img_size
    images = cupy.asarray(np.zeros((batch, 3, size, size), np.float32))
    labels = cupy.asarray(np.arange(batch))
    for _ in range(2):
        with launches.counted() as counts:
            optimizer.zero_grad()
            with ag.autocast(autocast):
                loss = ag.cross_entropy(model(images), labels)
            (loss * 1024.0).backward()
            optimizer.step(1e-3, 5.0, 1024.0)
    return counts


# What a step took when this was written; a change that adds to one of them has to say why.
MOST = {"handwritten": 245, "product": 158, "other": 80, "wait": 0, "upload": 2}


def test_train_step_of_swin_t(cupy: Any, record_property: Any) -> None:
    counts = train_step(cupy, SWIN_T, batch=2, autocast="float16")
    record_property("launches", counts.launches)
    print(counts)
    assert {kind: counts.of(kind) for kind in MOST if counts.of(kind) > MOST[kind]} == {}, str(counts)
    assert counts.of("product") == 158  # 53 linear layers, and for each its two gradients but the images'
