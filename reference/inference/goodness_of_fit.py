"""Can one annotator have produced these comparisons? A likelihood-ratio test, and how cyclic they are.

Every PBDE has a preference probability sigmoid(omega_i - omega_j) for some omega, and every omega belongs to
some density of every PBDE: the test is the same for all of them. Against a probability of its own for each of
the E compared pairs the statistic is

    G^2 = 2 sum_ij W_ij log( (W_ij / n_ij) / sigmoid(omega_i - omega_j) ),     df = E - n + C,

with C connected components; df is the number of independent cycles. Only decisive comparisons count: a tie is
not two halves of an independent observation. The p-value is that of c chi-squared(nu) with the mean and variance
that G^2 has under the fit, where at most 20 % of the pairs expect a count below 5 or where 500 degrees of freedom
and more add up; elsewhere the distribution of G^2, centred at its mean under each fit, is simulated from the fit.

Pairs compared once carry nothing: where no cycle has a repeated pair, G^2 equals its mean under the fit, whatever
the data, and the number of cyclic triads is tested instead (`triads.py`).

How often it rejects at a nominal 5 %, where one Luce annotator did judge and where two did: `calibration.py`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.sparse import coo_array
from scipy.stats import chi2

from reference.comparisons import Comparisons
from reference.errors import NotConvergedError
from reference.inference.deviance import moments
from reference.inference.hodge_rank import Triangle, cyclic_share, worst_triangles
from reference.inference.monte_carlo import simulated_p_value
from reference.inference.refit import BATCH_ENTRIES, Decisive, Refits, refit
from reference.inference.triads import Triads, cyclic_triads
from reference.pbde import Array

SMALL_CELL = 5.0  # expected wins or losses below this spoil the moments' law ...
SMALL_SHARE = 0.2  # ... of pairs, where more than this share of them has such a cell (Cochran 1954),
MANY_DF = 500  # unless so many degrees of freedom add up that their sum is normal
DENSE_ITEMS = 2000  # graphs up to this size have the exact mean and variance of G^2
SHARE_ENTRIES = 500_000  # simulated wins that the median of the cyclic share is taken from
MOST_REPLICATES = 255_999  # of a bootstrap that does not settle the verdict,
REFITTED = 4e7  # and about so many entries of the matrices that it factorises: half a minute
LEVEL = 0.05


@dataclass(frozen=True)
class GoodnessOfFit:
    """The test of one annotator against a probability of its own for every pair.

    comparisons: decisive ones; ties: weight left out; pairs: E. statistic: G^2; df: its degrees of freedom, of
    the parts that have a finite fit; cycles: E - n + C. surplus: G^2 beyond what one annotator would show.
    small_cells: the share of pairs with an expected count below 5. replicates: of the bootstrap that gave p_value;
    0 where the chi-squared law did. p_value: NaN where df = 0. cyclic_share: of 2 p - 1 (`hodge_rank.py`), and
    its median over data simulated from the fit, NaN without simulation. finite: whether the decisive comparisons
    have a finite fit; where not, the supremum of the likelihood stands in. triangles: the least consistent.
    repeated: pairs compared more than once that have a finite fit; carried: the df that these have, on which the
    test rests. p_value is NaN where there are none. triads: the test of the pairs compared once, where these pairs
    leave G^2 without one. error: the standard error of a bootstrap's p_value, 0 otherwise; settled: whether it is
    clear on which side of 5 % it is.
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
    repeated: int
    carried: int
    triads: Triads | None = None
    error: float = 0.0
    settled: bool = True

    @property
    def pooled_p(self) -> float:
        """That of G^2; where it cannot be tested, that of the cyclic triads; NaN where there is neither."""
        if np.isnan(self.p_value) and self.triads is not None:
            return self.triads.p_value
        return self.p_value

    @property
    def expected(self) -> float:
        """G^2 that one annotator would show: df for large counts; the bootstrap's mean for small ones."""
        return self.statistic - self.surplus

    @property
    def excess(self) -> float:
        """surplus / 2 per comparison: about how many nats of Eq. 8 one annotator misses, noise apart."""
        return self.surplus / (2 * self.comparisons)


