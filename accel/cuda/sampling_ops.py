"""The part of CupyOps that draws: random numbers and tokens, made where they are used."""

from __future__ import annotations

import numpy as np

from accel import philox
from accel.buffers import Array
from accel.cuda.decoder import CHANNELS, Decoder
from accel.cuda.kernel_table import TYPES
from accel.cuda.launcher import KernelLib
from accel.sequence_ops import Precision, SequenceOps
from accel.transformer_params import EMBEDDING, Params, TransformerConfig


class CupySamplingOps(SequenceOps):
    """Draws on the arrays of xp with the kernels of lib."""

    lib: KernelLib
    precision: Precision

    def uniform(self, key: int, size: int, length: int) -> Array:
        philox.words_of(key)
        out = self.lib.empty((size, length), np.float64)
        self.lib.launch("philox_uniform", "double", size * ((length + 1) // 2), out, key, size, length)
        return out

    def next_token(self, x: Array, kernel: Array, bias: Array, uniform: Array) -> tuple[Array, Array]:
        kind = TYPES.get(str(x.dtype))
        if kind is None:
            return super().next_token(x, kernel, bias, uniform)
        logits, dense = self.product(x, kernel), self.xp.ascontiguousarray
        token, log_p = self.lib.empty((len(x),), np.int64), self.lib.empty((len(x),), np.float64)
        values = (token, log_p, dense(logits), dense(bias), dense(uniform), logits.shape[1])
        self.lib.launch("next_token", kind, len(x), *values)
        return token, log_p

    def draw_sequences(
        self, params: Params, config: TransformerConfig, uniform: Array, eos: int
    ) -> tuple[Array, Array, Array] | None:
        """All on the device, where our own cuBLAS handle makes the products and heads are small enough."""
        channels = config.qkv_dim // config.num_heads
        if str(params[EMBEDDING].dtype) not in TYPES or not self.lib.has_products or channels > CHANNELS:
            return None
        numbers = self.xp.ascontiguousarray(uniform)
        return Decoder(self, self.lib, self.precision, params, config, numbers, eos).run()
