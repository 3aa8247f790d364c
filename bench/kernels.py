"""Every op alone, on each backend: checked, timed, and set beside the least that its bytes and operations take."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from accel import Ops, get_ops
from bench.cases import SIZES, Case, cases
from bench.report import BACKENDS, Commands, save
from bench.roofline import machine, measure, seconds
from reference.command_line.report import json_line

EPS = 2.0**-23


@dataclass(frozen=True)
class Row:
    """A measurement: seconds of a call, and floor: the least that the backend's machine could need."""

    op: str
    backend: str
    size: int
    moved: float
    operations: float
    seconds: float
    floor: float
    error: float


def parts(result: Any) -> list[Any]:
    """The arrays of a result, float64, on the host; gradients by name, which share one buffer, are one array."""
    if isinstance(result, tuple):
        return [part for each in result for part in parts(each)]
    if isinstance(result, dict):
        return [np.concatenate([part.reshape(-1) for part in parts(tuple(result.values()))])]
    host = result.get() if hasattr(result, "get") else np.asarray(result)
    return [host.astype(np.float64)]


def error_of(ops: Ops, case: Case) -> float:
    """The largest error against NumPy in float64, each array's in parts of its largest number. ValueError where an
    array has another shape, or an error of more than twice that of NumPy in float32 and 64 roundings."""
    plain = Ops()
    exact = parts(case.make(plain, np.float64)())
    found, honest = (parts(case.make(each, np.float32)()) for each in (ops, plain))
    errors = [0.0]
    if [part.shape for part in found] != [part.shape for part in exact]:
        raise ValueError(f"{case.op} of {case.size} on {ops.name} must be right, got arrays of other shapes")
    for ours, numpys, right in zip(found, honest, exact, strict=True):
        scale = float(np.abs(right).max()) or 1.0
        error, allowed = (float(np.abs(part - right).max()) / scale for part in (ours, numpys))
        if not error <= 2 * allowed + 64 * EPS:
            raise ValueError(f"{case.op} of {case.size} on {ops.name} must be right, got an error of {error:.1e}")
        errors.append(error)
    return max(errors)


def run(
    backends: Sequence[Ops], sizes: Sequence[int] = SIZES, say: Callable[[Row], None] = lambda row: None
) -> Any:
    """Everything: {"machines": ..., "rooflines": ..., "rows": ...}; each row is said as it comes."""
    roofs = {ops.name: measure(ops) for ops in backends}
    rows = []
    for case in cases(sizes):
        for ops in backends:
            error, call = error_of(ops, case), case.make(ops, np.float32)
            floor = roofs[ops.name].seconds(case.moved, case.operations)
            taken = seconds(ops, call)
            rows.append(Row(case.op, ops.name, case.size, case.moved, case.operations, taken, floor, error))
            say(rows[-1])
    return {
        "machines": {ops.name: machine(ops) for ops in backends},
        "rooflines": {name: asdict(roof) for name, roof in roofs.items()},
        "rows": [asdict(row) for row in rows],
    }


def line(row: Row) -> str:
    """A row of the table."""
    rates = f"{row.moved / row.seconds / 1e9:>9.2f}{row.operations / row.seconds / 1e9:>10.2f}"
    return f"{row.op:<22}{row.backend:<7}{row.size:>9}{row.seconds * 1e6:>13.1f}{row.floor * 1e6:>11.1f}{rates}"


HEAD = f"{'':<22}{'':<7}{'numbers':>9}{'us a call':>13}{'floor us':>11}{'GB/s':>9}{'GFLOP/s':>10}"


