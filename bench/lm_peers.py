"""The language model in JAX and in PyTorch, from the same first parameters; imported only when asked for."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from accel.transformer_params import EMBEDDING, NORM, OUTPUT, TransformerConfig, layer_name, positions
from bench.peers import Params, Place, import_jax, import_torch, jax_runs, torch_params, torch_run
from bench.timing import Contender

if TYPE_CHECKING:
    from bench.lm_step import Task

SCALE, NORM_EPS = 50.0, 1e-6


def peer_params(params: Params, config: TransformerConfig) -> dict[str, Any]:
    """The same parameters as matrices, query, key and value of a layer in one: [C, 3 H D]."""
    c, found = config.emb_dim, {}
    for name, value in params.items():
        if "/query/" in name:
            parts = (params[name.replace("query", part)].reshape(c, -1) for part in ("query", "key", "value"))
            found[name.replace("query", "qkv")] = np.concatenate(list(parts), axis=1)
        elif "/key/" not in name and "/value/" not in name:
            found[name] = value.reshape(-1, c) if "/out/" in name else np.array(value)
    return found


def inputs_of(tokens: Any) -> Any:
    """(B, T): the token before, 0 before the first."""
    return np.pad(tokens[:, :-1], ((0, 0), (1, 0)))


def jax_norm(jax: Any, p: Params, name: str, x: Any) -> Any:
    x = x - x.mean(axis=-1, keepdims=True)
    x = x * jax.lax.rsqrt((x * x).mean(axis=-1, keepdims=True) + NORM_EPS)
    return x * p[f"{name}/scale"] + p[f"{name}/bias"]


def jax_block(jax: Any, p: Params, name: str, x: Any, attend: Any) -> Any:
    """One layer, [..., C] -> [..., C]; attend: [..., 3 H D] -> [..., H D]."""
    qkv = jax_norm(jax, p, f"{name}/LayerNorm_0", x) @ p[f"{name}/SelfAttention_0/qkv/kernel"]
    x = x + attend(qkv) @ p[f"{name}/SelfAttention_0/out/kernel"]
    dense_0, dense_1 = f"{name}/MlpBlock_0/Dense_0", f"{name}/MlpBlock_0/Dense_1"
    hidden = jax_norm(jax, p, f"{name}/LayerNorm_1", x) @ p[f"{dense_0}/kernel"] + p[f"{dense_0}/bias"]
    return x + jax.nn.relu(hidden) @ p[f"{dense_1}/kernel"] + p[f"{dense_1}/bias"]


def jax_logits(jax: Any, p: Params, x: Any) -> Any:
    """[..., C] -> [..., V]."""
    return jax_norm(jax, p, NORM, x) @ p[f"{OUTPUT}/kernel"] + p[f"{OUTPUT}/bias"]


def jax_contender(task: Task, params: Params, place: Place) -> Contender:
    """JAX, the whole step in one jit; ImportError as `import_jax`."""
    jax = import_jax(place)
    jnp, config = jax.numpy, task.config
    rows, length = task.tokens.shape
    heads = (rows, length, config.num_heads, config.qkv_dim // config.num_heads)
    tokens, inputs, y = jnp.asarray(task.tokens), jnp.asarray(inputs_of(task.tokens)), jnp.asarray(task.y)
    table = jnp.asarray(positions(config.max_len, config.emb_dim)[:length], dtype=jnp.float32)
    late = jnp.triu(jnp.full((length, length), -jnp.inf, dtype=jnp.float32), 1)

    def attend(qkv: Any) -> Any:
        q, k, v = (part.reshape(heads).swapaxes(1, 2) for part in jnp.split(qkv, 3, axis=-1))
        weights = jax.nn.softmax(q @ k.swapaxes(2, 3) / math.sqrt(heads[3]) + late, axis=-1)
        return (weights @ v).swapaxes(1, 2).reshape(rows, length, -1)

    def loss(p: Any) -> Any:
        x = p[EMBEDDING][inputs] + table
        for i in range(config.num_layers):
            x = jax_block(jax, p, layer_name(i), x, attend)
        logits = jax_logits(jax, p, x)
        picked = jnp.take_along_axis(logits, tokens[:, :, None], axis=2)[:, :, 0]
        log_p = picked - jax.nn.logsumexp(logits, axis=-1)
        if task.loss == "ce":
            return -log_p.mean()
        a, b = jnp.split(log_p.mean(axis=1), 2)
        margin = SCALE * (a - b)
        return jnp.mean(jax.nn.softplus(margin) - y * margin)

    run, _ = jax_runs(jax, loss, peer_params(params, config), task.lr)
    return Contender(f"jax {jax.__version__}", run)


def torch_block(torch: Any, p: Params, name: str, x: Any, attend: Any) -> Any:
    """One layer, [R, C] -> [R, C]; attend: [R, 3 H D] -> [R, H D]."""
    norm, (c,) = torch.nn.functional.layer_norm, x.shape[1:]

    def normed(part: str, x: Any) -> Any:
        return norm(x, (c,), p[f"{name}/{part}/scale"], p[f"{name}/{part}/bias"], NORM_EPS)

    qkv = normed("LayerNorm_0", x) @ p[f"{name}/SelfAttention_0/qkv/kernel"]
    x = torch.addmm(x, attend(qkv), p[f"{name}/SelfAttention_0/out/kernel"])
    dense_0, dense_1 = f"{name}/MlpBlock_0/Dense_0", f"{name}/MlpBlock_0/Dense_1"
    hidden = torch.addmm(p[f"{dense_0}/bias"], normed("LayerNorm_1", x), p[f"{dense_0}/kernel"])
    return x + torch.addmm(p[f"{dense_1}/bias"], torch.relu(hidden), p[f"{dense_1}/kernel"])


def torch_logits(torch: Any, p: Params, x: Any) -> Any:
    """[R, C] -> [R, V]."""
    x = torch.nn.functional.layer_norm(x, x.shape[1:], p[f"{NORM}/scale"], p[f"{NORM}/bias"], NORM_EPS)
    return torch.addmm(p[f"{OUTPUT}/bias"], x, p[f"{OUTPUT}/kernel"])


def torch_contender(task: Task, params: Params, place: Place) -> Contender:
    """PyTorch with its fused attention, as `torch_run` has it; ImportError as `import_torch`."""
    torch, device = import_torch(place)
    functional, config = torch.nn.functional, task.config
    p = torch_params(torch, device, peer_params(params, config))
    rows, length = task.tokens.shape
    position = positions(config.max_len, config.emb_dim)[:length].astype(np.float32)
    parts = (task.tokens, inputs_of(task.tokens), position, task.y)
    tokens, inputs, table, y = (torch.tensor(part, device=device) for part in parts)

    def attend(qkv: Any) -> Any:
        heads = qkv.view(rows, length, 3, config.num_heads, -1).permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(*heads, is_causal=True)
        return mixed.transpose(1, 2).reshape(rows * length, -1)

    def loss() -> Any:
        x = (functional.embedding(inputs, p[EMBEDDING]) + table).view(rows * length, -1)
        for i in range(config.num_layers):
            x = torch_block(torch, p, layer_name(i), x, attend)
        logits, targets = torch_logits(torch, p, x).float(), tokens.view(-1)
        if task.loss == "ce":
            return functional.cross_entropy(logits, targets)
        cost = functional.cross_entropy(logits, targets, reduction="none").view(rows, length).mean(dim=1)
        margin = SCALE * (cost[len(y) :] - cost[: len(y)])
        return functional.binary_cross_entropy_with_logits(margin, y)

    return Contender(*torch_run(torch, loss, p, task.lr, place))
