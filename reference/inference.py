"""How sure: covariances of omega and of the log density from finite data.

Coverage of the 95 % intervals of log p in 1,000 simulated data sets (`python -m reference calibrate`):

    8 items, all 28 pairs, 40 comparisons each    94.9 %
    20 items, 6 opponents each, 6 comparisons     94.8 %
    12 items, all pairs, 2 to 200 comparisons     95.3 %
    30 items, 300 comparisons, most pairs once    94.8 %
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy import sparse
from scipy.linalg import LinAlgError, cho_factor, cho_solve
from scipy.special import expit

from reference.comparisons import Comparisons
from reference.laplacian import NotConvergedError
from reference.newton import curvatures
from reference.optimum import Optimum, check_wins
from reference.pbde import PBDE, Array, log_weights

COVARIANCE_LIMIT = 5000  # items: an (n, n) array of 200 MB, and n^3 / 3 multiplications


def fisher_information(wins: Any, optimum: Optimum, limit: int = COVARIANCE_LIMIT) -> Array:
    """(n, n): L = sum_ij n_ij s_ij (1 - s_ij) (e_i - e_j)(e_i - e_j)^T, the observed information of omega."""
    check_size(wins, limit)
    return laplacian_of(curvatures(check_wins(wins), optimum.omega))


def laplacian_of(weight: Array) -> Array:
    """(n, n): sum_{i < j} w_ij (e_i - e_j)(e_i - e_j)^T, for symmetric weights (n, n) with an empty diagonal."""
    return np.asarray(np.diag(weight.sum(axis=1)) - weight)


def omega_covariance(wins: Any, optimum: Optimum, limit: int = COVARIANCE_LIMIT) -> Array:
    """(n, n): L^+, the covariance of omega in the gauge mean(omega) = 0, for wins that are counts.

    ValueError above `limit` items; NotConvergedError where L^+ is lost in rounding.
    """
    information = fisher_information(wins, optimum, limit)
    n = len(information)
    # L + k 11^T / n is positive definite, and its inverse is L^+ + 11^T / (k n)
    k = np.trace(information) / n
    return np.asarray(inverse(information + k / n) - 1 / (k * n))


def inverse(information: Array) -> Array:
    """The inverse of a positive definite (m, m) array; NotConvergedError where it is singular in float64."""
    try:
        factor = cho_factor(information)
    except LinAlgError:
        raise NotConvergedError("the Fisher information is singular in float64") from None
    return np.asarray(cho_solve(factor, np.eye(len(information))))


def sandwich(omega_covariance: Array, squared_residuals: Array) -> Array:
    """(n, n): L^+ V L^+, the covariance of omega that stays right where the choice rule is wrong.

    V is the Laplacian of squared_residuals (n, n); see `squared_residuals`. White 1982.
    """
    return np.asarray(omega_covariance @ laplacian_of(squared_residuals) @ omega_covariance)


def squared_residuals(comparisons: Comparisons, omega: Array) -> Array:
    """(n, n), symmetric: sum over the comparisons of i and j of weight (y - sigmoid(omega_a - omega_b))^2."""
    x_a, x_b = np.asarray(comparisons.x_a), np.asarray(comparisons.x_b)
    residual = np.asarray(comparisons.y) - expit(omega[x_a] - omega[x_b])
    square = np.asarray(comparisons.weight) * residual**2
    one_way = sparse.coo_array((square, (x_a, x_b)), shape=(len(omega), len(omega))).toarray()
    return np.asarray(one_way + one_way.T)


def covariance(wins: Any, optimum: Optimum, model: PBDE, measure: ArrayLike | None = None) -> Array:
    """(n, n): the covariance of log_p, for wins that are counts.

    ValueError above 5,000 items: the result is a dense (n, n) array.
    """
    return log_p_covariance(omega_covariance(wins, optimum), optimum.log_p, model, measure)


def log_p_covariance(
    omega_covariance: Array, log_p: Array, model: PBDE, measure: ArrayLike | None = None
) -> Array:
    """(n, n): J C J^T with J = D_f^-1 (I - 1 w^T), w proportional to pi / f.

    The delta method through the normaliser, for the covariance C of omega in any gauge: J 1 = 0.
    """
    f, _ = model.over(len(log_p))
    mass = log_p + log_weights(measure, len(log_p)) - np.log(f)
    w = np.exp(mass - mass.max())
    w /= w.sum()
    centred = omega_covariance - w @ omega_covariance  # rows: (I - 1 w^T) from the left
    centred = centred - (centred @ w)[:, None]
    return np.asarray(centred / f[:, None] / f[None, :])


def check_size(wins: Any, limit: int = COVARIANCE_LIMIT) -> None:
    """ValueError where there are too many items for a dense (n, n) result."""
    n = wins.shape[0]
    if n > limit:
        raise ValueError(
            f"the covariance of {n} items is a dense array of {8 * n * n / 1e9:.1f} GB and takes n^3 / 3 "
            f"multiplications; the limit is {limit} items"
        )
