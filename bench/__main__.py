"""The command line: `python -m bench mlp`, `python -m bench reward` and `python -m bench kernels`."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from accel import get_ops
from bench import kernels, mlp, peers, reward
from bench.timing import CHECKED, Contender, interleave

MLP_HELP = """\
Times a training step: N comparisons, both sides through the network 1-64-64-64-64-1 (tanh), the logistic loss, its
gradient and Adam, in float32. With --shared the comparisons are between 1,024 points that go through it once.

With --peers the same step runs in JAX (jit, a call a step; "loop": the steps of a turn in one call) and PyTorch
(eager), from the same first parameters, all in turns; ours makes one call a turn too, unless --shared. The times
count only where the losses agree. The floor is the time of the step's matrix products at the BLAS's own rate
on large matrices plus its tanhs, with both rates measured in this run.
  ms a step   median over the turns, and the fastest and slowest turn
  to floor    median / floor
  to ours     ours / theirs: below 1, we are faster

examples:
  python -m bench mlp --pairs 1024
  python -m bench mlp --pairs 32768 --threads 2 --peers --json
"""


REWARD_HELP = """\
Trains Figure 1 (Table 1, 1,024 support points, 32,768 comparisons) for a number of seeds and prints the total
variation to p*; with --peers in JAX too, on the same comparisons from the same first parameters.
"""


BACKENDS = ("numpy", "numba", "cupy")


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench", description="How fast the training is.")
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser(
        "mlp",
        help="a training step of the density experiments' network",
        description=MLP_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    command.add_argument("--pairs", type=int, default=1024, metavar="N", help="comparisons (default 1024)")
    command.add_argument("--threads", type=int, default=cores, help=f"cores to use (default: all {cores})")
    command.add_argument("--ops", choices=BACKENDS, default="numba", help="backend (default numba)")
    command.add_argument("--steps", type=int, default=100, help="training steps of each, > 10 (default 100)")
    command.add_argument("--seed", type=int, default=0, help="of data and parameters (default 0)")
    command.add_argument("--shared", action="store_true", help="compare 1,024 points that are evaluated once")
    command.add_argument("--peers", action="store_true", help="run JAX and PyTorch too, where installed")
    command.add_argument("--json", action="store_true", help="a JSON line each, ours last")
    figure = commands.add_parser("reward", help="how near Figure 1 comes to p*", description=REWARD_HELP)
    figure.add_argument("--seeds", type=int, default=5, help="of comparisons and first parameters (default 5)")
    figure.add_argument("--steps", type=int, default=8192, help="of training (default 8192)")
    figure.add_argument("--ops", choices=BACKENDS, default="numba", help="backend (default numba)")
    figure.add_argument("--peers", action="store_true", help="run JAX too")
    figure.add_argument("--json", action="store_true", help="a JSON line a run")
    kernels.add_kernels(commands)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    arguments = build_parser().parse_args(argv)
    try:
        return {"mlp": run_mlp, "reward": run_reward, "kernels": kernels.run_command}[arguments.command](arguments)
    except (ValueError, ImportError, MemoryError) as error:
        print(error, file=sys.stderr)
        return 2


def run_mlp(arguments: argparse.Namespace) -> int:
    for name, least in (("pairs", 1), ("threads", 1), ("steps", CHECKED + 1), ("seed", 0)):
        if getattr(arguments, name) < least:
            raise ValueError(f"{name} must be >= {least}, got {getattr(arguments, name)}")
    threads = arguments.threads
    keep_cores(threads)
    ops = get_ops(arguments.ops, threads if arguments.ops == "numba" else None)
    task = mlp.draw_task(arguments.pairs, arguments.shared, arguments.seed)
    first = mlp.first_params(arguments.seed)
    contenders, missing = [], []
    if arguments.peers:
        for make in (peers.jax_contender, partial(peers.jax_contender, looped=True), peers.torch_contender):
            try:
                contenders.append(make(task, first, threads))
            except ImportError as error:
                missing.append(str(error))
    contenders.append(mlp.ops_contender(ops, task, first))
    with threadpool_limits(threads, user_api="blas"):
        interleave(contenders, arguments.steps)
        floor = mlp.measure_floor(ops)
    problem = mlp.disagreement(contenders)
    if problem:
        print(problem, file=sys.stderr)
        return 1
    rows = [as_row(contender, contenders[-1], floor.seconds(task)) for contender in contenders]
    if arguments.json:
        for line in missing:
            print(json.dumps({"missing": line}))
        for row in rows:
            print(json.dumps(row))
        return 0
    what = "1,024 shared points" if arguments.shared else "both sides through the network"
    print(f"{arguments.pairs:,} comparisons, {what}; float32, {threads} thread{'s' * (threads > 1)}")
    versions = f"numpy {np.__version__}, {platform.machine()}"
    print(f"seed {arguments.seed}, {arguments.steps} steps in turns; {versions}\n")
    print(table(rows))
    products = f"{task.flops / 1e9:.3g} GFLOP at {floor.gflops:.0f} GFLOP/s"
    print(
        f"\nfloor {floor.seconds(task) * 1e3:.3f} ms: {products}, {task.tanhs:,} tanhs at {floor.tanh_ns:.2f} ns"
    )
    if len(contenders) > 1:
        print(f"losses agree: step 1 to {mlp.FIRST_LOSS:.0e}, step 10 to {mlp.TENTH_LOSS:.0e} of 1 + |loss|")
    for line in missing:
        print(line)
    return 0


def run_reward(arguments: argparse.Namespace) -> int:
    """Prints every run, and the median total variation of each contender."""
    for name in ("seeds", "steps"):
        if getattr(arguments, name) < 1:
            raise ValueError(f"{name} must be >= 1, got {getattr(arguments, name)}")
    ops = get_ops(arguments.ops)
    found: dict[str, list[float]] = {}
    for seed in range(arguments.seeds):
        sample = reward.Sample.draw(seed)
        runs = [reward.ours(sample, seed, arguments.steps, ops)]
        if arguments.peers:
            runs.append(reward.in_jax(sample, seed, arguments.steps))
        for run in runs:
            found.setdefault(run.name, []).append(run.tv)
            text = f"{run.name:<14}seed {run.seed}  TV {run.tv:.4f}  loss {run.loss:.6f}  {run.seconds:.1f} s"
            print(json.dumps(asdict(run)) if arguments.json else text, flush=True)
    if not arguments.json:
        for name, distances in found.items():
            print(f"{name:<14}median TV {np.median(distances):.4f} of {len(distances)}")
    return 0


def keep_cores(threads: int) -> None:
    """Leaves this process, and so every framework in it, `threads` cores; ValueError where it has not so many."""
    if not hasattr(os, "sched_setaffinity"):
        if threads != os.cpu_count():
            raise ValueError(f"threads can be chosen on Linux only, got {threads}: leave --threads out")
        return
    cores = sorted(os.sched_getaffinity(0))
    if threads > len(cores):
        raise ValueError(f"threads must be <= {len(cores)}, the cores of this process, got {threads}")
    os.sched_setaffinity(0, cores[:threads])


def as_row(contender: Contender, ours: Contender, floor: float) -> dict[str, Any]:
    """What --json prints of a contender; times in seconds per step."""
    median = float(np.median(contender.seconds))
    return {
        "name": contender.name,
        "median_s": median,
        "min_s": min(contender.seconds),
        "max_s": max(contender.seconds),
        "loss": contender.loss,
        "floor_s": floor,
        "to_floor": median / floor,
        "to_ours": float(np.median(ours.seconds)) / median,
    }


def table(rows: Sequence[dict[str, Any]]) -> str:
    lines = [f"{'':<16}{'ms a step':>11}{'fastest':>10}{'slowest':>10}{'to floor':>10}{'to ours':>9}{'loss':>12}"]
    for row in rows:
        median, least, most = (row[name] * 1e3 for name in ("median_s", "min_s", "max_s"))
        lines.append(
            f"{row['name']:<16}{median:>11.3f}{least:>10.3f}{most:>10.3f}"
            f"{row['to_floor']:>10.2f}{row['to_ours']:>9.2f}{row['loss']:>12.6f}"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
