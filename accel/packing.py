"""Sequences of many lengths as rows without padding.

Every token that is not padding becomes one row; rows stand sequence by sequence, shortest first. All layers but
attention work on rows, so padding costs nothing there. Attention takes sequences in groups whose lengths differ
by less than `bucket`, each as one block as long as its longest: what is left of padding.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from accel.arrays import check_integer, plain_array
from accel.buffers import Array

Tokens = NDArray[np.integer[Any]]

BUCKET = 8


@dataclass(frozen=True, eq=False)
class Group:
    """The sequences of rows start..stop-1: `count` of them, none longer than length.

    slots (stop - start,): where the rows stand in count * length places; None where they fill them all.
    starts (B + 1,): the first rows of the sequences of all groups, and the end; first: this group's first in it.
    """

    start: int
    stop: int
    count: int
    length: int
    slots: Array | None
    first: int
    starts: Array


@dataclass(frozen=True, eq=False)
class Packed:
    """Rows of all sequences. inputs, targets, position, sequence: (R,), integers; lengths (B,): a sequence's rows.

    Row r: targets[r] is the token to predict, inputs[r] the token before it (0 before the first), position[r]
    where it stood and sequence[r] in which sequence, as numbered in the tokens given.
    """

    inputs: Array
    targets: Array
    position: Array
    sequence: Array
    lengths: Array
    groups: tuple[Group, ...]


def check_tokens(tokens: ArrayLike, vocab_size: int, max_len: int) -> Tokens:
    """tokens as an array (B, T); ValueError unless they are integers in 0..vocab_size-1, T <= max_len, and every
    sequence has a token > 0."""
    tokens = plain_array("tokens", tokens)
    if tokens.ndim != 2 or tokens.size == 0 or not np.issubdtype(tokens.dtype, np.integer):
        raise ValueError(f"tokens must be integers of shape (B, T), got {tokens.dtype}, {tokens.shape}")
    if tokens.shape[1] > max_len:
        raise ValueError(f"sequences must be at most max_len = {max_len} long, got {tokens.shape[1]}")
    for token in (tokens.min(), tokens.max()):
        if not 0 <= token < vocab_size:
            raise ValueError(f"tokens must lie in 0..{vocab_size - 1}, got {token}")
    if np.any(empty := np.all(tokens == 0, axis=1)):
        raise ValueError(f"sequences must not be empty, got only padding in sequence {empty.argmax()}")
    return tokens


def pack(tokens: ArrayLike, vocab_size: int, max_len: int, bucket: int = BUCKET, xp: Any = np) -> Packed:
    """tokens (B, T), 0 = padding wherever it stands, as rows for xp. Raises ValueError as `check_tokens`, and for
    bucket < 1."""
    check_integer("bucket", bucket, 1)
    tokens = check_tokens(tokens, vocab_size, max_len)
    present = tokens > 0
    lengths = np.count_nonzero(present, axis=1)
    order = np.argsort(lengths, kind="stable")
    row, position = np.nonzero(present[order])
    sequence = order[row]
    before = np.pad(tokens[:, :-1], ((0, 0), (1, 0)))
    inputs, targets = before[sequence, position], tokens[sequence, position]
    groups, put = _groups(lengths[order], bucket, xp), xp.asarray
    return Packed(put(inputs), put(targets), put(position), put(sequence), put(lengths), groups)


def _groups(lengths: NDArray[np.intp], bucket: int, xp: Any) -> tuple[Group, ...]:
    """Groups of ascending lengths: those in one interval (k bucket, (k + 1) bucket] go together."""
    groups, row, first = [], 0, 0
    starts = xp.asarray(np.concatenate([[0], np.cumsum(lengths)]))
    for block in np.split(lengths, np.flatnonzero(np.diff((lengths - 1) // bucket)) + 1):
        longest, rows = int(block[-1]), int(block.sum())
        full = block[0] == longest
        slots = None if full else xp.asarray(np.flatnonzero(np.arange(longest) < block[:, None]))
        groups.append(Group(row, row + rows, len(block), longest, slots, first, starts))
        row, first = row + rows, first + len(block)
    return tuple(groups)
