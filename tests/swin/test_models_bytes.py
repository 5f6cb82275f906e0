"""Models on 8-bit images that they normalise themselves."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from support import tolerances
from support.gpu import fake_cupy
from support.swin.models import tiny

import autograd as ag
from autograd.kernels.cuda.launch import counting

MEAN, STD = (0.5, 0.4, 0.3), (0.25, 0.2, 0.3)


def _images(height: int, width: int) -> tuple[Any, Any]:
    """Bytes, and what they are after normalisation, in float64."""
    raw = np.random.default_rng(0).integers(0, 256, (2, 3, height, width), dtype=np.uint8)
    shape = (1, 3, 1, 1)
    return raw, (raw / 255 - np.reshape(MEAN, shape)) / np.reshape(STD, shape)


@pytest.mark.parametrize("size", [(20, 20), (13, 22)])
@pytest.mark.parametrize("changes", [{}, {"patch_rule": "crop"}, {"patch_size": 3, "patch_norm": False}])
def test_bytes_are_their_normalised_images(size: tuple[int, int], changes: dict[str, Any]) -> None:
    model = tiny(**changes)
    raw, normal = _images(*size)
    grads = []
    for x, normalize in ((raw, (MEAN, STD)), (normal, None)):
        model.zero_grad()
        out = model(x, normalize=normalize)
        ag.sum(out * out).backward()
        grads.append([out.numpy(), *(p.grad for p in model.parameters())])
    for got, want in zip(*grads, strict=True):
        np.testing.assert_allclose(got, want, rtol=0, atol=tolerances.COMPOSITE * max(1.0, float(abs(want).max())))
    for got, want in zip(model.features(raw, normalize=(MEAN, STD)), model.features(normal), strict=True):
        np.testing.assert_allclose(got.numpy(), want.numpy(), rtol=0, atol=tolerances.COMPOSITE * 100)


def test_on_a_gpu_one_launch_makes_the_rows() -> None:
    model = tiny("float32")
    raw, normal = _images(9, 8)
    want = model.patch_embed(ag.Tensor(normal.astype(np.float32))).numpy()
    with fake_cupy.installed() as cupy, counting() as counts:
        got = model.to("gpu").patch_embed(ag.Tensor(cupy.asarray(raw)), (MEAN, STD)).numpy()
    assert counts.launches["patch_rows"] == 1
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-5)


def test_the_other_kind_of_images_is_refused() -> None:
    raw, normal = _images(8, 8)
    model = tiny()
    with pytest.raises(TypeError, match=r"got uint8. Pass normalize=\(mean, std\)"):
        model(raw)
    with pytest.raises(TypeError, match=r"expected images of uint8, to normalize; got float64. Leave normalize out"):
        model(normal, normalize=(MEAN, STD))
    with pytest.raises(ValueError, match="patch_rows: expected 3 means and positive stds"):
        model(raw, normalize=(MEAN[:1], STD))
