"""The command line: `python -m reference verify | fit FILE | diagnose FILE | calibrate`."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from reference.claims.verify import CLAIMS, verify
from reference.command_line.diagnose import LEVEL, annotators_text, diagnose
from reference.command_line.options import (
    FILE_HELP,
    TIES_HELP,
    add_file_options,
    add_fit_options,
    add_test_options,
    check_predicted,
    compared,
    fit_options,
    model_of,
    predicted,
    read_graphs,
    tested,
)
from reference.command_line.parser import Parser, package_version, until_closed
from reference.command_line.report import (
    certificate,
    check_output,
    item_records,
    json_line,
    known,
    paragraph,
    print_graph,
    print_heading,
    print_prediction,
    reading_lines,
    unlinked,
    verdict_lines,
    verdict_record,
    write_rows,
)
from reference.command_line.undetermined import report_failure, report_undetermined
from reference.comparisons import Comparisons
from reference.errors import NotConvergedError, NotIdentifiableError
from reference.inference.calibration import DESIGNS, calibrate
from reference.inference.calibration_annotators import ANNOTATOR_DESIGNS, rejections
from reference.inference.fit import Fit, fit_with
from reference.inference.goodness_of_fit import GoodnessOfFit

FIT_HELP = f"""\
Prints the density that choices imply, with error bars, and whether one annotator can have made them.
{FILE_HELP}  log p      log of the implicit preference distribution over the items of a graph; density = exp(log p)
  omega      f log p + g with mean 0: the log odds of i over j are omega_i - omega_j
  s.e.       standard error in nats; the interval of a density p is sigmoid(logit p -+ 1.96 s.e. / (1 - p)), s.e.
             that of log p: it stays below 1, and for two items it is that of --predict

{TIES_HELP}
examples:
  python -m reference fit games.csv --a home --b visitor --y winner --predict Boston Detroit
  python -m reference fit judgments.csv --a arg1 --b arg2 --y choice --outcomes a1,a2,equal --by topic
  python -m reference fit answers.jsonl --prior 0.5 --robust
"""

DIAGNOSE_HELP = f"""\
Says in plain words what the comparisons can and cannot tell: is the optimum determined, can one annotator have
judged, how strong is the evidence, what no comparison can show.
{FILE_HELP}
example:
  python -m reference diagnose judgments.csv --a arg1 --b arg2 --y choice --outcomes a1,a2,equal --by topic
"""


def build_parser(prog: str = "python -m reference") -> argparse.ArgumentParser:
    parser = Parser(
        prog=prog,
        description="Learning from pairwise preferences as density estimation, exactly.",
    )
    commands = parser.add_subparsers(dest="command", required=True)
    check = commands.add_parser("verify", help="check every claim of the paper numerically, a row a claim")
    check.add_argument("--n", type=int, default=80, help="outcomes: each trial draws 2..N (default 80)")
    check.add_argument("--trials", type=int, default=40, help="random cases a claim (default 40)")
    check.add_argument("--seed", type=int, default=0, help="seed of the cases (default 0)")
    check.add_argument("--json", action="store_true", help="a JSON line a claim")
    plain = argparse.RawDescriptionHelpFormatter
    fitting = commands.add_parser(
        "fit",
        help="from a file of comparisons to a density with error bars",
        description=FIT_HELP,
        formatter_class=plain,
    )
    asking = commands.add_parser(
        "diagnose",
        help="what a file of comparisons can and cannot tell, in plain words",
        description=DIAGNOSE_HELP,
        formatter_class=plain,
    )
    for command in (fitting, asking):
        add_file_options(command)
        add_fit_options(command)
        add_test_options(command)
        command.add_argument("--json", action="store_true", help="a JSON line a graph")
    fitting.add_argument(
        "--predict", nargs=2, metavar=("A", "B"), help="Prob(A preferred to B) with its 95 %% interval"
    )
    fitting.add_argument("--csv", metavar="OUT", help="write a row an item to this file")
    sizing = commands.add_parser("calibrate", help="simulate how often the test rejects and the intervals cover")
    sizing.add_argument("--replications", type=int, default=1000, help="data sets of each design (default 1000)")
    sizing.add_argument("--seed", type=int, default=0, help="seed of the simulation (default 0)")
    sizing.add_argument("--json", action="store_true", help="a JSON line a design")
    return parser


def run_verify(args: argparse.Namespace) -> int:
    """Prints a row a claim; 1 where one does not hold."""
    start = time.perf_counter()
    verdicts = verify(CLAIMS, args.n, args.trials, args.seed)
    for verdict in verdicts:
        claim = verdict.claim
        if args.json:
            row = {"claim": claim.name, "statement": claim.statement, "worst": verdict.worst}
            print(json_line({**row, "allowed": claim.allowed, "holds": verdict.holds}))
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
    options, graphs = fit_options(args), read_graphs(args)
    if args.predict:
        check_predicted(args, graphs)
    if args.csv is not None:
        check_output(args.csv, [args.file, *([] if args.lengths is None else [args.lengths])])
    rows: list[list[Any]] = []
    status = 0
    for group, graph in graphs.items():
        labels, model = graph.labels or (), model_of(args, graph)
        try:
            fitted = fit_with(graph, model, options)
        except NotIdentifiableError:
            status = 1
            rows += report_undetermined(group, graph, model, options, args.json)
            if predicted(args, graph) and not args.json:
                print("--predict needs a finite fit: with --prior 0.5 there is one\n")
            continue
        except (ValueError, NotConvergedError) as error:
            status = 1
            report_failure(args, group, len(graphs), error)
            continue
        records = item_records(fitted, labels)
        rows += [[group, *record.values()] for record in records]
        verdict, untested = tested(args, graph)
        between = compared(args, graph, verdict)
        if args.json:
            record = fit_record(args, group, graph, fitted, verdict, untested) | {"items": records}
            print(json_line(record | {"annotators_differ": asdict(between) if between else None}))
            continue
        print_graph(group, graph, fitted, options)
        for a, b in predicted(args, graph):
            print_prediction(graph, fitted, a, b)
        untold = [paragraph(f"one annotator: not tested: {untested}")]
        print("\n".join(verdict_lines(verdict, labels) if verdict else untold))
        if between is not None:
            print(paragraph(f"between annotators: {annotators_text(between)}"))
        print(certificate(fitted))
    if args.csv is not None:
        write_rows(args.csv, rows)
    return status


def fit_record(
    args: argparse.Namespace,
    group: str,
    graph: Comparisons,
    fitted: Fit,
    verdict: GoodnessOfFit | None,
    untested: str,
) -> dict[str, Any]:
    """A graph's JSON line but for its items."""
    record: dict[str, Any] = {
        "group": group,
        "log_likelihood": fitted.log_likelihood,
        "saturated": fitted.saturated,
        "comparisons": float(np.asarray(graph.weight).sum()),
        "reading": reading_lines(graph),
        "unlinked": [[(graph.labels or ())[i] for i in part] for part in unlinked(graph)] if args.prior else [],
        "newton_step": fitted.newton_step,
        "log_nu": fitted.log_nu,
        "verdict": verdict_record(verdict, graph.labels or ()) if verdict else None,
        "untested": untested,
    }
    for a, b in predicted(args, graph):
        record["predict"] = dict(
            zip(("probability", "low", "high"), map(known, fitted.predict(a, b)), strict=True)
        )
    return record


