"""reference/networks.py: the forward passes, and the complex step that differentiates them.

The anchors come from outside: closed forms, sums over every sequence, central differences, and numbers
computed with Flax itself.
"""

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from reference import networks
from reference.networks import (
    TransformerConfig,
    directional_derivative,
    mlp,
    mlp_init,
    sequence_log_likelihood,
    softplus,
    transformer,
    transformer_init,
    transformer_shapes,
)

Params = dict[str, networks.Array]
Tokens = NDArray[np.int64]

ROUNDING = 1e-13  # relative to the sum of the terms' sizes: closed forms of a few hundred operations
FORWARD = 1e-12  # relative: two orders of summation through whole networks
DIFFERENCE = 1e-6  # relative to the same sum, at STEP: truncation 1e-10 f'''/f', rounding 1e-11 f/f'
STEP = 1e-5  # of the central differences

seeds = st.integers(0, 2**32 - 1)
quick = settings(max_examples=25, deadline=None)


@st.composite
def configs(draw: st.DrawFn, least_vocab: int = 2) -> TransformerConfig:
    heads = draw(st.integers(1, 3))
    return TransformerConfig(
        vocab_size=draw(st.integers(least_vocab, 7)),
        emb_dim=draw(st.integers(4, 9)),
        num_heads=heads,
        num_layers=draw(st.integers(1, 2)),
        qkv_dim=heads * draw(st.integers(1, 3)),
        mlp_dim=draw(st.integers(1, 8)),
        max_len=8,
    )


def noisy(params: Params, rng: np.random.Generator) -> Params:
    """No parameter left at a special value: biases are not 0, scales are not 1."""
    return {name: value + 0.3 * rng.standard_normal(value.shape) for name, value in params.items()}


def unit_direction(params: Params, rng: np.random.Generator) -> Params:
    direction = {name: rng.standard_normal(value.shape) for name, value in params.items()}
    norm = math.sqrt(sum(float((v * v).sum()) for v in direction.values()))
    return {name: v / norm for name, v in direction.items()}


def moved(params: Params, direction: Params, t: float) -> Params:
    return {name: params[name] + t * direction[name] for name in params}


def some_tokens(rng: np.random.Generator, config: TransformerConfig, length: int, batch: int = 2) -> Tokens:
    """Tokens with padding anywhere, also inside; every sequence keeps one token that is not."""
    tokens = rng.integers(0, config.vocab_size, (batch, length))
    tokens[np.arange(batch), rng.integers(0, length, batch)] = config.vocab_size - 1
    return tokens


def hidden_signs(params: Params, tokens: Tokens, config: TransformerConfig) -> list[NDArray[np.bool_]]:
    """Which ReLUs are on, block by block."""
    signs: list[NDArray[np.bool_]] = []

    def dense(params: Params, name: str, x: networks.Array) -> networks.Array:
        out = original(params, name, x)
        if name.endswith("MlpBlock_0/Dense_0"):
            signs.append(out > 0)
        return out

    original = networks.dense
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(networks, "dense", dense)
        transformer(params, tokens, config)
    return signs


def check_derivative(loss: networks.Loss, params: Params, direction: Params) -> None:
    """Against a central difference, and linear in the direction, both relative to the sum over the arrays."""
    zero = {name: np.zeros_like(v) for name, v in direction.items()}
    parts = [directional_derivative(loss, params, zero | {name: direction[name]}) for name in params]
    scale = sum(map(abs, parts))
    derivative = directional_derivative(loss, params, direction)
    ahead, behind = loss(moved(params, direction, STEP)), loss(moved(params, direction, -STEP))
    difference = float(ahead - behind) / (2 * STEP)
    assert abs(derivative - difference) <= DIFFERENCE * scale, (derivative, difference, scale)
    assert abs(derivative - sum(parts)) <= FORWARD * scale, (derivative, sum(parts), scale)


# ----- The derivative -----


