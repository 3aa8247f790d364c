"""How sure: covariances of omega and of the log density from finite data."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.linalg import LinAlgError, cho_factor, cho_solve

from reference.laplacian import NotConvergedError
from reference.newton import curvatures
from reference.optimum import Optimum, check_wins
from reference.pbde import PBDE, Array, log_weights

COVARIANCE_LIMIT = 5000  # items: an (n, n) array of 200 MB, and n^3 / 3 multiplications


def fisher_information(wins: Any, optimum: Optimum) -> Array:
    """(n, n): L = sum_ij n_ij s_ij (1 - s_ij) (e_i - e_j)(e_i - e_j)^T, the observed information of omega."""
    check_size(wins)
    curvature = curvatures(check_wins(wins), optimum.omega)
    return np.asarray(np.diag(curvature.sum(axis=1)) - curvature)


def omega_covariance(wins: Any, optimum: Optimum) -> Array:
    """(n, n): L^+, the covariance of omega in the gauge mean(omega) = 0, for wins that are counts.

    ValueError above 5,000 items; NotConvergedError where L^+ is lost in rounding.
    """
    information = fisher_information(wins, optimum)
    n = len(information)
    # L + k 11^T / n is positive definite, and its inverse is L^+ + 11^T / (k n)
    k = np.trace(information) / n
    try:
        factor = cho_factor(information + k / n)
    except LinAlgError:
        raise NotConvergedError("the Fisher information is singular in float64") from None
    return np.asarray(cho_solve(factor, np.eye(n)) - 1 / (k * n))


def covariance(wins: Any, optimum: Optimum, model: PBDE, measure: ArrayLike | None = None) -> Array:
    """(n, n): the covariance of log_p, for wins that are counts.

    J L^+ J^T with J = D_f^-1 (I - 1 w^T), w proportional to pi / f: the delta method through the normaliser.
    ValueError above 5,000 items: the result is a dense (n, n) array.
    """
    inner = omega_covariance(wins, optimum)
    f, _ = model.over(len(inner))
    mass = optimum.log_p + log_weights(measure, len(inner)) - np.log(f)
    w = np.exp(mass - mass.max())
    w /= w.sum()
    centred = inner - w @ inner  # rows: (I - 1 w^T) from the left
    centred = centred - (centred @ w)[:, None]
    return np.asarray(centred / f[:, None] / f[None, :])


def check_size(wins: Any) -> None:
    """ValueError where there are too many items for a dense (n, n) result."""
    n = wins.shape[0]
    if n > COVARIANCE_LIMIT:
        raise ValueError(
            f"the covariance of {n} items is a dense array of {8 * n * n / 1e9:.1f} GB and takes n^3 / 3 "
            f"multiplications; the limit is {COVARIANCE_LIMIT} items"
        )
