"""accel's Transformer: every gradient against the complex step, packing, float32, and exact sampling."""

from __future__ import annotations

import itertools
import math
from dataclasses import asdict
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import chisquare

from accel import buffers, transformer, transformer_params
from accel.backends import get_ops
from accel.ops import Ops
from accel.packing import pack
from accel.sampling import sample
from accel.transformer import log_likelihood, log_likelihood_backward, log_likelihood_forward
from accel.transformer_params import TransformerConfig, transformer_init
from reference import networks
from reference.networks import directional_derivative, sequence_log_likelihood, softplus
from tests import checks

OPS = get_ops("numpy")
Array = NDArray[Any]
quick = settings(max_examples=25)
seeds = st.integers(0, 2**32 - 1)
SMALL = TransformerConfig(vocab_size=40, emb_dim=24, num_heads=3, num_layers=2, qkv_dim=18, mlp_dim=32, max_len=20)
TINY = TransformerConfig(vocab_size=4, emb_dim=4, num_heads=2, num_layers=2, qkv_dim=4, mlp_dim=5, max_len=5)


@st.composite
def configs(draw: st.DrawFn) -> TransformerConfig:
    heads = draw(st.integers(1, 3))
    return TransformerConfig(
        vocab_size=draw(st.integers(2, 9)),
        emb_dim=draw(st.integers(4, 9)),
        num_heads=heads,
        num_layers=draw(st.integers(1, 2)),
        qkv_dim=heads * draw(st.integers(1, 3)),
        mlp_dim=draw(st.integers(1, 9)),
        max_len=20,
    )


def oracle(config: TransformerConfig) -> networks.TransformerConfig:
    return networks.TransformerConfig(**asdict(config))


def noisy_params(rng: np.random.Generator, config: TransformerConfig, dtype: str = "float64") -> dict[str, Array]:
    """First parameters with noise: no bias is 0 and no scale 1."""
    params = transformer_params.transformer_init(rng, config, dtype)
    for value in params.values():
        value += (0.3 * rng.standard_normal(value.shape)).astype(dtype)
    return params


def some_tokens(rng: np.random.Generator, config: TransformerConfig, batch: int, length: int) -> Array:
    """(B, T) of random lengths >= 1, padded at the end; now and then padding stands inside."""
    tokens = rng.integers(1, config.vocab_size, (batch, length))
    tokens *= np.arange(length) < rng.integers(1, length + 1, (batch, 1))
    tokens[rng.random(tokens.shape) < 0.05] = 0
    tokens[:, 0] = rng.integers(1, config.vocab_size, batch)
    return np.asarray(tokens)


def normal(rng: np.random.Generator, shapes: Any) -> dict[str, Array]:
    return {name: rng.standard_normal(shape) for name, shape in shapes.items()}


def named(flat: Array, config: TransformerConfig) -> dict[str, Array]:
    return buffers.views(flat, transformer_params.transformer_shapes(config))


def check_pair(rng: np.random.Generator, shapes: Any, forward: Any, backward: Any, formula: Any) -> None:
    """d sum(c out) in every argument of one op alone; out against the formula."""
    arrays = normal(rng, shapes)
    kept = {name: value.copy() for name, value in arrays.items()}
    out, cache = forward(*arrays.values())
    checks.assert_close(out, formula(*arrays.values()), checks.CLOSED_FORM)
    c = rng.standard_normal(out.shape)
    grads = backward(c, cache)
    for name, grad in zip(arrays, grads, strict=True):
        direction = {other: np.zeros_like(value) for other, value in arrays.items()}
        direction[name] = rng.standard_normal(arrays[name].shape)
        exact = directional_derivative(lambda p: (c * formula(*p.values())).sum(), arrays, direction)
        checks.assert_derivative({name: grad}, {name: direction[name]}, exact)
    for again, grad in zip(backward(c, cache), grads, strict=True):  # a cache serves more than once
        np.testing.assert_array_equal(again, grad)
    assert all(np.array_equal(kept[name], arrays[name]) for name in arrays)


# ----- Each pair alone -----


@quick
@given(seed=seeds, rows=st.integers(1, 9), d_in=st.integers(1, 7), d_out=st.integers(1, 7))
def test_matmul(seed: int, rows: int, d_in: int, d_out: int) -> None:
    shapes = {"x": (rows, d_in), "kernel": (d_in, d_out)}
    rng = np.random.default_rng(seed)
    check_pair(rng, shapes, OPS.matmul_forward, OPS.matmul_backward, lambda x, kernel: x @ kernel)


