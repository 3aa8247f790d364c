"""p-values by simulation: as many data sets as it takes to see on which side of a level they are.

Of B simulated statistics K are at least as large as the observed one: p = (1 + K) / (B + 1), with the standard
error sqrt(p (1 - p) / B). B grows until the interval of Clopper and Pearson for the true p leaves the level out:
then the verdict is that of the data, not of the seed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy.special import betaincinv

from reference.pbde import Array

UNSURE = 1e-3  # how often such an interval misses the true p: then a verdict is the seed's after all
ROUNDING = 1e-9  # relative to 1 + the statistic: equal statistics may differ by their order of summation


class MonteCarlo(NamedTuple):
    """null: the B simulated statistics. p_value, its standard error, and whether the level is settled."""

    null: Array
    p_value: float
    error: float
    settled: bool


def simulated_p_value(
    draw: Callable[[int], Array], observed: float, level: float, first: int, most: int
) -> MonteCarlo:
    """The p-value of an observed statistic. draw(count) simulates so many; first of them, then about twice as many
    until the level is settled, but not more than `most`. Raises nothing of its own."""
    null, count = np.zeros(0), min(first, most)
    while len(null) < count:
        null = np.concatenate([null, draw(count - len(null))])
        if not settled(exceeding(null, observed), count, level):
            count = min(2 * count + 1, most)
    above = exceeding(null, observed)
    p_value = (1 + above) / (len(null) + 1)
    return MonteCarlo(
        null, p_value, float(np.sqrt(p_value * (1 - p_value) / len(null))), settled(above, len(null), level)
    )


def exceeding(null: Array, value: float) -> int:
    """How many of the simulated statistics are as large, equal but for rounding counted."""
    return int(np.sum(null >= value - ROUNDING * (1 + abs(value))))


def settled(exceeding: int, count: int, level: float) -> bool:
    """Whether the interval of Clopper and Pearson for the p-value leaves the level out."""
    low = betaincinv(exceeding, count - exceeding + 1, UNSURE / 2) if exceeding else 0.0
    high = betaincinv(exceeding + 1, count - exceeding, 1 - UNSURE / 2) if exceeding < count else 1.0
    return not low <= level <= high


def rejectable(null: Array, observed: float, level: float) -> bool:
    """Whether the largest statistic seen is so rare that it would be rejected; no p-value says much where not."""
    return (1 + exceeding(null, max(observed, float(null.max())))) / (len(null) + 1) <= level
