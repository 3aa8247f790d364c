"""The MLP compiled: a block of rows goes through all layers, forward and backward, while it is in cache.

Blocks and groups of blocks depend on the number of rows only, and are added in a fixed order: results are equal
bit for bit from run to run and for every number of threads. Hidden widths are padded with zeros to whole vectors:
a padded unit has z = 0 and tanh(z) = 0, so it stays 0. The last layer has one output: dot products, not tiles.

`matmul` (accel/cpu/matmul.py) is given to them as a pointer: compiled once for all.
"""

# mypy: disable-error-code="no-untyped-def,no-untyped-call,call-arg,var-annotated"
from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from accel.cpu.compile import LINE, aligned, compiled, compiled_sum, give_way, look, pause, take
from accel.cpu.matmul import WIDE
from accel.cpu.vector_math import tanh

BLOCK = 64  # rows at most: a layer's activations and its kernel fit the first-level cache
SPINS = 1 << 12  # tests of a waiting thread between two offers of its core to others
GROUPS = 32  # partial gradients at most, so threads that can work at once at most

# Columns of Layout.layers
D_IN, IN_ROW, IN_AT, D_OUT, OUT_ROW, OUT_AT, FLAT_AT, KERNEL_AT, BIAS_AT, TURNED_AT = range(10)


@dataclass(frozen=True, eq=False)
class Layout:
    """Where the layers lie. A layer a row of `layers`: widths in and out, the lengths of padded rows, and
    where in a block's activations (per row of the block), the flat and the packed parameters they begin."""

    layers: NDArray[np.int64]
    acts: int  # numbers per row in a block's activations, the input among them
    widest: int  # the longest padded row
    grads: int  # numbers in padded kernels and biases
    packed: int  # the same with the turned kernels


