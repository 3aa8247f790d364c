"""Eq. 9, 12, 22, 23 and Table 2: against one pair at a time, and the reference's annotators."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lm.preferences import (
    LABELS,
    PAIRS,
    RULES,
    Rule,
    annotator_mixture_labels,
    density_mixture_labels,
    length_bin,
    preference_loss,
    preference_prob,
    table_2,
)
from reference import PBDE, Annotator, Population
from tests.checks import CLOSED_FORM, assert_close

seeds = st.integers(0, 2**32 - 1)


def drawn(rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Log-likelihoods that fall with the length, and lengths of all bins."""
    lengths = np.concatenate([[5, 25, 40], rng.integers(1, 51, count - 3)])
    return -lengths * rng.gamma(4.0, 0.7, count), lengths


@given(seed=seeds, count=st.integers(3, 40))
def test_table_2_is_the_mean_over_all_pairs(seed: int, count: int) -> None:
    """Each cell, one pair after the other; weights count as repetitions."""
    rng = np.random.default_rng(seed)
    log_p, lengths = drawn(rng, count)
    times = rng.integers(1, 4, count)
    for rule in RULES:
        omega = log_p if rule.scale == 0 else rule.scale * log_p / lengths
        assert_close(rule.omega(log_p, lengths), omega, CLOSED_FORM)
        sides = {name: np.repeat(omega[length_bin(lengths) == b], times[length_bin(lengths) == b])
                 for b, name in enumerate("SML")}  # fmt: skip
        expected = [
            np.mean([preference_prob(np.array(a - b)) for a in sides[x] for b in sides[y]]) for x, y in PAIRS
        ]
        assert_close(table_2(omega, lengths, times.astype(float)), expected, CLOSED_FORM)
    assert_close(table_2(omega, lengths), table_2(omega, lengths, np.full(count, 0.25)), CLOSED_FORM)


def test_an_empty_bin_is_no_number() -> None:
    found = table_2(np.zeros(3), np.array([3, 4, 40]))
    assert np.isnan(found[0])
    assert found[1] == 0.5
    assert np.isnan(found[2])


def test_bins_are_the_paper_s() -> None:
    assert length_bin(np.array([1, 20, 21, 29, 30, 50])).tolist() == [0, 0, 1, 1, 2, 2]


@given(margin=st.floats(-1e4, 1e4))
def test_preference_prob(margin: float) -> None:
    """Far out too, both sides sum to 1."""
    one, other = preference_prob(np.array([margin, -margin]))
    assert 0 <= one <= 1
    assert one + other == pytest.approx(1.0, rel=1e-15)


@pytest.mark.parametrize("mixture", list(LABELS))
def test_labels_come_with_the_probabilities_of_eq_22_and_23(mixture: str) -> None:
    """One pair judged 20,000 times, against the reference's population and its density mixture."""
    log_ps, lengths = [np.log([0.7, 0.3]), np.log([0.1, 0.9])], np.array([2, 3])
    model, count = PBDE.length_normalized(lengths, 5.0), 20_000
    population = Population([Annotator(log_p, model) for log_p in log_ps], np.array([0.5, 0.5]))
    judge = population if mixture == "annotator" else population.density_mixture()
    expected = judge.preference_prob()[0, 1]
    many = [np.tile(log_p, count) for log_p in log_ps]
    y = LABELS[mixture](many, np.tile(lengths, count), 5.0, np.random.default_rng(3))
    assert y.shape == (count,)
    deviation = np.sqrt(expected * (1 - expected) / count)
    assert abs(y.mean() - expected) < 4 * deviation
    other = LABELS["density" if mixture == "annotator" else "annotator"]
    y = other(many, np.tile(lengths, count), 5.0, np.random.default_rng(3))
    assert abs(y.mean() - expected) > 4 * deviation


def test_annotators_who_agree_are_one() -> None:
    """With one annotator, or twice the same, Eq. 22 and 23 are the same law."""
    rng = np.random.default_rng(0)
    log_p, lengths = drawn(rng, 2000)
    for labels in (annotator_mixture_labels, density_mixture_labels):
        y = labels([log_p, log_p], lengths, 1.0, np.random.default_rng(1))
        omega = Rule("", 1.0).omega(log_p, lengths)
        prob = preference_prob(omega[0::2] - omega[1::2])
        score = (y - prob).sum() / np.sqrt((prob * (1 - prob)).sum())
        assert abs(score) < 4


def test_preference_loss() -> None:
    """-log P(y); of margins of a thousand nats too."""
    margin, y = np.array([0.3, -2.0, 1000.0, 1000.0]), np.array([1, 1, 1, 0], dtype=np.int8)
    expected = np.mean(
        [-np.log(preference_prob(margin[:1]))[0], -np.log(preference_prob(margin[1:2]))[0], 0.0, 1000.0]
    )
    assert_close(preference_loss(margin, y), expected, CLOSED_FORM)
