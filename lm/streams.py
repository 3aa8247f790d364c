"""What the language-model experiment draws random numbers for: the second word of `accel.streams.stream`."""

from __future__ import annotations

from enum import IntEnum


class Purpose(IntEnum):
    """Each with its two numbers."""

    SENTENCES = 0  # to train on: the model
    PARAMETERS = 1  # the first ones: the model
    WRITING = 2  # what a model writes: whose and what for, the part
    LABELS = 3  # of synthetic annotators: the mixture, the scale
    ORDER = 4  # of batches: the time round
    HELD_OUT = 2**32 - 1  # sentences that are never trained on: the corpus
