"""Tilts by length: normalisation, conditionals, samples and moments against all sentences, written out."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from lm import (
    EOS,
    MAX_LENGTH,
    PAD,
    Choice,
    Grammar,
    Tilted,
    coffee_grammar,
    long,
    modes,
    moving_average,
    sentence_lengths,
    shares,
    short,
    whole,
)
from tests.checks import CHANCE, CLOSED_FORM, assert_close
from tests.grammars import grammars, little_grammar, sentences
from tests.strategies import arrays
from tests.test_grammar import goodness

LITTLE = little_grammar()
COFFEE = coffee_grammar()
Array = NDArray[np.float64]
TILT = np.array([0.0, -3.0, 0.5, -1.0, 2.0, 0.0, 1.0, -2.0, 0.3])  # of up to eight tokens


def tilted_probs(tilted: Tilted) -> tuple[NDArray[np.int64], Array]:
    """All sentences and their probabilities, by the definition."""
    tokens, prob = sentences(tilted.grammar, tilted.max_length)
    weights = prob * np.exp(np.asarray(tilted.tilt)[sentence_lengths(tokens)])
    return tokens, weights / weights.sum()


# ----- The laws -----


@settings(max_examples=25)
@given(grammars(), arrays(7, -3.0, 3.0))
def test_log_prob_is_the_definition(grammar: Grammar, tilt: Array) -> None:
    """p(x) exp(tilt) / Z: of every sentence, of its tokens in sum, and of the lengths."""
    tilted = Tilted(grammar, tilt)
    tokens, prob = tilted_probs(tilted)
    assert_close(tilted.log_prob(tokens), np.log(prob), CLOSED_FORM)
    assert_close(tilted.token_log_probs(tokens).sum(axis=1), np.log(prob), CLOSED_FORM)
    law = np.bincount(sentence_lengths(tokens), prob, minlength=7)
    assert_close(tilted.length_law(), law, CLOSED_FORM, scale=1.0)


def test_tokens_follow_their_prefix() -> None:
    """p(x_t | x_<t) is the share of all sentences that begin so."""
    tilted = Tilted(LITTLE, TILT)
    tokens, prob = tilted_probs(tilted)
    row = LITTLE.parse("the cat sleeps and dog sees")
    mass = np.array([prob[(tokens[:, :t] == row[:t]).all(axis=1)].sum() for t in range(len(row) + 1)])
    assert_close(np.exp(tilted.token_log_probs(row)), mass[1:] / mass[:-1], CLOSED_FORM)


@settings(max_examples=25)
@given(grammars(), arrays(7, -3.0, 3.0))
def test_token_moments(grammar: Grammar, tilt: Array) -> None:
    """Mean and standard deviation over the tokens of all sentences. A deviation of 0 is rounded in its square."""
    tilted = Tilted(grammar, tilt)
    tokens, prob = tilted_probs(tilted)
    values, weights = tilted.token_log_probs(tokens), prob[:, None] * (tokens != PAD)
    mean = (weights * values).sum() / weights.sum()
    variance = (weights * (values - mean) ** 2).sum() / weights.sum()
    found = tilted.token_moments()
    assert_close(found[0], mean, CLOSED_FORM)
    assert_close(found[1] ** 2, variance, CLOSED_FORM, scale=1 + mean**2)


def test_too_long_or_no_sentence() -> None:
    """Both have probability 0, and what no tilted sentence can begin with is told where it happens."""
    tilted = whole(LITTLE, 4)
    row = LITTLE.parse("the cat sleeps well")
    assert tilted.log_prob(row) == -np.inf
    assert np.isfinite(LITTLE.log_prob(row))
    found = tilted.token_log_probs(row)
    assert list(np.isfinite(found)) == [True, True, True, False, False]  # no room for EOS behind "well"
    assert tilted.log_prob(LITTLE.parse("cat cat")) == -np.inf
    padded = np.append(LITTLE.parse("cat sees"), [PAD] * 5)
    assert tilted.log_prob(padded) == tilted.log_prob(LITTLE.parse("cat sees"))


def test_samples_follow_the_law() -> None:
    """Chi-squared over all sentences of a tilted law; the seed decides."""
    tilted = Tilted(LITTLE, TILT)
    drawn = tilted.sample(40_000, np.random.default_rng(1))
    assert goodness(drawn, *tilted_probs(tilted)) > CHANCE
    assert np.array_equal(drawn, tilted.sample(40_000, np.random.default_rng(1)))


# ----- whole, short and long -----


def test_the_three_corpora() -> None:
    """Their tilts, their sums, and their order: all have full support up to 50 tokens."""
    lengths = np.arange(MAX_LENGTH + 1)
    base = whole(COFFEE).length_law()
    assert_close(base, COFFEE.length_law(50) / COFFEE.length_law(50).sum(), CLOSED_FORM, scale=1.0)
    for tilted, tilt in (
        (short(COFFEE), -2.0 * np.maximum(0, lengths - 20)),
        (long(COFFEE), -2.0 * np.maximum(0, 30 - lengths)),
    ):
        law = tilted.length_law()
        expected = base * np.exp(tilt)
        assert_close(law, expected / expected.sum(), CLOSED_FORM, scale=1.0)
        assert abs(law.sum() - 1) <= CLOSED_FORM
        assert np.all(law[3:] > 0)


def test_short_and_long_keep_their_ranges() -> None:
    """About 98.5 % of `short` has at most 20 tokens, and of `long` at least 30."""
    assert abs(shares(short(COFFEE).length_law())[0] - 0.985) <= 0.005
    assert abs(shares(long(COFFEE).length_law())[2] - 0.985) <= 0.005


def test_coffee_tokens_spread() -> None:
    """The standard deviation of the log-probability of a token is .5 to 1.5 nats, in all three corpora: exactly,
    and so in samples."""
    rng = np.random.default_rng(2)
    for tilted in (whole(COFFEE), short(COFFEE), long(COFFEE)):
        mean, spread = tilted.token_moments()
        assert 0.5 <= spread <= 1.5
        tokens = tilted.sample(4000, rng)
        values = tilted.token_log_probs(tokens)[tokens != PAD]
        assert abs(values.mean() - mean) <= 4 * spread / np.sqrt(len(values))
        assert abs(values.std() - spread) <= 0.02 * spread


@pytest.mark.parametrize(
    ("tilt", "message"),
    [
        ([0.0, -np.inf, 0.0], "tilt must be finite"),
        ([0.0], r"tilt must be finite and have shape \(max_length \+ 1,\), got shape \(1,\)"),
        ([[0.0, 1.0]], "tilt must be finite"),
        ([0.0, 0.0], "the grammar must have sentences of at most 1 tokens"),
    ],
)
def test_bad_tilts(tilt: Any, message: str) -> None:
    """No hard cuts, and some sentence must be short enough."""
    with pytest.raises(ValueError, match=message):
        Tilted(LITTLE, tilt)


def test_bad_tokens() -> None:
    """The grammar's own errors come through."""
    with pytest.raises(ValueError, match="tokens must be ids"):
        whole(LITTLE).log_prob([[99, EOS]])
    with pytest.raises(ValueError, match="every sentence must have one EOS"):
        whole(LITTLE).token_log_probs([[PAD, PAD]])


