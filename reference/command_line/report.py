"""What `fit` prints: a table a graph, its verdict, and the same as JSON and CSV."""

from __future__ import annotations

import csv
import json
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from scipy.sparse.csgraph import connected_components

from reference.annotators import Indices
from reference.comparisons import Comparisons
from reference.inference.fit import Fit, FitOptions
from reference.inference.goodness_of_fit import GoodnessOfFit

FEW = 0.5  # of the pairs
SHOWN = 30  # items of a graph that the table prints; --json and --csv give all
MISSING = (
    "nan",
    "none",
    "null",
    "na",
    "n/a",
    "<na>",
)  # written in the place of a missing name
FIELDS = ("item", "log_p", "omega", "se_log_p", "se_omega", "comparisons")


def item_records(fitted: Fit, labels: Sequence[str]) -> list[dict[str, Any]]:
    """One dict an item, in the order of the labels; None for standard errors that were not computed."""
    errors = [list(map(known, se.tolist())) for se in (fitted.se_log_p, fitted.se_omega)]
    columns = (labels, fitted.log_p.tolist(), fitted.omega.tolist(), *errors, fitted.compared.tolist())
    return [dict(zip(FIELDS, values, strict=True)) for values in zip(*columns, strict=True)]


def shortened(label: str, width: int) -> str:
    """The label in at most `width` characters of one line, control characters as their escapes."""
    line = "".join(c if c.isprintable() else repr(c)[1:-1] for c in " ".join(label.split()))
    return line if len(line) <= width else line[: width - 3] + "..."


def paragraph(text: str, indent: str = "") -> str:
    """The text in lines of at most 100 columns."""
    return textwrap.fill(text, 100, initial_indent=indent, subsequent_indent=indent + "  ")


def number(value: float, decimals: int, width: int) -> str:
    """A number in a column of a table, a blank in front: with fewer decimals where it is large, with an exponent
    where it is huge; "-" where it was not computed. width: at least 8, or 7 for numbers >= 0."""
    if np.isnan(value):
        return f"{'-':>{width}}"
    forms = [f"{value:z.{k}f}" for k in range(decimals, -1, -1)] + [f"{value:.{k}g}" for k in (3, 2, 1)]
    return f"{next(form for form in forms if len(form) < width):>{width}}"


def heading(group: str, graph: Comparisons, options: FitOptions | None = None) -> str:
    """What the graph holds, in one sentence."""
    total = float(np.asarray(graph.weight).sum())
    rule = "with a parameter of their own" if options and options.ties == "davidson" else "as half a win each"
    ties = f"{graph.ties_left_out:g} ties left out" if graph.ties_left_out else f"{graph.ties:g} ties {rule}"
    who = "" if graph.annotator is None else f", {len(np.unique(np.asarray(graph.annotator)))} annotators"
    self_made = f", {graph.dropped} with itself left out" if graph.dropped else ""
    prior = f", prior {options.prior:g}" if options and options.prior else ""
    start = f"{shortened(group, 30)}: " if group else ""
    return f"{start}{graph.n} items, {total:g} comparisons ({ties}{self_made}){who}{prior}"


def reading_lines(graph: Comparisons) -> list[str]:
    """How the outcomes were read, how often the first side won, and what may have been meant otherwise."""
    y, weight = np.asarray(graph.y), np.asarray(graph.weight)
    lines, source, total = [], graph.source, float(weight.sum())
    if source is not None and total > 0:
        first, second, ties = (float(weight[y == value].sum()) / total for value in (1.0, 0.0, 0.5))
        graded = max(1 - first - second - ties, 0.0)
        a, b = (shortened(name, 20) for name in source.sides)
        shares = [f"{a} won {100 * first:.1f} %, {b} {100 * second:.1f} %"]
        shares += [f"ties {100 * ties:.1f} %"] * (ties > 0) + [f"graded {100 * graded:.1f} %"] * (graded > 1e-9)
        turn = f"; {source.turn}" if source.turn else ""
        lines.append(f"{source.outcome}; {', '.join(shares)}{turn}")
    return lines + [f"remark: {text}" for text in remarks(graph)]


def remarks(graph: Comparisons) -> list[str]:
    """Item names that look like missing values, and columns that look meant but were not read."""
    unread = () if graph.source is None else graph.source.unread
    found = [f"not read, though it looks meant: column {column}" for column in unread]
    missing = [label for label in graph.labels or () if label.strip().lower() in MISSING]
    return found + [
        f"an item is named {name!r}: leave its rows out if that is a missing value" for name in missing
    ]


def print_heading(group: str, graph: Comparisons, options: FitOptions | None = None) -> None:
    """The heading, and how its comparisons were read."""
    print(paragraph(heading(group, graph, options)))
    for line in reading_lines(graph):
        print(paragraph(line, "  "))


