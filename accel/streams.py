"""Random streams that never meet: each is four words, the seed, what it is for, and two numbers of that purpose.

NumPy pads a shorter seed with zeros, so (s,), (s, 0) and (s, 0, 0) are one stream, and a seed of 2^33 is the words
(0, 2). Hence a purpose is a word of its own (an enumeration in each room: lm/streams.py, figures/streams.py,
bench/streams.py), every word is below 2^32, and what is left out is 0.
"""

from __future__ import annotations

import numpy as np

WORDS = 4
PARAMETERS, EM_STARTS = 0, 2**32 - 2  # what accel draws for; the rooms' purposes lie between, or are theirs alone


def stream(seed: int, purpose: int = PARAMETERS, *numbers: int) -> np.random.Generator:
    """The generator of (seed, purpose, two numbers at most). Purpose 0: first parameters.

    Raises ValueError unless all of them are integers in 0..2^32 - 1, and for more numbers.
    """
    words = (seed, purpose, *numbers)
    for name, word in zip(("seed", "purpose", "number", "number"), words, strict=False):
        if not isinstance(word, int | np.integer) or not 0 <= word < 1 << 32:
            raise ValueError(f"{name} must be an integer in 0..2^32 - 1, got {word!r}")
    if len(words) > WORDS:
        raise ValueError(f"a stream has at most two numbers, got {numbers}")
    return np.random.default_rng([int(word) for word in words] + [0] * (WORDS - len(words)))
