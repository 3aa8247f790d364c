"""Are the test and the intervals what they say? Simulated where one Luce annotator did judge."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from tqdm import tqdm

from reference.comparisons import Comparisons
from reference.errors import NotIdentifiableError
from reference.inference.fit import NORMAL_95, fit
from reference.inference.goodness_of_fit import goodness_of_fit
from reference.pbde import PBDE, Array

LEVEL = 0.05


@dataclass(frozen=True)
class Design:
    """Who is compared how often: totals(rng) draws an upper triangular (n, n) array of counts."""

    name: str
    statement: str
    totals: Callable[[np.random.Generator], Array]


@dataclass(frozen=True)
class Calibration:
    """Shares over the replications: p < 5 %; true log p within its 95 % interval, over items and fits; tests that
    took the bootstrap; data sets without a finite fit, which have no intervals but do enter the test."""

    rejected: float
    covered: float
    bootstrapped: float
    without_fit: float


def _dense(rng: np.random.Generator) -> Array:
    return np.triu(np.full((8, 8), 40.0), 1)


def _sparse(rng: np.random.Generator) -> Array:
    totals = np.zeros((20, 20))
    for offset in (1, 2, 5):  # a ring with chords: 6 opponents each
        for i in range(20):
            totals[min(i, (i + offset) % 20), max(i, (i + offset) % 20)] = 6.0
    return totals


def _uneven(rng: np.random.Generator) -> Array:
    totals = np.triu(np.ceil(3 * rng.pareto(1.2, (12, 12)) + 1), 1)
    return np.asarray(np.minimum(totals, 200.0))


def _once(rng: np.random.Generator) -> Array:
    totals = np.zeros((30, 30))
    for _ in range(300):
        i, j = sorted(rng.choice(30, 2, replace=False))
        totals[i, j] += 1.0
    return totals


DESIGNS = (
    Design("dense", "8 items, all 28 pairs, 40 comparisons each", _dense),
    Design("sparse", "20 items, 6 opponents each, 6 comparisons", _sparse),
    Design("uneven", "12 items, all pairs, 2 to 200 comparisons", _uneven),
    Design("once", "30 items, 300 comparisons, most pairs once", _once),
)


def calibrate(design: Design, replications: int, seed: int) -> Calibration:
    """omega ~ N(0, 1) and the totals anew for every replication, the test as `fit` runs it by default."""
    rng = np.random.default_rng([seed, *map(ord, design.name)])
    rejected = bootstrapped = without = 0
    covered: list[float] = []
    for _ in tqdm(range(replications), disable=None, desc=design.name, leave=False):
        omega, data = draw(design.totals(rng), rng)
        verdict = goodness_of_fit(data, seed=int(rng.integers(2**31)))
        rejected += verdict.p_value < LEVEL
        bootstrapped += verdict.replicates > 0
        try:
            fitted = fit(data, PBDE.luce())
        except NotIdentifiableError:
            without += 1
            continue
        truth = PBDE.luce().log_p(omega)
        covered.append(float(np.mean(np.abs(fitted.log_p - truth) <= NORMAL_95 * fitted.se_log_p)))
    share = 1 / replications
    return Calibration(rejected * share, float(np.mean(covered)), bootstrapped * share, without * share)


def draw(totals: Array, rng: np.random.Generator) -> tuple[Array, Comparisons]:
    """omega (n,) of one Luce annotator, and its comparisons with these totals."""
    n = len(totals)
    omega = rng.normal(size=n)
    i, j = np.nonzero(totals)
    total = totals[i, j]
    won = rng.binomial(total.astype(np.int64), 1 / (1 + np.exp(omega[j] - omega[i])))
    x_a, x_b = np.tile(i, 2), np.tile(j, 2)
    y = np.repeat([1.0, 0.0], len(i))
    return omega, Comparisons(x_a, x_b, y, n, weight=np.concatenate([won, total - won]))
