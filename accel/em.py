"""Annotator types from comparisons with annotator ids: EM for a mixture of Bradley-Terry models.

Every annotator u is of one unknown type k, drawn with weight w_k, and judges all its comparisons by r_k:

    L(w, r) = sum_u log sum_k w_k prod_{c in u} sigmoid(r_k(winner_c) - r_k(loser_c)) - 1/2 sum_k r_k' P r_k
    P = ridge I + roughness D'D

D takes third differences along the points, for points in order: as roughness grows, log-densities become quadratic
and densities normal (Silverman 1982). Each round raises L (Dempster, Laird, Rubin 1977). With one comparison an
annotator it is the likelihood that `latent_mixture` descends; two or more show what each type prefers together,
which single ones cannot.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from accel.arrays import check_integer, check_number, check_positive, plain_array
from accel.models import log_density, log_sum_exp
from accel.ops import checked_pairs
from accel.streams import EM_STARTS, stream

Array = NDArray[np.float64]
Indices = NDArray[np.intp]

NEWTON_STEPS = 50
HALVINGS = 40


@dataclass(frozen=True, eq=False)
class AnnotatorTypes:
    """K types over n points, the best of the restarts.

    r: (K, n), each of mean 0: log-densities up to a constant. weights: (K,), falling. objective: L after each
    round. log_likelihood: L without the penalty. annotators: (U,) ids; responsibilities: (U, K), P(type k |
    what u chose). converged: whether L is finite and had
    stopped rising.
    """

    r: Array
    weights: Array
    objective: Array
    log_likelihood: float
    annotators: NDArray[Any]
    responsibilities: Array
    converged: bool

    def log_p(self, measure: ArrayLike | None = None) -> Array:
        """(K, n): each type's log-density, normalised against measure (n,); None: points count one each."""
        return np.stack([log_density(r, measure) for r in self.r])

    def mixture(self, measure: ArrayLike | None = None) -> Array:
        """(n,): log sum_k w_k p_k(x), Eq. 20."""
        return log_sum_exp(np.log(self.weights)[:, None] + self.log_p(measure))


def annotator_types(
    x_a: ArrayLike,
    x_b: ArrayLike,
    y: ArrayLike,
    annotator: ArrayLike,
    n: int,
    *,
    types: int = 2,
    weight: ArrayLike | None = None,
    ridge: float = 0.01,
    roughness: float = 0.0,
    restarts: int = 3,
    rounds: int = 80,
    tolerance: float = 1e-10,
    seed: int = 0,
) -> AnnotatorTypes:
    """The types that make N comparisons of the points 0..n-1 most likely; EM from `restarts` random starts.

    x_a, x_b: (N,) indices. y: (N,), 1 where x_a was preferred, 0 where x_b was, or the share between. annotator:
    (N,) ids. ridge > 0 keeps r finite where a point always wins; roughness >= 0 smooths along the points. A start
    ends after `rounds`, or when a round raises L by less than tolerance (1 + |L|). ValueError for other shapes or
    values.
    """
    _check_settings(types, ridge, roughness, restarts, rounds, tolerance)
    check_integer("seed", seed, 0)
    check_integer("n", n, 1)
    penalty = penalty_matrix(n, ridge, roughness)
    data = _Choices.of(x_a, x_b, y, annotator, weight, n)
    pooled = bradley_terry(data.wins(np.ones(len(data.ids))), penalty, np.zeros(n))
    rng = stream(seed, EM_STARTS)
    starts = [pooled + rng.standard_normal((types, n)) for _ in range(restarts)]
    runs = [_climb(data, start, penalty, rounds, tolerance) for start in starts]
    return max(runs, key=lambda run: float(np.nan_to_num(run.objective[-1], nan=-np.inf)))


def penalty_matrix(n: int, ridge: float, roughness: float = 0.0) -> Array:
    """(n, n): ridge I + roughness D'D, D the third differences of n points in order."""
    third = np.diff(np.eye(n), 3, axis=0)
    return np.asarray(ridge * np.eye(n) + roughness * third.T @ third)


def bradley_terry(wins: Array, penalty: Array, start: Array) -> Array:
    """argmax over r (n,) of sum_ij wins_ij log sigmoid(r_i - r_j) - r' penalty r / 2, by damped Newton steps.

    Strictly concave for a positive definite penalty (n, n). No step lowers the objective, so neither does the
    whole.
    """
    r, value = start, _penalised(wins, penalty, start)
    for _ in range(NEWTON_STEPS):
        prob = np.exp(_log_sigmoid(r[:, None] - r[None, :]))
        expected = (wins + wins.T) * prob
        gradient = (wins - expected).sum(axis=1) - penalty @ r
        curvature = expected * prob.T
        hessian = np.diag(curvature.sum(axis=1)) - curvature + penalty
        try:
            step = np.linalg.solve(hessian, gradient)
        except np.linalg.LinAlgError:
            raise ValueError("ridge must be larger: with so little the Hessian is singular in float64") from None
        if gradient @ step <= 1e-14 * (1 + abs(value)):
            break
        for halving in range(HALVINGS):
            moved = r + step / 2**halving
            moved_value = _penalised(wins, penalty, moved)
            if moved_value > value:
                break
        else:
            break
        r, value = moved, moved_value
    return r


