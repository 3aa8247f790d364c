"""The command `python -m bench kernels`: what bench/kernels.py measures, as lines, a JSON file and a picture."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from accel import get_ops
from bench import kernels
from bench.report import BACKENDS, Commands

HELP = """\
Times every op of the Transformer and of the density experiments alone, in float32, from sizes where the launch is
all to sizes where memory is: on the backend asked for beside NumPy, or on every backend of this machine. An op
that is less accurate than NumPy's is refused before it is timed.
  us a call   the fastest call on a CPU; on a GPU the median of batches between two events on its stream
  floor us    max(bytes / bandwidth, operations / FLOP rate): both rates measured in this run, by copying
              128 MB and by a large product. What lies in a cache can be faster
The picture shows time against size, log-log, with the floors dashed.
"""


def add_kernels(commands: Commands) -> None:
    """The command's options."""
    shape = argparse.RawDescriptionHelpFormatter
    command = commands.add_parser(
        "kernels", help="every op alone, with the roofline", description=HELP, formatter_class=shape
    )
    command.add_argument("--ops", choices=BACKENDS, help="only this backend and numpy (default: all there are)")
    command.add_argument("--largest", type=int, default=kernels.SIZES[-1], metavar="N", help="no size above N")
    command.add_argument("--json", action="store_true", help="all results as one JSON object")
    command.add_argument("--save", type=Path, metavar="FILE", help="write the JSON there too")
    command.add_argument("--out", type=Path, default=Path("out"), help="folder of kernels.png (default out)")
    command.set_defaults(run=run_kernels)


def run_kernels(arguments: argparse.Namespace) -> int:
    """Prints a line a measurement, draws the picture, saves where asked."""
    sizes = [size for size in kernels.SIZES if size <= arguments.largest]
    if not sizes:
        raise ValueError(f"largest must be >= {kernels.SIZES[0]}, got {arguments.largest}")
    if arguments.ops:
        backends = [get_ops(name) for name in dict.fromkeys(("numpy", arguments.ops))]
    else:
        backends, missing = [], []
        for name in BACKENDS:
            try:
                backends.append(get_ops(name))
            except ImportError as error:
                missing.append(str(error))
        print(*missing, sep="\n", file=sys.stderr)
    if not arguments.json:
        print(kernels.HEAD)
    results = kernels.run(
        backends, sizes, lambda row: None if arguments.json else print(kernels.line(row), flush=True)
    )
    if arguments.save:
        kernels.save(results, arguments.save)
    kernels.draw(results, arguments.out / "kernels.png")
    if arguments.json:
        print(json.dumps(results))
        return 0
    for name, roof in results["rooflines"].items():
        rates = f"{roof['bandwidth'] / 1e9:.1f} GB/s, {roof['flops'] / 1e9:.1f} GFLOP/s"
        print(f"{name}: {results['machines'][name]['device']}; {rates}")
    print(f"picture: {arguments.out / 'kernels.png'}")
    return 0
