"""The Transformer's ops compiled with Numba against the plain ones, and what both promise."""

from __future__ import annotations

import gc
import math
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numba import njit
from numpy.typing import NDArray

from accel import buffers
from accel.cpu import output as cpu_output
from accel.cpu.buffer_pool import LINE, Pool, room
from accel.cpu.compile import OPTIONS
from accel.cpu.ops import NumbaOps
from accel.ops import Ops
from accel.packing import pack
from accel.transformer import cross_entropy_step, log_likelihood_backward, log_likelihood_forward
from accel.transformer_params import TransformerConfig, transformer_init, transformer_shapes
from reference import networks
from reference.networks import directional_derivative, sequence_log_likelihood
from tests import checks

PLAIN, FAST = Ops(), NumbaOps(2)
Array = NDArray[Any]
quick = settings(max_examples=20)
seeds = st.integers(0, 2**32 - 1)
dtypes = st.sampled_from([np.float32, np.float64])
# none, one, a few, and around one and two blocks of 96 rows
row_counts = st.one_of(st.integers(0, 13), st.sampled_from([95, 96, 97, 193, 1000]))
wide = st.sampled_from([16, 32, 48, 144])  # those that are compiled
wide_or_not = st.one_of(wide, st.integers(1, 20))


def check(
    call: Callable[[Ops, Sequence[Array]], Sequence[Array]],
    arrays: Sequence[Array],
    dtype: Any,
    terms: float = 0.0,
) -> None:
    """call(ops, arrays) on both backends. In float64: equal up to the order of sums. In float32: as near to
    float64 as the plain ops are, by the relative rule. The scale of both: the result of the arguments without
    their signs, or terms where that is larger."""
    given32 = [value.astype(dtype) for value in arrays]
    exact = [value.astype(np.float64) for value in given32]
    kept = [value.copy() for value in given32]
    fast, plain, truth = call(FAST, given32), call(PLAIN, given32), call(PLAIN, exact)
    assert all(np.array_equal(a, b, equal_nan=True) for a, b in zip(given32, kept, strict=True))
    magnitudes = call(PLAIN, [np.abs(value) for value in exact])
    for got, near, right, size in zip(fast, plain, truth, magnitudes, strict=True):
        assert got.shape == near.shape
        scale = max(1 + float(np.abs(size).max(initial=0.0)), terms)
        if got.size and dtype is np.float64:
            checks.assert_close(got, right, checks.BACKENDS, scale)
        elif got.size:
            checks.assert_float32(got, near, right, scale)


def normal(rng: np.random.Generator, *shapes: tuple[int, ...]) -> list[Array]:
    """Standard normal; matrices scaled as kernels are."""
    return [
        rng.standard_normal(shape) / (np.sqrt(shape[0]) if i and len(shape) == 2 else 1)
        for i, shape in enumerate(shapes)
    ]


