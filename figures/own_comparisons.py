"""One's own comparisons: the fitted density with intervals, and observed against predicted win rates."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import findfont, get_font
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter
from scipy import sparse
from scipy.special import expit
from scipy.stats import binom

from figures import style
from figures.numbers import Array, Numbers, Panel
from reference.command_line.options import fit_options, model_of, tested
from reference.command_line.report import heading, shortened
from reference.comparisons import Comparisons
from reference.inference.fit import Fit, fit_with
from reference.inference.goodness_of_fit import GoodnessOfFit

GLYPHS = frozenset(get_font(findfont("DejaVu Sans")).get_charmap())  # the font of all figures
BINS = 20  # of pairs with neighbouring predicted win rates
FURTHEST = 1e-6  # of the smallest density: where the intervals end that reach further down
LEAST = 1e-300  # density that the axis can show
NAMES = 50  # item names that fit on the axis; of more items every second, third, ... is named


def compute(args: argparse.Namespace, group: str, graph: Comparisons) -> Numbers:
    """The fit of one graph, what it predicts for every compared pair, and the test; arrays (n,) and (bins,).

    Raises as `reference.inference.fit.fit` does.
    """
    options = fit_options(args)
    fitted = fit_with(graph, model_of(args, graph), options)
    verdict, _ = tested(args, graph)
    low, high = fitted.interval()
    arrays: dict[str, Any] = {"labels": np.array(graph.labels), "log_p": fitted.log_p, "low": low, "high": high}
    rates = win_rates(graph, fitted)
    arrays |= rates
    settings: dict[str, str | int | float] = {"file": Path(args.file).name, "pbde": args.pbde, "ties": args.ties}
    settings["heading"] = heading(group, graph, options)
    inside = (rates["observed"] >= rates["band_low"]) & (rates["observed"] <= rates["band_high"])
    panels = [
        Panel("fit", "items", "Eq. 8", "log_p", values={"highest density": float(np.exp(fitted.log_p.max()))}),
        Panel(
            "fit",
            "win rates",
            "Eq. 8",
            "observed",
            values=_values(verdict) | {"bins in band": float(inside.mean())},
        ),
    ]
    return Numbers("fit", settings, panels, arrays)


def _values(verdict: GoodnessOfFit | None) -> dict[str, float]:
    if verdict is None or not verdict.df:
        return {}
    names = {"G2": verdict.statistic, "df": verdict.df, "p": verdict.p_value, "cyclic share": verdict.cyclic_share}
    return {name: float(value) for name, value in names.items()}


def win_rates(graph: Comparisons, fitted: Fit) -> dict[str, Array]:
    """How often the favourite won, pooled over pairs with neighbouring predictions: arrays (bins,).

    predicted, observed: win rates of the side that the fit prefers, ties half. band_low, band_high: where 95 % of
    the observed rates would lie for binomial counts of that mean. pooled: comparisons of each bin.
    """
    wins = graph.wins()
    pairs = sparse.triu(wins + wins.T, 1).tocoo()
    margin = fitted.omega[pairs.row] - fitted.omega[pairs.col]
    won = np.asarray(wins[pairs.row, pairs.col]).ravel()
    won, total = np.where(margin >= 0, won, pairs.data - won), pairs.data
    order = np.argsort(np.abs(margin), kind="stable")
    prob, won, total = expit(np.abs(margin))[order], won[order], total[order]
    # bins of about the same number of comparisons, each of whole pairs
    at = np.minimum((np.cumsum(total) - total / 2) / total.sum() * BINS, BINS - 1).astype(int)
    pooled = np.bincount(at, total, BINS)
    kept = pooled > 0
    predicted = np.bincount(at, prob * total, BINS)[kept] / pooled[kept]
    observed = np.bincount(at, won, BINS)[kept] / pooled[kept]
    count = np.maximum(np.round(pooled[kept]), 1.0)
    low, high = (binom.ppf(level, count, predicted) / count for level in (0.025, 0.975))
    bands = {"band_low": np.asarray(low), "band_high": np.asarray(high)}
    return {"predicted": predicted, "observed": observed, "pooled": pooled[kept], **bands}


def draw(numbers: Numbers) -> Figure:
    """Items, the most preferred on top, beside the win rates."""
    n = len(numbers.arrays["log_p"])
    figure = style.new_figure(9.5, float(np.clip(1.4 + 0.16 * min(n, NAMES + 10), 4.0, 8.5)))
    left, right = figure.subplots(1, 2, width_ratios=(1.15, 1))
    _draw_items(left, numbers)
    _draw_rates(right, numbers)
    figure.suptitle(_plain(str(numbers.settings["heading"]), 110), fontsize=9.5, x=0.01, ha="left")
    return figure


def _draw_items(axes: Axes, numbers: Numbers) -> None:
    arrays = numbers.arrays
    order = np.argsort(arrays["log_p"], kind="stable")
    rank = np.arange(len(order))
    density = np.exp(arrays["log_p"])[order]
    colour = style.CURVES["trained"]["color"]
    dense = len(order) > NAMES
    # an interval that reaches below what the axis can show, as to 0, ends there
    low, high = np.maximum(arrays["low"], max(density.min() * FURTHEST, LEAST)), arrays["high"]
    axes.hlines(rank, low[order], high[order], color=colour, linewidth=0.8 if dense else 1.4)
    axes.plot(density, rank, "o", color=colour, markersize=2.2 if dense else 4)
    axes.axvline(1 / len(order), **style.CURVES["pretrained"])
    axes.text(
        1 / len(order), len(order) - 0.35, " uniform", fontsize=7.5, color=style.CURVES["pretrained"]["color"]
    )
    axes.set_xscale("log")
    decades = np.log10(high.max()) - np.log10(low.min())
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if decades < 2.3 else (1.0,), numticks=12))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    named = rank[::-1][:: -(-len(order) // NAMES)]
    axes.set_yticks(named, [_plain(str(arrays["labels"][order[k]])) for k in named], fontsize=6.5 if dense else 8)
    axes.set_ylim(-0.7, len(order) + 0.2)
    intervals = "" if np.isnan(arrays["low"]).all() else ", 95 % intervals"
    axes.set_xlabel(f"implicit preference distribution{intervals}")


def _plain(label: str, width: int = 28) -> str:
    """A label as matplotlib shows it: dollar signs and all, with marks for what the font lacks."""
    shown = "".join(c if ord(c) in GLYPHS else "\N{WHITE SQUARE}" for c in shortened(label, width))
    return shown.replace("$", r"\$")


def _draw_rates(axes: Axes, numbers: Numbers) -> None:
    arrays, values = numbers.arrays, numbers.panels[1].values
    predicted = arrays["predicted"]
    axes.plot([0.5, 1], [0.5, 1], **style.CURVES["target"])
    axes.vlines(predicted, arrays["band_low"], arrays["band_high"], color="#c9c9c9", linewidth=5, zorder=0.5)
    inside = (arrays["observed"] >= arrays["band_low"]) & (arrays["observed"] <= arrays["band_high"])
    for which, colour in (
        (inside, style.CURVES["annotator"]["color"]),
        (~inside, style.CURVES["target"]["color"]),
    ):
        axes.plot(predicted[which], arrays["observed"][which], "o", color=colour, markersize=4.5)
    axes.set_xlim(0.49, 1.01)
    axes.set_ylim(min(0.45, float(arrays["observed"].min()), float(arrays["band_low"].min())) - 0.02, 1.02)
    axes.set_xlabel("predicted win rate of the favourite")
    axes.set_ylabel("observed win rate")
    axes.text(0.98, 0.02, "grey: 95 % of binomial counts", transform=axes.transAxes, ha="right", fontsize=7.5)
    if "p" in values:
        title = f"one annotator: $G^2$ = {values['G2']:.1f} on {values['df']:g} df, p = {values['p']:.3g}"
        axes.set_title(title, loc="left")
