"""The losses over merged pairs, compiled; plainly: `accel/losses.py`, `Ops.margin_loss`, `Ops.mixture_loss`.

exp_less: `output.decay`, exp(x - top) in place.
"""

# mypy: disable-error-code="no-untyped-def,no-untyped-call,call-arg,var-annotated"
from __future__ import annotations

from functools import lru_cache

import numba
import numpy as np
from numba import types
from numba.extending import register_jitable

from accel.cpu.compile import OPTIONS, Pointer, compiled, take
from accel.cpu.vector_math import decay_32
from accel.losses import MarginLoss, logistic

# log(1 + d) = 2 atanh(s) = 2 s + s^3 (L0 + L1 s^2 + ...) with s = d / (2 + d) <= 1/3, interpolated at Chebyshev
# nodes.
ZERO, ONE, TWO = np.float32(0), np.float32(1), np.float32(2)
L0, L1, L2 = np.float32(0.6666666732052742), np.float32(0.39999706331929685), np.float32(0.28592357994303885)
L3, L4 = np.float32(0.2170657580086774), np.float32(0.23224329224074028)

# ----- A margin -----


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


@lru_cache(maxsize=64)
def compiled_loss(loss: MarginLoss, dtype: str) -> Pointer:
    """loss over arrays: (margin, y, value, slope) -> None, which fills the last two.

    Not cached on disk: a stale loss would train the wrong model.
    """
    scalar = register_jitable(loss)
    if loss is logistic and np.dtype(dtype) == np.float32:
        scalar = logistic_32  # as accurate, in a twentieth of the time

    def over_arrays(margin, y, value, slope):
        for i in range(margin.size):
            value[i], slope[i] = scalar(margin[i], y[i])

    array = types.Array(numba.from_dtype(np.dtype(dtype)), 1, "C")
    return Pointer(numba.cfunc(types.void(array, array, array, array), **OPTIONS)(over_arrays))


# ----- Merged pairs -----

CHUNK = 512  # comparisons a call of the loss


@compiled
def margin_loss(counter, omega, x_a, x_b, y, weight, loss, parts, values):
    """omega (n,) -> parts (groups, n), float64: gradients, and values (groups,): both add up to the loss's.
    A piece is a group; a group has its own comparisons and its own gradient, so threads never meet."""
    scratch = np.empty((2, CHUNK), omega.dtype)
    margins = np.empty(CHUNK, omega.dtype)
    g = take(counter)
    while g < len(parts):
        part, total, end = parts[g], 0.0, (g + 1) * len(y) // len(parts)
        part[:] = 0.0
        for start in range(g * len(y) // len(parts), end, CHUNK):
            count = min(CHUNK, end - start)
            a, b = x_a[start : start + count], x_b[start : start + count]
            w, margin, value, slope = weight[start : start + count], margins[:count], scratch[0], scratch[1]
            for i in range(count):
                margin[i] = omega[a[i]] - omega[b[i]]
            loss(margin, y[start : start + count], value, slope)
            for i in range(count):
                total += w[i] * value[i]
                dmargin = w[i] * slope[i]
                # forward: margin = omega[x_a] - omega[x_b]
                part[a[i]] += dmargin
                part[b[i]] -= dmargin
        values[g] = total
        g = take(counter)


@compiled
def add_rows(parts, out):
    """The sum of the rows of parts (groups, n) -> out (n,), in their order; the first row becomes it too."""
    total = parts[0]
    for g in range(1, len(parts)):
        part = parts[g]
        for i in range(len(out)):
            total[i] += part[i]
    for i in range(len(out)):
        out[i] = total[i]


# ----- A mixture of annotators -----


@compiled
def choices(sign, log_w, margins, decay, chosen, exp_less, terms, rows, dmargins, dlog_w):
    """The cross-entropy of the choices of x_a (sign = 1) or x_b (-1), of the weights `chosen` (count,); its
    gradients are added to dmargins (K, count) and dlog_w (K,)."""
    one, zero, count = log_w.dtype.type(1), log_w.dtype.type(0), len(chosen)
    shift, total = rows[0][:count], rows[1][:count]
    for k in range(len(log_w)):
        margin, term = margins[k][:count], terms[k][:count]
        # w sigmoid(l) = e^(log w + min(l, 0)) / (1 + e^-|l|)
        for i in range(count):
            term[i] = log_w[k] + min(sign * margin[i], zero)
            shift[i] = term[i] if k == 0 else max(shift[i], term[i])
    total[:] = zero
    for k in range(len(log_w)):
        term, small = terms[k][:count], decay[k][:count]
        for i in range(count):
            term[i] -= shift[i]
        exp_less(term, zero)
        for i in range(count):
            term[i] /= one + small[i]
            total[i] += term[i]
    value = 0.0
    for i in range(count):
        value -= chosen[i] * (shift[i] + np.log(total[i]))
        total[i] = chosen[i] / total[i]
    # forward: value = -sum(chosen * log(total) + ...), total = sum_k w_k sigmoid(sign l_k)
    for k in range(len(log_w)):
        margin, term, small, dmargin = margins[k][:count], terms[k][:count], decay[k][:count], dmargins[k][:count]
        added = 0.0
        for i in range(count):
            dlog = term[i] * total[i]
            added += dlog
            won_by = sign * margin[i]
            # forward: log sigmoid(won_by), whose derivative is sigmoid(-won_by)
            dmargin[i] -= sign * dlog * ((small[i] if won_by > zero else one) / (one + small[i]))
        dlog_w[k] -= added
    return value


@compiled
def mixture_loss(counter, r, log_w, x_a, x_b, y, weight, exp_less, parts, dlog_w, values):
    """r (K, n), log_w (K,) -> parts (groups, K, n), dlog_w (groups, K), which is 0 before: gradients, and
    values (groups,), all float64: each adds up to the loss's. A piece is a group, as in
    `margin_loss`."""
    one, zero = r.dtype.type(1), r.dtype.type(0)
    work, rows = np.empty((4, len(r), CHUNK), r.dtype), np.empty((3, CHUNK), r.dtype)
    margins, decay, terms, dmargins = work[0], work[1], work[2], work[3]
    g = take(counter)
    while g < len(parts):
        value, end = 0.0, (g + 1) * len(y) // len(parts)
        parts[g] = 0.0
        for start in range(g * len(y) // len(parts), end, CHUNK):
            count = min(CHUNK, end - start)
            a, b = x_a[start : start + count], x_b[start : start + count]
            w, won, share = weight[start : start + count], y[start : start + count], rows[2][:count]
            dmargins[:] = 0
            for k in range(len(r)):
                own, margin, small = r[k], margins[k][:count], decay[k][:count]
                for i in range(count):
                    margin[i] = own[a[i]] - own[b[i]]
                    small[i] = -abs(margin[i])
                exp_less(small, zero)
            for i in range(count):
                share[i] = w[i] * won[i]
            value += choices(one, log_w, margins, decay, share, exp_less, terms, rows, dmargins, dlog_w[g])
            for i in range(count):
                share[i] = w[i] * (one - won[i])
            value += choices(-one, log_w, margins, decay, share, exp_less, terms, rows, dmargins, dlog_w[g])
            for k in range(len(r)):
                dr, dmargin = parts[g, k], dmargins[k]
                # forward: margin = r[x_a] - r[x_b]
                for i in range(count):
                    dr[a[i]] += dmargin[i]
                    dr[b[i]] -= dmargin[i]
        values[g] = value
        g = take(counter)