@quick
@given(seed=seeds, hidden=st.lists(st.integers(1, 8), max_size=4), d_in=st.integers(1, 3))
def test_complex_step_of_the_mlp_matches_a_central_difference(seed: int, hidden: list[int], d_in: int) -> None:
    rng = np.random.default_rng(seed)
    params = noisy(mlp_init(rng, (d_in, *hidden, 1)), rng)
    x_a, x_b = rng.standard_normal((2, 5, d_in))

    def loss(params: Params) -> Any:
        return softplus(mlp(params, x_b) - mlp(params, x_a)).mean()

    check_derivative(loss, params, unit_direction(params, rng))


@quick
@given(seed=seeds, config=configs(), length=st.integers(1, 6))
def test_complex_step_of_the_log_likelihood_matches_a_central_difference(
    seed: int, config: TransformerConfig, length: int
) -> None:
    rng = np.random.default_rng(seed)
    params = noisy(transformer_init(rng, config), rng)
    tokens, direction = some_tokens(rng, config, length), unit_direction(params, rng)
    ends = [hidden_signs(moved(params, direction, t), tokens, config) for t in (-STEP, STEP)]
    assume(all(np.array_equal(*signs) for signs in zip(*ends, strict=True)))  # no kink in between
    weight = rng.standard_normal(len(tokens))
    check_derivative(lambda p: sequence_log_likelihood(p, tokens, config) @ weight, params, direction)


@quick
@given(w=st.lists(st.floats(-30, 30), min_size=1, max_size=6), seed=seeds)
def test_complex_step_is_exact_on_a_closed_form(w: list[float], seed: int) -> None:
    """d/dw sum softplus(w) = sigmoid(w), for both signs of w; d/dw log(1 + w.w) = 2 w / (1 + w.w)."""
    weights = np.array(w)
    v = np.random.default_rng(seed).standard_normal(weights.shape)
    derivative = directional_derivative(
        lambda p: softplus(p["w"]).sum() + np.log(1 + p["w"] @ p["w"]), {"w": weights}, {"w": v}
    )
    terms = np.concatenate([v / (1 + np.exp(-weights)), 2 * weights * v / (1 + weights @ weights)])
    assert abs(derivative - terms.sum()) <= ROUNDING * np.abs(terms).sum()


@pytest.mark.parametrize("w", [-600.0, -40.0, -1e-9, 0.0, 1e-9, 40.0, 800.0])
def test_softplus_and_its_slope_hold_in_both_tails(w: float) -> None:
    slope = directional_derivative(lambda p: softplus(p["w"]), {"w": np.array(w)}, {"w": np.array(1.0)})
    assert slope == pytest.approx(math.exp(min(w, 0)) / (1 + math.exp(-abs(w))), rel=ROUNDING, abs=0)
    assert softplus(w) == pytest.approx(max(w, 0) + math.log1p(math.exp(-abs(w))), rel=ROUNDING, abs=0)


@quick
@given(seed=seeds, config=configs(), length=st.integers(1, 6))
def test_derivative_in_the_output_bias_is_counts_minus_probabilities(
    seed: int, config: TransformerConfig, length: int
) -> None:
    """d log p(x) / d bias = sum over the tokens that are not padding of onehot(x_t) - softmax(logits_t)."""
    rng = np.random.default_rng(seed)
    params = noisy(transformer_init(rng, config), rng)
    tokens, v = some_tokens(rng, config, length, batch=1), rng.standard_normal(config.vocab_size)
    direction = {name: np.zeros_like(value) for name, value in params.items()} | {"decoder/logitdense/bias": v}
    derivative = directional_derivative(lambda p: sequence_log_likelihood(p, tokens, config)[0], params, direction)
    kept = tokens[0] > 0
    odds = np.exp(transformer(params, tokens, config)[0, kept])
    probability = odds / odds.sum(axis=1, keepdims=True)
    expected = v[tokens[0, kept]].sum() - (probability @ v).sum()
    assert abs(derivative - expected) <= ROUNDING * (
        np.abs(v[tokens[0, kept]]).sum() + (probability @ np.abs(v)).sum()
    )


def test_float32_parameters_are_differentiated_in_double_precision() -> None:
    rng = np.random.default_rng(0)
    params = noisy(mlp_init(rng, (1, 8, 1)), rng)
    single = [{k: v.astype(np.float32) for k, v in tree.items()} for tree in (params, unit_direction(params, rng))]
    double = [{k: v.astype(np.float64) for k, v in tree.items()} for tree in single]

    def loss(params: Params) -> Any:
        return mlp(params, np.arange(3.0)).sum()

    assert directional_derivative(loss, *single) == directional_derivative(loss, *double)


