"""SentencePiece: text to token ids and back. PAD = 0 and EOS = 2, as everywhere here."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from accel.checkpoint import whole_file
from lm.corpora.grammar import BOS, EOS, PAD

UNKNOWN = 3
LEAST = UNKNOWN + 2  # the smallest vocabulary: the special pieces, and one of text
LONGEST = 4192  # bytes of a line, SentencePiece's default: it leaves longer ones out
LARGEST = 30_000  # the vocabulary where the text supports it, as in the paper


@dataclass(frozen=True, eq=False)
class Tokenizer:
    """model: the bytes of a SentencePiece model; name: what errors call it. ValueError where it is none, or where
    its EOS is not 2 or its padding not 0 (none at all will do: then 0 is the unknown piece)."""

    model: bytes
    name: str = "the tokenizer"

    def __post_init__(self) -> None:
        eos, pad = self.processor.eos_id(), self.processor.pad_id()
        if eos != EOS or pad not in (PAD, -1):
            raise ValueError(
                f"{self.name} must have EOS = {EOS} and PAD = {PAD} or none (-1), got {eos} and {pad}"
            )

    @cached_property
    def processor(self) -> Any:
        """SentencePiece's own object."""
        processor = sentencepiece().SentencePieceProcessor()
        try:
            processor.load_from_serialized_proto(self.model)
        except RuntimeError:
            raise ValueError(f"{self.name} must be a SentencePiece model, it cannot be read as one") from None
        return processor

    @property
    def vocab_size(self) -> int:
        """The number of pieces, special ones among them."""
        return int(self.processor.get_piece_size())

    def encode(self, lines: Sequence[str]) -> list[list[int]]:
        """The ids of each line, with EOS."""
        return [[*ids, EOS] for ids in self.processor.encode(list(lines), out_type=int)]

    def decode(self, tokens: ArrayLike) -> str:
        """(T,) -> the text up to the first EOS. ValueError for ids outside the vocabulary."""
        ids = np.asarray(tokens).tolist()
        for token in ids:
            if not 0 <= token < self.vocab_size:
                raise ValueError(f"tokens must be ids in 0..{self.vocab_size - 1}, got {token}")
        ids = ids[: ids.index(EOS)] if EOS in ids else ids
        return str(self.processor.decode([token for token in ids if token not in (PAD, BOS)]))

    def save(self, path: Path) -> None:
        """Write the model: a reader sees all of it, or no file."""
        with whole_file(path) as file:
            file.write(self.model)


def load_tokenizer(path: str | Path) -> Tokenizer:
    """A SentencePiece model file. ValueError where there is none, or as Tokenizer."""
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"model must be a SentencePiece model file, got {str(path)!r}: no such file")
    return Tokenizer(path.read_bytes(), str(path))


def train_tokenizer(lines: Sequence[str], vocab_size: int | None = None) -> Tokenizer:
    """A unigram model of the lines. vocab_size: by default what they support, at most 30,000.

    The same lines give the same model. ValueError where vocab_size is more than the text supports, or too few for
    its characters, and without lines of at most 4,192 bytes.
    """
    if not lines:
        raise ValueError("a tokenizer must have lines to be trained on, got none")
    if vocab_size is not None and vocab_size < LEAST:
        raise ValueError(f"vocab_size must be >= {LEAST}, {LEAST - 1} of them special, got {vocab_size}")
    if all(len(line.encode()) > LONGEST for line in lines):
        least = min(len(line.encode()) for line in lines)
        raise ValueError(
            f"a tokenizer must have lines of at most {LONGEST} bytes, each ended by \\n, got {least} and more"
        )
    written = io.BytesIO()
    try:
        sentencepiece().SentencePieceTrainer.train(
            sentence_iterator=iter(lines),
            model_writer=written,
            model_type="unigram",
            vocab_size=LARGEST if vocab_size is None else vocab_size,
            hard_vocab_limit=vocab_size is not None,
            max_sentence_length=LONGEST,
            character_coverage=1.0,  # every character of the lines is a piece
            pad_id=PAD,
            bos_id=BOS,
            eos_id=EOS,
            unk_id=UNKNOWN,
            minloglevel=2,
        )
    except RuntimeError as error:
        raise ValueError(_told(str(error), vocab_size)) from None
    return Tokenizer(written.getvalue())


def _told(message: str, vocab_size: int | None) -> str:
    """What SentencePiece refused, in one line."""
    if most := re.search(r"too high .* value <= (\d+)", message):
        return f"vocab_size must be at most {most[1]} for this text, got {vocab_size}"
    if least := re.search(r"smaller than required_chars\. \d+ vs (\d+)", message):
        return f"vocab_size must be at least {least[1]} for the characters of this text, got {vocab_size}"
    return f"the text must be such that SentencePiece can learn from it, it says: {' '.join(message.split())}"


def sentencepiece() -> Any:
    """The package; ImportError with the install line where it is missing."""
    try:
        import sentencepiece
    except ImportError:
        raise ImportError("text corpora need sentencepiece; pip install 'pbde[text]'") from None
    return sentencepiece
