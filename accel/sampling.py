"""Drawing sequences from the Transformer, token by token, with the keys and values of earlier tokens kept."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from accel.arrays import check_integer
from accel.buffers import Array
from accel.progress import progress_bar
from accel.sequence_ops import Cache, SequenceOps
from accel.transformer import layer_forward
from accel.transformer_params import EMBEDDING, NORM, OUTPUT, Params, TransformerConfig, check_params, positions

Drawn = tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.bool_]]
PATIENCE = 100  # draws for one that ends: a model below 1 in 100 is refused


@dataclass(frozen=True, eq=False)
class Samples:
    """tokens (count, max_length): integers, 0 after the EOS. lengths (count,): tokens, EOS included.

    log_likelihood (count,): under the model, in nats, float64. draws: how many sequences were drawn until the
    last of these ended, those thrown away included.
    """

    tokens: NDArray[np.int64]
    lengths: NDArray[np.int64]
    log_likelihood: NDArray[np.float64]
    draws: int


def sample(
    ops: SequenceOps,
    params: Params,
    config: TransformerConfig,
    count: int,
    rng: np.random.Generator,
    max_length: int,
    *,
    eos: int = 2,
    batch: int = 256,
    progress: bool = False,
) -> Samples:
    """`count` independent sequences that end with eos within max_length tokens, at temperature 1, full softmax.

    A sequence that has not ended by then, or in which padding (token 0) was drawn, is thrown away and another
    drawn: so x comes with probability exp(log_likelihood(x)) / sum over all such x'. At most `batch` are drawn
    together; those that have ended leave the batch. The same rng, arguments and machine give the same samples.
    Raises ValueError for sizes out of range and params that do not fit config, and RuntimeError where fewer than
    about 1 in 100 sequences end.
    """
    check_params(params, config)
    for name, value, top in (
        ("count", count, math.inf),
        ("batch", batch, math.inf),
        ("eos", eos, config.vocab_size - 1),
    ):
        check_integer(name, value)
        if not 1 <= value <= top:
            raise ValueError(f"{name} must be >= 1{'' if top == math.inf else f' and <= {top}'}, got {value}")
    kept_tokens, kept_log_p, have, draws = [], [], 0, 0
    with progress_bar(desc="sampling", total=count, shown=progress) as bar:
        while have < count:
            if draws >= PATIENCE * (have + PATIENCE):
                raise RuntimeError(
                    f"sequences must end with token {eos} within {max_length}, got {have} of {draws} that do"
                )
            # as many as are still needed at the share of endings so far: they are judged in the order drawn
            size = min(batch, math.ceil((count - have) * (draws + 1) / (have + 1)))
            tokens, log_p, ended = draw(ops, params, config, size, rng, max_length, eos)
            good = np.flatnonzero(ended)[: count - have]
            draws += int(good[-1]) + 1 if have + len(good) == count else size
            have += len(good)
            kept_tokens.append(tokens[good])
            kept_log_p.append(log_p[good])
            bar.update(len(good))
    tokens = np.concatenate(kept_tokens)
    return Samples(tokens, np.count_nonzero(tokens, axis=1), np.concatenate(kept_log_p), draws)


def draw(
    ops: SequenceOps,
    params: Params,
    config: TransformerConfig,
    size: int,
    rng: np.random.Generator,
    max_length: int,
    eos: int,
) -> Drawn:
    """tokens (size, max_length), their log-likelihoods (size,), and which of them ended with eos.

    Every sequence has its own random number at every place: what one becomes does not depend on others. The rng
    gives no more than their key: all backends draw the same sequences from it, but where a rounding decides.
    ValueError where max_length is not in 1..max_len.
    """
    check_integer("max_length", max_length)
    if not 1 <= max_length <= config.max_len:
        raise ValueError(f"max_length must be >= 1 and <= max_len = {config.max_len}, got {max_length}")
    uniform = ops.uniform(int(rng.integers(1 << 64, dtype=np.uint64)), size, max_length)
    with ops.fixed():
        drawn = ops.draw_sequences(params, config, uniform, eos)
        if drawn is None:
            return draw_by_token(ops, params, config, _host(uniform), eos)
    tokens, log_p, ended = (_host(part) for part in drawn)
    return tokens, log_p, ended


def draw_by_token(
    ops: SequenceOps, params: Params, config: TransformerConfig, uniform: NDArray[np.float64], eos: int
) -> Drawn:
    """The same out of uniform (size, max_length): all sequences a token further at a time."""
    (size, max_length), xp, table = uniform.shape, ops.xp, params[EMBEDDING]
    place = xp.asarray(positions(config.max_len, config.emb_dim), dtype=table.dtype)
    store = key_value_store(ops, params, config, size, max_length)
    tokens, log_p = np.zeros((size, max_length), np.int64), np.zeros(size)
    active, last = np.arange(size), np.zeros(size, np.int64)  # which sequence stands in which slot; its last token
    ended = np.zeros(size, np.bool_)
    for t in range(max_length):
        x = table[xp.asarray(last)] + place[t]
        x = last_rows(ops, params, config, x, store[:, :, : len(active)], t)
        chance = xp.asarray(uniform[active, t])
        drawn = ops.next_token(x, params[f"{OUTPUT}/kernel"], params[f"{OUTPUT}/bias"], chance)
        last, token_log_p = _host(drawn[0]).astype(np.int64), _host(drawn[1])
        tokens[active, t] = last
        log_p[active] += token_log_p
        ended[active[last == eos]] = True
        slots = _close_up((last != eos) & (last != 0))
        if len(slots) == 0:
            break
        moved = np.flatnonzero(slots != np.arange(len(slots)))
        if len(moved):
            holes, fillers = xp.asarray(moved), xp.asarray(slots[moved])
            store[:, :, holes, :, : t + 1] = store[:, :, fillers, :, : t + 1]
        active, last = active[slots], last[slots]
    return tokens, log_p, ended


def key_value_store(
    ops: SequenceOps, params: Params, config: TransformerConfig, size: int, max_length: int
) -> Array:
    """Room for keys and values: [layer, key or value, N, H, T, D]."""
    heads, channels = config.num_heads, config.qkv_dim // config.num_heads
    shape = (config.num_layers, 2, size, heads, max_length, channels)
    return ops.xp.empty(shape, dtype=params[EMBEDDING].dtype)


def last_rows(
    ops: SequenceOps, params: Params, config: TransformerConfig, x: Array, store: Array, t: int
) -> Array:
    """[N, C], the embedded inputs at t -> what the logits are made of; their keys and values enter the store."""
    for layer in range(config.num_layers):
        keys, values = store[layer]

        def attend(
            query: Array, key: Array, value: Array, keys: Any = keys, values: Any = values
        ) -> tuple[Array, Cache]:
            keys[:, :, t], values[:, :, t] = key, value
            return ops.cached_attention(query, keys[:, :, : t + 1], values[:, :, : t + 1]), None

        x, _ = layer_forward(ops, params, layer, x, attend)
    return ops.layer_norm_forward(x, params[f"{NORM}/scale"], params[f"{NORM}/bias"])[0]


def _close_up(going: NDArray[np.bool_]) -> NDArray[np.intp]:
    """Which slot comes to 0, 1, ...: those still going stay, and the last of them fill the holes."""
    kept = np.arange(len(going))[: np.count_nonzero(going)]
    holes = ~going[: len(kept)]
    kept[holes] = len(kept) + np.flatnonzero(going[len(kept) :])
    return kept


def _host(array: Array) -> NDArray[Any]:
    """The array in the computer's memory."""
    return np.asarray(array.get() if hasattr(array, "get") else array)
