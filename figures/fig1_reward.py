"""Figure 1: a reward model, normalised, is the annotator's implicit preference distribution."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from accel.objectives import reward
from figures.curves import draw_row
from figures.density_experiment import Case, Problem, train_cases
from figures.numbers import Numbers, Settings


def cases(problem: Problem) -> list[Case]:
    """The one panel: r from random parameters, with the choices of one Luce annotator (Eq. 9, 10)."""
    target = np.asarray(problem.toy.annotator.log_p)
    return [Case("1", "reward", "Th. 1", "reward", reward, problem.toy.annotator, target, pretrained=False)]


def compute(settings: Settings) -> Numbers:
    """Trains the reward; its log density and the target, (n,)."""
    problem = Problem(settings)
    return train_cases("reward", problem, cases(problem))


def draw(numbers: Numbers) -> Figure:
    """One panel."""
    return draw_row(numbers, {"reward": r"Figure 1:  reward, $e^{\,r} / Z$"}, shown=("annotator",))
