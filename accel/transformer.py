"""The language model: the pre-LN decoder of the Flax lm1b example without dropout, composed from ops.

Sinusoidal positions, ReLU, attention without bias, an untied output with bias; token 0 is padding. Parameters are
views of one flat buffer, keyed by their Flax path, in the order of `transformer_shapes`; their dtype decides:
float32 for training, float64 for checks. Padding costs nothing but in attention: `accel/packing.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from accel import buffers
from accel.arrays import check_number, plain_array, real_array
from accel.buffers import Array
from accel.losses import MarginLoss, logistic
from accel.packing import BUCKET, check_tokens, pack
from accel.sequence_ops import Cache, SequenceOps
from accel.transformer_params import (
    EMBEDDING,
    MLP,
    NORM,
    OUTPUT,
    PROJECTIONS,
    Params,
    TransformerConfig,
    check_params,
    layer_params,
    positions,
    transformer_shapes,
)

Attend = Callable[[Array, Array, Array], tuple[Array, Cache]]  # query, key, value [R, H, D] -> [R, H, D], cache
AT_ONCE = 1 << 25  # numbers of the largest array when only log-likelihoods are asked for: 128 MB in float32


# ----- One layer: x <- x + attention(norm(x)), then x <- x + mlp(norm(x)) -----


def layer_forward(ops: SequenceOps, params: Params, layer: int, x: Array, attend: Attend) -> tuple[Array, Cache]:
    """[R, C] -> [R, C], cache. attend mixes the rows: all that differs between training and sampling."""
    block = layer_params(params, layer)
    x, attention = attention_forward(ops, block, x, attend)
    x, mlp = mlp_forward(ops, block, x)
    return x, (attention, mlp)


def layer_backward(ops: SequenceOps, dx: Array, cache: Cache, grads: Params, layer: int) -> Array:
    """[R, C] -> dx [R, C]; the layer's gradients are written into grads."""
    attention, mlp = cache
    block = layer_params(grads, layer)
    return attention_backward(ops, mlp_backward(ops, dx, mlp, block), attention, block)


def attention_forward(ops: SequenceOps, block: Params, x: Array, attend: Attend) -> tuple[Array, Cache]:
    """x + attend(norm(x) W_query, norm(x) W_key, norm(x) W_value) W_out: [R, C] -> [R, C], cache."""
    kernels = [block[f"SelfAttention_0/{part}/kernel"] for part in PROJECTIONS]  # [C, H, D]
    scale, bias, flat = block["LayerNorm_0/scale"], block["LayerNorm_0/bias"], (x.shape[1], -1)
    rows, projections = ops.norm_matmuls_forward(x, scale, bias, [kernel.reshape(flat) for kernel in kernels])
    heads = kernels[0].shape[1:]
    mixed, attention = attend(*(part.reshape(-1, *heads) for part in rows))
    kernel = block["SelfAttention_0/out/kernel"].reshape(-1, x.shape[1])
    out, added = ops.matmul_add_forward(x, mixed.reshape(len(x), -1), kernel)
    return out, (projections, attention, added)


def attention_backward(ops: SequenceOps, dx: Array, cache: Cache, block: Params) -> Array:
    """[R, C] -> dx [R, C]; gradients into block."""
    projections, attention, added = cache
    # forward: x + mixed @ out
    dx, dmixed, dkernel = ops.matmul_add_backward(dx, added)
    put(block, "SelfAttention_0/out/kernel", dkernel)
    # forward: mixed = attend(normed @ query, normed @ key, normed @ value)
    heads = block["SelfAttention_0/out/kernel"].shape[:2]  # H, D
    dheads = ops.attention_backward(dmixed.reshape(-1, *heads), attention)
    # forward: normed @ kernels, normed = norm(x)
    dx, dscale, dbias, dkernels = ops.norm_matmuls_backward(
        [dhead.reshape(len(dx), -1) for dhead in dheads], projections, dx
    )
    for part, dkernel in zip(PROJECTIONS, dkernels, strict=True):
        put(block, f"SelfAttention_0/{part}/kernel", dkernel)
    put(block, "LayerNorm_0/scale", dscale)
    put(block, "LayerNorm_0/bias", dbias)
    return dx


