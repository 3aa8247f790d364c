"""Figure 8: the PBDE of Eq. 19 with a Luce annotator is a geometric mean, for three alphas."""

from __future__ import annotations

from fractions import Fraction
from functools import partial

import numpy as np
from matplotlib.figure import Figure

from accel.objectives import geometric
from figures.curves import draw_row
from figures.density_experiment import Case, Problem, train_cases
from figures.numbers import Numbers, Settings
from reference import targets

ALPHAS = (Fraction(1), Fraction(1, 4), Fraction(1, 16))


def compute(settings: Settings) -> Numbers:
    """Trains at each alpha; the log densities and the targets of Eq. 19 with the exact N_truncated(0, 5), (n,)."""
    problem = Problem(settings)
    toy, log_p = problem.toy, np.asarray(problem.toy.annotator.log_p)
    cases = []
    for alpha in ALPHAS:
        target = targets.geometric_mean(log_p, toy.log_p_pre, float(alpha), toy.measure)
        objective = partial(geometric, alpha=float(alpha), log_p_pre=problem.log_p_pre)
        array = f"geometric_1_{alpha.denominator}"
        cases.append(Case("8", f"alpha = {alpha}", "Eq. 19", array, objective, toy.annotator, target))
    return train_cases("geometric", problem, cases)


def draw(numbers: Numbers) -> Figure:
    """A panel an alpha."""
    titles = {f"geometric_1_{a.denominator}": rf"Figure 8:  geometric, $\alpha = {a}$" for a in ALPHAS}
    return draw_row(numbers, titles)
