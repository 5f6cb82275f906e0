"""CUDA's patch merging and patch rows, thread by thread: copies, so that every bit is the reference's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.gpu import fake_cupy
from support.gpu.fake_cupy import to_device
from support.gpu.host_cuda.raw_module import SCHEDULES, scheduled

import autograd as ag
from autograd.dtypes import as_dtype
from autograd.kernels import KERNELS, explain, kernel_mode
from autograd.kernels.cuda.launch import counting
from autograd.kernels.patches import reference
from swinpy.data.pixels import normalise

if TYPE_CHECKING:
    from collections.abc import Iterator

patch_merge_bwd, patch_merge_fwd, patch_rows = (
    kernel.reference for kernel in (reference.patch_merge_bwd, reference.patch_merge_fwd, reference.patch_rows)
)
SIZES = st.integers(0, 6)
MEAN, STD = (0.5, 0.4, 0.3), (0.25, 0.2, 0.3)


@pytest.fixture(autouse=True)
def cupy() -> Iterator[Any]:
    with fake_cupy.installed() as module, kernel_mode("cuda"):
        yield module


def _values(shape: Any, dtype: Any) -> Any:
    return np.random.default_rng(0).standard_normal(shape).astype(dtype)


def _images(*shape: int) -> Any:
    return np.random.default_rng(1).integers(0, 256, shape, dtype=np.uint8)


@settings(max_examples=25, deadline=None)
@given(
    batch=st.integers(0, 3),
    height=SIZES,
    width=SIZES,
    channels=st.sampled_from([1, 3, 4, 8, 40]),
    dtype=st.sampled_from(["float32", "float16"]),
)
def test_merging_moves_every_bit(batch: int, height: int, width: int, channels: int, dtype: str) -> None:
    x = _values((batch, height, width, channels), dtype)
    y = patch_merge_fwd(x)
    assert KERNELS["patch_merge_fwd"](to_device(x)).get().tobytes() == y.tobytes()
    g = _values(y.shape, dtype)
    got = KERNELS["patch_merge_bwd"](to_device(g), height, width)
    assert got.shape == x.shape
    assert got.get().tobytes() == patch_merge_bwd(g, height, width).tobytes()


@settings(max_examples=25, deadline=None)
@given(
    batch=st.integers(0, 2),
    height=SIZES,
    width=SIZES,
    patch=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    dtype=st.sampled_from(["float32", "float16"]),
)
def test_rows_of_images(batch: int, height: int, width: int, patch: tuple[int, int], dtype: str) -> None:
    """float32's normalisation is IEEE's on both devices; float16 is its rounding."""
    images = _images(batch, 3, height, width)
    options = (patch, MEAN, STD, np.dtype(dtype))
    got = KERNELS["patch_rows"](to_device(images), *options)
    assert got.get().tobytes() == patch_rows(images, *options).tobytes()
    floats = _values((batch, 3, height, width), dtype)
    assert KERNELS["patch_rows"](to_device(floats), patch).get().tobytes() == patch_rows(floats, patch).tobytes()


def test_rows_are_what_the_loader_and_a_convolution_see() -> None:
    images = _images(2, 3, 8, 12)
    floats = normalise(images, MEAN, STD)
    np.testing.assert_array_equal(patch_rows(images, (4, 4), MEAN, STD, "float32"), patch_rows(floats, (4, 4)))
    weight = np.random.default_rng(2).standard_normal((5, 3, 4, 4)).astype(np.float32)
    with kernel_mode("auto"):
        got = ag.matmul(ag.patch_rows(images, 4, MEAN, STD), weight.reshape(5, 48).T)
        want = ag.conv2d(floats, weight, stride=4).transpose(0, 2, 3, 1).reshape(12, 5)
    np.testing.assert_allclose(got.numpy(), want.numpy(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_any_order_of_threads(dtype: str) -> None:
    kind = as_dtype(dtype)
    x, images = _values((2, 5, 7, 8), kind), _images(2, 3, 9, 10)
    y, rows = patch_merge_fwd(x), patch_rows(images, (2, 4), MEAN, STD, kind)
    gx = patch_merge_bwd(y, 5, 7)
    for name in SCHEDULES:
        with scheduled(name):
            assert KERNELS["patch_merge_fwd"](to_device(x)).get().tobytes() == y.tobytes()
            assert KERNELS["patch_merge_bwd"](to_device(y), 5, 7).get().tobytes() == gx.tobytes()
            got = KERNELS["patch_rows"](to_device(images), (2, 4), MEAN, STD, kind)
            assert got.get().tobytes() == rows.tobytes()
    np.testing.assert_array_equal(gx, x)


def test_other_layouts_are_copied_and_counted(cupy: Any) -> None:
    x = _values((1, 4, 4, 4), "float32")
    images = _images(1, 3, 4, 4)
    with counting() as counts:
        view = cupy.asarray(np.ascontiguousarray(x.transpose(0, 2, 1, 3))).transpose(0, 2, 1, 3)
        assert KERNELS["patch_merge_fwd"](view).get().tobytes() == patch_merge_fwd(x).tobytes()
        assert KERNELS["patch_merge_bwd"](view, 8, 7).get().tobytes() == patch_merge_bwd(x, 8, 7).tobytes()
        channels_last = cupy.asarray(np.ascontiguousarray(images.transpose(0, 2, 3, 1))).transpose(0, 3, 1, 2)
        options = ((2, 2), MEAN, STD, "float32")
        assert KERNELS["patch_rows"](channels_last, *options).get().tobytes() == (
            patch_rows(images, *options).tobytes()
        )
    assert counts.copies == 3


def test_empty_maps_launch_nothing(cupy: Any) -> None:
    with counting() as counts:
        assert KERNELS["patch_merge_fwd"](cupy.zeros((0, 3, 5, 2), np.float32)).shape == (0, 2, 3, 8)
        assert KERNELS["patch_merge_bwd"](cupy.zeros((0, 2, 3, 8), np.float32), 3, 5).shape == (0, 3, 5, 2)
        assert KERNELS["patch_rows"](cupy.zeros((0, 3, 4, 4), np.float32), (2, 2)).shape == (0, 12)
    assert counts.launches == {}


def test_shapes_that_do_not_fit_are_refused(cupy: Any) -> None:
    with kernel_mode("auto"):
        assert "expected a map (B, H, W, C); got shape (3, 4, 4)" in explain(
            "patch_merge_fwd", cupy.zeros((3, 4, 4), "f4")
        )
        for shape in ((1, 2, 2, 16), (1, 5, 5, 15), (5, 5, 16)):  # memory behind the gradient's, or never written
            told = explain("patch_merge_bwd", cupy.zeros(shape, "f4"), 9, 9)
            assert f"expected a gradient (B, 5, 5, 4C) of a map 9x9; got shape {shape}" in told
        images = cupy.zeros((1, 3, 4, 4), "uint8")
        for mean, std in (((0.5,), (0.2,)), (MEAN, None), (None, STD), (MEAN[:2], STD)):
            assert "mean and std of the 3 channels" in explain("patch_rows", images, (2, 2), mean, std, "float32")
        assert "expected images (B, C, H, W)" in explain("patch_rows", images[0], (2, 2), MEAN, STD, "float32")


@pytest.mark.parametrize(
    ("images", "dtype", "reason"),
    [
        ("float64", None, "rows of float32, float16 or bfloat16; got float64"),
        ("uint8", None, "rows of float32, float16 or bfloat16; got uint8"),
        ("float32", "float16", "takes float16 images here; got float32"),
    ],
)
def test_refusals(cupy: Any, images: str, dtype: Any, reason: str) -> None:
    with kernel_mode("auto"):
        assert reason in explain("patch_rows", cupy.zeros((1, 3, 4, 4), images), (2, 2), dtype=dtype)