def mlp_forward(ops: SequenceOps, block: Params, x: Array) -> tuple[Array, Cache]:
    """x + relu(norm(x) W_0 + b_0) W_1 + b_1: [R, C] -> [R, C], cache."""
    return ops.mlp_block_forward(x, *(block[name] for name in MLP))


def mlp_backward(ops: SequenceOps, dx: Array, cache: Cache, block: Params) -> Array:
    """[R, C] -> dx [R, C]; gradients into block."""
    dx, *grads = ops.mlp_block_backward(dx, cache)
    for name, grad in zip(MLP, grads, strict=True):
        put(block, name, grad)
    return dx


def put(grads: Params, name: str, value: Array) -> None:
    """Write one gradient where it belongs in the flat buffer."""
    into = grads[name]
    into[...] = value.reshape(into.shape)


# ----- Log-likelihoods -----


def log_likelihood_forward(
    ops: SequenceOps, params: Params, tokens: ArrayLike, config: TransformerConfig, bucket: int = BUCKET
) -> tuple[Array, Cache]:
    """log p(x) = sum_t log softmax(logits_t)[x_t] over the tokens that are not padding, in nats: -> (B,), cache.

    tokens (B, T): integers in 0..V-1 on the host, 0 = padding, EOS included. The input at t is token t - 1, 0 at
    the first; t attends to the tokens s <= t of its sequence that are not padding. Summed in float64, whatever the
    dtype of params. The cache holds about R (V + layers (10 C + mlp_dim + H T)) numbers for R tokens. Raises
    ValueError where params do not fit config, and for tokens that are no integers of shape (B, T), outside the
    vocabulary, longer than max_len or all padding.
    """
    check_params(params, config)
    packed = pack(tokens, config.vocab_size, config.max_len, bucket, ops.xp)
    x, embedding = ops.embedding_forward(params[EMBEDDING], packed.inputs)
    x += ops.xp.asarray(positions(config.max_len, config.emb_dim), dtype=x.dtype)[packed.position]

    def attend(query: Array, key: Array, value: Array) -> tuple[Array, Cache]:
        return ops.attention_forward(query, key, value, packed.groups)

    layers = []
    for layer in range(config.num_layers):
        x, cache = layer_forward(ops, params, layer, x, attend)
        layers.append(cache)
    x, norm = ops.layer_norm_forward(x, params[f"{NORM}/scale"], params[f"{NORM}/bias"])
    kernel, bias = params[f"{OUTPUT}/kernel"], params[f"{OUTPUT}/bias"]
    token_log_p, output = ops.token_log_p_forward(x, kernel, bias, packed.targets)
    total = ops.scatter(packed.sequence, token_log_p.astype(np.float64), len(packed.lengths))
    return total, (ops, config, x.dtype, packed.sequence, embedding, layers, norm, output)


def log_likelihood_backward(dout: Array, cache: Cache) -> Array:
    """(B,) -> the flat gradient, in the order and dtype of params; `buffers.views` names its parts."""
    ops, config, dtype, sequence, embedding, layers, norm, output = cache
    shapes = transformer_shapes(config)
    flat = ops.xp.empty(buffers.size(shapes), dtype)
    grads = buffers.views(flat, shapes)
    # forward: total[sequence] += token_log_p
    dtoken_log_p = ops.xp.asarray(dout).astype(dtype)[sequence]
    dx, dkernel, dbias = ops.token_log_p_backward(dtoken_log_p, output)
    put(grads, f"{OUTPUT}/kernel", dkernel)
    put(grads, f"{OUTPUT}/bias", dbias)
    dx, dscale, dbias = ops.layer_norm_backward(dx, norm)
    put(grads, f"{NORM}/scale", dscale)
    put(grads, f"{NORM}/bias", dbias)
    for layer in reversed(range(config.num_layers)):
        dx = layer_backward(ops, dx, layers[layer], grads, layer)
    # forward: x = table[inputs] + positions
    put(grads, EMBEDDING, ops.embedding_backward(dx, embedding))
    return flat


