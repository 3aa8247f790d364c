"""What all benchmarks share: their options, the cores they keep to, and what they print of their contenders."""

from __future__ import annotations

import argparse
import os
import platform
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from accel import Ops, get_ops
from accel.sequence_ops import PRECISIONS
from bench.peers import Place
from bench.roofline import machine
from bench.timing import Contender
from reference.command_line.report import json_line

BACKENDS = ("numpy", "numba", "cupy")
Commands = Any  # what argparse's add_subparsers returns
C = TypeVar("C")


def add_command(commands: Commands, name: str, summary: str, text: str, steps: int) -> argparse.ArgumentParser:
    """A command with the options that all timings have; steps: their default, 0 for no such option."""
    shape = argparse.RawDescriptionHelpFormatter
    command: argparse.ArgumentParser = commands.add_parser(
        name, help=summary, description=text, formatter_class=shape
    )
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    command.add_argument("--threads", type=int, default=cores, help=f"cores to use (default: all {cores})")
    command.add_argument("--ops", choices=BACKENDS, default="numba", help="backend (default numba)")
    command.add_argument(
        "--precision",
        choices=PRECISIONS,
        default="float32",
        help="on a GPU: what the factors of the language model's products are rounded to (default float32)",
    )
    if steps:
        command.add_argument(
            "--steps", type=int, default=steps, help=f"training steps of each, > 10 (default {steps})"
        )
    command.add_argument("--seed", type=int, default=0, help="of data and parameters (default 0)")
    command.add_argument("--peers", action="store_true", help="run the other frameworks too, where installed")
    command.add_argument("--json", action="store_true", help="a JSON line each, ours last")
    command.add_argument("--save", type=Path, metavar="FILE", help="write them there too, with the machine")
    return command


def check_least(arguments: argparse.Namespace, **least: int) -> None:
    """ValueError where an option lies below its least value."""
    for name, value in least.items():
        if getattr(arguments, name) < value:
            raise ValueError(f"{name} must be >= {value}, got {getattr(arguments, name)}")


def chosen_ops(arguments: argparse.Namespace) -> Ops:
    """The backend asked for, in a process that keeps to the cores asked for."""
    keep_cores(arguments.threads)
    threads = arguments.threads if arguments.ops == "numba" else None
    return get_ops(arguments.ops, threads, arguments.precision)


def chosen_place(arguments: argparse.Namespace) -> Place:
    """Where the other frameworks compute: where the backend asked for does."""
    return Place(arguments.threads, arguments.ops == "cupy", arguments.precision)


def where(arguments: argparse.Namespace) -> str:
    """Of the heading: the arithmetic, and how many threads or which GPU."""
    if arguments.ops == "cupy":
        return f"{arguments.precision}, on the GPU"
    return f"float32, {arguments.threads} thread{'s' * (arguments.threads > 1)}"


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


def installed(peers: Iterable[Callable[[], C]]) -> tuple[list[C], list[str]]:
    """Those that can be made, and what the others lack."""
    contenders, missing = [], []
    for make in peers:
        try:
            contenders.append(make())
        except ImportError as error:
            missing.append(str(error))
    return contenders, missing


def refused(problem: str | None) -> bool:
    """Whether there is a problem, which is then said."""
    if problem:
        print(problem, file=sys.stderr)
    return bool(problem)


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


def print_lines(rows: Sequence[dict[str, Any]], missing: Sequence[str]) -> None:
    """A JSON line each, ours last."""
    for line in missing:
        print(json_line({"missing": line}))
    for row in rows:
        print(json_line(row))


def keep(arguments: argparse.Namespace, ops: Ops, rows: Sequence[dict[str, Any]]) -> None:
    """Where --save asks for it: the rows, what was asked, and the machine."""
    if arguments.save is None:
        return
    plain = (str, int, float, bool, type(None))
    asked = {name: value for name, value in vars(arguments).items() if isinstance(value, plain)}
    save({"machine": machine(ops), "asked": asked, "rows": rows}, arguments.save)


def save(results: Any, path: Path) -> None:
    """As JSON; folders are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json_line(results, indent=1) + "\n", encoding="utf-8")


def versions() -> str:
    return f"numpy {np.__version__}, {platform.machine()}"
