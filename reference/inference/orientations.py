"""Random tournaments in which every item wins as often as in a given one, and the same pairs are compared.

Under one Luce annotator a tournament on pairs that are compared once has the probability

    prod_c sigmoid(omega_winner - omega_loser) = exp(sum_i omega_i s_i) / prod_ij (e^omega_i + e^omega_j),

where item i wins s_i times. It depends on s alone: given s, all tournaments on these pairs are equally likely,
whatever omega. A Markov chain draws them. It walks from a random item on, from each item to a random one of those
that it beat, until an item comes again, and reverses that loop. This leaves s as it is, so the way back has the
same probability, prod 1 / s_i over the walk: the chain is symmetric. Two tournaments with the same s differ by
loops: the chain reaches all.

Draws from a middle tournament, each as many moves away from it as the data are, are exchangeable with the data: a
rank among them is exact, however slowly the chain mixes (Besag and Clifford 1989).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from reference.annotators import Indices
from reference.pbde import Array

Losers = NDArray[np.intp]  # of a tournament or of several


def beaten(i: Indices, j: Indices, won: Array, n: int) -> tuple[Losers, Indices]:
    """The items that each beat, (n, most), of which the first s_i count, and s (n,); won (E,) is 1 where i won."""
    winner, loser = np.where(won > 0, i, j), np.where(won > 0, j, i)
    order = np.argsort(winner, kind="stable")
    wins = np.bincount(winner, minlength=n)
    place = np.arange(len(winner)) - np.repeat(np.cumsum(wins) - wins, wins)
    losers = np.zeros((n, max(int(wins.max()), 1)), dtype=np.intp)
    losers[winner[order], place] = loser[order]
    return losers, wins


def moved(losers: Losers, wins: Indices, moves: int, rng: np.random.Generator) -> Losers:
    """The tournaments losers (B, n, most) after so many moves of B chains; wins (n,) are those of each."""
    losers = losers.copy()
    for _ in range(moves):
        path, slot, first, end = _walks(losers, wins, rng)
        step = np.arange(path.shape[1])
        chain, at = np.nonzero((first[:, None] <= step) & (step < end[:, None]))
        before = np.where(at > first[chain], at, end[chain]) - 1
        losers[chain, path[chain, at], slot[chain, at]] = path[chain, before]
    return losers


def _walks(losers: Losers, wins: Indices, rng: np.random.Generator) -> tuple[Losers, Losers, Indices, Indices]:
    """One walk a chain: the items (B, steps) and the places (B, steps) among their losers of the next ones.

    The loop is first <= step < end, each (B,); empty where the walk came to an item that beat none.
    """
    count, n = losers.shape[:2]
    came = np.full((count, n), -1)
    path, slot = np.zeros((count, n), dtype=np.intp), np.zeros((count, n), dtype=np.intp)
    first, end = np.zeros(count, dtype=np.intp), np.zeros(count, dtype=np.intp)
    chain, item = np.arange(count), np.asarray(rng.integers(0, n, count), np.intp)
    for step in range(n + 1):
        again = came[chain, item] >= 0
        first[chain[again]], end[chain[again]] = came[chain[again], item[again]], step
        going = ~again & (wins[item] > 0)
        chain, item = chain[going], item[going]
        if not len(chain):
            break
        came[chain, item], path[chain, step] = step, item
        slot[chain, step] = rng.random(len(chain)) * wins[item]
        item = losers[chain, item, slot[chain, step]]
    return path[:, :step], slot[:, :step], first, end
