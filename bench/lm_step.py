"""What a training step of the language model works on: sizes, tokens, choices and first parameters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from accel.streams import stream
from accel.transformer_params import TransformerConfig, transformer_init
from bench.streams import Purpose

Array = NDArray[np.float32]

Loss = Literal["ce", "pref"]
SCALE = 50.0  # of the preference's margin: the paper's
CONFIGS = {  # and the usual batch
    "tiny": (TransformerConfig(256, 64, 2, 2, 64, 256, 32), 128),
    "small": (TransformerConfig(1024, 128, 4, 4, 128, 512, 50), 64),
    "paper": (TransformerConfig(max_len=50), 256),
}
UNITS = {"float32": 2.0**-24, "tf32": 2.0**-11, "bfloat16": 2.0**-8}  # of a factor: its rounding at most


@dataclass(frozen=True, eq=False)
class Task:
    """tokens (rows, T): the batch; the left sides above the right sides where loss is "pref". y (pairs,)."""

    config: TransformerConfig
    loss: Loss
    tokens: NDArray[np.int64]
    y: Array
    lr: float = 1e-4

    @property
    def flops(self) -> float:
        """Of the matrix products, forward and backward; of attention, what the causal mask leaves."""
        rows, length = self.tokens.size, self.tokens.shape[1]
        return 3.0 * rows * flops_of_a_token(self.config, (length + 1) / 2)


def flops_of_a_token(config: TransformerConfig, past: float) -> float:
    """Of the matrix products, forward; past: tokens that it attends to."""
    c, q = config.emb_dim, config.qkv_dim
    layer = 4 * c * q + 2 * c * config.mlp_dim + 2 * past * q
    return 2.0 * (config.num_layers * layer + c * config.vocab_size)


def draw_task(config: TransformerConfig, loss: Loss, batch: int, seed: int) -> Task:
    """Tokens uniform over all but padding, and choices by a fair coin."""
    rng = stream(seed, Purpose.DATA)
    rows = batch * (2 if loss == "pref" else 1)
    tokens = rng.integers(1, config.vocab_size, (rows, config.max_len))
    return Task(config, loss, tokens, rng.integers(0, 2, batch).astype(np.float32))


def first_params(config: TransformerConfig, seed: int) -> dict[str, Array]:
    """The parameters that every contender starts from, float32."""
    return transformer_init(stream(seed, Purpose.PARAMETERS), config)