@quick
@given(seed=seeds, rows=st.integers(1, 9), width=st.integers(1, 7))
def test_bias_relu(seed: int, rows: int, width: int) -> None:
    def formula(x: Array, bias: Array) -> Array:
        return np.where((x + bias).real > 0, x + bias, 0)

    shapes = {"x": (rows, width), "bias": (width,)}
    check_pair(np.random.default_rng(seed), shapes, OPS.bias_relu_forward, OPS.bias_relu_backward, formula)


@quick
@given(seed=seeds, rows=st.integers(1, 9), width=st.integers(3, 9))
def test_layer_norm(seed: int, rows: int, width: int) -> None:
    def formula(x: Array, scale: Array, bias: Array) -> Array:
        return networks.layer_norm({"norm/scale": scale, "norm/bias": bias}, "norm", x)

    shapes = {"x": (rows, width), "scale": (width,), "bias": (width,)}
    check_pair(np.random.default_rng(seed), shapes, OPS.layer_norm_forward, OPS.layer_norm_backward, formula)


@quick
@given(seed=seeds, rows=st.integers(1, 30), vocab=st.integers(1, 7))
def test_embedding(seed: int, rows: int, vocab: int) -> None:
    """Tokens that stand in many rows, and tokens that stand in none."""
    rng = np.random.default_rng(seed)
    tokens = rng.integers(0, vocab, rows)
    check_pair(
        rng,
        {"table": (vocab, 3)},
        lambda table: OPS.embedding_forward(table, tokens),
        lambda dout, cache: [OPS.embedding_backward(dout, cache)],
        lambda table: table[tokens],
    )


def packed_of(rng: np.random.Generator, batch: int, length: int, bucket: int) -> Any:
    tokens = some_tokens(rng, SMALL, batch, length)
    return pack(tokens, SMALL.vocab_size, SMALL.max_len, bucket)


@quick
@given(
    seed=seeds,
    batch=st.integers(1, 6),
    length=st.integers(1, 7),
    bucket=st.integers(1, 8),
    heads=st.integers(1, 3),
    channels=st.integers(1, 4),
)
def test_attention(seed: int, batch: int, length: int, bucket: int, heads: int, channels: int) -> None:
    """Row by row: the softmax over the rows of the same sequence that do not stand later."""
    rng = np.random.default_rng(seed)
    packed = packed_of(rng, batch, length, bucket)
    sequence, position = packed.sequence, packed.position

    def formula(query: Array, key: Array, value: Array) -> Array:
        out = []
        for r in range(len(query)):
            seen = (sequence == sequence[r]) & (position <= position[r])
            scores = (query[r] * key[seen]).sum(axis=2) / math.sqrt(channels)  # [S, H]
            weights = np.exp(networks.log_softmax(scores.T)).T
            out.append((weights[:, :, None] * value[seen]).sum(axis=0))
        return np.array(out)

    shape = (len(sequence), heads, channels)
    check_pair(
        rng,
        {"query": shape, "key": shape, "value": shape},
        lambda query, key, value: OPS.attention_forward(query, key, value, packed.groups),
        OPS.attention_backward,
        formula,
    )


@quick
@given(seed=seeds, batch=st.integers(1, 5), length=st.integers(1, 9), bucket=st.integers(1, 8))
def test_attention_sees_no_later_row_and_no_other_sequence(
    seed: int, batch: int, length: int, bucket: int
) -> None:
    """Exactly: another key and value in one row change the later rows of its sequence, and nothing else."""
    rng = np.random.default_rng(seed)
    packed = packed_of(rng, batch, length, bucket)
    rows = len(packed.sequence)
    query, key, value = (rng.standard_normal((rows, 2, 3)) for _ in range(3))
    before, _ = OPS.attention_forward(query, key, value, packed.groups)
    r = int(rng.integers(rows))
    key[r], value[r] = 9.0, -7.0
    after, _ = OPS.attention_forward(query, key, value, packed.groups)
    sees = (packed.sequence == packed.sequence[r]) & (packed.position >= packed.position[r])
    np.testing.assert_array_equal((after != before).any(axis=(1, 2)), sees)


