"""The plain sampling loop in JAX and in PyTorch: all sequences at once, keys and values kept in one array."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from accel.transformer_params import EMBEDDING, TransformerConfig, layer_name, positions
from bench.lm_peers import jax_block, jax_logits, peer_params, torch_block, torch_logits
from bench.peers import Params, Place, import_jax, import_torch

Drawn = tuple[NDArray[np.int64], NDArray[np.float64]]  # tokens (count, T), log-likelihoods (count,)


@dataclass
class Sampler:
    """run(turn) draws all sequences, with random numbers of that turn."""

    name: str
    run: Callable[[int], Drawn]
    drawn: Drawn | None = None
    seconds: list[float] = field(default_factory=list)


def in_torch(params: Params, config: TransformerConfig, count: int, place: Place, seed: int) -> Sampler:
    """PyTorch without gradients: eager, on a GPU every token the same CUDA graph; ImportError as `import_torch`.

    The graph is the same for all places t, so that it attends to all places and masks the later ones.
    """
    torch, device = import_torch(place)
    p = {name: torch.tensor(value, device=device) for name, value in peer_params(params, config).items()}
    table = torch.tensor(positions(config.max_len, config.emb_dim), device=device).float()
    heads, channels = config.num_heads, config.qkv_dim // config.num_heads
    store = torch.zeros(config.num_layers, 2, count, heads, config.max_len, channels, device=device)
    last, log_p = torch.zeros(count, dtype=torch.long, device=device), torch.zeros(count, device=device).double()
    tokens, t = (
        torch.zeros(count, config.max_len, dtype=torch.long, device=device),
        torch.zeros(1, device=device).long(),
    )
    cast = torch.autocast(device.type, torch.bfloat16, enabled=place.precision == "bfloat16", cache_enabled=False)

    def attend(layer: int, past: slice, mask: Any, qkv: Any) -> Any:
        query, key, value = qkv.float().view(count, 3, heads, 1, channels).unbind(1)
        store[layer, 0].index_copy_(2, t, key)
        store[layer, 1].index_copy_(2, t, value)
        keys, values = store[layer, :, :, :, past]
        mixed = torch.nn.functional.scaled_dot_product_attention(query, keys, values, attn_mask=mask)
        return mixed.reshape(count, -1)

    def step(past: slice, mask: Any) -> None:
        x = p[EMBEDDING][last] + table[t]
        for i in range(config.num_layers):
            x = torch_block(torch, p, layer_name(i), x, lambda qkv, i=i: attend(i, past, mask, qkv))
        weights = torch.softmax(torch_logits(torch, p, x).float(), dim=1)
        last.copy_(torch.multinomial(weights, 1)[:, 0])
        tokens.index_copy_(1, t, last[:, None])
        log_p.add_(torch.log(weights.gather(1, last[:, None])[:, 0]))
        t.add_(1)

    def masked_step() -> None:
        with cast:
            step(slice(None), (torch.arange(config.max_len, device=device) <= t)[None, None, None])

    @torch.inference_mode()  # type: ignore[untyped-decorator]
    def run(turn: int) -> Drawn:
        torch.manual_seed(1000 * seed + turn)
        for array in (last, log_p, t):
            array.zero_()
        for i in range(config.max_len):
            graph.replay() if place.gpu else step(slice(i + 1), None)
        return tokens.cpu().numpy().copy(), log_p.cpu().numpy().copy()

    graph: Any = torch_graph(torch, masked_step) if place.gpu else None
    return Sampler(f"torch {torch.__version__}{' graph' * place.gpu}", run)


def torch_graph(torch: Any, step: Callable[[], None]) -> Any:
    """A CUDA graph of step, which has run on a stream beside before."""
    side, graph = torch.cuda.Stream(), torch.cuda.CUDAGraph()
    with torch.inference_mode():
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            step()
        torch.cuda.current_stream().wait_stream(side)
        with torch.cuda.graph(graph):
            step()
    return graph


def in_jax(params: Params, config: TransformerConfig, count: int, place: Place, seed: int) -> Sampler:
    """JAX, the whole loop one jit by lax.scan; ImportError as `import_jax`."""
    jax = import_jax(place)
    jnp = jax.numpy
    p = {name: jnp.asarray(value) for name, value in peer_params(params, config).items()}
    table = jnp.asarray(positions(config.max_len, config.emb_dim), dtype=jnp.float32)
    heads, channels = config.num_heads, config.qkv_dim // config.num_heads
    shape = (config.num_layers, 2, count, heads, config.max_len, channels)

    def step(p: Any, carried: Any, t: Any) -> Any:
        store, last, key = carried
        late = jnp.where(jnp.arange(config.max_len) <= t, 0.0, -jnp.inf)
        x, kept = p[EMBEDDING][last] + table[t], []

        def attend(i: int, qkv: Any) -> Any:
            query, *new = jnp.split(qkv.reshape(count, 3, heads, channels), 3, axis=1)
            pair = jnp.stack([part[:, 0] for part in new])[:, :, :, None]
            kept.append(jax.lax.dynamic_update_slice_in_dim(store[i], pair, t, axis=3))
            scores = jnp.einsum("nhd,nhtd->nht", query[:, 0], kept[-1][0]) / math.sqrt(channels) + late
            return jnp.einsum("nht,nhtd->nhd", jax.nn.softmax(scores, axis=-1), kept[-1][1]).reshape(count, -1)

        for i in range(config.num_layers):
            x = jax_block(jax, p, layer_name(i), x, lambda qkv, i=i: attend(i, qkv))
        log_p = jax.nn.log_softmax(jax_logits(jax, p, x), axis=-1)
        key, own = jax.random.split(key)
        token = jax.random.categorical(own, log_p, axis=-1)
        picked = jnp.take_along_axis(log_p, token[:, None], axis=1)[:, 0]
        return (jnp.stack(kept), token, key), (token, picked)

    @jax.jit  # type: ignore[untyped-decorator]
    def loop(p: Any, key: Any) -> Any:
        first = (jnp.zeros(shape, jnp.float32), jnp.zeros(count, jnp.int32), key)
        return jax.lax.scan(lambda carried, t: step(p, carried, t), first, jnp.arange(config.max_len))[1]

    def run(turn: int) -> Drawn:
        tokens, log_p = loop(p, jax.random.key(1000 * seed + turn))
        return np.asarray(tokens).T.astype(np.int64), np.asarray(log_p, np.float64).sum(axis=0)

    return Sampler(f"jax {jax.__version__}", run)
