"""Figure 7: the same reward on a log axis, as it was trained and normalised: what its tails are worth."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from matplotlib.figure import Figure

from figures import style
from figures.curves import caption, trained_name
from figures.density_experiment import Problem
from figures.fig1_reward import cases
from figures.numbers import Numbers, Settings

LOW = -36  # of the log axis, in decades; its top is above the highest curve
PLACES = (-10.0, -1.4, 10.0)  # both ends, and the dip between the modes


def compute(settings: Settings) -> Numbers:
    """Figure 1's run (taken over where it is there): r as trained, its log density and the target, (n,)."""
    problem = Problem(settings)
    toy, (case,) = problem.toy, cases(problem)
    result, target = problem.fit(case), np.asarray(toy.annotator.log_p)
    learned, r = result.log_p(toy.measure), np.asarray(result.values, dtype=np.float64)
    panel = problem.panel(replace(case, figure="7", panel="reward, log"), learned, result)
    values = {"log10 Z": float((r - learned)[0] / np.log(10))}
    for name, curve in (("p", learned), ("target", target)):
        values |= {f"log10 {name} at {x:g}": float(np.interp(x, toy.x, curve) / np.log(10)) for x in PLACES}
    values["mass where p* < 1e-4"] = float(toy.measure @ np.where(target < np.log(1e-4), np.exp(learned), 0.0))
    arrays = {"x": toy.x, "measure": toy.measure, "annotator": target, "reward_target": target}
    arrays |= {"reward": learned, "r": r}
    return Numbers("reward-log", problem.describe(), [replace(panel, values=panel.values | values)], arrays)


def draw(numbers: Numbers) -> Figure:
    """One panel: e^r, the density that it is when normalised, and the annotator's."""
    figure = style.new_figure(4.5, 3.45)
    axes = figure.subplots()
    arrays, (panel,) = numbers.arrays, numbers.panels
    style.curve(axes, arrays["x"], arrays["r"], "unnormalised")
    style.curve(axes, arrays["x"], arrays["annotator"], "annotator")
    style.curve(axes, arrays["x"], arrays["reward"], "trained")
    axes.set_title("Figure 7:  reward on a log axis", loc="left")
    style.density_axes(axes, labelled=True)
    axes.set_yscale("log")
    top = max(0.0, float(arrays["r"].max()) / np.log(10)) + 3
    axes.set_ylim(10.0**LOW, 10.0**top)
    axes.set_yticks([10.0**decade for decade in range(-32, int(top) + 1, 8)])
    names = {"annotator": r"annotator, $p^{*}$", "unnormalised": r"trained, $e^{\,r}$"}
    style.legend(
        axes,
        names | {"trained": r"$e^{\,r} / Z$, " + trained_name(panel).removeprefix("trained, ")},
        "lower center",
    )
    figure.suptitle(caption(numbers, narrow=True), fontsize=8, x=0.01, ha="left")
    return figure
