"""Rows of the Transformer compiled: a block of rows goes through a layer norm and its products while in cache.

Kernels come in panels (`cpu_matmul.multiply_panels`), packed once a call. Blocks, and the groups of blocks whose
gradients are added apart, depend on the number of rows only. Widths are multiples of WIDTH. Scratch rows are
WIDTH longer than they need to be: powers of two would share few places of the cache. Letters: R rows, C channels,
K terms, N columns, M hidden units.

`product` is given to them as a pointer: compiled once for all.
"""

# mypy: disable-error-code="no-untyped-def,no-untyped-call,call-arg,var-annotated"
from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from numba import from_dtype, types

from accel.cpu.compile import aligned, compiled, compiled_sum, pointer, take

WIDTH = 16  # numbers: two vectors of float32, four of float64
BLOCK = 96  # rows at most: whole tiles of 6
CHUNK = 64  # hidden units at a time
GROUPS = 8  # of blocks, each with gradients of its own
EPS = 1e-6  # of the layer norm


# ----- Panels -----


@compiled
def pack(b, at, row, k, n, panel, width, out, start):
    """B (k, n) at b[at], `row` numbers a row -> panels from out[start] on, `panel` numbers each."""
    for j in range(0, n, width):
        for i in range(k):
            part, into = b[at + i * row + j :], out[start + i * width :]
            for e in range(width):
                into[e] = part[e]
        start += panel


@compiled
def pack_turned(b, at, row, k, n, panel, width, out, start):
    """The same of B' (k, n) = B^T, B (n, k) at b[at], `row` numbers a row."""
    for j in range(0, n, width):
        for e in range(width):
            part = b[at + (j + e) * row : at + (j + e) * row + k]
            for i in range(k):
                out[start + i * width + e] = part[i]
        start += panel


@compiled
def pack_whole(kernel, turned, width, out):
    """The panels of a kernel (K, N), or of its transpose -> out (K N,)."""
    k, n = kernel.shape
    if turned:
        pack_turned(kernel.reshape(-1), 0, n, n, k, n * width, width, out, 0)
    else:
        pack(kernel.reshape(-1), 0, n, k, n, k * width, width, out, 0)


@compiled
def add_outer(product, x, x_at, x_row, k, d, d_at, d_row, n, rows, width, panels, out, out_at, out_row):
    """out (k, n) += x^T d over `rows` rows of x (., k) and d (., n); panels: scratch of rows n numbers."""
    pack(d, d_at, d_row, rows, n, rows * width, width, panels, 0)
    # fmt: off
    product(out, out_at, out_row, out, out_at, out_row, x, x_at, 1, x_row,
            panels, 0, rows * width, k, n, rows)
    # fmt: on


@compiled
def add_column_sums(x, at, row, n, rows, out):
    """out (n,) += the sum of the rows of x."""
    for r in range(rows):
        part = x[at + r * row : at + r * row + n]
        for j in range(n):
            out[j] += part[j]


# ----- Layer norm -----


@compiled_sum
def row_sum(x):
    total = x.dtype.type(0)
    for i in range(len(x)):
        total += x[i]
    return total


@compiled_sum
def row_dot(x, y):
    total = x.dtype.type(0)
    for i in range(len(x)):
        total += x[i] * y[i]
    return total


@compiled
def standardise(x, at, x_row, c, rows, out, out_row, rstd):
    """(x - mean) / sqrt(var + EPS) of every row -> out, and the second factor -> rstd. x_row, out_row: numbers a
    row."""
    share, eps, one = x.dtype.type(1.0 / c), x.dtype.type(EPS), x.dtype.type(1)
    for r in range(rows):
        part, norm = x[at + r * x_row : at + r * x_row + c], out[r * out_row : r * out_row + c]
        mean = row_sum(part) * share
        for j in range(c):
            norm[j] = part[j] - mean
        rstd[r] = one / np.sqrt(row_dot(norm, norm) * share + eps)
        for j in range(c):
            norm[j] *= rstd[r]


@compiled
def scale_rows(norm, row, c, rows, scale, bias, out):
    """norm * scale + bias -> out, both `row` numbers a row."""
    for r in range(rows):
        part, into = norm[r * row : r * row + c], out[r * row : r * row + c]
        for j in range(c):
            into[j] = part[j] * scale[j] + bias[j]


