"""What `fit` prints of a graph without a finite optimum: its groups, who always won, densities within; or why."""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from typing import Any

import numpy as np

from reference.annotators import Indices
from reference.command_line.report import (
    SHOWN,
    item_records,
    json_line,
    number,
    paragraph,
    print_heading,
    shortened,
)
from reference.comparisons import Comparisons
from reference.errors import NoFiniteFitError, NotConvergedError
from reference.inference.fit import FitOptions, among, fit_with, partial_order, restricted
from reference.pbde import PBDE

FEW_PARTS = 5  # groups that are printed one by one; of more, the largest


def report_undetermined(
    group: str, graph: Comparisons, model: PBDE, options: FitOptions, as_json: bool
) -> list[list[Any]]:
    """What a graph determines that has no finite optimum: its groups, who always won, densities within.

    Returns the rows of --csv: an item each, with the number of its group.
    """
    parts, beaten = partial_order(graph)
    labels = graph.labels or ()
    names = [[labels[i] for i in part] for part in parts]
    fits = [_within(graph, part, model, options) for part in parts]
    rows = [[group, *record.values(), k] for k, (records, _) in enumerate(fits, 1) for record in records]
    if as_json:
        entry = {"group": group, "error": "the wins do not determine the optimum", "components": names}
        entry |= {"always_won": beaten, "within": [records for records, _ in fits]}
        print(json_line(entry | {"not_fitted": [fault for _, fault in fits]}))
        return rows
    print_heading(group, graph)
    print(f"no finite optimum: {len(parts)} groups are not linked by wins in both directions. What is determined:")
    largest = max(map(len, parts))
    few = len(parts) <= FEW_PARTS
    shown = [k for k, part in enumerate(parts) if few or len(part) == largest][:FEW_PARTS]
    for k, items, (records, fault) in [(k + 1, names[k], fits[k]) for k in shown]:
        won = [str(m + 1) for j, m in beaten if j == k - 1]
        against = f"; won every comparison with group{'s' * (len(won) > 1)} {', '.join(won[:12])}" if won else ""
        listed = ", ".join(shortened(item, 30) for item in items[:8])
        print(
            paragraph(
                f"group {k}: {listed}{f', ... ({len(items)} items)' if len(items) > 8 else ''}{against}", "  "
            )
        )
        for record in sorted(records, key=lambda record: -record["log_p"])[: 8 if few else SHOWN]:
            error = "-" if record["se_log_p"] is None else number(record["se_log_p"], 3, 9).strip()
            within_text = f"density within {np.exp(record['log_p']):.4f}, log p {record['log_p']:.3f}"
            print(f"    {shortened(record['item'], 29):<30}{within_text} (s.e. {error})")
        if fault:
            print(paragraph(f"not fitted: {fault}", "    "))
    if len(shown) < len(parts):
        rest = [len(part) for k, part in enumerate(parts) if k not in shown]
        single = f"{rest.count(1)} of a single item"
        print(f"  and {len(rest)} smaller groups, {single}: --csv has their densities, --json the full account")
    print("add comparisons that link the groups in both directions, or take a prior: --prior 0.5\n")
    return rows


def _within(
    graph: Comparisons, part: Indices, model: PBDE, options: FitOptions
) -> tuple[list[dict[str, Any]], str | None]:
    """The records of a part's items, fitted by themselves, none for a single item; and why there are none."""
    if len(part) == 1:
        return [], None
    inside = among(graph, part)
    try:
        fitted = fit_with(inside, restricted(model, part, graph.n), replace(options, ties="half"))
    except (ValueError, NotConvergedError) as error:
        return [], str(error)
    return item_records(fitted, inside.labels or ()), None


def report_failure(
    args: argparse.Namespace, group: str, groups: int, error: ValueError | NotConvergedError
) -> None:
    """A graph without a finite fit, or one of several that cannot be fitted, is a line of the output, and one of
    stderr where its rows are missing from --csv; any other fault of the only graph is an error, raised."""
    if groups == 1 and not isinstance(error, NoFiniteFitError):
        raise type(error)(f"{args.file}: {error}") from None
    start = f"{shortened(group, 30)}: " if group else ""
    line = paragraph(f"{start}not fitted: {error}") + "\n"
    print(json_line({"group": group, "error": str(error)}) if args.json else line)
    if getattr(args, "csv", None) is not None:
        rows = f"no rows of {shortened(group, 30)}" if group else "no rows"
        print(f"# {args.csv}: {rows}: {error}", file=sys.stderr)
