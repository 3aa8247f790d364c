"""Encoded sentences on disk, one file for every length: no padding, no index, mapped into memory, drawn at random.

A folder holds DIR/PART-LENGTH.ids, the (n, LENGTH) ids of one part's sentences in the order of the text, and
about.json with the counts and a digest of the text. It is written under another name and renamed: it is whole or
not there.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from accel.checkpoint import whole_folder
from accel.progress import progress_bar
from lm.corpora.grammar import PAD, Tokens
from lm.corpora.tokenizer import Tokenizer

TRAINING, HELD_OUT = "training", "held-out"
TOO_LONG, UNKNOWN, EMPTY = "too long", "with token 0", "without a piece"  # why a sentence is left out
LINES_AT_ONCE = 4096


@dataclass(frozen=True, eq=False)
class Encoded:
    """Sentences of one part by length: ids[L] (n_L, L), L ascending. len: how many they are."""

    ids: dict[int, NDArray[Any]]

    def __len__(self) -> int:
        return sum(len(block) for block in self.ids.values())

    def within(self, low: int, high: int) -> Encoded:
        """Those of low to high tokens."""
        return Encoded({length: block for length, block in self.ids.items() if low <= length <= high})

    def take(self, numbers: NDArray[np.int64], width: int) -> Tokens:
        """(N,) numbers below len, in the order of lengths -> (N, width), PAD behind EOS."""
        tokens = np.full((len(numbers), width), PAD, dtype=np.int64)
        start = 0
        for length, block in self.ids.items():
            here = np.flatnonzero((start <= numbers) & (numbers < start + len(block)))
            if len(here):
                tokens[here, :length] = block[numbers[here] - start]
            start += len(block)
        return tokens


def encode(
    lines: Iterable[tuple[str, bool]],
    tokenizer: Tokenizer,
    folder: Path,
    max_length: int,
    progress: bool = False,
) -> None:
    """Encode lines, (line, held out?), into folder.

    Left out and counted: sentences of more than max_length tokens, those with token 0 (which would be padding),
    and those in which no piece is left.
    """
    counts = {part: Counter[int]() for part in (TRAINING, HELD_OUT)}
    left_out = Counter(dict.fromkeys((TOO_LONG, UNKNOWN, EMPTY), 0))
    with (
        whole_folder(folder) as temporary,
        contextlib.ExitStack() as files,
        progress_bar(desc="encoding", unit=" lines", shown=progress) as bar,
    ):
        writers: dict[tuple[str, int], BinaryIO] = {}
        source, dtype, digest = iter(lines), ids_dtype(tokenizer.vocab_size), hashlib.sha256()
        while batch := list(itertools.islice(source, LINES_AT_ONCE)):
            digest.update("".join(f"{held_out:d}{line}\n" for line, held_out in batch).encode())
            for ids, (_, held_out) in zip(tokenizer.encode([line for line, _ in batch]), batch, strict=True):
                if reason := _unfit(ids, max_length):
                    left_out[reason] += 1
                    continue
                part = HELD_OUT if held_out else TRAINING
                block = part, len(ids)
                if block not in writers:
                    writers[block] = files.enter_context(_block(temporary, *block).open("wb"))
                writers[block].write(np.array(ids, dtype=dtype).tobytes())
                counts[part][len(ids)] += 1
            bar.update(len(batch))
        in_order = {part: sorted(count.items()) for part, count in counts.items()}
        about = {"vocab_size": tokenizer.vocab_size, "counts": in_order, "left_out": left_out}
        about["text"] = digest.hexdigest()[:16]
        (temporary / "about.json").write_text(json.dumps(about))


def _unfit(ids: list[int], max_length: int) -> str:
    """Why a sentence cannot be used; "" where it can."""
    if len(ids) > max_length:
        return TOO_LONG
    if PAD in ids:
        return UNKNOWN
    return "" if len(ids) > 1 else EMPTY


def open_encoded(folder: Path) -> tuple[dict[str, Encoded], dict[str, int], str]:
    """The parts of a folder that `encode` wrote, how many sentences were left out, by reason, and the digest.

    ValueError where its files are not what about.json says.
    """
    try:
        about = json.loads((folder / "about.json").read_text())
        dtype, counts = ids_dtype(about["vocab_size"]), about["counts"]
        parts = {
            part: Encoded(
                {length: _mapped(_block(folder, part, length), dtype, n, length) for length, n in counts[part]}
            )
            for part in (TRAINING, HELD_OUT)
        }
        return parts, {reason: int(count) for reason, count in about["left_out"].items()}, str(about["text"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{folder} must be whole ({error}); delete it, and it is made again") from None


def _mapped(path: Path, dtype: np.dtype[Any], count: int, length: int) -> NDArray[Any]:
    """(count, length), read as it is used."""
    if path.stat().st_size != count * length * dtype.itemsize:
        raise ValueError(f"{path.name} has another size")
    return np.memmap(path, dtype, "r", shape=(count, length))


def _block(folder: Path, part: str, length: int) -> Path:
    return folder / f"{part}-{length:03}.ids"


def ids_dtype(vocab_size: int) -> np.dtype[Any]:
    """What holds any id of a vocabulary of this size on disk."""
    return np.dtype("<u2" if vocab_size <= 1 << 16 else "<i4")
