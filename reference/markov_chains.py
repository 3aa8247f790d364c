"""Densities read off choices without a loss: chain of hindsight, and Markov chains with people in them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy import sparse
from scipy.sparse.csgraph import breadth_first_order, connected_components
from scipy.special import log_expit, logsumexp

from reference.arrays import finite_array, finite_vector, in_range
from reference.comparisons import check_preferences
from reference.optimum import check_wins
from reference.pbde import Array, log_weights


def winner_density(wins: Any, measure: ArrayLike | None = None) -> Array:
    """Chain of hindsight converges to the density of winners, log of shape (n,): p* tempered, times the proposal.

    Trained on "good: winner, bad: loser" and asked for "good", the model draws i with its share of all wins, the
    row sums of the win matrix; -inf where there are none. Wins count no outcome against itself. So, for
    independent draws from q and a Luce annotator, with s(x, x') = sigmoid(log p*(x) - log p*(x')),

        winners(x) / q(x) = (2 E_x'~q s(x, x') - q(x)) / (1 - sum_x' q(x')^2).

    With the pairs of an outcome with itself, each won by that outcome, it is 2 E_x'~q s(x, x'), a function of
    log p*(x) alone: then the score (gradient of the log) of winners / q is that of p*, divided by `temperature`.
    Where q spreads over many outcomes, as on a fine grid, q(x) vanishes beside 2 E s, and the two agree.
    """
    wins = check_wins(wins)
    share = np.asarray(wins.sum(axis=1)) / wins.sum()
    with np.errstate(divide="ignore"):
        return np.asarray(np.log(share) - log_weights(measure, wins.shape[0]))


def temperature(log_p: ArrayLike, proposal: ArrayLike) -> Array:
    """(n,): tau with grad log p* = tau grad log(winners / q), for x' drawn from q, the proposal, (n,).

    With s = sigmoid(log p*(x) - log p*(x')): d log E[s] = E[s (1 - s)] / E[s] d log p*, so
    tau = E[s] / E[s (1 - s)] > 1: the winners are flatter than p* everywhere. Both means are summed as logs, of
    which each alone may underflow. ValueError where tau is beyond float64: all of q then lies far below x.
    """
    log_p = finite_vector("log_p", log_p)
    q = finite_array("proposal", proposal, log_p.shape)
    if (q < 0).any() or abs(q.sum() - 1) > 1e-6:
        raise ValueError(
            f"proposal must be >= 0 and sum to 1, got {q.min():.3g} at least, and {q.sum():.6g} in sum"
        )
    margin = log_p[:, None] - log_p[None, :]
    log_win, log_lose = log_expit(margin), log_expit(-margin)
    with np.errstate(over="ignore"):
        tau = np.exp(logsumexp(log_win, axis=1, b=q) - logsumexp(log_win + log_lose, axis=1, b=q))
    return in_range("temperature", np.maximum(tau, 1.0))


def people_chain(preference_prob: ArrayLike, transitions: ArrayLike) -> Array:
    """MCMC with people (Sanborn and Griffiths 2007): its chain of winners converges to p* of a Luce annotator.

    K(x, x') = T(x, x') Prob(x' preferred to x), (n, n), the rest of each row on the diagonal: from x, T proposes
    x', and a person chooses between the two. T, `transitions`: (n, n), symmetric, rows that sum to 1, irreducible;
    ValueError otherwise. Prob(x' over x) / Prob(x over x') = e^(omega' - omega) and T is symmetric, so e^omega is
    in detailed balance with K: Barker's acceptance rule, done by people. For Luce, e^omega is p*.
    """
    t = finite_array("transitions", transitions)
    prob = check_preferences(preference_prob)
    if t.ndim != 2 or t.shape != t.T.shape or t.shape != prob.shape:
        raise ValueError(
            f"transitions and preference_prob must have one shape (n, n), got {t.shape}, {prob.shape}"
        )
    if (t < 0).any() or np.abs(t.sum(axis=1) - 1).max() > 1e-9:
        raise ValueError("transitions must be >= 0 with rows that sum to 1; put what is left on the diagonal")
    if np.abs(t - t.T).max() > 1e-12:
        raise ValueError(f"transitions must be symmetric, got a difference of {np.abs(t - t.T).max():.1e}")
    if connected_components(sparse.csr_array(t), directed=False)[0] > 1:
        raise ValueError("transitions must be irreducible: some outcomes are never proposed from some others")
    chain = t * prob.T
    np.fill_diagonal(chain, 0.0)
    np.fill_diagonal(chain, np.maximum(1 - chain.sum(axis=1), 0.0))
    return np.asarray(chain)


def stationary(chain: ArrayLike) -> Array:
    """log of the stationary law, (n,), of an irreducible chain (n, n): each entry to full relative precision.

    State after state is censored, without a subtraction (Grassmann, Taksar and Heyman 1985). ValueError where
    some states are never left for some others, as where people never choose one outcome over another.
    """
    left = _check_chain(chain).copy()
    n, total = len(left), np.ones(len(left))
    classes = connected_components(sparse.csr_array(left), directed=True, connection="strong")[0]
    if classes > 1:
        raise ValueError(f"chain must be irreducible, got {classes} classes of states")
    for m in range(n - 1, 0, -1):
        total[m] = left[m, :m].sum()
        if not total[m] > 0:
            raise ValueError(f"chain must be irreducible in float64: the way out of state {m} underflows")
        left[:m, :m] += np.outer(left[:m, m], left[m, :m] / total[m])
    law = np.zeros(n)  # logs: law_m total_m = sum_k < m law_k left_km
    for m in range(1, n):
        with np.errstate(divide="ignore"):
            law[m] = logsumexp(law[:m] + np.log(left[:m, m])) - np.log(total[m])
    return in_range("the stationary law", law - logsumexp(law))


def cycle_residual(chain: ArrayLike) -> float:
    """Kolmogorov's criterion in nats: max over a basis of cycles of |log product of K forwards / backwards|.

    Zero where, and only where, the chain is reversible: so for one annotator, and not for a generic mixture of
    them, unless T has no cycle. A spanning tree fixes potentials; every other pair closes a cycle of the basis.
    Infinite where a step cannot be taken back. ValueError where the states are not connected.
    """
    k = _check_chain(chain)
    linked = (k > 0) | (k.T > 0)
    np.fill_diagonal(linked, False)
    order, parent = breadth_first_order(sparse.csr_array(linked), 0, directed=False)
    if len(order) < len(k):
        raise ValueError(f"chain must be connected, got {len(order)} of {len(k)} states linked to the first")
    i, j = np.nonzero(linked)
    if not ((k[i, j] > 0) & (k[j, i] > 0)).all():
        return float(np.inf)
    potential = np.zeros(len(k))
    for state in order[1:]:
        up = parent[state]
        potential[state] = potential[up] + np.log(k[up, state]) - np.log(k[state, up])
    closing = np.log(k[i, j]) - np.log(k[j, i]) - (potential[j] - potential[i])
    return float(np.abs(closing).max(initial=0.0))


def _check_chain(chain: ArrayLike) -> Array:
    k = finite_array("chain", chain)
    if k.ndim != 2 or k.shape[0] != k.shape[1]:
        raise ValueError(f"chain must have shape (n, n), got {k.shape}")
    if (k < 0).any() or np.abs(k.sum(axis=1) - 1).max() > 1e-9:
        raise ValueError("chain must be >= 0 with rows that sum to 1")
    return k
