"""The cells of `whole` against all sentences, written out, and the exact optima of Eq. 22 and 23 over them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings

from lm import (
    Cells,
    Grammar,
    Tilted,
    annotator_mixture,
    coffee_grammar,
    density_mixture,
    long,
    modes,
    moving_average,
    sentence_cells,
    sentence_lengths,
    shares,
    short,
    whole,
)
from lm.exact_optima import annotator, log_likelihood_law
from reference import PBDE, Annotator, Optimum, Population, optimum, win_matrix
from tests.checks import CLOSED_FORM, FOURIER, SOLVED, assert_close
from tests.grammars import grammars, little_grammar, sentences

LITTLE = little_grammar()
COFFEE = coffee_grammar()
CORPORA = (short(COFFEE), long(COFFEE))


@pytest.fixture(scope="module")
def cells() -> Cells:
    """The default grammar's."""
    return sentence_cells(COFFEE)


@pytest.fixture(scope="module")
def densities(cells: Cells) -> Optimum:
    """The optimum of Eq. 23 at scale 50."""
    return density_mixture(cells, CORPORA, 50.0)


# ----- The law of the log-likelihoods -----


@settings(max_examples=15)
@given(grammars())
def test_log_likelihoods_on_the_grid(grammar: Grammar) -> None:
    """At each length: the mass and the mean of l exactly; of its variance at most step^2 / 2 a token more."""
    step = 0.1
    law = log_likelihood_law(grammar, 5, step)
    values = -step * np.arange(law.shape[1])
    tokens, prob = sentences(grammar, 5)
    of_length, log_p = sentence_lengths(tokens), np.log(prob)
    for length in range(6):
        mass = prob[of_length == length]
        assert_close(law[length].sum(), mass.sum(), FOURIER)
        assert_close(law[length] @ values, mass @ log_p[of_length == length], FOURIER)
        square = mass @ log_p[of_length == length] ** 2
        more = law[length] @ values**2 - square
        assert -FOURIER * (1 + square) <= more <= length * step**2 / 2 * mass.sum() + FOURIER * (1 + square)


def test_cells_hold_the_length_law(cells: Cells) -> None:
    """Masses of sum 1, by length those of `whole`; measure counts sentences: under log p = l it is the mass."""
    law = whole(COFFEE).length_law()
    assert_close(np.bincount(cells.lengths, cells.mass, 51), law, CLOSED_FORM, scale=1.0)
    assert_close(cells.length_law(cells.log_likelihoods, 50), law, CLOSED_FORM, scale=1.0)
    assert np.bincount(cells.lengths).max() <= 16
    rates = cells.log_likelihoods / cells.lengths
    mean = (cells.mass * cells.log_likelihoods).sum() / (cells.mass * cells.lengths).sum()
    assert_close(mean, whole(COFFEE).token_moments()[0], FOURIER)
    for length in (10, 30, 50):  # from the likeliest sentences on
        assert np.all(np.diff(rates[cells.lengths == length][::-1]) < 0)


def test_one_bucket_a_length() -> None:
    """With one bucket, the cells are the lengths, each with the mean log-likelihood under `whole`."""
    base = whole(LITTLE, 7)
    tokens, prob = sentences(LITTLE, 7)
    prob, of_length = prob / prob.sum(), sentence_lengths(tokens)
    cells = sentence_cells(LITTLE, 7, buckets=1)
    assert cells.lengths.tolist() == sorted(set(of_length.tolist()))
    for length, mass, mean in zip(cells.lengths, cells.mass, cells.log_likelihoods, strict=True):
        rows = of_length == length
        assert_close(mass, prob[rows].sum(), FOURIER)
        assert_close(mean, prob[rows] @ base.log_prob(tokens[rows]) / prob[rows].sum(), FOURIER)


