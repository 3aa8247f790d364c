"""The part of CupyOps for the Transformer's layers but attention: few kernels around the products."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from accel.buffers import Array, address
from accel.cuda.kernel_table import TYPES, chunks, walks
from accel.cuda.mlp_ops import CupyNetworkOps
from accel.sequence_ops import EPS, Cache


class CupyLayerOps(CupyNetworkOps):
    """Layers on the arrays of xp with the kernels of lib."""

    def column_sums(self, x: Array) -> Array:
        if str(x.dtype) not in TYPES or len(x) == 0:
            return super().column_sums(x)
        return self._added(self._dense(x).reshape(-1), x.shape[1])

    def bias_relu_forward(self, x: Array, bias: Array) -> tuple[Array, Cache]:
        if str(x.dtype) not in TYPES:
            return super().bias_relu_forward(x, bias)
        out = self._bias_act("Relu", x, bias)
        return out, out

    def bias_relu_backward(self, dout: Array, cache: Cache) -> tuple[Array, Array]:
        if str(dout.dtype) not in TYPES:
            return super().bias_relu_backward(dout, cache)
        return self._bias_act_gradient("Relu", dout, cache)

    def residual(self, x: Array, rows: Array, bias: Array) -> Array:
        kind = TYPES.get(str(x.dtype))
        if kind is None:
            return super().residual(x, rows, bias)
        out, inputs = self._empty(x, *x.shape), [self._dense(part) for part in (x, rows, bias)]
        self.lib.launch("residual", kind, x.size, out, *inputs, x.size, x.shape[1])
        return out

    # ----- The layer norm, alone and with the products of what it gives -----

    def layer_norm_forward(self, x: Array, scale: Array, bias: Array) -> tuple[Array, Cache]:
        kind = TYPES.get(str(x.dtype))
        if kind is None:
            return super().layer_norm_forward(x, scale, bias)
        x, out, stats = self._dense(x), self._empty(x, *x.shape), self._empty(x, len(x), 2)
        self.lib.launch("layer_norm_forward", kind, len(x), out, stats, x, scale, bias, *x.shape, EPS)
        return out, (x, stats, scale)

    def layer_norm_backward(
        self, dout: Array, cache: Cache, onto: Array | None = None
    ) -> tuple[Array, Array, Array]:
        if str(dout.dtype) not in TYPES:
            return super().layer_norm_backward(dout, cache, onto)
        x, stats, scale = cache
        kind, dout, dx = TYPES[str(dout.dtype)], self._dense(dout), self._empty(x, *x.shape)
        added = dout if onto is None else self._dense(onto, dout.dtype)
        inputs = (dout, x, stats, scale, added, *x.shape, onto is not None)
        self.lib.launch("layer_norm_backward", kind, len(x), dx, *inputs)
        parts = self._empty(x, chunks(len(x)) * 2 * x.shape[1])
        self.lib.launch("layer_norm_params", kind, walks(*x.shape), parts, dout, x, stats, *x.shape)
        dparams = self._added(parts, 2 * x.shape[1])
        return dx, dparams[: x.shape[1]], dparams[x.shape[1] :]

    def norm_matmuls_forward(
        self, x: Array, scale: Array, bias: Array, kernels: Sequence[Array]
    ) -> tuple[list[Array], Cache]:
        """One product with the kernels side by side; the results are parts of one array."""
        normed, norm = self.layer_norm_forward(x, scale, bias)
        joined = self.xp.concatenate(kernels, axis=1)
        out, cache = self.matmul_forward(normed, joined)
        widths = [kernel.shape[1] for kernel in kernels]
        return columns(out, widths), (norm, cache, widths)

    def norm_matmuls_backward(
        self, douts: Sequence[Array], cache: Cache, onto: Array | None = None
    ) -> tuple[Array, Array, Array, list[Array]]:
        norm, product, widths = cache
        # forward: outs = columns of normed @ joined
        dnormed, djoined = self.matmul_backward(side_by_side(self.xp, douts), product)
        # forward: normed = norm(x)
        return *self.layer_norm_backward(dnormed, norm, onto), columns(djoined, widths)


def columns(array: Array, widths: Sequence[int]) -> list[Array]:
    """The parts (R, width) of an array (R, sum of widths), one beside the other: views."""
    ends = [sum(widths[:i]) for i in range(len(widths) + 1)]
    return [array[:, start:end] for start, end in pairwise(ends)]


def side_by_side(xp: Any, parts: Sequence[Array]) -> Array:
    """The parts (R, width) as one array (R, sum of widths): the one that they are `columns` of, or a copy."""
    whole, widths = parts[0].base, [part.shape[1] for part in parts]
    if whole is not None and whole.flags.c_contiguous and whole.size == len(parts[0]) * sum(widths):
        whole = whole.reshape(len(parts[0]), -1)
        if [address(part) for part in parts] == [address(part) for part in columns(whole, widths)]:
            return whole
    return xp.concatenate(parts, axis=1)
