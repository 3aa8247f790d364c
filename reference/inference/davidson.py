"""Ties with a parameter of their own, fitted along: Davidson 1970.

With strengths e^omega and nu = e^theta, the odds of i wins : j wins : tie are

    e^omega_i : e^omega_j : nu e^((omega_i + omega_j) / 2),

so that, given no tie, i wins with probability sigmoid(omega_i - omega_j) as before. The three logits are h, -h
and theta with h = (omega_i - omega_j) / 2: the likelihood is concave in (omega, theta).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import sparse
from scipy.optimize import linprog
from scipy.special import log_softmax, xlogy

from reference.annotators import Indices
from reference.comparisons import Comparisons
from reference.errors import NoFiniteFitError, NotConvergedError
from reference.inference.covariance import inverse
from reference.pbde import Array
from reference.solvers.laplacian import centred

STEP_ALLOWED = 1e-10  # the last Newton step in omega and theta, nats, or the rounding floor,
FLOOR_LIMIT = 1e-8  # as long as the step that the rounding of the slope can cause is below this
DIRECTION_LIMIT = 1e-7  # a direction of recession gains at least this much, or is rounding of the linear program


@dataclass(frozen=True, eq=False)
class PairCounts:
    """E compared pairs i < j of n items; outcomes (E, 3): how often i won, j won, and neither."""

    i: Indices
    j: Indices
    outcomes: Array
    n: int

    @classmethod
    def of(cls, comparisons: Comparisons) -> PairCounts:
        """ValueError where an outcome is neither a win (0 or 1) nor a tie (0.5)."""
        x_a, x_b, y = np.asarray(comparisons.x_a), np.asarray(comparisons.x_b), np.asarray(comparisons.y)
        if not np.isin(y, (0.0, 0.5, 1.0)).all():
            raise ValueError(f"Davidson's model needs y of 0, 0.5 or 1, got {y[~np.isin(y, (0, 0.5, 1))][0]}")
        low, high = np.minimum(x_a, x_b), np.maximum(x_a, x_b)
        kind = np.where(y == 0.5, 2, np.where((y == 1) == (x_a == low), 0, 1))
        observed = np.asarray(comparisons.weight) > 0
        keys, at = np.unique((low * comparisons.n + high)[observed], return_inverse=True)
        outcomes = np.zeros((len(keys), 3))
        np.add.at(outcomes, (at, kind[observed]), np.asarray(comparisons.weight)[observed])
        return cls(keys // comparisons.n, keys % comparisons.n, outcomes, comparisons.n)

    def with_ghost(self, prior: float) -> PairCounts:
        """Item n, the ghost, wins and loses `prior` comparisons with every other."""
        items = np.arange(self.n)
        against = np.tile([prior, prior, 0.0], (self.n, 1))
        return PairCounts(
            np.concatenate([self.i, items]),
            np.concatenate([self.j, np.full(self.n, self.n)]),
            np.concatenate([self.outcomes, against]),
            self.n + 1,
        )


@dataclass(frozen=True, eq=False)
class DavidsonOptimum:
    """omega (n,) with mean 0; theta = log nu; the covariance (n + 1, n + 1) of both; the certificate: the
    last Newton step in both plus a bound of what rounding may hide of it, in nats: both are right to this.
    """

    omega: Array
    theta: float
    covariance: Array
    newton_step: float


def log_probabilities(pairs: PairCounts, omega: Array, theta: float) -> Array:
    """(E, 3): log Prob of i wins, j wins, tie."""
    h = (omega[pairs.i] - omega[pairs.j]) / 2
    return np.asarray(log_softmax(np.stack([h, -h, np.full(len(h), theta)], axis=1), axis=1))


def saturated_log_likelihood(pairs: PairCounts) -> float:
    """What the log-likelihood could be at best, with three probabilities of its own for every pair."""
    share = pairs.outcomes / pairs.outcomes.sum(axis=1, keepdims=True)
    return float(xlogy(pairs.outcomes, share).sum())


def davidson(pairs: PairCounts) -> DavidsonOptimum:
    """The maximum of the likelihood, by Newton damped as in reference/solvers/newton.py.

    NoFiniteFitError where there is no finite maximum; NotConvergedError where the certificate is missed.
    """
    _check_finite(pairs)
    omega, theta = np.zeros(pairs.n), 0.0
    for _ in range(200):
        slope, information, size = _derivatives(pairs, omega, theta)
        try:
            step = np.asarray(np.linalg.solve(information, slope), dtype=np.float64)
        except np.linalg.LinAlgError:
            raise NotConvergedError("Davidson's model: the information is singular in float64") from None
        d, d_theta = centred(step[:-1]), float(step[-1])
        reach = float(np.ptp(d)) + abs(d_theta)  # no outcome's logit differs from another's by more
        damping = 1.0 if reach <= 1 else np.log1p(reach) / reach
        omega, theta = omega + damping * d, float(theta + damping * d_theta)
        if not np.isfinite(reach):
            break
        if reach <= FLOOR_LIMIT:
            floor = float(np.max(np.abs(inverse(information)) @ size))
            if reach <= max(STEP_ALLOWED, floor) and floor <= FLOOR_LIMIT:
                covariance = _covariance(pairs, omega, theta)
                return DavidsonOptimum(centred(omega), theta, covariance, reach + floor)
    raise NotConvergedError(
        f"Davidson's model missed its certificate: the last Newton step is {reach:.1e}; in float64 these "
        "counts may span too many decades"
    )


def _derivatives(pairs: PairCounts, omega: Array, theta: float) -> tuple[Array, Array, Array]:
    """Slope (n + 1,), information (n + 1, n + 1) in (omega, theta), the slope's rounding at worst, (n + 1,).

    The gauge of omega is pinned by k 11^T / n. The information is free of cancellation: with s = 1, -1, 0 for the
    three outcomes, the variances and the covariance of s / 2 and of a tie are sums of products of probabilities.
    """
    total = pairs.outcomes.sum(axis=1)
    log_p = log_probabilities(pairs, omega, theta)
    win, lose, tie = np.exp(log_p).T
    won, lost, tied = pairs.outcomes.T
    rounding = 8 * np.finfo(np.float64).eps * (1 + np.abs(log_p).max(axis=1) + np.abs(omega).max() + abs(theta))
    surplus = (won * (2 * lose + tie) - lost * (2 * win + tie) + tied * (lose - win)) / 2
    curvature = total * (tie * (win + lose) + 4 * win * lose) / 4
    mixed = -total * (win - lose) * tie / 2
    terms = rounding * (won * (2 * lose + tie) + lost * (2 * win + tie) + tied * (lose + win)) / 2
    slope, size = np.zeros(pairs.n + 1), np.zeros(pairs.n + 1)
    information = np.zeros((pairs.n + 1, pairs.n + 1))
    for end, sign in ((pairs.i, 1.0), (pairs.j, -1.0)):
        np.add.at(slope, end, sign * surplus)
        np.add.at(size, end, terms)
        np.add.at(information, (end, end), curvature)
        np.add.at(information[:, -1], end, sign * mixed)
    information[pairs.i, pairs.j] = information[pairs.j, pairs.i] = -curvature
    information[-1, :-1] = information[:-1, -1]
    information[:-1, :-1] += curvature.sum() / pairs.n**2
    slope[-1] = (tied * (win + lose) - (won + lost) * tie).sum()
    size[-1] = (rounding * (tied * (win + lose) + (won + lost) * tie)).sum()
    information[-1, -1] = (total * tie * (win + lose)).sum()
    return slope, information, size


def _covariance(pairs: PairCounts, omega: Array, theta: float) -> Array:
    covariance = inverse(_derivatives(pairs, omega, theta)[1])
    covariance[:-1] -= covariance[:-1].mean(axis=0)
    covariance[:, :-1] -= covariance[:, :-1].mean(axis=1, keepdims=True)
    return covariance


def _check_finite(pairs: PairCounts) -> None:
    """NoFiniteFitError where some direction never makes an observed outcome less likely, and one more likely.

    A linear program: the largest total gain over directions in a box is 0 exactly where the maximum is finite.
    """
    tied = pairs.outcomes[:, 2].sum()
    if tied in (0.0, pairs.outcomes.sum()):
        seen_tied = "there are no ties" if tied == 0 else "there is nothing but ties"
        raise NoFiniteFitError(f"Davidson's tie parameter is not finite: {seen_tied}; take --ties half")
    at, seen = np.nonzero(pairs.outcomes > 0)
    logits = (((pairs.i, 0.5), (pairs.j, -0.5)), ((pairs.i, -0.5), (pairs.j, 0.5)), ())
    blocks = []
    for outcome in range(3):
        for other in range(3):
            rows = at[seen == outcome]
            if other == outcome or not rows.size:
                continue
            terms = [(end[rows], sign) for end, sign in logits[outcome]]
            terms += [(end[rows], -sign) for end, sign in logits[other]]
            theta = float(outcome == 2) - float(other == 2)
            terms.append((np.full(len(rows), pairs.n), theta))
            blocks.append(_rows(terms, len(rows), pairs.n + 1))
    gains = sparse.vstack(blocks)
    nothing_lost = {"A_ub": -gains, "b_ub": np.zeros(gains.shape[0])}
    found = linprog(-gains.sum(axis=0), **nothing_lost, bounds=(-1, 1), method="highs")
    if found.status != 0:
        raise NotConvergedError(f"the linear program of Davidson's model failed: {found.message}")
    if -found.fun > DIRECTION_LIMIT:
        raise NoFiniteFitError(
            "Davidson's model has no finite fit to these wins and ties: some items never lose to others; give "
            "every item ghost comparisons (--prior 0.5), or ties half a win each (--ties half)"
        )
    _check_connected(pairs)


def _rows(terms: list[tuple[Indices, float]], height: int, width: int) -> sparse.csr_array:
    row = np.tile(np.arange(height), len(terms))
    column = np.concatenate([end for end, _ in terms])
    value = np.repeat([sign for _, sign in terms], height)
    return sparse.csr_array(sparse.coo_array((value, (row, column)), shape=(height, width)))


def _check_connected(pairs: PairCounts) -> None:
    graph = sparse.coo_array((np.ones(len(pairs.i)), (pairs.i, pairs.j)), shape=(pairs.n, pairs.n))
    count, _ = sparse.csgraph.connected_components(graph, directed=False)
    if count > 1:
        raise NoFiniteFitError(
            f"Davidson's model has no finite fit: the items are {count} groups that were never compared; give "
            "every item ghost comparisons (--prior 0.5)"
        )
