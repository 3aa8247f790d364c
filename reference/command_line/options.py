"""What the programs that read comparisons share: their options, and the graphs and the fit these ask for."""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np

from reference.comparison_columns import Columns, Default
from reference.comparison_files import read_lengths
from reference.comparisons import Comparisons
from reference.errors import NotConvergedError
from reference.inference.covariance import COVARIANCE_LIMIT
from reference.inference.exchangeability import Exchangeability, exchangeable
from reference.inference.fit import FitOptions
from reference.inference.goodness_of_fit import LEVEL, GoodnessOfFit, goodness_of_fit
from reference.pbde import PBDE

REPLICATES = 199  # of the bootstrap, unless it is asked for another number

FILE_HELP = """\
FILE is a CSV file with a header line, a comparison a row, or (named .jsonl or .ndjson) a JSON object a line.
  y          a number in [0, 1] (1: a is preferred, 0.5: a tie), or the winner's name in every row;
             with --outcomes, one of three words: a wins, b wins, tie
  chosen, rejected: where the file has these columns instead of a, b and y, they need no options;
             with --y or --outcomes they are a and b, and the outcome is y's
"""

TIES_HELP = """\
ties
  --ties half      (default) half a win for each side. Simple, and right for the order; the s.e. follow the spread
                   that the outcomes have, for a tie is not a tossed coin: 6 wins and 30 ties give [.52, .64]
  --ties drop      as if ties had not happened: the odds given that there is a winner
  --ties davidson  ties have the odds nu sqrt(p_a p_b), and nu is fitted along: close items tie more often, so
                   a tie says that two items are near each other (Davidson 1970). The only one of the three that
                   is a likelihood of all outcomes; omega is the log odds given that there is a winner
"""


def add_file_options(parser: argparse.ArgumentParser) -> None:
    """FILE and how to read it."""
    parser.add_argument("file", metavar="FILE", help="CSV, or JSON lines (.jsonl)")
    for name, text in (("a", "first item"), ("b", "second item"), ("y", "outcome")):
        parser.add_argument(
            f"--{name}", default=Default(name), metavar="COL", help=f"column of the {text} (default {name})"
        )
    parser.add_argument("--annotator", metavar="COL", help="column that says who judged")
    parser.add_argument("--weight", metavar="COL", help="column that says how often a row was observed")
    parser.add_argument("--outcomes", metavar="A,B,TIE", help="words for: a wins, b wins, a tie")
    parser.add_argument("--by", metavar="COL", help="fit the rows of each value of this column on their own")


def add_fit_options(parser: argparse.ArgumentParser) -> None:
    """The model and how to fit it."""
    parser.add_argument(
        "--ties",
        choices=("half", "drop", "davidson"),
        default="half",
        help="how ties count: `fit --help` says how these differ",
    )
    parser.add_argument(
        "--prior",
        type=float,
        default=0.0,
        metavar="C",
        help="C wins and C losses of every item against a ghost item; 0.5 makes every density finite (default 0)",
    )
    parser.add_argument("--robust", action="store_true", help="standard errors by the sandwich, also without ties")
    parser.add_argument(
        "--pbde", choices=("luce", "length"), default="luce", help="f = 1 (Eq. 9) or 1 / |x| (Eq. 12)"
    )
    parser.add_argument("--lengths", metavar="ITEMS.csv", help="columns item, length: needed by --pbde length")


def add_test_options(parser: argparse.ArgumentParser) -> None:
    """The test of one annotator."""
    parser.add_argument(
        "--bootstrap",
        type=int,
        metavar="B",
        help="simulated data sets of the test at first, more until it is settled (default 199, and no test above "
        "5,000 items; 0: chi-squared only)",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the bootstrap and the permutations (default 0)")


def read_graphs(args: argparse.Namespace) -> dict[str, Comparisons]:
    """A graph of comparisons for each value of --by; one, "", without it. ValueError names what cannot be read."""
    outcomes = None if args.outcomes is None else tuple(word.strip() for word in args.outcomes.split(","))
    ties: Any = "drop" if args.ties == "drop" else "half"
    columns = Columns(args.a, args.b, args.y, args.annotator, args.weight, outcomes, ties)
    if args.by is not None:
        return Comparisons.by_group(args.file, columns, args.by)
    return {"": Comparisons.from_csv(args.file, **vars(columns))}


def fit_options(args: argparse.Namespace) -> FitOptions:
    """How to fit, of what was asked; ValueError where that contradicts itself or is out of range."""
    if (args.bootstrap or 0) < 0 or args.seed < 0:
        raise ValueError(f"--bootstrap and --seed must be >= 0, got {args.bootstrap or 0} and {args.seed}")
    if (args.pbde == "length") != (args.lengths is not None):
        raise ValueError("--pbde length and --lengths ITEMS.csv go together")
    return FitOptions("davidson" if args.ties == "davidson" else "half", args.prior, args.robust)


def model_of(args: argparse.Namespace, graph: Comparisons) -> PBDE:
    """The PBDE asked for, over the graph's items."""
    if args.lengths is not None:
        return PBDE.length_normalized(read_lengths(args.lengths, graph.labels or ()))
    return PBDE.luce()


def tested(args: argparse.Namespace, graph: Comparisons) -> tuple[GoodnessOfFit | None, str]:
    """The verdict on a graph, or the reason why there is none."""
    if args.bootstrap is None and graph.n > COVARIANCE_LIMIT:
        return None, f"above {COVARIANCE_LIMIT} items only where --bootstrap B asks for it"
    try:
        return goodness_of_fit(graph, REPLICATES if args.bootstrap is None else args.bootstrap, args.seed), ""
    except (ValueError, NotConvergedError) as error:
        return None, str(error)


def compared(
    args: argparse.Namespace, graph: Comparisons, verdict: GoodnessOfFit | None
) -> Exchangeability | None:
    """The test between the annotators of a graph, None where there are not several; at half the level where the
    pooled win rates are tested too."""
    if graph.annotator is None or len(set(np.asarray(graph.annotator).tolist())) < 2:
        return None
    alone = verdict is None or np.isnan(verdict.pooled_p)
    return exchangeable(graph, args.seed, LEVEL if alone else LEVEL / 2)


def predicted(args: argparse.Namespace, graph: Comparisons) -> list[tuple[int, int]]:
    """The indices of the two items of --predict; empty where it was not asked for or the graph lacks one."""
    labels = list(graph.labels or ())
    if not getattr(args, "predict", None) or not set(args.predict) <= set(labels):
        return []
    return [(labels.index(args.predict[0]), labels.index(args.predict[1]))]


def check_predicted(args: argparse.Namespace, graphs: dict[str, Comparisons]) -> None:
    """ValueError where no graph has both items of --predict, naming what is missing."""
    if any(predicted(args, graph) for graph in graphs.values()):
        return
    known = {label for graph in graphs.values() for label in graph.labels or ()}
    for name in args.predict:
        if name not in known:
            raise ValueError(f"--predict: no item is named {name!r}; one of them is {min(known)!r}")
    raise ValueError(f"--predict: {args.predict[0]!r} and {args.predict[1]!r} are not in one graph")