@compiled
def standardise_backward(dout, row, c, rows, norm, rstd, scale, dscale, dbias, dx, at):
    """Adds dx of the rows to dx[at], and their dscale, dbias. dout: changed; both it and norm `row` a row."""
    share = dx.dtype.type(1.0 / c)
    for r in range(rows):
        d, x = dout[r * row : r * row + c], norm[r * row : r * row + c]
        into = dx[at + r * c : at + (r + 1) * c]
        # forward: out = norm * scale + bias
        for j in range(c):
            dscale[j] += d[j] * x[j]
            dbias[j] += d[j]
            d[j] *= scale[j]
        # forward: norm = (x - mean) * rstd, where mean and rstd depend on x too
        mean, slope = row_sum(d) * share, row_dot(d, x) * share
        for j in range(c):
            into[j] += (d[j] - mean - x[j] * slope) * rstd[r]


def norm_rows(x, row, rows, scale, bias, out):
    """The layer norm of `rows` rows of x -> out, both `row` = C + WIDTH numbers a row."""
    standardise(x, 0, row, len(scale), rows, out, row, np.empty(rows, x.dtype))
    scale_rows(out, row, len(scale), rows, scale, bias, out)


@lru_cache(maxsize=2)
def norm(dtype: str) -> Any:
    """`norm_rows` as a function pointer."""
    array, integer = types.Array(from_dtype(np.dtype(dtype)), 1, "C"), types.intp
    return pointer(types.void(array, integer, integer, array, array, array), norm_rows)


# ----- norm(x) W, for several W of one shape -----


@compiled
def norm_matmuls(counter, product, block, x, scale, bias, panels, width, outs):
    """x (R, C) and the panels of every W (C, N) -> outs, a tuple of (R, N). A piece is a block of `block` rows."""
    c, n, row = x.shape[1], outs[0].shape[1], x.shape[1] + WIDTH
    flat, zeros = x.reshape(-1), np.zeros(n, x.dtype)
    norm, rstd = aligned(BLOCK * row, x), np.empty(BLOCK, x.dtype)
    start = take(counter) * block
    while start < len(x):
        rows = min(block, len(x) - start)
        standardise(flat, start * c, c, c, rows, norm, row, rstd)
        scale_rows(norm, row, c, rows, scale, bias, norm)
        for i in range(len(outs)):
            out = outs[i].reshape(-1)
            product(out, start * n, n, zeros, 0, 0, norm, 0, row, 1, panels[i], 0, c * width, rows, n, c)
        start = take(counter) * block