def print_graph(group: str, graph: Comparisons, fitted: Fit, options: FitOptions) -> None:
    """The graph's table, the most preferred item first."""
    print_heading(group, graph, options)
    print(
        f"{'item':<30}{'density':>9}{'95 % interval':>20}{'log p':>9}{'s.e.':>7}"
        f"{'omega':>9}{'s.e.':>7}{'compared':>9}"
    )
    low, high = fitted.interval()
    labels = graph.labels or ()
    for i in np.argsort(-fitted.log_p, kind="stable")[:SHOWN]:
        interval = "-" if np.isnan(low[i]) else f"[{low[i]:.4f}, {high[i]:.4f}]"
        print(
            f"{shortened(labels[i], 29):<30}{np.exp(fitted.log_p[i]):>9.4f}{interval:>20}"
            f"{number(fitted.log_p[i], 3, 9)}{number(fitted.se_log_p[i], 3, 7)}{number(fitted.omega[i], 3, 9)}"
            f"{number(fitted.se_omega[i], 3, 7)}{number(fitted.compared[i], 0, 9)}"
        )
    if graph.n > SHOWN:
        print(f"... and {graph.n - SHOWN} more: --json or --csv gives them all")
    print_unlinked(graph)
    if fitted.omega_covariance is None:
        print("no standard errors: above 5,000 items their covariance is too large an array")
    print(
        f"log-likelihood {fitted.log_likelihood:.4f} nats a comparison, at best {fitted.saturated:.4f} (saturated)"
    )
    if fitted.log_nu is not None:
        nu, error = fitted.log_nu
        print(f"ties: log nu {nu:.3f} (s.e. {error:.3f}); two equal items tie with probability {_tied(nu):.3f}")


def _tied(log_nu: float) -> float:
    return float(1 / (1 + 2 * np.exp(-log_nu)))


def unlinked(graph: Comparisons) -> list[Indices]:
    """The parts of a graph that no comparison links, the largest first; one where all are linked."""
    wins = graph.wins()
    count, label = connected_components(wins, directed=False)
    return sorted((np.flatnonzero(label == k) for k in range(count)), key=lambda part: -len(part))


def print_unlinked(graph: Comparisons) -> None:
    """Which items only the prior compares."""
    parts, labels = unlinked(graph), graph.labels or ()
    if len(parts) > 1:
        listed = " | ".join(", ".join(shortened(labels[i], 20) for i in part[:6]) for part in parts[:6])
        more = "" if len(parts) <= 6 and all(len(part) <= 6 for part in parts) else " ..."
        print(
            paragraph(
                f"{len(parts)} parts that no comparison links: {listed}{more}. What stands between them, "
                "order, odds and intervals, is the prior's choice alone; within a part the comparisons speak"
            )
        )


def print_prediction(graph: Comparisons, fitted: Fit, a: int, b: int) -> None:
    """Prob(a preferred to b) with its interval; under Davidson's model given that there is a winner."""
    labels, (prob, low, high) = graph.labels or (), fitted.predict(a, b)
    names = f"{shortened(labels[a], 29)} over {shortened(labels[b], 29)}"
    interval = "no interval" if np.isnan(low) else f"95 % interval [{low:.4f}, {high:.4f}]"
    given = ", given no tie" if fitted.log_nu is not None else ""
    linked = any(a in part and b in part for part in unlinked(graph))
    alone = "" if linked else "; by the prior alone: no comparison links them"
    print(paragraph(f"{names}: probability {prob:.4f}{given}, {interval}{alone}"))


def certificate(fitted: Fit) -> str:
    """How exactly the fit was computed, which says nothing of how sure the data make it."""
    step = f"{fitted.newton_step:.0e} nats"
    return f"certificate: omega is right to {step}, the last Newton step plus a bound of rounding\n"


def verdict_lines(verdict: GoodnessOfFit, labels: Sequence[str]) -> list[str]:
    """The test and the cyclic share, in lines of at most 100 columns."""
    ties = f"; {verdict.ties:g} ties left out" if verdict.ties else ""
    counted = f"{verdict.comparisons} decisive comparisons of {verdict.pairs} pairs{ties}"
    if np.isnan(verdict.p_value):
        reason = paragraph(f"one annotator: cannot be tested by G2, {untestable(verdict)} ({counted})")
        return [reason, *(paragraph(text, "  ") for text in triads_text(verdict))]
    by = "chi-squared"
    if verdict.replicates:
        by = f"bootstrap of {verdict.replicates}; {verdict.expected:.1f} expected"
    lines = [
        f"one annotator: G2 = {verdict.statistic:.1f} on {verdict.df} df, p = {p_text(verdict)} ({by})",
        paragraph(f"{counted}; {verdict.small_cells:.0%} of pairs expect a count below 5", "  "),
        *(paragraph(text, "  ") for text in carried_text(verdict)),
    ]
    if not verdict.finite:
        lines.append(
            "  the decisive comparisons alone have no finite fit: G2 is at the supremum of the likelihood"
        )
    beside = (
        "" if np.isnan(verdict.cyclic_share_median) else f", {verdict.cyclic_share_median:.3f} expected (median)"
    )
    lines.append(f"cyclic share of 2 p - 1: {verdict.cyclic_share:.3f}{beside}")
    if verdict.triangles:
        lines.append("the least consistent of all triangles:")
    return lines + [paragraph(triangle_text(verdict, k, labels), "  ") for k in range(len(verdict.triangles))]


