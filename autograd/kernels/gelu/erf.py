"""The error function by rational approximations, in blocks that fit the cache.

float64: the piecewise approximations of Sun's fdlibm (s_erf.c), below 1 ulp there and below 2 here.
float32 (and float16, computed in float32): one odd rational function on [-4, 4], error below 3e-7.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from autograd.backend import array_module
from autograd.kernels.blocks import run_blocks

if TYPE_CHECKING:
    from autograd.backend import Array

__all__ = ["erf", "erf32_into", "erf_block"]

# float32: erf(t) = t P(t^2) / Q(t^2) on [-4, 4], highest power first
_P32 = (
    -2.72614225801306e-10,
    2.77068142495902e-08,
    -2.10102402082508e-06,
    -5.69250639462346e-05,
    -7.34990630326855e-04,
    -2.95459980854025e-03,
    -1.60960333262415e-02,
)
_Q32 = (
    -1.45660718464996e-05,
    -2.13374055278905e-04,
    -1.68282697438203e-03,
    -7.37332916720468e-03,
    -1.42647390514189e-02,
)

# float64, fdlibm; highest power first. |x| < 0.84375: x + x P(x^2)/Q(x^2)
_PP = (
    -2.37630166566501626084e-05,
    -5.77027029648944159157e-03,
    -2.84817495755985104766e-02,
    -3.25042107247001499370e-01,
    1.28379167095512558561e-01,
)
_QQ = (
    -3.96022827877536812320e-06,
    1.32494738004321644526e-04,
    5.08130628187576562776e-03,
    6.50222499887672944485e-02,
    3.97917223959155352819e-01,
    1.0,
)
# 0.84375 <= |x| < 1.25: erx + P(|x| - 1)/Q(|x| - 1)
_ERX = 8.45062911510467529297e-01
_PA = (
    -2.16637559486879084300e-03,
    3.54783043256182359371e-02,
    -1.10894694282396677476e-01,
    3.18346619901161753674e-01,
    -3.72207876035701323847e-01,
    4.14856118683748331666e-01,
    -2.36211856075265944077e-03,
)
_QA = (
    1.19844998467991074170e-02,
    1.36370839120290507362e-02,
    1.26171219808761642112e-01,
    7.18286544141962662868e-02,
    5.40397917702171048937e-01,
    1.06420880400844228286e-01,
    1.0,
)
# 1.25 <= |x| < 1/0.35: 1 - exp(-x^2 - 0.5625 + R(1/x^2)/S(1/x^2))/|x|
_RA = (
    -9.81432934416914548592e00,
    -8.12874355063065934246e01,
    -1.84605092906711035994e02,
    -1.62396669462573470355e02,
    -6.23753324503260060396e01,
    -1.05586262253232909814e01,
    -6.93858572707181764372e-01,
    -9.86494403484714822705e-03,
)
_SA = (
    -6.04244152148580987438e-02,
    6.57024977031928170135e00,
    1.08635005541779435134e02,
    4.29008140027567833386e02,
    6.45387271733267880336e02,
    4.34565877475229228821e02,
    1.37657754143519042600e02,
    1.96512716674392571292e01,
    1.0,
)
# 1/0.35 <= |x| < 6: the same form
_RB = (
    -4.83519191608651397019e02,
    -1.02509513161107724954e03,
    -6.37566443368389627722e02,
    -1.60636384855821916062e02,
    -1.77579549177547519889e01,
    -7.99283237680523006574e-01,
    -9.86494292470009928597e-03,
)
_SB = (
    -2.24409524465858183362e01,
    4.74528541206955367215e02,
    2.55305040643316442583e03,
    3.19985821950859553908e03,
    1.53672958608443695994e03,
    3.25792512996573918826e02,
    3.03380607434824582924e01,
    1.0,
)


def _horner(x: Array, coefficients: tuple[float, ...]) -> Array:
    out = x * coefficients[0]
    out += coefficients[1]
    for c in coefficients[2:]:
        out *= x
        out += c
    return out


def erf32_into(t: Array, out: Array) -> Array:
    """``out = erf(t)`` in float32; ``t`` is clipped in place. Both float32, same shape."""
    xp = array_module(t)
    xp.clip(t, -4.0, 4.0, out=t)
    s = t * t
    numerator = _horner(s, _P32)
    numerator *= t
    return xp.divide(numerator, _horner(s, _Q32), out=out)


def _tail(a: Array, r: tuple[float, ...], s: tuple[float, ...], xp: Any) -> Array:
    """1 - erf(a) for a >= 1.25."""
    inverse = 1 / (a * a)
    # a rounded to its upper 32 bits: head^2 is exact, so that exp(-a^2) keeps its last digits
    head = (a.view(xp.uint64) & xp.uint64(0xFFFFFFFF00000000)).view(xp.float64)
    exponent = (head - a) * (head + a) + _horner(inverse, r) / _horner(inverse, s)
    return xp.exp(-head * head - 0.5625) * xp.exp(exponent) / a


def _erf64_block(x: Array) -> Array:
    """erf of one contiguous float64 block; each range of |x| is gathered, computed and scattered."""
    xp = array_module(x)
    a = abs(x).reshape(-1)
    out = xp.where(a >= 6, xp.float64(1.0), a)  # NaN stays NaN
    for low, high in ((0.0, 0.84375), (0.84375, 1.25), (1.25, 1 / 0.35), (1 / 0.35, 6.0)):
        where = xp.flatnonzero((a >= low) & (a < high))
        if where.size == 0:
            continue
        v = a[where]
        if low == 0.0:
            s = v * v
            out[where] = v + v * (_horner(s, _PP) / _horner(s, _QQ))
        elif low == 0.84375:
            s = v - 1
            out[where] = _ERX + _horner(s, _PA) / _horner(s, _QA)
        else:
            out[where] = 1 - (_tail(v, _RA, _SA, xp) if low == 1.25 else _tail(v, _RB, _SB, xp))
    return xp.copysign(out.reshape(x.shape), x)


def erf_block(x: Array) -> Array:
    """erf of one contiguous block, float32 or float64, as a new array."""
    if x.dtype == np.float64:
        return _erf64_block(x)
    return erf32_into(x.copy(), array_module(x).empty_like(x))


def erf(x: Array) -> Array:
    """erf(x), C-ordered, same shape and dtype.

    Args:
        x: float16, float32 or float64, any layout.
    """
    xp = array_module(x)
    flat = x.reshape(-1)
    out = xp.empty(flat.shape, x.dtype)
    wide = np.float64 if x.dtype == np.float64 else np.float32

    def compute(block: slice) -> None:
        out[block] = erf_block(xp.ascontiguousarray(flat[block], dtype=wide))

    run_blocks(compute, flat.size, 8, xp)
    return out.reshape(x.shape)
