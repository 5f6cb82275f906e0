"""The checks of test_gpu.py themselves, proved on the stand-in for CuPy at tiny sizes: they pass, and they notice."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from support import skips
from support.gpu import checks as gpu_checks
from support.gpu import fake_cupy
from support.gpu.rows import GPU_ROWS
from support.rows.table import KERNEL_ROWS
from support.swin.models import ONE_STAGE

import autograd as ag
from autograd.kernels import KERNELS, Implementation
from autograd.kernels.cuda.launch import counting

if TYPE_CHECKING:
    from collections.abc import Iterator

MODEL, MODEL_V2 = "swin_tiny_patch4_window7_224", "swinv2_tiny_window8_256"
CUDA_KERNELS = sorted(name for name in KERNEL_ROWS if KERNELS[name].cuda is not None)

DETECTION = (
    *("binary_cross_entropy_with_logits", "cross_entropy", "giou_loss", "l1_loss", "sigmoid_focal_loss"),
    *("smooth_l1_loss", "interpolate", "adaptive_avg_pool2d", "max_pool2d", "pixel_shuffle", "dropout2d"),
    *("batch_norm", "batch_norm_eval", "group_norm"),
)


@pytest.fixture
def cupy() -> Iterator[Any]:
    with fake_cupy.installed() as module:
        yield module


@pytest.mark.parametrize("name", CUDA_KERNELS)
def test_kernel(cupy: Any, name: str) -> None:
    gpu_checks.check_row(cupy, name, np.dtype(np.float16), variants=3)
    gpu_checks.repeats_bitwise(cupy, name, np.dtype(np.float16), times=2)


@pytest.mark.parametrize("name", CUDA_KERNELS)
def test_kernel_in_bfloat16(cupy: Any, name: str) -> None:
    gpu_checks.check_row(cupy, name, gpu_checks.dtype_on(cupy, "bfloat16"), variants=3)


def test_a_cupy_without_products_of_bfloat16_is_a_reason_to_skip(cupy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ml_dtypes", reason=skips.NO_ML_DTYPES)

    def refuses(*_: Any) -> Any:
        raise TypeError("bfloat16")

    monkeypatch.setattr(fake_cupy.ndarray, "__matmul__", refuses)
    with pytest.raises(pytest.skip.Exception, match=skips.NO_CUPY_BFLOAT16):
        gpu_checks.dtype_on(cupy, "bfloat16")
    assert gpu_checks.dtype_on(cupy, "float16") == np.float16


@pytest.mark.parametrize("name", GPU_ROWS)
def test_kernel_at_real_sizes(cupy: Any, name: str) -> None:
    gpu_checks.check_row(cupy, name, np.dtype(np.float16), variants=2)


def test_rows_at_real_sizes_reach_the_tensor_cores(cupy: Any) -> None:
    reached = set()
    for name in GPU_ROWS:
        with counting() as counts:
            gpu_checks.repeats_bitwise(cupy, name, np.dtype(np.float16), times=1)
        reached |= counts.launches.keys()
    parts = ("small_fwd", "small_bwd", "large_fwd", "large_bwd_keys", "large_bwd_queries")
    assert {f"window_attention_{part}" for part in parts} <= reached


@pytest.mark.parametrize("check", gpu_checks.OP_CHECKS)
@pytest.mark.parametrize("name", ["gelu", "linear", "layer_norm"])
def test_op(cupy: Any, check: str, name: str) -> None:
    gpu_checks.check_op(check, name, next(iter(gpu_checks.find(name).samples)))


@pytest.mark.parametrize("name", DETECTION)
def test_ops_of_detection(cupy: Any, name: str) -> None:
    """Every case, forward and backward, on arrays that only CuPy can take."""
    for case in gpu_checks.find(name).samples:
        gpu_checks.check_op("repeatable", name, case)
        gpu_checks.check_op("forward", name, case)


@pytest.mark.parametrize("autocast", [None, "float16", "bfloat16"])
def test_model(cupy: Any, autocast: str | None) -> None:
    gpu_checks.check_model(cupy, MODEL, batch=1, autocast=autocast, **ONE_STAGE)


@pytest.mark.parametrize("model", [MODEL, MODEL_V2])
@pytest.mark.parametrize("autocast", [None, "float16"])
def test_train_step_copies_nothing(cupy: Any, model: str, autocast: str | None) -> None:
    two_stages = {**ONE_STAGE, "img_size": 20, "depths": (1, 1), "num_heads": (2, 4)}  # maps of 10 and 5, windows of 3
    counts, _ = gpu_checks.train_steps(cupy, model, batch=2, steps=1, autocast=autocast, **two_stages)
    assert counts.copies == 0
    assert {"position_bias_fwd", "position_bias_bwd"} <= counts.launches.keys()


def test_train_step_repeats(cupy: Any) -> None:
    counts, bits = gpu_checks.train_steps(cupy, MODEL, batch=1, steps=2, **ONE_STAGE)
    assert counts.copies == 0
    assert sum(counts.launches.values()) > 0
    assert gpu_checks.train_steps(cupy, MODEL, batch=1, steps=2, **ONE_STAGE)[1] == bits
    assert gpu_checks.train_steps(cupy, MODEL, batch=1, steps=1, **ONE_STAGE)[1] != bits


# ---- they notice


def _plant(monkeypatch: pytest.MonkeyPatch, change: Any) -> None:
    row = KERNELS["gelu_fwd"]
    assert row.cuda is not None
    right = row.cuda.run
    wrong = Implementation(lambda x: change(right(x)), row.cuda.can_run)
    monkeypatch.setattr(row, "cuda", wrong)


def test_a_kernel_that_is_a_little_wrong_is_noticed(cupy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    _plant(monkeypatch, lambda y: y * y.dtype.type(1.004))
    with pytest.raises(AssertionError, match="gelu_fwd 0 in float16: off by"):
        gpu_checks.check_row(cupy, "gelu_fwd", np.dtype(np.float16), variants=3)
    with pytest.raises(AssertionError, match="off by"):
        gpu_checks.check_op("forward_low", "gelu", next(iter(gpu_checks.find("gelu").samples)))


def test_a_kernel_that_changes_its_mind_is_noticed(cupy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = iter(range(100))
    _plant(monkeypatch, lambda y: y * y.dtype.type(1 + 0.001 * (next(calls) == 3)))
    with pytest.raises(AssertionError, match="gelu_fwd: run 3 differs"):
        gpu_checks.repeats_bitwise(cupy, "gelu_fwd", np.dtype(np.float16), times=5)


def test_without_a_gpu_they_are_skipped() -> None:
    with fake_cupy.installed(devices=0), pytest.raises(pytest.skip.Exception, match="no CUDA device"):
        gpu_checks.real_cupy()
    with fake_cupy.installed():
        assert ag.has_gpu()
