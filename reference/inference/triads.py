"""Cyclic triads: what comparisons can show against one annotator where every pair was compared once.

Three items are a cyclic triad where a beat b, b beat c and c beat a (Kendall and Babington Smith 1940). T counts
them among pairs compared once; large T speaks against one annotator. What T is compared with depends on the pairs:

    all pairs of each connected group    coins, E T = M / 4 of M triads
    other pairs                          tournaments on these pairs in which each item wins as often

In the first case the wins s determine T = C(n, 3) - sum_i C(s_i, 2), so that given s nothing is left to test. But
one Luce annotator makes a triad cyclic with the probability p_ab p_bc p_ca + p_ba p_cb p_ac <= 1/4, and all
P(T >= t) are largest for coins (so enumeration shows for up to six items): data are rejected that are more cyclic
than coins, which no omega explains. T at the fit itself would not do: the fit is spread further than omega, and
22 % of 200 tournaments of 11 items by coins would be rejected (fitted with half a win against a ghost).

In the second case coins would not do. Let two items with omega = -+ 1/2 meet once, and both meet 60 others with
omega = 0: the weaker of the two wins in 27 of 100 tournaments, and then its 60 triads are cyclic with probability
.39 each. But given s all such tournaments are equally likely, whatever omega (`orientations.py`), and the test is
exact.

How often it rejects at 5 % where one annotator judged 2,000 data sets (other pairs: of 399 tournaments each):

    11 items, every pair once               omega = 0    3.6 %    N(0, .3^2)    2.1 %    N(0, 1)    0.1 %
    30 items, half of the pairs once        omega = 0    4.4 %    N(0, .3^2)    4.6 %    N(0, 1)    4.0 %
    the two items above and the 60 others   omega = 0    0.0 %    -+ 1/2        0.0 %    -+ 1       0.5 %

Coins would reject 18 % of the two items at -+ 1/2. Where three annotators rank three groups in a circle, 3 nats
apart, and every pair across groups is compared once, it rejects 27 % for groups of 4 items and 94 % for groups of
10 (100 data sets each). In a complete tournament T has little room: at most (n + 1) / (n - 2) times its mean.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse.csgraph import connected_components

from reference.annotators import Indices
from reference.inference.monte_carlo import rejectable, simulated_p_value
from reference.inference.orientations import beaten, moved
from reference.pbde import Array

TRIAD_ITEMS = 100  # graphs up to this size
FIRST, MOST = 999, 15_999  # simulated tournaments, at first and at most
MOST_STEPS = 4e7  # of all their walks: about 20 seconds
BATCH = 4_000_000  # entries of the tournaments that are simulated at a time


@dataclass(frozen=True)
class Triads:
    """`cyclic` of `triads` are. coins: whether T is compared with coins, else with tournaments of the same wins.

    expected: the mean of T there. p_value, with its Monte Carlo standard error; NaN where no T could be rejected.
    """

    triads: int
    cyclic: int
    coins: bool
    expected: float
    p_value: float = np.nan
    error: float = np.nan


def cyclic_triads(i: Indices, j: Indices, won: Array, n: int, seed: int, level: float) -> Triads | None:
    """The test on E pairs i < j of n items, each compared once: won (E,) is 1 where i won, 0 where j did.

    None above TRIAD_ITEMS items and where there are no triads. seed: of the simulated tournaments.
    """
    if n > TRIAD_ITEMS or not len(i):
        return None
    compared = _beats(i, j, np.ones((1, len(i))), n)
    compared += compared.transpose(0, 2, 1)
    triads = round(float(_cycles(compared)[0]) / 2)  # each is walked in two directions
    if triads == 0:
        return None
    observed, coins = float(_cycles(_beats(i, j, won[None], n))[0]), _all_pairs(i, j, n)
    rng, moves = np.random.default_rng([seed, 3]), len(i) // 2
    draw = _coins(i, j, n, rng) if coins else _same_wins(i, j, won, n, moves, rng)
    most = MOST if coins else int(np.clip(MOST_STEPS / (moves * np.sqrt(n)), FIRST, MOST))
    found = simulated_p_value(draw, observed, level, FIRST, most)
    expected = triads / 4 if coins else float(found.null.mean())
    if not rejectable(found.null, observed, level):
        return Triads(triads, round(observed), coins, expected)
    return Triads(triads, round(observed), coins, expected, found.p_value, found.error)


def _all_pairs(i: Indices, j: Indices, n: int) -> bool:
    """Whether every two items of a connected group were compared."""
    graph = sparse.coo_array((np.ones(len(i)), (i, j)), shape=(n, n))
    size = np.bincount(connected_components(graph, directed=False)[1])
    return int((size * (size - 1)).sum()) == 2 * len(i)


def _coins(i: Indices, j: Indices, n: int, rng: np.random.Generator) -> Callable[[int], Array]:
    """Draws T of so many tournaments of coins."""

    def draw(count: int) -> Array:
        tosses = (rng.integers(0, 2, (size, len(i))).astype(np.float64) for size in _batches(count, n**2))
        return np.concatenate([_cycles(_beats(i, j, won, n)) for won in tosses])

    return draw


def _same_wins(
    i: Indices, j: Indices, won: Array, n: int, moves: int, rng: np.random.Generator
) -> Callable[[int], Array]:
    """Draws T of so many tournaments with the wins of this one, which are exchangeable with it."""
    losers, wins = beaten(i, j, won, n)
    middle = moved(losers[None], wins, moves, rng)
    item, slot = np.nonzero(np.arange(losers.shape[1]) < wins[:, None])

    def draw(count: int) -> Array:
        found = []
        for size in _batches(count, max(n**2, losers.size)):
            drawn = moved(np.repeat(middle, size, axis=0), wins, moves, rng)
            beats = np.zeros((size, n, n), dtype=np.float32)
            beats[np.arange(size)[:, None], item, drawn[:, item, slot]] = 1
            found.append(_cycles(beats))
        return np.concatenate(found)

    return draw


def _batches(count: int, entries: int) -> list[int]:
    size = max(1, BATCH // entries)
    return [min(size, count - first) for first in range(0, count, size)]


def _beats(i: Indices, j: Indices, won: Array, n: int) -> NDArray[np.float32]:
    """(B, n, n): 1 where the first item beat the second, of won (B, E)."""
    beats = np.zeros((len(won), n, n), dtype=np.float32)
    beats[:, i, j] = won
    beats[:, j, i] = 1 - won
    return beats


def _cycles(beats: NDArray[np.float32]) -> Array:
    """(B,): trace(beats^3) / 3, the number of cycles of three, each in the direction in which it goes round."""
    return np.asarray(np.einsum("bij,bji->b", beats @ beats, beats, dtype=np.float64) / 3)
