"""accel's Transformer against Flax itself: the lm1b example's decoder in Flax's own layers, weights copied."""

# mypy: disable-error-code="misc,name-defined,untyped-decorator"
from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from accel import Ops, buffers
from accel.cpu.ops import NumbaOps
from accel.transformer import log_likelihood_backward, log_likelihood_forward
from accel.transformer_params import TransformerConfig, positions, transformer_init, transformer_shapes
from tests import checks

Array = NDArray[Any]
CONFIG = TransformerConfig(
    vocab_size=40, emb_dim=32, num_heads=2, num_layers=2, qkv_dim=32, mlp_dim=64, max_len=20
)


def flax_decoder(config: TransformerConfig) -> Any:
    """A module (inputs, mask) -> logits whose parameters have the names of `transformer_shapes`."""
    nn, jnp = pytest.importorskip("flax.linen"), pytest.importorskip("jax.numpy")

    class MlpBlock(nn.Module):
        @nn.compact
        def __call__(self, x: Any) -> Any:
            hidden = nn.relu(nn.Dense(config.mlp_dim)(x))
            return nn.Dense(config.emb_dim)(hidden)

    class Block(nn.Module):
        @nn.compact
        def __call__(self, x: Any, mask: Any) -> Any:
            attention = nn.MultiHeadDotProductAttention(
                config.num_heads,
                qkv_features=config.qkv_dim,
                use_bias=False,
                deterministic=True,
                name="SelfAttention_0",
            )
            x = x + attention(nn.LayerNorm(name="LayerNorm_0")(x), mask=mask)
            return x + MlpBlock(name="MlpBlock_0")(nn.LayerNorm(name="LayerNorm_1")(x))

    class Decoder(nn.Module):
        @nn.compact
        def __call__(self, inputs: Any, mask: Any) -> Any:
            place = jnp.asarray(positions(config.max_len, config.emb_dim)[: inputs.shape[1]], jnp.float32)
            x = nn.Embed(config.vocab_size, config.emb_dim, name="Embed_0")(inputs) + place
            for i in range(config.num_layers):
                x = Block(name=f"encoderdecoderblock_{i}")(x, mask)
            x = nn.LayerNorm(name="encoderdecoder_norm")(x)
            return nn.Dense(config.vocab_size, name="logitdense")(x)

    class Model(nn.Module):
        @nn.compact
        def __call__(self, inputs: Any, mask: Any) -> Any:
            return Decoder(name="decoder")(inputs, mask)

    return Model()


def nested(params: Mapping[str, Array]) -> dict[str, Any]:
    """Names with slashes as a tree."""
    tree: dict[str, Any] = {}
    for name, value in params.items():
        *path, leaf = name.split("/")
        into = tree
        for part in path:
            into = into.setdefault(part, {})
        into[leaf] = value
    return tree


def leaf_of(tree: Any, name: str) -> Array:
    for part in name.split("/"):
        tree = tree[part]
    return np.asarray(tree)


@pytest.fixture(scope="module")
def in_flax() -> dict[str, Any]:
    """params, tokens (12, T) of many lengths, c (12,), and Flax's log p(x) and d sum(c log p(x)), float32."""
    jax, linen = pytest.importorskip("jax"), pytest.importorskip("flax.linen")
    model, rng = flax_decoder(CONFIG), np.random.default_rng(0)
    params = transformer_init(rng, CONFIG)
    for value in params.values():
        value += 0.1 * rng.standard_normal(value.shape)
    tokens = rng.integers(1, CONFIG.vocab_size, (12, CONFIG.max_len))
    tokens *= np.arange(CONFIG.max_len) < rng.integers(1, CONFIG.max_len + 1, (12, 1))
    c = rng.standard_normal(12).astype(np.float32)

    def weighted(tree: Any) -> tuple[Any, Any]:
        # the example's masks: causal, and of the tokens themselves, not of the shifted inputs
        present = linen.make_attention_mask(tokens > 0, tokens > 0)
        mask = linen.combine_masks(present, linen.make_causal_mask(tokens))
        logits = model.apply({"params": tree}, np.pad(tokens[:, :-1], ((0, 0), (1, 0))), mask)
        log_p = jax.numpy.take_along_axis(jax.nn.log_softmax(logits), tokens[:, :, None], axis=2)[:, :, 0]
        total = (log_p * (tokens > 0)).sum(axis=1)
        return (c * total).sum(), total

    grads, total = jax.jit(jax.grad(weighted, has_aux=True))(nested(params))
    return {"params": params, "tokens": tokens, "c": c, "log_p": np.asarray(total), "grads": grads}


@pytest.mark.parametrize("ops", [Ops(), NumbaOps(2)], ids=lambda ops: ops.name)
def test_log_likelihood_and_gradients_are_flax_s(ops: Ops, in_flax: dict[str, Any]) -> None:
    total, cache = log_likelihood_forward(ops, in_flax["params"], in_flax["tokens"], CONFIG)
    np.testing.assert_allclose(total, in_flax["log_p"], rtol=checks.FLAX_VALUE)
    ours = buffers.views(log_likelihood_backward(in_flax["c"], cache), transformer_shapes(CONFIG))
    theirs = in_flax["grads"]
    assert set(theirs) == {"decoder"}
    for name, grad in ours.items():
        expected = leaf_of(theirs, name)
        assert expected.shape == grad.shape
        checks.assert_close(grad, expected, checks.FLAX_GRADIENT, float(np.abs(expected).max()))
