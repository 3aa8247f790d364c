"""The paper's univariate example on [-10, 10]: grid, annotators, pretrained density (Eq. 10, 18)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from reference.annotators import Annotator, Population
from reference.pbde import PBDE, Array, normalize


@dataclass(frozen=True)
class Toy:
    """The example on n grid points: everything is computed from n.

    x: (n,) points. measure: (n,) trapezoid weights. Densities are normalised on the grid.
    """

    n: int = 401

    @property
    def x(self) -> Array:
        """(n,): the grid points in [-10, 10]."""
        return np.linspace(-10.0, 10.0, self.n)

    @property
    def measure(self) -> Array:
        """(n,): the trapezoid rule's weights."""
        weights = np.full(self.n, 20.0 / (self.n - 1))
        weights[[0, -1]] /= 2
        return weights

    def truncated_normal(self, mean: float, deviation: float) -> Array:
        """log N_truncated(mean, deviation) on the grid, (n,)."""
        return normalize(-(((self.x - mean) / deviation) ** 2) / 2, self.measure)

    @property
    def log_p_pre(self) -> Array:
        """log of the pretrained density, N_truncated(0, 5)."""
        return self.truncated_normal(0.0, 5.0)

    @property
    def population(self) -> Population:
        """Annotator 1, N(-2.5, .25) with weight 2/5, and annotator 2, N(2.5, 1) with weight 3/5 (Eq. 21)."""
        annotators = [
            Annotator(self.truncated_normal(mean, deviation), PBDE.luce(), self.measure)
            for mean, deviation in ((-2.5, 0.25), (2.5, 1.0))
        ]
        return Population(annotators, [0.4, 0.6])

    @property
    def annotator(self) -> Annotator:
        """The single annotator of Eq. 10 and 20, with the mixture as its density."""
        return self.population.density_mixture()

    def mass(self, log_p: Array) -> Array:
        """(n,): the probability mass of a grid density, as proposals want it; it sums to 1."""
        mass = np.exp(log_p) * self.measure
        return np.asarray(mass / mass.sum())

    @property
    def uniform_proposal(self) -> Array:
        """(n,): independent uniform draws from [-10, 10]."""
        return self.mass(np.zeros(self.n))