@dataclass(frozen=True, eq=False)
class _Choices:
    """Who preferred what: annotator `who` (M,) chose the winner of the pair numbered `pair` (M,)."""

    n: int
    ids: NDArray[Any]  # (U,)
    winner: Indices  # (pairs,)
    loser: Indices
    who: Indices
    pair: Indices
    weight: Array

    @classmethod
    def of(
        cls, x_a: ArrayLike, x_b: ArrayLike, y: ArrayLike, annotator: ArrayLike, weight: ArrayLike | None, n: int
    ) -> _Choices:
        a, b, y, w = checked_pairs(x_a, x_b, y, weight, n)
        ids = plain_array("annotator", annotator)
        if ids.shape != a.shape:
            raise ValueError(f"annotator must have shape {a.shape}, got {ids.shape}")
        if any(identity is None or identity != identity for identity in ids.tolist()):
            raise ValueError("annotator must be known for every comparison, got None or NaN: leave those out")
        found, who = np.unique(ids, return_inverse=True)
        share = np.concatenate([w * y, w * (1 - y)])
        kept = (share > 0) & np.tile(a != b, 2)
        if not kept.any():
            raise ValueError("there are no comparisons of two different points")
        first, second = np.concatenate([a, b])[kept], np.concatenate([b, a])[kept]
        pairs, pair = np.unique(first * n + second, return_inverse=True)
        return cls(n, found, pairs // n, pairs % n, np.tile(who, 2)[kept], pair, share[kept])

    def wins(self, responsibility: Array) -> Array:
        """(n, n): how often i beat j, each comparison counted with its annotator's responsibility (U,)."""
        won = np.bincount(self.pair, self.weight * responsibility[self.who], minlength=len(self.winner))
        wins = np.zeros((self.n, self.n))
        wins[self.winner, self.loser] = won
        return wins

    def log_likelihoods(self, r: Array) -> Array:
        """(U,): the log-probability of all that each annotator chose, under r (n,)."""
        log_prob = _log_sigmoid(r[self.winner] - r[self.loser])
        total = np.bincount(self.who, self.weight * log_prob[self.pair], minlength=len(self.ids))
        return np.asarray(total, dtype=np.float64)


def _climb(data: _Choices, r: Array, penalty: Array, rounds: int, tolerance: float) -> AnnotatorTypes:
    """EM from r (K, n) and equal weights."""
    log_w, converged = np.full(len(r), -np.log(len(r))), False
    gamma, log_likelihood = _responsibilities(data, r, log_w)
    objective: list[float] = []
    for _ in range(rounds):
        with np.errstate(divide="ignore"):  # a type may lose all its annotators
            log_w = np.log(gamma.mean(axis=1))
        r = np.stack(
            [bradley_terry(data.wins(share), penalty, start) for share, start in zip(gamma, r, strict=True)]
        )
        gamma, log_likelihood = _responsibilities(data, r, log_w)
        objective.append(log_likelihood - float(np.einsum("ki,ij,kj->", r, penalty, r)) / 2)
        if not np.isfinite(objective[-1]):
            break
        if len(objective) > 1 and objective[-1] - objective[-2] < tolerance * (1 + abs(objective[-1])):
            converged = True
            break
    order = np.argsort(-log_w)
    centred = r[order] - r[order].mean(axis=1, keepdims=True)
    weights, history = np.exp(log_w[order]), np.array(objective)
    return AnnotatorTypes(centred, weights, history, log_likelihood, data.ids, gamma[order].T, converged)


def _responsibilities(data: _Choices, r: Array, log_w: Array) -> tuple[Array, float]:
    """gamma (K, U), proportional to w_k prod_c sigmoid(...) over k, and the log-likelihood."""
    joint = log_w[:, None] + np.stack([data.log_likelihoods(row) for row in r])
    total = log_sum_exp(joint)
    return np.exp(joint - total), float(total.sum())


def _penalised(wins: Array, penalty: Array, r: Array) -> float:
    return float((wins * _log_sigmoid(r[:, None] - r[None, :])).sum() - (r @ penalty @ r) / 2)


def _log_sigmoid(x: Array) -> Array:
    return np.asarray(np.minimum(x, 0.0) - np.log1p(np.exp(-np.abs(x))))


def _check_settings(
    types: int, ridge: float, roughness: float, restarts: int, rounds: int, tolerance: float
) -> None:
    for name, count in (("types", types), ("restarts", restarts), ("rounds", rounds)):
        check_integer(name, count, 1)
    check_positive("ridge", ridge)
    for name, value in (("roughness", roughness), ("tolerance", tolerance)):
        check_number(name, value)
