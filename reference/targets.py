"""The closed forms: what each objective's optimum is, for a known annotator."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import sparse

from reference.annotators import Annotator
from reference.arrays import finite_array, positive
from reference.comparisons import check_preferences, pair_proposal
from reference.errors import NotIdentifiableError
from reference.optimum import strong_components
from reference.pbde import PBDE, Array, check_normalized, normalize
from reference.solvers.laplacian import star_mesh


def recovered(annotator: Annotator, model: PBDE, measure: ArrayLike | None = None) -> Array:
    """(n,): what the PBDE `model` learns from `annotator`; Theorem 2, Eq. 17 and Eq. 19 are cases of it.

    log pi(x) = (f*(x) log p*(x) + g*(x) - g(x) + C) / f(x), with the one C that normalises pi.
    measure: the annotator's own where it is None.
    """
    return model.log_p(annotator.omega, annotator.measure if measure is None else measure)


def product_of_experts(
    log_p: ArrayLike, log_p_pre: ArrayLike, beta: float, measure: ArrayLike | None = None
) -> Array:
    """Eq. 17, (n,): pi proportional to p_pre p^(1 / beta): DPO, taught by a Luce annotator."""
    beta = positive("beta", beta)
    p, pre = _two_densities(log_p, log_p_pre, measure)
    return _tilted(pre, p, 1 / beta, measure)


def geometric_mean(
    log_p: ArrayLike, log_p_pre: ArrayLike, alpha: float, measure: ArrayLike | None = None
) -> Array:
    """Eq. 19, (n,): pi proportional to p_pre^(1 - alpha) p^alpha."""
    alpha = positive("alpha", alpha)
    p, pre = _two_densities(log_p, log_p_pre, measure)
    return _tilted(pre, p - pre, alpha, measure)


def kl_control(reward: ArrayLike, log_p_pre: ArrayLike, beta: float, measure: ArrayLike | None = None) -> Array:
    """Eq. 14, (n,): pi proportional to p_pre exp(reward / beta), the maximiser of Eq. 13."""
    beta = positive("beta", beta)
    pre = check_normalized("log_p_pre", log_p_pre, measure)
    return _tilted(pre, finite_array("reward", reward, pre.shape), 1 / beta, measure)


def _tilted(pre: Array, gain: Array, rate: float, measure: ArrayLike | None) -> Array:
    """(n,): pi proportional to p_pre e^(rate gain), with the gain counted from that of the likeliest outcome.

    rate gain itself would be rounded by as much as it is large, which the normaliser then leaves in every outcome.
    """
    with np.errstate(over="ignore", invalid="ignore"):  # normalize refuses it
        k = int(np.argmax(pre + rate * gain))
        return normalize(pre + rate * (gain - gain[k]), measure)


def ipo(
    preference_prob: ArrayLike,
    proposal: Any,
    log_p_pre: ArrayLike,
    tau: float,
    measure: ArrayLike | None = None,
) -> Array:
    """The exact optimum of IPO (Azar et al. 2023), (n,): pi proportional to p_pre exp(d).

    IPO minimises E_q (d_a - d_b - (2 P_ab - 1) / (2 tau))^2, d = log pi / p_pre, up to a constant.
    proposal (n,), independent draws: d_a = E_b P_ab / tau, the Borda score. proposal (n, n): the weighted
    Laplacian system sum_b w_ab (d_a - d_b) = sum_b w_ab (2 P_ab - 1) / (2 tau), w = q + q^T. P's diagonal is not
    looked at: an outcome against itself says nothing. NotIdentifiableError where the pairs that the proposal
    draws do not connect all outcomes, as where a proposal (n,) is 0 somewhere; ValueError as `check_preferences`.
    """
    tau = positive("tau", tau)
    pre = check_normalized("log_p_pre", log_p_pre, measure)
    n = len(pre)
    prob = check_preferences(finite_array("preference_prob", preference_prob, (n, n))).copy()
    np.fill_diagonal(prob, 0.5)
    pairs = pair_proposal(proposal, n)
    if not sparse.issparse(proposal) and np.ndim(proposal) == 1:
        q = finite_array("proposal", proposal, (n,))
        _check_connected(np.outer(q > 0, q > 0))
        with np.errstate(over="ignore"):  # normalize refuses it
            return normalize(pre + prob @ (q / q.sum()) / tau, measure)
    weight = pairs + pairs.T
    weight = weight.toarray() if sparse.issparse(weight) else weight
    _check_connected(weight > 0)
    with np.errstate(over="ignore", invalid="ignore"):
        flow = weight * (prob - prob.T) / (2 * tau)
        return normalize(pre + star_mesh(weight, flow[None])[:, 0], measure)


def _check_connected(compared: NDArray[np.bool_]) -> None:
    """NotIdentifiableError unless the pairs marked, (n, n) and symmetric, connect all outcomes."""
    components = strong_components(compared)
    if len(components) > 1:
        sizes = ", ".join(str(len(component)) for component in components[:8])
        more = ", ..." if len(components) > 8 else ""
        raise NotIdentifiableError(
            f"proposal must connect all outcomes, got {len(components)} components (sizes {sizes}{more}); draw "
            "pairs that link them, or leave out the outcomes that are never drawn",
            components,
        )


def _two_densities(log_p: ArrayLike, log_p_pre: ArrayLike, measure: ArrayLike | None) -> tuple[Array, Array]:
    p, pre = check_normalized("log_p", log_p, measure), check_normalized("log_p_pre", log_p_pre, measure)
    if p.shape != pre.shape:
        raise ValueError(f"log_p and log_p_pre must have the same shape, got {p.shape} and {pre.shape}")
    return p, pre
