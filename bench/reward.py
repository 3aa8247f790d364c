"""Figure 1 trained here and in JAX, on the same comparisons from the same parameters: who is nearer to p*?"""

from __future__ import annotations

import argparse
import math
import time
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from accel import MLP, Config, Ops, get_ops, objectives, train
from accel.mlp import mlp_init
from accel.streams import stream
from bench.peers import import_peer
from bench.report import BACKENDS, Commands, check_least
from bench.streams import Purpose
from reference.command_line.report import json_line
from reference.univariate import Toy

Array = NDArray[np.float64]

POINTS, COMPARISONS, LEARNING_RATE = 2**10, 2**15, 5e-4  # Table 1, on the support of the quick preset
B1, B2, EPS = 0.9, 0.999, 1e-8


@dataclass(frozen=True, eq=False)
class Sample:
    """Uniform pairs of grid points x_a, x_b (N,), the choices y of Eq. 9 and 10, and first parameters."""

    toy: Toy
    x_a: NDArray[np.intp]
    x_b: NDArray[np.intp]
    y: NDArray[np.int8]
    first: dict[str, Array]

    @classmethod
    def draw(cls, seed: int) -> Sample:
        toy, rng = Toy(POINTS), stream(seed, Purpose.DATA)
        x_a = rng.integers(0, POINTS, COMPARISONS)
        x_b = (x_a + rng.integers(1, POINTS, COMPARISONS)) % POINTS
        first = mlp_init(stream(seed, Purpose.PARAMETERS))
        return cls(toy, x_a, x_b, toy.annotator.sample(x_a, x_b, rng), first)

    def distance(self, reward: Array) -> float:
        """Total variation between the density e^r / Z and p*, by the trapezoid rule."""
        r = np.asarray(reward, dtype=np.float64)
        p = np.exp(r - r.max())
        p /= self.toy.measure @ p
        return 0.5 * float(self.toy.measure @ np.abs(p - np.exp(np.asarray(self.toy.annotator.log_p))))


@dataclass(frozen=True)
class Run:
    """One training: total variation to p*, the last loss, seconds with compilation left out."""

    name: str
    seed: int
    tv: float
    loss: float
    seconds: float


def ours(sample: Sample, seed: int, steps: int, ops: Ops) -> Run:
    """By accel.train."""
    pairs = ops.pairs(sample.x_a, sample.x_b, sample.y, None, POINTS)
    config = Config(steps, LEARNING_RATE)
    found = train(MLP(sample.toy.x), objectives.reward(pairs), config, ops, initial=sample.first, label="ours")
    return Run(f"accel {ops.name}", seed, sample.distance(found.values), found.loss, found.seconds)


def in_jax(sample: Sample, seed: int, steps: int) -> Run:
    """The same in JAX, every step one jit; ImportError with the install line where it is missing."""
    jax = import_peer("jax")
    jnp = jax.numpy
    x = jnp.asarray(sample.toy.x, dtype=jnp.float32)[:, None]
    a, b = jnp.asarray(sample.x_a), jnp.asarray(sample.x_b)
    y = jnp.asarray(sample.y, dtype=jnp.float32)
    layers = len(sample.first) // 2

    def reward(p: Any) -> Any:
        rows = x
        for i in range(layers):
            rows = (jnp.tanh(rows) if i else rows) @ p[f"Dense_{i}/kernel"] + p[f"Dense_{i}/bias"]
        return -rows[:, 0]

    def loss(p: Any) -> Any:
        r = reward(p)
        margin = r[a] - r[b]
        return jnp.mean(jax.nn.softplus(margin) - y * margin)

    def step(p: Any, m: Any, v: Any, t: Any) -> Any:
        grads = jax.grad(loss)(p)
        over = jax.tree_util.tree_map
        rate = LEARNING_RATE * 0.5 * (1 + jnp.cos(math.pi * t / steps))
        m = over(lambda m, g: B1 * m + (1 - B1) * g, m, grads)
        v = over(lambda v, g: B2 * v + (1 - B2) * g * g, v, grads)
        t = t + 1
        scale_m, scale_v = rate / (1 - B1**t), 1 / (1 - B2**t)
        return over(lambda p, m, v: p - scale_m * m / (jnp.sqrt(v * scale_v) + EPS), p, m, v), m, v, t

    compiled = jax.jit(step)
    p = {name: jnp.asarray(value, dtype=jnp.float32) for name, value in sample.first.items()}
    zeros = {name: jnp.zeros_like(value) for name, value in p.items()}
    state = (p, zeros, zeros, jnp.float32(0))
    jax.block_until_ready(compiled(*state))
    start = time.perf_counter()
    for _ in range(steps):
        state = compiled(*state)
    jax.block_until_ready(state)
    seconds = time.perf_counter() - start
    return Run(f"jax {jax.__version__}", seed, sample.distance(reward(state[0])), float(loss(state[0])), seconds)


# ----- The command -----

REWARD_HELP = """\
Trains Figure 1 (Table 1, 1,024 support points, 32,768 comparisons) for a number of seeds and prints the total
variation to p*; with --peers in JAX too, on the same comparisons from the same first parameters.
"""


def add_reward(commands: Commands) -> None:
    command = commands.add_parser("reward", help="how near Figure 1 comes to p*", description=REWARD_HELP)
    command.add_argument("--seeds", type=int, default=5, help="of comparisons and first parameters (default 5)")
    command.add_argument("--steps", type=int, default=8192, help="of training (default 8192)")
    command.add_argument("--ops", choices=BACKENDS, default="numba", help="backend (default numba)")
    command.add_argument("--peers", action="store_true", help="run JAX too")
    command.add_argument("--json", action="store_true", help="a JSON line a run")
    command.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Prints every run, and the median total variation of each contender."""
    check_least(arguments, seeds=1, steps=1)
    ops = get_ops(arguments.ops)
    found: dict[str, list[float]] = {}
    for seed in range(arguments.seeds):
        sample = Sample.draw(seed)
        runs = [ours(sample, seed, arguments.steps, ops)]
        if arguments.peers:
            runs.append(in_jax(sample, seed, arguments.steps))
        for one in runs:
            found.setdefault(one.name, []).append(one.tv)
            text = f"{one.name:<14}seed {one.seed}  TV {one.tv:.4f}  loss {one.loss:.6f}  {one.seconds:.1f} s"
            print(json_line(asdict(one)) if arguments.json else text, flush=True)
    if not arguments.json:
        for name, distances in found.items():
            print(f"{name:<14}median TV {np.median(distances):.4f} of {len(distances)}")
    return 0
