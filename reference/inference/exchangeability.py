"""Do annotators answer alike? Exchangeability within pairs, by permutation.

Where all annotators have the same choice probabilities, whatever these are, it does not matter who gave which of
the answers to a pair: with the pairs of each annotator fixed, all ways to deal out the answers of a pair are
equally likely. So a statistic has an exact p-value among those of permuted data, and no fit is needed. The one
here is

    T = sum_u sum_i S_ui^2 / (1 + m_ui / 4),      S_u = sum over the answers c of annotator u of r_c (e_a - e_b),

with m_ui answers of annotator u that involve item i, and the Pearson residuals r = (y - m) / s, where m and s
are the mean and the standard deviation of all answers to the pair, which no permutation changes. Where omega
varies between annotators with variance tau^2, S_ui varies as N(0, m + tau^2 v m^2), v = P (1 - P), in place of
N(0, m). The log-likelihood ratio of these two is a constant plus S^2 tau^2 v / (1 + tau^2 v m) / 2; T takes tau
= 1, v = 1/4. It also sees two opposite halves, which cancel in every pooled win rate.

The p-value of B permutations is (1 + exceedances) / (B + 1). B is doubled until the 99.9 % interval of Clopper and
Pearson leaves the level out, and is MOST at most. How often it rejects: `calibration_annotators.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from reference.annotators import Indices
from reference.comparisons import Comparisons
from reference.inference.monte_carlo import MonteCarlo, rejectable, simulated_p_value
from reference.pbde import Array
from reference.progress import progress_bar

LEAST, FIRST, MOST = 199, 999, 15_999  # permutations: in any case, at first, and at most
BATCH_ENTRIES = 2_000_000  # permuted answers held at once
MOST_ENTRIES = 400_000_000  # permuted answers in all: under a minute; LEAST permutations in any case
MOST_ANSWERS = 20_000_000
SPREAD = 0.25  # tau^2 v of the alternative that T is best against


@dataclass(frozen=True)
class Exchangeability:
    """The test that all annotators answer alike.

    annotators, answers, pairs: those that take part, of pairs that several annotators answered, not all alike.
    statistic: T, and `expected`, its mean over the permutations. p_value, with its Monte Carlo standard error
    `error`; settled: whether it is on one side of the level but for a chance of 0.1 %. untested: the reason why
    there is no test, p_value then NaN; "" where there is one.
    """

    annotators: int
    answers: int
    pairs: int
    statistic: float = np.nan
    expected: float = np.nan
    permutations: int = 0
    p_value: float = np.nan
    error: float = np.nan
    settled: bool = False
    untested: str = ""


class Answers(NamedTuple):
    """N answers, the pairs one after another: the number of the pair (N,), the residual (N,), and the signs of the
    items (places, N); a place is an annotator with an item. weight: (places,), 1 / (1 + m / 4)."""

    pair: Indices
    residual: Array
    incidence: sparse.csr_array
    weight: Array
    annotators: int


def exchangeable(comparisons: Comparisons, seed: int = 0, level: float = 0.05) -> Exchangeability:
    """Whether the annotators are exchangeable within pairs, tested at `level`.

    Parameters
    ----------
    comparisons
        N comparisons with annotator ids; y may be any number in [0, 1], so ties take part.
    seed
        Of the permutations, >= 0.
    level
        In (0, 1): permutations are drawn until it is clear on which side of it the p-value is.

    Returns
    -------
    Exchangeability
        `untested` says why where no test is possible: weights that are no whole numbers, no pair answered
        differently by several annotators, or so few that no outcome could be rejected at the level.

    Raises
    ------
    ValueError
        Without annotator ids, for a seed < 0, and for a level outside (0, 1).
    """
    if comparisons.annotator is None:
        raise ValueError("annotators can be compared where comparisons say who judged, got annotator None")
    if seed < 0 or not 0 < level < 1:
        raise ValueError(f"seed must be >= 0 and level in (0, 1), got {seed} and {level}")
    weight = np.asarray(comparisons.weight)
    if (weight != np.round(weight)).any():
        return Exchangeability(0, 0, 0, untested="the weights are no whole numbers of answers")
    rows, pair, who = _informative(comparisons)
    count = float(weight[rows].sum())
    if count == 0:
        return Exchangeability(0, 0, 0, untested="no pair was answered differently by several annotators")
    if count > MOST_ANSWERS:
        return Exchangeability(
            0, 0, 0, untested=f"above {MOST_ANSWERS:,} answers there is no test, got {count:,.0f}"
        )
    answers = _answers(comparisons, rows, pair, who)
    observed = float(_statistics(answers, answers.residual[:, None])[0])
    rng = np.random.default_rng([seed, 2])  # 0 and 1 are those of the other test
    most = min(MOST, max(LEAST, MOST_ENTRIES // len(answers.pair)))
    found = simulated_p_value(lambda many: _draws(answers, many, rng), observed, level, FIRST, most)
    return _judged(answers, observed, found, level)


def _informative(comparisons: Comparisons) -> tuple[Indices, Indices, Indices]:
    """The rows of pairs that several annotators answered, not all alike; of all rows the pair and the annotator.

    All other pairs add the same to T whatever the permutation: 0.
    """
    low, _, y = _ordered(comparisons)
    high = np.maximum(np.asarray(comparisons.x_a), np.asarray(comparisons.x_b))
    seen = np.asarray(comparisons.weight) > 0
    pair = np.unique(low * comparisons.n + high, return_inverse=True)[1]
    who = np.unique(np.asarray(comparisons.annotator), return_inverse=True)[1]
    several = _differ(pair, who.astype(np.float64), seen) & _differ(pair, y, seen)
    return np.flatnonzero(seen & several[pair]), pair, who


def _differ(pair: Indices, value: Array, seen: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """(pairs,): whether the values of a pair are not all the same."""
    least, most = np.full(pair.max(initial=-1) + 1, np.inf), np.full(pair.max(initial=-1) + 1, -np.inf)
    np.minimum.at(least, pair[seen], value[seen])
    np.maximum.at(most, pair[seen], value[seen])
    return np.asarray(least < most)


def _ordered(comparisons: Comparisons) -> tuple[Indices, Indices, Array]:
    """Both items of every comparison, the smaller number first, and y for that one."""
    x_a, x_b, y = np.asarray(comparisons.x_a), np.asarray(comparisons.x_b), np.asarray(comparisons.y)
    return np.minimum(x_a, x_b), np.maximum(x_a, x_b), np.where(x_a < x_b, y, 1 - y)


def _answers(comparisons: Comparisons, rows: Indices, pair: Indices, who: Indices) -> Answers:
    """The answers of these rows, each as often as its weight says, with their residuals."""
    rows = np.repeat(rows, np.asarray(comparisons.weight)[rows].astype(np.intp))
    rows = rows[np.argsort(pair[rows], kind="stable")]
    low, high, y = (column[rows] for column in _ordered(comparisons))
    pair = np.unique(pair[rows], return_inverse=True)[1]
    kinds, who = np.unique(who[rows], return_inverse=True)
    count = np.bincount(pair)
    centred = y - (np.bincount(pair, y) / count)[pair]
    residual = centred / np.sqrt(np.bincount(pair, centred**2) / count)[pair]
    places, at = np.unique(np.concatenate([who, who]) * comparisons.n + np.append(low, high), return_inverse=True)
    signs = np.repeat([1.0, -1.0], len(rows))
    incidence = sparse.coo_array((signs, (at, np.tile(np.arange(len(rows)), 2))), shape=(len(places), len(rows)))
    weight = 1 / (1 + SPREAD * np.bincount(at))
    return Answers(pair, residual, sparse.csr_array(incidence), weight, len(kinds))


def _statistics(answers: Answers, residuals: Array) -> Array:
    """T of residuals (N, B): (B,)."""
    return np.asarray(answers.weight @ (answers.incidence @ residuals) ** 2)


def _draws(answers: Answers, count: int, rng: np.random.Generator) -> Array:
    """T of `count` permutations, in batches: random numbers in [pair, pair + 1) shuffle each pair's answers."""
    size, found = max(1, BATCH_ENTRIES // len(answers.pair)), []
    for first in progress_bar(range(0, count, size), desc="permuting"):
        order = np.argsort(rng.random((min(size, count - first), len(answers.pair))) + answers.pair, axis=1)
        found.append(_statistics(answers, answers.residual[order].T))
    return np.concatenate(found)


def _judged(answers: Answers, observed: float, found: MonteCarlo, level: float) -> Exchangeability:
    """The result; untested where even the largest T is so frequent that it could not be rejected."""
    counts = answers.annotators, len(answers.pair), int(answers.pair[-1]) + 1
    if not rejectable(found.null, observed, level):
        reason = "too few annotators answered the same pairs differently: no outcome could be rejected"
        return Exchangeability(*counts, untested=reason)
    return Exchangeability(
        *counts,
        statistic=observed,
        expected=float(found.null.mean()),
        permutations=len(found.null),
        p_value=found.p_value,
        error=found.error,
        settled=found.settled,
    )
