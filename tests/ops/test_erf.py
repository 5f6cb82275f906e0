"""The error function: 2 ulp in float64, 1e-6 in float32, and the special values."""

import math
from decimal import Decimal, localcontext

import numpy as np
import pytest
import scipy.special
from support import tolerances

import autograd as ag
from autograd.kernels.gelu.erf import erf

# Where the pieces of the float64 approximation meet, and where the result becomes 1.
SEAMS = (0.84375, 1.25, 1 / 0.35, 6.0)
TINY = np.finfo(np.float64).smallest_subnormal


def _exact(x):
    """erf(x) in 60 digits by its Taylor series, rounded to float64; |x| up to about 6."""
    with localcontext() as context:
        context.prec = 90
        t = Decimal(float(x))
        term = total = t
        n = 0
        while term and abs(term) > Decimal(10) ** -85 * max(abs(total), Decimal(10) ** -300):
            n += 1
            term = -term * t * t / n
            total += term / (2 * n + 1)
        pi = Decimal("3.14159265358979323846264338327950288419716939937510582097494459230781640628620899862803482534")
        return float(2 * total / pi.sqrt())


def _ulps(got, want):
    return np.abs(got - want) / np.spacing(np.abs(want))


def test_float64_on_a_grid():
    """Against SciPy, itself good to 1 ulp: so 3 apart at the most, and 2 against exact values where more than 1."""
    x = np.concatenate([np.linspace(-6.5, 6.5, 200_001), np.logspace(-300, 1, 20_001), -np.logspace(-20, 1, 5001)])
    got = erf(x)
    ulps = _ulps(got, scipy.special.erf(x))
    assert ulps.max() <= tolerances.ERF64_ULPS + 1
    for i in np.argsort(ulps)[-200:]:
        assert _ulps(got[i], _exact(x[i])) <= tolerances.ERF64_ULPS, x[i]


@pytest.mark.parametrize("seam", SEAMS)
def test_float64_at_the_seams(seam):
    near = seam + np.arange(-40, 41) * np.spacing(seam)
    for sign in (1, -1):
        for x, y in zip(sign * near, erf(sign * near), strict=True):
            assert _ulps(y, _exact(x)) <= tolerances.ERF64_ULPS, x


def test_float64_at_random_points():
    x = np.random.default_rng(3).uniform(-6, 6, 500)
    for a, b in zip(x, erf(x), strict=True):
        assert _ulps(b, _exact(a)) <= tolerances.ERF64_ULPS, a


def test_special_values():
    x = np.array([0.0, -0.0, np.inf, -np.inf, np.nan, 6.0, -7.0, 1e308])
    got = erf(x)
    np.testing.assert_array_equal(got, [0.0, -0.0, 1.0, -1.0, np.nan, 1.0, -1.0, 1.0])
    np.testing.assert_array_equal(np.signbit(got[:2]), [False, True])


def test_tiny_and_subnormal():
    """Next to 0, erf(x) is 2 x / sqrt(pi), also where that is subnormal: to an ulp of the subnormals."""
    x = np.array([1e-300, 2.5e-308, 1e-310, TINY, 5 * TINY, -TINY])
    want = np.array([math.erf(v) for v in x])
    assert (np.abs(erf(x) - want) <= 2 * np.spacing(np.abs(want))).all()


def test_is_odd_and_rises():
    x = np.linspace(0, 6.5, 50_001)
    np.testing.assert_array_equal(erf(-x), -erf(x))
    assert (np.diff(erf(x)) >= -2 * np.spacing(1.0)).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_low_precision(dtype):
    x = np.linspace(-8, 8, 100_001).astype(dtype)
    want = scipy.special.erf(x.astype(np.float64))
    # a float16 result is rounded once more, by half an ulp of numbers up to 1
    rounding = np.finfo(np.float16).eps / 2 if dtype == np.float16 else 0
    assert erf(x).dtype == dtype
    assert np.abs(erf(x) - want).max() <= tolerances.ERF32 + rounding
    np.testing.assert_array_equal(erf(np.array([np.inf, -np.inf, np.nan, 0], dtype)), [1, -1, np.nan, 0])


def test_shapes_and_layouts():
    x = np.random.default_rng(0).standard_normal((7, 8, 9))
    for odd in (x, x.T, x[::2, ::-1], np.asfortranarray(x), x[0, 0, 0:1], x[:0], np.asarray(x[0, 0, 0])):
        got = erf(odd)
        assert got.shape == odd.shape
        np.testing.assert_array_equal(got, erf(odd.copy().reshape(-1)).reshape(odd.shape))


def test_more_than_one_piece():
    x = np.random.default_rng(1).standard_normal(50_000)
    np.testing.assert_array_equal(erf(x)[20_000:20_100], erf(x[20_000:20_100]))
    assert ag.erf(x).shape == (50_000,)