def goodness_of_fit(comparisons: Comparisons, replicates: int = 199, seed: int = 0) -> GoodnessOfFit:
    """Can one annotator have judged? G^2 of the fit, against chi-squared or a parametric bootstrap.

    Parameters
    ----------
    comparisons : Comparisons
        Outcomes of 0, 0.5 (left out) and 1; weights that are whole numbers.
    replicates : int
        Data sets of the bootstrap at first; more are simulated until the verdict at 5 % is settled, at most
        MOST_REPLICATES. It is used where cells are small. 0: chi-squared in any case, and no median of the cyclic
        share.
    seed : int
        Of the bootstrap, >= 0.

    Returns
    -------
    GoodnessOfFit
        The bootstrap keeps pairs and totals, draws wins from the fit and fits again.

    Raises
    ------
    ValueError
        For other outcomes and weights, no decisive comparison, a seed < 0, and replicates that cannot reject.
    NotConvergedError
        A fit misses its certificate.
    """
    if replicates < 0 or seed < 0:
        raise ValueError(f"replicates and seed must be >= 0, got {replicates} and {seed}")
    if 0 < replicates < round(1 / LEVEL) - 1:
        raise ValueError(
            f"a bootstrap of {replicates} cannot reject at the 5 % level: its least p-value is "
            f"{1 / (replicates + 1):.3g}; take at least {round(1 / LEVEL) - 1}, or 0 for none"
        )
    data = Decisive.of(comparisons)
    found = refit(data, data.won[None])
    deviance, df, fitted = found.deviance[0], int(found.df[0]), found.fitted[0]
    inside = found.label[0, data.i] == found.label[0, data.j]
    repeated, carried = data.carried(inside)
    inner = (fitted > 0) & (fitted < 1)
    small = data.total * np.minimum(fitted, 1 - fitted) < SMALL_CELL
    small_cells = float(np.mean(small[inner])) if inner.any() else 0.0
    simulate = replicates > 0 and small_cells > SMALL_SHARE and 0 < carried < MANY_DF
    share, shares = _shares(data, fitted, replicates, seed)
    mean, p_value = float(df), np.nan
    if carried:
        mean, variance = _null_moments(data, found, inside)
        if variance > 0 and mean > 0:
            p_value = float(chi2.sf(2 * mean * deviance / variance, 2 * mean**2 / variance))
    simulated, triads = None, None
    if simulate:
        rng = np.random.default_rng([seed, 1])
        most = int(min(MOST_REPLICATES, max(replicates, REFITTED / (len(fitted) + data.n**2))))
        centred = float(found.centred[0])
        simulated = simulated_p_value(
            lambda count: _simulated(data, fitted, count, rng), centred, LEVEL, replicates, most
        )
        p_value, mean = simulated.p_value, float(deviance - centred + simulated.null.mean())
    if data.cycles and not data.carried(np.ones_like(inside))[1]:
        once = data.total == 1
        triads = cyclic_triads(data.i[once], data.j[once], data.won[once], data.n, seed, LEVEL)
    return GoodnessOfFit(
        comparisons=int(data.total.sum()),
        ties=comparisons.ties + comparisons.ties_left_out,
        pairs=len(data.total),
        statistic=float(deviance),
        df=df,
        cycles=data.cycles,
        surplus=float(deviance - mean),
        small_cells=small_cells,
        replicates=0 if simulated is None else len(simulated.null),
        p_value=p_value,
        cyclic_share=share,
        cyclic_share_median=float(np.median(shares)) if len(shares) else np.nan,
        finite=bool(inner.all()),
        triangles=worst_triangles(data.i, data.j, data.total, data.won, fitted, data.n),
        repeated=repeated,
        carried=carried,
        triads=triads,
        error=0.0 if simulated is None else simulated.error,
        settled=simulated is None or simulated.settled,
    )


