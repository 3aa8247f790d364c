"""The front door: the exact reference by one import, and the `pbde` command.

import pbde

data = pbde.Comparisons.from_csv("games.csv", a="home", b="visitor", y="winner")
fitted = pbde.fit(data)                # densities with standard errors
pbde.goodness_of_fit(data).p_value     # can one annotator have judged?
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from reference import (
    PBDE,
    Annotator,
    Columns,
    Comparisons,
    Fit,
    FitOptions,
    GoodnessOfFit,
    NoFiniteFitError,
    NotConvergedError,
    NotIdentifiableError,
    Optimum,
    Population,
    covariance,
    fit,
    goodness_of_fit,
    optimum,
    win_matrix,
)
from reference.command_line.parser import package_version, until_closed

__all__ = [
    "PBDE",
    "Annotator",
    "Columns",
    "Comparisons",
    "Fit",
    "FitOptions",
    "GoodnessOfFit",
    "NoFiniteFitError",
    "NotConvergedError",
    "NotIdentifiableError",
    "Optimum",
    "Population",
    "covariance",
    "fit",
    "goodness_of_fit",
    "optimum",
    "win_matrix",
]
__version__ = package_version()

HELP = """\
usage: pbde COMMAND ...

Models of human preference, checked, trained and questioned as density estimation.

commands
  verify      every claim of the paper, solved numerically
  fit         FILE: the density that comparisons imply, with error bars
  diagnose    FILE: what comparisons can and cannot tell, in plain words
  calibrate   how often the tests reject and the intervals cover, simulated
  figures     the paper's figures, exact and trained
  lm          the language-model experiment of section 5.2
  bench       CPU against GPU against other frameworks; from a checkout only

`pbde COMMAND --help` says what each takes; --version prints the version.
"""
EXACT = ("verify", "fit", "diagnose", "calibrate")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command of the project; its exit status, 2 with one line on stderr for a wrong use."""
    command, *rest = [*(sys.argv[1:] if argv is None else argv), ""]
    rest = rest[:-1]
    if command in ("", "-h", "--help"):
        print(HELP, end="")
        return 0 if command else 2
    if command == "--version":
        print(f"pbde {__version__}")
        return 0
    if command in EXACT:
        from reference.__main__ import main as exact

        return exact([command, *rest], prog="pbde")
    if command in ("figures", "lm", "bench"):
        return program(command, rest)
    print(f"error: no command {command}: one of {', '.join((*EXACT, 'figures', 'lm', 'bench'))}", file=sys.stderr)
    return 2


def program(name: str, argv: Sequence[str]) -> int:
    """The program of a room: figures, lm or bench, which is no part of an installed package."""
    if name == "figures":
        from figures.__main__ import main as run
    elif name == "lm":
        from lm.__main__ import main as run
    else:
        try:
            from bench.__main__ import main as run
        except ModuleNotFoundError as error:
            if error.name != "bench":
                raise
            print("error: pbde bench runs from a checkout: python -m bench in its folder", file=sys.stderr)
            return 2
    return until_closed(lambda: run(argv))


if __name__ == "__main__":
    sys.exit(main())
