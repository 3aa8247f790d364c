"""From observed comparisons to a density with error bars, a graph at a time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from reference.annotators import Indices
from reference.comparisons import Comparisons
from reference.inference import COVARIANCE_LIMIT, covariance, omega_covariance
from reference.optimum import Optimum, check_wins, optimum, strong_components
from reference.pbde import PBDE, Array

NORMAL_95 = 1.959963984540054  # the .975 quantile of the standard normal


@dataclass(frozen=True, eq=False)
class Fit:
    """A fitted graph of n items: the optimum, standard errors (n,) in nats, and comparisons of each item (n,).

    se_log_p, se_omega: None above 5,000 items, where the covariance would be too large an array. omega is in
    the gauge of mean 0, and so are its standard errors.
    """

    optimum: Optimum
    se_log_p: Array | None
    se_omega: Array | None
    compared: Array

    @property
    def log_likelihood(self) -> float:
        """Per comparison, in nats."""
        return -self.optimum.loss

    @property
    def saturated(self) -> float:
        """What log_likelihood could be at best, with a probability of its own for every pair."""
        return self.optimum.divergence - self.optimum.loss

    def interval(self) -> tuple[Array, Array]:
        """The 95 % interval of each density, (n,) and (n,): exp(log p -+ 1.96 standard errors)."""
        half = NORMAL_95 * (np.full(len(self.compared), np.nan) if self.se_log_p is None else self.se_log_p)
        return np.exp(self.optimum.log_p - half), np.exp(np.minimum(self.optimum.log_p + half, 0.0))


def fit(wins: Any, model: PBDE) -> Fit:
    """The exact optimum of counted wins (n, n) with its standard errors; raises as `optimum` does."""
    found = optimum(wins, model)
    compared = np.asarray(wins.sum(axis=0) + wins.sum(axis=1))
    if wins.shape[0] > COVARIANCE_LIMIT:
        return Fit(found, None, None, compared)
    se_log_p = np.sqrt(np.diag(covariance(wins, found, model)))
    return Fit(found, se_log_p, np.sqrt(np.diag(omega_covariance(wins, found))), compared)


def restricted(model: PBDE, items: Indices, n: int) -> PBDE:
    """The PBDE over a part of its n outcomes."""
    f, g = model.over(n)
    return PBDE(f[items], g[items])


def partial_order(comparisons: Comparisons) -> tuple[list[Indices], list[tuple[int, int]]]:
    """What a graph without a finite optimum does determine: its strong components, the strongest first, and
    the pairs (k, l) of them in which k won every comparison with l."""
    wins = check_wins(comparisons.wins())
    components = strong_components(wins)
    label = np.empty(comparisons.n, dtype=int)
    for k, component in enumerate(components):
        label[component] = k
    entries = wins.tocoo()
    beaten = {(int(k), int(m)) for k, m in zip(label[entries.row], label[entries.col], strict=True) if k != m}
    order, rest = [], set(range(len(components)))
    while rest:
        top = min(rest - {m for k, m in beaten if k in rest})
        order.append(top)
        rest.remove(top)
    place = {k: rank for rank, k in enumerate(order)}
    return [components[k] for k in order], sorted((place[k], place[m]) for k, m in beaten)
