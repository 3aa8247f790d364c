"""Policies by reinforcement, with exact expectations: the policy gradient, KL control, natural-gradient ascent.

A policy is pi = softmax(logits) over n outcomes. On a grid, logits and p_pre are those of the masses; the measure
cancels in log pi / p_pre. The objectives take complex logits too: a derivative is then one complex step away.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from reference.arrays import finite_array, finite_vector, in_range, integer, not_negative, plain_array, positive
from reference.pbde import Array, check_normalized, normalize


def log_policy(logits: Any) -> Any:
    """(n,) -> (n,): log softmax(logits), real or complex."""
    array = plain_array("logits", logits)
    finite_vector("logits", array.real)
    shifted = array - array.real.max()
    return shifted - np.log(np.exp(shifted).sum())


def expected_reward(logits: Any, reward: ArrayLike) -> Any:
    """Eq. 3: E_pi[r], whose maximum over policies is max r, at any policy on the argmax of r: not a density."""
    pi = np.exp(log_policy(logits))
    return pi @ finite_array("reward", reward, pi.shape)


def kl_objective(logits: Any, reward: ArrayLike, log_p_pre: ArrayLike, beta: float) -> Any:
    """Eq. 13: E_pi[r] - beta KL(pi || p_pre), whose maximiser is p_pre exp(r / beta), normalised (Eq. 14)."""
    log_pi = log_policy(logits)
    gain, pre = finite_array("reward", reward, log_pi.shape), finite_array("log_p_pre", log_p_pre, log_pi.shape)
    return np.exp(log_pi) @ (gain - positive("beta", beta) * (log_pi - pre))


def policy_gradient(logits: ArrayLike, reward: ArrayLike) -> Array:
    """Eq. 4, E_pi[r grad log pi], (n,): its ascent tends to the argmax of r, whatever p* was: no density.

    grad log pi(x) with respect to the logits is e_x - pi. The reward is counted from that of the likeliest
    outcome: a constant changes nothing, and would cancel.
    """
    pi = np.exp(log_policy(finite_vector("logits", logits)))
    reward = finite_array("reward", reward, pi.shape)
    with np.errstate(over="ignore", invalid="ignore"):
        gain = pi * (reward - reward[np.argmax(pi)])
        return in_range("the gradient", gain - pi * gain.sum())


def kl_gradient(logits: ArrayLike, reward: ArrayLike, log_p_pre: ArrayLike, beta: float) -> Array:
    """Eq. 5, E_pi[(r - beta log pi / p_pre) grad log pi], (n,): its ascent converges to Eq. 14, where it is 0.

    It is Eq. 4 for the reward r - beta log pi / p_pre, held fixed: its own change adds -beta E_pi[grad log pi],
    which is 0, to the derivative of Eq. 13.
    """
    pre = check_normalized("log_p_pre", log_p_pre)
    log_pi = log_policy(finite_array("logits", logits, pre.shape))
    gain, beta = finite_array("reward", reward, pre.shape), positive("beta", beta)
    with np.errstate(over="ignore", invalid="ignore"):
        held = in_range("the reward less its KL term", gain - beta * (log_pi - pre))
    return policy_gradient(logits, held)


def natural_gradient(
    log_pi: ArrayLike, reward: ArrayLike, log_p_pre: ArrayLike, beta: float, eta: float, steps: int = 1
) -> Array:
    """Natural-gradient ascent of Eq. 13, (n,): converges to Eq. 14, by a factor |1 - eta beta| a step.

    log pi <- log pi + eta (r - beta log pi / p_pre) - log Z. The error, up to a constant, is the old one times
    1 - eta beta exactly: so 0 < eta beta < 2, ValueError otherwise. beta = 0 is Eq. 4 without KL control: log pi
    grows along eta r, and pi tends to its start restricted to the argmax of r.
    """
    pre = check_normalized("log_p_pre", log_p_pre)
    current = normalize(finite_array("log_pi", log_pi, pre.shape))
    gain = finite_array("reward", reward, pre.shape)
    beta, eta = not_negative("beta", beta), positive("eta", eta)
    if eta * beta >= 2:
        raise ValueError(f"eta beta must be < 2, got {eta * beta}; ascent would overshoot")
    for _ in range(integer("steps", steps, 0)):
        with np.errstate(over="ignore", invalid="ignore"):  # normalize refuses it
            current = normalize(current + eta * (gain - beta * (current - pre)))
    return current
