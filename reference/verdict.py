"""Can one annotator have produced these comparisons? A likelihood-ratio test, and how cyclic they are.

Every PBDE has a preference probability sigmoid(omega_i - omega_j) for some omega, and every omega belongs to
some density of every PBDE: the test is the same for all of them. Against a probability of its own for each of
the E compared pairs the statistic is

    G^2 = 2 sum_ij W_ij log( (W_ij / n_ij) / sigmoid(omega_i - omega_j) ),     df = E - n + C,

with C connected components; df is the number of independent cycles. Only decisive comparisons count: a tie is
not two halves of an independent observation. Chi-squared is trusted where at most 20 % of the pairs expect a
count below 5; elsewhere the law of G^2, centred at its mean under each fit, is simulated from the fit.

How often it rejects at a nominal 5 % where one Luce annotator did judge, and how often the 95 % intervals of
log p cover, in 1,000 simulated data sets of each design (`python -m reference calibrate`):

    design                                           rejected   covered   bootstrap   no finite fit
    8 items, all 28 pairs, 40 comparisons each          6.3 %    94.9 %        42 %           0.0 %
    20 items, 6 opponents each, 6 comparisons           4.1 %    94.8 %       100 %           4.6 %
    12 items, all pairs, 2 to 200 comparisons           5.0 %    95.3 %       100 %           0.8 %
    30 items, 300 comparisons, most pairs once          5.2 %    94.8 %       100 %          25.8 %

The intervals are those of the fits that are finite.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy import sparse
from scipy.sparse.csgraph import connected_components
from scipy.special import expit, gammaln, log_expit, xlog1py, xlogy
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
BATCH_ITEMS = 128  # graphs up to this size are refitted in dense batches
BATCH_ENTRIES = 4_000_000  # of a batch's largest array
NEWTON_LIMIT = 100  # steps of a batch
EXACT_TOTAL = 200  # comparisons of a pair up to which the mean of its G^2 is summed over the binomial
MANY = 20.0  # expected counts from which a pair's G^2 has mean 1
LOWEST = -1e300  # stands for log 0 under a weight of 0
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
        if not np.isin(y, (0.0, 0.5, 1.0)).all():
            raise ValueError(f"the test needs outcomes of 0, 0.5 or 1, got {y[~np.isin(y, (0, 0.5, 1))][0]}")
        if (weight != np.round(weight)).any():
            raise ValueError(
                f"the test needs whole numbers as weights, got {weight[weight != np.round(weight)][0]}"
            )
        if weight.sum() > LARGEST_TOTAL:
            raise ValueError(f"the test needs at most 2^53 comparisons, got {weight.sum():.3g}")
        wins = comparisons.only(y != 0.5).wins()
        either = sparse.triu(wins + wins.T, 1).tocoo()
        if not either.nnz:
            raise ValueError("the test needs decisive comparisons, got none")
        won = np.asarray(wins[either.row, either.col]).ravel()
        return cls(either.row.astype(np.intp), either.col.astype(np.intp), won, either.data, comparisons.n)

    @property
    def cycles(self) -> int:
        """E - n + C: the number of independent cycles, C connected components."""
        graph = sparse.coo_array((self.total, (self.i, self.j)), shape=(self.n, self.n))
        return len(self.total) - self.n + int(connected_components(graph, directed=False)[0])

    def wins(self, won: Array) -> sparse.csr_array:
        """(n, n) counts of which i won `won` (E,)."""
        at = (np.concatenate([self.i, self.j]), np.concatenate([self.j, self.i]))
        wins = sparse.coo_array((np.concatenate([won, self.total - won]), at), shape=(self.n, self.n)).tocsr()
        wins.eliminate_zeros()
        return sparse.csr_array(wins)


@dataclass(frozen=True)
class GoodnessOfFit:
    """The test of one annotator against a probability of its own for every pair.

    comparisons: decisive ones; ties: weight left out; pairs: E. statistic: G^2; df: its degrees of freedom, of
    the parts that have a finite fit; cycles: E - n + C. surplus: G^2 beyond what one annotator would show.
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
    cycles: int
    surplus: float
    small_cells: float
    replicates: int
    p_value: float
    cyclic_share: float
    cyclic_share_median: float
    finite: bool
    triangles: tuple[Triangle, ...]

    @property
    def expected(self) -> float:
        """G^2 that one annotator would show: df for large counts; the bootstrap's mean for small ones."""
        return self.statistic - self.surplus

    @property
    def excess(self) -> float:
        """surplus / 2 per comparison: about how many nats of Eq. 8 one annotator misses, noise apart."""
        return self.surplus / (2 * self.comparisons)


