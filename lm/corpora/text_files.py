"""Lines of text from a file or a folder of shards, plain or gzip, one after the other: never all in memory."""

from __future__ import annotations

import codecs
import gzip
import random
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

# The layout of the One Billion Word Benchmark, as it is distributed.
LM1B = "1-billion-word-language-modeling-benchmark-r13output"
LM1B_TRAINING, LM1B_HELD_OUT = "training-monolingual.tokenized.shuffled", "heldout-monolingual.tokenized.shuffled"

GZIP = b"\x1f\x8b"  # how a gzip file begins, whatever its name
HELD_OUT_EVERY = 20  # without shards of its own, one line in so many is held out


@dataclass(frozen=True)
class Text:
    """Where the lines come from. held_out: files of their own; without any, lines of `training` are held out."""

    path: Path
    training: tuple[Path, ...]
    held_out: tuple[Path, ...]

    def lines(self) -> Iterator[tuple[str, bool]]:
        """Every line that is not empty, and whether it is held out. Errors: read_lines."""
        for path in self.training:
            for line in read_lines(path):
                yield line, not self.held_out and is_held_out(line)
        for path in self.held_out:
            for line in read_lines(path):
                yield line, True


def find_text(path: str | Path) -> Text:
    """A file, a folder of files (hidden ones aside), or LM1B's folder, whose held-out shards stay held out.

    ValueError where there is no such path, or a folder has no files.
    """
    path = Path(path)
    if path.is_file():
        return Text(path, (path,), ())
    if not path.is_dir():
        raise ValueError(f'corpus must be "grammar", a text file or a folder, got {str(path)!r}: no such path')
    for root in (path, path / LM1B):
        if (root / LM1B_TRAINING).is_dir():
            held_out = root / LM1B_HELD_OUT
            return Text(path, _shards(root / LM1B_TRAINING), _shards(held_out) if held_out.is_dir() else ())
    return Text(path, _shards(path), ())


def _shards(folder: Path) -> tuple[Path, ...]:
    found = sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
    if not found:
        raise ValueError(f"{folder} must hold text files, one sentence a line, got an empty folder")
    return tuple(found)


def read_lines(path: Path) -> Iterator[str]:
    """The lines that are not empty, without space around them.

    ValueError, naming file and line, for bytes that are not UTF-8; for a gzip file that is torn or damaged.
    """
    number = 0
    try:
        with _opened(path) as file:
            for number, raw in enumerate(file, start=1):
                line = raw.removeprefix(codecs.BOM_UTF8 if number == 1 else b"").decode("utf-8").strip()
                if line:
                    yield line
    except UnicodeDecodeError as error:
        byte = f"byte 0x{error.object[error.start]:02x} at {error.start}"
        raise ValueError(f"{path}, line {number}: text must be UTF-8, got {byte}") from None
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(f"{path} must be a whole gzip file, it breaks behind line {number}: {error}") from None


def _opened(path: Path) -> BinaryIO:
    with path.open("rb") as file:
        zipped = file.read(len(GZIP)) == GZIP
    return cast(BinaryIO, gzip.open(path, "rb")) if zipped else path.open("rb")


def is_held_out(line: str) -> bool:
    """By the line itself: the same line is always on the same side, in whatever file it stands."""
    return zlib.crc32(line.encode()) % HELD_OUT_EVERY == 0


def some_lines(lines: Iterable[str], count: int, seed: int) -> list[str]:
    """At most count of them, each set of lines as likely as another (Vitter 1985, algorithm R)."""
    rng, kept = random.Random(seed), list[str]()
    for number, line in enumerate(lines):
        if number < count:
            kept.append(line)
        elif (place := rng.randrange(number + 1)) < count:
            kept[place] = line
    return kept
