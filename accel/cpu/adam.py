"""Adam, compiled: the loop over a part of the parameters, and all parts in pieces that threads take."""

# mypy: disable-error-code="no-untyped-def,no-untyped-call,call-arg,var-annotated"
from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from numba import from_dtype, types
from numba.extending import register_jitable

from accel.cpu.compile import compiled, pointer, take


@register_jitable
def averaged(mean, value, b, c):
    """b mean + c value with c = 1 - b, both rounded from float64: of the two the larger one, which rounding takes
    away from 1, is not used."""
    return mean + c * (value - mean) if c < b else value + b * (mean - value)


def update(params, grads, m, v, start, end, lr, b1, c1, b2, c2, eps, m_scale, v_scale):
    """Adam in place on the parameters start..end - 1; scalars in the dtype of params. c1 = 1 - b1, c2 = 1 - b2,
    m^ = m_scale m, so v^."""
    p, g, mean, square = params[start:end], grads[start:end], m[start:end], v[start:end]
    if c1 < b1 and c2 < b2:  # `averaged` without its branch, which would take a third of the time
        for i in range(len(p)):
            mean[i] += c1 * (g[i] - mean[i])
            square[i] += c2 * (g[i] * g[i] - square[i])
            p[i] -= lr * (mean[i] * m_scale / (np.sqrt(square[i] * v_scale) + eps))
        return
    for i in range(len(p)):
        mean[i] = averaged(mean[i], g[i], b1, c1)
        square[i] = averaged(square[i], g[i] * g[i], b2, c2)
        p[i] -= lr * (mean[i] * m_scale / (np.sqrt(square[i] * v_scale) + eps))


@lru_cache(maxsize=2)
def adam(dtype: str) -> Any:
    """`update` as a function pointer: one machine code for all callers, so equal bit for bit in all of them."""
    number, integer = from_dtype(np.dtype(dtype)), types.intp
    arrays = [types.Array(number, 1, "C")] * 4
    return pointer(types.void(*arrays, integer, integer, *[number] * 8), update)


@compiled
def adam_step(counter, adam, params, grads, m, v, lr, b1, c1, b2, c2, eps, m_scale, v_scale, chunk):
    """`update` of all parameters, `chunk` of them a piece."""
    start = take(counter) * chunk
    while start < len(params):
        end = min(start + chunk, len(params))
        adam(params, grads, m, v, start, end, lr, b1, c1, b2, c2, eps, m_scale, v_scale)
        start = take(counter) * chunk