def goodness_of_fit(comparisons: Comparisons, replicates: int = 199, seed: int = 0) -> GoodnessOfFit:
    """The verdict on a graph of comparisons, by chi-squared or by a parametric bootstrap of `replicates`.

    The bootstrap keeps pairs and totals, draws wins from the fit and fits again: p = (1 + exceedances) / (B + 1).
    replicates 0: chi-squared in any case, and no median of the cyclic share. ValueError as in Decisive.of, and
    for replicates or seeds < 0; NotConvergedError where a fit misses its certificate.
    """
    if replicates < 0 or seed < 0:
        raise ValueError(f"replicates and seed must be >= 0, got {replicates} and {seed}")
    data = Decisive.of(comparisons)
    deviance, centred_deviance, df, fitted = (value[0] for value in refit(data, data.won[None]))
    inner = (fitted > 0) & (fitted < 1)
    small = data.total * np.minimum(fitted, 1 - fitted) < SMALL_CELL
    small_cells = float(np.mean(small[inner])) if inner.any() else 0.0
    simulate = replicates > 0 and small_cells > SMALL_SHARE and df > 0
    shares, null = _simulated(data, fitted, replicates, seed, simulate)
    p_value = float(chi2.sf(deviance, df)) if df > 0 else np.nan
    if simulate:
        exceeding = int(np.sum(null >= centred_deviance - 1e-9 * (1 + deviance)))  # equal but for rounding counts
        p_value = (1 + exceeding) / (replicates + 1)
    return GoodnessOfFit(
        comparisons=int(data.total.sum()),
        ties=comparisons.ties + comparisons.ties_left_out,
        pairs=len(data.total),
        statistic=float(deviance),
        df=int(df),
        cycles=data.cycles,
        surplus=float(centred_deviance - null.mean() if simulate else deviance - df),
        small_cells=small_cells,
        replicates=replicates if simulate else 0,
        p_value=p_value,
        cyclic_share=float(cyclic_share(data.i, data.j, data.total, data.won[None], data.n)[0]),
        cyclic_share_median=float(np.median(shares)) if replicates else np.nan,
        finite=bool(inner.all()),
        triangles=worst_triangles(data.i, data.j, data.total, data.won, fitted, data.n),
    )


