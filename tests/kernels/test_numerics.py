"""What decides the last bits: everything that does is named, and shows when it changes."""

import json
import os
import subprocess
import sys
from importlib.metadata import version

import numpy as np
import pytest
from support import skips
from support.gpu.fake_cupy import installed
from support.implementations import needs_numba

from autograd.kernels import kernel_mode, numerics
from autograd.kernels import numerics as _function
from autograd.kernels.blas import openblas

module = sys.modules[_function.__module__]
needs_openblas = pytest.mark.skipif(openblas() is None, reason=skips.NO_OPENBLAS)


def test_is_plain_and_stable():
    found = numerics()
    assert found == json.loads(json.dumps(found)) == numerics()
    assert found["numpy"] == np.__version__
    assert found.keys() == {"numpy", "libc", "blas", "blas_core", "blas_threads", "simd", "kernels"}
    assert all(type(value) is str and value for value in found.values())


@needs_numba
def test_names_what_compiles_kernels(monkeypatch):
    found = numerics()["kernels"]
    assert found.startswith(f"auto, Numba {version('numba')}, llvmlite {version('llvmlite')}, ")
    monkeypatch.setenv("NUMBA_CPU_NAME", "generic")
    assert numerics()["kernels"] == f"{found}, NUMBA_CPU_NAME=generic"


def test_names_the_lack_of_numba_and_the_mode(monkeypatch):
    monkeypatch.setattr(module, "is_available", lambda: "not installed")
    assert numerics()["kernels"] == "auto, without Numba"
    with kernel_mode("reference"):
        assert numerics()["kernels"] == "reference"


def test_threads_of_a_blas_that_cannot_be_held(monkeypatch):
    monkeypatch.setattr(module, "blas_is_single", lambda: False)
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert numerics()["blas_threads"] == "3"
    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.setattr(module, "cores", lambda: 7)
    assert numerics()["blas_threads"] == "those of 7 cores"


def test_without_openblas(monkeypatch):
    monkeypatch.setattr(module, "openblas", lambda: None)
    monkeypatch.setattr(np, "show_config", lambda **_: None)
    monkeypatch.delenv("OPENBLAS_CORETYPE", raising=False)
    found = numerics()
    assert (found["blas"], found["blas_core"], found["simd"]) == ("unknown unknown", "unknown", "unknown")
    monkeypatch.setenv("OPENBLAS_CORETYPE", "Prescott")
    assert numerics()["blas_core"] == "Prescott"


def test_a_gpu_is_named_but_not_its_number():
    with installed(devices=2) as cupy:
        found = numerics("cuda:1")["gpu"]
        assert found == numerics("cuda:0")["gpu"]
        assert f"CuPy {cupy.__version__}" in found
        assert "driver" in found


@needs_openblas
@pytest.mark.skipif(sys.platform != "linux", reason="other names of processors")
def test_of_another_process():
    """BLAS's threads are no difference, because it is held to one; its tuning is."""
    code = "import json; from autograd.kernels import numerics; print(json.dumps(numerics()))"
    plain = {k: v for k, v in os.environ.items() if not k.startswith(("OPENBLAS", "OMP"))}

    def found(**settings):
        run = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, env={**plain, **settings})
        return json.loads(run.stdout)

    assert found() == found(OPENBLAS_NUM_THREADS="1", OMP_NUM_THREADS="3")
    tuned = found(OPENBLAS_CORETYPE="Prescott", OPENBLAS_L2_SIZE="512")
    assert tuned["blas_core"].endswith(", OPENBLAS_L2_SIZE=512")
    assert tuned["blas_core"].partition(",")[0] != found()["blas_core"]  # Prescott's go by the name Katmai
