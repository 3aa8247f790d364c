"""The exact optima of Eq. 22 and 23 over the grammar's sentences, grouped into cells.

`short` and `long` are tilts of `whole` by length, so a sentence enters every preference only through its length L
and its log-likelihood l under `whole`. A cell c = (L, bucket of l / L) holds mass m_c of `whole`, which is
the proposal, and measure_c = m_c exp(-l_c) sentences of log-likelihood l_c. With annotator k's

    omega_k(c) = scale (l_c + tilt_k(L) - log Z_k) / L,

the annotator mixture (Eq. 22) averages the preferences, the density mixture (Eq. 23) the densities.

The law of l given L comes by dynamic programming, not by sampling. Each log-probability on the way is split
between its two neighbours on a grid of `step` nats, which keeps its mean; the variance of l grows by at most
step^2 / 2 a token, its mean and the length law not at all. The sums of l are products of Fourier transforms.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lm.corpora.grammar import Array, Grammar
from lm.corpora.tilted import Tilted, whole
from reference import PBDE, Annotator, Optimum, Population, optimum, win_matrix

STEP = 0.1  # nats of log-likelihood
REACH = 4.0  # standard deviations of l / L, at each length: as far as the 2^16 sentences of 2^15 pairs go
FREQUENCIES_AT_ONCE = 128  # what stays in cache
ROUNDING = 1e-12  # a share of a length's mass that the Fourier transforms may have made up


@dataclass(frozen=True, eq=False)
class Cells:
    """lengths, log_likelihoods: of the sentences of a cell under `whole`, and mass of the cell, all (n,)."""

    lengths: NDArray[np.int64]
    log_likelihoods: Array
    mass: Array

    @property
    def measure(self) -> Array:
        """(n,): the number of sentences in each cell."""
        return np.asarray(self.mass * np.exp(-self.log_likelihoods))

    def length_law(self, log_p: Array, max_length: int) -> Array:
        """(n,) log-probabilities of a sentence -> (max_length + 1,): P(|x| = L)."""
        mass = self.measure * np.exp(log_p)
        return np.asarray(np.bincount(self.lengths, mass, max_length + 1), dtype=np.float64)


def log_likelihood_law(grammar: Grammar, max_length: int, step: float = STEP) -> Array:
    """(max_length + 1, G): [L, j] = P(|x| = L and log p(x) = -j step), log-probabilities split onto the grid."""
    largest = _largest_surprise(grammar) * max_length
    size = 2 ** int(np.ceil(np.log2(largest / step + 2 * max_length + 2)))
    law = np.zeros((max_length + 1, size // 2 + 1), dtype=np.complex128)
    for start in range(0, size // 2 + 1, FREQUENCIES_AT_ONCE):
        waves = np.arange(start, min(start + FREQUENCIES_AT_ONCE, size // 2 + 1)) * (-2j * np.pi / size)
        law[:, start : start + len(waves)] = _transformed(grammar, max_length, step, waves)
    return np.maximum(np.fft.irfft(law, size, axis=1), 0.0)


def _largest_surprise(grammar: Grammar) -> float:
    """The largest -log p of any one token, in nats."""
    log_prob = grammar.tables.log_prob
    return float(-log_prob[np.isfinite(log_prob)].min())


def _transformed(
    grammar: Grammar, max_length: int, step: float, waves: NDArray[np.complex128]
) -> NDArray[np.complex128]:
    """(max_length + 1, F): the Fourier transforms of the law over the grid: remaining_r with complex weights."""

    def on_grid(probs: Array) -> NDArray[np.complex128]:
        """(M,) probabilities p -> (M, F): p times the transform of -log p, split between two grid points."""
        place = np.where(probs > 0, -np.log(np.maximum(probs, 1e-300)) / step, 0.0)
        below = np.floor(place)
        part = (place - below)[:, None]
        return np.asarray(probs[:, None] * np.exp(below[:, None] * waves) * (1 - part + part * np.exp(waves)))

    edges = grammar.edges
    words = np.stack([on_grid(row[row > 0]).sum(axis=0) for row in grammar.word_probs])
    weights = on_grid(edges.prob) * words[edges.words]
    first = np.searchsorted(edges.state, np.arange(grammar.states))  # every state has choices
    law = np.zeros((max_length + 1, len(waves)), dtype=np.complex128)
    message = on_grid(grammar.stop_probs)
    for length in range(1, max_length + 1):
        law[length] = message[grammar.initial]
        message = np.add.reduceat(weights * message[edges.to], first, axis=0)
    return law


def sentence_cells(
    grammar: Grammar, max_length: int = 50, buckets: int = 16, step: float = STEP, reach: float = REACH
) -> Cells:
    """The cells of `whole`: at each length, `buckets` of l / L up to reach standard deviations, and beyond.

    A cell's log-likelihood is the mean of its sentences'; cells of rounding are left out. ValueError for
    buckets < 1, step <= 0 or reach <= 0.

    Where annotators disagree, the optimum of Eq. 22 has most of its mass on the unlikeliest sentences, so it hangs
    on `reach`, whatever the buckets: what is beyond, at 4 one draw in 16,000, counts as its mean. The default
    grammar at scale 50 has P(<= 20) .59, .50, .44, .41 with 3, 4, 5, 6, and at 6 a second mode at 31. At 3, the
    length law with 12 buckets is 0.011 in total variation from that with 96. Eq. 23 does not hang on either.
    """
    if buckets < 1 or not step > 0 or not reach > 0:
        raise ValueError(f"buckets must be >= 1, step and reach > 0, got {buckets}, {step} and {reach}")
    law = log_likelihood_law(grammar, max_length, step)
    base = whole(grammar, max_length)
    found: list[tuple[int, float, float]] = []
    for length, total in enumerate(base.length_law()):
        if total > 0:
            values = np.asarray(-step * np.arange(law.shape[1]) - base.log_z)
            found += [
                (length, value, total * share) for value, share in _buckets(values, law[length], buckets, reach)
            ]
    lengths, log_likelihoods, mass = zip(*found, strict=True)
    return Cells(np.array(lengths), np.array(log_likelihoods), np.array(mass) / np.sum(mass))


def _buckets(values: Array, law: Array, count: int, reach: float) -> list[tuple[float, float]]:
    """(mean value, share of the law) of each bucket that has one."""
    law = np.where(law > ROUNDING * law.max(), law, 0.0)
    law = law / law.sum()
    mean = float(law @ values)
    spread = max(float(np.sqrt(law @ (values - mean) ** 2)), 1e-12)
    inner = np.linspace(-reach, reach, count - 1) if count > 2 else np.zeros(count - 1)
    bucket = np.searchsorted(inner, (values - mean) / spread)
    mass = np.bincount(bucket, law, count)
    total = np.bincount(bucket, law * values, count)
    return [(float(total[b] / mass[b]), float(mass[b])) for b in np.flatnonzero(mass > ROUNDING)]


def log_density(on: Cells, tilted: Tilted) -> Array:
    """(n,): log p of a sentence of each cell under `tilted`."""
    base = whole(tilted.grammar, tilted.max_length)
    return np.asarray(on.log_likelihoods + base.log_z + np.asarray(tilted.tilt)[on.lengths] - tilted.log_z)


def annotator(on: Cells, tilted: Tilted, scale: float) -> Annotator:
    """The annotator with density `tilted` and the length-normalised Luce rule (Eq. 12), times scale."""
    return Annotator(log_density(on, tilted), PBDE.length_normalized(on.lengths, scale), on.measure)


def annotator_mixture(on: Cells, corpora: tuple[Tilted, ...], scale: float) -> Optimum:
    """What Eq. 22 leads to: comparisons each judged by one of the corpora, with equal weights."""
    return _fitted(on, _population(on, corpora, scale), scale)


def density_mixture(on: Cells, corpora: tuple[Tilted, ...], scale: float) -> Optimum:
    """What Eq. 23 leads to: one annotator with the mean of the densities. By Theorem 2 it is that mean."""
    return _fitted(on, _population(on, corpora, scale).density_mixture(), scale)


def _population(on: Cells, corpora: tuple[Tilted, ...], scale: float) -> Population:
    return Population([annotator(on, c, scale) for c in corpora], np.full(len(corpora), 1 / len(corpora)))


def _fitted(on: Cells, judge: Annotator | Population, scale: float) -> Optimum:
    """Pairs of two independent draws from `whole`, judged by `judge`."""
    wins = win_matrix(judge.preference_prob(), on.mass)
    return optimum(wins, PBDE.length_normalized(on.lengths, scale), on.measure)