def _simulated(data: Decisive, fitted: Array, replicates: int, seed: int, test: bool) -> tuple[Array, Array]:
    """Cyclic shares (B,) and, for the test, centred statistics (B,) of data sets drawn from the fit."""
    rng, shares, statistics = np.random.default_rng(seed), [np.zeros(0)], [np.zeros(0)]
    size = max(1, BATCH_ENTRIES // len(fitted))
    for first in range(0, replicates, size):
        shape = (min(size, replicates - first), len(fitted))
        won = rng.binomial(data.total.astype(np.int64), fitted, shape).astype(np.float64)
        shares.append(cyclic_share(data.i, data.j, data.total, won, data.n))
        if test:
            statistics.append(refit(data, won, fitted)[1])
    return np.concatenate(shares), np.concatenate(statistics)


def refit(data: Decisive, won: Array, start: Array | None = None) -> tuple[Array, Array, Array, Array]:
    """G^2 (B,), G^2 less its mean (B,), df (B,) and fitted probabilities (B, E), of B data sets won (B, E).

    The mean is that of data with the fitted probabilities: where pairs have one comparison or two, G^2 says more
    about how far a fit is spread than how well it fits, and fits of simulated data are spread further than the
    fit that they come from. A data set without a finite fit enters with the supremum of its likelihood: its
    strong components are fitted by themselves, and between them the fit reaches 0 or 1. start: (E,) near the fits.
    """
    label = np.stack([_labels(data, row) for row in won])
    inside = label[:, data.i] == label[:, data.j]
    df = inside.sum(axis=1) - data.n + label.max(axis=1) + 1
    fitted, near = won / data.total, (won + 0.5) / (data.total + 1)
    if not df.any():  # every data set is explained perfectly
        return np.zeros(len(won)), -expected_deviance(data.total, fitted), df, fitted
    lost, explained = data.total - won, np.zeros_like(won)
    for rows in _batches(len(won), data.n):
        begin = near[rows] if start is None else np.broadcast_to(start, near[rows].shape)
        omega = _omegas(data, won[rows], label[rows], inside[rows], begin)
        margins = omega[:, data.i] - omega[:, data.j]
        fitted[rows] = np.where(inside[rows], expit(margins), fitted[rows])
        likelihood = won[rows] * log_expit(margins) + lost[rows] * log_expit(-margins)
        explained[rows] = np.where(inside[rows], likelihood, 0.0)
    saturated = xlogy(won, won / data.total) + xlogy(lost, lost / data.total)
    deviance = np.maximum(2 * (saturated - explained).sum(axis=1), 0.0)
    return deviance, deviance - expected_deviance(data.total, fitted), df, fitted


def expected_deviance(total: Array, prob: Array) -> Array:
    """(B,): sum over E pairs of E 2 log(binomial at k / n : at p), k ~ Binomial(n, p), for p (B, E), n (E,).

    A pair adds 0 at p = 0 or 1, and 1 where many of both outcomes are expected. Above 200 comparisons the rarer
    outcome's count is taken for Poisson, and where 20 of it are expected the sum for 1.
    """
    mean = np.zeros(len(prob))
    for n in np.unique(total):
        p = prob[:, total == n]
        if n <= EXACT_TOTAL:
            terms = _binomial_deviance(int(n), p)
        else:
            rate = n * np.minimum(p, 1 - p)
            terms = np.where(rate < MANY, _poisson_deviance(np.minimum(rate, MANY)), 1.0)
        mean += terms.sum(axis=1)
    return mean


def _binomial_deviance(n: int, p: Array) -> Array:
    mean = np.zeros_like(p)
    for k in range(n + 1):
        at_p = xlogy(k, p) + xlog1py(n - k, -p)
        at_share = xlogy(k, k / n) + xlogy(n - k, 1 - k / n)
        weight = np.exp(gammaln(n + 1) - gammaln(k + 1) - gammaln(n - k + 1) + at_p)
        mean += np.where(weight > 0, weight * 2 * (at_share - np.maximum(at_p, LOWEST)), 0.0)
    return mean


def _poisson_deviance(rate: Array) -> Array:
    mean = np.zeros_like(rate)
    for k in range(int(5 * MANY)):
        weight = np.exp(xlogy(k, rate) - rate - gammaln(k + 1))
        mean += np.where(
            weight > 0, weight * 2 * (xlogy(k, max(k, 1)) - np.maximum(xlogy(k, rate), LOWEST) - k + rate), 0.0
        )
    return mean


def _labels(data: Decisive, won: Array) -> Indices:
    label = np.empty(data.n, dtype=np.intp)
    for k, component in enumerate(strong_components(data.wins(won))):
        label[component] = k
    return label


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
    rows = tqdm(range(len(won)), disable=None if len(won) > 1 else True, desc="refitting", leave=False)
    return np.stack([_each_component(data, won[row], label[row]) for row in rows])


def _newton(data: Decisive, won: Array, label: Indices, inside: Array, start: Array) -> Array:
    """omega (B, n) of B data sets, Newton damped as in reference/newton.py, from probabilities start (B, E).

    Adding 1 for every two items of one component makes each Laplacian positive definite, and changes no step:
    slopes sum to 0 over a component.
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


def _each_component(data: Decisive, won: Array, label: Indices) -> Array:
    wins, omega = data.wins(won), np.zeros(data.n)
    order = np.argsort(label, kind="stable")
    for part in np.split(order, np.cumsum(np.bincount(label))[:-1]):
        if len(part) > 1:
            with np.errstate(all="ignore"):  # what overflows ends as a step that is not finite, and is refused
                omega[part] = minimize(Pairs.of(sparse.csr_array(wins[part][:, part])))[0]
    return omega
