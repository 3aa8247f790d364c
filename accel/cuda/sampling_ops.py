"""The part of CupyOps that draws: random numbers and sequences, made where they are used.

A sequence that has ended stays in its slot and is given padding. Once in LOOK tokens the host asks how many go on:
it closes up their slots where many have ended, and stops where all have.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from accel import philox
from accel.buffers import Array
from accel.cuda.kernel_table import TYPES
from accel.cuda.launcher import KernelLib
from accel.sampling import key_value_store, last_rows
from accel.sequence_ops import SequenceOps
from accel.transformer_params import EMBEDDING, OUTPUT, Params, TransformerConfig, positions

LOOK = 8  # tokens between two looks of the host
# With this share of slots going on, closing up does not pay: it moves their keys and values to a copy and back,
# and spares attention those of the others in each token until the next look.
CROWDED = 1 - 2 / LOOK


class CupySamplingOps(SequenceOps):
    """Draws on the arrays of xp with the kernels of lib."""

    lib: KernelLib

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
        (size, length), xp, table = uniform.shape, self.xp, params[EMBEDDING]
        place = xp.asarray(positions(config.max_len, config.emb_dim), dtype=table.dtype)
        store = key_value_store(self, params, config, size, length)
        tokens, log_p = xp.zeros((size, length), dtype=np.int64), xp.zeros(size, dtype=np.float64)
        # which sequence stands in which slot; its last token; whether it goes on
        active, last, going = xp.arange(size), xp.zeros(size, dtype=np.int64), xp.full(size, True)
        for t in range(length):
            x = last_rows(self, params, config, table[last] + place[t], store[:, :, : len(active)], t)
            kernel, bias = params[f"{OUTPUT}/kernel"], params[f"{OUTPUT}/bias"]
            token, token_log_p = self.next_token(x, kernel, bias, uniform[active, t])
            last = xp.where(going, token, 0)
            tokens[active, t] = last
            log_p[active] += xp.where(going, token_log_p, 0.0)
            going = (last != eos) & (last != 0)
            if (t + 1) % LOOK == 0 and (count := int(going.sum())) < CROWDED * len(active):
                if count == 0:
                    break
                active, last, going = self._closed_up(store[..., : t + 1, :], count, active, last, going)
        return tokens, log_p, (tokens == eos).any(axis=1)

    def _closed_up(self, store: Array, count: int, active: Array, last: Array, going: Array) -> Any:
        """Those `count` that go on, in their order, in the first slots: their keys and values, and active, last,
        going of them."""
        kept = self.xp.argsort(1 - going)[:count]  # CuPy's is stable
        store[:, :, :count] = store[:, :, kept]
        return active[kept], last[kept], going[kept]
