"""Drawing sequences compiled: a thread keeps a few going through all layers, token by token.

Each stands in a slot, at a place of its own; when it ends, the next one takes the slot, so that products never run
out of rows, and the keys and values of so few stay in cache. What a sequence becomes hangs on its own numbers: not
on its slot, its company or the number of threads. Widths are multiples of WIDTH. Letters: C channels, H heads, D
channels of a head, N = H D, M hidden units, V vocabulary padded to whole vectors, T places.

What belongs elsewhere is given to them as pointers (`Pointers`): compiled once for all.
"""

# mypy: disable-error-code="no-untyped-def,no-untyped-call,call-arg,var-annotated"
from __future__ import annotations

import math
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from accel.buffers import Array
from accel.cpu import layers as cpu_layers
from accel.cpu import matmul as cpu_matmul
from accel.cpu import output as cpu_output
from accel.cpu.compile import aligned, compiled, take
from accel.cpu.matmul import VECTOR, tile

WIDTH = 16  # numbers: two vectors of float32, four of float64
CHUNK = 64  # hidden units at a time
LOW = -math.inf  # a score of no weight
TILE = 6  # rows of the product's tiles
CACHE = 1 << 22  # bytes of keys and values that a thread keeps
MOST = 8 * TILE  # slots

tile_1x4, tile_1x2 = tile(1, 4), tile(1, 2)


class Decoder(NamedTuple):
    """The Transformer as the compiled loop takes it: kernels in panels, a layer a row."""

    table: Array  # (V, C)
    place: Array  # (T, C)
    norms: Array  # (layers, 4, C): scale and bias before attention, scale and bias before the MLP
    projections: Array  # (layers, 3, C N): to query, key, value
    mixing: Array  # (layers, N C)
    kernel_0: Array  # (layers, C M)
    bias_0: Array  # (layers, M)
    kernel_1: Array  # (layers, M C)
    bias_1: Array  # (layers, C)
    norm: Array  # (2, C)
    kernel: Array  # (C V,)
    bias: Array  # (V,)


class Pointers(NamedTuple):
    """Compiled functions of other files."""

    product: Any  # cpu_matmul.product
    norm: Any  # cpu_layers.norm
    softmax: Any  # cpu_output.softmax
    choose: Any  # cpu_output.choose


class Rows(NamedTuple):
    """What the slots work in. Rows are WIDTH longer than need be: powers of two share places of the cache."""

    x: Array  # (slots (C + WIDTH),)
    normed: Array  # the same
    query: Array  # (slots (N + WIDTH),)
    key: Array
    value: Array
    mixed: Array
    hidden: Array  # (slots (CHUNK + WIDTH),)
    weights: Array  # (T padded,): of one head's attention
    zeros: Array


@lru_cache(maxsize=2)
def pointers(dtype: str) -> Pointers:
    """Those for numbers of a dtype."""
    names = (cpu_matmul.product, cpu_layers.norm, cpu_output.softmax, cpu_output.choose)
    return Pointers(*(name(dtype) for name in names))