@quick
@given(seed=seeds, rows=st.integers(1, 9), width=st.integers(1, 5), vocab=st.integers(2, 9))
def test_token_log_p(seed: int, rows: int, width: int, vocab: int) -> None:
    rng = np.random.default_rng(seed)
    targets = rng.integers(0, vocab, rows)

    def formula(x: Array, kernel: Array, bias: Array) -> Array:
        return networks.log_softmax(x @ kernel + bias)[np.arange(rows), targets]

    check_pair(
        rng,
        {"x": (rows, width), "kernel": (width, vocab), "bias": (vocab,)},
        lambda x, kernel, bias: OPS.token_log_p_forward(x, kernel, bias, targets),
        OPS.token_log_p_backward,
        formula,
    )


def test_logits_of_thousands_do_not_overflow() -> None:
    x, kernel, bias = np.array([[1.0]]), np.array([[4000.0, 3999.0]]), np.zeros(2)
    value, cache = OPS.token_log_p_forward(x, kernel, bias, np.array([1]))
    assert value[0] == pytest.approx(-math.log1p(math.e), rel=checks.CLOSED_FORM)
    assert np.all(np.isfinite(OPS.token_log_p_backward(np.ones(1), cache)[1]))


# ----- The whole network -----


@quick
@given(seed=seeds, config=configs(), batch=st.integers(1, 6), length=st.integers(1, 20), bucket=st.integers(1, 9))
def test_log_likelihood_and_every_gradient(
    seed: int, config: TransformerConfig, batch: int, length: int, bucket: int
) -> None:
    """d sum(c log p(x)) in every parameter tensor alone; log p(x) against the reference."""
    rng = np.random.default_rng(seed)
    params, tokens = noisy_params(rng, config), some_tokens(rng, config, batch, length)
    c, sizes = rng.standard_normal(batch), oracle(config)
    total, cache = log_likelihood_forward(OPS, params, tokens, config, bucket)
    checks.assert_close(total, sequence_log_likelihood(params, tokens, sizes), checks.CLOSED_FORM)
    grads = named(log_likelihood_backward(c, cache), config)
    assert list(grads) == list(params)
    for name, grad in grads.items():
        direction = {other: np.zeros_like(value) for other, value in params.items()}
        direction[name] = rng.standard_normal(grad.shape)
        exact = directional_derivative(
            lambda p: (c * sequence_log_likelihood(p, tokens, sizes)).sum(), params, direction
        )
        checks.assert_derivative({name: grad}, {name: direction[name]}, exact)


@quick
@given(seed=seeds, batch=st.integers(1, 9), padding=st.integers(0, 5), bucket=st.integers(1, 20))
def test_padding_and_buckets_change_nothing(seed: int, batch: int, padding: int, bucket: int) -> None:
    """More padding: not a bit. Other buckets and other neighbours: another order of summation."""
    rng = np.random.default_rng(seed)
    params, tokens, c = noisy_params(rng, SMALL), some_tokens(rng, SMALL, batch, 15), rng.standard_normal(batch)
    total, cache = log_likelihood_forward(OPS, params, tokens, SMALL)
    grads = log_likelihood_backward(c, cache)
    longer, cache = log_likelihood_forward(OPS, params, np.pad(tokens, ((0, 0), (0, padding))), SMALL)
    np.testing.assert_array_equal(longer, total)
    np.testing.assert_array_equal(log_likelihood_backward(c, cache), grads)
    other, cache = log_likelihood_forward(OPS, params, tokens, SMALL, bucket)
    checks.assert_close(other, total, checks.CLOSED_FORM)
    checks.assert_close(log_likelihood_backward(c, cache), grads, checks.CLOSED_FORM)
    alone = [log_likelihood_forward(OPS, params, row[None], SMALL)[0][0] for row in tokens]
    checks.assert_close(alone, total, checks.CLOSED_FORM)