@quick
@given(seed=seeds, dtype=dtypes, rows=row_counts, c=wide_or_not, n=wide_or_not, count=st.integers(1, 3))
def test_norm_matmuls(seed: int, dtype: Any, rows: int, c: int, n: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    arrays = normal(rng, (rows, c), (c,), (c,), *[(c, n)] * count)
    douts = [rng.standard_normal((rows, n)) for _ in range(count)]

    def call(ops: Ops, given: Sequence[Array]) -> list[Array]:
        (x, scale, bias, *kernels), douts = given[: 3 + count], given[3 + count :]
        outs, cache = ops.norm_matmuls_forward(x, scale, bias, kernels)
        dx, dscale, dbias, dkernels = ops.norm_matmuls_backward(douts, cache)
        return [*outs, dx, dscale, dbias, *dkernels]

    check(call, [*arrays, *douts], dtype)


@quick
@given(seed=seeds, dtype=dtypes, rows=row_counts, k=wide_or_not, c=wide_or_not)
def test_matmul_add(seed: int, dtype: Any, rows: int, k: int, c: int) -> None:
    rng = np.random.default_rng(seed)

    def call(ops: Ops, given: Sequence[Array]) -> list[Array]:
        out, cache = ops.matmul_add_forward(*given[:3])
        return [out, *ops.matmul_add_backward(given[3], cache)]

    kernel = rng.standard_normal((k, c)) / np.sqrt(k)
    x, drows = rng.standard_normal((2, rows, c))
    check(call, [x, rng.standard_normal((rows, k)), kernel, drows], dtype)


@quick
@given(seed=seeds, dtype=dtypes, rows=row_counts, c=wide_or_not, m=wide_or_not)
def test_mlp_block(seed: int, dtype: Any, rows: int, c: int, m: int) -> None:
    rng = np.random.default_rng(seed)
    arrays = normal(rng, (rows, c), (c,), (c,), (c, m), (m,), (m, c), (c,))

    def call(ops: Ops, given: Sequence[Array]) -> list[Array]:
        out, cache = ops.mlp_block_forward(*given[:-1])
        return [out, *ops.mlp_block_backward(given[-1], cache)]

    check(call, [*arrays, rng.standard_normal((rows, c))], dtype)


@quick
@given(
    seed=seeds,
    dtype=dtypes,
    batch=st.integers(1, 9),
    length=st.sampled_from([1, 2, 5, 6, 7, 15, 16, 17, 33]),
    bucket=st.integers(1, 8),
    heads=st.integers(1, 3),
    channels=st.sampled_from([16, 32, 3]),
)
def test_attention(seed: int, dtype: Any, batch: int, length: int, bucket: int, heads: int, channels: int) -> None:
    rng = np.random.default_rng(seed)
    tokens = np.ones((batch, length), int) * (np.arange(length) < rng.integers(1, length + 1, (batch, 1)))
    groups = pack(tokens, 2, length, bucket).groups
    arrays = rng.standard_normal((4, int(tokens.sum()), heads, channels))

    def call(ops: Ops, given: Sequence[Array]) -> list[Array]:
        query, key, value, dout = given
        out, cache = ops.attention_forward(query, key, value, groups)
        return [out, *ops.attention_backward(dout, cache)]

    # a score's slope is the difference of two sums of D products of dout and value; it then multiplies a key
    query, key, value, dout = np.abs(arrays).max(axis=(1, 2, 3), initial=0.0)
    check(call, list(arrays), dtype, 2 * math.sqrt(channels) * dout * value * max(query, key))


@pytest.mark.parametrize("ops", [PLAIN, FAST], ids=["numpy", "numba"])
@quick
@given(seed=seeds, dtype=dtypes, channels=st.sampled_from([16, 32, 3]))
def test_attention_to_one_token(ops: Ops, seed: int, dtype: Any, channels: int) -> None:
    """Its weight is 1 whatever its key and query are: their gradients are exactly 0, the value's is dout."""
    query, key, value, dout = np.random.default_rng(seed).standard_normal((4, 5, 2, channels)).astype(dtype)
    _, cache = ops.attention_forward(query, key, value, pack(np.ones((5, 1), int), 2, 1, 1).groups)
    dquery, dkey, dvalue = ops.attention_backward(dout, cache)
    assert not dquery.any()
    assert not dkey.any()
    assert np.array_equal(dvalue, dout)


@quick
@given(
    seed=seeds,
    dtype=dtypes,
    rows=st.integers(0, 20),
    t=st.integers(1, 48),
    d=st.sampled_from([5, 16, 32]),
    longest=st.sampled_from([48, 50]),
    turned=st.booleans(),
)
def test_cached_attention(seed: int, dtype: Any, rows: int, t: int, d: int, longest: int, turned: bool) -> None:
    """The kept keys and values are a part of longer arrays, the keys turned or not; the rest holds anything."""
    rng = np.random.default_rng(seed)
    query, (keys, values) = rng.standard_normal((rows, 2, d)), rng.standard_normal((2, rows, 2, longest, d))
    keys[:, :, t:] = values[:, :, t:] = np.nan

    def call(ops: Ops, given: Sequence[Array]) -> list[Array]:
        query, keys, values = given
        kept = np.ascontiguousarray(keys.swapaxes(2, 3)).swapaxes(2, 3) if turned else keys
        return [ops.cached_attention(query, kept[:, :, :t], values[:, :, :t])]

    check(call, [query, keys, values], dtype)


@quick
@given(seed=seeds, dtype=dtypes, rows=row_counts, c=wide_or_not, v=st.sampled_from([2, 15, 16, 17, 250, 513]))
def test_token_log_p(seed: int, dtype: Any, rows: int, c: int, v: int) -> None:
    rng = np.random.default_rng(seed)
    x, kernel, bias, dout = *normal(rng, (rows, c), (c, v), (v,)), rng.standard_normal(rows)
    targets = rng.integers(0, v, rows)

    def call(ops: Ops, given: Sequence[Array]) -> list[Array]:
        x, kernel, bias, dout = given
        out, cache = ops.token_log_p_forward(x, kernel, bias, targets)
        return [out, *ops.token_log_p_backward(dout, cache)]

    check(call, [x, kernel, bias, dout], dtype)


@quick
@given(seed=seeds, rows=row_counts, c=wide_or_not, v=st.sampled_from([2, 15, 16, 17, 250]))
def test_next_token(seed: int, rows: int, c: int, v: int) -> None:
    """In float64 the same token for the same number, near 0 and near 1 too; its log-probability by the relative
    rule in float32."""
    rng = np.random.default_rng(seed)
    x, kernel, bias = normal(rng, (rows, c), (c, v), (v,))
    uniform = rng.choice([0.0, 1.0 - 2.0**-53, *rng.random(8)], rows)
    token, log_p = FAST.next_token(x, kernel, bias, uniform)
    expected = PLAIN.next_token(x, kernel, bias, uniform)
    np.testing.assert_array_equal(token, expected[0])
    if rows:
        checks.assert_close(log_p, expected[1], checks.BACKENDS)
    x, kernel, bias = (value.astype(np.float32) for value in (x, kernel, bias))
    token, log_p = FAST.next_token(x, kernel, bias, uniform)
    plain = PLAIN.token_log_p_forward(x, kernel, bias, token)[0]
    x, kernel, bias = (value.astype(np.float64) for value in (x, kernel, bias))
    exact = PLAIN.token_log_p_forward(x, kernel, bias, token)[0]
    checks.assert_float32(log_p, plain, exact, 1 + np.abs(exact).max(initial=0.0))


@quick
@given(seed=seeds, dtype=dtypes, rows=row_counts, vocab=st.integers(1, 9))
def test_embedding_backward(seed: int, dtype: Any, rows: int, vocab: int) -> None:
    rng = np.random.default_rng(seed)
    table, tokens = rng.standard_normal((vocab, 5)), rng.integers(0, vocab, rows)

    def call(ops: Ops, given: Sequence[Array]) -> list[Array]:
        out, cache = ops.embedding_forward(given[0], tokens)
        return [out, ops.embedding_backward(given[1], cache)]

    check(call, [table, rng.standard_normal((rows, 5))], dtype)


# ----- The whole network -----

CONFIG = TransformerConfig(19, 32, 2, 2, 32, 80, 20)  # all of it compiled


def ragged(rng: np.random.Generator, batch: int) -> Array:
    tokens = rng.integers(1, CONFIG.vocab_size, (batch, CONFIG.max_len))
    return np.asarray(tokens * (np.arange(CONFIG.max_len) < rng.integers(1, CONFIG.max_len + 1, (batch, 1))))


def params_of(rng: np.random.Generator, dtype: str) -> dict[str, Array]:
    params = transformer_init(rng, CONFIG, dtype)
    for value in params.values():
        value += (0.1 * rng.standard_normal(value.shape)).astype(dtype)
    return params


@settings(max_examples=5)
@given(seed=seeds, batch=st.integers(1, 12))
def test_every_gradient(seed: int, batch: int) -> None:
    """d sum(c log p(x)) in every parameter tensor alone, by the complex step of the reference."""
    rng = np.random.default_rng(seed)
    params, tokens, c = params_of(rng, "float64"), ragged(rng, batch), rng.standard_normal(batch)
    sizes = networks.TransformerConfig(**vars(CONFIG))
    total, cache = log_likelihood_forward(FAST, params, tokens, CONFIG)
    checks.assert_close(total, sequence_log_likelihood(params, tokens, sizes), checks.CLOSED_FORM)
    grads = buffers.views(log_likelihood_backward(c, cache), transformer_shapes(CONFIG))
    for name, grad in grads.items():
        direction = {other: np.zeros_like(value) for other, value in params.items()}
        direction[name] = rng.standard_normal(grad.shape)
        exact = directional_derivative(
            lambda p: (c * sequence_log_likelihood(p, tokens, sizes)).sum(), params, direction
        )
        checks.assert_derivative({name: grad}, {name: direction[name]}, exact)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_threads_do_not_change_a_bit(dtype: str) -> None:
    """Nor does a second run, with memory that was used before."""
    rng = np.random.default_rng(0)
    params, tokens = params_of(rng, dtype), ragged(rng, 60)
    runs = [cross_entropy_step(NumbaOps(threads), params, tokens, CONFIG) for threads in (1, 2, 3)]
    runs.append(cross_entropy_step(FAST, params, tokens, CONFIG))
    runs.append(cross_entropy_step(FAST, params, tokens, CONFIG))
    for value, grads in runs[1:]:
        assert value == runs[0][0]
        np.testing.assert_array_equal(grads, runs[0][1])


def test_no_later_row_is_seen() -> None:
    """Exactly: another last token changes no earlier log-probability, and its sequence's alone."""
    rng = np.random.default_rng(1)
    params, tokens = params_of(rng, "float32"), ragged(rng, 30)
    packed = pack(tokens, CONFIG.vocab_size, CONFIG.max_len)
    query, key, value = rng.standard_normal((3, len(packed.targets), 2, 16)).astype(np.float32)
    before = FAST.attention_forward(query, key, value, packed.groups)[0].copy()
    for r in rng.integers(0, len(packed.targets), 20):
        other_key, other_value = key.copy(), value.copy()
        other_key[r], other_value[r] = 9.0, -7.0
        after = FAST.attention_forward(query, other_key, other_value, packed.groups)[0]
        sees = (packed.sequence == packed.sequence[r]) & (packed.position >= packed.position[r])
        np.testing.assert_array_equal((after != before).any(axis=(1, 2)), sees)
    total = log_likelihood_forward(FAST, params, tokens, CONFIG)[0]
    other = tokens.copy()
    last = np.count_nonzero(tokens[3]) - 1
    other[3, last] = 1 + other[3, last] % (CONFIG.vocab_size - 1)
    changed = log_likelihood_forward(FAST, params, other, CONFIG)[0]
    assert np.flatnonzero(changed != total).tolist() == [3]


def test_large_kernels_go_to_the_plain_ops(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a gradient for every group would take too much memory."""
    monkeypatch.setattr("accel.cpu.sequence_ops.LARGEST", 100)
    rng = np.random.default_rng(0)
    params, tokens = params_of(rng, "float64"), ragged(rng, 5)
    value, grads = cross_entropy_step(FAST, params, tokens, CONFIG)
    expected, plain = cross_entropy_step(PLAIN, params, tokens, CONFIG)
    checks.assert_close(value, expected, checks.BACKENDS)
    checks.assert_close(grads, plain, checks.BACKENDS)


def test_kernels_are_packed_anew_unless_they_are_fixed() -> None:
    """Inside `fixed` what was made of a kernel is kept, and no longer than that."""
    rng = np.random.default_rng(0)
    params, tokens, ops = params_of(rng, "float64"), ragged(rng, 3), NumbaOps(1)

    def value() -> Array:
        total: Array = log_likelihood_forward(ops, params, tokens, CONFIG)[0]
        return total

    with ops.fixed():
        first = value()
        np.testing.assert_array_equal(value(), first)
    for array in params.values():
        array *= 1.1
    expected = log_likelihood_forward(PLAIN, params, tokens, CONFIG)[0]
    checks.assert_close(value(), expected, checks.CLOSED_FORM)
    assert np.all(first != value())


# ----- Memory -----


def test_pool_gives_memory_again_only_when_nobody_holds_it() -> None:
    """A view is enough to hold it."""
    pool = Pool()

    def place(array: Array) -> int:
        return int(array.__array_interface__["data"][0])

    first = pool.empty((300, 300), np.float32)
    at, view = place(first), first[1:, ::2].T
    del first
    gc.collect()
    second = pool.empty((300, 300), np.float32)
    assert place(second) != at
    del view
    gc.collect()
    third = pool.empty((300, 300), np.float32)
    assert place(third) == at
    assert place(third) % 64 == place(pool.empty((3,), np.float64)) % 64 == 0
    assert third.flags.writeable
    assert pool.empty((0, 3), np.float32).shape == (0, 3)


def test_memory_is_used_again() -> None:
    """Batches of any size share it: a thousand sizes in turn hold no more than some of the largest."""
    pool, places = Pool(), set()
    for size in range(100_000, 101_000):
        array = pool.empty((size,), np.float32)
        assert array.ctypes.data % LINE == 0
        places.add(array.ctypes.data)
        array[:] = 1.0
    assert len(places) <= 2  # one is still held while the next is asked for
    first, view = pool.empty((100_000,), np.float32), pool.empty((100_001,), np.float32)[5:]
    assert not np.shares_memory(first, view)  # whoever holds a view holds the memory
    third = pool.empty((100_002,), np.float32)
    assert not np.shares_memory(third, view)


@given(size=st.integers(1, 1 << 40))
def test_room(size: int) -> None:
    """Enough, by less than a quarter, of few kinds, and its own room."""
    assert size <= room(size) < max(size + 1, 1.25 * size)
    assert room(room(size)) == room(size)
    assert room(size) >> max(0, room(size).bit_length() - 3) in (1, 2, 3, 4, 5, 6, 7)


def test_unused_memory_goes_back() -> None:
    """Where the sizes change, what lies unused stays below the bound."""
    pool, held = Pool(most=1 << 20), []
    for size in (1 << 17, 1 << 18, 1 << 19, 1 << 20, 1 << 17):
        held = [pool.empty((size,), np.uint8) for _ in range(4)]
        del held
        assert sum(len(memory) for free in pool._free.values() for memory in free) <= (1 << 20) + 8 * LINE
    places = {pool.empty((1 << 17,), np.uint8).ctypes.data for _ in range(5)}
    assert len(places) == 1


def test_threads_hold_kernels_apart() -> None:
    """Two threads inside `fixed` at once, the first leaves first: afterwards kernels are packed anew."""
    ops, (second_in, first_out) = NumbaOps(1), (threading.Event(), threading.Event())
    rng = np.random.default_rng(0)
    x, rows, kernel = rng.standard_normal((5, 16)), rng.standard_normal((5, 16)), rng.standard_normal((16, 16))

    def first() -> None:
        with ops.fixed():
            ops.matmul_add_forward(x, rows, kernel)
            assert second_in.wait(10)
        first_out.set()

    def second() -> None:
        with ops.fixed():
            second_in.set()
            assert first_out.wait(10)

    with ThreadPoolExecutor(2) as threads:
        for future in [threads.submit(first), threads.submit(second)]:
            future.result()
    for _ in range(2):
        checks.assert_close(ops.matmul_add_forward(x, rows, kernel)[0], x + rows @ kernel, checks.BACKENDS)
        kernel *= 2


def test_threads_share_a_pool() -> None:
    """Eight threads that take and give back memory of one size: nobody's is given to another, nobody fails."""
    pool, interval = Pool(), sys.getswitchinterval()

    def work(number: int) -> None:
        for _ in range(2000):
            array = pool.empty((1 << 14,), np.int64)
            array[::512] = number
            assert (array[::512] == number).all()

    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(8) as threads:
            list(threads.map(work, range(8)))
    finally:
        sys.setswitchinterval(interval)


def test_the_last_memory_may_go_to_another_thread() -> None:
    """Between the look and the take: `Taken` says that there is some, and has none."""

    class Taken(list[Any]):
        def __len__(self) -> int:
            return 1

    pool = Pool()
    pool._free[room(1 << 17)] = Taken()
    assert pool.empty((1 << 17,), np.uint8).shape == (1 << 17,)


def test_small_weights_of_a_softmax_count() -> None:
    """Down to e^-87 of the largest: compiled float32 exponentials are right to some roundings of themselves."""
    x = -np.linspace(0.0, 86.9, 64, dtype=np.float32)
    found = x.copy()
    njit(**OPTIONS)(cpu_output.decay_32_over)(found, np.float32(0))
    checks.assert_close(found / np.exp(x.astype(np.float64)), np.ones(64), checks.FLOAT32_STORED)
