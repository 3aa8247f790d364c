"""The language-model experiment of sec. 5.2: corpora with exact probabilities, and the exact optima over them."""

from lm.cells import Cells, annotator_mixture, density_mixture, sentence_cells
from lm.coffee import coffee_grammar
from lm.corpus import Corpora, Corpus, load_corpus
from lm.grammar import BOS, EOS, PAD, Choice, Grammar, sentence_lengths
from lm.lengths import MAX_LENGTH, Tilted, long, modes, moving_average, shares, short, whole

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
