"""The same training step in JAX and in PyTorch, from the same first parameters; imported only when asked for."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.timing import Contender

if TYPE_CHECKING:
    from bench.mlp import Task

INSTALL = {"jax": "pip install jax", "torch": "pip install torch"}
B1, B2, EPS = 0.9, 0.999, 1e-8


def jax_contender(task: Task, params: Mapping[str, Any], threads: int, looped: bool = False) -> Contender:
    """JAX, the whole step in one jit, on the cores of this process (it has no setting of its own).

    looped: the steps of a turn in one jit by lax.fori_loop, in place of a call each.

    ImportError with the install line where it is missing.
    """
    jax = import_peer("jax")
    jnp = jax.numpy
    layers = len(params) // 2
    x, y = jnp.asarray(task.x), jnp.asarray(task.y)
    a, b, weight = jnp.asarray(task.x_a), jnp.asarray(task.x_b), jnp.asarray(task.weight)

    def mlp(p: Any, x: Any) -> Any:
        for i in range(layers):
            x = (jnp.tanh(x) if i else x) @ p[f"Dense_{i}/kernel"] + p[f"Dense_{i}/bias"]
        return x[:, 0]

    def loss(p: Any) -> Any:
        omega = mlp(p, x)
        margin = omega[a] - omega[b] if task.shared else omega[: len(y)] - omega[len(y) :]
        values = jax.nn.softplus(margin) - y * margin
        return weight @ values if task.shared else jnp.mean(values)

    def step(state: Any) -> Any:
        p, m, v, t = state
        value, grads = jax.value_and_grad(loss)(p)
        t = t + 1
        over = jax.tree_util.tree_map
        m = over(lambda m, g: B1 * m + (1 - B1) * g, m, grads)
        v = over(lambda v, g: B2 * v + (1 - B2) * g * g, v, grads)
        scale_m, scale_v = 1 / (1 - B1**t), 1 / (1 - B2**t)
        p = over(lambda p, m, v: p - task.lr * m * scale_m / (jnp.sqrt(v * scale_v) + EPS), p, m, v)
        return value, (p, m, v, t)

    start = {name: jnp.asarray(value) for name, value in params.items()}
    zeros = {name: jnp.zeros_like(value) for name, value in start.items()}

    def loop(k: Any, state: Any) -> Any:
        return jax.lax.fori_loop(0, k, lambda _, carried: step(carried[1]), (jnp.float32(0), state))

    compiled = jax.jit(step, donate_argnums=0)
    compiled_loop = jax.jit(loop, donate_argnums=1)
    state = [(start, zeros, {name: jnp.zeros_like(value) for name, value in start.items()}, jnp.float32(0))]

    def run(k: int) -> float:
        for _ in range(k):
            value, state[0] = compiled(state[0])
        jax.block_until_ready(state[0])
        return float(value)

    def run_loop(k: int) -> float:
        value, state[0] = compiled_loop(k, state[0])
        jax.block_until_ready(state[0])
        return float(value)

    return Contender(f"jax {jax.__version__}{' loop' * looped}", run_loop if looped else run)


def torch_contender(task: Task, params: Mapping[str, Any], threads: int) -> Contender:
    """PyTorch, eager with its fused Adam; ImportError with the install line where it is missing."""
    torch = import_peer("torch")
    torch.set_num_threads(threads)
    p = {name: torch.tensor(value, requires_grad=True) for name, value in params.items()}
    optimizer = torch.optim.Adam(p.values(), lr=task.lr, betas=(B1, B2), eps=EPS, fused=True)
    arrays = (task.x, task.y, task.x_a, task.x_b, task.weight)
    x, y, a, b, weight = (torch.from_numpy(value.copy()) for value in arrays)
    mean = {"weight": weight, "reduction": "sum"} if task.shared else {}

    def omega() -> Any:
        rows = x
        for i in range(len(p) // 2):
            rows = torch.tanh(rows) if i else rows
            rows = torch.addmm(p[f"Dense_{i}/bias"], rows, p[f"Dense_{i}/kernel"])
        return rows[:, 0]

    def run(k: int) -> float:
        for _ in range(k):
            optimizer.zero_grad(set_to_none=True)
            energy = omega()
            margin = energy[a] - energy[b] if task.shared else energy[: len(y)] - energy[len(y) :]
            value = torch.nn.functional.binary_cross_entropy_with_logits(margin, y, **mean)
            value.backward()
            optimizer.step()
        return float(value.detach().numpy().astype(np.float64))

    return Contender(f"torch {torch.__version__}", run)


def import_peer(name: str) -> Any:
    """The package; ImportError with the install line where it is missing."""
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        raise ImportError(f"{name} is not installed: {INSTALL[name]}") from error