def log_likelihood(ops: SequenceOps, params: Params, tokens: ArrayLike, config: TransformerConfig) -> Array:
    """The same without a gradient, (B, T) -> (B,), a part of the sequences at a time: any number of them."""
    tokens = check_tokens(tokens, config.vocab_size, config.max_len)
    at_once = max(1, AT_ONCE // (tokens.shape[1] * max(config.vocab_size, config.mlp_dim)))
    parts = [tokens[start : start + at_once] for start in range(0, len(tokens), at_once)]
    with ops.fixed():
        return ops.xp.concatenate([log_likelihood_forward(ops, params, part, config)[0] for part in parts])


# ----- What is minimised -----


def cross_entropy_step(
    ops: SequenceOps, params: Params, tokens: ArrayLike, config: TransformerConfig, bucket: int = BUCKET
) -> tuple[Array, Array]:
    """-log p(token | tokens before it), the mean over all tokens that are not padding: (B, T) -> (), flat grads.

    Raises ValueError as `log_likelihood_forward`.
    """
    total, cache = log_likelihood_forward(ops, params, tokens, config, bucket)
    count = int(np.count_nonzero(tokens))
    # forward: loss = -sum(total) / count
    return -total.sum() / count, log_likelihood_backward(ops.xp.full_like(total, -1.0 / count), cache)


def preference_step(
    ops: SequenceOps,
    params: Params,
    x_a: ArrayLike,
    x_b: ArrayLike,
    y: ArrayLike,
    config: TransformerConfig,
    *,
    scale: float = 50.0,
    beta_reg: float = 0.0,
    loss: MarginLoss = logistic,
    bucket: int = BUCKET,
) -> tuple[Array, Array]:
    """The mean of loss(scale (ll_a / |a| - ll_b / |b|), y) - beta_reg (ll_a + ll_b): (), flat grads.

    Eq. 7 with the length-normalised model of Eq. 12. x_a, x_b: tokens (B, T) and (B, T'), padded with 0; |x|: the
    tokens that are not padding, EOS included. y (B,): 1 where x_a was preferred, 0 where x_b was, or the share
    between. Both sequences of all pairs go through the network as one batch. Raises ValueError as
    `log_likelihood_forward`, for other shapes and for y outside [0, 1].
    """
    check_number("beta_reg", beta_reg)
    tokens, y = pair_tokens(x_a, x_b), np.asarray(real_array("y", y), dtype=np.float64)
    if y.shape != (len(tokens) // 2,) or not np.all((y >= 0) & (y <= 1)):
        raise ValueError(f"y must lie in [0, 1], of shape ({len(tokens) // 2},), got {y.shape}, {y}")
    total, cache = log_likelihood_forward(ops, params, tokens, config, bucket)
    pairs, rate = len(y), ops.xp.asarray(scale / np.count_nonzero(tokens, axis=1))
    margin = rate[:pairs] * total[:pairs] - rate[pairs:] * total[pairs:]
    values, slope = loss(margin, ops.xp.asarray(y))
    # forward: value = mean(values) - beta_reg * sum(total) / pairs
    value, dmargin = values.mean() - beta_reg * total.sum() / pairs, slope / pairs
    # forward: margin = rate_a * total_a - rate_b * total_b
    dtotal = rate * ops.xp.concatenate([dmargin, -dmargin]) - beta_reg / pairs
    return value, log_likelihood_backward(dtotal, cache)


def pair_tokens(x_a: ArrayLike, x_b: ArrayLike) -> NDArray[np.integer[Any]]:
    """The sequences of x_a above those of x_b, (2 B, max(T, T')); ValueError where they are not as many."""
    a, b = plain_array("x_a", x_a), plain_array("x_b", x_b)
    if a.ndim != 2 or b.ndim != 2 or len(a) != len(b):
        raise ValueError(f"x_a, x_b must be tokens of shape (B, T) with one B, got {a.shape} and {b.shape}")
    length = max(a.shape[1], b.shape[1])
    return np.concatenate([np.pad(x, ((0, 0), (0, length - x.shape[1]))) for x in (a, b)])