@quick
@given(seed=seeds, batch=st.integers(1, 40), length=st.integers(1, 20), bucket=st.integers(1, 9))
def test_packing(seed: int, batch: int, length: int, bucket: int) -> None:
    """One row a token, none for padding; in a group, lengths differ by less than the bucket."""
    rng = np.random.default_rng(seed)
    tokens = some_tokens(rng, SMALL, batch, length)
    packed = pack(tokens, SMALL.vocab_size, SMALL.max_len, bucket)
    rebuilt = np.zeros_like(tokens)
    rebuilt[packed.sequence, packed.position] = packed.targets
    np.testing.assert_array_equal(rebuilt, tokens)
    assert len(packed.targets) == np.count_nonzero(tokens) == packed.lengths.sum()
    before = np.where(packed.position > 0, tokens[packed.sequence, packed.position - 1], 0)
    np.testing.assert_array_equal(packed.inputs, before)
    assert [g.start for g in packed.groups[1:]] == [g.stop for g in packed.groups[:-1]]
    for group in packed.groups:
        lengths = packed.lengths[np.unique(packed.sequence[group.start : group.stop])]
        assert len(lengths) == group.count
        assert group.length == lengths.max() < lengths.min() + bucket


def test_log_likelihood_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    params, tokens = noisy_params(rng, SMALL), some_tokens(rng, SMALL, 23, 15)
    whole = log_likelihood_forward(OPS, params, tokens, SMALL)[0]
    monkeypatch.setattr(transformer, "AT_ONCE", 4 * 15 * 40)  # four sequences
    checks.assert_close(transformer.log_likelihood(OPS, params, tokens, SMALL), whole, checks.CLOSED_FORM)


# ----- float32 -----


def plain_log_likelihood(params: dict[str, Array], tokens: Array, config: TransformerConfig) -> float:
    """One sequence without padding, in the dtype of params, with the pieces of the reference."""
    table = params["decoder/Embed_0/embedding"]
    x = table[np.r_[0, tokens[:-1]]] + networks.positions(len(tokens), config.emb_dim).astype(table.dtype)
    late = np.triu(np.ones((len(tokens), len(tokens)), np.bool_), 1)
    for i in range(config.num_layers):
        name = f"decoder/encoderdecoderblock_{i}"
        normed = networks.layer_norm(params, f"{name}/LayerNorm_0", x)
        query, key, value = (
            np.tensordot(normed, params[f"{name}/SelfAttention_0/{part}/kernel"], 1).swapaxes(0, 1)
            for part in ("query", "key", "value")
        )
        scores = query @ key.swapaxes(1, 2) / math.sqrt(query.shape[2])
        scores[:, late] = -math.inf
        mixed = np.exp(networks.log_softmax(scores)) @ value
        x = x + np.tensordot(mixed.swapaxes(0, 1), params[f"{name}/SelfAttention_0/out/kernel"], 2)
        hidden = networks.dense(
            params, f"{name}/MlpBlock_0/Dense_0", networks.layer_norm(params, f"{name}/LayerNorm_1", x)
        )
        x = x + networks.dense(params, f"{name}/MlpBlock_0/Dense_1", np.maximum(hidden, 0))
    logits = networks.dense(
        params, "decoder/logitdense", networks.layer_norm(params, "decoder/encoderdecoder_norm", x)
    )
    return float(networks.log_softmax(logits)[np.arange(len(tokens)), tokens].sum())


@pytest.mark.parametrize("seed", range(4))
def test_float32(seed: int) -> None:
    """Log-likelihoods against the plain float32 network; gradients against those of one sequence at a time, added
    in float32: the honest error of another order."""
    rng = np.random.default_rng(seed)
    params = noisy_params(rng, SMALL, "float32")
    doubles = buffers.flatten(params, dtype=np.float64)[1]
    lengths, c = rng.integers(1, 21, 24), rng.standard_normal(24)
    tokens = rng.integers(1, SMALL.vocab_size, (24, 20)) * (np.arange(20) < lengths[:, None])
    exact, cache = log_likelihood_forward(OPS, doubles, tokens, SMALL)
    exact_grads = named(log_likelihood_backward(c, cache), SMALL)
    total, cache = log_likelihood_forward(OPS, params, tokens, SMALL)
    flat = log_likelihood_backward(c, cache)
    assert flat.dtype == np.float32
    assert total.dtype == np.float64  # sums over tokens are
    plain = [plain_log_likelihood(params, row[:n], SMALL) for row, n in zip(tokens, lengths, strict=True)]
    checks.assert_float32(total, plain, exact)
    added, magnitude = np.zeros_like(flat), np.zeros_like(flat)
    for row, weight in zip(tokens, c, strict=True):
        alone = log_likelihood_backward(
            np.array([weight]), log_likelihood_forward(OPS, params, row[None], SMALL)[1]
        )
        added += alone
        magnitude += abs(alone)
    sizes, honest = named(magnitude, SMALL), named(added, SMALL)
    for name, grad in named(flat, SMALL).items():
        checks.assert_float32(grad, honest[name], exact_grads[name], float(sizes[name].max()))


