"""A training step of the density experiments' network (Table 1: 1-64-64-64-64-1), timed.

A step: every comparison through the network, the logistic loss, its gradient, and Adam. By default both sides of
every comparison go through the network (2 N rows); with `shared`, the N comparisons are between 1,024 points,
which go through it once, as in the toy experiments.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from accel import Ops, Pairs, buffers
from accel.losses import logistic
from accel.sequence_ops import Precision
from bench import mlp_peers, timing
from bench.lm_step import UNITS
from bench.mlp_step import Task, draw_task, first_params
from bench.report import (
    Commands,
    add_command,
    as_row,
    check_least,
    chosen_ops,
    chosen_place,
    installed,
    keep,
    print_lines,
    refused,
    table,
    versions,
    where,
)
from bench.roofline import on_gpu, product_rate, seconds
from bench.timing import CHECKED, Contender, interleave

Array = NDArray[np.float32]

# Relative to 1 + |loss|. A mean of float32 losses after five layers carries some roundings (2^-24). Adam's first
# steps go by the signs of the gradients: where one is near 0, a rounding moves its parameter by a whole step.
FIRST_LOSS, TENTH_LOSS = 16 * 2.0**-24, 256 * 2.0**-24
TANHS = {"cpu": 1 << 18, "gpu": 1 << 24}


def ops_contender(ops: Ops, task: Task, first: dict[str, Array]) -> Contender:
    """This project's step on the given backend."""
    xp = ops.xp
    flat, params = buffers.flatten(first, xp)
    m, v = xp.zeros_like(flat), xp.zeros_like(flat)
    count = [0]
    x, left, right, y = (xp.asarray(part) for part in (task.x, task.x[task.x_a], task.x[task.x_b], task.y))
    pairs = ops.pairs(task.x_a, task.x_b, task.y, task.weight, len(task.x)) if task.shared else None

    def step(pairs: Pairs) -> Any:
        omega, cache = ops.mlp_forward(params, x)
        value, domega = ops.margin_loss(omega, pairs, logistic)
        grads = ops.mlp_backward(domega, cache)
        count[0] += 1
        ops.adam_step(flat, buffers.flat_of(grads), m, v, count[0], task.lr)
        return value

    def run(k: int) -> float:
        if pairs is None:
            rates = [task.lr] * k
            losses = ops.mlp_margin_steps(params, left, right, y, logistic, m, v, count[0] + 1, rates)
            count[0] += k
            return float(losses[-1])
        return float([step(pairs) for _ in range(k)][-1])  # a GPU's is read once a turn

    return Contender(f"accel {ops.name}", run)


@dataclass(frozen=True)
class Floor:
    """What the machine could do at best: products at BLAS's rate on large matrices, and tanh at the backend's."""

    gflops: float
    tanh_ns: float

    def seconds(self, task: Task) -> float:
        """Of one step, if it were nothing but its products and its tanhs."""
        return task.flops / (self.gflops * 1e9) + task.tanhs * self.tanh_ns * 1e-9


def measure_floor(ops: Ops) -> Floor:
    """The matrices are as large as `product_rate` takes them, the tanhs as many as hide a launch."""
    count = TANHS["gpu" if on_gpu(ops) else "cpu"]
    row = ops.xp.asarray(np.random.default_rng(0).standard_normal(count, dtype=np.float32))
    tanh = seconds(ops, lambda: ops.tanh_forward(row))
    return Floor(product_rate(ops) / 1e9, tanh / row.size * 1e9)


def disagreement(contenders: list[Contender], precision: Precision = "float32") -> str | None:
    """The line that says which losses differ by more than rounding explains, or None."""
    return timing.disagreement(contenders, *allowed(precision))


def allowed(precision: Precision) -> tuple[float, float]:
    """How far the losses of the first and of the tenth step may differ."""
    coarser = UNITS[precision] / UNITS["float32"]
    return FIRST_LOSS * coarser, TENTH_LOSS * coarser


# ----- The command -----

MLP_HELP = """\
Times a training step: N comparisons, both sides through the network 1-64-64-64-64-1 (tanh), the logistic loss, its
gradient and Adam, in float32. With --shared the comparisons are between 1,024 points that go through it once;
equal ones are merged, with weights, before any time is taken, and all contenders get the same merged arrays.

With --peers the same step runs in JAX (jit, a call a step; "loop": the steps of a turn in one call) and PyTorch
(eager), from the same first parameters, all in turns; ours makes one call a turn too, unless --shared. With --ops
cupy all are on the GPU, and PyTorch is compiled, in one CUDA graph. The times count only where the losses agree.
The floor is the time of the step's matrix products at the BLAS's own rate on large matrices plus its tanhs, with
both rates measured in this run.
  ms a step   median over the turns, and the fastest and slowest turn
  to floor    median / floor
  to ours     ours / theirs: below 1, we are faster

examples:
  python -m bench mlp --pairs 1024
  python -m bench mlp --pairs 32768 --threads 2 --peers --json
"""


def add_mlp(commands: Commands) -> None:
    command = add_command(commands, "mlp", "a training step of the density experiments' network", MLP_HELP, 100)
    command.add_argument("--pairs", type=int, default=1024, metavar="N", help="comparisons (default 1024)")
    command.add_argument("--shared", action="store_true", help="compare 1,024 points that are evaluated once")
    command.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Checks, times and prints; the exit status."""
    check_least(arguments, pairs=1, threads=1, steps=CHECKED + 1, seed=0)
    threads, ops = arguments.threads, chosen_ops(arguments)
    task, first = draw_task(arguments.pairs, arguments.shared, arguments.seed), first_params(arguments.seed)
    makers = (mlp_peers.jax_contender, partial(mlp_peers.jax_contender, looped=True), mlp_peers.torch_contender)
    place = chosen_place(arguments)
    contenders, missing = installed(partial(make, task, first, place) for make in makers if arguments.peers)
    contenders.append(ops_contender(ops, task, first))
    with threadpool_limits(threads, user_api="blas"):
        interleave(contenders, arguments.steps)
        floor = measure_floor(ops)
    if refused(disagreement(contenders, arguments.precision)):
        return 1
    rows = [as_row(contender, contenders[-1], floor.seconds(task)) for contender in contenders]
    keep(arguments, ops, rows)
    if arguments.json:
        print_lines(rows, missing)
        return 0
    what = "both sides through the network"
    if arguments.shared:
        what = f"1,024 shared points; merged to {len(task.y):,} beforehand, for all"
    print(f"{arguments.pairs:,} comparisons, {what}; {where(arguments)}")
    print(f"seed {arguments.seed}, {arguments.steps} steps in turns; {versions()}\n")
    print(table(rows))
    products = f"{task.flops / 1e9:.3g} GFLOP at {floor.gflops:.0f} GFLOP/s"
    print(
        f"\nfloor {floor.seconds(task) * 1e3:.3f} ms: {products}, {task.tanhs:,} tanhs at {floor.tanh_ns:.2f} ns"
    )
    if len(contenders) > 1:
        first_loss, tenth_loss = allowed(arguments.precision)
        print(f"losses agree: step 1 to {first_loss:.0e}, step 10 to {tenth_loss:.0e} of 1 + |loss|")
    for line in missing:
        print(line)
    return 0
