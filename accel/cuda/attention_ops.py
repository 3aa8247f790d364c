"""The part of CupyOps for attention: a block for a head in a sequence, where both are small enough."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import takewhile

from accel.buffers import Array
from accel.cuda.kernel_table import ARITHMETIC, ATTENTION_BYTES, TYPES
from accel.cuda.layer_ops import columns, side_by_side
from accel.cuda.mlp_ops import CupyNetworkOps
from accel.packing import Group
from accel.sequence_ops import Cache

SPAN = 64  # tokens of a sequence, channels of a head: heads.cuh


class CupyAttentionOps(CupyNetworkOps):
    """Attention on the arrays of xp with the kernels of lib."""

    def attention_forward(
        self, query: Array, key: Array, value: Array, groups: Sequence[Group]
    ) -> tuple[Array, Cache]:
        short = self._short(query, groups)
        out, cache = super().attention_forward(query, key, value, groups[len(short) :])
        rows = side_by_side(self.xp, [part.reshape(len(part), -1) for part in (query, key, value)])
        self._attend("attention_forward", short, query.shape, out, rows)
        return out, (cache, rows, short)

    def attention_backward(self, dout: Array, cache: Cache) -> tuple[Array, Array, Array]:
        """The three are parts of one array."""
        rest, rows, short = cache
        grads, dout = self._empty(dout, *rows.shape), self._dense(dout)
        parts = [part.reshape(dout.shape) for part in columns(grads, [dout[:1].size] * 3)]
        self._attend("attention_backward", short, dout.shape, grads, dout, rows)
        if groups := rest[1]:
            for part, grad in zip(parts, super().attention_backward(dout, rest), strict=True):
                part[groups[0].start :] = grad[groups[0].start :]
        dquery, dkey, dvalue = parts
        return dquery, dkey, dvalue

    def _short(self, query: Array, groups: Sequence[Group]) -> Sequence[Group]:
        """The first groups, whose sequences the attention kernels take; lengths ascend."""
        if str(query.dtype) not in TYPES or query.shape[2] > SPAN:
            return ()
        return tuple(takewhile(lambda group: group.length <= SPAN, groups))

    def _attend(
        self, name: str, groups: Sequence[Group], shape: tuple[int, ...], out: Array, *inputs: Array
    ) -> None:
        """The kernel of that name over the groups' sequences; shape: [R, H, D]."""
        if not groups:
            return
        (_, heads, channels), kind = shape, TYPES[str(out.dtype)]
        if kind == "float" and self.lib.tensor_memory >= ATTENTION_BYTES:
            name, kind = f"{name}_tensor", f"{kind}, {ARITHMETIC[self.precision]}"
        first, count = groups[0].first, sum(group.count for group in groups)
        values = (groups[0].starts[first:], heads, channels, 1.0 / math.sqrt(channels))
        self.lib.launch(name, kind, count * heads, out, *inputs, *values)
