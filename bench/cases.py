"""Every op alone, at sizes from launch-bound to memory-bound, with the bytes and operations it needs at least.

Bytes: every input read once and every output written once. Operations: one for each +, *, exp, tanh and the like.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from accel import Ops, buffers
from accel.losses import logistic
from accel.mlp import WIDTHS, mlp_init
from accel.packing import pack

SIZES = tuple(1 << power for power in (10, 13, 16, 19, 22))  # numbers of the largest array, about
CHANNELS, VOCAB, POINTS, LENGTH, LONG, HEADS = 512, 4096, 1024, 32, 128, 8
WEIGHTS = sum(a * b for a, b in itertools.pairwise(WIDTHS))
UNITS = sum(WIDTHS[1:-1])

Call = Callable[[], Any]


@dataclass(frozen=True, eq=False)
class Case:
    """One op at one size. make(ops, dtype): a call that returns what is checked, its arrays where ops computes."""

    op: str
    size: int
    moved: float
    operations: float
    make: Callable[[Ops, Any], Call]


def cases(sizes: Sequence[int] = SIZES) -> Iterator[Case]:
    """Every op from the smallest size to the largest."""
    for make in (layers, outputs, draws, attentions, comparisons, networks):
        seen: set[tuple[str, int]] = set()  # the smallest sizes may come to the same
        for case in (case for size in sizes for case in make(size)):
            if (case.op, case.size) not in seen:
                seen.add((case.op, case.size))
                yield case


def noise(ops: Ops, dtype: Any, *shape: int, seed: int = 0) -> Any:
    """Standard normal numbers on the device, the same for every backend."""
    values = np.random.default_rng((seed, *shape)).standard_normal(shape, dtype=np.float32)
    return ops.xp.asarray(values.astype(dtype))


def pair(
    name: str, size: int, moved: tuple[float, float], work: tuple[float, float], arrays: Any
) -> Iterator[Case]:
    """x_forward and x_backward. moved, work: numbers (not bytes) and operations of each; arrays(ops, dtype): the
    forward's arguments."""

    def forward(ops: Ops, dtype: Any) -> Call:
        arguments = arrays(ops, dtype)
        return lambda: getattr(ops, f"{name}_forward")(*arguments)[0]

    def backward(ops: Ops, dtype: Any) -> Call:
        out, cache = getattr(ops, f"{name}_forward")(*arrays(ops, dtype))
        dout = noise(ops, dtype, *out.shape, seed=9)
        return lambda: getattr(ops, f"{name}_backward")(dout, cache)

    for kind, make, numbers, operations in zip(
        ("forward", "backward"), (forward, backward), moved, work, strict=True
    ):
        yield Case(f"{name}_{kind}", size, 4 * numbers, operations, make)


