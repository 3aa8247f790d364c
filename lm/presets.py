"""How the experiment is run: sizes, rates and counts, `quick` for minutes on two cores, `paper` as published."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from accel.adam import Schedule
from accel.transformer_params import TransformerConfig

PresetName = Literal["quick", "paper"]


@dataclass(frozen=True)
class Sizes:
    """Of the Transformer; vocabulary and sentence length are the corpus's."""

    emb_dim: int
    num_heads: int
    num_layers: int
    mlp_dim: int

    def config(self, vocab_size: int, max_length: int) -> TransformerConfig:
        """The model for a vocabulary and a largest sentence length."""
        return TransformerConfig(
            vocab_size, self.emb_dim, self.num_heads, self.num_layers, self.emb_dim, self.mlp_dim, max_length
        )


@dataclass(frozen=True)
class Pretraining:
    """Adam on the cross-entropy: `steps` batches of `batch` out of `sentences`, which come round again.

    b2: of Adam; the rate goes down to 0 as a cosine.
    """

    steps: int
    batch: int
    sentences: int
    learning_rate: float
    b2: float = 0.98


@dataclass(frozen=True)
class Course:
    """One way to adapt: so many times through all pairs, at this rate."""

    epochs: int
    learning_rate: float


@dataclass(frozen=True)
class Preset:
    """All of the experiment's settings. Counts of sentences unless they say otherwise.

    samples: of every histogram of lengths; the first `judged` of them make Table 2. pairs: to adapt on; held_out:
    pairs more, to choose among `courses` by (one course is not chosen). scale, beta_reg, batch (pairs): of the
    preference loss, as in the authors' code. exact: sentences by which the distance to the exact law is measured.
    """

    name: PresetName
    sizes: Sizes
    pretraining: Pretraining
    courses: tuple[Course, ...]
    schedule: Schedule
    samples: int = 2**12
    judged: int = 2**12
    pairs: int = 2**15
    held_out: int = 2**12
    scale: float = 50.0
    beta_reg: float = 4e-5
    batch: int = 128
    exact: int = 2**12


PRESETS = {
    "quick": Preset(
        "quick",
        Sizes(emb_dim=64, num_heads=4, num_layers=2, mlp_dim=256),
        Pretraining(steps=2048, batch=128, sentences=2**16, learning_rate=3e-3),
        courses=(Course(1, 1e-4), Course(1, 2e-4), Course(2, 1e-4)),
        schedule="cosine",
        samples=2**17,  # with 2^15 a noise of 0.0002 made two modes of one
    ),
    "paper": Preset(
        "paper",
        Sizes(emb_dim=512, num_heads=8, num_layers=6, mlp_dim=2048),
        Pretraining(steps=200_000, batch=256, sentences=2**22, learning_rate=1e-3),
        courses=(Course(1, 1e-5),),
        schedule="constant",
    ),
}
