"""How sure: covariances of omega and of the log density from finite data.

How often the 95 % intervals of the densities cover: `calibration.py`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy import sparse
from scipy.linalg import LinAlgError, cho_factor, cho_solve
from scipy.linalg.lapack import dpocon
from scipy.special import expit, logsumexp

from reference.comparisons import Comparisons
from reference.errors import NotConvergedError
from reference.optimum import Optimum, check_wins
from reference.pbde import PBDE, Array, log_weights
from reference.solvers.laplacian import grounded_inverse
from reference.solvers.newton import curvatures

NORMAL_95 = 1.959963984540054  # the .975 quantile of the standard normal
COVARIANCE_LIMIT = 5000  # items: an (n, n) array of 200 MB, and n^3 multiplications
DIGITS_LEFT = 1e-6  # of two variances: a difference of them above it has some nine digits
ROUNDED_AWAY = 1e3 * np.finfo(np.float64).eps  # of the n terms of a sum: more leaves three digits of it
NO_SPREAD = 1e-18  # of squared residuals, in parts of a coin's: what a certified omega leaves of none
CONDITION_LIMIT = 1e-10  # the reciprocal: six digits are left of an inverse


def laplacian_of(weight: Array) -> Array:
    """(n, n): sum_{i < j} w_ij (e_i - e_j)(e_i - e_j)^T, for symmetric weights (n, n) with an empty diagonal."""
    return np.asarray(np.diag(weight.sum(axis=1)) - weight)


def grounded_covariance(wins: Any, optimum: Optimum, ground: int, limit: int = COVARIANCE_LIMIT) -> Array:
    """(n, n): the covariance of omega - omega[ground], for wins that are counts; that row and column are 0.

    The inverse of L = sum_ij n_ij s_ij (1 - s_ij) (e_i - e_j)(e_i - e_j)^T, the observed information, without the
    ground: every entry right to a few roundings, where L^+ has but one scale for them all. ValueError above
    `limit` items; NotConvergedError where an entry is beyond float64.
    """
    wins = check_wins(wins)
    check_size(wins, limit)
    conductance = curvatures(wins, optimum.omega)
    others = np.delete(np.arange(len(conductance)), ground)
    order = np.append(others, ground)
    found = np.zeros_like(conductance)
    with np.errstate(all="ignore"):  # what is not finite is refused
        found[np.ix_(others, others)] = grounded_inverse(conductance[np.ix_(order, order)])
    if not np.isfinite(found).all():
        raise NotConvergedError("a variance is larger than float64 can hold")
    return found


def omega_covariance(wins: Any, optimum: Optimum, limit: int = COVARIANCE_LIMIT) -> Array:
    """(n, n): L^+, the covariance of omega in the gauge mean(omega) = 0, for wins that are counts.

    Its entries are right to some roundings of the largest. Raises as `grounded_covariance` does.
    """
    return doubly_centred(grounded_covariance(wins, optimum, int(optimum.omega.argmax()), limit))


def doubly_centred(covariance: Array) -> Array:
    """(n, n): the covariance of omega in any gauge -> in that of mean(omega) = 0."""
    rows = covariance - covariance.mean(axis=0)
    return np.asarray(rows - rows.mean(axis=1, keepdims=True))


def contrast_variances(covariance: Array) -> Array:
    """(n, n): Var(omega_i - omega_j) = C_ii + C_jj - 2 C_ij for C in any gauge; NaN where that cancels.

    The gauge decides what cancels: two items that are near each other, and both far from the ground, do.
    """
    variance = np.diag(covariance)
    apart = variance[:, None] + variance
    found = apart - 2 * covariance
    found[~(found > DIGITS_LEFT * np.abs(apart))] = np.nan
    np.fill_diagonal(found, 0.0)
    return np.asarray(found)


def resistances(conductance: Array) -> Array:
    """(n, n): Var(omega_i - omega_j) for the observed information of curvatures c (n, n); each to some roundings.

    Node m leaves the network as in `star_mesh`, joined to those that stay by S = sum_k c_mk, s_k = c_mk / S. So
    omega_m is their mean by s, plus noise of variance 1 / S, and on the way back

        R_mi = 1 / S + sum_k s_k R_ki - sum_kl s_k s_l R_kl / 2.

    What is subtracted is at most some n^2 / S larger than what is left, whatever the conductances.
    """
    c, n = conductance.copy(), len(conductance)
    total, found = np.zeros(n), np.zeros((n, n))
    for m in range(n - 1):
        total[m] = c[m, m + 1 :].sum()
        c[m + 1 :, m + 1 :] += np.outer(c[m, m + 1 :], c[m, m + 1 :] / total[m])
    for m in range(n - 2, -1, -1):
        share = c[m, m + 1 :] / total[m]
        mean = found[m + 1 :, m + 1 :] @ share
        found[m, m + 1 :] = found[m + 1 :, m] = 1 / total[m] + mean - share @ mean / 2
    return found


def inverse(information: Array) -> Array:
    """The inverse of a positive definite (m, m) array; NotConvergedError where it is lost in rounding."""
    if not (np.diag(information) > 0).all():
        raise NotConvergedError("the Fisher information is singular in float64")
    scale = 1 / np.sqrt(np.diag(information))
    scaled = scale[:, None] * information * scale  # the units of its parameters change no digit
    try:
        factor = cho_factor(scaled)
    except LinAlgError:
        raise NotConvergedError("the Fisher information is singular in float64") from None
    if not dpocon(factor[0], np.abs(scaled).sum(axis=0).max())[0] > CONDITION_LIMIT:
        raise NotConvergedError("the covariance is lost in rounding: the Fisher information is almost singular")
    return np.asarray(scale[:, None] * cho_solve(factor, np.eye(len(scaled))) * scale)


def sandwich(omega_covariance: Array, squared_residuals: Array) -> Array:
    """(n, n): C V C, the covariance of omega that stays right where the choice rule is wrong; in the gauge of C.

    V is the Laplacian of squared_residuals (n, n); see `squared_residuals`. White 1982. A variance is a sum of
    V_jk (C_ij - C_ik)^2, in which heavy pairs cancel: NotConvergedError where that leaves less than three digits.
    """
    spread = laplacian_of(squared_residuals)
    found = np.asarray(omega_covariance @ spread @ omega_covariance)
    terms = ((np.abs(omega_covariance) @ np.abs(spread)) * np.abs(omega_covariance)).sum(axis=1)
    if (np.diag(found) < ROUNDED_AWAY * len(found) * terms).any():
        raise NotConvergedError("a variance is lost in rounding: these weights span too many decades")
    return found


def squared_residuals(comparisons: Comparisons, omega: Array) -> Array:
    """(n, n), symmetric: sum over the comparisons of i and j of weight (y - sigmoid(omega_a - omega_b))^2."""
    x_a, x_b = np.asarray(comparisons.x_a), np.asarray(comparisons.x_b)
    residual = np.asarray(comparisons.y) - expit(omega[x_a] - omega[x_b])
    square = np.asarray(comparisons.weight) * residual**2
    one_way = sparse.coo_array((square, (x_a, x_b)), shape=(len(omega), len(omega))).toarray()
    return np.asarray(one_way + one_way.T)


def score_variance(comparisons: Comparisons, omega: Array, curvature: Array) -> Array:
    """(n, n), symmetric: the variance of the score of every pair, from how far its outcomes are spread.

    Where outcomes are ties or graded, a comparison is not a tossed coin of variance P (1 - P); what it is shows in
    r^2 = (y - P)^2. With S_ij = sum r^2 over the N_ij comparisons of a pair, and phi the ratio of what all pairs
    show to what coins would,

        V_ij = N_ij (S_ij + phi P (1 - P)) / (N_ij + 1),   phi = sum S / sum N P (1 - P) :

    the pair's own spread and one comparison with the spread of all, so that a pair that only tied is not taken for
    certain. Where every outcome is the expected one, one comparison of all counts as a coin: phi = 1 / sum N.
    curvature: N_ij P (1 - P).
    """
    own = squared_residuals(comparisons, omega)
    one_way = comparisons.wins()
    total = np.asarray((one_way + one_way.T).toarray())
    if own.sum() <= NO_SPREAD * curvature.sum():
        own = curvature / max(one_way.sum(), 1.0)
    phi = own.sum() / curvature.sum()
    return np.asarray(own * (total / (total + 1)) + phi * curvature / (total + 1))


def covariance(wins: Any, optimum: Optimum, model: PBDE, measure: ArrayLike | None = None) -> Array:
    """(n, n): the covariance of log_p, for wins that are counts.

    ValueError above 5,000 items: the result is a dense (n, n) array. NotConvergedError where an entry is beyond
    float64.
    """
    spread = grounded_covariance(wins, optimum, heaviest(optimum.log_p, model, measure))
    with np.errstate(all="ignore"):
        found = log_p_covariance(spread, optimum.log_p, model, measure)
    if not np.isfinite(found).all():
        raise NotConvergedError("a variance is larger than float64 can hold")
    return found


def log_p_covariance(
    omega_covariance: Array, log_p: Array, model: PBDE, measure: ArrayLike | None = None
) -> Array:
    """(n, n): J C J^T with J = D_f^-1 (I - 1 w^T), w proportional to pi / f.

    The delta method through the normaliser, for the covariance C of omega in any gauge: J 1 = 0. Items of little
    mass may vary by any amount where the gauge is the item of largest w: what is subtracted is then small.
    """
    f, w = model.over(len(log_p))[0], influence(log_p, model, measure)
    centred = omega_covariance - w @ omega_covariance  # rows: (I - 1 w^T) from the left
    centred = centred - (centred @ w)[:, None]
    return np.asarray(centred / f[:, None] / f[None, :])


def log_complement(log_p: Array) -> Array:
    """(n,): log(1 - p_i) of n >= 2 outcomes; that of the largest, which may round to 1, from the others."""
    top = int(log_p.argmax())
    others = np.delete(np.arange(len(log_p)), top)
    found = np.empty_like(log_p)
    found[others] = np.log1p(-np.exp(log_p[others]))
    found[top] = logsumexp(log_p[others])
    return found


def logit_errors(omega_covariance: Array, log_p: Array, model: PBDE) -> Array:
    """(n,): the standard errors of logit p_i = log p_i - log(1 - p_i), for the covariance of omega in any gauge.

    d logit p_i = d log p_i / (1 - p_i) = sum_j v_j (d omega_i - d omega_j) / f_i,   v_j = w_j / (1 - p_i):

    the first form for all but the largest, the second for that one, whose 1 - p_i may be as small as it likes.
    """
    f, rest = model.over(len(log_p))[0], log_complement(log_p)
    variance = np.maximum(np.diag(log_p_covariance(omega_covariance, log_p, model)), 0.0)
    found: Array = np.sqrt(variance)
    top, mass = int(log_p.argmax()), log_p - np.log(f)
    found[np.arange(len(f)) != top] /= np.exp(np.delete(rest, top))
    contrast = -np.exp(np.where(np.arange(len(f)) == top, -np.inf, mass - logsumexp(mass) - rest[top]))
    contrast[top] = -contrast.sum()
    found[top] = np.sqrt(max(float(contrast @ omega_covariance @ contrast), 0.0)) / f[top]
    return found


def standard_errors(spread: Array | None, log_p: Array, model: PBDE) -> dict[str, Any]:
    """The fields of a `Fit` that the covariance of omega gives, in any gauge; NaN and None without it.

    NotConvergedError where an interval does not fit float64.
    """
    if spread is None:
        nothing = np.full(len(log_p), np.nan)
        return {"omega_covariance": None, "se_log_p": nothing, "se_omega": nothing, "se_logit_p": nothing}
    found = {
        "omega_covariance": doubly_centred(spread),
        "se_log_p": _deviations(log_p_covariance(spread, log_p, model)),
        "se_omega": _deviations(doubly_centred(spread)),
        "se_logit_p": logit_errors(spread, log_p, model),
    }
    for name, value in found.items():
        if not np.isfinite(NORMAL_95 * value).all():
            raise NotConvergedError(f"{name} is larger than float64 can hold")
    return found


def _deviations(covariance: Array) -> Array:
    return np.asarray(np.sqrt(np.maximum(np.diag(covariance), 0.0)))


def heaviest(log_p: Array, model: PBDE, measure: ArrayLike | None = None) -> int:
    """The item in whose gauge `log_p_covariance` loses no digits."""
    return int(influence(log_p, model, measure).argmax())


def influence(log_p: Array, model: PBDE, measure: ArrayLike | None = None) -> Array:
    """(n,): w, proportional to pi / f, how much each omega moves the normaliser; they sum to 1."""
    mass = log_p + log_weights(measure, len(log_p)) - np.log(model.over(len(log_p))[0])
    w = np.exp(mass - mass.max())
    return np.asarray(w / w.sum())


def check_size(wins: Any, limit: int = COVARIANCE_LIMIT) -> None:
    """ValueError where there are too many items for a dense (n, n) result."""
    n = wins.shape[0]
    if n > limit:
        raise ValueError(
            f"the covariance of {n} items is a dense array of {8 * n * n / 1e9:.1f} GB and takes n^3 / 3 "
            f"multiplications; the limit is {limit} items"
        )