@compiled
def norm_matmuls_backward(counter, product, douts, x, scale, bias, turned, width, dx, dkernels, dscale, dbias):
    """douts, a tuple of (R, N) -> dx (R, C), and a part a group: dkernels (groups, W, C N), dscale, dbias.

    turned: the panels of every W^T. A piece is a group.
    """
    c, n, row = x.shape[1], douts[0].shape[1], x.shape[1] + WIDTH
    flat, drows, zero = x.reshape(-1), dx.reshape(-1), x.dtype.type(0)
    norm, normed, dnorm = aligned(BLOCK * row, x), aligned(BLOCK * row, x), aligned(BLOCK * row, x)
    rstd, panels = np.empty(BLOCK, x.dtype), aligned(BLOCK * n, x)
    blocks, groups, g = -(-len(x) // BLOCK), len(dscale), take(counter)
    while g < groups:
        dkernels[g] = zero
        dscale[g] = zero
        dbias[g] = zero
        for number in range(g * blocks // groups, (g + 1) * blocks // groups):
            start = number * BLOCK
            rows = min(BLOCK, len(x) - start)
            standardise(flat, start * c, c, c, rows, norm, row, rstd)
            scale_rows(norm, row, c, rows, scale, bias, normed)
            dnorm[:] = zero
            for i in range(len(douts)):
                dout = douts[i].reshape(-1)
                # forward: outs = normed @ kernels
                # fmt: off
                add_outer(product, normed, 0, row, c, dout, start * n, n, n, rows, width, panels,
                          dkernels[g, i], 0, n)
                product(dnorm, 0, row, dnorm, 0, row, dout, start * n, n, 1,
                        turned[i], 0, n * width, rows, c, n)
                # fmt: on
            drows[start * c : (start + rows) * c] = zero
            standardise_backward(dnorm, row, c, rows, norm, rstd, scale, dscale[g], dbias[g], drows, start * c)
        g = take(counter)


# ----- x + rows W -----


@compiled
def matmul_add(counter, product, block, x, rows, panels, width, out):
    """x (R, C) + rows (R, K) W -> out (R, C); panels of W (K, C). A piece is a block of `block` rows."""
    c, k = x.shape[1], rows.shape[1]
    flat, rows_in, rows_out = x.reshape(-1), rows.reshape(-1), out.reshape(-1)
    start = take(counter) * block
    while start < len(x):
        count = min(block, len(x) - start)
        # fmt: off
        product(rows_out, start * c, c, flat, start * c, c, rows_in, start * k, k, 1,
                panels, 0, k * width, count, c, k)
        # fmt: on
        start = take(counter) * block


@compiled
def matmul_backward(counter, product, dout, x, turned, width, dx, dkernel):
    """dout (R, N), x (R, K) -> dx (R, K), dkernel (groups, K N), a part a group; turned: panels of W^T."""
    k, n = x.shape[1], dout.shape[1]
    rows_in, drows_in, drows_out = x.reshape(-1), dx.reshape(-1), dout.reshape(-1)
    panels, zeros = aligned(BLOCK * n, x), np.zeros(k, x.dtype)
    blocks, g = -(-len(x) // BLOCK), take(counter)
    while g < len(dkernel):
        dkernel[g] = 0
        for number in range(g * blocks // len(dkernel), (g + 1) * blocks // len(dkernel)):
            at = number * BLOCK
            rows = min(BLOCK, len(x) - at)
            # forward: out = x @ kernel
            # fmt: off
            add_outer(product, rows_in, at * k, k, k, drows_out, at * n, n, n, rows, width, panels,
                      dkernel[g], 0, n)
            product(drows_in, at * k, k, zeros, 0, 0, drows_out, at * n, n, 1,
                    turned, 0, n * width, rows, k, n)
            # fmt: on
        g = take(counter)


# ----- x + relu(norm(x) W_0 + b_0) W_1 + b_1 -----


@compiled
def mlp_block(counter, product, block, x, scale, bias, kernel_0, bias_0, kernel_1, bias_1, width, hidden, out):
    """x (R, C) -> out (R, C), and hidden (R, M), kept for the backward. kernel_0, kernel_1: panels."""
    c, m, row = x.shape[1], hidden.shape[1], x.shape[1] + WIDTH
    rows_in, rows_out, units = x.reshape(-1), out.reshape(-1), hidden.reshape(-1)
    norm, rstd = aligned(BLOCK * row, x), np.empty(BLOCK, x.dtype)
    part, zero = aligned(BLOCK * (CHUNK + WIDTH), x), x.dtype.type(0)
    start = take(counter) * block
    while start < len(x):
        rows = min(block, len(x) - start)
        standardise(rows_in, start * c, c, c, rows, norm, row, rstd)
        scale_rows(norm, row, c, rows, scale, bias, norm)
        for r in range(rows):
            into, first = rows_out[(start + r) * c : (start + r + 1) * c], rows_in[(start + r) * c :]
            for j in range(c):
                into[j] = first[j] + bias_1[j]
        for j in range(0, m, CHUNK):
            n = min(CHUNK, m - j)
            # fmt: off
            product(part, 0, CHUNK + WIDTH, bias_0, j, 0, norm, 0, row, 1,
                    kernel_0, j * c, c * width, rows, n, c)
            for r in range(rows):
                unit, kept = part[r * (CHUNK + WIDTH) :], units[(start + r) * m + j : (start + r) * m + j + n]
                for e in range(n):
                    unit[e] = unit[e] if not unit[e] <= zero else zero  # NaN stays NaN
                    kept[e] = unit[e]
            product(rows_out, start * c, c, rows_out, start * c, c, part, 0, CHUNK + WIDTH, 1,
                    kernel_1, j * width, m * width, rows, c, n)
            # fmt: on
        start = take(counter) * block


@compiled
def mlp_block_backward(
    counter, product, dout, x, scale, bias, hidden, turned_0, turned_1, width,
    dx, dscale, dbias, dkernel_0, dbias_0, dkernel_1, dbias_1,
):  # fmt: skip
    """dout (R, C) -> dx (R, C), and a part a group of every other gradient, kernels flat. A piece is a group."""
    c, m, row, long = x.shape[1], hidden.shape[1], x.shape[1] + WIDTH, CHUNK + WIDTH
    rows_in, drows_in, drows_out, units = x.reshape(-1), dx.reshape(-1), dout.reshape(-1), hidden.reshape(-1)
    norm, normed, dnorm = aligned(BLOCK * row, x), aligned(BLOCK * row, x), aligned(BLOCK * row, x)
    part, dpart = aligned(BLOCK * long, x), aligned(BLOCK * long, x)
    rstd, panels, zeros = np.empty(BLOCK, x.dtype), aligned(BLOCK * CHUNK, x), np.zeros(CHUNK, x.dtype)
    dpanels, zero = aligned(BLOCK * c, x), x.dtype.type(0)
    blocks, groups, g = -(-len(x) // BLOCK), len(dscale), take(counter)
    while g < groups:
        dkernel_0[g] = zero
        dkernel_1[g] = zero
        dbias_0[g] = zero
        dbias_1[g] = zero
        dscale[g] = zero
        dbias[g] = zero
        for number in range(g * blocks // groups, (g + 1) * blocks // groups):
            start = number * BLOCK
            rows, at = min(BLOCK, len(x) - start), start * c
            standardise(rows_in, at, c, c, rows, norm, row, rstd)
            scale_rows(norm, row, c, rows, scale, bias, normed)
            # forward: out = x + hidden @ kernel_1 + bias_1
            add_column_sums(drows_out, at, c, c, rows, dbias_1[g])
            drows_in[at : at + rows * c] = drows_out[at : at + rows * c]
            pack(drows_out, at, c, rows, c, rows * width, width, dpanels, 0)
            dnorm[:] = zero
            for j in range(0, m, CHUNK):
                n = min(CHUNK, m - j)
                for r in range(rows):
                    kept, unit = units[(start + r) * m + j :], part[r * long : r * long + n]
                    for e in range(n):
                        unit[e] = kept[e]
                # fmt: off
                product(dkernel_1[g], j * c, c, dkernel_1[g], j * c, c, part, 0, 1, long,
                        dpanels, 0, rows * width, n, c, rows)
                product(dpart, 0, long, zeros, 0, 0, drows_out, at, c, 1,
                        turned_1, j * c, c * width, rows, n, c)
                # fmt: on
                # forward: hidden = max(normed @ kernel_0 + bias_0, 0)
                for r in range(rows):
                    unit, slope = part[r * long : r * long + n], dpart[r * long : r * long + n]
                    for e in range(n):
                        slope[e] = slope[e] if unit[e] > zero else zero
                add_column_sums(dpart, 0, long, n, rows, dbias_0[g, j : j + n])
                # fmt: off
                add_outer(product, normed, 0, row, c, dpart, 0, long, n, rows, width, panels,
                          dkernel_0[g], j, m)
                product(dnorm, 0, row, dnorm, 0, row, dpart, 0, long, 1,
                        turned_0, j * width, m * width, rows, c, n)
                # fmt: on
            standardise_backward(dnorm, row, c, rows, norm, rstd, scale, dscale[g], dbias[g], drows_in, at)
        g = take(counter)


# ----- Sums -----


@compiled
def add_parts(counter, parts, out, chunk):
    """The sum of parts (groups, n) in their order -> out (n,), `chunk` numbers a piece."""
    start = take(counter) * chunk
    while start < len(out):
        into = out[start : start + chunk]
        for g in range(len(parts)):
            part = parts[g, start : start + chunk]
            if g:
                for i in range(len(into)):
                    into[i] += part[i]
            else:
                for i in range(len(into)):
                    into[i] = part[i]
        start = take(counter) * chunk


@compiled
def add_rows(rows, index, out):
    """out[index[r]] += rows[r]."""
    for r in range(len(rows)):
        part, into = rows[r], out[index[r]]
        for j in range(len(part)):
            into[j] += part[j]
