"""Adam, compiled: the loop over a part of the parameters, and all parts in pieces that threads take."""

# mypy: disable-error-code="no-untyped-def,no-untyped-call,call-arg,var-annotated"
from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from numba import from_dtype, types

from accel.numba_compile import compiled, pointer, take


def update(params, grads, m, v, start, end, lr, b1, b2, eps, m_scale, v_scale):
    """Adam in place on the parameters start..end - 1; scalars in the dtype of params. m^ = m_scale m, so v^."""
    one = params.dtype.type(1)
    p, g, mean, square = params[start:end], grads[start:end], m[start:end], v[start:end]
    for i in range(len(p)):
        mean[i] = b1 * mean[i] + (one - b1) * g[i]
        square[i] = b2 * square[i] + (one - b2) * (g[i] * g[i])
        p[i] -= lr * (mean[i] * m_scale / (np.sqrt(square[i] * v_scale) + eps))


@lru_cache(maxsize=2)
def adam(dtype: str) -> Any:
    """`update` as a function pointer: one machine code for all callers, so equal bit for bit in all of them."""
    number, integer = from_dtype(np.dtype(dtype)), types.intp
    arrays = [types.Array(number, 1, "C")] * 4
    return pointer(types.void(*arrays, integer, integer, *[number] * 6), update)


@compiled
def adam_step(counter, adam, params, grads, m, v, lr, b1, b2, eps, m_scale, v_scale, chunk):
    """`update` of all parameters, `chunk` of them a piece."""
    start = take(counter) * chunk
    while start < len(params):
        end = min(start + chunk, len(params))
        adam(params, grads, m, v, start, end, lr, b1, b2, eps, m_scale, v_scale)
        start = take(counter) * chunk
