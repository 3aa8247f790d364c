"""The ops on a GPU: arrays and matrix products by CuPy, what else is hot by the kernels of accel/kernel_table.py.

Nothing here waits for the device or reads from it. Sums are in a fixed order: no run differs from another.
The class needs an array package and a `KernelLib` alone, so that tests run all of it on NumPy arrays.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import takewhile
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np

from accel import buffers, losses
from accel.buffers import Array
from accel.kernel_lib import KernelLib
from accel.kernel_table import LOSSES, TYPES
from accel.losses import MarginLoss
from accel.ops import Ops, Pairs, Params, check_omega, mlp_widths
from accel.ops_cupy_sampling import CupySamplingOps
from accel.ops_sequence import EPS, Cache
from accel.packing import Group

CHUNK = 128  # rows of a strip of columns: CHUNK in common.cuh
TILE, WIDE = 64, 64  # rows of a block, widest layer: mlp.cu
SPAN = 64  # tokens of a sequence, channels of a head: attention.cu
GROUPS = (
    264  # blocks that share the rows of an MLP, each with a gradient of its own: two for each of 132 processors
)
LOSS_TYPES = {getattr(losses, name): kind for name, kind in LOSSES.items()}


class CupyOps(CupySamplingOps, Ops):
    """Ops on the arrays of xp with the kernels of lib. float32 and float64; other dtypes as in `Ops`.

    groups: at most so many blocks share the rows of an MLP; where there are more, a block takes several tiles.
    """

    name = "cupy"

    def __init__(self, xp: Any, lib: KernelLib, groups: int = GROUPS) -> None:
        self.xp, self.lib, self.groups = xp, lib, groups
        self._of_pairs: WeakKeyDictionary[Pairs, tuple[Array, Array]] = WeakKeyDictionary()
        self._widths: dict[tuple[int, ...], Array] = {}

    # ----- The network of the density experiments -----

    def mlp_forward(self, params: Params, x: Array) -> tuple[Array, Cache]:
        rows, widths = self._dense(self.mlp_rows(params, x)), mlp_widths(params)
        kind = TYPES.get(str(rows.dtype))
        if kind is None:
            return super().mlp_forward(params, rows)
        if max(widths) > WIDE:
            return self._wide_forward(params, rows)
        flat, layers, tiles = self._flat(params), len(widths) - 1, -(-len(rows) // TILE)
        out, saved = self._empty(rows, len(rows)), self._empty(rows, tiles, layers, TILE, WIDE)
        sizes = (self._device_widths(widths), layers, len(rows))
        self.lib.launch("mlp_forward", kind, len(rows), out, saved, flat, rows, *sizes)
        return out, (params, flat, saved, sizes)

    def mlp_backward(self, dout: Array, cache: Cache) -> dict[str, Array]:
        if isinstance(cache, list):
            return super().mlp_backward(dout, cache)
        if len(cache) == 2:
            return self._wide_backward(dout, *cache)
        params, flat, saved, sizes = cache
        if len(dout) == 0:
            return self._named(params, self.xp.zeros_like(flat))
        blocks = min(len(saved), self.groups)
        parts = self._empty(flat, blocks * len(flat))
        values = (parts, self._dense(dout, flat.dtype), saved, flat, *sizes, len(flat))
        self.lib.launch("mlp_backward", TYPES[str(flat.dtype)], blocks, *values)
        return self._named(params, self._added(parts, len(flat)))

    def _wide_forward(self, params: Params, rows: Array) -> tuple[Array, Cache]:
        """The same for layers wider than WIDE: products by xp, bias and tanh by one kernel."""
        inputs, last = [], len(params) // 2 - 1
        for i in range(last):
            inputs.append(rows)
            rows = self._bias_act("Tanh", rows @ params[f"Dense_{i}/kernel"], params[f"Dense_{i}/bias"])
        inputs.append(rows)
        out = rows @ params[f"Dense_{last}/kernel"] + params[f"Dense_{last}/bias"]
        return out[:, 0], (params, inputs)

    def _wide_backward(self, dout: Array, params: Params, inputs: Sequence[Array]) -> dict[str, Array]:
        drows, grads = dout[:, None], {}
        dbias = drows.sum(axis=0)
        for i in reversed(range(len(inputs))):
            # forward: rows = inputs @ kernel + bias
            grads[f"Dense_{i}/bias"], grads[f"Dense_{i}/kernel"] = dbias, inputs[i].T @ drows
            if i:
                # forward: inputs = tanh(...)
                drows, dbias = self._bias_act_gradient("Tanh", drows @ params[f"Dense_{i}/kernel"].T, inputs[i])
        return buffers.flatten({name: grads[name] for name in params}, self.xp)[1]

    def mlp_margin_step(
        self, params: Params, x_a: Array, x_b: Array, y: Array, loss: MarginLoss
    ) -> tuple[Array, dict[str, Array]]:
        x, y = self.comparisons(params, x_a, x_b, y)
        widths, kind, loss_type = mlp_widths(params), TYPES.get(str(x.dtype)), LOSS_TYPES.get(loss)
        if kind is None or loss_type is None or max(widths) > WIDE:
            return super().mlp_margin_step(params, x[: len(y)], x[len(y) :], y, loss)
        flat, layers, blocks = self._flat(params), len(widths) - 1, min(-(-2 * len(y) // TILE), self.groups)
        parts, values = self._empty(flat, blocks * len(flat)), self.lib.empty((blocks,), np.float64)
        saved = self._empty(flat, blocks, layers, TILE, WIDE)
        inputs = (x[: len(y)], x[len(y) :], self._dense(y), self._device_widths(widths))
        outputs = (parts, values, saved, flat, *inputs, layers, len(y), len(flat))
        self.lib.launch("mlp_margin_step", f"{kind}, {loss_type}", blocks, *outputs)
        return (values.sum() / len(y)).astype(x.dtype), self._named(params, self._added(parts, len(flat)))

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
        return values.sum().astype(omega.dtype), self._segment_sum(dmargin, *self._of_pairs[pairs])

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
        scalars = (lr, b1, b2, eps, 1.0 / (1.0 - b1**step), 1.0 / (1.0 - b2**step))
        return self.lib.launch("adam_step", kind, len(params), *arrays, len(params), *scalars)

    # ----- The Transformer -----

    def bias_relu_forward(self, x: Array, bias: Array) -> tuple[Array, Cache]:
        if str(x.dtype) not in TYPES:
            return super().bias_relu_forward(x, bias)
        out = self._bias_act("Relu", x, bias)
        return out, out

    def bias_relu_backward(self, dout: Array, cache: Cache) -> tuple[Array, Array]:
        if str(dout.dtype) not in TYPES:
            return super().bias_relu_backward(dout, cache)
        return self._bias_act_gradient("Relu", dout, cache)

    def layer_norm_forward(self, x: Array, scale: Array, bias: Array) -> tuple[Array, Cache]:
        kind = TYPES.get(str(x.dtype))
        if kind is None:
            return super().layer_norm_forward(x, scale, bias)
        x, out, stats = self._dense(x), self._empty(x, *x.shape), self._empty(x, len(x), 2)
        self.lib.launch("layer_norm_forward", kind, len(x), out, stats, x, scale, bias, *x.shape, EPS)
        return out, (x, stats, scale)

    def layer_norm_backward(self, dout: Array, cache: Cache) -> tuple[Array, Array, Array]:
        if str(dout.dtype) not in TYPES:
            return super().layer_norm_backward(dout, cache)
        x, stats, scale = cache
        kind, dout, dx = TYPES[str(dout.dtype)], self._dense(dout), self._empty(x, *x.shape)
        self.lib.launch("layer_norm_backward", kind, len(x), dx, dout, x, stats, scale, *x.shape)
        parts = self._empty(x, chunks(len(x)) * 2 * x.shape[1])
        self.lib.launch("layer_norm_params", kind, walks(*x.shape), parts, dout, x, stats, *x.shape)
        dparams = self._added(parts, 2 * x.shape[1])
        return dx, dparams[: x.shape[1]], dparams[x.shape[1] :]

    def embedding_backward(self, dout: Array, cache: Cache) -> Array:
        if str(dout.dtype) not in TYPES:
            return super().embedding_backward(dout, cache)
        tokens, (vocab, channels) = cache
        dtable, segments = self._empty(dout, vocab, channels), self._segments(tokens, vocab)
        kind = TYPES[str(dout.dtype)]
        self.lib.launch("embedding_backward", kind, vocab, dtable, self._dense(dout), *segments, channels)
        return dtable

    def attention_forward(
        self, query: Array, key: Array, value: Array, groups: Sequence[Group]
    ) -> tuple[Array, Cache]:
        short = self._short(query, groups)
        out, cache = super().attention_forward(query, key, value, groups[len(short) :])
        inputs = [self._dense(part) for part in (query, key, value)]
        self._attend("attention_forward", short, [out], inputs)
        return out, (cache, inputs, short)

    def attention_backward(self, dout: Array, cache: Cache) -> tuple[Array, Array, Array]:
        rest, inputs, short = cache
        dout = self._dense(dout)
        grads = super().attention_backward(dout, rest)
        self._attend("attention_backward", short, grads, [dout, *inputs])
        return grads

    def causal_softmax(self, scores: Array) -> None:
        if str(scores.dtype) not in TYPES:
            return super().causal_softmax(scores)
        rows, length = scores.size // scores.shape[3], scores.shape[3]
        return self.lib.launch("causal_softmax", TYPES[str(scores.dtype)], rows, scores, rows, length)

    def causal_softmax_backward(self, dweights: Array, weights: Array, out: Array, dout: Array) -> None:
        if str(dweights.dtype) not in TYPES:
            return super().causal_softmax_backward(dweights, weights, out, dout)
        rows, length = weights.size // weights.shape[3], weights.shape[3]
        kind, arrays = TYPES[str(dweights.dtype)], (dweights, weights)
        return self.lib.launch("causal_softmax_backward", kind, rows, *arrays, rows, length)

    def token_log_p_forward(self, x: Array, kernel: Array, bias: Array, targets: Array) -> tuple[Array, Cache]:
        kind = TYPES.get(str(x.dtype))
        if kind is None:
            return super().token_log_p_forward(x, kernel, bias, targets)
        logits, targets = x @ kernel, self._dense(targets, np.int64)
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
        self.lib.launch("token_log_p_backward", TYPES[str(x.dtype)], walks(*logits.shape), dlogits, parts, *inputs)
        # forward: logits = x @ kernel
        return dlogits @ kernel.T, x.T @ dlogits, self._added(parts, logits.shape[1])

    # ----- Pieces -----

    def _bias_act(self, act: str, x: Array, bias: Array) -> Array:
        x, out = self._dense(x), self._empty(x, *x.shape)
        values = (out, x, self._dense(bias), x.size, x.shape[1])
        self.lib.launch("bias_act_forward", f"{TYPES[str(x.dtype)]}, {act}", x.size, *values)
        return out

    def _bias_act_gradient(self, act: str, dout: Array, out: Array) -> tuple[Array, Array]:
        dx, parts = self._empty(out, *out.shape), self._empty(out, chunks(len(out)) * out.shape[1])
        values = (dx, parts, self._dense(dout), out, *out.shape)
        self.lib.launch("bias_act_backward", f"{TYPES[str(out.dtype)]}, {act}", walks(*out.shape), *values)
        return dx, self._added(parts, out.shape[1])

    def _added(self, parts: Array, columns: int) -> Array:
        """(R columns,), R >= 1 rows one after the other -> their sum (columns,): CHUNK rows at a time."""
        while (rows := len(parts) // columns) > 1:
            sums = self._empty(parts, chunks(rows) * columns)
            self.lib.launch(
                "column_sum", TYPES[str(parts.dtype)], walks(rows, columns), sums, parts, rows, columns
            )
            parts = sums
        return parts

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

    def _short(self, query: Array, groups: Sequence[Group]) -> Sequence[Group]:
        """The first groups, whose sequences the attention kernels take; lengths ascend."""
        if str(query.dtype) not in TYPES or query.shape[2] > SPAN:
            return ()
        return tuple(takewhile(lambda group: group.length <= SPAN, groups))

    def _attend(
        self, name: str, groups: Sequence[Group], outputs: Sequence[Array], inputs: Sequence[Array]
    ) -> None:
        if groups:
            first, count = groups[0].first, sum(group.count for group in groups)
            heads, channels = inputs[0].shape[1:]
            values = (groups[0].starts[first:], heads, channels, 1.0 / math.sqrt(channels))
            self.lib.launch(name, TYPES[str(inputs[0].dtype)], count * heads, *outputs, *inputs, *values)

    def _empty(self, like: Array, *shape: int) -> Array:
        return self.lib.empty(shape, like.dtype)

    def _dense(self, array: Array, dtype: Any = None) -> Array:
        return self.xp.ascontiguousarray(array, dtype=dtype)

    def _flat(self, params: Params) -> Array:
        """The parameters as one buffer in their order: the one below them where it is that, else a copy."""
        try:
            flat = buffers.flat_of(params)
        except ValueError:
            return buffers.flatten(params, self.xp)[0]
        ends = [address(flat), *(address(value) + value.nbytes for value in params.values())]
        if all(address(value) == end for value, end in zip(params.values(), ends, strict=False)):
            return flat
        return buffers.flatten(params, self.xp)[0]

    def _named(self, params: Params, flat: Array) -> dict[str, Array]:
        return buffers.views(flat, {name: value.shape for name, value in params.items()})

    def _device_widths(self, widths: tuple[int, ...]) -> Array:
        if widths not in self._widths:
            self._widths[widths] = self.xp.asarray(widths, dtype=np.int64)
        return self._widths[widths]


def address(array: Array) -> int:
    """Where an array's memory begins."""
    return int(array.data.ptr if hasattr(array.data, "ptr") else array.ctypes.data)


def chunks(rows: int) -> int:
    """How many parts the sum over so many rows has; one at least."""
    return max(1, -(-rows // CHUNK))


def walks(rows: int, columns: int) -> int:
    """How many walks down a strip of 32 columns and CHUNK rows cover an array."""
    return chunks(rows) * -(-columns // 32)
