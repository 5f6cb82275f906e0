"""Devices: names, and why a GPU cannot be had. No CuPy is needed here; support.gpu.fake_cupy stands in where one is."""

from __future__ import annotations

import sys
import types
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from support.gpu.fake_cupy import installed

import autograd as ag
from autograd import backend

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def packages(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Says which distributions are installed, and what ``import cupy`` gives (None: an ImportError)."""

    def install(names: list[str], cupy: Any = None) -> None:
        found = [types.SimpleNamespace(metadata={"Name": name}) for name in names]
        monkeypatch.setattr("importlib.metadata.distributions", lambda: found)
        monkeypatch.setitem(sys.modules, "cupy", cupy)
        backend._cupy_distributions.cache_clear()

    yield install
    monkeypatch.undo()
    backend._cupy_distributions.cache_clear()


def fake(count: Any, nvrtc: Any = lambda: (12, 9)) -> Any:
    module = types.ModuleType("cupy")
    module.ndarray = type("ndarray", (), {})  # type: ignore[attr-defined]
    module.cuda = types.SimpleNamespace(  # type: ignore[attr-defined]
        runtime=types.SimpleNamespace(getDeviceCount=count),
        nvrtc=types.SimpleNamespace(getVersion=nvrtc),
        cublas=types.SimpleNamespace(setMathMode=lambda handle, mode: None),
    )
    return module


def test_cpu_needs_nothing(packages: Any) -> None:
    packages(["cupy-cuda12x", "cupy-cuda13x"])
    assert ag.resolve_device("cpu") == "cpu"
    assert ag.Tensor(np.ones(2)).device == "cpu"


@pytest.mark.parametrize("name", ["", "cpu:0", "gpu:0", "cuda:", "cuda:x", "cuda:-1", "auto:1", "CUDA", "tpu", "mps"])
def test_unknown_names(name: str) -> None:
    with pytest.raises(ValueError, match=f"device: expected cpu, gpu, cuda, cuda:N or auto; got '{name}'"):
        ag.resolve_device(name)


@pytest.mark.parametrize("name", ["gpu", "cuda", "cuda:0", "cuda:3"])
def test_no_cupy(packages: Any, name: str) -> None:
    packages(["numpy", "swinpy"])
    with pytest.raises(ag.DeviceError) as caught:
        ag.resolve_device(name)
    text = str(caught.value)
    assert text.startswith(f"device '{name}': expected CuPy; CuPy is not installed.")
    assert 'pip install "swinpy[gpu]" (CUDA 12)' in text
    assert 'pip install "swinpy[gpu13]" (CUDA 13)' in text
    assert "--device cpu" in text
    assert isinstance(caught.value, RuntimeError)
    assert not ag.has_gpu()
    assert ag.resolve_device("auto") == "cpu"


def test_cupy_that_does_not_import(packages: Any) -> None:
    packages(["cupy-cuda12x"])
    with pytest.raises(ag.DeviceError, match="CuPy cannot be imported"):
        ag.resolve_device("gpu")


def test_two_cupy_packages(packages: Any) -> None:
    packages(["cupy-cuda13x", "numpy", "cupy-cuda12x"], fake(lambda: 1))
    with pytest.raises(ag.DeviceError) as caught:
        ag.resolve_device("cuda")
    assert "expected one CuPy package; got cupy-cuda12x, cupy-cuda13x. pip uninstall all but one" in str(caught.value)
    assert ag.resolve_device("auto") == "cpu"


def test_packages_that_build_on_cupy_are_none_too_many(packages: Any) -> None:
    packages(["cupy-cuda12x", "cupy-xarray", "cupyx-tools"], fake(lambda: 1))
    assert ag.resolve_device("cuda") == "cuda:0"
    packages(["cupy", "cupy-rocm-7-0"], fake(lambda: 1))
    with pytest.raises(ag.DeviceError, match="got cupy, cupy-rocm-7-0"):
        ag.resolve_device("cuda")


def test_driver_error_is_quoted(packages: Any) -> None:
    def count() -> int:
        raise RuntimeError("cudaErrorInsufficientDriver: CUDA driver version is insufficient for CUDA runtime version")

    packages(["cupy-cuda12x"], fake(count))
    with pytest.raises(ag.DeviceError) as caught:
        ag.resolve_device("gpu")
    assert "the driver says: cudaErrorInsufficientDriver" in str(caught.value)
    assert "nvidia-smi" in str(caught.value)
    assert "--device cpu" in str(caught.value)
    assert ag.resolve_device("auto") == "cpu"


def test_no_device(packages: Any) -> None:
    packages(["cupy-cuda12x"], fake(lambda: 0))
    with pytest.raises(ag.DeviceError, match="the driver reports none"):
        ag.resolve_device("gpu")


def test_no_nvrtc(packages: Any) -> None:
    """CuPy without the [ctk] extra imports and sees the device, and fails at the first kernel."""

    def version() -> None:
        raise RuntimeError("CuPy failed to load libnvrtc.so.12")

    packages(["cupy-cuda12x"], fake(lambda: 1, version))
    with pytest.raises(ag.DeviceError) as caught:
        ag.resolve_device("gpu")
    assert "expected NVRTC" in str(caught.value)
    assert "CuPy failed to load libnvrtc.so.12" in str(caught.value)
    assert 'pip install "swinpy[gpu]"' in str(caught.value)
    assert ag.resolve_device("auto") == "cpu"


def test_no_cublas(packages: Any) -> None:
    """CuPy loads cuBLAS when it is first named."""

    class Cuda(types.SimpleNamespace):
        @property
        def cublas(self) -> Any:
            raise ImportError('Failure finding "libcublas.so.13"')

    cupy = fake(lambda: 1)
    cupy.cuda = Cuda(runtime=cupy.cuda.runtime, nvrtc=cupy.cuda.nvrtc)
    packages(["cupy-cuda13x"], cupy)
    with pytest.raises(ag.DeviceError, match=r"expected cuBLAS, .*libcublas\.so\.13.*swinpy\[gpu13\]"):
        ag.resolve_device("gpu")
    assert ag.resolve_device("auto") == "cpu"


def test_describe_device() -> None:
    assert ag.describe_device("cpu") == "cpu"
    with installed() as cupy:
        wanted = f"cuda:0, stand-in, 80 GiB, CuPy {cupy.__version__}, CUDA 12.9, driver for CUDA 13.1"
        assert ag.describe_device("cuda:0") == wanted


def test_devices_by_number(packages: Any) -> None:
    packages(["cupy-cuda12x"], fake(lambda: 2))
    assert ag.has_gpu()
    assert [ag.resolve_device(d) for d in ("auto", "gpu", "cuda", "cuda:1")] == ["cuda:0", "cuda:0", "cuda:0", "cuda:1"]
    with pytest.raises(ag.DeviceError, match="expected cuda:0 to cuda:1; got 'cuda:2'"):
        ag.resolve_device("cuda:2")


def test_tensor_to_missing_gpu_says_so(packages: Any) -> None:
    packages([])
    with pytest.raises(ag.DeviceError, match="swinpy\\[gpu\\]"):
        ag.Tensor(np.ones(2)).to("gpu")


def test_to_cpu_is_the_same_array() -> None:
    x = np.ones(2)
    assert backend.to_device(x, "cpu") is x


def test_array_module_refuses_what_is_no_array() -> None:
    assert backend.array_module(np.float32(1)) is np
    for x in ([1.0], 1.0, ag.Tensor(np.ones(1))):
        with pytest.raises(TypeError, match="array_module: expected a NumPy or CuPy array; got"):
            backend.array_module(x)