def run_diagnose(args: argparse.Namespace) -> int:
    """Prints four answers for every graph of the file, and how many graphs the test rejects."""
    options, graphs = fit_options(args), read_graphs(args)
    verdicts = []
    for group, graph in graphs.items():
        verdict, untested = tested(args, graph)
        try:
            between = compared(args, graph, verdict)
            found = diagnose(graph, model_of(args, graph), options, verdict, untested, between)
        except (ValueError, NotConvergedError) as error:
            report_failure(args, group, len(graphs), error)
            continue
        verdicts.append(found.one_annotator)
        if args.json:
            record = verdict_record(verdict, graph.labels or ()) if verdict else None
            print(json_line({"group": group, **asdict(found), "verdict": record}))
            continue
        print_heading(group, graph, options)
        for question, answer in found.answers():
            print(paragraph(f"{question} {answer}", "  "))
        print()
    if len(verdicts) > 1 and not args.json:
        tests = [one for one in verdicts if one is not None]
        print(
            f"{tests.count(False)} of {len(tests)} graphs that can be tested contradict one annotator at the 5 % "
            f"level (by noise: {LEVEL * len(tests):.1f})"
        )
    return 0


def run_calibrate(args: argparse.Namespace) -> int:
    """Prints the rejection rate and the coverage of every design."""
    if args.replications < 1 or args.seed < 0:
        raise ValueError(f"--replications must be >= 1 and --seed >= 0, got {args.replications} and {args.seed}")
    if not args.json:
        print(
            f"{'design':<8}{'what it is':<46}{'rejected':>9}{'power':>7}"
            f"{'covered':>9}{'bootstrap':>10}{'no fit':>8}"
        )
    for design in DESIGNS:
        found = calibrate(design, args.replications, args.seed)
        if args.json:
            print(json_line({"design": design.name, **asdict(found)}))
            continue
        print(
            f"{design.name:<8}{design.statement:<46}{found.rejected:>9.1%}{found.power:>7.0%}{found.covered:>9.1%}"
            f"{found.bootstrapped:>10.0%}{found.without_fit:>8.1%}"
        )
    for judges in ANNOTATOR_DESIGNS:
        share = rejections(judges, args.replications, args.seed)
        line = f"{judges.name:<8}{judges.statement:<46}{share:>9.1%}  {judges.judged_by}"
        print(json_line({"design": judges.name, "rejected": share}) if args.json else line)
    return 0


COMMANDS: dict[str, Callable[[argparse.Namespace], int]] = {
    "verify": run_verify,
    "fit": run_fit,
    "diagnose": run_diagnose,
    "calibrate": run_calibrate,
}


def main(argv: Sequence[str] | None = None, prog: str = "python -m reference") -> int:
    """Exit status 0; 1 where a claim fails or a graph has no finite optimum; 2 for errors, one line on stderr."""
    args = build_parser(prog).parse_args(argv)
    if not args.json:
        what = " ".join([args.command, *([Path(args.file).name] if "file" in args else [])])
        print(f"pbde {package_version()}, reference (NumPy {np.__version__}, float64, CPU): {what}")
    try:
        return until_closed(lambda: COMMANDS[args.command](args))
    except OSError as error:
        print(f"error: {error.filename}: {error.strerror}", file=sys.stderr)
    except (ValueError, NotConvergedError) as error:
        print(f"error: {error}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
