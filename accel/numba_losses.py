"""The logistic loss compiled for float32, without branches, so that loops over it use vectors."""

# mypy: disable-error-code="no-untyped-def,no-untyped-call,call-arg,var-annotated"
from __future__ import annotations

import math

import numpy as np
from numba.extending import register_jitable

from accel.numba_mlp import ROUNDER, power_of_two

# e^-a = 2^n e^r with |r| <= log(2) / 2 and e^r = 1 + r + r^2 (E0 + E1 r + ...);
# log(1 + d) = 2 atanh(s) = 2 s + s^3 (L0 + L1 s^2 + ...) with s = d / (2 + d) <= 1/3.
# Both are interpolated at Chebyshev nodes.
ZERO, ONE, TWO, LARGEST = np.float32(0), np.float32(1), np.float32(2), np.float32(87)  # e^-87 is a normal number
PER_LOG2 = np.float32(1 / math.log(2))
HIGH, LOW = np.float32(0.693359375), np.float32(-2.12194440e-4)  # log 2; n HIGH is exact
E0, E1, E2 = np.float32(0.5), np.float32(0.16666576666119928), np.float32(0.04166655421298415)
E3, E4 = np.float32(0.008363232883682618), np.float32(0.0013926250831497611)
L0, L1, L2 = np.float32(0.6666666732052742), np.float32(0.39999706331929685), np.float32(0.28592357994303885)
L3, L4 = np.float32(0.2170657580086774), np.float32(0.23224329224074028)


@register_jitable
def decay_32(a):
    """e^-a of a float32 number a >= 0; below e^-87 it is e^-87. NaN stays NaN."""
    a = LARGEST if a > LARGEST else a
    rounded = ROUNDER - a * PER_LOG2
    n = rounded - ROUNDER
    r = -a - n * HIGH - n * LOW
    return power_of_two(rounded) * (ONE + (r + r * r * ((((E4 * r + E3) * r + E2) * r + E1) * r + E0)))


@register_jitable
def logistic_32(margin, y):
    """`losses.logistic` of float32 numbers; a decay below e^-87 is taken as e^-87."""
    decay = decay_32(abs(margin))
    s = decay / (TWO + decay)
    u = s * s
    log_1p = TWO * s + s * u * ((((L4 * u + L3) * u + L2) * u + L1) * u + L0)
    positive = margin > ZERO
    upset = ONE - y if positive else y
    excess = upset - decay / (ONE + decay)
    return upset * abs(margin) + log_1p, excess if positive else -excess
