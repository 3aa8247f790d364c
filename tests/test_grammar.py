"""Grammars: every probability against all sentences, written out; samples; and what the default one promises."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from scipy.stats import chisquare

from lm import BOS, EOS, PAD, Choice, Grammar, coffee_grammar, modes, sentence_lengths, shares, whole
from tests.checks import CHANCE, CLOSED_FORM, assert_close
from tests.grammars import grammars, little_grammar, sentences

LITTLE = little_grammar()
COFFEE = coffee_grammar()


# ----- The exact laws -----


@settings(max_examples=25)
@given(grammars())
def test_log_prob_is_the_walk(grammar: Grammar) -> None:
    """log p(x) of every short sentence, and the length law, which sums them up."""
    tokens, prob = sentences(grammar, 6)
    assert_close(grammar.log_prob(tokens), np.log(prob), CLOSED_FORM)
    assert_close(grammar.token_log_probs(tokens).sum(axis=1), np.log(prob), CLOSED_FORM)
    law = np.bincount(sentence_lengths(tokens), prob, minlength=7)
    assert_close(grammar.length_law(6), law, CLOSED_FORM, scale=1.0)


def test_tokens_follow_their_prefix() -> None:
    """p(x_t | x_<t) is what all sentences that begin so say; a long sentence too has its probability."""
    tokens, prob = sentences(LITTLE, 12)
    row = LITTLE.parse("the cat sleeps and dog sees")
    begun = [(tokens[:, :t] == row[:t]).all(axis=1) for t in range(len(row) + 1)]
    mass = np.array([prob[rows].sum() for rows in begun])
    unwritten = 1 - prob.sum()  # sentences of more than 12 tokens: at most so much is missing from any mass
    found = np.exp(LITTLE.token_log_probs(row))
    assert np.all(np.abs(found - mass[1:] / mass[:-1]) <= unwritten / mass[:-1])
    assert unwritten < 0.1
    assert_close(LITTLE.log_prob(row), np.log(mass[-1]), CLOSED_FORM)


def test_remaining_is_a_law() -> None:
    """From every state that is reached, the number of tokens to come has a law of sum 1."""
    assert_close(LITTLE.remaining(400).sum(axis=0), np.ones(LITTLE.states), CLOSED_FORM)
    assert_close(COFFEE.remaining(1500).sum(axis=0), np.ones(COFFEE.states), CLOSED_FORM)


def test_what_is_no_sentence_has_no_probability() -> None:
    """-inf from the first word on that the grammar excludes; a special token in a sentence is such a word."""
    words = LITTLE.parse("cat sleeps sleeps well")
    found = LITTLE.token_log_probs(words)
    assert list(np.isfinite(found)) == [True, True, False, False, False]
    assert LITTLE.log_prob(words) == -np.inf
    assert LITTLE.log_prob([BOS, EOS]) == -np.inf
    assert LITTLE.log_prob([EOS, PAD]) == -np.inf
    assert LITTLE.log_prob(LITTLE.parse("cat")) == -np.inf


def test_padding_says_nothing() -> None:
    """PAD behind EOS changes no probability, and has log-probability 0."""
    row = LITTLE.parse("dog sees well")
    padded = np.append(row, [PAD, PAD])
    assert list(LITTLE.token_log_probs(padded)[-2:]) == [0.0, 0.0]
    assert LITTLE.log_prob(padded) == LITTLE.log_prob(row)


# ----- Samples -----


def test_samples_given_a_length_follow_the_law() -> None:
    """Sentences of five and of eight tokens, in one call: by chi-squared, over all there are."""
    tokens, prob = sentences(LITTLE, 8)
    drawn = LITTLE.sample_given_length(np.repeat([8, 5], 20_000), np.random.default_rng(1))
    for length, part in ((8, drawn[:20_000]), (5, drawn[20_000:])):
        of_length = sentence_lengths(tokens) == length
        assert goodness(part, tokens[of_length], prob[of_length]) > CHANCE


def goodness(drawn: Any, tokens: Any, prob: Any) -> float:
    """The p-value of chi-squared; sentences that are expected fewer than five times are one cell."""
    index = {tuple(row): i for i, row in enumerate(tokens.tolist())}
    found = np.bincount([index[tuple(row)] for row in drawn.tolist()], minlength=len(prob))
    expected = prob / prob.sum() * len(drawn)
    common = expected >= 5
    assert np.count_nonzero(common) >= 10
    cells = [np.append(values[common], values[~common].sum()) for values in (found, expected)]
    if not cells[1][-1] > 0:
        cells = [values[:-1] for values in cells]
    return float(chisquare(*cells).pvalue)


def test_samples_are_sentences_of_the_length_asked() -> None:
    """Of the default grammar: each has its length, a probability, EOS and PAD; the seed decides."""
    lengths = np.repeat(np.arange(3, 51), 4)
    drawn = COFFEE.sample_given_length(lengths, np.random.default_rng(2), 60)
    assert drawn.shape == (len(lengths), 60)
    assert np.array_equal(sentence_lengths(drawn), lengths)
    assert np.isfinite(COFFEE.log_prob(drawn)).all()
    again = COFFEE.sample_given_length(lengths, np.random.default_rng(2), 60)
    assert np.array_equal(drawn, again)
    assert COFFEE.sample_given_length([], np.random.default_rng(2), 60).shape == (0, 60)


def test_text_and_parse_are_inverse() -> None:
    """The words of a sentence, and the sentence of the words."""
    for row in COFFEE.sample_given_length([3, 20, 47], np.random.default_rng(3)):
        parsed = COFFEE.parse(COFFEE.text(row))
        assert np.array_equal(parsed, row[row != PAD])


# ----- Bad grammars and bad tokens -----


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"start": "nowhere"}, "start must be defined, got 'nowhere'"),
        ({"ends": frozenset({"the end"})}, "end positions must be defined, got 'the end'"),
        ({"stop": (0.5, 1.0)}, r"stop must lie in \[0, 1\)"),
        ({"stop": ()}, r"stop must lie in \[0, 1\)"),
        ({"rules": {"begin": [Choice("animal", 1.0, "begn")]}}, "next positions must be defined, got 'begn'"),
        ({"rules": {"begin": [Choice("animals", 1.0, "begin")]}}, "word classes must be defined, got 'animals'"),
        ({"rules": {"begin": [Choice("animal", 0.0, "begin")]}}, "position 'begin' must have choices, each with"),
        ({"rules": {"begin": [Choice("animal", np.nan, "begin")]}}, "position 'begin' must have choices, each"),
        ({"rules": {"begin": []}}, "position 'begin' must have choices"),
        ({"classes": {**LITTLE.classes, "how": {}}}, "class 'how' must have words"),
        ({"classes": {**LITTLE.classes, "how": {"well": np.inf}}}, "class 'how' must have words"),
        ({"classes": {**LITTLE.classes, "how": {"and": 1.0}}}, "'end' must be unambiguous, got 'and' in both"),
    ],
)
def test_bad_grammars(changes: dict[str, Any], message: str) -> None:
    """Each is one clear line."""
    ends = {"ends": frozenset({"begin"})} if "rules" in changes else {}
    with pytest.raises(ValueError, match=message):
        replace(LITTLE, **(ends | changes))


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        ([[3, 99, EOS]], "tokens must be ids in 0..10, got 99"),
        ([[3, -1, EOS]], "tokens must be ids in 0..10, got -1"),
        ([[3.0, EOS]], "tokens must be integers"),
        ([], "tokens must be integers of shape"),
        ([[5, EOS], [PAD, PAD]], r"every sentence must have one EOS \(2\), row 1 has 0"),
        ([[5, EOS, EOS]], "row 0 has 2"),
        ([[5, PAD, EOS]], r"words, EOS \(2\), then PAD \(0\) only"),
        ([[5, EOS, 5]], r"words, EOS \(2\), then PAD \(0\) only"),
    ],
)
def test_bad_tokens(tokens: Any, message: str) -> None:
    """Ids that are none, sentences without a word of an end, and padding in their middle."""
    with pytest.raises(ValueError, match=message):
        LITTLE.log_prob(tokens)


def test_bad_lengths_and_words() -> None:
    """A length that the grammar cannot have, one above the room there is, and a word that it has not."""
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="lengths must be possible and <= 5, got 1"):
        LITTLE.sample_given_length([5, 1], rng)
    with pytest.raises(ValueError, match="lengths must be possible and <= 8, got 9"):
        LITTLE.sample_given_length([9], rng, 8)
    with pytest.raises(ValueError, match="max_length must be >= 1, got 0"):
        LITTLE.length_law(0)
    with pytest.raises(ValueError, match="text must use the grammar's words, got 'horse'"):
        LITTLE.parse("the horse sleeps")
    with pytest.raises(ValueError, match="got '<eos>'"):
        LITTLE.parse("cat <eos>")


# ----- What the default grammar promises -----


def test_coffee_is_small() -> None:
    """A vocabulary of at most 256 and at most 2,000 free probabilities."""
    assert len(COFFEE.vocabulary) <= 256
    assert len(set(COFFEE.vocabulary)) == len(COFFEE.vocabulary)
    assert COFFEE.free_probabilities <= 2000
    assert LITTLE.free_probabilities == 1 + 1 + 1 + 1 + 2 + 2  # article, animal, does; begin, end; stops


def test_coffee_has_the_lengths_of_the_paper() -> None:
    """Given |x| <= 50: mean 28 +- 1.5, shares .26 / .29 / .45 +- .03 of <= 20, 21-29, >= 30 tokens."""
    law = whole(COFFEE).length_law()
    assert abs(law @ np.arange(51) - 28) <= 1.5
    assert np.all(np.abs(shares(law) - [0.26, 0.29, 0.45]) <= 0.03)


def test_coffee_lengths_are_smooth_and_unimodal() -> None:
    """The law rises to one mode and falls behind it. From 16 tokens on every second difference is below 1 % of
    the highest probability: a step of s between 20 and 21, or 29 and 30, would make one of at least s / 2."""
    law = whole(COFFEE).length_law()
    (top,) = modes(law)
    assert 21 <= top <= 35
    assert np.all(np.diff(law[2 : top + 1]) > 0)
    assert np.all(np.diff(law[top:]) < 0)
    assert np.abs(np.diff(law[15:], 2)).max() <= 0.01 * law.max()


def test_coffee_stops_at_many_positions() -> None:
    """Five positions end sentences, in every clause count; none of them ends half."""
    tokens, states = COFFEE.walk(whole(COFFEE).sample(4096, np.random.default_rng(4)))
    position = states[tokens == EOS] % len(COFFEE.rules)
    ends = np.bincount(position, minlength=len(COFFEE.rules)) / len(tokens)
    assert np.count_nonzero(ends > 0.02) == len(COFFEE.ends) == 5
    assert ends.max() < 0.5
    assert all(0 < stop < 1 for stop in COFFEE.stop)


def test_coffee_reads_as_english() -> None:
    """The article "an" stands before vowels and "a" before the rest; no word comes twice in a row; and one
    sentence of the paper's theme can be said."""
    for row in whole(COFFEE).sample(2000, np.random.default_rng(5)):
        words = COFFEE.text(row).split()
        for word, following in itertools.pairwise(words):
            assert word != following, words
            if word in ("a", "an"):
                assert (word == "an") == (following[0] in "aeiou"), words
    sentence = "the tired barista drinks a cup of strong coffee slowly because anna waits"
    assert np.isfinite(COFFEE.log_prob(COFFEE.parse(sentence)))
