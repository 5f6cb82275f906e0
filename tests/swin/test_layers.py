"""Convolution layers: their options, what they start with, and that they are the ops."""

from __future__ import annotations

import math

import numpy as np
import pytest

import autograd as ag
from swinpy.nn import Conv2d, ConvTranspose2d


def test_convolution() -> None:
    ag.manual_seed(0)
    layer = Conv2d(3, 5, (3, 2), (2, 1), padding=(1, 0))
    x = np.random.default_rng(0).standard_normal((2, 3, 7, 6)).astype(np.float32)
    want = ag.conv2d(x, layer.weight, layer.bias, stride=(2, 1), padding=(1, 0))
    np.testing.assert_array_equal(layer(ag.Tensor(x)).data, want.data)
    assert want.shape == (2, 5, 4, 5)
    assert sorted(name for name, _ in layer.named_parameters()) == ["bias", "weight"]


def test_convolution_without_bias() -> None:
    layer = Conv2d(3, 5, (1, 1), bias=False)
    assert [name for name, _ in layer.named_parameters()] == ["weight"]
    assert layer(ag.Tensor(np.zeros((1, 3, 4, 4), np.float32))).shape == (1, 5, 4, 4)


def test_transposed_convolution() -> None:
    layer = ConvTranspose2d(4, 6, (2, 2), (2, 2))
    x = np.random.default_rng(0).standard_normal((2, 4, 3, 5)).astype(np.float32)
    want = ag.conv_transpose2d(x, layer.weight, layer.bias, stride=2)
    np.testing.assert_array_equal(layer(ag.Tensor(x)).data, want.data)
    assert want.shape == (2, 6, 6, 10)


@pytest.mark.parametrize(
    ("layer", "fan_in"),
    [(Conv2d(8, 64, (3, 3)), 72), (ConvTranspose2d(16, 64, (2, 2), (2, 2)), 256)],
    ids=["conv", "up"],
)
def test_weights_are_uniform_as_torchs(layer: Conv2d | ConvTranspose2d, fan_in: int) -> None:
    bound = 1 / math.sqrt(fan_in)
    assert layer.bias is not None
    for parameter in (layer.weight, layer.bias):
        assert bound * 0.9 < abs(parameter.data).max() <= bound
