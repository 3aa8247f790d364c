"""A few launches of every kernel against the plain ops, in float64: ragged shapes, none of a thing, many warps.

What the mutants must fail. An example takes the raw `CupyOps` and raises where it differs.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from accel import Ops, buffers, losses
from accel.adam import constants
from accel.cuda.graph import added
from accel.cuda.kernel_table import LOSSES
from accel.cuda.ops import CupyOps
from accel.packing import pack
from accel.sampling import draw_by_token
from accel.transformer_params import OUTPUT, TransformerConfig, transformer_init
from tests import checks
from tests.backends import OnDevice

Array = NDArray[Any]
PLAIN = Ops()


def rng_of(*sizes: int) -> np.random.Generator:
    return np.random.default_rng(sizes)


def same(found: Any, expected: Any) -> None:
    """Two results, tuples or dicts of arrays, in another order of summation; NaN is nowhere."""
    if isinstance(expected, tuple):
        for one, other in zip(found, expected, strict=True):
            same(one, other)
    elif isinstance(expected, dict):
        assert list(found) == list(expected)
        same(tuple(found.values()), tuple(expected.values()))
    elif np.size(expected):
        assert np.all(np.isfinite(found))
        checks.assert_close(found, expected, checks.BACKENDS)
    else:
        assert np.shape(found) == np.shape(expected)


def both(ops: CupyOps, forward: str, backward: str, *arguments: Any) -> None:
    """A pair of methods with gradients of noise."""
    results = []
    for each in (OnDevice(ops), PLAIN):
        out, cache = getattr(each, forward)(*arguments)
        results.append((out, getattr(each, backward)(rng_of(7).standard_normal(out.shape), cache)))
    same(*results)


def column_sums(ops: CupyOps) -> None:
    for rows, columns in ((1, 3), (2, 33), (9, 31), (127, 1), (128, 32), (129, 70), (300, 5)):
        x = rng_of(rows, columns).standard_normal((rows, columns))
        same(ops._added(ops.xp.asarray(x.reshape(-1)), columns).get(), x.sum(axis=0))


def sums_of_few_rows(ops: CupyOps) -> None:
    for rows, columns in ((1, 3), (2, 33), (9, 31), (17, 1), (130, 32), (8, 70)):
        x = rng_of(rows, columns).standard_normal((rows, columns))
        total, call = added(ops.lib, ops.xp.asarray(x.reshape(-1)), columns)
        ops.lib.launch(*call)
        same(total.get(), x.sum(axis=0))


def biases(ops: CupyOps) -> None:
    for rows, columns in ((0, 5), (1, 1), (9, 33), (17, 64), (130, 70)):
        rng = rng_of(rows, columns)
        x, bias = rng.standard_normal((rows, columns)), rng.standard_normal(columns)
        both(ops, "bias_relu_forward", "bias_relu_backward", x, bias)
        rows_of = rng.standard_normal(x.shape)
        same(OnDevice(ops).residual(x, rows_of, bias), x + rows_of + bias)
    for rows in (1, 140):
        both(ops, "mlp_forward", "mlp_backward", network(3, 70, 66, 1), rng_of(rows).standard_normal((rows, 3)))


def layer_norms(ops: CupyOps) -> None:
    for rows, columns in ((1, 3), (5, 33), (9, 64), (130, 70), (3, 300)):
        rng = rng_of(rows, columns)
        x, (scale, bias) = 3 + rng.standard_normal((rows, columns)), rng.standard_normal((2, columns))
        both(ops, "layer_norm_forward", "layer_norm_backward", x, scale, bias)
        found = []
        for each in (OnDevice(ops), PLAIN):
            cache = each.layer_norm_forward(x, scale, bias)[1]
            found.append(each.layer_norm_backward(2 * x, cache, x - 1))
        same(*found)


def tokens_log_p(ops: CupyOps) -> None:
    for rows, vocab in ((1, 2), (3, 300), (9, 31), (130, 33), (2, 1000), (2, 250)):
        rng = rng_of(rows, vocab)
        x, kernel, bias = (
            rng.standard_normal((rows, 5)),
            rng.standard_normal((5, vocab)),
            rng.standard_normal(vocab),
        )
        targets = rng.integers(0, vocab, rows)
        targets[-1] = vocab - 1
        bias[-1] += 3000.0 * (vocab == 250)  # without this maximum, which the last warp sees, e^3000 overflows
        both(ops, "token_log_p_forward", "token_log_p_backward", x, 3 * kernel, bias, targets)


def softmaxes(ops: CupyOps) -> None:
    for heads, length in ((1, 1), (2, 33), (3, 70)):
        scores = 3 * rng_of(heads, length).standard_normal((2, heads, length, length))
        dweights = rng_of(length).standard_normal(scores.shape)
        results = []
        for each in (OnDevice(ops), PLAIN):
            weights, gradient = scores.copy(), dweights.copy()
            each.causal_softmax(weights)
            each.causal_softmax_backward(gradient, weights)
            results.append((weights, gradient))
        same(*results)
    attend(ops, [70, 3], 2, 5)


def attend(ops: CupyOps, lengths: list[int], heads: int, channels: int) -> None:
    tokens = (np.arange(max(lengths)) < np.array(lengths)[:, None]).astype(np.int64)
    groups, rng = pack(tokens, 9, 99).groups, rng_of(heads, channels)
    query, key, value = rng.standard_normal((3, sum(lengths), heads, channels))
    both(ops, "attention_forward", "attention_backward", query, key, value, groups)


def attentions(ops: CupyOps) -> None:
    attend(ops, [1, 2, 9, 31, 32, 33], 2, 3)
    attend(ops, [63, 64, 1], 1, 33)
    attend(ops, [40, 64], 1, 64)


TENSOR_ERRORS = {"Split": 2.0**-19, "Tf32": 2.0**-8}  # relative to the largest number; float32 on a CPU: 2^-20


def of_precision(ops: CupyOps, arithmetic: str) -> CupyOps:
    return CupyOps(ops.xp, ops.lib, ops.groups, "tf32" if arithmetic == "Tf32" else "float32")


def near(found: Sequence[Any], expected: Sequence[Any], arithmetic: str) -> None:
    """What tensor cores gave, against float64 from the same float32 numbers."""
    there, exact = (np.concatenate([np.ravel(part) for part in parts]) for parts in (found, expected))
    np.testing.assert_allclose(there, exact, rtol=0, atol=TENSOR_ERRORS[arithmetic] * np.abs(exact).max())


def tensor_attentions(ops: CupyOps) -> None:
    shapes = (([1, 2, 9, 31, 32, 33], 2, 3), ([63, 64, 1], 1, 33), ([40], 1, 64))
    for (lengths, heads, channels), arithmetic in itertools.product(shapes, TENSOR_ERRORS):
        tokens = (np.arange(max(lengths)) < np.array(lengths)[:, None]).astype(np.int64)
        groups, rng = pack(tokens, 9, 99).groups, rng_of(heads, channels)
        numbers = rng.standard_normal((4, sum(lengths), heads, channels)).astype(np.float32)
        found: list[list[Any]] = []
        for each, kind in ((OnDevice(of_precision(ops, arithmetic)), np.float32), (PLAIN, np.float64)):
            query, key, value, dout = numbers.astype(kind)
            out, cache = each.attention_forward(query, key, value, groups)
            found.append([out, *each.attention_backward(dout, cache)])
        for there, exact in zip(*found, strict=True):
            near([there], [exact], arithmetic)


def segments(ops: CupyOps) -> None:
    device = OnDevice(ops)
    for count, n in ((0, 3), (1, 1), (70, 5), (300, 9)):
        rng = rng_of(count, n)
        index, values = rng.integers(0, n, count) // 2 * 2 % n, rng.standard_normal(count)
        same(device.scatter(index, values, n), PLAIN.scatter(index, values, n))
    for rows, vocab, channels in ((1, 3, 1), (70, 7, 130), (20, 5, 300)):
        tokens, table = (
            rng_of(rows).integers(0, vocab, rows) // 2,
            rng_of(vocab).standard_normal((vocab, channels)),
        )
        embedding(ops, table, tokens)


def embedding(ops: CupyOps, table: Array, tokens: Array) -> None:
    dout = rng_of(9).standard_normal((len(tokens), table.shape[1]))
    found = [
        each.embedding_backward(dout, each.embedding_forward(table, tokens)[1]) for each in (OnDevice(ops), PLAIN)
    ]
    same(*found)


def adam(ops: CupyOps) -> None:
    for size in (1, 255, 257, 700):
        results = []
        for each in (OnDevice(ops), PLAIN):
            rng = rng_of(size)
            params, m, grads, v = rng.standard_normal((4, size))
            v *= v
            each.adam_step(params, grads, m, v, 3, 0.01, 0.8, 0.9, 1e-3)
            results.append((params, m, v))
        same(*results)
        same(scheduled(ops, size), results[1])


def scheduled(ops: CupyOps, size: int) -> tuple[Array, ...]:
    """The step of `adam`, by the third row of a schedule, the gradient in nine parts."""
    rng, put = rng_of(size), ops.xp.asarray
    params, m, grads, v = rng.standard_normal((4, size))
    rows = np.full((4, 3), np.nan)
    rows[2] = 0.01, 1 / (1 - 0.8**3), 1 / (1 - 0.9**3)
    state, now = [put(part) for part in (params, m, v * v)], (put(rows), put(np.array([2])))
    parts = rng.standard_normal((9, size))
    parts[4] += grads - parts.sum(axis=0)
    sizes = (9, size, *constants(0.8, 0.9, 1e-3))
    ops.lib.launch("adam_scheduled", "double", size, *state, put(parts), *now, *sizes)
    return tuple(part.get() for part in state)


def margins(ops: CupyOps) -> None:
    for name in LOSSES:
        for count, n in ((1, 2), (255, 9), (600, 40)):
            rng = rng_of(count, n)
            index, y = rng.integers(0, n, (2, count)), rng.integers(0, 3, count) / 2
            pairs, omega = (
                PLAIN.pairs(index[0], index[1], y, rng.random(count) + 0.1, n),
                2 * rng.standard_normal(n),
            )
            loss = getattr(losses, name)
            same(OnDevice(ops).margin_loss(omega, pairs, loss), PLAIN.margin_loss(omega, pairs, loss))


def network(*widths: int) -> dict[str, Array]:
    rng, params = rng_of(*widths), {}
    for i, (d_in, d_out) in enumerate(itertools.pairwise(widths)):
        params[f"Dense_{i}/kernel"] = rng.standard_normal((d_in, d_out)) / np.sqrt(d_in)
        params[f"Dense_{i}/bias"] = rng.standard_normal(d_out)
    return params


# rows, widths: none of the one, 1 wide, WIDE wide, one layer, several tiles a block
NETWORKS: tuple[tuple[int, tuple[int, ...]], ...] = (
    (0, (2, 1)),
    (1, (1, 1)),
    (65, (64, 1)),
    (260, (5, 1)),
    (130, (2, 7, 1)),
    (63, (3, 64, 64, 1)),
    (260, (1, 33, 20, 1)),
)
STEPS: tuple[tuple[str, int, tuple[int, ...]], ...] = (
    ("logistic", 130, (1, 64, 5, 1)),
    ("squared", 33, (2, 17, 1)),
    ("hinge", 70, (64, 1)),
    ("ranking", 1, (1, 1)),
)


def networks(ops: CupyOps) -> None:
    for count, widths in NETWORKS:
        x = rng_of(count).standard_normal((count, widths[0]))
        both(ops, "mlp_forward", "mlp_backward", network(*widths), x)
    for name, count, widths in STEPS:
        x_a, x_b = rng_of(count).standard_normal((2, count, widths[0]))
        values = (network(*widths), x_a, x_b, rng_of(1).integers(0, 3, count) / 2, getattr(losses, name))
        same(OnDevice(ops).mlp_margin_step(*values), PLAIN.mlp_margin_step(*values))
    losses_of_many_blocks(ops)


# comparisons, widths of a network with hidden layers: several tiles a block, ragged widths, one comparison
TENSOR_STEPS: tuple[tuple[str, int, tuple[int, ...]], ...] = (
    ("logistic", 130, (1, 64, 5, 1)),
    ("squared", 33, (2, 17, 1)),
    ("hinge", 40, (3, 9, 33, 64, 1)),
    ("ranking", 1, (1, 1, 1)),
)


def tensor_networks(ops: CupyOps) -> None:
    """Against float64 from the same float32 numbers."""
    for (name, count, widths), arithmetic in itertools.product(TENSOR_STEPS, TENSOR_ERRORS):
        x = rng_of(count).standard_normal((2, count, widths[0])).astype(np.float32)
        y = (rng_of(1).integers(0, 3, count) / 2).astype(np.float32)
        params = {part: value.astype(np.float32) for part, value in network(*widths).items()}
        exact = {part: value.astype(np.float64) for part, value in params.items()}
        loss = getattr(losses, name)
        each = of_precision(ops, arithmetic)
        found = OnDevice(each).mlp_margin_step(params, x[0], x[1], y, loss)
        expected = PLAIN.mlp_margin_step(exact, x[0].astype(float), x[1].astype(float), y.astype(float), loss)
        assert each._step_kernel(params, loss) == ("mlp_margin_tensor", f"float, {LOSSES[name]}, {arithmetic}")
        there, plain = ((value, *grads.values()) for value, grads in (found, expected))
        near(there, plain, arithmetic)


def losses_of_many_blocks(ops: CupyOps) -> None:
    """More blocks than a warp has lanes, at the third of four steps; the others' losses stay."""
    for blocks in (1, 31, 33, 100):
        values, put = rng_of(blocks).standard_normal(blocks), ops.xp.asarray
        recorded, step = put(np.zeros(4)), put(np.array([2]))
        ops.lib.launch("record_loss", "double", 1, recorded, step, put(values), blocks, 7)
        same((recorded.get(), step.get()), (np.array([0, 0, values.sum() / 7, 0]), np.array([3])))


