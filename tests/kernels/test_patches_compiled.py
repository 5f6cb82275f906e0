"""Compiled patches: the reference's bits, for maps that are and are not whole patches."""

import numpy as np
import pytest
from support.implementations import needs_numba

from autograd.kernels import KERNELS, kernel_mode

pytestmark = needs_numba

SHAPES = [(2, 3, 8, 8), (1, 2, 5, 7), (2, 1, 1, 1), (0, 3, 4, 4)]


def _same(name, *args):
    with kernel_mode("cpu"):
        got = KERNELS[name](*args)
    want = KERNELS[name].reference(*args)
    assert got.dtype == want.dtype
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", SHAPES)
def test_merging_and_back(shape, dtype):
    rng, (batch, channels, h, w) = np.random.default_rng(0), shape
    _same("patch_merge_fwd", rng.standard_normal((batch, h, w, channels)).astype(dtype))
    g = rng.standard_normal((batch, (h + 1) // 2, (w + 1) // 2, 4 * channels)).astype(dtype)
    _same("patch_merge_bwd", g, h, w)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("patch", [(2, 2), (4, 3), (1, 1)])
@pytest.mark.parametrize("shape", SHAPES)
def test_rows_of_patches(shape, patch, dtype):
    """Of floats as they are, and of bytes normalised."""
    rng, channels = np.random.default_rng(0), shape[1]
    _same("patch_rows", rng.standard_normal(shape).astype(dtype), patch)
    mean, std = [0.4, 0.5, 0.6][:channels], [0.2, 0.3, 0.1][:channels]
    _same("patch_rows", rng.integers(0, 256, shape).astype(np.uint8), patch, mean, std, dtype)
