"""Figure 3: DPO with a Luce annotator is a product of experts, for three betas."""

from __future__ import annotations

from functools import partial

import numpy as np
from matplotlib.figure import Figure

from accel.objectives import dpo
from figures.curves import draw_row
from figures.density_experiment import Case, Problem, train_cases
from figures.numbers import Numbers, Settings
from reference import targets

BETAS = (1.0, 4.0, 16.0)


def compute(settings: Settings) -> Numbers:
    """Trains at each beta; the log densities and the targets of Eq. 17 with the exact N_truncated(0, 5), (n,)."""
    problem = Problem(settings)
    toy, log_p = problem.toy, np.asarray(problem.toy.annotator.log_p)
    cases = []
    for beta in BETAS:
        target = targets.product_of_experts(log_p, toy.log_p_pre, beta, toy.measure)
        objective = partial(dpo, beta=beta, log_p_pre=problem.log_p_pre)
        cases.append(Case("3", f"beta = {beta:g}", "Eq. 17", f"dpo_{beta:g}", objective, toy.annotator, target))
    return train_cases("dpo-kl", problem, cases)


def draw(numbers: Numbers) -> Figure:
    """A panel a beta."""
    return draw_row(numbers, {f"dpo_{beta:g}": rf"Figure 3:  DPO, $\beta = {beta:g}$" for beta in BETAS})
