"""Annotators and populations of annotators: who prefers what, with which probability (Eq. 9, 12, 20, 21)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit, logsumexp

from reference.arrays import Indices as Indices
from reference.arrays import check_indices, finite_array
from reference.pbde import PBDE, Array, check_normalized


def check_index_pairs(x_a: ArrayLike, x_b: ArrayLike, n: int) -> tuple[Indices, Indices]:
    """Both sides of N comparisons, each of shape (N,); ValueError where the shapes differ."""
    first, second = check_indices("x_a", x_a, n), check_indices("x_b", x_b, n)
    if first.shape != second.shape:
        raise ValueError(f"x_a and x_b must have the same shape, got {first.shape} and {second.shape}")
    return first, second


def _outcomes(margin: Array, rng: np.random.Generator) -> NDArray[np.int8]:
    return np.asarray(rng.random(len(margin)) < expit(margin), dtype=np.int8)


@dataclass(frozen=True, eq=False)
class Annotator:
    """An annotator with the implicit preference distribution p and the choice rule `model` (Eq. 11).

    log_p: (n,), normalised to 1e-6 (against measure (n,), where there is one), then to the last digit.
    ValueError where it is not, where anything is not finite, or where the shapes differ.
    """

    log_p: ArrayLike
    model: PBDE
    measure: ArrayLike | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "log_p", check_normalized("log_p", self.log_p, self.measure))
        if self.measure is not None:
            object.__setattr__(self, "measure", np.asarray(self.measure, dtype=np.float64))
        self.model.over(self.n)

    @property
    def n(self) -> int:
        """The number of support points."""
        return len(np.asarray(self.log_p))

    @property
    def omega(self) -> Array:
        """(n,): Omega(x) = f(x) log p(x) + g(x)."""
        return self.model.omega(self.log_p)

    def preference_prob(self) -> Array:
        """(n, n): [i, j] = Prob(i preferred to j) = sigmoid(Omega_i - Omega_j); 1/2 on the diagonal."""
        omega = self.omega
        return np.asarray(expit(omega[:, None] - omega[None, :]))

    def sample(self, x_a: ArrayLike, x_b: ArrayLike, rng: np.random.Generator) -> NDArray[np.int8]:
        """y of shape (N,) for index arrays of shape (N,): 1 where x_a is preferred."""
        first, second = check_index_pairs(x_a, x_b, self.n)
        margin = self.omega[first] - self.omega[second]
        return _outcomes(margin, rng)


@dataclass(frozen=True, eq=False)
class Population:
    """K annotators over one support; each comparison is judged by one of them, drawn by weight (Eq. 21).

    weights: (K,), > 0, summing to 1 within 1e-6. ValueError otherwise, or where the supports differ.
    """

    annotators: Sequence[Annotator]
    weights: ArrayLike

    def __post_init__(self) -> None:
        annotators = tuple(self.annotators)
        if not annotators:
            raise ValueError("a population needs at least one annotator")
        if len({annotator.n for annotator in annotators}) > 1:
            raise ValueError(f"annotators must share one support, got n = {[a.n for a in annotators]}")
        weights = finite_array("weights", self.weights, (len(annotators),))
        if not (weights > 0).all():
            raise ValueError(f"weights must be > 0, got {weights.min()}")
        if abs(weights.sum() - 1) > 1e-6:
            raise ValueError(f"weights must sum to 1, got {weights.sum():.6g}; divide by their sum")
        object.__setattr__(self, "annotators", annotators)
        object.__setattr__(self, "weights", weights / weights.sum())

    @property
    def n(self) -> int:
        """The number of support points."""
        return self.annotators[0].n

    def preference_prob(self) -> Array:
        """(n, n): sum_k w_k Prob_k(i preferred to j), Eq. 21."""
        weights = np.asarray(self.weights)
        terms = zip(weights, self.annotators, strict=True)
        mixed = sum(weight * annotator.preference_prob() for weight, annotator in terms)
        return np.asarray(np.minimum(mixed, 1.0))  # weights that sum to 1 may still round to above it

    def sample(self, x_a: ArrayLike, x_b: ArrayLike, rng: np.random.Generator) -> NDArray[np.int8]:
        """y of shape (N,): each comparison by an annotator of its own."""
        first, second = check_index_pairs(x_a, x_b, self.n)
        who = rng.choice(len(self.annotators), size=len(first), p=np.asarray(self.weights))
        omega = np.stack([annotator.omega for annotator in self.annotators])
        return _outcomes(omega[who, first] - omega[who, second], rng)

    def density_mixture(self) -> Annotator:
        """ONE annotator whose density is sum_k w_k p_k (Eq. 20), with the rule and measure of the first."""
        log_p = np.stack([np.asarray(annotator.log_p) for annotator in self.annotators])
        mixed = logsumexp(log_p, axis=0, b=np.asarray(self.weights)[:, None])
        return Annotator(mixed, self.annotators[0].model, self.annotators[0].measure)
