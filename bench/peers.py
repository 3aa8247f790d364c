"""JAX and PyTorch as other people use them: set to a device and an arithmetic, a training step by Adam, compiled.

Imported only when asked for. `mlp_peers.py` and `lm_peers.py` say what is trained.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any, NamedTuple

from accel.sequence_ops import Precision

INSTALL = {"jax": "pip install jax", "torch": "pip install torch"}
B1, B2, EPS = 0.9, 0.999, 1e-8
JAX_PRECISION = {"float32": "highest", "tf32": "tensorfloat32", "bfloat16": "bfloat16"}
WARM_UP = 3  # steps before a graph is captured

Run = Callable[[int], float]  # so many steps -> the loss of the last, before its update
Params = Mapping[str, Any]


class Place(NamedTuple):
    """Where a framework computes: so many CPU threads, or a GPU; what it rounds the factors of its products to."""

    threads: int
    gpu: bool = False
    precision: Precision = "float32"


def import_peer(name: str) -> Any:
    """The package; ImportError with the install line where it is missing."""
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        raise ImportError(f"{name} is not installed: {INSTALL[name]}") from error


# ----- JAX -----


def import_jax(place: Place) -> Any:
    """JAX, computing at place by default; ImportError where it is missing or sees no GPU.

    On a CPU it uses the cores of this process: it has no setting of its own.
    """
    jax = import_peer("jax")
    try:
        device = jax.devices("gpu" if place.gpu else "cpu")[0]
    except RuntimeError as error:
        raise ImportError(f"jax {jax.__version__} sees no GPU: pip install 'jax[cuda13]'") from error
    jax.config.update("jax_default_device", device)
    jax.config.update("jax_default_matmul_precision", JAX_PRECISION[place.precision])
    return jax


def jax_runs(jax: Any, loss: Callable[[Any], Any], params: Params, lr: float) -> tuple[Run, Run]:
    """Adam on loss(params), the whole step in one jit: a call a step, and the steps of a turn in one call.

    The two go on from each other's parameters: use one of them.
    """
    jnp, over = jax.numpy, jax.tree_util.tree_map

    def step(state: Any) -> Any:
        p, m, v, t = state
        value, grads = jax.value_and_grad(loss)(p)
        t = t + 1
        m = over(lambda m, g: B1 * m + (1 - B1) * g, m, grads)
        v = over(lambda v, g: B2 * v + (1 - B2) * g * g, v, grads)
        scale_m, scale_v = 1 / (1 - B1**t), 1 / (1 - B2**t)
        p = over(lambda p, m, v: p - lr * m * scale_m / (jnp.sqrt(v * scale_v) + EPS), p, m, v)
        return value, (p, m, v, t)

    def loop(k: Any, state: Any) -> Any:
        return jax.lax.fori_loop(0, k, lambda _, carried: step(carried[1]), (jnp.float32(0), state))

    start = {name: jnp.array(value) for name, value in params.items()}
    m, v = ({name: jnp.zeros_like(value) for name, value in start.items()} for _ in range(2))
    compiled, compiled_loop = jax.jit(step, donate_argnums=0), jax.jit(loop, donate_argnums=1)
    state = [(start, m, v, jnp.float32(0))]

    def run(k: int) -> float:
        for _ in range(k):
            value, state[0] = compiled(state[0])
        jax.block_until_ready(state[0])
        return float(value)

    def run_loop(k: int) -> float:
        value, state[0] = compiled_loop(k, state[0])
        jax.block_until_ready(state[0])
        return float(value)

    return run, run_loop


# ----- PyTorch -----


def import_torch(place: Place) -> tuple[Any, Any]:
    """PyTorch set to place's threads and arithmetic, and its device; ImportError where it is missing or sees no
    GPU."""
    torch = import_peer("torch")
    if not place.gpu:
        torch.set_num_threads(place.threads)
    elif not torch.cuda.is_available():
        raise ImportError(f"torch {torch.__version__} sees no GPU: install its CUDA build")
    torch.set_float32_matmul_precision("highest" if place.precision == "float32" else "high")
    return torch, torch.device("cuda" if place.gpu else "cpu")


def torch_params(torch: Any, device: Any, params: Params) -> dict[str, Any]:
    """The same parameters as leaves that have gradients."""
    return {name: torch.tensor(value, device=device, requires_grad=True) for name, value in params.items()}


def torch_run(torch: Any, loss: Callable[[], Any], p: Params, lr: float, place: Place) -> tuple[str, Run]:
    """The name, and Adam's steps on loss(): eager with the fused Adam; on a GPU compiled, in one CUDA graph."""
    optimizer = torch.optim.Adam(
        p.values(), lr=lr, betas=(B1, B2), eps=EPS, fused=True, **({"capturable": True} if place.gpu else {})
    )

    def step(loss: Callable[[], Any]) -> Any:
        optimizer.zero_grad(set_to_none=True)
        value = loss()
        value.backward()
        optimizer.step()
        return value.detach()

    def run(k: int) -> float:
        for _ in range(k):
            value = step(loss)
        return float(value.cpu().double())

    if not place.gpu:
        return f"torch {torch.__version__}", run
    cast = torch.autocast("cuda", torch.bfloat16, enabled=place.precision == "bfloat16", cache_enabled=False)

    def autocast_loss() -> Any:
        with cast:
            return loss()

    compiled = torch.compile(autocast_loss)
    graph, value = captured(torch, lambda: step(compiled), optimizer, p)

    def replay(k: int) -> float:
        for _ in range(k):
            graph.replay()
        return float(value.cpu().double())

    return f"torch {torch.__version__} graph", replay


def captured(torch: Any, step: Callable[[], Any], optimizer: Any, p: Params) -> tuple[Any, Any]:
    """A CUDA graph of one training step, and the loss that it writes. Parameters and moments are as they were.

    ImportError where PyTorch cannot compile here.
    """
    kept, side = {name: value.detach().clone() for name, value in p.items()}, torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    try:
        with torch.cuda.stream(side):
            for _ in range(WARM_UP):
                step()
    except RuntimeError as error:  # no compiler on this machine, for one
        words = (str(error).splitlines() or [""])[0]
        raise ImportError(f"torch.compile does not work here: {type(error).__name__} {words}") from error
    torch.cuda.current_stream().wait_stream(side)
    optimizer.zero_grad(set_to_none=True)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        value = step()
    with torch.no_grad():
        for name, parameter in p.items():
            parameter.copy_(kept[name])
            for moment in optimizer.state[parameter].values():
                moment.zero_()
    return graph, value
