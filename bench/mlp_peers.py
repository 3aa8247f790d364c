"""The density experiments' network in JAX and in PyTorch, from the same first parameters."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bench.peers import Params, Place, import_jax, import_torch, jax_runs, torch_params, torch_run
from bench.timing import Contender

if TYPE_CHECKING:
    from bench.mlp_step import Task


def jax_contender(task: Task, params: Params, place: Place, looped: bool = False) -> Contender:
    """JAX, the whole step in one jit; looped: the steps of a turn in one jit by lax.fori_loop, not a call each.

    ImportError as `import_jax`.
    """
    jax = import_jax(place)
    jnp, layers = jax.numpy, len(params) // 2
    arrays = (task.x, task.y, task.x_a, task.x_b, task.weight)
    x, y, a, b, weight = (jnp.asarray(part) for part in arrays)

    def loss(p: Any) -> Any:
        rows = x
        for i in range(layers):
            rows = (jnp.tanh(rows) if i else rows) @ p[f"Dense_{i}/kernel"] + p[f"Dense_{i}/bias"]
        omega = rows[:, 0]
        margin = omega[a] - omega[b] if task.shared else omega[: len(y)] - omega[len(y) :]
        values = jax.nn.softplus(margin) - y * margin
        return weight @ values if task.shared else jnp.mean(values)

    runs = jax_runs(jax, loss, params, task.lr)
    return Contender(f"jax {jax.__version__}{' loop' * looped}", runs[looped])


def torch_contender(task: Task, params: Params, place: Place) -> Contender:
    """PyTorch as `torch_run` has it; ImportError as `import_torch`."""
    torch, device = import_torch(place)
    p = torch_params(torch, device, params)
    arrays = (task.x, task.y, task.x_a, task.x_b, task.weight)
    x, y, a, b, weight = (torch.tensor(value, device=device) for value in arrays)
    mean = {"weight": weight, "reduction": "sum"} if task.shared else {}

    def loss() -> Any:
        rows = x
        for i in range(len(p) // 2):
            rows = torch.tanh(rows) if i else rows
            rows = torch.addmm(p[f"Dense_{i}/bias"], rows, p[f"Dense_{i}/kernel"])
        omega = rows[:, 0].float()
        margin = omega[a] - omega[b] if task.shared else omega[: len(y)] - omega[len(y) :]
        return torch.nn.functional.binary_cross_entropy_with_logits(margin, y, **mean)

    return Contender(*torch_run(torch, loss, p, task.lr, place))
