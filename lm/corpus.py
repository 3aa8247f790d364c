"""What the experiment trains on: three corpora, `whole`, `short` and `long`, of one vocabulary.

The default is the grammar of lm/coffee.py, whose laws are known exactly; the other is text (lm/text.py). Both
answer the same calls; only the grammar's corpora have `exact`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from lm.coffee import coffee_grammar
from lm.grammar import Grammar, Tokens
from lm.lengths import MAX_LENGTH, Tilted, long, short, whole

GRAMMAR = "grammar"  # the name of the default corpus


class Corpus(Protocol):
    """Sentences as rows of token ids: words, EOS, then PAD, (N, max_length) int64."""

    @property
    def exact(self) -> Tilted | None:
        """The law of the sentences, where it is known."""

    def sample(self, count: int, rng: np.random.Generator) -> Tokens:
        """(count, max_length): independent sentences to train on."""

    def held_out(self, count: int) -> Tokens:
        """(at most count, max_length): sentences that are never trained on, the same at every call."""


@dataclass(frozen=True, eq=False)
class Corpora:
    """Three corpora of one vocabulary: `short` and `long` are what `whole` has of short and long sentences.

    grammar: where the laws are known. about: one line on where the sentences come from.
    """

    name: str
    vocab_size: int
    max_length: int
    whole: Corpus
    short: Corpus
    long: Corpus
    decode: Callable[[NDArray[np.int64]], str]  # (T,) -> the sentence
    grammar: Grammar | None
    about: str


@dataclass(frozen=True, eq=False)
class ExactCorpus:
    """Sentences of an exact law. seed: of those held out, drawn independently of all that is trained on."""

    exact: Tilted
    seed: tuple[int, ...] = (0,)

    def sample(self, count: int, rng: np.random.Generator) -> Tokens:
        """(count, max_length): exact samples."""
        return self.exact.sample(count, rng)

    def held_out(self, count: int) -> Tokens:
        """(count, max_length): exact samples, by the seed alone."""
        return self.exact.sample(count, np.random.default_rng(self.seed))


def grammar_corpora(grammar: Grammar, name: str = GRAMMAR, seed: int = 0) -> Corpora:
    """whole, short and long of a grammar: the tilts of lm/lengths.py."""
    return Corpora(
        name,
        vocab_size=len(grammar.vocabulary),
        max_length=MAX_LENGTH,
        whole=ExactCorpus(whole(grammar), (seed, 0)),
        short=ExactCorpus(short(grammar), (seed, 1)),
        long=ExactCorpus(long(grammar), (seed, 2)),
        decode=grammar.text,
        grammar=grammar,
        about=f"{len(grammar.vocabulary)} tokens, {grammar.free_probabilities} free probabilities, exact laws",
    )


def load_corpus(name: str = GRAMMAR, *, seed: int = 0) -> Corpora:
    """The corpora called `name`: "grammar"."""
    if name != GRAMMAR:
        raise ValueError(f'corpus must be "{GRAMMAR}", got {name!r}')
    return grammar_corpora(coffee_grammar(), seed=seed)
