"""Can one annotator have produced these comparisons? A likelihood-ratio test, and how cyclic they are.

Every PBDE has a preference probability sigmoid(omega_i - omega_j) for some omega, and every omega belongs to
some density of every PBDE: the test is the same for all of them. Against a probability of its own for each of
the E compared pairs the statistic is

    G^2 = 2 sum_ij W_ij log( (W_ij / n_ij) / sigmoid(omega_i - omega_j) ),     df = E - n + C,

with C connected components; df is the number of independent cycles. Only decisive comparisons count: a tie is
not two halves of an independent observation. Chi-squared is trusted where at most 20 % of the pairs expect a
count below 5; elsewhere the law of G^2 is simulated from the fit.

How often it rejects at a nominal 5 % where one Luce annotator did judge, and how often the 95 % intervals of
log p cover, in 1,000 simulated data sets of each design (`python -m reference calibrate`):

    design                                           rejected   covered   bootstrap   no finite fit
    8 items, all 28 pairs, 40 comparisons each          6.3 %    94.9 %        42 %           0.0 %
    20 items, 6 opponents each, 6 comparisons           6.0 %    94.8 %       100 %           4.6 %
    12 items, all pairs, 2 to 200 comparisons           5.7 %    95.3 %       100 %           0.8 %

The intervals are those of the fits that are finite.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy import sparse
from scipy.special import expit, xlogy
from scipy.stats import chi2
from tqdm import tqdm

from reference.annotators import Indices
from reference.comparisons import Comparisons
from reference.hodge import Triangle, cyclic_share, potentials, worst_triangles
from reference.laplacian import NotConvergedError
from reference.newton import Pairs, minimize
from reference.optimum import strong_components
from reference.pbde import Array

SMALL_CELL = 5.0  # expected wins or losses below this spoil the chi-squared law ...
SMALL_SHARE = 0.2  # ... of pairs, where more than this share of them has such a cell (Cochran 1954)
BATCH_ITEMS = 200  # graphs up to this size are refitted in dense batches ...
BATCH_ENTRIES = 4_000_000  # ... of at most this many matrix entries
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
        if not np.isin(y, (0.0, 0.5, 1.0)).all():
            raise ValueError(f"the test needs outcomes of 0, 0.5 or 1, got {y[~np.isin(y, (0, 0.5, 1))][0]}")
        if (weight != np.round(weight)).any():
            raise ValueError(
                f"the test needs whole numbers as weights, got {weight[weight != np.round(weight)][0]}"
            )
        wins = comparisons.only(y != 0.5).wins()
        either = sparse.triu(wins + wins.T, 1).tocoo()
        if not either.nnz:
            raise ValueError("the test needs decisive comparisons, got none")
        won = np.asarray(wins[either.row, either.col]).ravel()
        return cls(either.row.astype(np.intp), either.col.astype(np.intp), won, either.data, comparisons.n)

    def wins(self, won: Array) -> sparse.csr_array:
        """(n, n) counts of which i won `won` (E,)."""
        at = (np.concatenate([self.i, self.j]), np.concatenate([self.j, self.i]))
        wins = sparse.coo_array((np.concatenate([won, self.total - won]), at), shape=(self.n, self.n)).tocsr()
        wins.eliminate_zeros()
        return sparse.csr_array(wins)


@dataclass(frozen=True)
class GoodnessOfFit:
    """The test of one annotator against a probability of its own for every pair.

    comparisons: decisive ones; ties: weight left out; pairs: E. statistic: G^2; df: its degrees of freedom;
    expected: its mean under the fit, df or that of the bootstrap.
    small_cells: the share of pairs with an expected count below 5. replicates: of the bootstrap that gave p_value;
    0 where the chi-squared law did. p_value: NaN where df = 0. cyclic_share: of 2 p - 1 (reference/hodge.py), and
    its median over data simulated from the fit, NaN without simulation. finite: whether the decisive comparisons
    have a finite fit; where not, the supremum of the likelihood stands in. triangles: the least consistent.
    """

    comparisons: int
    ties: float
    pairs: int
    statistic: float
    df: int
    expected: float
    small_cells: float
    replicates: int
    p_value: float
    cyclic_share: float
    cyclic_share_median: float
    finite: bool
    triangles: tuple[Triangle, ...]

    @property
    def excess(self) -> float:
        """(G^2 - expected) / 2 per comparison: about how many nats of Eq. 8 one annotator misses, noise apart."""
        return (self.statistic - self.expected) / (2 * self.comparisons)


def goodness_of_fit(comparisons: Comparisons, replicates: int = 199, seed: int = 0) -> GoodnessOfFit:
    """The verdict on a graph of comparisons, by chi-squared or by a parametric bootstrap of `replicates`.

    The bootstrap keeps pairs and totals, draws wins from the fit and fits again: p = (1 + exceedances) / (B + 1).
    replicates 0: chi-squared in any case, and no median of the cyclic share. ValueError as in Decisive.of, and
    for replicates or seeds < 0.
    """
    if replicates < 0 or seed < 0:
        raise ValueError(f"replicates and seed must be >= 0, got {replicates} and {seed}")
    data = Decisive.of(comparisons)
    deviance, fitted, df = (value[0] for value in refit(data, data.won[None]))
    expected = data.total * np.minimum(fitted, 1 - fitted)
    inner = (fitted > 0) & (fitted < 1)
    small_cells = float(np.mean(expected[inner] < SMALL_CELL)) if inner.any() else 0.0
    simulate = replicates > 0 and small_cells > SMALL_SHARE and df > 0
    p_value = float(chi2.sf(deviance, df)) if df > 0 else np.nan
    median, mean = np.nan, float(df)
    if replicates:
        rng = np.random.default_rng(seed)
        won = rng.binomial(data.total.astype(np.int64), fitted, (replicates, len(fitted))).astype(np.float64)
        median = float(np.median(cyclic_share(data.i, data.j, data.total, won, data.n)))
        if simulate:
            simulated = refit(data, won, np.asarray(fitted))[0]
            mean = float(simulated.mean())
            exceeding = int(
                np.sum(simulated >= deviance * (1 - 1e-9))
            )  # ties in G^2 count, whatever their rounding
            p_value = (1 + exceeding) / (replicates + 1)
    return GoodnessOfFit(
        comparisons=int(data.total.sum()),
        ties=comparisons.ties + comparisons.ties_left_out,
        pairs=len(data.total),
        statistic=float(deviance),
        df=int(df),
        expected=mean,
        small_cells=small_cells,
        replicates=replicates if simulate else 0,
        p_value=p_value,
        cyclic_share=float(cyclic_share(data.i, data.j, data.total, data.won[None], data.n)[0]),
        cyclic_share_median=median,
        finite=bool(inner.all()),
        triangles=worst_triangles(data.i, data.j, data.total, data.won, np.asarray(fitted), data.n),
    )


def refit(data: Decisive, won: Array, start: Array | None = None) -> tuple[Array, Array, Array]:
    """G^2 (B,), fitted probabilities (B, E) and df (B,) of B data sets won (B, E) with the totals of `data`.

    A data set without a finite fit enters with the supremum of its likelihood: its strong components are fitted
    by themselves, and between them the fit reaches 0 or 1. start: probabilities (E,) near the fits.
    """
    label = np.stack([_labels(data, row) for row in won])
    inside = label[:, data.i] == label[:, data.j]
    fitted = np.where(inside, 0.5, won / data.total)
    if data.n <= BATCH_ITEMS:
        for rows in _batches(len(won), data.n):
            omega = _newton(data, won[rows], label[rows], inside[rows], start)
            margins = omega[:, data.i] - omega[:, data.j]
            fitted[rows] = np.where(inside[rows], expit(margins), fitted[rows])
    else:
        for row in tqdm(range(len(won)), disable=None if len(won) > 1 else True, desc="refitting", leave=False):
            omega = _each_component(data, won[row], label[row])
            fitted[row, inside[row]] = expit(omega[data.i] - omega[data.j])[inside[row]]
    lost, share = data.total - won, won / data.total
    saturated = xlogy(won, share) + xlogy(lost, 1 - share)
    explained = xlogy(won, fitted) + xlogy(lost, 1 - fitted)
    components = label.max(axis=1) + 1
    return 2 * (saturated - explained).sum(axis=1), fitted, inside.sum(axis=1) - data.n + components


def _labels(data: Decisive, won: Array) -> Indices:
    label = np.empty(data.n, dtype=np.intp)
    for k, component in enumerate(strong_components(data.wins(won))):
        label[component] = k
    return label


def _batches(count: int, n: int) -> Iterator[slice]:
    size = max(1, BATCH_ENTRIES // n**2)
    return (slice(first, first + size) for first in range(0, count, size))


def _newton(data: Decisive, won: Array, label: Indices, inside: Array, start: Array | None) -> Array:
    """omega (B, n) of B data sets, Newton damped as in reference/newton.py, all of them at once.

    Adding 1 for every two items of one component makes each Laplacian positive definite, and changes no step:
    slopes sum to 0 over a component.
    """
    count, n, i, j = len(won), data.n, data.i, data.j
    omega = np.zeros((count, n)) if start is None else np.tile(_from_probabilities(data, start), (count, 1))
    ends = sparse.csr_array(
        sparse.coo_array(
            (np.repeat([1.0, -1.0], len(i)), (np.concatenate([i, j]), np.tile(np.arange(len(i)), 2))),
            shape=(n, len(i)),
        )
    )
    together = (label[:, :, None] == label[:, None, :]).astype(np.float64)
    diagonal = np.arange(n)
    for _ in range(200):
        probability = expit(omega[:, i] - omega[:, j])
        slope = (ends @ np.where(inside, won - data.total * probability, 0.0).T).T
        curvature = np.where(inside, data.total * probability * (1 - probability), 0.0)
        laplacian = together.copy()
        laplacian[:, i, j] -= curvature
        laplacian[:, j, i] -= curvature
        laplacian[:, diagonal, diagonal] += (abs(ends) @ curvature.T).T
        d = np.linalg.solve(laplacian, slope[:, :, None])[:, :, 0]
        reach = np.ptp(d, axis=1, keepdims=True)
        omega += d * np.where(reach <= 1, 1.0, np.log1p(reach) / np.maximum(reach, 1.0))
        if (reach <= STEP_ALLOWED).all():
            return omega
    raise NotConvergedError(f"a fit missed its certificate: the last Newton step is {reach.max():.1e}")


def _from_probabilities(data: Decisive, probability: Array) -> Array:
    """omega (n,) whose margins are near the log odds of the probabilities (E,): weighted least squares."""
    clipped = np.clip(probability, 1e-3, 1 - 1e-3)
    log_odds = np.log(clipped) - np.log1p(-clipped)
    return np.asarray(potentials(data.i, data.j, data.total, log_odds[None], data.n)[0])


def _each_component(data: Decisive, won: Array, label: Indices) -> Array:
    wins, omega = data.wins(won), np.zeros(data.n)
    order = np.argsort(label, kind="stable")
    for part in np.split(order, np.cumsum(np.bincount(label))[:-1]):
        if len(part) > 1:
            omega[part] = minimize(Pairs.of(sparse.csr_array(wins[part][:, part])))[0]
    return omega