def slots(size: int) -> int:
    """Sequences that a thread keeps going at once, whose keys and values take `size` bytes each: whole tiles."""
    return max(2 * TILE, min(MOST, CACHE // size // TILE * TILE))


def kept_places(length: int, itemsize: int) -> int:
    """Places of `length` tokens' keys, in whole panels."""
    return length + -length % (4 * VECTOR // itemsize)


@compiled
def keep(rows, at, store, keys_at, places, d, t):
    """The key and the value of one head, at `at` of their rows, enter the store as place t."""
    wide = 4 * VECTOR // store.itemsize
    panel, values_at = keys_at + t // wide * wide * d + t % wide, keys_at + places * d + t * d
    for e in range(d):
        store[panel + e * wide] = rows.key[at + e]
        store[values_at + e] = rows.value[at + e]


@compiled
def attend(softmax, rows, at, store, keys_at, places, d, t):
    """One head's query at `at` over t places -> mixed at `at`. In store, from keys_at on: the keys, turned, in
    panels of four vectors of places; then the values (places, D)."""
    query, weights, mixed, zeros = rows.query, rows.weights, rows.mixed, rows.zeros
    lanes, padded = VECTOR // store.itemsize, t + -t % (4 * VECTOR // store.itemsize)
    wide = 4 * lanes
    for j in range(0, padded, wide):
        tile_1x4(weights, j, 0, zeros, 0, 0, query, at, 0, 1, store, keys_at + j * d, wide, d)
    weights[t:padded] = LOW
    softmax(weights[:padded])
    values_at, j = keys_at + places * d, 0
    while d - j >= wide:
        tile_1x4(mixed, at + j, 0, zeros, 0, 0, weights, 0, 0, 1, store, values_at + j, d, t)
        j += wide
    while j < d:
        tile_1x2(mixed, at + j, 0, zeros, 0, 0, weights, 0, 0, 1, store, values_at + j, d, t)
        j += 2 * lanes


@compiled
def attention_layer(pointers, model, layer, heads, width, count, at, home, store, places, rows):
    """x + attend(norm(x) W_query, norm(x) W_key, norm(x) W_value) W_out, in place."""
    layers, c = model.bias_1.shape
    n, m, row = model.mixing.shape[1] // c, count + -count % TILE, c + WIDTH
    d, long = n // heads, n + WIDTH
    norms, room, factor = model.norms[layer], 2 * places * d, store.dtype.type(1 / math.sqrt(d))
    pointers.norm(rows.x, row, m, norms[0], norms[1], rows.normed)
    for i in range(3):
        out = rows.query if i == 0 else (rows.key if i == 1 else rows.value)
        # fmt: off
        pointers.product(out, 0, long, rows.zeros, 0, 0, rows.normed, 0, row, 1,
                         model.projections[layer, i], 0, c * width, m, n, c)
        # fmt: on
    for i in range(count):
        query = rows.query[i * long : i * long + n]
        for j in range(n):
            query[j] *= factor
        for h in range(heads):
            start, keys_at = i * long + h * d, ((home[i] * layers + layer) * heads + h) * room
            keep(rows, start, store, keys_at, places, d, at[i])
            attend(pointers.softmax, rows, start, store, keys_at, places, d, at[i] + 1)
    # fmt: off
    pointers.product(rows.x, 0, row, rows.x, 0, row, rows.mixed, 0, long, 1,
                     model.mixing[layer], 0, n * width, m, c, n)
    # fmt: on


@compiled
def mlp_layer(pointers, model, layer, width, count, rows):
    """x + relu(norm(x) W_0 + b_0) W_1 + b_1, in place."""
    c, units = model.bias_1.shape[1], model.bias_0.shape[1]
    m, row, long, zero = count + -count % TILE, c + WIDTH, CHUNK + WIDTH, rows.x.dtype.type(0)
    norms, bias = model.norms[layer], model.bias_1[layer]
    pointers.norm(rows.x, row, m, norms[2], norms[3], rows.normed)
    for i in range(m):
        into = rows.x[i * row : i * row + c]
        for j in range(c):
            into[j] += bias[j]
    for j in range(0, units, CHUNK):
        n = min(CHUNK, units - j)
        # fmt: off
        pointers.product(rows.hidden, 0, long, model.bias_0[layer], j, 0, rows.normed, 0, row, 1,
                         model.kernel_0[layer], j * c, c * width, m, n, c)
        for i in range(m):
            hidden = rows.hidden[i * long : i * long + n]
            for e in range(n):
                hidden[e] = hidden[e] if not hidden[e] <= zero else zero  # NaN stays NaN
        pointers.product(rows.x, 0, row, rows.x, 0, row, rows.hidden, 0, long, 1,
                         model.kernel_1[layer], j * width, units * width, m, c, n)
        # fmt: on


@compiled
def decode(pointers, model, heads, width, count, last, at, home, store, places, rows, logits):
    """The logits (slots, V) after the tokens `last` (count,), which stand at the places `at` of their sequences;
    home: where in store those have their keys and values."""
    c, v = model.bias_1.shape[1], len(model.bias)
    m, row = count + -count % TILE, c + WIDTH  # whole tiles: what the rows from count on hold does not matter
    for i in range(count):
        into, token, place = rows.x[i * row : i * row + c], model.table[last[i]], model.place[at[i]]
        for j in range(c):
            into[j] = token[j] + place[j]
    for layer in range(len(model.bias_1)):
        attention_layer(pointers, model, layer, heads, width, count, at, home, store, places, rows)
        mlp_layer(pointers, model, layer, width, count, rows)
    pointers.norm(rows.x, row, m, model.norm[0], model.norm[1], rows.normed)
    # fmt: off
    pointers.product(logits, 0, v, model.bias, 0, 0, rows.normed, 0, row, 1,
                     model.kernel, 0, c * width, m, v, c)
    # fmt: on


@compiled
def rows_for(slots, c, n, places, like):
    """Rows of numbers of like's type. Zeros, so that no row holds what is no number."""
    x, normed = aligned(slots * (c + WIDTH), like), aligned(slots * (c + WIDTH), like)
    query, key = aligned(slots * (n + WIDTH), like), aligned(slots * (n + WIDTH), like)
    value, mixed = aligned(slots * (n + WIDTH), like), aligned(slots * (n + WIDTH), like)
    x[:] = 0
    mixed[:] = 0
    hidden, weights = aligned(slots * (CHUNK + WIDTH), like), aligned(places, like)
    return Rows(x, normed, query, key, value, mixed, hidden, weights, np.zeros(max(n, places), like.dtype))


@compiled
def draw(counter, pointers, model, heads, width, slots, places, vocabulary, eos, uniform, tokens, log_p, ended):
    """uniform (S, T) -> tokens (S, T), 0 after the end, their log-likelihoods (S,), and which of them ended with
    eos. A piece is a sequence; a thread holds up to `slots` at a time, whole tiles."""
    (size, length), (layers, c), like = uniform.shape, model.bias_1.shape, model.bias
    n, v = model.mixing.shape[1] // c, len(like)
    rows, logits = rows_for(slots, c, n, places, like), aligned(slots * v, like)
    store = aligned(slots * layers * 2 * places * n, like)
    store[:] = 0
    which, at, last = np.zeros(slots, np.int64), np.zeros(slots, np.int64), np.zeros(slots, np.int64)
    home, chosen, chosen_log_p = np.arange(slots), np.zeros(slots, np.int64), np.zeros(slots)
    chance, count, more = np.zeros(slots), 0, True
    while True:
        while more and count < slots:
            which[count], at[count], last[count] = take(counter), 0, 0
            more = which[count] < size
            count += more
        if count == 0:
            break
        decode(pointers, model, heads, width, count, last, at, home, store, places, rows, logits)
        for i in range(count):
            chance[i] = uniform[which[i], at[i]]
        pointers.choose(logits, count, v, vocabulary, chance, chosen, chosen_log_p)
        for i in range(count - 1, -1, -1):  # from the last on: it takes the slot of one that ended
            s, token = which[i], chosen[i]
            tokens[s, at[i]] = token
            log_p[s] += chosen_log_p[i]
            at[i], last[i] = at[i] + 1, token
            if token == eos or token == 0 or at[i] == length:
                ended[s] = token == eos
                count -= 1
                which[i], at[i], last[i] = which[count], at[count], last[count]
                home[i], home[count] = home[count], home[i]
