"""How often the test of exchangeable annotators rejects: where one annotator judged, and where several differ.

In 1,000 simulated data sets of each design, 100 of those that differ (`python -m reference calibrate`), at 5 %:

    design                                        who judged      rejected
    60 annotators of 4 comparisons, 6 items       alike              4.5 %
    5 annotators of 200 comparisons, 8 items      alike              5.8 %
    40 annotators of 2 to 300, 6 items            alike              4.5 %
    3 judges of different sharpness, 4 items      differ           100.0 %
    2 opposite halves of 250 annotators of 10     differ           100.0 %

The last two are like one annotator in the pooled win rates: judges of different sharpness like a milder one,
opposite halves like one that tosses coins.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.special import expit

from reference.annotators import Indices
from reference.comparisons import Comparisons
from reference.inference.exchangeability import exchangeable
from reference.pbde import Array
from reference.progress import progress_bar

LEVEL = 0.05
ENOUGH = 100  # data sets show a power
SHARPNESS = (0.14, 1.97, 3.62)  # of three judges: P = sigmoid((omega_a - omega_b) / sharpness)


@dataclass(frozen=True)
class AnnotatorDesign:
    """Who judges how much: comparisons(rng) draws a data set; alike: whether one omega made it."""

    name: str
    statement: str
    comparisons: Callable[[np.random.Generator], Comparisons]
    alike: bool

    @property
    def judged_by(self) -> str:
        """Who judged, in words."""
        return "annotators alike" if self.alike else "annotators differ"


def judged(omega: Array, count: Indices, rng: np.random.Generator) -> Comparisons:
    """count (G,) random comparisons by each of G annotators with omega (G, n)."""
    n, who = omega.shape[1], np.repeat(np.arange(len(count)), count)
    x_a = rng.integers(0, n, len(who))
    x_b = (x_a + rng.integers(1, n, len(who))) % n
    y = rng.random(len(who)) < expit(omega[who, x_a] - omega[who, x_b])
    return Comparisons(x_a, x_b, y.astype(np.float64), n, annotator=who)


def _one(rng: np.random.Generator, count: Indices, n: int) -> Comparisons:
    return judged(np.tile(rng.normal(size=n), (len(count), 1)), count, rng)


def _few(rng: np.random.Generator) -> Comparisons:
    return _one(rng, np.full(60, 4), 6)


def _many(rng: np.random.Generator) -> Comparisons:
    return _one(rng, np.full(5, 200), 8)


def _unequal(rng: np.random.Generator) -> Comparisons:
    return _one(rng, np.minimum(2 + 5 * rng.pareto(1.0, 40), 300).astype(np.intp), 6)


def _judges(rng: np.random.Generator) -> Comparisons:
    """Four items, all pairs: 10 comparisons of each by the first judge, 20 by the others, as one pooled omega."""
    i, j = np.triu_indices(4, 1)
    each = np.array([10, 20, 20])
    who = np.repeat(np.arange(3), each * len(i))
    pair = np.concatenate([np.repeat(np.arange(len(i)), count) for count in each])
    omega = np.linspace(0.3, -0.3, 4)
    y = rng.random(len(who)) < expit((omega[i] - omega[j])[pair] / np.array(SHARPNESS)[who])
    return Comparisons(i[pair], j[pair], y.astype(np.float64), 4, annotator=who)


def _halves(rng: np.random.Generator) -> Comparisons:
    theta = np.linspace(1.5, -1.5, 6)
    return judged(np.where(np.arange(500) % 2, 1, -1)[:, None] * theta, np.full(500, 10), rng)


ANNOTATOR_DESIGNS = (
    AnnotatorDesign("few", "60 annotators of 4 comparisons, 6 items", _few, True),
    AnnotatorDesign("many", "5 annotators of 200 comparisons, 8 items", _many, True),
    AnnotatorDesign("unequal", "40 annotators of 2 to 300, 6 items", _unequal, True),
    AnnotatorDesign("judges", "3 judges of different sharpness, 4 items", _judges, False),
    AnnotatorDesign("halves", "2 opposite halves of 250 annotators of 10", _halves, False),
)


def rejections(design: AnnotatorDesign, replications: int, seed: int) -> float:
    """The share of data sets in which annotators are found to differ at 5 %; of fewer where they do differ."""
    replications = replications if design.alike else min(replications, ENOUGH)
    rng = np.random.default_rng([seed, *map(ord, design.name)])
    rejected = 0
    for _ in progress_bar(range(replications), desc=design.name):
        rejected += exchangeable(design.comparisons(rng), int(rng.integers(2**31)), LEVEL).p_value < LEVEL
    return rejected / replications
