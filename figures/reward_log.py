"""Figure 7: the same reward, not normalised and on a log axis: far too heavy in the tails."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from figures import style
from figures.curves import caption, trained_name
from figures.numbers import Numbers, Settings
from figures.reward import cases
from figures.training import Problem, train_cases

LOW, HIGH = 1e-36, 1e12  # of the log axis


def compute(settings: Settings) -> Numbers:
    """Figure 1's run (taken over where it is there) with e^r as it was trained, up to the sign of its constant."""
    problem = Problem(settings)
    (case,) = cases(problem)
    numbers = train_cases("reward-log", problem, [case])
    x, measure = problem.toy.x, problem.toy.measure
    learned, target = numbers.arrays["reward"], numbers.arrays["reward_target"]
    values = {
        f"log10 p at {place:g}": float(np.interp(place, x, learned) / np.log(10)) for place in (-10, -1.4, 10)
    }
    values |= {
        f"target at {place:g}": float(np.interp(place, x, target) / np.log(10)) for place in (-10, -1.4, 10)
    }
    values["mass where p* < 1e-4"] = float(measure @ np.where(target < np.log(1e-4), np.exp(learned), 0.0))
    (panel,) = numbers.panels
    panel = type(panel)(
        **{**panel.__dict__, "figure": "7", "panel": "reward, log", "values": panel.values | values}
    )
    return Numbers("reward-log", numbers.settings, [panel], numbers.arrays)


def draw(numbers: Numbers) -> Figure:
    """One panel, 48 decades."""
    figure = style.new_figure(4.5, 3.45)
    axes = figure.subplots()
    arrays, (panel,) = numbers.arrays, numbers.panels
    style.curve(axes, arrays["x"], arrays["annotator"], "annotator")
    style.curve(axes, arrays["x"], arrays["reward"], "trained")
    axes.set_title(r"Figure 7:  reward on a log axis, $e^{\,r} / Z$", loc="left")
    style.density_axes(axes, labelled=True)
    axes.set_yscale("log")
    axes.set_ylim(LOW, HIGH)
    axes.set_yticks([1e-32, 1e-24, 1e-16, 1e-8, 1, 1e8])
    style.legend(axes, {"annotator": r"annotator, $p^{*}$", "trained": trained_name(panel)})
    figure.suptitle(caption(numbers, narrow=True), fontsize=8, x=0.01, ha="left")
    return figure
