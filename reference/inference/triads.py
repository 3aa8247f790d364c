"""Cyclic triads: what comparisons can show against one annotator where every pair was compared once.

Three items are a cyclic triad where a beat b, b beat c and c beat a. One Luce annotator makes each with probability
p_ab p_bc p_ca + p_ba p_cb p_ac <= 1/4, which coins reach: the more omega is spread, the fewer cycles. So T, the
number of cyclic triads among pairs compared once, is set against coins on the same pairs (Kendall and Babington
Smith 1940):

    E T = M / 4,     Var T = 3 M / 16     for M triads,

and the p-value is by simulation. Against the fit itself T would reject far too often: the fit to one comparison a
pair is spread further than the truth, and in a complete tournament the scores, which are all that the fit knows,
determine T. So only data more cyclic than coins are rejected.

SIZES
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from reference.annotators import Indices
from reference.inference.monte_carlo import simulated_p_value
from reference.pbde import Array

TRIAD_ITEMS = 500  # graphs up to this size: n^3 multiplications a simulated tournament
FIRST, MOST = 999, 15_999  # simulated tournaments, at first and at most
MOST_MULTIPLICATIONS = 2.0e11  # of all of them: some ten seconds
BATCH = 4_000_000  # entries of the tournaments that are simulated at a time


class Triads(NamedTuple):
    """`cyclic` of `triads` are; expected of coins; p_value and its Monte Carlo error; NaN where there are none."""

    triads: int
    cyclic: int
    expected: float
    p_value: float
    error: float


def cyclic_triads(i: Indices, j: Indices, won: Array, n: int, seed: int, level: float) -> Triads:
    """The test on E pairs i < j of n items, each compared once: won (E,) is 1 where i won, 0 where j did.

    Nothing (no triads) above TRIAD_ITEMS items. seed: of the simulated tournaments.
    """
    if n > TRIAD_ITEMS or not len(i):
        return Triads(0, 0, 0.0, np.nan, np.nan)
    compared = _beats(i, j, np.ones((1, len(i))), n)
    compared += compared.transpose(0, 2, 1)
    triads = round(float(_closed_walks(compared)[0]) / 2)  # each is walked in two directions
    cyclic = round(float(_closed_walks(_beats(i, j, won[None], n))[0]))
    if triads == 0:
        return Triads(0, 0, 0.0, np.nan, np.nan)
    rng, size = np.random.default_rng([seed, 3]), max(1, BATCH // n**2)

    def draw(count: int) -> Array:
        found = []
        for first in range(0, count, size):
            coins = rng.integers(0, 2, (min(size, count - first), len(i))).astype(np.float64)
            found.append(_closed_walks(_beats(i, j, coins, n)))
        return np.concatenate(found)

    most = int(min(MOST, max(FIRST, MOST_MULTIPLICATIONS / n**3)))
    found = simulated_p_value(draw, float(cyclic), level, FIRST, most)
    return Triads(triads, cyclic, triads / 4, found.p_value, found.error)


def _beats(i: Indices, j: Indices, won: Array, n: int) -> NDArray[np.float32]:
    """(B, n, n): 1 where the first item beat the second, of won (B, E)."""
    beats = np.zeros((len(won), n, n), dtype=np.float32)
    beats[:, i, j] = won
    beats[:, j, i] = 1 - won
    return beats


def _closed_walks(beats: NDArray[np.float32]) -> Array:
    """(B,): trace(beats^3) / 3, the number of cycles of three, each in the direction in which it goes round."""
    return np.asarray(np.einsum("bij,bji->b", beats @ beats, beats, dtype=np.float64) / 3)
