"""How cyclic preferences are: HodgeRank (Jiang, Lim, Yao, Ye 2011) of Y_ij = 2 p_ij - 1.

Weighted least squares splits the flow Y on the compared pairs into a gradient s_i - s_j and a rest without one:

    s = argmin sum_ij w_ij (Y_ij - s_i + s_j)^2,     cyclic share = ||Y - grad s||_w^2 / ||Y||_w^2.

The share is 0 for noiseless votes that add up, and positive for everything else: noise alone makes it so, and so
does the bend of the sigmoid. It means something beside its median under a fitted annotator.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import sparse
from scipy.sparse.csgraph import connected_components
from scipy.sparse.linalg import splu

from reference.annotators import Indices
from reference.errors import NotConvergedError
from reference.pbde import Array
from reference.solvers.laplacian import conjugate_gradients

FACTORED_ITEMS = 2000  # graphs up to this size are factorised ...
TOLERANCE = 1e-9  # ... of larger ones the mean surplus of a flow at each item is brought down to this
TRIANGLE_ITEMS = 500  # triangles are looked for in graphs up to this size: n^3 / 6 of them
NAMED = 3  # triangles that are named


@dataclass(frozen=True)
class Triangle:
    """Items a, b, c and how often a beat b, b beat c, c beat a, of how many comparisons each.

    z: the sum of the three win rates less what the fit expects of it, in its standard errors. Far above 0 the
    three go round in this direction more than one annotator can.
    """

    items: tuple[int, int, int]
    won: tuple[float, float, float]
    total: tuple[float, float, float]
    z: float


def potentials(i: Indices, j: Indices, weight: Array, flow: Array, n: int) -> Array:
    """s (B, n) for flows (B, E) on E pairs with weights (E,), up to a constant in each connected component.

    One sparse factorisation for all B; conjugate gradients above 2,000 items, where it might fill in.
    """
    pairs = sparse.coo_array((weight, (i, j)), shape=(n, n)).tocsr()
    both = sparse.csr_array(pairs + pairs.T)
    at = (np.concatenate([i, j]), np.tile(np.arange(len(i)), 2))
    divergence = sparse.csr_array(sparse.coo_array((np.concatenate([weight, -weight]), at), shape=(n, len(i))))
    source, s = divergence @ flow.T, np.zeros((len(flow), n))
    if n > FACTORED_ITEMS:
        free = np.asarray(both.sum(axis=1)) > 0
        try:
            s[:, free] = conjugate_gradients(both[free][:, free], source[free], np.full(len(flow), TOLERANCE)).T
            return s
        except NotConvergedError:
            pass  # long rings and chains: these are factorised without filling in
    _, label = connected_components(both, directed=False)
    free = np.ones(n, dtype=bool)
    free[np.unique(label, return_index=True)[1]] = False  # the first item of each component has s = 0
    if free.any():
        laplacian = sparse.csc_array(sparse.diags_array(np.asarray(both.sum(axis=1))) - both)[free][:, free]
        s[:, free] = splu(sparse.csc_array(laplacian)).solve(source[free]).T
    return s


def cyclic_share(i: Indices, j: Indices, total: Array, won: Array, n: int) -> Array:
    """(B,): the cyclic share of 2 won / total - 1, weights = total (E,), for B data sets won (B, E)."""
    flow = 2 * won / total - 1
    s = potentials(i, j, total, flow, n)
    rest = flow - s[:, i] + s[:, j]
    whole = (total * flow**2).sum(axis=1)
    return np.asarray((total * rest**2).sum(axis=1) / np.where(whole > 0, whole, 1.0))


def worst_triangles(
    i: Indices, j: Indices, total: Array, won: Array, fitted: Array, n: int
) -> tuple[Triangle, ...]:
    """The three triangles of compared pairs with the largest z > 0; none above 500 items.

    z = (sum of rates around - sum of fitted probabilities around) / sqrt(sum p (1 - p) / n).
    """
    if n > TRIANGLE_ITEMS:
        return ()
    surplus, variance, wins = np.zeros((n, n)), np.full((n, n), np.nan), np.zeros((n, n))
    surplus[i, j] = won / total - fitted
    surplus[j, i] = -surplus[i, j]
    variance[i, j] = variance[j, i] = fitted * (1 - fitted) / total
    wins[i, j], wins[j, i] = won, total - won
    worst: list[tuple[float, int, int, int]] = []
    for a in range(n - 2):  # a is the smallest of its triangle: every cyclic order once
        later = slice(a + 1, None)
        curl = surplus[a, later, None] + surplus[later, later] + surplus[later, a]
        spread = variance[a, later, None] + variance[later, later] + variance[later, a]
        z = np.where(spread > 0, curl / np.sqrt(np.where(spread > 0, spread, 1.0)), -np.inf)
        least = worst[-1][0] if len(worst) == NAMED else 0.0
        above = np.flatnonzero(z > least)
        for at in above[np.argsort(-z.flat[above], kind="stable")[:NAMED]]:
            b, c = np.unravel_index(at, z.shape)
            worst.append((float(z[b, c]), a, int(b) + a + 1, int(c) + a + 1))
        worst = sorted(worst, reverse=True)[:NAMED]
    return tuple(_triangle(z, (a, b, c), wins) for z, a, b, c in worst)


def _triangle(z: float, items: tuple[int, int, int], wins: Array) -> Triangle:
    a, b, c = items
    ahead, back = wins[[a, b, c], [b, c, a]], wins[[b, c, a], [a, b, c]]
    won, total = (tuple(map(float, part)) for part in (ahead, ahead + back))
    return Triangle(items, won, total, z)  # type: ignore[arg-type]
