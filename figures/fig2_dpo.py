"""Figure 2: DPO with an annotator who judges by DPO's own rule recovers p*."""

from __future__ import annotations

from functools import partial

import numpy as np
from matplotlib.figure import Figure

from accel.objectives import dpo
from figures.curves import draw_row
from figures.density_experiment import Case, Problem, train_cases
from figures.numbers import Numbers, Settings
from reference import PBDE, Annotator

BETA = 4.0


def compute(settings: Settings) -> Numbers:
    """Trains with the labels of Eq. 16 at beta = 4; the log density and the target p*, (n,)."""
    problem = Problem(settings)
    toy, pre = problem.toy, problem.log_p_pre
    target = np.asarray(toy.annotator.log_p)
    judge = Annotator(target, PBDE.dpo(BETA, pre), toy.measure)
    objective = partial(dpo, beta=BETA, log_p_pre=pre)
    return train_cases("dpo", problem, [Case("2", "beta = 4", "Eq. 16", "dpo", objective, judge, target)])


def draw(numbers: Numbers) -> Figure:
    """One panel."""
    return draw_row(numbers, {"dpo": r"Figure 2:  DPO, annotator of the same rule, $\beta = 4$"})
