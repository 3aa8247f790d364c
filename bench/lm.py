"""A training step of the language model, timed.

A step: a batch of full-length sequences through the Transformer, the mean cross-entropy (ce) or the logistic loss
of length-normalised pairs (pref: Eq. 7 with the model of Eq. 12), its gradient, and Adam on all parameters.
"""

from __future__ import annotations

import argparse
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from accel import Ops, buffers
from accel.sequence_ops import Precision
from accel.transformer import cross_entropy_step, preference_step
from bench import lm_peers, timing
from bench.lm_step import CONFIGS, SCALE, UNITS, Loss, Task, draw_task, first_params
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
from bench.roofline import product_rate
from bench.timing import CHECKED, Contender, interleave

Array = NDArray[np.float32]


# Relative to 1 + |loss|. A token's log-probability carries the roundings (2^-24) of a sum of some hundred products
# a layer; the mean over a batch, few of them; a margin is SCALE times a difference of such means. Adam's first
# steps go by the signs of the gradients: where one is near 0, a rounding moves its parameter by a whole step.
ROUNDINGS = {"ce": 16 * 2.0**-24, "pref": 16 * SCALE * 2.0**-24}
STEPPED = 16  # so many times more at step CHECKED


def ops_contender(ops: Ops, task: Task, first: dict[str, Array]) -> Contender:
    """This project's step on the given backend."""
    flat, params = buffers.flatten(first, ops.xp)
    m, v, count = ops.xp.zeros_like(flat), ops.xp.zeros_like(flat), [0]
    x_a, x_b = np.split(task.tokens, 2) if task.loss == "pref" else (task.tokens, task.tokens)

    def step() -> Any:
        if task.loss == "pref":
            value, grads = preference_step(ops, params, x_a, x_b, task.y, task.config, scale=SCALE)
        else:
            value, grads = cross_entropy_step(ops, params, task.tokens, task.config)
        count[0] += 1
        ops.adam_step(flat, grads, m, v, count[0], task.lr)
        return value

    return Contender(f"accel {ops.name}", lambda k: float([step() for _ in range(k)][-1]))


def allowed(loss: Loss, precision: Precision) -> tuple[float, float]:
    """How far two losses may lie apart, relative to 1 + |loss|, at step 1 and at step CHECKED."""
    first = ROUNDINGS[loss] * UNITS[precision] / UNITS["float32"]
    return first, STEPPED * first if precision == "float32" else first


def disagreement(contenders: list[Contender], loss: Loss, precision: Precision = "float32") -> str | None:
    """The line that says which losses differ by more than rounding explains, or None."""
    return timing.disagreement(contenders, *allowed(loss, precision))


# ----- The command -----

HELP = """\
Times a training step of the language model on full-length sequences, in float32: cross-entropy (ce), or the
length-normalised preference between the two sequences of each pair (pref), with its gradient and Adam.
  tiny    emb 64, 2 heads, 2 layers, mlp 256, vocabulary 256, length 32, batch 128
  small   emb 128, 4 heads, 4 layers, mlp 512, vocabulary 1,024, length 50, batch 64
  paper   emb 512, 8 heads, 6 layers, mlp 2,048, vocabulary 30,000, length 50, batch 256: for a GPU

With --peers the same step runs in JAX (jit) and PyTorch (eager, its fused attention and fused Adam; with --ops
cupy all on the GPU, PyTorch compiled and as one CUDA graph), from the same first parameters, in turns. The times
count only where the losses agree. The floor is the time of the step's matrix products at the BLAS's own rate on
large matrices, measured in this run.
  ms a step   median over the turns, and the fastest and slowest turn
  to floor    median / floor
  to ours     ours / theirs: below 1, we are faster

examples:
  python -m bench lm --config tiny
  python -m bench lm --config small --task pref --threads 2 --peers --json
"""


def add_lm(commands: Commands) -> None:
    command = add_command(commands, "lm", "a training step of the language model", HELP, 40)
    command.add_argument("--config", choices=list(CONFIGS), default="tiny", help="sizes (default tiny)")
    command.add_argument("--task", choices=["ce", "pref"], default="ce", help="what is minimised (default ce)")
    command.add_argument("--batch", type=int, metavar="B", help="sequences (ce) or pairs (pref) a step")
    command.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Checks, times and prints; the exit status."""
    config, usual = CONFIGS[arguments.config]
    arguments.batch = usual if arguments.batch is None else arguments.batch
    check_least(arguments, batch=1, threads=1, steps=CHECKED + 1, seed=0)
    threads, ops = arguments.threads, chosen_ops(arguments)
    task = draw_task(config, arguments.task, arguments.batch, arguments.seed)
    first = first_params(config, arguments.seed)
    makers, place = (lm_peers.jax_contender, lm_peers.torch_contender), chosen_place(arguments)
    contenders, missing = installed(partial(make, task, first, place) for make in makers if arguments.peers)
    contenders.append(ops_contender(ops, task, first))
    with threadpool_limits(threads, user_api="blas"):
        interleave(contenders, arguments.steps)
        rate = product_rate(ops)
    if refused(disagreement(contenders, task.loss, arguments.precision)):
        return 1
    floor = task.flops / rate
    rows = [as_row(contender, contenders[-1], floor) for contender in contenders]
    keep(arguments, ops, rows)
    if arguments.json:
        print_lines(rows, missing)
        return 0
    what = "sequences, cross-entropy" if task.loss == "ce" else "pairs, length-normalised preference"
    sizes = f"length {config.max_len}, {where(arguments)}"
    print(f"{arguments.config}, {arguments.batch:,} {what}; {sizes}")
    print(f"seed {arguments.seed}, {arguments.steps} steps in turns; {versions()}\n")
    print(table(rows))
    print(f"\nfloor {floor * 1e3:.3f} ms: {task.flops / 1e9:.3g} GFLOP at {rate / 1e9:.0f} GFLOP/s")
    if len(contenders) > 1:
        first_loss, tenth_loss = allowed(task.loss, arguments.precision)
        print(f"losses agree: step 1 to {first_loss:.0e}, step 10 to {tenth_loss:.0e} of 1 + |loss|")
    for line in missing:
        print(line)
    return 0
