"""What the trained figures draw random numbers for: the second word of `accel.streams.stream`."""

from __future__ import annotations

from enum import IntEnum


class Purpose(IntEnum):
    """Each with its two numbers."""

    PARAMETERS = 0  # the first ones: drawn by the model
    PAIRS = 1  # comparisons
    LATENT = 2  # the first parameters of the latent mixture
    ANNOTATORS = 3  # comparisons with annotator ids: how many each, the repetition
