"""The command line: `python -m reference verify` and `python -m reference fit FILE.csv`."""

from __future__ import annotations

import argparse
import csv
import json
import sys
import time
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from reference.claims import CLAIMS, verify
from reference.comparisons import Comparisons
from reference.fit import Fit, fit, partial_order, restricted
from reference.optimum import NotConvergedError, NotIdentifiableError
from reference.pbde import PBDE
from reference.reading import Columns, read_lengths

SHOWN = 30  # items of a graph that the table prints; --json and --csv give all

FIT_HELP = """\
Reads a CSV file with a header line, a comparison a row, and prints the density that the choices imply.
  y          a number in [0, 1] (1: a is preferred, 0.5: a tie), or the winner's name in every row;
             with --outcomes, one of three words: a wins, b wins, tie
  log p      log of the implicit preference distribution over the items of a graph; density = exp(log p)
  omega      f log p + g with mean 0: the log odds of i over j are omega_i - omega_j
  s.e.       standard error in nats; the interval is exp(log p -+ 1.96 s.e.)

examples:
  python -m reference fit games.csv --a home --b visitor --y winner
  python -m reference fit judgments.csv --a arg1 --b arg2 --y choice --outcomes a1,a2,equal --by topic
"""


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m reference",
        description="Learning from pairwise preferences as density estimation, exactly.",
    )
    commands = parser.add_subparsers(dest="command", required=True)
    check = commands.add_parser("verify", help="check every claim of the paper numerically, a row a claim")
    check.add_argument("--n", type=int, default=80, help="outcomes: each trial draws 2..N (default 80)")
    check.add_argument("--trials", type=int, default=40, help="random cases a claim (default 40)")
    check.add_argument("--seed", type=int, default=0, help="seed of the cases (default 0)")
    check.add_argument("--json", action="store_true", help="a JSON line a claim")
    fitting = commands.add_parser(
        "fit",
        help="from a file of comparisons to a density with error bars",
        description=FIT_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    fitting.add_argument("file", metavar="FILE.csv")
    for name, text in (("a", "first item"), ("b", "second item"), ("y", "outcome")):
        fitting.add_argument(
            f"--{name}", default=name, metavar="COL", help=f"column of the {text} (default {name})"
        )
    fitting.add_argument("--annotator", metavar="COL", help="column that says who judged")
    fitting.add_argument("--weight", metavar="COL", help="column that says how often a row was observed")
    fitting.add_argument("--outcomes", metavar="A,B,TIE", help="words for: a wins, b wins, a tie")
    fitting.add_argument(
        "--ties", choices=("half", "drop"), default="half", help="half a win each (default), or none"
    )
    fitting.add_argument("--by", metavar="COL", help="fit the rows of each value of this column on their own")
    fitting.add_argument(
        "--pbde", choices=("luce", "length"), default="luce", help="f = 1 (Eq. 9) or 1 / |x| (Eq. 12)"
    )
    fitting.add_argument("--lengths", metavar="ITEMS.csv", help="columns item, length: needed by --pbde length")
    fitting.add_argument("--json", action="store_true", help="a JSON line a graph")
    fitting.add_argument("--csv", metavar="OUT", help="write a row an item to this file")
    return parser


def run_verify(args: argparse.Namespace) -> int:
    """Prints a row a claim; 1 where one does not hold."""
    start = time.perf_counter()
    verdicts = verify(CLAIMS, args.n, args.trials, args.seed)
    for verdict in verdicts:
        claim = verdict.claim
        if args.json:
            row = {"claim": claim.name, "statement": claim.statement, "worst": verdict.worst}
            print(json.dumps({**row, "allowed": claim.allowed, "holds": verdict.holds}))
            continue
        word = "holds" if verdict.holds else "FAILS"
        print(
            f"{claim.name:<11}{claim.statement:<47}worst {verdict.worst:.1e}  allowed {claim.allowed:.0e}  {word}"
        )
    held, seconds = sum(verdict.holds for verdict in verdicts), time.perf_counter() - start
    if not args.json:
        drawn = f"n = 2..{args.n}, {args.trials} trials, seed {args.seed}, {seconds:.1f} s"
        print(f"{held} of {len(verdicts)} hold ({drawn})")
    return 0 if held == len(verdicts) else 1


def run_fit(args: argparse.Namespace) -> int:
    """Prints every graph of the file; 1 where one has no finite optimum."""
    outcomes = None if args.outcomes is None else tuple(args.outcomes.split(","))
    columns = Columns(args.a, args.b, args.y, args.annotator, args.weight, outcomes, args.ties)
    if (args.pbde == "length") != (args.lengths is not None):
        raise ValueError("--pbde length and --lengths ITEMS.csv go together")
    if args.by:
        graphs = Comparisons.by_group(args.file, columns, args.by)
    else:
        graphs = {"": Comparisons.from_csv(args.file, **vars(columns))}
    rows: list[list[Any]] = []
    status = 0
    for group, graph in graphs.items():
        labels = graph.labels or ()
        model = PBDE.luce()
        if args.lengths:
            model = PBDE.length_normalized(read_lengths(args.lengths, labels))
        try:
            fitted = fit(graph.wins(), model)
        except NotIdentifiableError:
            status = 1
            report_undetermined(group, graph, model, args.json)
            continue
        except (ValueError, NotConvergedError) as error:
            raise type(error)(f"{args.file}{f', {args.by} {group}' if group else ''}: {error}") from None
        records = item_records(fitted, labels)
        rows += [[group, *record.values()] for record in records]
        if args.json:
            summary = {"group": group, "log_likelihood": fitted.log_likelihood, "saturated": fitted.saturated}
            comparisons = float(np.asarray(graph.weight).sum())
            print(json.dumps({**summary, "comparisons": comparisons, "items": records}))
        else:
            print_graph(group, graph, fitted)
    if args.csv:
        write_rows(args.csv, rows)
    return status


def item_records(fitted: Fit, labels: Sequence[str]) -> list[dict[str, Any]]:
    """One dict an item, in the order of the labels."""
    n = len(labels)
    se_log_p = [None] * n if fitted.se_log_p is None else fitted.se_log_p.tolist()
    se_omega = [None] * n if fitted.se_omega is None else fitted.se_omega.tolist()
    found = fitted.optimum
    names = ("item", "log_p", "omega", "se_log_p", "se_omega", "comparisons")
    fields = (labels, found.log_p.tolist(), found.omega.tolist(), se_log_p, se_omega, fitted.compared.tolist())
    return [dict(zip(names, values, strict=True)) for values in zip(*fields, strict=True)]


def heading(group: str, graph: Comparisons) -> str:
    """What the graph holds, in one line."""
    total = float(np.asarray(graph.weight).sum())
    ties = (
        f"{graph.ties:g} ties as half a win each"
        if not graph.ties_left_out
        else f"{graph.ties_left_out:g} ties left out"
    )
    who = "" if graph.annotator is None else f", {len(np.unique(np.asarray(graph.annotator)))} annotators"
    self_made = f", {graph.dropped} with itself left out" if graph.dropped else ""
    return f"{group + ': ' if group else ''}{graph.n} items, {total:g} comparisons ({ties}{self_made}){who}"


def print_graph(group: str, graph: Comparisons, fitted: Fit) -> None:
    """The graph's table, the most preferred item first."""
    print(heading(group, graph))
    print(
        f"{'item':<30}{'density':>9}{'95 % interval':>20}{'log p':>9}{'s.e.':>7}"
        f"{'omega':>9}{'s.e.':>7}{'compared':>9}"
    )
    low, high = fitted.interval()
    nothing = np.full(graph.n, np.nan)
    se_log_p = nothing if fitted.se_log_p is None else fitted.se_log_p
    se_omega = nothing if fitted.se_omega is None else fitted.se_omega
    found, labels = fitted.optimum, graph.labels or ()
    for i in np.argsort(-found.log_p, kind="stable")[:SHOWN]:
        interval = f"[{low[i]:.4f}, {high[i]:.4f}]"
        name = labels[i] if len(labels[i]) <= 29 else labels[i][:26] + "..."
        print(
            f"{name:<30}{np.exp(found.log_p[i]):>9.4f}{interval:>20}{found.log_p[i]:>9.3f}{se_log_p[i]:>7.3f}"
            f"{found.omega[i]:>9.3f}{se_omega[i]:>7.3f}{fitted.compared[i]:>9g}"
        )
    if graph.n > SHOWN:
        print(f"... and {graph.n - SHOWN} more: --json or --csv gives them all")
    if fitted.se_log_p is None:
        print("no standard errors: above 5,000 items their covariance is too large an array")
    print(
        f"log-likelihood {fitted.log_likelihood:.4f} nats a comparison, at best {fitted.saturated:.4f} (saturated)"
    )
    print(f"certificate: last Newton step {found.newton_step:.0e} nats\n")


def report_undetermined(group: str, graph: Comparisons, model: PBDE, as_json: bool) -> None:
    """What a graph determines that has no finite optimum: its groups, who always won, densities within."""
    parts, beaten = partial_order(graph)
    labels, wins = graph.labels or (), graph.wins()
    names = [[labels[i] for i in part] for part in parts]
    inner: list[list[dict[str, Any]]] = []
    for part, items in zip(parts, names, strict=True):
        within = wins[part][:, part]
        inner.append(item_records(fit(within, restricted(model, part, graph.n)), items) if len(part) > 1 else [])
    if as_json:
        error = "the wins do not determine the optimum"
        print(
            json.dumps(
                {"group": group, "error": error, "components": names, "always_won": beaten, "within": inner}
            )
        )
        return
    print(heading(group, graph))
    print(f"no finite optimum: {len(parts)} groups are not linked by wins in both directions. What is determined:")
    for k, (items, records) in enumerate(zip(names, inner, strict=True), 1):
        won = [str(m + 1) for j, m in beaten if j == k - 1]
        against = f"; won every comparison with group{'s' * (len(won) > 1)} {', '.join(won[:12])}" if won else ""
        shown = ", ".join(items[:8]) + (f", ... ({len(items)} items)" if len(items) > 8 else "")
        print(f"  group {k}: {shown}{against}")
        for record in sorted(records, key=lambda record: -record["log_p"])[:8]:
            within = f"density within {np.exp(record['log_p']):.4f}, log p {record['log_p']:.3f}"
            print(f"    {record['item']:<30}{within} (s.e. {record['se_log_p']:.3f})")
    print("add comparisons that link the groups in both directions\n")


def write_rows(path: str, rows: list[list[Any]]) -> None:
    """The items of all graphs as CSV."""
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["group", "item", "log_p", "omega", "se_log_p", "se_omega", "comparisons"])
        writer.writerows(rows)


def package_version() -> str:
    """The installed version, or "source" where nothing is installed."""
    try:
        return version("pbde")
    except PackageNotFoundError:
        return "source"


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status 0; 1 where a claim fails or a graph has no finite optimum; 2 for errors, one line on stderr."""
    args = build_parser().parse_args(argv)
    if not args.json:
        what = f"{args.command} {Path(args.file).name}" if args.command == "fit" else args.command
        print(f"pbde {package_version()}, reference (NumPy {np.__version__}, float64, CPU): {what}")
    try:
        return run_verify(args) if args.command == "verify" else run_fit(args)
    except OSError as error:
        print(f"error: {error.filename}: {error.strerror}", file=sys.stderr)
    except (ValueError, NotConvergedError) as error:
        print(f"error: {error}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
