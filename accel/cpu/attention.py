"""Causal attention compiled: one head of one sequence at a time, all in cache; and against kept keys and values.

What lies above the diagonal is not computed, but for the corners of tiles. Letters: R rows, H heads, D channels of
a head (a multiple of WIDTH), T rows of a sequence.

`product` and `decay` are given to them as pointers: compiled once for all.
"""

# mypy: disable-error-code="no-untyped-def,no-untyped-call,call-arg,var-annotated"
from __future__ import annotations

import math

import numpy as np

from accel.cpu.compile import aligned, compiled, compiled_sum, take
from accel.cpu.matmul import row_products

WIDTH = 16  # numbers: two vectors of float32, four of float64
TILE = 6  # rows of the product's tiles


@compiled
def gather(x, at, row, t, d, factor, panel, width, out):
    """factor times t rows of d numbers -> panels of `panel` numbers each."""
    for j in range(0, d, width):
        start = j // width * panel
        for i in range(t):
            part, into = x[at + i * row + j :], out[start + i * width :]
            for e in range(width):
                into[e] = part[e] * factor


@compiled
def gather_turned(x, at, row, t, d, width, out):
    """The transpose of t rows of d numbers -> panels (., d, width), 0 after the last row."""
    for j in range(0, t, width):
        for e in range(width):
            start = j * d + e
            if j + e < t:
                part = x[at + (j + e) * row : at + (j + e) * row + d]
                for i in range(d):
                    out[start + i * width] = part[i]
            else:
                for i in range(d):
                    out[start + i * width] = 0


@compiled_sum
def total_of(x):
    total = x.dtype.type(0)
    for i in range(len(x)):
        total += x[i]
    return total


@compiled_sum
def dot_of(x, y):
    total = x.dtype.type(0)
    for i in range(len(x)):
        total += x[i] * y[i]
    return total


@compiled
def largest_of(x):
    """The largest of x, or NaN."""
    largest = x[0]
    for i in range(1, len(x)):
        largest = x[i] if not x[i] <= largest else largest
    return largest


@compiled
def softmax(decay, x):
    """The softmax of x (n,), in place."""
    decay(x, largest_of(x))
    one = x.dtype.type(1)
    share = one / total_of(x)
    for i in range(len(x)):
        x[i] *= share


@compiled
def lower_product(product, c, row, zeros, a, a_at, a_row, panels, t, d, width):
    """C = A B where B's column is at most A's row, (t, t) of `row` numbers a row; A (t, d), panels of B (d, t)."""
    for j in range(0, t, width):
        i = j // TILE * TILE
        # fmt: off
        product(c, i * row + j, row, zeros, 0, 0, a, a_at + i * a_row, a_row, 1,
                panels, j * d, d * width, t - i, width, d)
        # fmt: on


@compiled
def attention(counter, product, decay, query, key, value, starts, places, width, weights, out):
    """query, key, value, out (R, H, D); sequence s has the rows starts[s]..starts[s + 1] - 1. weights: its heads'
    softmax, (H, T, T padded) from places[s] on, kept for the backward. A piece is a sequence."""
    heads, d = query.shape[1:]
    q, k, v, o, row = query.reshape(-1), key.reshape(-1), value.reshape(-1), out.reshape(-1), heads * d
    zeros, one, factor = np.zeros(max(width, d), q.dtype), q.dtype.type(1), q.dtype.type(1 / math.sqrt(d))
    s, longest = take(counter), 0
    for i in range(len(starts) - 1):
        longest = max(longest, starts[i + 1] - starts[i])
    longest += -longest % WIDTH
    scaled, turned, panels = aligned(longest * d, q), aligned(longest * d, q), aligned(longest * d, q)
    while s < len(starts) - 1:
        t = starts[s + 1] - starts[s]
        across = t + -t % WIDTH
        for h in range(heads):
            at = starts[s] * row + h * d
            w = weights[places[s] + h * t * across : places[s] + (h + 1) * t * across]
            for i in range(t):
                part, into = q[at + i * row :], scaled[i * d : (i + 1) * d]
                for j in range(d):
                    into[j] = part[j] * factor
            gather_turned(k, at, row, t, d, width, turned)
            lower_product(product, w, across, zeros, scaled, 0, d, turned, t, d, width)
            for i in range(t):
                softmax(decay, w[i * across : i * across + i + 1])
                w[i * across + i + 1 : (i + 1) * across] = 0
            gather(v, at, row, t, d, one, t * width, width, panels)
            product(o, at, row, zeros, 0, 0, w, 0, across, 1, panels, 0, t * width, t, d, t)
        s = take(counter)