@pytest.mark.parametrize("drop", [np.abs, np.real, lambda z: z.real * 2.0])
def test_a_loss_that_drops_the_imaginary_part_is_refused(
    drop: Callable[[networks.Array], networks.Array],
) -> None:
    params, direction = {"w": np.array([1.0, 2.0])}, {"w": np.array([0.0, 1.0])}
    with pytest.raises(TypeError, match="must keep the imaginary part"):
        directional_derivative(lambda p: drop(p["w"]).sum(), params, direction)
    assert directional_derivative(lambda p: 3.0, params, {"w": np.zeros(2)}) == 0.0


def test_directions_and_losses_of_the_wrong_shape_are_refused() -> None:
    params: Params = {"w": np.ones(3), "b": np.ones(())}
    cases: list[tuple[Params, str]] = [
        ({"w": np.ones(3)}, r"direction\['b'\] must have shape \(\), got nothing"),
        ({"w": np.ones(2), "b": np.ones(())}, r"direction\['w'\] must have shape \(3,\), got \(2,\)"),
        (params | {"c": np.ones(1)}, r"direction\['c'\] must have shape nothing, got \(1,\)"),
    ]
    for direction, message in cases:
        with pytest.raises(ValueError, match=message):
            directional_derivative(lambda p: p["w"].sum(), params, direction)
    with pytest.raises(ValueError, match=r"loss must return one number, got shape \(3,\)"):
        directional_derivative(lambda p: p["w"], params, params)


# ----- MLP -----


def test_mlp_by_hand() -> None:
    params = mlp_init(np.random.default_rng(0), (1, 1, 1))
    params |= {"Dense_0/kernel": np.array([[0.5]]), "Dense_0/bias": np.array([0.1])}
    params |= {"Dense_1/kernel": np.array([[-2.0]]), "Dense_1/bias": np.array([3.0])}
    x = np.linspace(-3, 3, 7)
    np.testing.assert_allclose(mlp(params, x), 3 - 2 * np.tanh(0.5 * x + 0.1), rtol=ROUNDING)


@quick
@given(seed=seeds, widths=st.lists(st.integers(1, 6), min_size=2, max_size=5), n=st.integers(1, 5))
def test_mlp_shapes_and_rows(seed: int, widths: list[int], n: int) -> None:
    """One output column is flattened, one input column may be; every row is computed on its own."""
    rng = np.random.default_rng(seed)
    params, x = noisy(mlp_init(rng, widths), rng), rng.standard_normal((n, widths[0]))
    out = mlp(params, x)
    assert out.shape == ((n,) if widths[-1] == 1 else (n, widths[-1]))
    assert out.dtype == np.float64
    np.testing.assert_allclose(
        out, np.concatenate([mlp(params, row[None]) for row in x]), rtol=FORWARD, atol=FORWARD
    )
    if widths[0] == 1:
        np.testing.assert_array_equal(mlp(params, x[:, 0]), out)


def test_mlp_init_draws_the_table_1_network() -> None:
    params = mlp_init(np.random.default_rng(0))
    assert sum(value.size for value in params.values()) == 2 * 64 + 3 * (64 * 64 + 64) + 64 + 1
    assert list(params) == [f"Dense_{i}/{part}" for i in range(5) for part in ("kernel", "bias")]
    assert params["Dense_0/kernel"].shape == (1, 64)
    assert not any(params[f"Dense_{i}/bias"].any() for i in range(5))
    again = mlp_init(np.random.default_rng(0))
    assert all(np.array_equal(params[name], again[name]) for name in params)


