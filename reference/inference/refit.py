"""Decisive comparisons, and the fits of many data sets that share their pairs and totals."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse.csgraph import connected_components
from scipy.special import expit

from reference.annotators import Indices
from reference.comparisons import Comparisons
from reference.errors import NotConvergedError
from reference.inference.deviance import deviance, expected_deviance
from reference.inference.hodge_rank import potentials
from reference.optimum import strong_components
from reference.pbde import Array
from reference.progress import progress_bar
from reference.solvers.newton import minimize
from reference.solvers.win_pairs import Pairs

BATCH_ITEMS = 128  # graphs up to this size are refitted in dense batches
BATCH_ENTRIES = 4_000_000  # of a batch's largest array
NEWTON_LIMIT = 100  # steps of a batch
LARGEST_TOTAL = 2.0**53  # counts above are no whole numbers in float64
STEP_ALLOWED = 1e-9  # the last Newton step of a replicate, nats: its likelihood is right to the square of that


@dataclass(frozen=True, eq=False)
class Decisive:
    """The decisive comparisons of n items: i beat j in won (E,) of total (E,), for E pairs i < j."""

    i: Indices
    j: Indices
    won: Array
    total: Array
    n: int

    @classmethod
    def of(cls, comparisons: Comparisons) -> Decisive:
        """Without the ties. ValueError for outcomes other than 0, 0.5 and 1, weights that are not whole numbers,
        and where nothing is left: a test needs counts."""
        y, weight = np.asarray(comparisons.y), np.asarray(comparisons.weight)
        known = (y == 0.0) | (y == 0.5) | (y == 1.0)
        if not known.all():
            raise ValueError(f"the test needs outcomes of 0, 0.5 or 1, got {y[~known][0]}")
        if (weight != np.round(weight)).any():
            raise ValueError(
                f"the test needs whole numbers as weights, got {weight[weight != np.round(weight)][0]}"
            )
        if weight.sum() > LARGEST_TOTAL:
            raise ValueError(f"the test needs at most 2^53 comparisons, got {weight.sum():.3g}")
        x_a, x_b = np.asarray(comparisons.x_a), np.asarray(comparisons.x_b)
        at = np.minimum(x_a, x_b) * comparisons.n + np.maximum(x_a, x_b)
        keys, at = _compact(at, comparisons.n)
        total = np.bincount(at, np.where(y == 0.5, 0.0, weight), len(keys))
        won = np.bincount(at, np.where(y == np.where(x_a < x_b, 1.0, 0.0), weight, 0.0), len(keys))
        some = total > 0
        if not some.any():
            raise ValueError("the test needs decisive comparisons, got none")
        i, j = np.divmod(keys[some], comparisons.n)
        return cls(i, j, np.asarray(won[some], np.float64), np.asarray(total[some], np.float64), comparisons.n)

    @property
    def cycles(self) -> int:
        """E - n + C: the number of independent cycles, C connected components."""
        return len(self.total) - self.n + self._parts(np.ones(len(self.total), dtype=bool))

    def carried(self, inside: NDArray[np.bool_]) -> tuple[int, int]:
        """How many of the pairs `inside` (E,) were compared more than once, and their degrees of freedom.

        Against one comparison no model is rejected: such pairs only help to find omega. Of R repeated pairs
        R - C_once + C_all test it, with C components of the graph of pairs compared once, and of all pairs.
        """
        once = inside & (self.total == 1)
        repeated = int((inside & (self.total > 1)).sum())
        return repeated, repeated - self._parts(once) + self._parts(inside)

    def _parts(self, kept: NDArray[np.bool_]) -> int:
        graph = sparse.coo_array((np.ones(kept.sum()), (self.i[kept], self.j[kept])), shape=(self.n, self.n))
        return int(connected_components(graph, directed=False)[0])

    def wins(self, won: Array) -> sparse.csr_array:
        """(n, n) counts of which i won `won` (E,)."""
        at = (np.concatenate([self.i, self.j]), np.concatenate([self.j, self.i]))
        wins = sparse.coo_array((np.concatenate([won, self.total - won]), at), shape=(self.n, self.n)).tocsr()
        wins.eliminate_zeros()
        return sparse.csr_array(wins)


class Refits(NamedTuple):
    """Of B data sets: G^2 (B,), G^2 less its mean (B,), df (B,), fitted probabilities (B, E), and labels of
    the strong components (B, n)."""

    deviance: Array
    centred: Array
    df: Array
    fitted: Array
    label: Indices


def refit(data: Decisive, won: Array, start: Array | None = None) -> Refits:
    """The fits of B data sets won (B, E).

    The mean is that of data with the fitted probabilities: where pairs have one comparison or two, G^2 says more
    about how far a fit is spread than how well it fits, and fits of simulated data are spread further than the
    fit that they come from. A data set without a finite fit enters with the supremum of its likelihood: its
    strong components are fitted by themselves, and between them the fit reaches 0 or 1. start: (E,) near the fits.
    """
    label = _labels(data, won)
    inside = label[:, data.i] == label[:, data.j]
    df = inside.sum(axis=1) - data.n + label.max(axis=1) + 1
    near = (won + 0.5) / (data.total + 1)
    fitted, statistic = won / data.total, np.zeros(len(won))
    for rows in _batches(len(won), data.n) if df.any() else ():  # else every data set is explained perfectly
        begin = near[rows] if start is None else np.broadcast_to(start, near[rows].shape)
        omega = _omegas(data, won[rows], label[rows], inside[rows], begin)
        margins = omega[:, data.i] - omega[:, data.j]
        fitted[rows] = np.where(inside[rows], expit(margins), fitted[rows])
        missed = np.where(inside[rows], deviance(won[rows], data.total, margins), 0.0)
        statistic[rows] = missed.sum(axis=1)
    return Refits(statistic, statistic - expected_deviance(data.total, fitted), df, fitted, label)


def _compact(keys: Indices, n: int) -> tuple[Indices, Indices]:
    """The distinct keys < n^2 in order, and the place of each key among them: by counting where n^2 is small."""
    if n * n > 8 * len(keys) + 1_000_000:
        distinct, place = np.unique(keys, return_inverse=True)
        return distinct, place
    return np.arange(n * n), keys


def _labels(data: Decisive, won: Array) -> Indices:
    """(B, n): the strong component of each item, searched row by row where there are several."""
    label = np.zeros((len(won), data.n), dtype=np.intp)
    for row in np.flatnonzero(~_strong(data, won)):
        for k, component in enumerate(strong_components(data.wins(won[row]))):
            label[row, component] = k
    return label


def _strong(data: Decisive, won: Array) -> NDArray[np.bool_]:
    """(B,): whether item 0 reaches every item by wins and is reached by every item; False above BATCH_ITEMS."""
    strong = np.zeros(len(won), dtype=bool)
    if data.n > BATCH_ITEMS:
        return strong
    for rows in _batches(len(won), data.n):
        beats = np.zeros((len(won[rows]), data.n, data.n), dtype=np.float32)
        beats[:, data.i, data.j] = won[rows] > 0
        beats[:, data.j, data.i] = won[rows] < data.total
        strong[rows] = _reaches_all(beats) & _reaches_all(beats.transpose(0, 2, 1))
    return strong


def _reaches_all(beats: NDArray[np.float32]) -> NDArray[np.bool_]:
    reached = np.zeros((len(beats), 1, beats.shape[1]), dtype=np.float32)
    reached[:, :, 0], count = 1, 0
    while reached.sum() > count:
        count = reached.sum(dtype=np.float64)
        reached = np.minimum(reached + reached @ beats, 1)
    return np.asarray(reached.all(axis=(1, 2)))


def _batches(count: int, n: int) -> Iterator[slice]:
    size = max(1, BATCH_ENTRIES // n**2)
    return (slice(first, first + size) for first in range(0, count, size))


def _omegas(data: Decisive, won: Array, label: Indices, inside: Array, start: Array) -> Array:
    """omega (B, n): all data sets at once while they are small, one by one where that misses the certificate."""
    if data.n <= BATCH_ITEMS:
        try:
            return _newton(data, won, label, inside, start)
        except NotConvergedError:
            pass
    rows = progress_bar(range(len(won)), desc="refitting", shown=len(won) > 1)
    return np.stack([_each_component(data, won[row], label[row]) for row in rows])


def _newton(data: Decisive, won: Array, label: Indices, inside: Array, start: Array) -> Array:
    """omega (B, n) of B data sets, Newton damped as in `solvers/newton.py`, from probabilities start (B, E).

    Adding the same for every two items of one component makes each Laplacian positive definite, and changes no
    step: slopes sum to 0 over a component. It is as large as the curvatures: huge counts would round it away.
    """
    n, i, j = data.n, data.i, data.j
    clipped = np.clip(start, 1e-3, 1 - 1e-3)
    omega = potentials(i, j, data.total, np.log(clipped) - np.log1p(-clipped), n)
    ends = sparse.csr_array(
        sparse.coo_array(
            (np.repeat([1.0, -1.0], len(i)), (np.concatenate([i, j]), np.tile(np.arange(len(i)), 2))),
            shape=(n, len(i)),
        )
    )
    together = (label[:, :, None] == label[:, None, :]).astype(np.float64)
    diagonal = np.arange(n)
    for _ in range(NEWTON_LIMIT):
        probability = expit(omega[:, i] - omega[:, j])
        slope = (ends @ np.where(inside, won - data.total * probability, 0.0).T).T
        curvature = np.where(inside, data.total * probability * (1 - probability), 0.0)
        scale = curvature.max(axis=1)
        laplacian = together * np.where(scale > 0, scale, 1.0)[:, None, None]
        laplacian[:, i, j] -= curvature
        laplacian[:, j, i] -= curvature
        laplacian[:, diagonal, diagonal] += (abs(ends) @ curvature.T).T
        d = np.linalg.solve(laplacian, slope[:, :, None])[:, :, 0]
        reach = np.ptp(d, axis=1, keepdims=True)
        omega += d * np.where(reach <= 1, 1.0, np.log1p(reach) / np.maximum(reach, 1.0))
        if (reach <= STEP_ALLOWED).all():
            return omega
    raise NotConvergedError(f"a fit missed its certificate: the last Newton step is {reach.max():.1e}")


def _each_component(data: Decisive, won: Array, label: Indices) -> Array:
    wins, omega = data.wins(won), np.zeros(data.n)
    order = np.argsort(label, kind="stable")
    for part in np.split(order, np.cumsum(np.bincount(label))[:-1]):
        if len(part) > 1:
            with np.errstate(all="ignore"):  # what overflows ends as a step that is not finite, and is refused
                omega[part] = minimize(Pairs.of(sparse.csr_array(wins[part][:, part])))[0]
    return omega
