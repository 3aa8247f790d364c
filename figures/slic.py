"""SLiC-HF for five deltas and two lambdas (appendix A.2): plateaus, not a density of preferences."""

from __future__ import annotations

from functools import partial

import numpy as np
from matplotlib.figure import Figure

from accel.objectives import slic_hf
from figures.curves import draw_row
from figures.numbers import Numbers, Settings
from figures.training import Case, Problem, proposal_of, train_cases
from reference import methods, win_matrix
from reference.hinge import Minimum
from reference.pbde import normalize
from reference.toy import Toy

DELTAS = (0.0, 0.25, 0.5, 1.0, 2.0)
LAMBDAS = (0.0, 1.0)
POINTS = 201  # of the grid on which the exact minimiser is found: its problem holds all pairs
DRAWS = 8192  # of the regulariser at every step in the notebook; elsewhere its expectation is exact


def exact(problem: Problem, delta: float, lam: float) -> Minimum:
    """The minimiser of SLiC-HF's population loss on a coarse grid."""
    coarse = Toy(POINTS)
    wins = win_matrix(coarse.annotator.preference_prob(), proposal_of(coarse, problem.proposal))
    return methods.slic_hf(wins, coarse.log_p_pre, delta, lam, coarse.measure)


def compute(settings: Settings) -> Numbers:
    """Trains at each delta and lambda; the log densities, and where it is unique the exact minimiser, (n,)."""
    problem = Problem(settings)
    toy, draws = problem.toy, DRAWS if problem.preset.name == "notebook" else 0
    cases = []
    for lam in LAMBDAS:
        for delta in DELTAS:
            objective = partial(
                slic_hf,
                delta=delta,
                weight=lam,
                log_p_pre=problem.log_p_pre,
                measure=toy.measure,
                draws=draws,
                seed=settings.seed,
            )
            minimum = exact(problem, delta, lam)
            target = (
                normalize(np.interp(toy.x, Toy(POINTS).x, minimum.log_p), toy.measure) if minimum.unique else None
            )
            panel, array = f"delta = {delta:g}, lambda = {lam:g}", f"slic_{delta:g}_{lam:g}"
            values = {"exact loss": minimum.loss, "gap": minimum.gap}
            cases.append(Case("9", panel, "SLiC-HF", array, objective, toy.annotator, target, values=values))
    return train_cases("slic", problem, cases)


def draw(numbers: Numbers) -> Figure:
    """A row a lambda, a panel a delta."""
    titles = {
        f"slic_{delta:g}_{lam:g}": rf"$\delta = {delta:g},\ \lambda = {lam:g}$"
        for lam in LAMBDAS
        for delta in DELTAS
    }
    return draw_row(numbers, titles, columns=len(DELTAS))