# ----- What is minimised -----


@quick
@given(seed=seeds, config=configs(), batch=st.integers(1, 5), length=st.integers(1, 9))
def test_cross_entropy_step(seed: int, config: TransformerConfig, batch: int, length: int) -> None:
    rng = np.random.default_rng(seed)
    params, tokens, sizes = noisy_params(rng, config), some_tokens(rng, config, batch, length), oracle(config)
    direction = normal(rng, transformer_params.transformer_shapes(config))

    def loss(p: Any) -> Any:
        return -sequence_log_likelihood(p, tokens, sizes).sum() / (tokens > 0).sum()

    value, flat = transformer.cross_entropy_step(OPS, params, tokens, config)
    checks.assert_close(value, loss(params), checks.CLOSED_FORM)
    checks.assert_derivative(named(flat, config), direction, directional_derivative(loss, params, direction))


@quick
@given(seed=seeds, config=configs(), batch=st.integers(1, 5), lengths=st.tuples(*[st.integers(1, 9)] * 2))
def test_preference_step(seed: int, config: TransformerConfig, batch: int, lengths: tuple[int, int]) -> None:
    """Eq. 7 with the model of Eq. 12, the two sides padded to different lengths; with a regulariser or none."""
    rng = np.random.default_rng(seed)
    params, sizes = noisy_params(rng, config), oracle(config)
    x_a, x_b = (some_tokens(rng, config, batch, length) for length in lengths)
    y, scale, beta_reg = rng.integers(0, 3, batch) / 2, 3.0, float(rng.choice([0.0, 0.2]))
    direction = normal(rng, transformer_params.transformer_shapes(config))

    def loss(p: Any) -> Any:
        ll_a, ll_b = (sequence_log_likelihood(p, x, sizes) for x in (x_a, x_b))
        margin = scale * (ll_a / (x_a > 0).sum(axis=1) - ll_b / (x_b > 0).sum(axis=1))
        return (softplus(margin) - y * margin - beta_reg * (ll_a + ll_b)).mean()

    value, flat = transformer.preference_step(OPS, params, x_a, x_b, y, config, scale=scale, beta_reg=beta_reg)
    checks.assert_close(value, loss(params), checks.CLOSED_FORM)
    exact = directional_derivative(loss, params, direction)
    grads = named(flat, config)
    # a pair of equal sequences cancels, to a rounding of what was added
    sides = sum(abs(transformer.cross_entropy_step(OPS, params, x, config)[1]) for x in (x_a, x_b))
    slack = (
        checks.CLOSED_FORM * scale * float(sides @ np.concatenate([abs(v).ravel() for v in direction.values()]))
    )
    error = abs(sum(float((grads[name] * direction[name]).sum()) for name in grads) - exact)
    terms = sum(float(abs(grads[name] * direction[name]).sum()) for name in grads)
    assert error <= checks.DERIVATIVE * terms + slack


def test_first_parameters_are_the_reference_s() -> None:
    ours = transformer_params.transformer_init(np.random.default_rng(5), SMALL, "float64")
    theirs = networks.transformer_init(np.random.default_rng(5), oracle(SMALL))
    assert list(ours) == list(theirs)
    for name, value in ours.items():
        np.testing.assert_array_equal(value, theirs[name])
    assert buffers.flat_of(ours).size == sum(value.size for value in theirs.values())
    assert transformer_params.transformer_init(np.random.default_rng(5), SMALL)[name].dtype == np.float32


# ----- Sampling -----


