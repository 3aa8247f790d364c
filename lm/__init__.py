"""The language-model experiment of sec. 5.2: corpora with exact probabilities, and the exact optima over them."""

from lm.corpora.coffee import coffee_grammar
from lm.corpora.corpus import Corpora, Corpus, load_corpus
from lm.corpora.grammar import BOS, EOS, PAD, Choice, Grammar, sentence_lengths
from lm.corpora.tilted import MAX_LENGTH, Tilted, long, modes, moving_average, shares, short, whole
from lm.exact_optima import Cells, annotator_mixture, density_mixture, sentence_cells

__all__ = [
    "BOS",
    "EOS",
    "MAX_LENGTH",
    "PAD",
    "Cells",
    "Choice",
    "Corpora",
    "Corpus",
    "Grammar",
    "Tilted",
    "annotator_mixture",
    "coffee_grammar",
    "density_mixture",
    "load_corpus",
    "long",
    "modes",
    "moving_average",
    "sentence_cells",
    "sentence_lengths",
    "shares",
    "short",
    "whole",
]
