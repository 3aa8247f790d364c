"""The command line: `python -m bench mlp`, `lm`, `sample`, `reward` and `kernels`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from bench.kernels import add_kernels
from bench.lm import add_lm
from bench.mlp import add_mlp
from bench.reward import add_reward
from bench.sample import add_sample


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench", description="How fast the training is.")
    commands = parser.add_subparsers(dest="command", required=True)
    for add in (add_mlp, add_lm, add_sample, add_reward, add_kernels):
        add(commands)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    arguments = build_parser().parse_args(argv)
    try:
        status: int = arguments.run(arguments)
        return status
    except (ValueError, ImportError, MemoryError, OSError) as error:
        print(error, file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
