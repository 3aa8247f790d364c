"""The deviance of a binomial count from its probability, to the last digit, and its exact moments.

    D(k; n, p) = 2 (k log(k / np) + (n - k) log((n - k) / nq)) = 2 n (p h(r / np) + q h(-r / nq)),

with q = 1 - p, r = k - np and h(x) = (1 + x) log(1 + x) - x. The first form subtracts numbers as large as n; the
second loses no digit, however many comparisons there are. For k ~ Binomial(n, p) its mean is

    E D = 1 + (1 - pq) / (6 npq) + ...,

not 1: little for one pair, but it adds up over the pairs of a graph, whose spread only grows as the root.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.special import expit

from reference.pbde import Array

SERIES_REACH = 0.05  # |x| below which h(x) is summed as a series: twelve terms leave 1e-17 of it
SERIES_TERMS = 12
MANY = 100.0  # expected counts of the rarer outcome from which the expansion in 1 / npq stands for the sum
TAIL = 8.0  # standard deviations, and as many counts and more, up to which the sum is taken
BLOCK = 32768  # entries that are summed at a time
LEAST = 1e-300  # stands for p = 0, whose terms have the weight 0


class Moments(NamedTuple):
    """Of D and k ~ Binomial(n, p), each (B, E): E D, var D, cov(D, k) and cov(D, (k - np)^2)."""

    mean: Array
    variance: Array
    with_count: Array
    with_square: Array


def deviance(won: Array, total: Array, margin: Array) -> Array:
    """(B, E): D(won; total, sigmoid(margin)); 0 for a count that is certain."""
    p, q = expit(margin), expit(-margin)
    # from the rarer outcome: n - nq has no digits of nq where that is below the rounding of n
    surplus = np.where(p <= q, won - total * p, total * q - (total - won))
    with np.errstate(divide="ignore", invalid="ignore"):
        first = total * p * entropy_gap(surplus / (total * p))
        second = total * q * entropy_gap(-surplus / (total * q))
    return np.asarray(2 * (np.where(p > 0, first, 0.0) + np.where(q > 0, second, 0.0)))


def entropy_gap(x: Array) -> Array:
    """h(x) = (1 + x) log(1 + x) - x = x^2 / 2 - x^3 / 6 + x^4 / 12 - ..., for x >= -1."""
    x = np.maximum(x, -1.0)
    small = np.abs(x) < SERIES_REACH
    near, far = np.where(small, x, 0.0), np.where(small, 1.0, x)
    series = np.zeros_like(near)
    for m in range(SERIES_TERMS + 1, 1, -1):
        series = 1 / (m * (m - 1)) - near * series
    logarithm = np.log1p(np.maximum(far, np.nextafter(-1, 0)))
    return np.asarray(np.where(small, near**2 * series, (1 + far) * logarithm - far))


def moments(total: Array, prob: Array) -> Moments:
    """The moments for totals (E,), whole numbers, and probabilities (B, E).

    Summed over the counts of the rarer outcome, k = 0, 1, ... . Where 100 of that are expected and more, by the
    expansion in 1 / npq: there D is (1 + (1 - pq) / (6 npq)) times a chi-squared variable but for O(1 / npq)^2.
    """
    rarer = np.minimum(prob, 1 - prob)
    spread = total * rarer * (1 - rarer)
    scale = 1 + (1 - rarer * (1 - rarer)) / (6 * np.maximum(spread, MANY / 2))
    found = Moments(scale, 2 * scale**2, np.zeros_like(prob), 2 * spread)
    summed = total * rarer < MANY
    order = np.argsort(total, kind="stable")  # neighbours have about the same number of terms
    width = max(1, BLOCK // len(prob))
    for at in range(0, len(total), width):
        columns = order[at : at + width]
        chosen = summed[:, columns]
        if chosen.any():
            n = np.broadcast_to(total[columns], chosen.shape)[chosen]
            for whole, part in zip(found, _summed(n, rarer[:, columns][chosen]), strict=True):
                block = whole[:, columns]
                block[chosen] = part
                whole[:, columns] = block
    found.with_count[prob > 0.5] *= -1
    return found


def expected_deviance(total: Array, prob: Array) -> Array:
    """(B,): sum over E pairs of E D, for totals (E,) and probabilities (B, E)."""
    return np.asarray(moments(total, prob).mean.sum(axis=1))


def _summed(n: Array, p: Array) -> Moments:
    """Each (M,), for M pairs with p <= 1/2 and np < MANY, by P(k + 1) = P(k) (n - k) / (k + 1) p / q."""
    rate, odds, log_q = n * p, p / (1 - p), np.log1p(-p)
    log_rate = np.log(np.maximum(rate, LEAST))
    probability = np.exp(n * log_q)
    powers = np.zeros((4, len(n)))  # E D, E D^2, E D x and E D x^2, with x = k - np
    last = int(min(n.max(), np.ceil((rate + TAIL * np.sqrt(rate) + 2 * TAIL).max()))) if len(n) else -1
    for k in range(last + 1):
        left = np.maximum(n - k, 0.0)
        log_share = np.log1p(-np.minimum(k / n, 1 - 1e-16))
        d = 2 * (k * (np.log(max(k, 1)) - log_rate) + left * (log_share - log_q))
        weighted, x = probability * d, k - rate
        powers += (weighted, weighted * d, weighted * x, weighted * x * x)
        probability *= left / (k + 1) * odds
    mean, square, with_count, with_square = powers
    return Moments(mean, square - mean**2, with_count, with_square - mean * rate * (1 - p))