def test_mlp_init_is_lecun_normal() -> None:
    """Variance 1 / in after the cut, and the cut at two standard deviations of the normal before it."""
    density = math.exp(-2) / math.sqrt(2 * math.pi)
    sd = math.sqrt(1 - 4 * density / math.erf(math.sqrt(2)))
    assert pytest.approx(sd, rel=ROUNDING) == networks.TRUNCATED_SD
    kernel = 10 * mlp_init(np.random.default_rng(0), (100, 2000))["Dense_0/kernel"]
    assert 0.999 * 2 / sd < np.abs(kernel).max() <= 2 / sd
    assert abs(kernel.mean()) < 5 / math.sqrt(kernel.size)
    assert abs((kernel * kernel).mean() - 1) < 5 * math.sqrt(2 / kernel.size)  # wider than the true error bar


@pytest.mark.parametrize("shape", [(3,), (3, 1), (2, 3, 2), ()])
def test_mlp_refuses_inputs_that_do_not_fit(shape: tuple[int, ...]) -> None:
    params = mlp_init(np.random.default_rng(0), (2, 3, 1))
    with pytest.raises(ValueError, match=r"x must have shape \(n, 2\), got \("):
        mlp(params, np.zeros(shape))


@pytest.mark.parametrize("widths", [(), (3,), (2, 0, 1)])
def test_mlp_init_refuses_bad_widths(widths: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"widths must be two or more numbers >= 1, got \("):
        mlp_init(np.random.default_rng(0), widths)


# ----- Transformer -----


def test_log_likelihood_agrees_with_flax() -> None:
    """Numbers from the lm1b decoder rebuilt from Flax's own layers (flax 0.12.8, jax 0.10.2), in float64
    throughout: the example's position table is float32. Padding at the end and inside."""
    config = TransformerConfig(vocab_size=7, emb_dim=6, num_heads=2, num_layers=2, qkv_dim=8, mlp_dim=5, max_len=9)
    shapes = sorted(transformer_shapes(config).items())
    params = {
        name: 0.5 * np.sin(i + np.arange(math.prod(shape))).reshape(shape)
        for i, (name, shape) in enumerate(shapes)
    }
    tokens = np.array([[3, 1, 6, 2, 5], [4, 4, 2, 0, 0], [1, 0, 5, 2, 0]])
    expected = [-11.480403021058457, -6.892476929580839, -6.923153071201504]
    np.testing.assert_allclose(sequence_log_likelihood(params, tokens, config), expected, rtol=FORWARD)
    at_padding = [0.37194805481770177, -0.38989656326962535, -0.793272079186985]
    np.testing.assert_allclose(transformer(params, tokens, config)[1, 4, :3], at_padding, rtol=FORWARD)


@quick
@given(seed=seeds, config=configs(least_vocab=3), length=st.integers(2, 6), data=st.data())
def test_logits_depend_on_earlier_tokens_only(
    seed: int, config: TransformerConfig, length: int, data: st.DataObject
) -> None:
    """Another token at t (not padding) leaves the logits at t and before as they are, bit for bit, wherever
    they mean something; it moves those at t + 1."""
    rng = np.random.default_rng(seed)
    params, tokens = noisy(transformer_init(rng, config), rng), some_tokens(rng, config, length, batch=1)
    t = data.draw(st.integers(0, length - 2))
    tokens[0, t : t + 2] = 1
    other = tokens.copy()
    other[0, t] = data.draw(st.integers(2, config.vocab_size - 1))
    before, after = transformer(params, tokens, config)[0], transformer(params, other, config)[0]
    kept = np.flatnonzero(tokens[0, : t + 1])
    np.testing.assert_array_equal(before[kept], after[kept])
    assert not np.allclose(before[t + 1], after[t + 1], rtol=FORWARD)


@quick
@given(seed=seeds, config=configs(), length=st.integers(1, 5), padding=st.integers(1, 3))
def test_padding_at_the_end_changes_no_log_likelihood(
    seed: int, config: TransformerConfig, length: int, padding: int
) -> None:
    rng = np.random.default_rng(seed)
    params, tokens = noisy(transformer_init(rng, config), rng), some_tokens(rng, config, length)
    longer = np.pad(tokens, ((0, 0), (0, padding)))
    expected = sequence_log_likelihood(params, tokens, config)
    np.testing.assert_allclose(sequence_log_likelihood(params, longer, config), expected, rtol=FORWARD)


