"""Every op "on the GPU": the engine on arrays that refuse whatever CuPy refuses (see support.gpu.fake_cupy)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from support.gpu import fake_cupy
from support.rows import table

import autograd as ag
from autograd import kernels
from autograd.backend import to_device

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def cupy() -> Iterator[Any]:
    with fake_cupy.installed(devices=2) as module, ag.kernel_mode("reference"):
        yield module


# ---- the stand-in itself


def test_stand_in_refuses_what_cupy_refuses(cupy: Any) -> None:
    x = cupy.ones((2, 3))
    for call in (
        lambda: np.asarray(x),
        lambda: np.exp(x),
        lambda: np.sum(x),
        lambda: x + np.ones((2, 3)),
        lambda: np.ones((2, 3)) + x,
        lambda: cupy.add(x, np.ones(3)),
        lambda: cupy.concatenate([x, np.ones((2, 3))]),
        lambda: x.max(initial=0.0),
        lambda: cupy.add(x, 1, where=True),
        lambda: x.__setitem__(0, np.ones(3)),
        lambda: cupy.zeros(3, device="cuda"),
    ):
        with pytest.raises(TypeError):
            call()
    for name in ("errstate", "nditer", "frompyfunc"):
        assert not hasattr(cupy, name)
    for name in ("itemset", "setflags", "__index__"):
        assert not hasattr(x, name)


def test_stand_in_does_what_cupy_does(cupy: Any) -> None:
    x = cupy.asarray(np.arange(6.0).reshape(2, 3))
    assert type(x.sum()) is fake_cupy.ndarray
    assert x.sum().shape == ()
    assert float((np.float64(2) * x).sum()) == 30
    x += 1
    x[0] = 0
    np.testing.assert_array_equal(x.get(), [[0, 0, 0], [4, 5, 6]])
    with cupy.cuda.Device(1):
        assert cupy.ones(2).device.id == 1
    assert x.device.id == 0
    assert cupy.may_share_memory(x, x[0]) is True


# ---- devices


def test_tensor_on_gpu(cupy: Any) -> None:
    t = ag.Tensor(np.arange(3.0), requires_grad=True).to("gpu")
    assert t.device == "cuda:0"
    assert ag.has_gpu()
    assert isinstance(t.numpy(), np.ndarray)
    assert repr(t) == "Tensor([0., 1., 2.], dtype=float64, device='cuda:0', requires_grad=True)"
    assert t[2].item() == 2.0
    with pytest.raises(TypeError, match="CPU tensor"):
        np.asarray(t.detach())


def test_to_device_copies_there_and_back(cupy: Any) -> None:
    x = ag.Tensor(np.arange(3.0), requires_grad=True)
    y = x.to("cuda:1")
    assert y.device == "cuda:1"
    with pytest.raises(ValueError, match="is different from the current device"):
        y.data[0] = 7
    with cupy.cuda.Device(1):
        y.data[0] = 7
    assert x.data[0] == 0
    (y * y).sum().to("cpu").backward()
    assert isinstance(x.grad, np.ndarray)
    assert y.to("cuda:1").data is y.data
    assert y.to("gpu").device == "cuda:0"


@pytest.mark.parametrize("other", ["cpu", "cuda:1"])
def test_mixed_devices_raise(cupy: Any, other: str) -> None:
    x, y = ag.Tensor(np.ones(3)).to("cuda:0"), ag.Tensor(np.ones(3)).to(other)
    with pytest.raises(ValueError, match=f"add: expected operands on one device; got .*{other}.*cuda:0|cuda:0 and"):
        ag.add(x, y)
    with pytest.raises(ValueError, match="one device"), ag.autocast():
        ag.matmul(x, y)


def test_gradient_and_assignment_on_another_device_raise(cupy: Any) -> None:
    x = ag.Tensor(cupy.ones(3), requires_grad=True)
    with pytest.raises(ValueError, match="expected a gradient on cuda:0; got one on cpu"):
        (x * 2).backward(np.ones(3))
    with pytest.raises(ValueError, match="expected a value on cuda:0; got one on cpu"):
        x.assign_(np.ones(3))
    x.assign_(cupy.zeros(3))
    x.assign_(2.0)
    assert x.data.get().tolist() == [2, 2, 2]


def test_cupy_array_on_the_left(cupy: Any) -> None:
    t = ag.Tensor(cupy.ones(3))
    assert isinstance(cupy.ones(3) * t, ag.Tensor)
    assert isinstance(t * cupy.ones(3), ag.Tensor)
    assert isinstance(np.float32(2) * t, ag.Tensor)


def test_resolve_device_beyond_the_last(cupy: Any) -> None:
    assert ag.resolve_device("auto") == "cuda:0"
    with pytest.raises(ag.DeviceError, match="expected cuda:0 to cuda:1; got 'cuda:2'"):
        ag.resolve_device("cuda:2")


def test_validate_mode_compares_on_the_device(cupy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A planted CUDA implementation of gelu: right, then wrong by one in a thousand."""
    row = kernels.KERNELS["gelu_fwd"]
    for factor in (1.0, 1.001):
        twin = kernels.Implementation(lambda x, f=factor: row.reference(x) * f, lambda x: None)
        monkeypatch.setattr(row, "cuda", twin)
        with ag.kernel_mode("validate"):
            for shape in ((3, 4), (0, 4)):
                x = ag.Tensor(cupy.ones(shape))
                if factor == 1.0 or x.size == 0:
                    assert ag.gelu(x).device == "cuda:0"
                    continue
                with pytest.raises(kernels.KernelMismatchError, match="gelu_fwd: output 0"):
                    ag.gelu(x)


