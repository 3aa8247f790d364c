"""SLiC-HF for five deltas and two lambdas (appendix A.2): plateaus, not a density of preferences."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import numpy as np
from matplotlib.figure import Figure

from accel.objectives import slic_hf
from figures.curves import draw_row
from figures.density_experiment import Case, Problem, proposal_of, train_cases
from figures.numbers import Array, Numbers, Settings
from reference import methods, win_matrix
from reference.pbde import normalize
from reference.solvers.hinge import Minimum
from reference.univariate import Toy

DELTAS = (0.0, 0.25, 0.5, 1.0, 2.0)
LAMBDAS = (0.0, 1.0)
SMOOTH_POINTS = 201  # of the grid on which the minimiser with the regulariser is found: it is smooth
STEP_POINTS = 1025  # and without: its steps stand where they stand
DRAWS = 8192  # of the regulariser at every step in the notebook; elsewhere its expectation is exact


def exact(problem: Problem, delta: float, lam: float, points: int) -> tuple[Minimum, Array]:
    """The minimiser of SLiC-HF's population loss on at most `points` points, and its log density (n,)."""
    toy = problem.toy if problem.toy.n <= points else Toy(points)
    wins = win_matrix(toy.annotator.preference_prob(), proposal_of(toy, problem.proposal))
    found = methods.slic_hf(wins, toy.log_p_pre, delta, lam, toy.measure)
    return found, normalize(np.interp(problem.toy.x, toy.x, found.log_p), problem.toy.measure)


def targets(problem: Problem) -> Iterator[tuple[float, float, Minimum, Array]]:
    """delta, lambda, the minimum and its log density (n,).

    Without the regulariser log p is delta times the same whole numbers for every delta, up to a constant: they are
    found once, on the training's own grid, for the places of the steps matter.
    """
    steps, log_p = exact(problem, 1.0, 0.0, STEP_POINTS)
    for delta in DELTAS:
        scaled = replace(steps, loss=delta * steps.loss, gap=delta * steps.gap)
        yield delta, 0.0, scaled, normalize(delta * log_p, problem.toy.measure)
    for delta in DELTAS:
        yield delta, 1.0, *exact(problem, delta, 1.0, SMOOTH_POINTS)


def compute(settings: Settings) -> Numbers:
    """Trains at each delta and lambda; the log densities, and where it is unique the exact minimiser, (n,)."""
    problem = Problem(settings)
    toy, draws = problem.toy, DRAWS if problem.preset.name == "notebook" else 0
    cases = []
    for delta, lam, minimum, log_p in targets(problem):
        objective = partial(
            slic_hf,
            delta=delta,
            weight=lam,
            log_p_pre=problem.log_p_pre,
            measure=toy.measure,
            draws=draws,
            seed=settings.seed,
        )
        panel, array = f"delta = {delta:g}, lambda = {lam:g}", f"slic_{delta:g}_{lam:g}"
        target, values = log_p if minimum.unique else None, {"exact loss": minimum.loss, "gap": minimum.gap}
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