@compiled
def attention_backward(
    counter, product, dout, query, key, value, starts, places, width, weights, dquery, dkey, dvalue
):
    """dout (R, H, D) -> dquery, dkey, dvalue. A piece is a sequence."""
    heads, d = query.shape[1:]
    q, k, v, row = query.reshape(-1), key.reshape(-1), value.reshape(-1), heads * d
    do, dq, dk, dv = dout.reshape(-1), dquery.reshape(-1), dkey.reshape(-1), dvalue.reshape(-1)
    zeros, one, factor = np.zeros(max(width, d), q.dtype), q.dtype.type(1), q.dtype.type(1 / math.sqrt(d))
    s, longest = take(counter), 0
    for i in range(len(starts) - 1):
        longest = max(longest, starts[i + 1] - starts[i])
    longest += -longest % WIDTH
    panels, turned, dw = aligned(longest * d, q), aligned(longest * d, q), aligned(longest * longest, q)
    while s < len(starts) - 1:
        t = starts[s + 1] - starts[s]
        across = t + -t % WIDTH
        for h in range(heads):
            at = starts[s] * row + h * d
            w = weights[places[s] + h * t * across : places[s] + (h + 1) * t * across]
            # forward: out = weights @ value
            gather(do, at, row, t, d, one, t * width, width, panels)
            product(dv, at, row, zeros, 0, 0, w, 0, 1, across, panels, 0, t * width, t, d, t)
            gather_turned(v, at, row, t, d, width, turned)
            lower_product(product, dw, across, zeros, do, at, row, turned, t, d, width)
            # forward: weights = softmax(scores)
            for i in range(t):
                part, into = w[i * across : i * across + i + 1], dw[i * across : (i + 1) * across]
                slope = dot_of(part, into[: i + 1])
                for j in range(i + 1):
                    into[j] = part[j] * (into[j] - slope) * factor
                for j in range(i + 1, across):
                    into[j] = 0
            # forward: scores = query @ key^T / sqrt(D)
            gather(k, at, row, t, d, one, t * width, width, panels)
            product(dq, at, row, zeros, 0, 0, dw, 0, across, 1, panels, 0, t * width, t, d, t)
            gather(q, at, row, t, d, one, t * width, width, panels)
            product(dk, at, row, zeros, 0, 0, dw, 0, 1, across, panels, 0, t * width, t, d, t)
        s = take(counter)


@compiled
def cached(counter, product, decay, query, keys, values, t, chunk, out):
    """query (N, H, D), keys, values (N, H, T, D), of which t positions count -> out (N, H, D). A piece is `chunk`
    rows."""
    heads, longest, d = keys.shape[1:]
    q, k, v, o = query.reshape(-1), keys.reshape(-1), values.reshape(-1), out.reshape(-1)
    zeros, weights, one = np.zeros(d, q.dtype), np.empty(t, q.dtype), q.dtype.type(1)
    factor, start = one / np.sqrt(q.dtype.type(d)), take(counter) * chunk
    while start < len(query):
        for i in range(start * heads, min(start + chunk, len(query)) * heads):
            at = i * longest * d
            row_products(weights, k, at, d, q, i * d, t, d)
            for j in range(t):
                weights[j] *= factor
            softmax(decay, weights)
            product(o, i * d, 0, zeros, 0, 0, weights, 0, 0, 1, v, at, d, 1, d, t)
        start = take(counter) * chunk