def draw(results: Any, path: Path) -> None:
    """Time against size for every op, log-log, each backend with the floor of its machine."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows, colours = results["rows"], {"numpy": "#1f77b4", "numba": "#ff7f0e", "cupy": "#2ca02c"}
    names = list(dict.fromkeys(row["op"] for row in rows))
    figure = Figure(figsize=(12, 2.4 * -(-len(names) // 4)), layout="constrained")
    axes = list(figure.subplots(-(-len(names) // 4), 4, squeeze=False, sharex=True).flat)
    for axis, name in zip(axes, names, strict=False):
        for backend in results["machines"]:
            own = [row for row in rows if (row["op"], row["backend"]) == (name, backend)]
            size, taken, floor = (np.array([row[key] for row in own]) for key in ("size", "seconds", "floor"))
            axis.loglog(size, taken * 1e6, "o-", color=colours[backend], markersize=3, label=backend)
            axis.loglog(size, floor * 1e6, "--", color=colours[backend], linewidth=0.9, label=f"{backend} floor")
        axis.set_title(name, fontsize=9)
        axis.tick_params(which="both", labelsize=6, labelbottom=True)
    for axis in axes[len(names) :]:
        axis.remove()
    figure.supxlabel("numbers of the largest array", fontsize=10)
    figure.supylabel("microseconds a call", fontsize=10)
    axes[0].legend(fontsize=6)
    path.parent.mkdir(parents=True, exist_ok=True)
    FigureCanvasAgg(figure).print_figure(str(path), dpi=110)


def drawn(results: Any, path: Path) -> str:
    """Draws, and says where; without Matplotlib, that there is no picture."""
    try:
        draw(results, path)
    except ModuleNotFoundError as error:
        if error.name != "matplotlib":
            raise
        return "no picture: pip install matplotlib"
    return f"picture: {path}"


# ----- The command -----

KERNELS_HELP = """\
Times every op of the Transformer and of the density experiments alone, in float32, from sizes where the launch is
all to sizes where memory is: on the backend asked for beside NumPy, or on every backend of this machine. An op
that is less accurate than NumPy's is refused before it is timed.
  us a call   the fastest call on a CPU; on a GPU the median of batches between two events on its stream
  floor us    max(bytes / bandwidth, operations / FLOP rate): both rates measured in this run, by copying
              128 MB and by a large product. What lies in a cache can be faster
The picture shows time against size, log-log, with the floors dashed.
"""


def add_kernels(commands: Commands) -> None:
    """Add the command to argparse's subparsers."""
    command = commands.add_parser(
        "kernels",
        help="every op alone, with the roofline",
        description=KERNELS_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument("--ops", choices=BACKENDS, help="only this backend and numpy (default: all there are)")
    command.add_argument("--alone", action="store_true", help="with --ops: numpy checks it, but is not timed")
    command.add_argument("--largest", type=int, default=SIZES[-1], metavar="N", help="no size above N")
    command.add_argument("--json", action="store_true", help="all results as one JSON object")
    command.add_argument("--save", type=Path, metavar="FILE", help="write the JSON there too")
    command.add_argument("--out", type=Path, default=Path("out"), help="folder of kernels.png (default out)")
    command.set_defaults(run=run_command)


def run_command(arguments: argparse.Namespace) -> int:
    """Prints a line a measurement, draws the picture, saves where asked."""
    sizes = [size for size in SIZES if size <= arguments.largest]
    if not sizes:
        raise ValueError(f"largest must be >= {SIZES[0]}, got {arguments.largest}")
    arguments.out.mkdir(parents=True, exist_ok=True)  # an OSError comes before the timings
    if arguments.ops:
        names = (arguments.ops,) if arguments.alone else ("numpy", arguments.ops)
        backends = [get_ops(name) for name in dict.fromkeys(names)]
    else:
        backends, missing = [], []
        for name in BACKENDS:
            try:
                backends.append(get_ops(name))
            except ImportError as error:
                missing.append(str(error))
        print(*missing, sep="\n", file=sys.stderr)
    if not arguments.json:
        print(HEAD)
    results = run(backends, sizes, lambda row: None if arguments.json else print(line(row), flush=True))
    if arguments.save:
        save(results, arguments.save)
    picture = drawn(results, arguments.out / "kernels.png")
    if arguments.json:
        print(json_line(results))
        return 0
    for name, roof in results["rooflines"].items():
        rates = f"{roof['bandwidth'] / 1e9:.1f} GB/s, {roof['flops'] / 1e9:.1f} GFLOP/s"
        print(f"{name}: {results['machines'][name]['device']}; {rates}")
    print(picture)
    return 0
