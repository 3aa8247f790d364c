"""The output of the Transformer compiled: a block of rows' logits, their softmax, and what follows from it.

The vocabulary V is padded to whole vectors: padded logits are -inf, and their weight 0. Letters: R rows,
C channels, a multiple of WIDTH.

`product` and `decay` are given to them as pointers: compiled once for all.
"""

# mypy: disable-error-code="no-untyped-def,no-untyped-call,call-arg,var-annotated"
from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import numpy as np
from numba import from_dtype, types
from numba.extending import overload

from accel.cpu.compile import aligned, compiled, compiled_sum, pointer, take
from accel.cpu.vector_math import decay_32

WIDTH = 16  # numbers: two vectors of float32, four of float64
BLOCK = 96  # rows at most: whole tiles of 6
COLUMNS = 256  # of the vocabulary at a time, backward
LOW = -math.inf  # a padded logit


def decay_64_over(x, top):
    """exp(x - top), in place."""
    for i in range(len(x)):
        x[i] = math.exp(x[i] - top)


def decay_32_over(x, top):
    """exp(x - top) of x <= top, in place; 0 where it is below e^-87."""
    zero, least = np.float32(0), np.float32(87)
    for i in range(len(x)):
        a = top - x[i]
        x[i] = zero if a > least else decay_32(a)


def decay_over(x, top):
    """The same for compiled code of this file, by x's type."""
    decay_64_over(x, top)


@overload(decay_over)
def decay_over_of_its_type(x, top):
    return decay_32_over if x.dtype == types.float32 else decay_64_over


@lru_cache(maxsize=2)
def decay(dtype: str) -> Any:
    """The exponentials of a row less its largest number, as a function pointer: (x (n,), largest) -> None."""
    number = from_dtype(np.dtype(dtype))
    over = decay_32_over if np.dtype(dtype) == np.float32 else decay_64_over
    return pointer(types.void(types.Array(number, 1, "C"), number), over)


@compiled_sum
def sum_of(x):
    total = x.dtype.type(0)
    for i in range(len(x)):
        total += x[i]
    return total


@compiled
def top_of(x):
    """The largest of x, whose length is a multiple of WIDTH; NaN where one is."""
    lanes = x[:WIDTH].copy()
    for j in range(WIDTH, len(x), WIDTH):
        part = x[j : j + WIDTH]
        for i in range(WIDTH):
            lanes[i] = part[i] if not part[i] <= lanes[i] else lanes[i]
    largest = lanes[0]
    for i in range(1, WIDTH):
        largest = lanes[i] if not lanes[i] <= largest else largest
    return largest


@compiled
def pack(kernel, bias, width, panels, longer):
    """Panels of a kernel (C, V), and its bias, with V padded."""
    k, v = kernel.shape
    panels[:] = 0
    longer[:] = LOW
    longer[:v] = bias
    for j in range(v):
        start = j // width * width * k + j % width
        for i in range(k):
            panels[start + i * width] = kernel[i, j]


@compiled
def pack_turned(kernel, width, n, panels):
    """Panels of the transpose of a kernel (C, V), with V padded to n by zeros."""
    k, v = kernel.shape
    panels[:] = 0
    for i in range(k):
        start = i // width * width * n + i % width
        for j in range(v):
            panels[start + j * width] = kernel[i, j]


@compiled
def token_log_p(counter, product, block, decay, x, panels, bias, targets, width, weights, total, out):
    """x (R, C) -> out (R,), with exp(logits - largest) in weights (R, V padded) and their sums in total (R,)."""
    c, n = x.shape[1], weights.shape[1]
    flat, kept = x.reshape(-1), weights.reshape(-1)
    start = take(counter) * block
    while start < len(x):
        rows = min(block, len(x) - start)
        product(kept, start * n, n, bias, 0, 0, flat, start * c, c, 1, panels, 0, c * width, rows, n, c)
        for r in range(start, start + rows):
            row = weights[r]
            top, picked = top_of(row), row[targets[r]]
            decay(row, top)
            total[r] = sum_of(row)
            out[r] = picked - top - np.log(total[r])
        start = take(counter) * block


