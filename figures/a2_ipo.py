"""IPO for three taus (appendix A.2): the pretrained density, tilted by the Borda score."""

from __future__ import annotations

from functools import partial

from matplotlib.figure import Figure

from accel.objectives import ipo
from figures.curves import draw_row
from figures.density_experiment import Case, Problem, exactly, train_cases
from figures.numbers import Array, Numbers, Settings
from reference import targets
from reference.univariate import Toy

TAUS = (0.1, 0.5, 1.0)


def borda_tilt(toy: Toy, proposal: Array, tau: float) -> Array:
    """(n,): IPO's exact optimum under independent draws by the proposal."""
    return targets.ipo(toy.annotator.preference_prob(), proposal, toy.log_p_pre, tau, toy.measure)


def compute(settings: Settings) -> Numbers:
    """Trains at each tau; the log densities and the exact optima under the same proposal, (n,)."""
    problem = Problem(settings)
    cases = []
    for tau in TAUS:
        objective = partial(ipo, tau=tau, log_p_pre=problem.log_p_pre)
        target = exactly(problem, partial(borda_tilt, tau=tau))
        cases.append(Case("10", f"tau = {tau:g}", "IPO", f"ipo_{tau:g}", objective, problem.toy.annotator, target))
    return train_cases("ipo", problem, cases)


def draw(numbers: Numbers) -> Figure:
    """A panel a tau."""
    return draw_row(numbers, {f"ipo_{tau:g}": rf"IPO, $\tau = {tau:g}$" for tau in TAUS})