@quick
@given(seed=seeds, config=configs(), length=st.integers(1, 5))
def test_sequences_of_a_batch_do_not_see_each_other(seed: int, config: TransformerConfig, length: int) -> None:
    rng = np.random.default_rng(seed)
    params, tokens = noisy(transformer_init(rng, config), rng), some_tokens(rng, config, length, batch=3)
    alone = [sequence_log_likelihood(params, row[None], config)[0] for row in tokens]
    np.testing.assert_allclose(sequence_log_likelihood(params, tokens, config), alone, rtol=FORWARD)


@quick
@given(seed=seeds, config=configs(), prefix=st.integers(0, 4))
def test_next_tokens_and_padding_share_all_probability(seed: int, config: TransformerConfig, prefix: int) -> None:
    """sum over v > 0 of p(prefix, v) / p(prefix) = 1 - the share that the softmax gives to padding."""
    rng = np.random.default_rng(seed)
    params = noisy(transformer_init(rng, config), rng)
    start = rng.integers(1, config.vocab_size, prefix)
    tokens = np.array([[*start, v] for v in range(1, config.vocab_size)])
    log_p = sequence_log_likelihood(params, tokens, config)
    log_p_start = sequence_log_likelihood(params, start[None], config)[0] if prefix else 0.0
    odds = np.exp(transformer(params, tokens, config)[0, prefix])
    total = np.exp(log_p - log_p_start).sum() + odds[0] / odds.sum()
    assert total == pytest.approx(1, rel=FORWARD)


@quick
@given(seed=seeds, config=configs(), length=st.integers(1, 3))
def test_probabilities_of_all_sequences_sum_to_one(seed: int, config: TransformerConfig, length: int) -> None:
    """Over every sequence of one length without padding, where padding has no share: its logit is -1e4."""
    rng = np.random.default_rng(seed)
    params = noisy(transformer_init(rng, config), rng)
    params["decoder/logitdense/bias"][0] = -1e4
    tokens = np.array(list(itertools.product(range(1, config.vocab_size), repeat=length)))
    total = np.exp(sequence_log_likelihood(params, tokens, config)).sum()
    assert total == pytest.approx(1, rel=FORWARD)


def test_positions_by_hand() -> None:
    table = networks.positions(3, 7)
    for t, k in itertools.product(range(3), range(3)):
        angle = t / 10_000 ** (k / 2)
        np.testing.assert_allclose(table[t, [k, 3 + k]], [math.sin(angle), math.cos(angle)], rtol=ROUNDING)
    assert table.shape == (3, 7)
    assert not table[:, 6].any()


def count(config: TransformerConfig) -> int:
    v, c, q, m = config.vocab_size, config.emb_dim, config.qkv_dim, config.mlp_dim
    layer = 2 * (2 * c) + 4 * c * q + (c * m + m) + (m * c + c)
    return v * c + config.num_layers * layer + 2 * c + (c * v + v)


@quick
@given(seed=seeds, config=configs())
def test_parameters_are_as_many_as_the_formula_says(seed: int, config: TransformerConfig) -> None:
    params = transformer_init(np.random.default_rng(seed), config)
    assert {name: value.shape for name, value in params.items()} == transformer_shapes(config)
    assert sum(value.size for value in params.values()) == count(config)


def test_the_paper_size_network_has_49_653_040_parameters() -> None:
    paper = TransformerConfig()
    assert sum(math.prod(shape) for shape in transformer_shapes(paper).values()) == count(paper) == 49_653_040


def test_transformer_init_scales() -> None:
    config = TransformerConfig(vocab_size=200, emb_dim=50, num_heads=2, num_layers=1, qkv_dim=20, mlp_dim=70)
    params = transformer_init(np.random.default_rng(0), config)
    layer = "decoder/encoderdecoderblock_0"
    for name, sides in [
        (f"{layer}/SelfAttention_0/query/kernel", 50 + 20),
        (f"{layer}/SelfAttention_0/out/kernel", 20 + 50),
        (f"{layer}/MlpBlock_0/Dense_0/kernel", 50 + 70),
        (f"{layer}/MlpBlock_0/Dense_1/kernel", 70 + 50),
        ("decoder/logitdense/kernel", 50 + 200),
    ]:
        limit = math.sqrt(6 / sides)
        assert 0.98 * limit < np.abs(params[name]).max() <= limit, name
    assert params["decoder/Embed_0/embedding"].std() == pytest.approx(1, rel=0.05)  # 7 standard errors
    for norm in (f"{layer}/LayerNorm_0", f"{layer}/LayerNorm_1", "decoder/encoderdecoder_norm"):
        assert np.all(params[f"{norm}/scale"] == 1)
        assert not params[f"{norm}/bias"].any()
    assert 0 < np.abs(params["decoder/logitdense/bias"]).max() < 1e-5
    again = transformer_init(np.random.default_rng(0), config)
    assert all(np.array_equal(params[name], again[name]) for name in params)


