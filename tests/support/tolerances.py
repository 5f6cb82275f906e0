"""Every tolerance of the tests, each with its derivation. None is ever widened to make a test pass.

Unless said otherwise a tolerance is relative to the largest magnitude among what is compared and what it is made of
(operands for an output, output gradients for a gradient): that is what rounding is relative to where terms cancel.
"""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = [
    "ADJOINT",
    "ATTENTION32",
    "ATTENTION32_COSINE",
    "BICUBIC",
    "COMPOSITE",
    "COMPOSITE_COSINE",
    "ELEMENTWISE_ULPS",
    "ERF32",
    "ERF64_ULPS",
    "ERROR_DRAWS",
    "ERROR_SHARE",
    "FLOAT16_COSINE",
    "FLOAT16_GRADIENTS",
    "FLOAT16_MODEL",
    "FORWARD",
    "GOLDEN",
    "LAYER",
    "LEAK",
    "LINEARITY",
    "LOW_FACTOR",
    "ONE32",
    "PARITY",
    "PARITY32",
    "PARITY32_COSINE",
    "PARITY_IDLE",
    "ROUNDINGS",
    "SPLINE",
    "spacing",
]

EPS = float(np.finfo(np.float64).eps)

# Forward in float64 against a float64 reference. Samples sum at most about 100 terms: each side errs by at most
# 100 * eps / 2 of the largest term, and a few ulp in exp, log or a division on the way.
FORWARD = 128 * EPS

# Elementwise functions, relative to each element: libm is good to 1 ulp, ours and the reference's formulas each make up
# to three roundings on the way.
ELEMENTWISE_ULPS = 8

# A fused op against its composite, outputs and gradients: two chains of up to ten ops over 100 terms, in another order.
COMPOSITE = 1e-12

# <A x, g> = <x, A* g>: both sides are sums of the same products, relative to the sum of their magnitudes.
ADJOINT = 64 * EPS

# vjp(a g1 + b g2) = a vjp(g1) + b vjp(g2): as FORWARD for three vjps, relative to the largest term of the sum.
LINEARITY = 4 * FORWARD

# A layer and its gradients, in eps of the dtype relative to the largest value: sums of up to 300 products, each side
# erring by at most 300 / 2 of the largest term, and a few roundings of a GELU between.
LAYER = 200

# Low precision: err(op) <= LOW_FACTOR * err(naive in that precision) + 1 ulp of the largest output (DESIGN.md).
LOW_FACTOR = 2

# The same for whole models in float32. Rounding moves a model's results in few directions, those in which it is badly
# conditioned: two computations that err alike differ by the ratio of two normal numbers, which is beyond 2 in 30 cases
# of 100 (1 - 2 / pi atan 2). One model decides nothing, the order of sums of a BLAS does. So the rule is put to many
# models, by the share err(op)^2 / (err(op)^2 + err(naive)^2). For one that errs r times as much it is r / (1 + r) on
# average, and more if it errs in many directions: LOW_FACTOR / (1 + LOW_FACTOR) is the limit. As exact a one has 1/2,
# the average of n shares a deviation of at most (8 n)^-1/2 (of an arcsine distribution): 48 of them are 3.3 away.
ERROR_DRAWS = 48
ERROR_SHARE = LOW_FACTOR / (1 + LOW_FACTOR)

# Gradients of ops without a composite to be the naive computation: an elementary vjp rounds each contribution to a
# gradient at most four times (two products, a function, the sum that it is part of), by half an ulp of itself.
ROUNDINGS = 4

# The docstring's promise, kept by fdlibm's piecewise approximations.
ERF64_ULPS = 2
# Absolute, the docstring's promise: one rational function on [-4, 4], evaluated in float32.
ERF32 = 1e-6


def spacing(largest: float, dtype: Any) -> float:
    """One ulp of ``largest`` in ``dtype``."""
    return float(np.spacing(np.asarray(largest).astype(dtype)))


# ---- Swin (tests/swin)

# Whole models in float64 against another library's, by DESIGN's parity rule: a few hundred ops of at most some thousand
# terms in another order err by about 1e3 * EPS (2e-13); the rest is room for the conditioning of layer norms.
PARITY = 1e-9
# The same of models with a handful of blocks and channels: 5e3 * EPS.
PARITY_SMALL = 1e-12
# The same in float32, both sides rounding: 1e3 * 2^-23.
PARITY32 = 1e-4
# V2's, whose scores are scaled by up to 100: see COMPOSITE_COSINE.
PARITY32_COSINE = 100 * PARITY32
# "Far from 0": a gradient this large relative to the median is above the floor of the parity rule, so that its error is
# judged by its own size.
PARITY_IDLE = 1e-3

# Whole V2 models, fused against composite: cosine scores are scaled by up to 100 where V1's are a few, so that the
# rounding of all that they are made of counts 100 times in a softmax.
COMPOSITE_COSINE = 100 * COMPOSITE
# Likewise in float16, where a score of 100 is off by up to 100 / 2^11 where a V1's of about 6 is by 6 / 2^11.
FLOAT16_COSINE = 16 * 2**-6

# A number of size 1 computed in float32: a few roundings of 2^-24.
ONE32 = 8 * 2**-24

# Bicubic weights, absolute: a cubic of numbers up to about 10 (5 t^2, 8 t), a few roundings; the position on the source
# is rounded once, relative to the largest source size, 100.
BICUBIC = 128 * EPS

# A spline of 47 points through values of size 1 against FITPACK's: two well-conditioned banded systems (B-splines on
# neighbouring distances with a ratio of at most 1.5), each solved to some 100 * EPS, and positions found by the same
# bisection.
SPLINE = 1e-12

# The leak of mask_value -100 for scores within +-10: exp(-100 + 10 - -10) = 2e-35 of a weight, times a few values.
LEAK = 1e-30

# A model of 4 blocks in float16 against float64, logits relative to the largest: about 10 roundings of the residual
# stream and twice as many within branches, each 2^-11 of the largest activation; layer norms make activations of size 1
# of them again. 32 * 2^-11.
FLOAT16_MODEL = 2**-6
# Their gradients pass the same roundings twice and sums over tokens with both signs: ten times as much.
FLOAT16_GRADIENTS = 10 * FLOAT16_MODEL

# Stored logits, computed by another build of NumPy: libm to 1 ulp and sums in another order, as PARITY, but through a
# handful of blocks.
GOLDEN = 1e-11

# ---- CUDA kernels

# Window attention in float32: a score of at most 16 is off by about 8 roundings of 2^-24 of it, and so, relatively, is
# a probability and whatever is summed up from them.
ATTENTION32 = 16 * 8 * 2**-24
# V2's scores go up to 100 and the bias.
ATTENTION32_COSINE = 128 * 8 * 2**-24
