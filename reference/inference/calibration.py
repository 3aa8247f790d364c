"""Are the test and the intervals what they say? Simulated where one Luce annotator did judge, and where two did.

At 5 %, in 1,000 data sets of each design, 200 of the last (`python -m reference calibrate --replications 1000`):

    design                                         rejected   two rejected   covered   bootstrap   no finite fit
    8 items, all 28 pairs, 40 comparisons each        4.4 %           97 %    95.0 %        42 %           0.0 %
    20 items, 6 opponents each, 6 comparisons         4.8 %           34 %    95.0 %       100 %           4.6 %
    12 items, all pairs, 2 to 200 comparisons         5.3 %           57 %    95.5 %       100 %           0.8 %
    30 items, 300 comparisons, most pairs once        6.0 %           15 %    94.9 %       100 %          25.8 %
    100 items, all pairs, 36 comparisons each         5.0 %          100 %    94.9 %         0 %           0.0 %
    300 items, 2,000,000 comparisons                  7.0 %          100 %    95.0 %         0 %           0.0 %

Of 1,186 more data sets of the last design 5.7 % were rejected. Two annotators, each with omega ~ N(0, 3^2), judged
100 data sets of each design. Intervals are those of the fits that are finite.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.special import expit

from reference.comparisons import Comparisons
from reference.errors import NotIdentifiableError
from reference.inference.fit import fit
from reference.inference.goodness_of_fit import goodness_of_fit
from reference.pbde import PBDE, Array
from reference.progress import progress_bar

LEVEL = 0.05
ENOUGH = 100  # data sets show a power
TASTES = 3.0  # the standard deviation of the two omegas of the power: what both mix to is then no Luce annotator


@dataclass(frozen=True)
class Design:
    """Who is compared how often: totals(rng) draws an upper triangular (n, n) array of counts. most: data sets."""

    name: str
    statement: str
    totals: Callable[[np.random.Generator], Array]
    most: int = 1_000_000


@dataclass(frozen=True)
class Calibration:
    """Shares over the replications: p < 5 %; true densities within their 95 % intervals, over items and fits;
    tests that took the bootstrap; data sets without a finite fit, which have no intervals but do enter the test.
    power: p < 5 % where two annotators of different tastes make half of the comparisons each."""

    rejected: float
    power: float
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


def _large(rng: np.random.Generator) -> Array:
    return np.triu(rng.poisson(36.0, (100, 100)), 1).astype(np.float64)


def _huge(rng: np.random.Generator) -> Array:
    n, comparisons = 300, 2_000_000
    return np.triu(rng.poisson(2 * comparisons / (n * (n - 1)), (n, n)), 1).astype(np.float64)


DESIGNS = (
    Design("dense", "8 items, all 28 pairs, 40 comparisons each", _dense),
    Design("sparse", "20 items, 6 opponents each, 6 comparisons", _sparse),
    Design("uneven", "12 items, all pairs, 2 to 200 comparisons", _uneven),
    Design("once", "30 items, 300 comparisons, most pairs once", _once),
    Design("large", "100 items, all pairs, 36 comparisons each", _large),
    Design("huge", "300 items, 2,000,000 comparisons", _huge, most=200),
)


def calibrate(design: Design, replications: int, seed: int) -> Calibration:
    """omega ~ N(0, 1) and the totals anew for every replication, the test as `fit` runs it by default."""
    rng, replications = np.random.default_rng([seed, *map(ord, design.name)]), min(replications, design.most)
    rejected = bootstrapped = without = 0
    covered: list[float] = []
    for _ in progress_bar(range(replications), desc=design.name):
        omega, data = draw(design.totals(rng), rng)
        verdict = goodness_of_fit(data, seed=int(rng.integers(2**31)))
        rejected += verdict.p_value < LEVEL
        bootstrapped += verdict.replicates > 0
        try:
            fitted = fit(data, PBDE.luce())
        except NotIdentifiableError:
            without += 1
            continue
        truth, (low, high) = np.exp(PBDE.luce().log_p(omega)), fitted.interval()
        covered.append(float(np.mean((low <= truth) & (truth <= high))))
    share = 1 / replications
    power = _power(design, min(replications, ENOUGH), seed)
    return Calibration(rejected * share, power, float(np.mean(covered)), bootstrapped * share, without * share)


def _power(design: Design, replications: int, seed: int) -> float:
    """How often the test rejects two annotators, each with an omega ~ N(0, TASTES^2); a coin says who judges."""
    rng, found = np.random.default_rng([seed, 1, *map(ord, design.name)]), []
    for _ in progress_bar(range(replications), desc=f"{design.name}, two"):
        totals = design.totals(rng)
        omega = TASTES * rng.normal(size=(2, len(totals), 1))
        both = expit(omega - omega.transpose(0, 2, 1))
        data = _judged(totals, both.mean(axis=0), rng)
        found.append(goodness_of_fit(data, seed=int(rng.integers(2**31))).p_value < LEVEL)
    return float(np.mean(found))


def draw(totals: Array, rng: np.random.Generator) -> tuple[Array, Comparisons]:
    """omega (n,) of one Luce annotator, and its comparisons with these totals."""
    omega = rng.normal(size=len(totals))
    return omega, _judged(totals, expit(omega[:, None] - omega), rng)


def _judged(totals: Array, prob: Array, rng: np.random.Generator) -> Comparisons:
    """Comparisons with these totals (n, n), upper triangular, and these preference probabilities (n, n)."""
    i, j = np.nonzero(totals)
    total = totals[i, j]
    won = rng.binomial(total.astype(np.int64), prob[i, j])
    x_a, x_b = np.tile(i, 2), np.tile(j, 2)
    y = np.repeat([1.0, 0.0], len(i))
    return Comparisons(x_a, x_b, y, len(totals), weight=np.concatenate([won, total - won]))