def test_steep_tilts_do_not_overflow() -> None:
    """2 nats a token over 200 tokens: the laws stay normalised."""
    loop = Grammar({"a": {"a": 1.0}}, {"at": [Choice("a", 1.0, "at")]}, (0.1,), frozenset({"at"}), "at")
    tilted = Tilted(loop, 2.0 * np.arange(201))
    assert_close(tilted.length_law().sum(), 1.0, CLOSED_FORM)
    assert np.isfinite(tilted.token_moments()).all()


# ----- Reading a length law -----


def test_shares() -> None:
    """20 is short, 21 and 29 are between, 30 is long."""
    law = np.zeros(51)
    law[[20, 21, 29, 30, 50]] = [0.1, 0.2, 0.15, 0.25, 0.3]
    assert_close(shares(law), [0.1, 0.35, 0.55], CLOSED_FORM)


def test_moving_average() -> None:
    """The mean of five neighbours; beyond the ends there is nothing."""
    assert_close(moving_average(np.eye(7)[3]), [0.0, 0.2, 0.2, 0.2, 0.2, 0.2, 0.0], CLOSED_FORM)
    assert_close(moving_average(np.ones(5)), [0.6, 0.8, 1.0, 0.8, 0.6], CLOSED_FORM)


@pytest.mark.parametrize(
    ("law", "found"),
    [
        ([0, 1, 3, 2, 1], [2]),
        ([3, 1, 1, 3], [0, 3]),
        ([1, 2, 2, 3, 1], [3]),  # a step on the way up is no mode
        ([3, 2, 2, 1], [0]),
        ([1, 2, 2, 2, 1, 1.5, 0], [1, 5]),
        ([10, 0, 1, 0, 1.1], [0, 4]),  # at most 10 % of the highest does not count
        ([0.1, 0.3, 0.1 + 0.2, 0.4], [3]),  # rounding is no mode
        ([0, 0, 1], [2]),
    ],
)
def test_modes(law: list[float], found: list[int]) -> None:
    """Local maxima above a tenth of the highest, plateaus once."""
    assert modes(law).tolist() == found


@given(st.lists(st.integers(0, 9), min_size=1, max_size=12).filter(any))
def test_modes_are_peaks(law: list[int]) -> None:
    """The highest is among them, and between two modes there is a valley."""
    found = modes(law, share=0.0)
    assert int(np.argmax(law)) in found
    for first, second in itertools.pairwise(found):
        assert min(law[first:second]) < min(law[first], law[second])
