"""What the experiment trains on: three corpora, `whole`, `short` and `long`, of one vocabulary.

The default is the grammar of `coffee.py`, whose distributions are known exactly; the other is text
(`text_files.py`). Both answer the same calls; only the grammar's corpora have `exact`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from accel.checkpoint import fingerprint
from accel.streams import stream
from lm.corpora.coffee import coffee_grammar
from lm.corpora.grammar import Grammar, Tokens
from lm.corpora.text_files import Text, find_text, some_lines
from lm.corpora.tilted import LONG, MAX_LENGTH, SHORT, Tilted, long, short, whole
from lm.corpora.token_store import HELD_OUT, TRAINING, Encoded, encode, open_encoded
from lm.corpora.tokenizer import Tokenizer, load_tokenizer, train_tokenizer
from lm.streams import Purpose

GRAMMAR = "grammar"  # the name of the default corpus
CACHE = Path("out/corpus")  # where tokenizers and encoded sentences are kept
LINES = 200_000  # as many lines, drawn at random, train a tokenizer
RANGES = {"whole": (1, MAX_LENGTH), "short": (1, SHORT), "long": (LONG, MAX_LENGTH)}  # of |x|, on text
LAYOUT = 2  # of what is kept: another number, and it is made again


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

    grammar: where the laws are known. about: one line on where the sentences come from. fingerprints: of
    what the name and the sizes do not tell; where they differ, models of one corpus are of no use for the other.
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
    fingerprints: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class ExactCorpus:
    """Sentences of an exact law. seed, stream: of those held out, independent of all that is trained on."""

    exact: Tilted
    seed: int = 0
    stream: int = 0

    def sample(self, count: int, rng: np.random.Generator) -> Tokens:
        """(count, max_length): exact samples."""
        return self.exact.sample(count, rng)

    def held_out(self, count: int) -> Tokens:
        """(count, max_length): exact samples, by seed and stream alone."""
        return self.exact.sample(count, self.rng)

    @property
    def rng(self) -> np.random.Generator:
        """What they are drawn with."""
        return stream(self.seed, Purpose.HELD_OUT, self.stream)


def grammar_corpora(grammar: Grammar, name: str = GRAMMAR, seed: int = 0) -> Corpora:
    """whole, short and long of a grammar: the tilts of lm/corpora/tilted.py."""
    return Corpora(
        name,
        vocab_size=len(grammar.vocabulary),
        max_length=MAX_LENGTH,
        whole=ExactCorpus(whole(grammar), seed, 0),
        short=ExactCorpus(short(grammar), seed, 1),
        long=ExactCorpus(long(grammar), seed, 2),
        decode=grammar.text,
        grammar=grammar,
        about=f"{len(grammar.vocabulary)} tokens, {grammar.free_probabilities} free probabilities, exact laws",
    )


@dataclass(frozen=True, eq=False)
class TextCorpus:
    """Encoded sentences of text: those to train on, and those held out."""

    training: Encoded
    kept: Encoded
    max_length: int = MAX_LENGTH

    @property
    def exact(self) -> None:
        """Nobody knows."""

    def sample(self, count: int, rng: np.random.Generator) -> Tokens:
        """(count, max_length): with replacement, each sentence as likely as another."""
        return self.training.take(rng.integers(len(self.training), size=count), self.max_length)

    def held_out(self, count: int) -> Tokens:
        """(at most count, max_length): without replacement, in an order at random but always the same."""
        order = stream(0, Purpose.HELD_OUT).permutation(len(self.kept))
        return self.kept.take(order[:count], self.max_length)


def text_corpora(text: Text, tokenizer: Tokenizer, folder: Path, progress: bool = False) -> Corpora:
    """whole, short (|x| <= 20) and long (|x| >= 30) of a text, encoded into folder unless they are there already.

    ValueError where one of the three has no sentence to train on, or none held out.
    """
    if not folder.is_dir():
        encode(text.lines(), tokenizer, folder, MAX_LENGTH, progress)
    parts, left_out, digest = open_encoded(folder)
    found = {
        name: TextCorpus(parts[TRAINING].within(low, high), parts[HELD_OUT].within(low, high))
        for name, (low, high) in RANGES.items()
    }
    why = ", ".join(f"{count:,} {reason}" for reason, count in left_out.items())
    about = f"{len(parts[TRAINING]):,} sentences, {len(parts[HELD_OUT]):,} held out, left out: {why}"
    for name, corpus in found.items():
        for part, sentences in ((TRAINING, corpus.training), (HELD_OUT, corpus.kept)):
            if not len(sentences):
                low, high = RANGES[name]
                raise ValueError(
                    f"{text.path} must have sentences of {low} to {high} tokens for `{name}`, "
                    f"got none for {part} ({about}); give more text"
                )
    return Corpora(
        str(text.path),
        tokenizer.vocab_size,
        MAX_LENGTH,
        **found,
        decode=tokenizer.decode,
        grammar=None,
        about=about,
        fingerprints={"text": digest, "tokenizer": fingerprint(tokenizer.model)},
    )


def load_corpus(
    name: str | Path = GRAMMAR,
    *,
    vocab_size: int | None = None,
    model: str | Path | None = None,
    cache: str | Path = CACHE,
    seed: int = 0,
    progress: bool = False,
) -> Corpora:
    """The corpora called `name`: "grammar", or a text file or a folder of them (`text_files.py`).

    A sentence is a line.

    For text: model, a SentencePiece model file; without one, a model of at most vocab_size pieces is trained (by
    default what the text supports, at most 30,000). Model and encoded sentences are kept in the folder `cache`,
    and made again when the files or the settings change. seed: of the grammar's held-out sentences, and of the
    lines that train the tokenizer. ValueError for bad text, bad models and settings that do not fit together;
    ImportError with the install line where sentencepiece is missing.
    """
    if name == GRAMMAR:
        if vocab_size is not None or model is not None:
            raise ValueError(f'vocab_size and model are for text, the corpus "{GRAMMAR}" has its own vocabulary')
        return grammar_corpora(coffee_grammar(), seed=seed)
    text, cache = find_text(name), Path(cache)
    files = [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in text.training + text.held_out]
    tokenizer = _tokenizer(text, files, vocab_size, model, cache, seed)
    folder = cache / f"text-{fingerprint(LAYOUT, files, tokenizer.model, MAX_LENGTH)}"
    return text_corpora(text, tokenizer, folder, progress)


def _tokenizer(
    text: Text,
    files: list[tuple[str, int, int]],
    vocab_size: int | None,
    model: str | Path | None,
    cache: Path,
    seed: int,
) -> Tokenizer:
    """The one given, the one kept, or a new one, which is then kept."""
    if model is not None:
        tokenizer = load_tokenizer(model)
        if vocab_size not in (None, tokenizer.vocab_size):
            raise ValueError(
                f"vocab_size must be the model's {tokenizer.vocab_size}, or left out, got {vocab_size}"
            )
        return tokenizer
    path = cache / f"tokenizer-{fingerprint(LAYOUT, files, vocab_size, seed)}.model"
    if not path.is_file():
        lines = some_lines((line for line, held_out in text.lines() if not held_out), LINES, seed)
        if not lines:
            raise ValueError(f"{text.path} must have lines with text to train on, got none")
        cache.mkdir(parents=True, exist_ok=True)
        train_tokenizer(lines, vocab_size).save(path)
    return load_tokenizer(path)
