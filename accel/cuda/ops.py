"""The ops on a GPU: arrays and matrix products by CuPy, the other hot ones by the kernels of `kernel_table.py`.

Only sampling waits for the device, and reads from it (`sampling_ops.py`). Sums are in a fixed order: no run
differs from another. The class needs an array package and a `KernelLib` alone, so that tests run all of it on
NumPy arrays.
"""

from __future__ import annotations

from typing import Any
from weakref import WeakKeyDictionary

import numpy as np

from accel.adam import constants, unbiased_rates
from accel.buffers import Array
from accel.cuda.attention_ops import CupyAttentionOps
from accel.cuda.graph import added
from accel.cuda.kernel_table import AHEAD, TYPES, chunks, walks
from accel.cuda.launcher import KernelLib
from accel.cuda.layer_ops import CupyLayerOps
from accel.cuda.mlp_ops import GROUPS, LOSS_TYPES
from accel.cuda.sampling_ops import CupySamplingOps
from accel.losses import MarginLoss
from accel.ops import Pairs, check_omega
from accel.sequence_ops import Cache, Precision

SPAN = 64  # tokens of a sequence, channels of a head: attention.cu


class CupyOps(CupySamplingOps, CupyAttentionOps, CupyLayerOps):
    """Ops on the arrays of xp with the kernels of lib. float32 and float64; other dtypes as in `Ops`.

    groups: at most so many blocks share the rows of an MLP; where there are more, a block takes several tiles.
    precision: of the float32 products of the Transformer's layers (`accel.cuda.cublas`). In attention and in the
    MLP's training steps tensor cores take tf32 for bfloat16 too, and three products of tf32 for one of float32.
    """

    name = "cupy"

    def __init__(self, xp: Any, lib: KernelLib, groups: int = GROUPS, precision: Precision = "float32") -> None:
        super().__init__(xp, lib, groups, precision)
        self._of_pairs: WeakKeyDictionary[Pairs, tuple[Array, Array]] = WeakKeyDictionary()

    # ----- Comparisons and the optimiser -----

    def margin_loss(self, omega: Array, pairs: Pairs, loss: MarginLoss) -> tuple[Array, Array]:
        check_omega(omega, pairs)
        kind, loss_type = TYPES.get(str(omega.dtype)), LOSS_TYPES.get(loss)
        if kind is None or loss_type is None:
            return super().margin_loss(omega, pairs, loss)
        count, index = len(pairs.y), [self._dense(value, np.int64) for value in (pairs.x_a, pairs.x_b)]
        dmargin, values = self._empty(omega, count), self.lib.empty((-(-count // 256),), np.float64)
        y, weight = (self._dense(value, omega.dtype) for value in (pairs.y, pairs.weight))
        inputs = (self._dense(omega), *index, y, weight, count)
        self.lib.launch("margin_loss", f"{kind}, {loss_type}", count, dmargin, values, *inputs)
        if pairs not in self._of_pairs:  # the entries k < count are those of x_a, the others of x_b
            self._of_pairs[pairs] = self._segments(self.xp.concatenate(index), pairs.n)
        total, call = added(self.lib, values, 1)
        self.lib.launch(*call)
        return total.reshape(()).astype(omega.dtype), self._segment_sum(dmargin, *self._of_pairs[pairs])

    def scatter(self, index: Array, values: Array, n: int) -> Array:
        if str(values.dtype) not in TYPES:
            return super().scatter(index, values, n)
        return self._segment_sum(self._dense(values), *self._segments(index, n))

    def adam_step(
        self,
        params: Array,
        grads: Array,
        m: Array,
        v: Array,
        step: int,
        lr: float,
        b1: float = 0.9,
        b2: float = 0.999,
        eps: float = 1e-8,
    ) -> None:
        kind = TYPES.get(str(params.dtype))
        if step < 1 or kind is None:
            return super().adam_step(params, grads, m, v, step, lr, b1, b2, eps)
        arrays = (params, m, v, self._dense(grads, params.dtype))
        ((_, m_scale, v_scale),) = unbiased_rates([lr], step, b1, b2)
        scalars = (lr, *constants(b1, b2, eps), m_scale, v_scale)
        return self.lib.launch("adam_step", kind, len(params), *arrays, len(params), *scalars)

    # ----- The Transformer -----

    def product(self, a: Array, b: Array) -> Array:
        if self.precision == "float32" or str(a.dtype) != "float32":
            return super().product(a, b)
        out = self._empty(a, len(a), b.shape[1])
        self.lib.product(a, b, out, self.precision)
        return out

    def embedding_backward(self, dout: Array, cache: Cache) -> Array:
        if str(dout.dtype) not in TYPES:
            return super().embedding_backward(dout, cache)
        tokens, (vocab, channels) = cache
        dtable, segments = self._empty(dout, vocab, channels), self._segments(tokens, vocab)
        kind = TYPES[str(dout.dtype)]
        self.lib.launch("embedding_backward", kind, vocab, dtable, self._dense(dout), *segments, channels)
        return dtable

    def causal_softmax(self, scores: Array) -> None:
        if str(scores.dtype) not in TYPES:
            return super().causal_softmax(scores)
        rows, length = scores.size // scores.shape[3], scores.shape[3]
        return self.lib.launch("causal_softmax", TYPES[str(scores.dtype)], rows, scores, rows, length)

    def causal_softmax_backward(self, dweights: Array, weights: Array) -> None:
        if str(dweights.dtype) not in TYPES:
            return super().causal_softmax_backward(dweights, weights)
        rows, length = weights.size // weights.shape[3], weights.shape[3]
        kind, arrays = TYPES[str(dweights.dtype)], (dweights, weights)
        return self.lib.launch("causal_softmax_backward", kind, rows, *arrays, rows, length)

    def token_log_p_forward(self, x: Array, kernel: Array, bias: Array, targets: Array) -> tuple[Array, Cache]:
        kind = TYPES.get(str(x.dtype))
        if kind is None:
            return super().token_log_p_forward(x, kernel, bias, targets)
        logits, targets = self.product(x, kernel), self._dense(targets, np.int64)
        out, stats, bias = self._empty(x, len(x)), self._empty(x, len(x), 2), self._dense(bias)
        self.lib.launch("token_log_p_forward", kind, len(x), out, stats, logits, bias, targets, logits.shape[1])
        return out, (x, kernel, bias, targets, logits, stats)

    def token_log_p_backward(self, dout: Array, cache: Cache) -> tuple[Array, Array, Array]:
        if str(dout.dtype) not in TYPES:
            return super().token_log_p_backward(dout, cache)
        x, kernel, bias, targets, logits, stats = cache
        dlogits = self._empty(logits, *logits.shape)
        parts = self._empty(x, chunks(len(x)) * logits.shape[1])
        inputs = (self._dense(dout), logits, bias, stats, targets, *logits.shape)
        items = walks(len(logits), -(-logits.shape[1] // AHEAD))
        self.lib.launch("token_log_p_backward", TYPES[str(x.dtype)], items, dlogits, parts, *inputs)
        # forward: logits = x @ kernel
        dbias = self._added(parts, logits.shape[1])
        return self.product(dlogits, kernel.T), self.product(x.T, dlogits), dbias

    # ----- Pieces -----

    def _segments(self, index: Array, n: int) -> tuple[Array, Array]:
        """order (N,) and starts (n + 1,): index is i at order[starts[i] : starts[i + 1]], in ascending places."""
        index = self._dense(index, np.int64)
        order = self.xp.argsort(index)  # CuPy's is stable
        return order, self.xp.searchsorted(index[order], self.xp.arange(n + 1))

    def _segment_sum(self, values: Array, order: Array, starts: Array) -> Array:
        out = self._empty(values, len(starts) - 1)
        inputs = (values, order, starts, len(values), len(out))
        self.lib.launch("segment_sum", TYPES[str(values.dtype)], len(out), out, *inputs)
        return out
