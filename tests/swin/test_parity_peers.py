"""Faults of other libraries that are not reproduced here, by the smallest case of each (docs/differences.md).

Each test says what the library gives and what is right; it fails when the library mends the fault.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from support.swin.parity import import_or_skip
from support.swin.tv import load_tv

import autograd as ag
from swinpy import SwinConfig, SwinTransformer

pytestmark = pytest.mark.parity

torch, torchvision_swin = import_or_skip(load_tv)

LN_100 = math.log(100)


def test_the_official_clamp_of_logit_scales_is_a_float32() -> None:
    """``torch.clamp(logit_scale, max=torch.log(torch.tensor(1. / 0.01)))``, whatever the model's dtype."""
    largest = torch.clamp(torch.tensor(5.0, dtype=torch.float64), max=torch.log(torch.tensor(1.0 / 0.01)))
    assert largest.dtype == torch.float64
    assert abs(largest.item() - LN_100) == pytest.approx(6.395e-8, rel=1e-3)
    scale = ag.exp(ag.clip(np.array(5.0), max=LN_100))
    assert abs(scale.item() - 100) < 1e-12


def test_the_official_rates_of_drop_path_are_float32() -> None:
    """``torch.linspace(0, drop_path_rate, sum(depths))``; transformers has the same line."""
    depths, rate = (2, 2, 6, 2), 0.2
    exact = [rate * i / 11 for i in range(12)]
    theirs = torch.linspace(0, rate, sum(depths)).tolist()
    assert max(abs(a - b) for a, b in zip(theirs, exact, strict=True)) == pytest.approx(1.0295e-8, rel=1e-3)
    stages = SwinConfig(depths=depths, drop_path_rate=rate).drop_path()
    assert [r for stage in stages for r in stage] == exact


def test_torchvision_divides_by_zero_with_one_block() -> None:
    with pytest.raises(ZeroDivisionError):
        torchvision_swin.SwinTransformer([4, 4], 8, [1], [1], [2, 2])
    one = SwinConfig(img_size=16, embed_dim=8, depths=(1,), num_heads=(1,), window_size=2, drop_path_rate=0.2)
    assert one.drop_path() == [[0.0]]
    assert SwinTransformer(one)(np.zeros((1, 3, 16, 16), np.float32)).shape == (1, 1000)


def test_torch_s_float32_gelu_at_minus_3() -> None:
    """erf by a float32 polynomial, of which 1 is left over: the last 10 bits are wrong. Here it is the last 9."""
    exact = -3 * math.erfc(3 / math.sqrt(2)) / 2
    row = np.full(16, -3.0, np.float32)
    theirs = abs(torch.nn.functional.gelu(torch.tensor(row)).double().numpy() - exact)
    np.testing.assert_allclose(theirs, 5.309e-7, rtol=1e-3)
    assert abs(torch.nn.functional.gelu(torch.tensor(row[:1])).item() - exact) < 1e-8  # one element alone
    assert abs(ag.gelu(row).data.astype(float) - exact).max() < 2e-7


def test_torch_s_float32_gelu_of_infinity() -> None:
    row = np.full(16, np.inf, np.float32)
    assert torch.isnan(torch.nn.functional.gelu(torch.tensor(row))).all()
    assert torch.isinf(torch.nn.functional.gelu(torch.tensor(row).double())).all()
    np.testing.assert_array_equal(ag.gelu(row).data, row)


@pytest.mark.parametrize(("x", "dtype"), [(3.4e38, "float32"), (1e8, "float32"), (1e308, "float64")])
def test_torch_s_gradient_of_logsumexp_far_from_zero(x: float, dtype: str) -> None:
    """exp(x - logsumexp(x)), which has lost log 2: the probabilities add up to 2."""
    row: Any = np.array([x, x], dtype)
    theirs = torch.tensor(row, requires_grad=True)
    torch.logsumexp(theirs, 0).backward()
    assert theirs.grad.tolist() == [1, 1]
    ours = ag.Tensor(row, requires_grad=True)
    ag.logsumexp(ours).backward()
    assert ours.grad is not None
    assert ours.grad.tolist() == [0.5, 0.5]


def test_torch_rounds_twice_on_the_way_to_float16() -> None:
    """From float64 by way of float32, where what was above the middle becomes the middle."""
    x = 1 + 2**-11 + 2**-40
    assert torch.tensor(x, dtype=torch.float64).half().item() == 1
    assert ag.astype(np.array(x), np.float16).item() == 1 + 2**-10