@pytest.mark.parametrize(
    ("buckets", "step", "reach"), [(0, 0.1, 3.0), (5, 0.0, 3.0), (5, np.nan, 3.0), (5, 0.1, 0)]
)
def test_bad_cells(buckets: int, step: float, reach: float) -> None:
    """At least one bucket, a grid, and somewhere to put the buckets."""
    with pytest.raises(ValueError, match="buckets must be >= 1, step and reach > 0"):
        sentence_cells(LITTLE, 5, buckets, step, reach)


# ----- The optima -----


def test_cells_lead_to_the_optimum_of_all_sentences() -> None:
    """A grammar small enough for Eq. 22 over its single sentences: the cells give its length law."""
    tilts = -1.0 * np.maximum(0, np.arange(8) - 3), -1.0 * np.maximum(0, 6 - np.arange(8))
    corpora = tuple(Tilted(LITTLE, tilt) for tilt in tilts)
    tokens, prob = sentences(LITTLE, 7)
    lengths, prob = sentence_lengths(tokens), prob / prob.sum()
    model = PBDE.length_normalized(lengths, 5.0)
    judges = Population([Annotator(corpus.log_prob(tokens), model) for corpus in corpora], [0.5, 0.5])
    exact = optimum(win_matrix(judges.preference_prob(), prob), model)
    expected = np.bincount(lengths, np.exp(exact.log_p), 8)
    cells = sentence_cells(LITTLE, 7, buckets=24, step=0.01)
    found = cells.length_law(annotator_mixture(cells, corpora, 5.0).log_p, 7)
    assert np.abs(found - expected).sum() / 2 < 0.01
    assert np.abs(whole(LITTLE, 7).length_law() - expected).sum() / 2 > 0.05


def test_density_mixture_is_the_mean(cells: Cells, densities: Optimum) -> None:
    """Theorem 2: Eq. 23 returns the half-half mixture, cell by cell, at any scale."""
    both = [np.asarray(annotator(cells, corpus, 1.0).log_p) for corpus in CORPORA]
    half = (CORPORA[0].length_law() + CORPORA[1].length_law()) / 2
    for found in (densities, density_mixture(cells, CORPORA, 1.0)):
        assert_close(found.log_p, np.logaddexp(*both) - np.log(2), SOLVED)
        assert_close(cells.length_law(found.log_p, 50), half, SOLVED, scale=1.0)


def test_one_annotator_is_found(cells: Cells) -> None:
    """Theorem 2 again: a population of one corpus twice gives that corpus, by Eq. 22 as by Eq. 23."""
    twice = (CORPORA[0], CORPORA[0])
    for mixture in (annotator_mixture, density_mixture):
        found = cells.length_law(mixture(cells, twice, 1.0).log_p, 50)
        assert_close(found, CORPORA[0].length_law(), SOLVED, scale=1.0)


def test_figure_6_of_the_default_grammar(cells: Cells, densities: Optimum) -> None:
    """Figure 6 (right) at scale 50: the annotator mixture has one mode and more between 21 and 29 tokens than
    `short` and `long`; the density mixture has two modes and at most half of what `whole` has there."""
    annotators = cells.length_law(annotator_mixture(cells, CORPORA, 50.0).log_p, 50)
    mixed = cells.length_law(densities.log_p, 50)
    between = shares(annotators)[1]
    assert len(modes(moving_average(annotators))) == 1
    assert all(between > shares(corpus.length_law())[1] for corpus in CORPORA)
    first, second = modes(moving_average(mixed))
    assert first <= 20
    assert second >= 30
    assert shares(mixed)[1] <= shares(whole(COFFEE).length_law())[1] / 2


def test_finer_cells_change_little(cells: Cells) -> None:
    """Twice the buckets on half the step, of the same reach: the length law of Eq. 22 moves by less than 0.01."""
    fine = sentence_cells(COFFEE, buckets=24, step=0.05)
    laws = [on.length_law(annotator_mixture(on, CORPORA, 50.0).log_p, 50) for on in (cells, fine)]
    assert np.abs(laws[0] - laws[1]).sum() / 2 < 0.01