@quick
@given(seed=seeds, config=configs(), batch=st.integers(1, 40), max_length=st.integers(1, 9))
def test_samples_and_their_log_likelihood(
    seed: int, config: TransformerConfig, batch: int, max_length: int
) -> None:
    """Every sample ends with its only EOS; its probability with kept keys and values is the full network's."""
    rng = np.random.default_rng(seed)
    params, eos = noisy_params(rng, config), config.vocab_size - 1
    params["decoder/logitdense/bias"][eos] += 1.0
    drawn = sample(OPS, params, config, 30, np.random.default_rng(seed), max_length, eos=eos, batch=batch)
    assert drawn.tokens.shape == (30, max_length)
    present = np.arange(max_length) < drawn.lengths[:, None]
    np.testing.assert_array_equal(drawn.tokens > 0, present)
    assert np.all(drawn.tokens[np.arange(30), drawn.lengths - 1] == eos)
    assert np.all((drawn.tokens == eos).sum(axis=1) == 1)
    checks.assert_close(
        drawn.log_likelihood, sequence_log_likelihood(params, drawn.tokens, oracle(config)), checks.CLOSED_FORM
    )
    again = sample(OPS, params, config, 30, np.random.default_rng(seed), max_length, eos=eos, batch=batch)
    np.testing.assert_array_equal(again.tokens, drawn.tokens)
    np.testing.assert_array_equal(again.log_likelihood, drawn.log_likelihood)


def all_sentences(config: TransformerConfig, max_length: int, eos: int) -> Array:
    """Every sequence without padding that ends with its only eos, padded to max_length."""
    others = [v for v in range(1, config.vocab_size) if v != eos]
    rows = [
        (*start, eos, *[0] * (max_length - length - 1))
        for length in range(max_length)
        for start in itertools.product(others, repeat=length)
    ]
    return np.array(rows)


@pytest.mark.parametrize(("count", "calls", "batch"), [(4000, 1, 64), (1, 800, 64), (5, 200, 3)])
def test_samples_follow_the_exact_distribution(count: int, calls: int, batch: int) -> None:
    """Chi-squared over all 31 sentences, from one call and from calls that stop after one or a few: short
    sentences, which end first, must not gain by it. The share of endings is their probability."""
    params, rng = noisy_params(np.random.default_rng(7), TINY), np.random.default_rng(8)
    params["decoder/logitdense/bias"][[0, 2]] -= [3.0, 1.5]  # long sentences are common
    sentences = all_sentences(TINY, TINY.max_len, eos=2)
    mass = np.exp(sequence_log_likelihood(params, sentences, oracle(TINY)))
    drawn = [sample(OPS, params, TINY, count, rng, TINY.max_len, batch=batch) for _ in range(calls)]
    index = {tuple(row): i for i, row in enumerate(sentences.tolist())}
    found = np.bincount([index[tuple(row)] for part in drawn for row in part.tokens.tolist()], minlength=len(mass))
    expected = mass / mass.sum() * count * calls
    common = expected >= 5  # the rest as one cell
    cells = [np.r_[values[common], values[~common].sum()] for values in (found, expected)]
    assert np.count_nonzero(common) >= 10
    assert chisquare(*cells).pvalue > 1e-3
    draws, share = sum(part.draws for part in drawn), mass.sum()
    assert abs(count * calls / draws - share) < 4 * math.sqrt(share * (1 - share) / draws)


def test_float32_samples() -> None:
    """The log-likelihoods of float32 samples are those of the full float32 network, by the relative rule."""
    params = noisy_params(np.random.default_rng(1), SMALL, "float32")
    drawn = sample(OPS, params, SMALL, 50, np.random.default_rng(2), 20)
    assert drawn.log_likelihood.dtype == np.float64
    full = log_likelihood_forward(OPS, params, drawn.tokens, SMALL)[0]
    doubles = buffers.flatten(params, dtype=np.float64)[1]
    checks.assert_float32(drawn.log_likelihood, full, log_likelihood_forward(OPS, doubles, drawn.tokens, SMALL)[0])


# ----- What is refused -----


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        ([[1, 4]], r"tokens must lie in 0\.\.3, got 4"),
        ([[1, -1]], r"tokens must lie in 0\.\.3, got -1"),
        ([[1] * 6], "sequences must be at most max_len = 5 long, got 6"),
        ([1, 2], r"tokens must be integers of shape \(B, T\), got int64, \(2,\)"),
        ([[1.0, 2.0]], r"tokens must be integers of shape \(B, T\), got float64, \(1, 2\)"),
        (np.zeros((0, 2), int), r"tokens must be integers of shape \(B, T\), got int64, \(0, 2\)"),
        ([[1, 2], [0, 0]], "sequences must not be empty, got only padding in sequence 1"),
    ],
)
def test_bad_tokens_are_refused(tokens: Any, message: str) -> None:
    params = transformer_params.transformer_init(np.random.default_rng(0), TINY)
    for step in (transformer.cross_entropy_step, transformer.log_likelihood):
        with pytest.raises(ValueError, match=message):
            step(OPS, params, tokens, TINY)


