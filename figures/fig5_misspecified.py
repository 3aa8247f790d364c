"""Figure 5: one Luce model of two annotators who disagree is neither of them."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from accel.objectives import reward
from figures import style
from figures.curves import caption, trained_name
from figures.density_experiment import Case, Problem, exactly, train_cases
from figures.numbers import Array, Numbers, Settings, peaks
from reference import PBDE, optimum, win_matrix
from reference.univariate import Toy


def misspecified(toy: Toy, proposal: Array) -> Array:
    """(n,): the exact minimiser of Eq. 8 for a Luce model of the population of Eq. 21."""
    return optimum(win_matrix(toy.population.preference_prob(), proposal), PBDE.luce(), toy.measure).log_p


def case(problem: Problem) -> Case:
    """Trained from the pretrained network, each comparison judged by one of the two annotators."""
    target = exactly(problem, misspecified)
    return Case("5", "misspecified fit", "Eq. 21", "misspecified", reward, problem.toy.population, target)


def compute(settings: Settings) -> Numbers:
    """The trained log density, the exact misspecified optimum under the same proposal, both annotators, (n,)."""
    problem = Problem(settings)
    numbers = train_cases("annotators", problem, [case(problem)])
    first, second = problem.toy.population.annotators
    arrays = numbers.arrays | {"annotator_1": np.asarray(first.log_p), "annotator_2": np.asarray(second.log_p)}
    return Numbers(numbers.name, numbers.settings, numbers.panels, arrays)


def draw(numbers: Numbers) -> Figure:
    """One panel: both annotators, the trained density, the exact optimum."""
    figure = style.new_figure(4.5, 3.45)
    axes, arrays, (panel,) = figure.subplots(), numbers.arrays, numbers.panels
    x = arrays["x"]
    behind = {"annotator": "annotator_1", "second annotator": "annotator_2", "pretrained": "pretrained"}
    for role, array in behind.items():
        style.curve(axes, x, arrays[array], role)
    style.curve(axes, x, arrays["misspecified"], "trained")
    style.curve(axes, x, arrays["misspecified_target"], "target")
    for role, array in (("annotator", "annotator_1"), ("second annotator", "annotator_2")):
        style.mark_peaks(axes, peaks(x, arrays[array]), role)
    style.mark_peaks(axes, peaks(x, arrays["misspecified_target"]), "target")
    axes.set_title("Figure 5:  one model of two annotators", loc="left")
    style.density_axes(axes, labelled=True)
    names = {"annotator": r"annotator 1, $p_1^{*}$", "second annotator": r"annotator 2, $p_2^{*}$"}
    names |= {"pretrained": r"pretrained, $\pi_{\mathrm{pre}}$", "trained": trained_name(panel)}
    style.legend(axes, names | {"target": "exact optimum"})
    figure.suptitle(caption(numbers, narrow=True), fontsize=8, x=0.01, ha="left")
    return figure