def layers(size: int) -> Iterator[Case]:
    """Rows of CHANNELS numbers."""
    rows = max(1, size // CHANNELS)
    n = rows * CHANNELS

    def of(*shapes: tuple[int, ...]) -> Callable[[Ops, Any], Any]:
        return lambda ops, dtype: [noise(ops, dtype, *shape, seed=i) for i, shape in enumerate(shapes)]

    row = (CHANNELS,)
    yield from pair("tanh", n, (2 * n, 3 * n), (n, 3 * n), of((rows, CHANNELS)))
    yield from pair("bias_relu", n, (2 * n, 3 * n), (2 * n, 2 * n), of((rows, CHANNELS), row))
    yield from pair("layer_norm", n, (2 * n, 3 * n), (8 * n, 12 * n), of((rows, CHANNELS), row, row))

    def embedding(ops: Ops, dtype: Any) -> Any:
        tokens = np.random.default_rng(1).integers(0, VOCAB, rows)
        return noise(ops, dtype, VOCAB, CHANNELS), ops.xp.asarray(tokens)

    table = VOCAB * CHANNELS
    yield from pair("embedding", n, (2 * n, n + table), (0, n), embedding)

    def adam(ops: Ops, dtype: Any) -> Call:
        rate = 1e-3
        params, grads, m, v = (noise(ops, dtype, n, seed=i) for i in range(4))
        params *= rate  # as large as an update: an error of the update is one of the parameters
        v *= v

        def step() -> Any:
            ops.adam_step(params, grads, m, v, 1, rate)
            return params, m, v

        return step

    yield Case("adam_step", n, 4 * 7 * n, 13 * n, adam)


def outputs(size: int) -> Iterator[Case]:
    """The output layer, 64 channels to VOCAB logits a row, and its log-probabilities."""
    rows, channels = max(1, size // VOCAB), 64
    n = rows * VOCAB

    def arrays(ops: Ops, dtype: Any) -> Any:
        shapes = ((rows, channels), (channels, VOCAB), (VOCAB,))
        targets = np.random.default_rng(2).integers(0, VOCAB, rows)
        return *(noise(ops, dtype, *shape, seed=3) for shape in shapes), ops.xp.asarray(targets)

    weights, products = channels * VOCAB, 2.0 * n * channels
    moved = (weights + rows * channels, 2 * weights + 2 * rows * channels)
    yield from pair("token_log_p", n, moved, (products + 4 * n, 2 * products + 4 * n), arrays)


def draws(size: int) -> Iterator[Case]:
    """Random numbers, some 70 operations for two of them; and tokens, a row of VOCAB logits each."""
    rows, channels = max(1, size // VOCAB), 64
    n = rows * VOCAB

    def next_token(ops: Ops, dtype: Any) -> Call:
        x, kernel = noise(ops, dtype, rows, channels), noise(ops, dtype, channels, VOCAB)
        bias, chance = noise(ops, dtype, VOCAB), ops.uniform(4, 1, rows)[0]
        return lambda: ops.next_token(x, kernel, bias, chance)

    yield Case("uniform", n, 8.0 * n, 35.0 * n, lambda ops, dtype: lambda: ops.uniform(4, rows, VOCAB))
    moved = 4.0 * (channels * VOCAB + rows * channels) + 8 * rows
    yield Case("next_token", n, moved, 2.0 * n * channels + 5 * n, next_token)


def attentions(size: int) -> Iterator[Case]:
    """Sequences of LENGTH tokens, and of LONG, which a GPU takes by products; HEADS heads of 64 channels."""
    for length in (LENGTH, LONG):
        count = max(1, size // (length * HEADS * 64))
        n = count * length * HEADS * 64

        def arrays(ops: Ops, dtype: Any, count: int = count, length: int = length) -> Any:
            groups = pack(np.ones((count, length), np.int64), 2, length, xp=ops.xp).groups
            return *(noise(ops, dtype, count * length, HEADS, 64, seed=i) for i in range(3)), groups

        seen = n * (length + 1) / 2  # products of a query's channel with the keys up to it
        for case in pair("attention", n, (4 * n, 7 * n), (4 * seen, 10 * seen), arrays):
            yield replace(case, op=f"{case.op}{f'_{LONG}' * (length == LONG)}")


def comparisons(size: int) -> Iterator[Case]:
    """size comparisons of POINTS points."""
    index = np.random.default_rng(4).integers(0, POINTS, (2, size))

    def margin_loss(ops: Ops, dtype: Any) -> Call:
        y = np.random.default_rng(5).integers(0, 2, size)
        pairs, omega = ops.pairs(index[0], index[1], y, None, POINTS), noise(ops, dtype, POINTS)
        return lambda: ops.margin_loss(omega, pairs, logistic)

    def mixture_loss(ops: Ops, dtype: Any) -> Call:
        y = np.random.default_rng(5).integers(0, 2, size)
        pairs, r = ops.pairs(index[0], index[1], y, None, POINTS), noise(ops, dtype, 2, POINTS)
        return lambda: ops.mixture_loss(r, r[:, 0], pairs)

    def scatter(ops: Ops, dtype: Any) -> Call:
        where, values = ops.xp.asarray(index[0]), noise(ops, dtype, size)
        return lambda: ops.scatter(where, values, POINTS)

    distinct = len(np.unique(index[0] * POINTS + index[1]))
    yield Case("margin_loss", size, 24.0 * distinct + 8 * POINTS, 14.0 * distinct, margin_loss)
    yield Case("mixture_loss", size, 24.0 * distinct + 16 * POINTS, 50.0 * distinct, mixture_loss)
    yield Case("scatter", size, 12.0 * size + 4 * POINTS, float(size), scatter)


def networks(size: int) -> Iterator[Case]:
    """The network of the density experiments, size / 64 rows."""
    rows = max(2, size // 64)

    def params(ops: Ops, dtype: Any) -> Any:
        return buffers.flatten(mlp_init(np.random.default_rng(6), WIDTHS), ops.xp, dtype)[1]

    def arrays(ops: Ops, dtype: Any) -> Any:
        return params(ops, dtype), noise(ops, dtype, rows, 1)

    def step(ops: Ops, dtype: Any) -> Call:
        first, x = params(ops, dtype), noise(ops, dtype, rows // 2, 2)
        y = ops.xp.asarray(np.arange(rows // 2) % 2, dtype=dtype)
        return lambda: ops.mlp_margin_step(first, x[:, 0], x[:, 1], y, logistic)

    forward, backward = 2.0 * rows * WEIGHTS, 4.0 * rows * WEIGHTS
    tanhs = float(rows * UNITS)
    moved, n = (2 * rows + WEIGHTS, rows * (UNITS + 1) + 2 * WEIGHTS), rows * 64
    yield from pair("mlp", n, moved, (forward + tanhs, backward + 3 * tanhs), arrays)
    yield Case("mlp_margin_step", n, 8.0 * WEIGHTS + 6 * rows, forward + backward + 4 * tanhs, step)