def test_bad_arguments_are_refused() -> None:
    params, tokens = transformer_params.transformer_init(np.random.default_rng(0), TINY), np.array([[1, 2]])
    with pytest.raises(ValueError, match="bucket must be >= 1, got 0"):
        log_likelihood_forward(OPS, params, tokens, TINY, bucket=0)
    with pytest.raises(ValueError, match="in its order, got another order"):
        log_likelihood_forward(OPS, dict(reversed(params.items())), tokens, TINY)
    with pytest.raises(ValueError, match=r"got \['decoder/logitdense/bias'\]"):
        log_likelihood_forward(OPS, dict(list(params.items())[:-1]), tokens, TINY)
    with pytest.raises(ValueError, match=r"'decoder/logitdense/bias'\] must have shape \(4,\), got \(5,\)"):
        log_likelihood_forward(OPS, params | {"decoder/logitdense/bias": np.zeros(5)}, tokens, TINY)
    for y in ([2.0], [math.nan], [1.0, 0.0]):
        with pytest.raises(ValueError, match=r"y must lie in \[0, 1\], of shape \(1,\)"):
            transformer.preference_step(OPS, params, tokens, tokens, y, TINY)
    with pytest.raises(ValueError, match=r"x_a, x_b must be tokens of shape \(B, T\) with one B"):
        transformer.preference_step(OPS, params, tokens, np.array([[1], [2]]), [1.0], TINY)
    with pytest.raises(ValueError, match="qkv_dim must be divisible by num_heads, got 10 and 4"):
        TransformerConfig(qkv_dim=10, num_heads=4)
    with pytest.raises(ValueError, match="emb_dim must be >= 4, got 3"):
        TransformerConfig(emb_dim=3)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"count": 0}, "count must be >= 1, got 0"),
        ({"batch": 0}, "batch must be >= 1, got 0"),
        ({"eos": 4}, "eos must be >= 1 and <= 3, got 4"),
        ({"eos": 0}, "eos must be >= 1 and <= 3, got 0"),
        ({"max_length": 6}, "max_length must be >= 1 and <= max_len = 5, got 6"),
        ({"max_length": 0}, "max_length must be >= 1 and <= max_len = 5, got 0"),
    ],
)
def test_bad_sample_sizes_are_refused(sizes: dict[str, Any], message: str) -> None:
    params, rng = transformer_params.transformer_init(np.random.default_rng(0), TINY), np.random.default_rng(0)
    with pytest.raises(ValueError, match=message):
        sample(OPS, params, TINY, rng=rng, **({"count": 1, "max_length": 2} | sizes))


def test_a_model_that_never_ends_is_refused() -> None:
    params = transformer_params.transformer_init(np.random.default_rng(0), TINY)
    params["decoder/logitdense/bias"][2] = -1e4
    with pytest.raises(RuntimeError, match="must end with token 2 within 2, got 0 of"):
        sample(OPS, params, TINY, 1, np.random.default_rng(0), 2, batch=1000)


@pytest.mark.parametrize(("vocab", "hidden"), [(40, 16), (16, 48)])
def test_a_pass_without_gradient_keeps_to_its_memory(
    vocab: int, hidden: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No array of a part has more than AT_ONCE numbers: neither the logits nor the hidden units."""
    config = TransformerConfig(vocab, 8, 2, 1, 8, hidden, 6)
    rng = np.random.default_rng(0)
    tokens, params = rng.integers(1, vocab, (37, 6)), transformer_init(rng, config, "float64")
    whole, sizes, plain = (
        log_likelihood(Ops(), params, tokens, config),
        list[int](),
        transformer.log_likelihood_forward,
    )

    def counted(ops: Any, params: Any, part: Any, config: Any) -> Any:
        sizes.append(len(part))
        return plain(ops, params, part, config)

    monkeypatch.setattr(transformer, "AT_ONCE", 5 * 6 * max(vocab, hidden) + 1)
    monkeypatch.setattr(transformer, "log_likelihood_forward", counted)
    checks.assert_close(log_likelihood(Ops(), params, tokens, config), whole, checks.BACKENDS)
    assert sizes == [5] * 7 + [2]
