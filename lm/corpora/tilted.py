"""Corpora that differ by length only: `whole`, and its tilts `short` and `long` (sec. 5.2 of the paper).

    whole(x) = grammar(x | |x| <= 50)
    short(x) = whole(x) exp(-2 max(0, |x| - 20)) / Z,        long(x) = whole(x) exp(-2 max(0, 30 - |x|)) / Z.

A tilt by length keeps everything exact. With t tokens written and state s, all that the future adds is

    future_t(s) = sum_r remaining_r(s) exp(tilt(t + r)),

so the next token of the tilted law has probability p(v | s) future_{t+1}(s') / future_t(s).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike

from lm.corpora.grammar import EOS, NOWHERE, PAD, Array, Grammar, Tokens, sentence_lengths

MAX_LENGTH = 50  # tokens, EOS included
SHORT, LONG = 20, 30  # `short` prefers |x| <= 20, `long` |x| >= 30
SLOPE = 2.0  # nats a token out of range


@dataclass(frozen=True, eq=False)
class Tilted:
    """p(x) = grammar(x) exp(tilt(|x|)) / Z over |x| <= max_length.

    tilt: (max_length + 1,) finite, by length; tilt[0] is not used. ValueError otherwise, or where Z = 0.
    """

    grammar: Grammar
    tilt: ArrayLike

    def __post_init__(self) -> None:
        tilt = np.asarray(self.tilt, dtype=np.float64)
        if tilt.ndim != 1 or len(tilt) < 2 or not np.isfinite(tilt).all():
            raise ValueError(f"tilt must be finite and have shape (max_length + 1,), got shape {tilt.shape}")
        object.__setattr__(self, "tilt", tilt)
        if not self.future[0, self.grammar.initial] > 0:
            raise ValueError(f"the grammar must have sentences of at most {self.max_length} tokens")

    @property
    def max_length(self) -> int:
        """The largest |x| with any probability."""
        return len(np.asarray(self.tilt)) - 1

    @cached_property
    def future(self) -> Array:
        """(max_length + 1, S): future_t(s); rows behind the last token are 0."""
        remaining, weight = self.grammar.remaining(self.max_length), np.exp(np.asarray(self.tilt))
        future = np.zeros_like(remaining)
        for t in range(self.max_length):
            future[t] = weight[t + 1 :] @ remaining[1 : self.max_length + 1 - t]
        return future

    @property
    def log_z(self) -> float:
        """log Z = log sum_L P(|x| = L) exp(tilt(L))."""
        return float(np.log(self.future[0, self.grammar.initial]))

    def length_law(self) -> Array:
        """(max_length + 1,): [L] = P(|x| = L), of sum 1."""
        law = self.grammar.length_law(self.max_length) * np.exp(np.asarray(self.tilt) - self.log_z)
        return np.asarray(law)

    def log_prob(self, tokens: ArrayLike) -> Array:
        """(N, T) -> (N,), or (T,) -> (): log p(x), -inf for what is not a sentence or too long.

        ValueError as Grammar.token_log_probs.
        """
        log_prob, length = self.grammar.log_prob(tokens), sentence_lengths(tokens)
        tilt = np.asarray(self.tilt)[np.minimum(length, self.max_length)] - self.log_z
        return np.asarray(np.where(length <= self.max_length, log_prob + tilt, -np.inf))

    def token_log_probs(self, tokens: ArrayLike) -> Array:
        """(N, T) or (T,) -> the same: log p(x_t | x_<t) under the tilted law, 0 for PAD.

        -inf from a word on that the law excludes; the sum of a row is log_prob. ValueError as in Grammar.
        """
        checked, states = self.grammar.walk(tokens)
        step = self.grammar.token_log_probs(checked)
        with np.errstate(divide="ignore"):
            log_future = np.log(self.future)
        tilt = np.asarray(self.tilt)
        tilted = np.full(checked.shape, -np.inf)
        for t in range(min(checked.shape[1], self.max_length)):
            state, word, going = states[:, t], checked[:, t], np.isfinite(step[:, t])
            behind = np.where(going, self.grammar.tables.to[state, word], NOWHERE)
            ahead = np.where(word == EOS, tilt[t + 1], log_future[t + 1, behind])
            now = log_future[t, state]
            reached = going & np.isfinite(ahead) & np.isfinite(now)
            tilted[reached, t] = (step[:, t] + ahead)[reached] - now[reached]
        return np.where(checked == PAD, 0.0, tilted).reshape(np.shape(tokens))

    def sample(self, count: int, rng: np.random.Generator) -> Tokens:
        """(count, max_length): exact samples, EOS at the end, then PAD."""
        law = self.length_law()
        return self.sample_given_length(rng.choice(len(law), size=count, p=law / law.sum()), rng)

    def sample_given_length(self, wanted: ArrayLike, rng: np.random.Generator) -> Tokens:
        """(N,) lengths -> (N, max_length): given its length, a sentence does not feel the tilt."""
        return self.grammar.sample_given_length(wanted, rng, self.max_length)

    def token_moments(self) -> tuple[float, float]:
        """Mean and standard deviation, in nats, of the log-probability of a token, over all tokens, EOS too."""
        grammar, edges, tilt = self.grammar, self.grammar.edges, np.asarray(self.tilt)
        with np.errstate(divide="ignore", invalid="ignore"):
            log_word = np.where(grammar.word_probs > 0, np.log(grammar.word_probs), 0.0)
            log_stop = np.where(grammar.stop_probs > 0, np.log(grammar.stop_probs), 0.0)
        word_mean = (grammar.word_probs * log_word).sum(axis=1)[edges.words]
        word_square = (grammar.word_probs * log_word**2).sum(axis=1)[edges.words]
        here = np.zeros(grammar.states)  # P(t words, now in this state), tilted in the end by future
        here[grammar.initial] = np.exp(-self.log_z)
        moments = np.zeros(3)
        for t in range(self.max_length):
            ends = here * grammar.stop_probs * np.exp(tilt[t + 1])
            now, then = self._log_future(t), self._log_future(t + 1)
            shift = tilt[t + 1] - now
            moments += [ends.sum(), ends @ (log_stop + shift), ends @ (log_stop + shift) ** 2]
            flow = here[edges.state] * edges.prob
            goes = flow * self.future[t + 1, edges.to]
            shift = np.log(edges.prob) + then[edges.to] - now[edges.state]
            square = word_square + 2 * shift * word_mean + shift**2
            moments += [goes.sum(), goes @ (word_mean + shift), goes @ square]
            here = np.asarray(np.bincount(edges.to, flow, grammar.states), dtype=np.float64)
        mean = moments[1] / moments[0]
        return float(mean), float(np.sqrt(moments[2] / moments[0] - mean**2))

    def _log_future(self, t: int) -> Array:
        """(S,): log future_t, 0 where there is none: such states have no probability."""
        return np.log(np.where(self.future[t] > 0, self.future[t], 1.0))


def whole(grammar: Grammar, max_length: int = MAX_LENGTH) -> Tilted:
    """The grammar given |x| <= max_length."""
    return Tilted(grammar, np.zeros(max_length + 1))


def short(grammar: Grammar, max_length: int = MAX_LENGTH) -> Tilted:
    """whole, tilted by -2 nats for every token above 20."""
    return Tilted(grammar, -SLOPE * np.maximum(0, np.arange(max_length + 1) - SHORT))


def long(grammar: Grammar, max_length: int = MAX_LENGTH) -> Tilted:
    """whole, tilted by -2 nats for every token below 30."""
    return Tilted(grammar, -SLOPE * np.maximum(0, LONG - np.arange(max_length + 1)))


def shares(law: ArrayLike) -> Array:
    """(max_length + 1,) -> (3,): P(|x| <= 20), P(21..29), P(>= 30)."""
    array = np.asarray(law, dtype=np.float64)
    return np.array([array[: SHORT + 1].sum(), array[SHORT + 1 : LONG].sum(), array[LONG:].sum()])


def moving_average(law: ArrayLike, width: int = 5) -> Array:
    """The mean of `width` neighbours, of the same shape; there is nothing beyond the ends."""
    return np.asarray(np.convolve(np.asarray(law, dtype=np.float64), np.full(width, 1 / width), mode="same"))


def modes(law: ArrayLike, share: float = 0.1) -> Tokens:
    """The lengths where law is a local maximum above `share` of the highest; a plateau counts where it begins.

    Differences of rounding, below 1e-12 of the highest, are none.
    """
    array = np.asarray(law, dtype=np.float64)
    steps = np.round(np.concatenate([[0.0], array, [0.0]]) / array.max(), 12)
    starts = np.flatnonzero(np.diff(steps)) + 1  # where a run of equal values begins; the first is of zeros
    heights = steps[starts]
    rises, falls = heights > np.append(0.0, heights[:-1]), np.append(heights[1:], 0.0) < heights
    return np.asarray(starts[rises & falls & (heights > share)] - 1)