def next_tokens(ops: CupyOps) -> None:
    for rows, vocab in ((0, 5), (1, 2), (3, 300), (9, 512), (4, 1000), (2, 250)):
        rng = rng_of(rows, vocab)
        x, kernel, bias = (
            rng.standard_normal((rows, 5)),
            rng.standard_normal((5, vocab)),
            rng.standard_normal(vocab),
        )
        uniform = np.r_[0.0, 1 - 2.0**-53, 1.0, rng.random(rows)][:rows]  # 1: the last token, as in the plain op
        bias[0] -= 4000.0  # no weight at all: not even the number 0 draws it
        bias[-1] += 3000.0 * (vocab == 250)  # without this maximum, which the last warp sees, e^3000 overflows
        same(*(each.next_token(x, kernel, bias, uniform) for each in (OnDevice(ops), PLAIN)))


def decoded(ops: CupyOps) -> None:
    """Tokens drawn by the device in float64, slots closed up, to the last place or not."""
    for heads, channels, size in ((1, 3, 9), (2, 8, 3), (1, 40, 2)):
        config = TransformerConfig(37, 8, heads, 2, heads * channels, 9, 40)
        params = transformer_init(rng_of(heads), config, "float64")
        uniform = rng_of(size).random((size, config.max_len))
        params[f"{OUTPUT}/bias"][0] = -9.0 + 9.0 * (channels == 3)
        params[f"{OUTPUT}/bias"][2] -= 1e4 * (channels == 40)
        drawn = ops.draw_sequences(buffers.flatten(params, ops.xp)[1], config, ops.xp.asarray(uniform), 2)
        assert drawn is not None
        tokens, log_p, ended = draw_by_token(PLAIN, params, config, uniform, 2)
        np.testing.assert_array_equal(drawn[0].get(), tokens)
        np.testing.assert_array_equal(drawn[2].get(), ended)
        same(drawn[1].get(), log_p)


def random_numbers(ops: CupyOps) -> None:
    for key, size, length in ((0, 0, 3), (1, 1, 1), (2**64 - 1, 3, 200), (0x0123456789ABCDEF, 171, 3)):
        np.testing.assert_array_equal(ops.uniform(key, size, length).get(), PLAIN.uniform(key, size, length))


EXAMPLES: dict[str, Callable[[CupyOps], None]] = {  # by source
    "columns": column_sums,
    "few_rows": sums_of_few_rows,
    "bias": biases,
    "layer_norm": layer_norms,
    "token_log_p": tokens_log_p,
    "softmax": softmaxes,
    "attention": attentions,
    "attention_tensor": tensor_attentions,
    "segments": segments,
    "adam": adam,
    "margin": margins,
    "mlp": networks,
    "mlp_tensor": tensor_networks,
    "next_token": next_tokens,
    "decode": decoded,
    "philox": random_numbers,
}
