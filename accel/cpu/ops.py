"""The ops compiled with Numba for this CPU: what measured faster than plain NumPy, and that alone."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from accel import buffers
from accel.adam import constants, unbiased_rates
from accel.buffers import Array
from accel.cpu import adam as cpu_adam
from accel.cpu import losses as cpu_losses
from accel.cpu import matmul as cpu_matmul
from accel.cpu import mlp as cpu_mlp
from accel.cpu import output as cpu_output
from accel.cpu.buffer_pool import Pool
from accel.cpu.compile import LINE, Crew
from accel.cpu.losses import compiled_loss
from accel.cpu.sequence_ops import Kept, NumbaSequenceOps
from accel.losses import MarginLoss
from accel.ops import Ops, Pairs, Params, check_integer, check_mixture, check_omega, mlp_widths, moments_checked
from accel.sequence_ops import Cache

CHUNK = 1 << 15  # numbers a thread: fewer are not worth a second one
MARGIN_GROUPS = 8
SLICES = 8  # of the parameters, for Adam between two steps of one call


class NumbaOps(NumbaSequenceOps, Ops):
    """Ops on at most `threads` cores (None: all of this process's). Equal bit for bit from run to run and for
    every number of threads. Raises ValueError for threads < 1."""

    name = "numba"

    def __init__(self, threads: int | None = None) -> None:
        if threads is not None:
            check_integer("threads", threads, 1)
        self.threads = cores() if threads is None else threads
        self._crew, self._pool, self._kept = Crew(self.threads), Pool(), Kept()

    def tanh_forward(self, x: Array) -> tuple[Array, Cache]:
        if x.dtype != np.float32:
            return super().tanh_forward(x)
        out = np.empty(x.shape, x.dtype)
        rows = plain(x, x.dtype).reshape(-1)
        self._crew.run(cpu_mlp.tanh_of, -(-x.size // CHUNK), rows, out.reshape(-1), CHUNK)
        return out, out

    def mlp_forward(self, params: Params, x: Array) -> tuple[Array, Cache]:
        rows = plain(self.mlp_rows(params, x), params["Dense_0/kernel"].dtype)
        network, layout = pack(params)
        block = cpu_mlp.block_rows(len(rows))
        acts = aligned((-(-len(rows) // block), block * layout.acts), rows.dtype)
        out = np.empty(len(rows), rows.dtype)
        self._crew.run(cpu_mlp.forward, len(acts), *network, rows, block, acts, out)
        return out, (params, network, layout, block, acts)

    def mlp_backward(self, dout: Array, cache: Cache) -> dict[str, Array]:
        params, network, layout, block, acts = cache
        parts = groups(len(acts), layout, acts.dtype)
        sizes = (block, layout.widest)
        self._crew.run(cpu_mlp.backward, len(parts), *network, plain(dout, acts.dtype), *sizes, acts, parts)
        return add_groups(params, parts, layout)

    def margin_loss(self, omega: Array, pairs: Pairs, loss: MarginLoss) -> tuple[Array, Array]:
        check_omega(omega, pairs)
        dtype, domega = omega.dtype, np.empty_like(omega)
        parts, values = self._pool.empty((MARGIN_GROUPS, len(omega)), np.float64), np.empty(MARGIN_GROUPS)
        indices = (plain(pairs.x_a, np.int64), plain(pairs.x_b, np.int64))
        inputs = (plain(omega, dtype), *indices, plain(pairs.y, dtype), plain(pairs.weight, dtype))
        pieces = min(MARGIN_GROUPS, -(-len(pairs.y) // cpu_losses.CHUNK))
        self._crew.run(cpu_losses.margin_loss, pieces, *inputs, compiled_loss(loss, dtype.str), parts, values)
        cpu_losses.add_rows(parts, domega)
        return dtype.type(values.sum()), domega

    def mixture_loss(self, r: Array, log_w: Array, pairs: Pairs) -> tuple[Array, Array, Array]:
        check_mixture(r, log_w, pairs)
        dtype, dr, shape = r.dtype, np.empty(r.shape, r.dtype), (MARGIN_GROUPS, *r.shape)
        parts, dlog_w, values = self._pool.empty(shape, np.float64), np.zeros(shape[:2]), np.zeros(MARGIN_GROUPS)
        indices = (plain(pairs.x_a, np.int64), plain(pairs.x_b, np.int64))
        inputs = (*(plain(value, dtype) for value in (r, log_w)), *indices)
        choices = (plain(pairs.y, dtype), plain(pairs.weight, dtype), cpu_output.decay(dtype.str))
        pieces = min(MARGIN_GROUPS, -(-len(pairs.y) // cpu_losses.CHUNK))
        self._crew.run(cpu_losses.mixture_loss, pieces, *inputs, *choices, parts, dlog_w, values)
        cpu_losses.add_rows(parts.reshape(MARGIN_GROUPS, -1), dr.reshape(-1))
        return dtype.type(values.sum()), dr, dlog_w.sum(axis=0).astype(dtype)

    def mlp_margin_step(
        self, params: Params, x_a: Array, x_b: Array, y: Array, loss: MarginLoss
    ) -> tuple[Array, dict[str, Array]]:
        x, y = self.comparisons(params, x_a, x_b, y)
        network, layout = pack(params)
        block = cpu_mlp.block_rows(2 * len(y))
        parts = groups(-(-2 * len(y) // block), layout, x.dtype)
        values, sizes = np.empty(len(parts)), (block, layout.acts, layout.widest)
        inputs = (x[: len(y)], x[len(y) :], plain(y, x.dtype), compiled_loss(loss, x.dtype.str))
        self._crew.run(cpu_mlp.margin_step, len(parts), *network, *inputs, *sizes, parts, values)
        return x.dtype.type(values.sum()), add_groups(params, parts, layout)

    def mlp_margin_steps(
        self,
        params: Params,
        x_a: Array,
        x_b: Array,
        y: Array,
        loss: MarginLoss,
        m: Array,
        v: Array,
        step: int,
        lr: Sequence[float],
        b1: float = 0.9,
        b2: float = 0.999,
        eps: float = 1e-8,
    ) -> Array:
        flat = moments_checked(params, m, v)
        if step < 1:
            raise ValueError(f"step must be >= 1, got {step}")
        x, y = self.comparisons(params, x_a, x_b, y)
        network, layout = pack(params)
        block = cpu_mlp.block_rows(2 * len(y))
        parts = groups(-(-2 * len(y) // block), layout, x.dtype)
        moments = [aligned((layout.grads,), x.dtype) for _ in (m, v)]
        for moment, padded in zip((m, v), moments, strict=True):
            padded.fill(0.0)
            cpu_mlp.pad(moment, layout.layers, padded)
        rates = unbiased_rates(lr, step, b1, b2)
        sizes = (block, layout.acts, layout.widest)
        inputs = (x[: len(y)], x[len(y) :], plain(y, x.dtype), compiled_loss(loss, x.dtype.str), *sizes)
        adam = (cpu_adam.adam(x.dtype.str), *moments, np.array(rates, x.dtype).reshape(-1, 3))
        scalars, values = map(x.dtype.type, constants(b1, b2, eps)), np.empty((len(rates), len(parts)))
        done = np.zeros(1, np.int64)
        # fmt: off
        self._crew.run(cpu_mlp.margin_steps, len(parts), done, *network, *inputs, parts, values,
                       *adam, *scalars, SLICES)
        # fmt: on
        for moment, padded in zip((flat, m, v), (network[0], *moments), strict=True):
            cpu_mlp.unpack(padded, layout.layers, moment)
        return values.sum(axis=1).astype(x.dtype)

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
        if step < 1:
            raise ValueError(f"step must be >= 1, got {step}")
        ((_, m_scale, v_scale),) = unbiased_rates([lr], step, b1, b2)
        scalars = map(params.dtype.type, (lr, *constants(b1, b2, eps), m_scale, v_scale))
        arrays = (cpu_adam.adam(params.dtype.str), params, plain(grads, params.dtype), m, v)
        self._crew.run(cpu_adam.adam_step, -(-len(params) // CHUNK), *arrays, *scalars, CHUNK)


def cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def pack(params: Params) -> tuple[tuple[Array, Array, Any], cpu_mlp.Layout]:
    """What the compiled code calls a network (packed parameters, layers, matmul), and the layout."""
    flat = np.concatenate([value.reshape(-1) for value in params.values()])
    layout = cpu_mlp.layout(mlp_widths(params), flat.itemsize)
    packed = aligned((layout.packed,), flat.dtype)
    packed.fill(0.0)
    cpu_mlp.pack(flat, layout.layers, packed)
    return (packed, layout.layers, cpu_matmul.matmul(flat.dtype.str)), layout


def plain(array: Array, dtype: Any) -> Array:
    """array as the compiled code takes it: contiguous, writeable, of dtype; copied only where it is not."""
    if array.dtype == dtype and array.flags.c_contiguous and array.flags.writeable:
        return array
    return np.require(array, dtype, ("C", "W"))


def aligned(shape: tuple[int, ...], dtype: Any) -> Array:
    """An array, not filled, that begins with a cache line."""
    size, line = math.prod(shape) * np.dtype(dtype).itemsize, LINE
    raw = np.empty(size + line, np.uint8)
    start = -raw.__array_interface__["data"][0] % line
    return raw[start : start + size].view(dtype).reshape(shape)


def groups(blocks: int, layout: cpu_mlp.Layout, dtype: Any) -> Array:
    """(groups, padded grads), not filled: two blocks or more a group, but for the first four groups."""
    number = max(1, min(blocks, max(4, blocks // 2), cpu_mlp.GROUPS))
    return aligned((number, layout.grads), dtype)


def add_groups(params: Params, parts: Array, layout: cpu_mlp.Layout) -> dict[str, Array]:
    """The gradient as views of a new flat buffer, keys as in params."""
    shapes = {name: value.shape for name, value in params.items()}
    flat = np.empty(buffers.size(shapes), parts.dtype)
    cpu_mlp.add_groups(parts, layout.layers, flat)
    return buffers.views(flat, shapes)
