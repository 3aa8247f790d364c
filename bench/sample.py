"""Drawing sequences from the language model, timed in tokens a second.

The end token is made impossible, so that everybody writes the same number of tokens: count times length. Random
numbers differ between frameworks, so what is compared is what was drawn: its log-likelihoods as the loop gave them
against the network's on whole sequences, and their mean between the frameworks.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from accel import Ops
from accel.buffers import flatten
from accel.minimize import host
from accel.sampling import draw
from accel.sequence_ops import Precision
from accel.streams import stream
from accel.transformer import log_likelihood
from accel.transformer_params import OUTPUT, TransformerConfig
from bench.lm_step import CONFIGS, UNITS, first_params, flops_of_a_token
from bench.report import (
    Commands,
    add_command,
    check_least,
    chosen_ops,
    chosen_place,
    installed,
    keep,
    print_lines,
    refused,
    versions,
    where,
)
from bench.roofline import product_rate
from bench.sample_peers import Drawn, Sampler, in_jax, in_torch
from bench.streams import Purpose
from bench.timing import PAUSE

EOS = 2
ROUNDINGS = 64  # a log-likelihood by the loop against the whole network: roundings of its terms, relative
SPREAD = 5.0  # standard errors between the mean log-likelihoods of two frameworks


def endless(params: Mapping[str, Any]) -> Mapping[str, Any]:
    """The same parameters, but that neither padding nor the end token is ever drawn."""
    params[f"{OUTPUT}/bias"][[0, EOS]] = -1e4
    return params


def ours(
    ops: Ops, params: Mapping[str, Any], config: TransformerConfig, count: int, batch: int, seed: int
) -> Sampler:
    """This project's loop, `batch` sequences at a time."""

    def run(turn: int) -> Drawn:
        rng = stream(seed, Purpose.DRAWING, turn)
        sizes = [min(batch, count - start) for start in range(0, count, batch)]
        parts = [draw(ops, params, config, size, rng, config.max_len, EOS) for size in sizes]
        return np.concatenate([part[0] for part in parts]), np.concatenate([part[1] for part in parts])

    return Sampler(f"accel {ops.name}", run)


def disagreement(
    samplers: list[Sampler],
    ops: Ops,
    params: Mapping[str, Any],
    config: TransformerConfig,
    precision: Precision = "float32",
) -> str | None:
    """The line that says whose log-likelihoods are not those of what was drawn, or whose mean differs; or None."""
    means, errors, allowed = [], [], ROUNDINGS * UNITS[precision]
    for sampler in samplers:
        assert sampler.drawn is not None
        tokens, log_p = sampler.drawn
        exact = host(log_likelihood(ops, params, tokens, config))
        worst = float(np.abs(log_p / exact - 1).max())
        if not worst <= allowed:
            return f"{sampler.name}: log-likelihoods of the loop and the network differ by {worst:.1e}, relative"
        means.append(exact.mean())
        errors.append(exact.std() / math.sqrt(len(exact)))
    for sampler, mean, error in zip(samplers[:-1], means, errors, strict=False):
        if not abs(mean - means[-1]) <= SPREAD * math.hypot(error, errors[-1]):
            return (
                f"mean log-likelihoods differ: {means[-1]:.4f} ({samplers[-1].name}), {mean:.4f} ({sampler.name})"
            )
    return None


# ----- The command -----

HELP = """\
Times the drawing of sequences, token by token with kept keys and values, at temperature 1 over the full
vocabulary. The end token is never drawn: all write count times length tokens (tiny: 32, small: 50).

With --peers the plain loops of JAX (one jit) and PyTorch (eager) draw as many, in turns; with --ops cupy all on
the GPU, and every token the same CUDA graph of PyTorch. The times count only where each one's log-likelihoods
are those of the whole network on what it drew, and their means agree. The floor is the time of the matrix products
at the BLAS's own rate on large matrices.

examples:
  python -m bench sample --config small --count 1024 --peers
"""


def add_sample(commands: Commands) -> None:
    command = add_command(commands, "sample", "drawing from the language model", HELP, 0)
    command.add_argument("--config", choices=list(CONFIGS), default="small", help="sizes (default small)")
    command.add_argument("--count", type=int, default=1024, metavar="N", help="sequences (default 1024)")
    command.add_argument("--batch", type=int, default=1024, metavar="B", help="ours at a time (default 1024)")
    command.add_argument("--turns", type=int, default=5, help="timed turns of each (default 5)")
    command.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Checks, times and prints; the exit status."""
    check_least(arguments, count=2, batch=1, turns=1, threads=1, seed=0)
    threads, ops, count, seed = arguments.threads, chosen_ops(arguments), arguments.count, arguments.seed
    config, _ = CONFIGS[arguments.config]
    params, place = endless(first_params(config, seed)), chosen_place(arguments)
    makers = [partial(make, params, config, count, place, seed) for make in (in_jax, in_torch) if arguments.peers]
    samplers, missing = installed(makers)
    params = flatten(params, ops.xp)[1]
    samplers.append(ours(ops, params, config, count, arguments.batch, seed))
    with threadpool_limits(threads, user_api="blas"):
        for turn in range(arguments.turns + 1):  # the first compiles and is checked, and not timed
            for sampler in samplers:
                time.sleep(PAUSE)
                start = time.perf_counter()
                drawn = sampler.run(turn)
                if turn:
                    sampler.seconds.append(time.perf_counter() - start)
                else:
                    sampler.drawn = drawn
        rate = product_rate(ops)
        problem = disagreement(samplers, ops, params, config, arguments.precision)
    if refused(problem):
        return 1
    tokens = count * config.max_len
    floor = tokens * flops_of_a_token(config, (config.max_len + 1) / 2) / rate
    rows = [as_row(sampler, samplers[-1], tokens, floor) for sampler in samplers]
    keep(arguments, ops, rows)
    if arguments.json:
        print_lines(rows, missing)
        return 0
    what = f"{arguments.config}, {count:,} sequences of {config.max_len}"
    print(f"{what}; {where(arguments)}, seed {seed}; {versions()}\n")
    print(f"{'':<18}{'tokens/s':>10}{'s':>9}{'fastest':>9}{'slowest':>9}{'to floor':>10}{'ours/its':>10}")
    for row in rows:
        times = "".join(f"{row[name]:>9.3f}" for name in ("median_s", "min_s", "max_s"))
        print(
            f"{row['name']:<18}{row['tokens_per_s']:>10,.0f}{times}{row['to_floor']:>10.2f}{row['speedup']:>10.2f}"
        )
    print(f"\nfloor {floor:.3f} s, {tokens / floor:,.0f} tokens/s: products at {rate / 1e9:.0f} GFLOP/s")
    for line in missing:
        print(line)
    return 0


def as_row(sampler: Sampler, ours: Sampler, tokens: int, floor: float) -> dict[str, Any]:
    """What --json prints. loss: nats a token; speedup: our tokens a second over this one's."""
    median = float(np.median(sampler.seconds))
    assert sampler.drawn is not None
    return {
        "name": sampler.name,
        "tokens_per_s": tokens / median,
        "median_s": median,
        "min_s": min(sampler.seconds),
        "max_s": max(sampler.seconds),
        "loss": -float(sampler.drawn[1].sum()) / tokens,
        "floor_s": floor,
        "to_floor": median / floor,
        "speedup": median / float(np.median(ours.seconds)),
    }
