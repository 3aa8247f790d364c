"""The cross-entropy of a mixture of annotators over merged pairs, compiled; plainly: `Ops.mixture_loss`.

exp_less: `numba_softmax.decay`, exp(x - top) in place.
"""

# mypy: disable-error-code="no-untyped-def,no-untyped-call,call-arg,var-annotated"
from __future__ import annotations

import numpy as np

from accel.numba_compile import compiled, take
from accel.numba_pairs import CHUNK


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
    `numba_pairs.margin_loss`."""
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