@compiled
def token_log_p_backward(
    counter, product, dout, x, turned, targets, weights, total, width, dx, dkernel, dbias
):  # fmt: skip
    """dout (R,) -> dx (R, C), and a part a group: dkernel (groups, C V padded), dbias (groups, V padded)."""
    c, n, long = x.shape[1], weights.shape[1], COLUMNS + WIDTH
    drows, zero = dx.reshape(-1), x.dtype.type(0)
    slopes, panels = aligned(BLOCK * long, x), aligned(BLOCK * COLUMNS, x)
    short = aligned(BLOCK * (c + WIDTH), x)
    blocks, groups, g = -(-len(x) // BLOCK), len(dbias), take(counter)
    while g < groups:
        dkernel[g] = 0
        dbias[g] = 0
        for number in range(g * blocks // groups, (g + 1) * blocks // groups):
            start = number * BLOCK
            rows = min(BLOCK, len(x) - start)
            for r in range(rows):
                short[r * (c + WIDTH) : r * (c + WIDTH) + c] = x[start + r]
            drows[start * c : (start + rows) * c] = zero
            for j in range(0, n, COLUMNS):
                across = min(COLUMNS, n - j)
                # forward: out = logits[target] - log(sum(exp(logits)))
                for r in range(rows):
                    share = -dout[start + r] / total[start + r]
                    row, slope = weights[start + r, j:], slopes[r * long : r * long + across]
                    for e in range(across):
                        slope[e] = row[e] * share
                    target = targets[start + r] - j
                    if 0 <= target < across:
                        slope[target] += dout[start + r]
                # forward: logits = x @ kernel + bias
                for r in range(rows):
                    slope, sums = slopes[r * long : r * long + across], dbias[g, j : j + across]
                    for e in range(across):
                        sums[e] += slope[e]
                    for e in range(0, across, width):
                        part, into = slope[e:], panels[e * rows + r * width :]
                        for i in range(width):
                            into[i] = part[i]
                # fmt: off
                product(dkernel[g], j, n, dkernel[g], j, n, short, 0, 1, c + WIDTH,
                        panels, 0, rows * width, c, across, rows)
                product(drows, start * c, c, drows, start * c, c, slopes, 0, long, 1,
                        turned, j * width, n * width, rows, c, across)
                # fmt: on
        g = take(counter)


@compiled_sum
def wide_sum_of(x):
    """In float64."""
    total = 0.0
    for i in range(len(x)):
        total += float(x[i])
    return total


@compiled
def where_passed(weights, vocabulary, uniform, sums):
    """The first place where the sum of weights, in float64, is more than uniform times all of it; and that."""
    total = 0.0
    for j in range(len(sums)):
        sums[j] = wide_sum_of(weights[j * WIDTH : (j + 1) * WIDTH])
        total += sums[j]
    before, j = 0.0, 0
    while j < len(sums) - 1 and before + sums[j] <= uniform * total:
        before += sums[j]
        j += 1
    place = j * WIDTH
    before += weights[place]
    while place < vocabulary - 1 and before <= uniform * total:
        place += 1
        before += weights[place]
    while place > 0 and weights[place] == 0:  # the two orders of the sum may differ by a rounding
        place -= 1
    return place, total


def choose_rows(logits, rows, n, vocabulary, uniform, token, log_p):
    """logits (rows, n), changed; uniform (rows,) -> the token where the cumulated softmax passes uniform, and its
    log-probability."""
    sums, kept = np.empty(n // WIDTH), np.empty(n, logits.dtype)
    for r in range(rows):
        row = logits[r * n : (r + 1) * n]
        top = top_of(row)
        for i in range(n):
            kept[i] = row[i]
        decay_over(row, top)
        place, total = where_passed(row, vocabulary, uniform[r], sums)
        token[r] = place
        log_p[r] = float(kept[place] - top) - math.log(total)


@lru_cache(maxsize=2)
def choose(dtype: str) -> Any:
    """`choose_rows` as a function pointer."""
    kinds = (from_dtype(np.dtype(dtype)), types.float64, types.int64, types.float64)
    logits, uniform, token, log_p = (types.Array(kind, 1, "C") for kind in kinds)
    integer = types.intp
    return pointer(types.void(logits, integer, integer, integer, uniform, token, log_p), choose_rows)


@compiled
def next_token(counter, product, block, choose, x, panels, bias, uniform, vocabulary, width, token, log_p):
    """x (R, C), uniform (R,) -> the token where the cumulated softmax passes uniform, and its log-probability."""
    c, n = x.shape[1], len(bias)
    flat, logits = x.reshape(-1), aligned(BLOCK * n, x)
    start = take(counter) * block
    while start < len(x):
        rows = min(block, len(x) - start)
        product(logits, 0, n, bias, 0, 0, flat, start * c, c, 1, panels, 0, c * width, rows, n, c)
        choose(logits, rows, n, vocabulary, uniform[start:], token[start:], log_p[start:])
        start = take(counter) * block


# ----- For the sampler (accel/cpu/decoder.py) -----


def softmax_row(x):
    """The softmax of x, whose length is a multiple of WIDTH, in place."""
    decay_over(x, top_of(x))
    share = x.dtype.type(1) / sum_of(x)
    for i in range(len(x)):
        x[i] *= share


@lru_cache(maxsize=2)
def softmax(dtype: str) -> Any:
    """`softmax_row` as a function pointer."""
    return pointer(types.void(types.Array(from_dtype(np.dtype(dtype)), 1, "C")), softmax_row)
