"""Counter-based random numbers: Philox4x32-10, of Salmon, Moraes, Dror and Shaw 2011.

A number hangs on its key and its place alone: there is no state, and how many others are drawn does not matter. So
each thread of a GPU makes its own, and all backends draw the same bits (`accel/kernels/philox.cu`).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Word = Any  # 32 bits: an integer, or an array of them as uint64, which holds their products

ROUNDS = 10
MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
WEYL = (0x9E3779B9, 0xBB67AE85)  # what the key grows by from round to round
LOW = 0xFFFFFFFF
NUMBERS, KEYS = 0, 1  # what a counter is for: its second word


def philox(counter: tuple[Word, Word, Word, Word], key: tuple[int, int]) -> tuple[Word, Word, Word, Word]:
    """The permutation of all counters that the key chooses."""
    a, b, c, d = counter
    key_0, key_1 = key
    for _ in range(ROUNDS):
        first, second = a * MULTIPLIERS[0], c * MULTIPLIERS[1]
        a, b, c, d = (second >> 32) ^ b ^ key_0, second & LOW, (first >> 32) ^ d ^ key_1, first & LOW
        key_0, key_1 = (key_0 + WEYL[0]) & LOW, (key_1 + WEYL[1]) & LOW
    return a, b, c, d


def uniform(key: int, size: int, length: int) -> NDArray[np.float64]:
    """(size, length): independent numbers in [0, 1), multiples of 2^-53; [i, j] hangs on key, i and j alone.

    Raises ValueError unless 0 <= key < 2^64.
    """
    row = np.arange(size, dtype=np.uint64)[:, None]
    pair = np.arange((length + 1) // 2, dtype=np.uint64)[None, :]  # of neighbours in a row: one counter for both
    a, b, c, d = philox((pair, np.full_like(row, NUMBERS), row & LOW, row >> 32), words_of(key))
    out = np.stack([_unit(a, b), _unit(c, d)], axis=2)
    return np.ascontiguousarray(out.reshape(size, 2 * pair.size)[:, :length])


def subkey(key: int, number: int) -> int:
    """The number-th of the keys that one key gives, itself below 2^64; no counter of `uniform` is used for it.

    Raises ValueError unless 0 <= key < 2^64 and 0 <= number < 2^64.
    """
    low, high = words_of(number)
    a, b, _, _ = philox((low, KEYS, high, 0), words_of(key))
    return int(b << 32 | a)


def words_of(key: int) -> tuple[int, int]:
    """The low and the high 32 bits of a key; ValueError unless 0 <= key < 2^64."""
    if not 0 <= key < 1 << 64:
        raise ValueError(f"a key must be >= 0 and < 2^64, got {key}")
    return int(key) & LOW, int(key) >> 32


def _unit(high: Word, low: Word) -> NDArray[np.float64]:
    """The first 53 of their 64 bits, as a number in [0, 1)."""
    return np.asarray(((high << 32 | low) >> 11) * 2.0**-53)
