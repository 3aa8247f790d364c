"""What synthetic annotators prefer, of log-likelihoods and lengths: Eq. 9, 12, 22, 23 of the paper and Table 2."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lm.corpora.tilted import LONG, SHORT
from reference import PBDE

Array = NDArray[np.float64]
ROWS_AT_ONCE = 256


@dataclass(frozen=True)
class Rule:
    """A choice rule: omega = log p (Eq. 9) where scale is 0, else scale log p / |x| (Eq. 12 has scale 1)."""

    name: str
    scale: float

    def omega(self, log_p: Array, lengths: NDArray[np.int64]) -> Array:
        """(N,), (N,) -> (N,)."""
        model = PBDE.length_normalized(lengths, self.scale) if self.scale else PBDE.luce()
        return model.omega(log_p)


EQ_9, EQ_12 = Rule("Eq. 9", 0.0), Rule("Eq. 12", 1.0)
RULES = (EQ_9, EQ_12, Rule("Eq. 12 x 50", 50.0))
BINS = ("S", "M", "L")
PAIRS = (("S", "M"), ("S", "L"), ("M", "L"))  # the columns of Table 2: P(S > M), ...


def preference_prob(margin: Array) -> Array:
    """1 / (1 + e^-margin), for any margin."""
    smaller = np.exp(-np.abs(margin))
    return np.where(margin >= 0, 1.0, smaller) / (1.0 + smaller)


def length_bin(lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """(N,) -> (N,): 0 for S (<= 20 tokens), 1 for M (21 to 29), 2 for L (>= 30)."""
    return np.where(lengths <= SHORT, 0, np.where(lengths < LONG, 1, 2))


def table_2(omega: Array, lengths: NDArray[np.int64], mass: Array | None = None) -> Array:
    """(N,), (N,) -> (3,): the mean of P(x preferred to x') over all x of one bin and x' of another, as in PAIRS.

    mass (N,): what each counts; None: all the same. NaN where a bin is empty.
    """
    weight = np.ones(len(omega)) if mass is None else mass
    groups = [length_bin(lengths) == b for b in range(len(BINS))]
    cells = []
    for a, b in PAIRS:
        left, right = groups[BINS.index(a)], groups[BINS.index(b)]
        cells.append(_mean_win(omega[left], weight[left], omega[right], weight[right]))
    return np.array(cells)


def _mean_win(omega_a: Array, weight_a: Array, omega_b: Array, weight_b: Array) -> float:
    total = weight_a.sum() * weight_b.sum()
    if not total > 0:
        return float("nan")
    wins = 0.0
    for start in range(0, len(omega_a), ROWS_AT_ONCE):
        rows = slice(start, start + ROWS_AT_ONCE)
        wins += float(weight_a[rows] @ preference_prob(omega_a[rows, None] - omega_b) @ weight_b)
    return wins / float(total)


def annotator_mixture_labels(
    log_ps: Sequence[Array], lengths: NDArray[np.int64], scale: float, rng: np.random.Generator
) -> NDArray[np.int8]:
    """Eq. 22: of sentences 2 i and 2 i + 1, 1 where the first is preferred: (N,) each -> (N / 2,).

    Every pair is judged by one of the annotators, drawn with equal probability; log_ps: theirs.
    """
    rule = Rule("", scale)
    probs = np.stack([_first_preferred(rule.omega(log_p, lengths)) for log_p in log_ps])
    who = rng.integers(len(log_ps), size=probs.shape[1])
    return np.asarray(rng.random(probs.shape[1]) < probs[who, np.arange(probs.shape[1])], dtype=np.int8)


def density_mixture_labels(
    log_ps: Sequence[Array], lengths: NDArray[np.int64], scale: float, rng: np.random.Generator
) -> NDArray[np.int8]:
    """Eq. 23: the same, judged by one annotator with the mean of the densities."""
    mixed = np.logaddexp.reduce(np.stack(log_ps)) - np.log(len(log_ps))
    prob = _first_preferred(Rule("", scale).omega(mixed, lengths))
    return np.asarray(rng.random(len(prob)) < prob, dtype=np.int8)


def _first_preferred(omega: Array) -> Array:
    return preference_prob(omega[0::2] - omega[1::2])


LABELS = {"annotator": annotator_mixture_labels, "density": density_mixture_labels}
EQUATIONS = {"annotator": "Eq. 22", "density": "Eq. 23"}


def preference_loss(margin: Array, y: NDArray[np.int8]) -> float:
    """Eq. 7: the mean of -log P(y), margins and outcomes (N,), in nats a pair."""
    return float(np.mean(np.logaddexp(0.0, margin) - y * margin))