@lru_cache(maxsize=64)
def layout(widths: tuple[int, ...], itemsize: int) -> Layout:
    """The layout of an MLP of these widths in numbers of itemsize bytes."""
    lanes, line = WIDE // itemsize, LINE // itemsize
    rows = [widths[0], *(-(-width // lanes) * lanes for width in widths[1:-1]), 1]
    layers = np.zeros((len(widths) - 1, 10), dtype=np.int64)
    acts = flat = at = 0
    for i, layer in enumerate(layers):
        layer[[D_IN, IN_ROW, IN_AT, D_OUT, OUT_ROW]] = widths[i], rows[i], acts, widths[i + 1], rows[i + 1]
        acts += rows[i]
        layer[[OUT_AT, FLAT_AT, KERNEL_AT]] = acts, flat, at
        layer[BIAS_AT] = at + widths[i] * rows[i + 1]
        flat, at = flat + (widths[i] + 1) * widths[i + 1], at + (widths[i] + 1) * rows[i + 1]
        at += -at % line
    grads = at
    for i, layer in enumerate(layers[1:], start=1):
        layer[TURNED_AT], at = at, at + widths[i + 1] * rows[i]
        at += -at % line
    return Layout(layers, acts + rows[-1], max(rows), grads, at)


def block_rows(n: int) -> int:
    """Rows of a block for n rows in all: a multiple of 16, such that threads share the blocks evenly."""
    rows = -(-n // (4 * max(1, -(-n // (4 * BLOCK)))))
    return max(16, rows + -rows % 16)


@compiled
def tanh_of(counter, x, out, chunk):
    """tanh of x (n,) -> out (n,), `chunk` numbers a piece."""
    start = take(counter) * chunk
    while start < len(x):
        part, result = x[start : start + chunk], out[start : start + chunk]
        for i in range(len(part)):
            result[i] = tanh(part[i])
        start = take(counter) * chunk


# ----- A block of rows -----


@compiled
def pad(flat, layers, packed):
    """Kernels with padded rows, and biases likewise, out of the flat parameters."""
    for i in range(len(layers)):
        layer = layers[i]
        d_out, row = layer[D_OUT], layer[OUT_ROW]
        for k in range(layer[D_IN] + 1):  # the last row is the bias
            start, at = layer[FLAT_AT] + k * d_out, layer[KERNEL_AT] + k * row
            padded, exact = packed[at : at + d_out], flat[start : start + d_out]
            for j in range(d_out):
                padded[j] = exact[j]


@compiled
def turn(packed, layer, first, end):
    """The rows first..end - 1 of a layer's kernel (in, out) -> columns of the turned kernel (out, in)."""
    at, row, turned, turned_row = layer[KERNEL_AT], layer[OUT_ROW], layer[TURNED_AT], layer[IN_ROW]
    if turned:
        for j in range(layer[D_OUT]):
            column = packed[turned + j * turned_row : turned + (j + 1) * turned_row]
            for k in range(first, end):
                column[k] = packed[at + k * row + j]


@compiled
def pack(flat, layers, packed):
    """Padded kernels and biases, and the turned kernels; the padding is 0 before."""
    pad(flat, layers, packed)
    for i in range(len(layers)):
        turn(packed, layers[i], 0, layers[i, D_IN])


@compiled_sum
def dot(x, y):
    total = x.dtype.type(0)
    for j in range(len(x)):
        total += x[j] * y[j]
    return total


@compiled
def add_rows(x, row, weights, out):
    """out (n,) += the rows of x, `row` numbers each, times their weights: four at a time, so fewer passes."""
    n, whole = len(out), len(weights) - len(weights) % 4
    for r in range(0, whole, 4):
        x_0, x_1 = x[r * row : r * row + n], x[(r + 1) * row : (r + 1) * row + n]
        x_2, x_3 = x[(r + 2) * row : (r + 2) * row + n], x[(r + 3) * row : (r + 3) * row + n]
        w_0, w_1, w_2, w_3 = weights[r], weights[r + 1], weights[r + 2], weights[r + 3]
        for j in range(n):
            out[j] += (w_0 * x_0[j] + w_1 * x_1[j]) + (w_2 * x_2[j] + w_3 * x_3[j])
    for r in range(whole, len(weights)):
        part, weight = x[r * row : r * row + n], weights[r]
        for j in range(n):
            out[j] += weight * part[j]


@compiled
def forward_block(packed, layers, matmul, acts, block, rows):
    """Fills the activations of a block from its input, both in `acts`; the last layer has no tanh."""
    for i in range(len(layers) - 1):
        layer = layers[i]
        x_at, x_row = layer[IN_AT] * block, layer[IN_ROW]
        z_at, z_row = layer[OUT_AT] * block, layer[OUT_ROW]
        # fmt: off
        matmul(acts, z_at, z_row, packed, layer[BIAS_AT], 0, acts, x_at, x_row, 1,
               packed, layer[KERNEL_AT], z_row, rows, z_row, layer[D_IN])
        # fmt: on
        z = acts[z_at : z_at + rows * z_row]
        for j in range(len(z)):
            z[j] = tanh(z[j])
    last = layers[-1]
    d, at, out = last[D_IN], last[IN_AT] * block, acts[last[OUT_AT] * block :]
    kernel, bias = packed[last[KERNEL_AT] : last[KERNEL_AT] + d], packed[last[BIAS_AT]]
    for r in range(rows):
        out[r] = dot(acts[at + r * last[IN_ROW] : at + r * last[IN_ROW] + d], kernel) + bias


@compiled
def last_backward(packed, last, acts, block, slopes, dx, grads):
    """Adds a block's part of the last layer's gradient; slopes (rows,) of its outputs -> dx (rows IN_ROW,)."""
    d, row, at, one = last[D_IN], last[IN_ROW], last[IN_AT] * block, packed.dtype.type(1)
    # forward: out = x @ kernel + bias
    add_rows(acts[at:], row, slopes, grads[last[KERNEL_AT] : last[KERNEL_AT] + d])
    for r in range(len(slopes)):
        grads[last[BIAS_AT]] += slopes[r]
    if last[TURNED_AT]:
        turned = packed[last[TURNED_AT] : last[TURNED_AT] + row]
        for r in range(len(slopes)):
            # forward: x = tanh(z), whose derivative is 1 - x^2
            x, into, slope = acts[at + r * row : at + (r + 1) * row], dx[r * row : (r + 1) * row], slopes[r]
            for j in range(row):
                into[j] = slope * turned[j] * (one - x[j] * x[j])


@compiled
def backward_block(packed, layers, matmul, acts, block, rows, dz, grads):
    """Adds a block's part to the padded grads. dz (4, block * widest): the first row begins with the slopes
    of the last layer's outputs; the second is scratch; the third is 0, the fourth 1."""
    one, zeros, ones = dz.dtype.type(1), dz[2], dz[3, :rows]
    last_backward(packed, layers[-1], acts, block, dz[0, :rows], dz[1], grads)
    for i in range(len(layers) - 2, -1, -1):
        layer = layers[i]
        x_at, x_row, z_row = layer[IN_AT] * block, layer[IN_ROW], layer[OUT_ROW]
        dout, dx = dz[(len(layers) - 1 - i) % 2], dz[(len(layers) - i) % 2]
        # forward: out = x @ kernel + bias
        kernel = layer[KERNEL_AT]
        add_rows(dout, z_row, ones, grads[layer[BIAS_AT] : layer[BIAS_AT] + z_row])
        # fmt: off
        matmul(grads, kernel, z_row, grads, kernel, z_row, acts, x_at, 1, x_row,
               dout, 0, z_row, layer[D_IN], z_row, rows)
        if i:
            matmul(dx, 0, x_row, zeros, 0, 0, dout, 0, z_row, 1,
                   packed, layer[TURNED_AT], x_row, rows, x_row, layer[D_OUT])
            # fmt: on
            # forward: x = tanh(z), whose derivative is 1 - x^2
            x = acts[x_at : x_at + rows * x_row]
            for j in range(len(x)):
                dx[j] *= one - x[j] * x[j]


@compiled
def unpack(packed, layers, flat):
    """The flat gradient out of the padded one."""
    for i in range(len(layers)):
        layer = layers[i]
        d_out, row = layer[D_OUT], layer[OUT_ROW]
        for k in range(layer[D_IN] + 1):
            start, at = layer[FLAT_AT] + k * d_out, layer[KERNEL_AT] + k * row
            padded, exact = packed[at : at + d_out], flat[start : start + d_out]
            for j in range(d_out):
                exact[j] = padded[j]


# ----- Blocks one after the other -----


@compiled
def clear(out):
    """Fills out (n,) with 0."""
    for i in range(len(out)):
        out[i] = 0


@compiled
def slopes_scratch(block, widest, like):
    """What `backward_block` works in: dz (4, block * widest)."""
    dz = aligned(4 * block * widest, like).reshape(4, block * widest)
    clear(dz[2])
    for j in range(len(dz[3])):
        dz[3, j] = 1
    return dz


@compiled
def forward_rows(number, packed, layers, matmul, x, block, acts, out):
    """Block `number` of x (n, d) -> its part of out (n,), and its activations, kept for `backward`."""
    d, at, start = x.shape[1], layers[-1, OUT_AT] * block, number * block
    count, acts = min(block, len(x) - start), acts[number]
    for r in range(count):
        for k in range(d):
            acts[r * d + k] = x[start + r, k]
    forward_block(packed, layers, matmul, acts, block, count)
    for r in range(count):
        out[start + r] = acts[at + r]


@compiled
def backward_rows(g, packed, layers, matmul, dout, block, widest, acts, parts):
    """The blocks of group g, out of dout (n,) and their activations -> parts[g]."""
    clear(parts[g])
    dz = slopes_scratch(block, widest, parts)
    for number in range(g * len(acts) // len(parts), (g + 1) * len(acts) // len(parts)):
        start = number * block
        count = min(block, len(dout) - start)
        for r in range(count):
            dz[0, r] = dout[start + r]
        backward_block(packed, layers, matmul, acts[number], block, count, dz, parts[g])


@compiled
def margin_scratch(block, acts_row, widest, parts):
    """What `margin_rows` works in: activations, slopes (3, block * widest), and three numbers a comparison."""
    acts, dz = aligned(block * acts_row, parts), slopes_scratch(block, widest, parts)
    return acts, dz, np.empty((3, block // 2), parts.dtype)


@compiled
def margin_rows(g, packed, layers, matmul, x_a, x_b, y, loss, block, scratch, parts):
    """sum loss(mlp(x_a) - mlp(x_b), y) / B over the comparisons of group g; its gradient -> parts[g]."""
    clear(parts[g])
    d, at, half = x_a.shape[1], layers[-1, OUT_AT] * block, block // 2
    acts, dz, numbers = scratch
    blocks, share, total = -(-len(y) // half), 1.0 / len(y), 0.0
    for number in range(g * blocks // len(parts), (g + 1) * blocks // len(parts)):
        start = number * half
        count = min(half, len(y) - start)
        for r in range(count):
            for k in range(d):
                acts[r * d + k] = x_a[start + r, k]
                acts[(count + r) * d + k] = x_b[start + r, k]
        forward_block(packed, layers, matmul, acts, block, 2 * count)
        margin, value, slope = numbers[0, :count], numbers[1, :count], numbers[2, :count]
        for r in range(count):
            margin[r] = acts[at + r] - acts[at + count + r]
        loss(margin, y[start : start + count], value, slope)
        for r in range(count):
            total += value[r] * share
            # forward: margin = omega of x_a - omega of x_b
            dz[0, r] = slope[r] * share
            dz[0, count + r] = -slope[r] * share
        backward_block(packed, layers, matmul, acts, block, 2 * count, dz, parts[g])
    return total


# ----- All blocks, in pieces that threads take -----


@compiled
def forward(counter, packed, layers, matmul, x, block, acts, out):
    """x (n, d) -> out (n,); acts (blocks, block * acts per row) is kept for `backward`. A piece is a block."""
    number = take(counter)
    while number < len(acts):
        forward_rows(number, packed, layers, matmul, x, block, acts, out)
        number = take(counter)


@compiled
def backward(counter, packed, layers, matmul, dout, block, widest, acts, parts):
    """dout (n,) -> parts (groups, padded grads). A piece is a group of blocks."""
    g = take(counter)
    while g < len(parts):
        backward_rows(g, packed, layers, matmul, dout, block, widest, acts, parts)
        g = take(counter)


@compiled
def margin_step(counter, packed, layers, matmul, x_a, x_b, y, loss, block, acts_row, widest, parts, values):
    """Both sides of every comparison forward, the loss, and backward, a block at a time; a piece is a group.

    x_a, x_b (B, d), y (B,) -> parts (groups, padded grads), and values (groups,), whose
    sum is the mean loss. block: rows, even: the left sides above the right sides.
    """
    scratch = margin_scratch(block, acts_row, widest, parts)
    g = take(counter)
    while g < len(parts):
        values[g] = margin_rows(g, packed, layers, matmul, x_a, x_b, y, loss, block, scratch, parts)
        g = take(counter)


@compiled
def add_groups(parts, layers, flat):
    """The flat gradient: the groups' gradients added to the first one's in their order, without the padding."""
    total = parts[0]
    for g in range(1, len(parts)):
        part = parts[g]
        for j in range(len(total)):
            total[j] += part[j]
    unpack(total, layers, flat)


# ----- Many steps, with Adam between them -----


@compiled
def wait_for(done, number):
    """Returns when `number` pieces are done. Sleeping and waking would take longer than most waits."""
    spins = 0
    while look(done) < number:
        spins += 1
        if spins % SPINS:
            pause()
        else:
            give_way()


@compiled
def update_rows(s, slices, packed, layers, parts, adam, m, v, lr, b1, c1, b2, c2, eps, m_scale, v_scale):
    """Slice s of all rows of kernels and biases: the groups' gradients added in their order, then Adam on the
    packed parameters, and the turned kernels. m, v: padded."""
    rows, start = 0, 0
    for i in range(len(layers)):
        rows += layers[i, D_IN] + 1
    first, end = s * rows // slices, (s + 1) * rows // slices
    for i in range(len(layers)):
        layer = layers[i]
        k, stop = max(first - start, 0), min(end - start, layer[D_IN] + 1)
        if k < stop:
            lo, hi = layer[KERNEL_AT] + k * layer[OUT_ROW], layer[KERNEL_AT] + stop * layer[OUT_ROW]
            total = parts[0, lo:hi]
            for g in range(1, len(parts)):
                part = parts[g, lo:hi]
                for j in range(len(total)):
                    total[j] += part[j]
            adam(packed, parts[0], m, v, lo, hi, lr, b1, c1, b2, c2, eps, m_scale, v_scale)
            turn(packed, layer, k, min(stop, layer[D_IN]))
        start += layer[D_IN] + 1


@compiled
def margin_steps(
    counter, done, packed, layers, matmul, x_a, x_b, y, loss, block, acts_row, widest, parts, values,
    adam, m, v, rates, b1, c1, b2, c2, eps, slices,
):  # fmt: skip
    """Steps of Adam on the mean loss, rates (steps, 3) each: lr, m_scale, v_scale -> values (steps, groups).

    packed, m and v (padded) change in place. A step's pieces are its groups, then slices of its parameters. All
    steps' pieces are numbered in one row, and each waits for what it needs of those before it: they are held by
    threads that run, so however few threads have begun, all ends.
    """
    scratch = margin_scratch(block, acts_row, widest, parts)
    groups, pieces = len(parts), len(parts) + slices
    number = take(counter)
    while number < len(rates) * pieces:
        step, piece = number // pieces, number % pieces
        if piece < groups:
            wait_for(done, number - piece)
            value = margin_rows(piece, packed, layers, matmul, x_a, x_b, y, loss, block, scratch, parts)
            values[step, piece] = value
        else:
            wait_for(done, number - piece + groups)
            lr, m_scale, v_scale = rates[step]
            s = piece - groups
            update_rows(s, slices, packed, layers, parts, adam, m, v, lr, b1, c1, b2, c2, eps, m_scale, v_scale)
        take(done)
        number = take(counter)
