"""A claim, and the random cases that it is tried on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from reference.pbde import PBDE, Array, normalize

SOLVED = 1e-10  # max |log p| error of a certified optimum with f >= 0.1: ten times 1e-11 in omega
FORMULA = 1e-12  # relative error of one closed form against another route to it

Formula = Callable[..., Array]
Check = Callable[..., float]


@dataclass(frozen=True)
class Claim:
    """A statement of the paper and its check: check(rng, n) draws a case and returns its error.

    A check may take the formula it verifies as a third argument, `formula`, so that a wrong one can be put in.
    """

    name: str
    statement: str
    allowed: float
    check: Check


def draw_density(rng: np.random.Generator, n: int) -> Array:
    """log p over n outcomes, (n,), with a spread of a few nats."""
    return normalize(rng.normal(0, 1.5, n))


def draw_proposal(rng: np.random.Generator, n: int) -> Array:
    """q over ordered pairs, (n, n): every pair may be drawn, some far more often than others."""
    mass = rng.exponential(size=(n, n))
    return np.asarray(mass / mass.sum())


def draw_model(rng: np.random.Generator, n: int) -> PBDE:
    """A PBDE with f between 0.3 and 3 and g of a nat or so, both varying over x."""
    return PBDE(np.exp(rng.uniform(-1.2, 1.1, n)), rng.normal(size=n))