def p_text(verdict: GoodnessOfFit) -> str:
    """p, with the Monte Carlo error of a bootstrap's, and that the seed decides where it does."""
    if not verdict.replicates:
        return f"{verdict.p_value:.3g}"
    seed = "" if verdict.settled else ", not settled at 5 %: another seed may say otherwise"
    return f"{verdict.p_value:.3g} +- {verdict.error:.1g}{seed}"


def carried_text(verdict: GoodnessOfFit) -> list[str]:
    """How much of the data the test rests on, where that is little."""
    if verdict.repeated >= FEW * verdict.pairs:
        return []
    return [
        f"the test rests on {verdict.repeated} of {verdict.pairs} pairs, those compared more than once that have "
        f"a finite fit: {verdict.carried} df"
    ]


def triads_text(verdict: GoodnessOfFit) -> list[str]:
    """The test of the cyclic triads, where that stands in for G2."""
    triads = verdict.triads
    if triads is None:
        return []
    counted = f"{triads.cyclic} of {triads.triads} triads are cyclic"
    if np.isnan(triads.p_value):
        return [f"{counted}: too few to test, for no number of them would be rare"]
    null = "by coins, and no more by one annotator" if triads.coins else "where one annotator gives these wins"
    return [
        f"{counted}, {triads.expected:.1f} are expected {null}: p = {triads.p_value:.3g} +- {triads.error:.1g}, "
        "simulated"
    ]


def untestable(verdict: GoodnessOfFit) -> str:
    """Why there are no degrees of freedom."""
    if verdict.df:
        return (
            "no cycle has a pair that was compared twice: G2 is then what it is expected to be, whatever the data"
        )
    if verdict.cycles:
        return "what is decisive agrees with one order of the items, and any such order fits perfectly"
    return "the comparisons form no cycle"


def triangle_text(verdict: GoodnessOfFit, k: int, labels: Sequence[str]) -> str:
    """a > b > c > a: won 4/5, 3/3, 2/2 (z 3.1)."""
    triangle = verdict.triangles[k]
    a, b, c = (shortened(labels[i], 14) for i in triangle.items)
    rates = [f"{won:g}/{total:g}" for won, total in zip(triangle.won, triangle.total, strict=True)]
    return f"{a} > {b} > {c} > {a}: won {', '.join(rates)} (z {triangle.z:.1f})"


def known(value: Any) -> Any:
    """The value, or None for NaN and infinities, which JSON has no word for."""
    return None if isinstance(value, float) and not np.isfinite(value) else value


def recorded(values: Any) -> Any:
    """The same values for JSON, however deep: numbers that are not finite become None."""
    if isinstance(values, dict):
        return {key: recorded(value) for key, value in values.items()}
    return [recorded(value) for value in values] if isinstance(values, list | tuple) else known(values)


def json_line(values: Any, indent: int | None = None) -> str:
    """The values as strict JSON: what every program prints for --json."""
    return json.dumps(recorded(values), allow_nan=False, indent=indent)


def verdict_record(verdict: GoodnessOfFit, labels: Sequence[str]) -> dict[str, Any]:
    """The verdict for JSON: NaN becomes None, items become labels."""
    record: dict[str, Any] = recorded(asdict(verdict))
    for triangle in record["triangles"]:
        triangle["items"] = [labels[i] for i in triangle["items"]]
    return record


def check_output(path: str, sources: Iterable[str]) -> None:
    """ValueError where the output would replace an input, OSError where it cannot be written: before the fits."""
    if Path(path).exists() and any(Path(path).samefile(source) for source in sources):
        raise ValueError(f"--csv must be another file than those that are read, got {path}")
    with open(path, "a", encoding="utf-8"):
        pass


def write_rows(path: str, rows: list[list[Any]]) -> None:
    """The items of all graphs as CSV; with a column part where densities are those within a part of a graph."""
    width = max(map(len, rows), default=0)
    header = ["group", *FIELDS, "part"][: max(width, len(FIELDS) + 1)]
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows([*row, *[""] * (len(header) - len(row))] for row in rows)