def _null_moments(data: Decisive, found: Refits, inside: Array) -> tuple[float, float]:
    """The mean and the variance of G^2 under the fit, to first order in 1 / comparisons of an item.

    With D the deviance of a pair, x = k - np, L the Fisher information, R_e = (e_i - e_j)' L^+ (e_i - e_j), and
    the bias b of the margins, L b = -1/2 sum_e npq (q - p) R_e (e_i - e_j):

        mean = sum_e E D - b_e cov(D, k) - R_e cov(D, x^2) / 2,
        variance = sum_e var D - c' L^+ c,     c = sum_e cov(D, k) (e_i - e_j).

    For large counts df and 2 df; for one comparison a pair G^2 itself and 0. McCullagh 1986 has such moments.
    """
    prob, total = found.fitted[0], data.total
    of_pairs = moments(total, prob[None])
    spread = np.where(inside, total * prob * (1 - prob), 0.0)
    if data.n > DENSE_ITEMS:
        lost = float(inside.sum() - found.df[0])
        return float(of_pairs.mean.sum()) - lost, float(of_pairs.variance.sum()) - 2 * lost
    one_way = coo_array((spread, (data.i, data.j)), shape=(data.n, data.n)).toarray()
    both = one_way + one_way.T
    laplacian = np.diag(both.sum(axis=1)) - both
    # L + s sum_C 1_C 1_C' over the parts C is regular; its inverse differs from L^+ by a constant in each part
    together = found.label[0][:, None] == found.label[0]
    inverse = np.linalg.inv(laplacian + max(both.max(), np.finfo(float).tiny) * together)
    resistance = np.diag(inverse)[data.i] + np.diag(inverse)[data.j] - 2 * inverse[data.i, data.j]
    with_count = np.where(inside, of_pairs.with_count[0], 0.0)
    c = _at_items(data, with_count)
    bias = inverse @ _at_items(data, -spread * (1 - 2 * prob) * resistance / 2)
    fitted_away = np.where(inside, of_pairs.with_square[0], 0.0) @ resistance / 2
    mean = of_pairs.mean.sum() - c @ bias - fitted_away
    return float(mean), float(of_pairs.variance.sum() - c @ inverse @ c)


def _at_items(data: Decisive, flow: Array) -> Array:
    return np.asarray(np.bincount(data.i, flow, data.n) - np.bincount(data.j, flow, data.n), np.float64)


def _shares(data: Decisive, fitted: Array, replicates: int, seed: int) -> tuple[float, Array]:
    """The cyclic share, and that of data sets drawn from the fit: fewer where many pairs make them all alike.

    NaN and none where the potentials miss their tolerance: the test does not need them.
    """
    count = min(replicates, max(9, SHARE_ENTRIES // len(fitted)))
    won = np.random.default_rng(seed).binomial(data.total.astype(np.int64), fitted, (count, len(fitted)))
    try:
        every = np.concatenate([data.won[None], won.astype(np.float64)])
        shares = cyclic_share(data.i, data.j, data.total, every, data.n)
    except NotConvergedError:
        return np.nan, np.zeros(0)
    return float(shares[0]), shares[1:]


def _simulated(data: Decisive, fitted: Array, replicates: int, rng: np.random.Generator) -> Array:
    """Centred statistics (B,) of data sets drawn from the fit."""
    size, statistics = max(1, BATCH_ENTRIES // len(fitted)), []
    for first in range(0, replicates, size):
        shape = (min(size, replicates - first), len(fitted))
        won = rng.binomial(data.total.astype(np.int64), fitted, shape).astype(np.float64)
        statistics.append(refit(data, won, fitted).centred)
    return np.concatenate(statistics)
