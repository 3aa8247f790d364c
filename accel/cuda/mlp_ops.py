"""The density experiments' network on a GPU, and what all ops there are made of.

Up to WIDE units a layer, rows go through all layers in one kernel; wider ones as products by xp.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from accel import buffers, losses
from accel.adam import Adam, constants, unbiased_rates
from accel.buffers import Array
from accel.cuda.graph import (
    GradientSteps,
    Launches,
    MarginGraphs,
    Problem,
    StepKernel,
    added,
    column_sums,
    margin_gradient,
    record_loss,
)
from accel.cuda.kernel_table import ARITHMETIC, LOSSES, TILE, TYPES, WIDE, chunks, tensor_bytes, walks
from accel.cuda.launcher import KernelLib
from accel.losses import MarginLoss
from accel.ops import Ops, Params, mlp_widths, moments_checked
from accel.sequence_ops import Cache, Precision

GROUPS = (
    264  # blocks that share the rows of an MLP, each with a gradient of its own: two for each of 132 processors
)
LOSS_TYPES = {getattr(losses, name): kind for name, kind in LOSSES.items()}


class CupyNetworkOps(Ops):
    """The part of `CupyOps` for the network; the arguments are its."""

    def __init__(self, xp: Any, lib: KernelLib, groups: int, precision: Precision) -> None:
        self.xp, self.lib, self.groups, self.precision = xp, lib, groups, precision
        self._widths: dict[tuple[int, ...], Array] = {}
        self._graphs = MarginGraphs(lib)

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
        grads, call = added(self.lib, parts, len(flat))
        self.lib.launch(*call)
        return self._named(params, grads)

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
        kernel = self._step_kernel(params, loss)
        if kernel is None:
            return super().mlp_margin_step(params, x[: len(y)], x[len(y) :], y, loss)
        network = (self._flat(params), self._device_widths(mlp_widths(params)))
        values, parts, gradient = margin_gradient(self.lib, kernel, *network, x, self._dense(y), self.groups)
        grads, sums = added(self.lib, parts, len(network[0]))
        value, step = self._empty(x, 1), self.xp.zeros(1, dtype=np.int64)
        Launches(self.lib, (gradient, sums, record_loss(value, step, values, len(y)))).launch()
        return value.reshape(()), self._named(params, grads)

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
        flat, kernel = moments_checked(params, m, v), self._step_kernel(params, loss)
        if kernel is None or step < 1:
            return super().mlp_margin_steps(params, x_a, x_b, y, loss, m, v, step, lr, b1, b2, eps)
        x, y = self.comparisons(params, x_a, x_b, y)
        widths = self._device_widths(mlp_widths(params))
        problem = Problem(kernel, (flat, m, v), widths, x, y, self.groups, constants(b1, b2, eps))
        return self._graphs.run(problem, self._schedule(lr, step, b1, b2, flat.dtype))

    def gradient_steps(
        self, gradient: Callable[[], tuple[Array, Array]], params: Array, m: Array, v: Array, adam: Adam
    ) -> Callable[[Sequence[float], int], Array] | None:
        if str(params.dtype) not in TYPES:
            return None
        steps = GradientSteps(self.lib, gradient, (params, m, v), adam)
        return lambda rates, step: steps.run(self._schedule(rates, step, adam.b1, adam.b2, params.dtype))

    # ----- Pieces -----

    def _schedule(self, lr: Sequence[float], step: int, b1: float, b2: float, dtype: Any) -> Array:
        """A row of `unbiased_rates` for each step, (n, 3), on the device."""
        return self.xp.asarray(np.array(unbiased_rates(lr, step, b1, b2), dtype).reshape(-1, 3))

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
        """(R columns,), R >= 1 rows one after the other -> their sum (columns,)."""
        total, calls = column_sums(self.lib, parts, columns)
        Launches(self.lib, calls).launch()
        return total

    def _empty(self, like: Array, *shape: int) -> Array:
        return self.lib.empty(shape, like.dtype)

    def _dense(self, array: Array, dtype: Any = None) -> Array:
        return self.xp.ascontiguousarray(array, dtype=dtype)

    def _flat(self, params: Params) -> Array:
        """The parameters as one buffer in their order: the one below them where it is that, else a copy."""
        try:
            return buffers.flat_of(params)
        except ValueError:
            return buffers.flatten(params, self.xp)[0]

    def _step_kernel(self, params: Params, loss: MarginLoss) -> StepKernel | None:
        """The kernel for a network and a loss, on tensor cores where it can be; or None."""
        widths = mlp_widths(params)  # ValueError where params are no network
        kind, loss_type = TYPES.get(str(params["Dense_0/kernel"].dtype)), LOSS_TYPES.get(loss)
        if kind is None or loss_type is None or max(widths) > WIDE:
            return None
        layers = len(widths) - 1
        if kind == "float" and layers > 1 and tensor_bytes(layers) <= self.lib.tensor_memory:
            return StepKernel("mlp_margin_tensor", f"{kind}, {loss_type}, {ARITHMETIC[self.precision]}")
        return StepKernel("mlp_margin_step", f"{kind}, {loss_type}")

    def _named(self, params: Params, flat: Array) -> dict[str, Array]:
        return buffers.views(flat, {name: value.shape for name, value in params.items()})

    def _device_widths(self, widths: tuple[int, ...]) -> Array:
        if widths not in self._widths:
            self._widths[widths] = self.xp.asarray(widths, dtype=np.int64)
        return self._widths[widths]
