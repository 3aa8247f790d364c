"""The margin loss over merged pairs, compiled."""

# mypy: disable-error-code="no-untyped-def,no-untyped-call,call-arg,var-annotated"
from __future__ import annotations

import numpy as np

from accel.numba_compile import compiled, take

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
