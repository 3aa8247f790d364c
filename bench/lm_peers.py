"""The language model in JAX and in PyTorch, from the same first parameters; imported only when asked for."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from accel.transformer import EMBEDDING, NORM, OUTPUT, TransformerConfig, layer_name, positions
from bench.peers import B1, B2, EPS, import_peer
from bench.timing import Contender

if TYPE_CHECKING:
    from bench.lm import Task

SCALE, NORM_EPS = 50.0, 1e-6


def peer_params(params: Mapping[str, Any], config: TransformerConfig) -> dict[str, Any]:
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


def jax_contender(task: Task, params: Mapping[str, Any], threads: int) -> Contender:
    """JAX, the whole step in one jit, on the cores of this process; ImportError with the install line."""
    jax = import_peer("jax")
    jnp, config = jax.numpy, task.config
    rows, length = task.tokens.shape
    heads = (rows, length, config.num_heads, config.qkv_dim // config.num_heads)
    tokens, inputs, y = jnp.asarray(task.tokens), jnp.asarray(inputs_of(task.tokens)), jnp.asarray(task.y)
    place = jnp.asarray(positions(config.max_len, config.emb_dim)[:length], dtype=jnp.float32)
    late = jnp.triu(jnp.full((length, length), -jnp.inf, dtype=jnp.float32), 1)

    def norm(p: Any, name: str, x: Any) -> Any:
        x = x - x.mean(axis=-1, keepdims=True)
        x = x * jax.lax.rsqrt((x * x).mean(axis=-1, keepdims=True) + NORM_EPS)
        return x * p[f"{name}/scale"] + p[f"{name}/bias"]

    def block(p: Any, name: str, x: Any) -> Any:
        qkv = norm(p, f"{name}/LayerNorm_0", x) @ p[f"{name}/SelfAttention_0/qkv/kernel"]
        q, k, v = (part.reshape(heads).swapaxes(1, 2) for part in jnp.split(qkv, 3, axis=-1))
        weights = jax.nn.softmax(q @ k.swapaxes(2, 3) / math.sqrt(heads[3]) + late, axis=-1)
        mixed = (weights @ v).swapaxes(1, 2).reshape(rows, length, -1)
        x = x + mixed @ p[f"{name}/SelfAttention_0/out/kernel"]
        dense_0, dense_1 = f"{name}/MlpBlock_0/Dense_0", f"{name}/MlpBlock_0/Dense_1"
        hidden = norm(p, f"{name}/LayerNorm_1", x) @ p[f"{dense_0}/kernel"] + p[f"{dense_0}/bias"]
        return x + jax.nn.relu(hidden) @ p[f"{dense_1}/kernel"] + p[f"{dense_1}/bias"]

    def loss(p: Any) -> Any:
        x = p[EMBEDDING][inputs] + place
        for i in range(config.num_layers):
            x = block(p, layer_name(i), x)
        logits = norm(p, NORM, x) @ p[f"{OUTPUT}/kernel"] + p[f"{OUTPUT}/bias"]
        picked = jnp.take_along_axis(logits, tokens[:, :, None], axis=2)[:, :, 0]
        log_p = picked - jax.nn.logsumexp(logits, axis=-1)
        if task.loss == "ce":
            return -log_p.mean()
        a, b = jnp.split(log_p.mean(axis=1), 2)
        margin = SCALE * (a - b)
        return jnp.mean(jax.nn.softplus(margin) - y * margin)

    def step(state: Any) -> Any:
        p, m, v, t = state
        value, grads = jax.value_and_grad(loss)(p)
        t, over = t + 1, jax.tree_util.tree_map
        m = over(lambda m, g: B1 * m + (1 - B1) * g, m, grads)
        v = over(lambda v, g: B2 * v + (1 - B2) * g * g, v, grads)
        scale_m, scale_v = 1 / (1 - B1**t), 1 / (1 - B2**t)
        p = over(lambda p, m, v: p - task.lr * m * scale_m / (jnp.sqrt(v * scale_v) + EPS), p, m, v)
        return value, (p, m, v, t)

    start = {name: jnp.array(value) for name, value in peer_params(params, config).items()}
    moments = [{name: jnp.zeros_like(value) for name, value in start.items()} for _ in range(2)]
    compiled, state = jax.jit(step, donate_argnums=0), [(start, *moments, jnp.float32(0))]

    def run(k: int) -> float:
        for _ in range(k):
            value, state[0] = compiled(state[0])
        jax.block_until_ready(state[0])
        return float(value)

    return Contender(f"jax {jax.__version__}", run)


def torch_block(torch: Any, p: Mapping[str, Any], name: str, x: Any, attend: Any) -> Any:
    """One layer, [R, C] -> [R, C]; attend: [R, 3 H D] -> [R, H D]."""
    norm, (c,) = torch.nn.functional.layer_norm, x.shape[1:]

    def normed(part: str, x: Any) -> Any:
        return norm(x, (c,), p[f"{name}/{part}/scale"], p[f"{name}/{part}/bias"], NORM_EPS)

    qkv = normed("LayerNorm_0", x) @ p[f"{name}/SelfAttention_0/qkv/kernel"]
    x = torch.addmm(x, attend(qkv), p[f"{name}/SelfAttention_0/out/kernel"])
    dense_0, dense_1 = f"{name}/MlpBlock_0/Dense_0", f"{name}/MlpBlock_0/Dense_1"
    hidden = torch.addmm(p[f"{dense_0}/bias"], normed("LayerNorm_1", x), p[f"{dense_0}/kernel"])
    return x + torch.addmm(p[f"{dense_1}/bias"], torch.relu(hidden), p[f"{dense_1}/kernel"])


def torch_logits(torch: Any, p: Mapping[str, Any], x: Any) -> Any:
    """[R, C] -> [R, V]."""
    x = torch.nn.functional.layer_norm(x, x.shape[1:], p[f"{NORM}/scale"], p[f"{NORM}/bias"], NORM_EPS)
    return torch.addmm(p[f"{OUTPUT}/bias"], x, p[f"{OUTPUT}/kernel"])


def torch_contender(task: Task, params: Mapping[str, Any], threads: int) -> Contender:
    """PyTorch, eager, with its fused attention and Adam; ImportError with the install line."""
    torch = import_peer("torch")
    torch.set_num_threads(threads)
    functional, config = torch.nn.functional, task.config
    p = {name: torch.tensor(value, requires_grad=True) for name, value in peer_params(params, config).items()}
    optimizer = torch.optim.Adam(p.values(), lr=task.lr, betas=(B1, B2), eps=EPS, fused=True)
    rows, length = task.tokens.shape
    tokens, inputs = torch.from_numpy(task.tokens), torch.from_numpy(inputs_of(task.tokens))
    place, y = torch.tensor(positions(config.max_len, config.emb_dim)[:length]).float(), torch.from_numpy(task.y)

    def attend(qkv: Any) -> Any:
        heads = qkv.view(rows, length, 3, config.num_heads, -1).permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(*heads, is_causal=True)
        return mixed.transpose(1, 2).reshape(rows * length, -1)

    def loss() -> Any:
        x = (functional.embedding(inputs, p[EMBEDDING]) + place).view(rows * length, -1)
        for i in range(config.num_layers):
            x = torch_block(torch, p, layer_name(i), x, attend)
        logits, targets = torch_logits(torch, p, x), tokens.view(-1)
        if task.loss == "ce":
            return functional.cross_entropy(logits, targets)
        cost = functional.cross_entropy(logits, targets, reduction="none").view(rows, length).mean(dim=1)
        margin = SCALE * (cost[len(y) :] - cost[: len(y)])
        return functional.binary_cross_entropy_with_logits(margin, y)

    def run(k: int) -> float:
        for _ in range(k):
            optimizer.zero_grad(set_to_none=True)
            value = loss()
            value.backward()
            optimizer.step()
        return float(value.detach())

    return Contender(f"torch {torch.__version__}", run)