# ---- every op


def _to_gpu(x: Any, device: str) -> Any:
    if isinstance(x, np.ndarray):
        return to_device(x, device)
    if isinstance(x, ag.Tensor):
        return x.to(device)
    return type(x)(_to_gpu(item, device) for item in x) if isinstance(x, (tuple, list)) else x


def _run(info: table.OpInfo, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[list[Any], list[Any]]:
    """The outputs, and the gradients of all float operands for output gradients 1, 2, ..."""
    ag.manual_seed(3)
    tensors = [ag.Tensor(a, requires_grad=a.dtype.kind == "f") if hasattr(a, "dtype") else a for a in args]
    result = info.fn(*tensors, **kwargs)
    outputs = list(result) if isinstance(result, tuple) else [result]
    leaves = [t for t in tensors if isinstance(t, ag.Tensor) and t.requires_grad]
    seeded = [o for o in outputs if o.requires_grad]
    seeds = [to_device(np.full(o.shape, 1 + i, o.dtype), o.device) for i, o in enumerate(seeded)]
    grads = ag.grad(seeded, leaves, seeds) if seeded else ()
    return [o.data for o in outputs], list(grads)


CASES = [(info, case) for info, case in table.cases() if info.name != "to_device"]


@pytest.mark.parametrize(("info", "case"), CASES, ids=lambda v: getattr(v, "name", v))
@pytest.mark.parametrize(("dtype", "device"), [(np.float32, "cuda:0"), (np.float16, "cuda:1")])
def test_op_on_gpu(cupy: Any, info: table.OpInfo, case: str, dtype: Any, device: str) -> None:
    """Also on one that is not the current device."""
    if dtype not in info.dtypes:
        dtype = np.float64
    sample = info.sample(case).cast(dtype)
    expected = _run(info, sample.args, sample.kwargs)
    got = _run(info, _to_gpu(sample.args, device), {k: _to_gpu(v, device) for k, v in sample.kwargs.items()})
    for want, have in zip([*expected[0], *expected[1]], [*got[0], *got[1]], strict=True):
        assert (want is None) == (have is None)
        if want is not None:
            assert type(have) is fake_cupy.ndarray
            assert f"cuda:{have.device.id}" == device
            # blocks are cut differently: another order of summation
            limit = 8 * float(np.finfo(dtype).eps) * float(abs(want).max(initial=1))
            np.testing.assert_allclose(have.get(), want, rtol=0, atol=limit, err_msg=info.name)
