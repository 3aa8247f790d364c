"""tanh and exp for float32 without branches, so that compiled loops over them use vectors."""

# mypy: disable-error-code="no-untyped-def,no-untyped-call,call-arg,var-annotated"
from __future__ import annotations

import math

import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]
from numba import types
from numba.extending import intrinsic, overload, register_jitable

# ----- tanh -----

# tanh a = t / (t + 1) with t = expm1(2 a) / 2; 2 a = 2 r + n log 2 with -1/4 <= 2 r / log 2 <= 3/4; and
# expm1(2 r) / 2 = r + r^2 (C0 + C1 r + ...): interpolated at Chebyshev nodes. Within 2 ulp of tanh;
# 2.06 on a CPU that cannot multiply and add in one rounding.
ONE, HALF, QUARTER = np.float32(1), np.float32(0.5), np.float32(0.25)
TANH_END = np.float32(10)  # tanh 10 rounds to 1
PER_HALF_LOG2, HALF_LOG2 = np.float32(2 / math.log(2)), np.float32(math.log(2) / 2)
ROUNDER = np.float32(1.5 * 2**23)  # x + ROUNDER has whole numbers only: x's, in its last bits
C0, C1, C2 = np.float32(0.99999999695923), np.float32(0.6666666659989577), np.float32(0.33333575867000476)
C3, C4, C5 = np.float32(0.13332454399721813), np.float32(0.044200668683477926), np.float32(0.01450382743883968)


@intrinsic
def power_of_two(typing, rounded):
    """2^n in float32 for rounded = n + ROUNDER, n in -126..127: its last bits + 127 are the power's exponent."""

    def codegen(context, builder, signature, args):
        bits, integer = builder.bitcast(args[0], ir.IntType(32)), ir.IntType(32)
        exponent = builder.add(builder.shl(bits, integer(23)), integer(127 << 23))
        return builder.bitcast(exponent, ir.FloatType())

    return types.float32(types.float32), codegen


def tanh(x):
    """tanh of a number, for compiled code: without branches in float32, so that loops over it use vectors."""
    return math.tanh(x)


@overload(tanh, inline="always")
def tanh_of_its_type(x):
    def tanh_32(x):
        a = abs(x)
        a = TANH_END if a > TANH_END else a  # NaN stays NaN
        rounded = (a * PER_HALF_LOG2 - QUARTER) + ROUNDER
        n = rounded - ROUNDER
        r = a - n * HALF_LOG2  # rounded once: the constant is right to 3e-9
        s = r * r
        e = (((((C5 * r + C4) * r + C3) * r + C2) * r + C1) * r + C0) * s + r
        scale = power_of_two(rounded)
        t = scale * e + (scale * HALF - HALF)
        # t - t^2 / (t + 1) rounds less where t is small, 1 - 1 / (t + 1) where it is not
        base = t if t < ONE else ONE
        return math.copysign(base - base * base / (t + ONE), x)

    return tanh_32 if x == types.float32 else lambda x: math.tanh(x)


# ----- exp -----

# e^-a = 2^n e^r with |r| <= log(2) / 2 and e^r = 1 + r + r^2 (E0 + E1 r + ...), interpolated at Chebyshev nodes.
DECAY_END = np.float32(87)  # e^-87 is a normal number
PER_LOG2 = np.float32(1 / math.log(2))
HIGH, LOW = np.float32(0.693359375), np.float32(-2.12194440e-4)  # log 2; n HIGH is exact
E0, E1, E2 = np.float32(0.5), np.float32(0.16666576666119928), np.float32(0.04166655421298415)
E3, E4 = np.float32(0.008363232883682618), np.float32(0.0013926250831497611)


@register_jitable
def decay_32(a):
    """e^-a of a float32 number a >= 0; below e^-87 it is e^-87. NaN stays NaN."""
    a = DECAY_END if a > DECAY_END else a
    rounded = ROUNDER - a * PER_LOG2
    n = rounded - ROUNDER
    r = -a - n * HIGH - n * LOW
    return power_of_two(rounded) * (ONE + (r + r * r * ((((E4 * r + E3) * r + E2) * r + E1) * r + E0)))