def test_forward_passes_leave_their_arguments_alone() -> None:
    rng = np.random.default_rng(0)
    config = TransformerConfig(vocab_size=5, emb_dim=4, num_heads=1, num_layers=1, qkv_dim=2, mlp_dim=3, max_len=3)
    params, tokens = transformer_init(rng, config), np.array([[1, 4, 0]])
    kept = {name: value.copy() for name, value in params.items()}
    assert config.max_len == tokens.shape[1]  # the longest sequence that is allowed
    sequence_log_likelihood(params, tokens, config)
    assert all(np.array_equal(params[name], kept[name]) for name in params)
    np.testing.assert_array_equal(tokens, [[1, 4, 0]])


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        ([[1, 5]], r"tokens must lie in 0\.\.4, got 5"),
        ([[1, -1]], r"tokens must lie in 0\.\.4, got -1"),
        ([[1] * 4], "sequences must be at most max_len = 3 long, got 4"),
        ([1, 2], r"tokens must be integers of shape \(B, T\), got int64, \(2,\)"),
        ([[1.0, 2.0]], r"tokens must be integers of shape \(B, T\), got float64, \(1, 2\)"),
        (np.zeros((2, 0), int), r"tokens must be integers of shape \(B, T\), got int64, \(2, 0\)"),
        (np.zeros((0, 2), int), r"tokens must be integers of shape \(B, T\), got int64, \(0, 2\)"),
        ([[1, 2], [0, 0]], "sequences must not be empty, got only padding in sequence 1"),
    ],
)
def test_bad_tokens_are_refused(tokens: list[list[int]], message: str) -> None:
    config = TransformerConfig(vocab_size=5, emb_dim=4, num_heads=1, num_layers=1, qkv_dim=2, mlp_dim=3, max_len=3)
    params = transformer_init(np.random.default_rng(0), config)
    with pytest.raises(ValueError, match=message):
        sequence_log_likelihood(params, tokens, config)


def test_parameters_of_another_size_are_refused() -> None:
    two = TransformerConfig(vocab_size=5, emb_dim=4, num_heads=1, num_layers=2, qkv_dim=2, mlp_dim=3)
    one = TransformerConfig(vocab_size=5, emb_dim=4, num_heads=1, num_layers=1, qkv_dim=2, mlp_dim=3)
    params = transformer_init(np.random.default_rng(0), two)
    with pytest.raises(ValueError, match=r"params\['decoder/encoderdecoderblock_1/.*must have shape nothing"):
        transformer(params, [[1]], one)
    with pytest.raises(
        ValueError, match=r"params\['decoder/logitdense/bias'\] must have shape \(5,\), got \(6,\)"
    ):
        transformer(params | {"decoder/logitdense/bias": np.zeros(6)}, [[1]], two)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"qkv_dim": 10, "num_heads": 4}, "qkv_dim must be divisible by num_heads, got 10 and 4"),
        ({"emb_dim": 3}, "emb_dim must be >= 4, got 3"),
        ({"vocab_size": 1}, "vocab_size must be >= 2, got 1"),
        ({"num_heads": 0}, "num_heads must be >= 1, got 0"),
        ({"num_layers": 0}, "num_layers must be >= 1, got 0"),
        ({"mlp_dim": -1}, "mlp_dim must be >= 1, got -1"),
        ({"max_len": 0}, "max_len must be >= 1, got 0"),
    ],
)
def test_bad_sizes_are_refused(sizes: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TransformerConfig(**sizes)
