"""What the benchmarks draw random numbers for: the second word of `accel.streams.stream`."""

from __future__ import annotations

from enum import IntEnum


class Purpose(IntEnum):
    """Each with its numbers."""

    PARAMETERS = 0  # that contenders start from
    DATA = 1  # comparisons and tokens
    DRAWING = 2  # sequences: the turn
