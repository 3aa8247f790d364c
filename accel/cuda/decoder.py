"""Sequences drawn from the Transformer, every token of all of them one CUDA graph.

Whatever differs between tokens lies on the device: the place, the last tokens, and which sequences are going. Once
in LOOK tokens the host asks how many are: it closes up their slots where many have ended, for which a new graph is
made, and stops where all have.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from accel.buffers import Array
from accel.cuda.kernel_table import TYPES
from accel.cuda.launcher import Graph, KernelLib
from accel.sampling import key_value_store
from accel.sequence_ops import EPS, Precision, SequenceOps
from accel.transformer_params import (
    EMBEDDING,
    MLP,
    NORM,
    OUTPUT,
    PROJECTIONS,
    Params,
    TransformerConfig,
    layer_params,
    positions,
)

LOOK = 8  # tokens between two looks of the host
# With this share of slots going on, closing up does not pay: it moves their keys and values to a copy and back,
# and spares the others' work in each token until the next look.
CROWDED = 1 - 2 / LOOK
CHANNELS = 64  # of a head at most: decode.cu


class Slots(NamedTuple):
    """The sequences under way: active (N,), which stands in which slot; last (N,), its last token; going (N,): 1
    where it has not ended. rows: those of a token's work, in arrays that stay where they are."""

    active: Array
    last: Array
    going: Array
    rows: dict[str, Array]


def slots_of(lib: KernelLib, config: TransformerConfig, dtype: Any, state: tuple[Array, Array, Array]) -> Slots:
    """Slots with room for the rows; state: active, last, going."""
    widths = {"x": config.emb_dim, "normed": config.emb_dim, "stats": 2, "qkv": 3 * config.qkv_dim}
    widths |= {"mixed": config.qkv_dim, "hidden": config.mlp_dim, "logits": config.vocab_size}
    rows = {name: lib.empty((len(state[0]), width), dtype) for name, width in widths.items()}
    return Slots(*state, rows)


class Decoder:
    """Draws with the numbers of uniform (size, length), as `accel.sampling.draw` describes it.

    tokens (size, length); log_p (size,).
    """

    def __init__(
        self,
        ops: SequenceOps,
        lib: KernelLib,
        precision: Precision,
        params: Params,
        config: TransformerConfig,
        uniform: Array,
        eos: int,
    ) -> None:
        self.lib, self.params, self.config, self.uniform, self.eos = lib, params, config, uniform, eos
        (size, self.length), xp, table = uniform.shape, ops.xp, params[EMBEDDING]
        self.xp, self.kind, self.precision = xp, TYPES[str(table.dtype)], precision
        self.place = xp.asarray(positions(config.max_len, config.emb_dim), dtype=table.dtype)
        self.layers = [self._layer(layer) for layer in range(config.num_layers)]
        self.store = key_value_store(ops, params, config, size, self.length)
        self.tokens, self.log_p = xp.zeros((size, self.length), dtype=np.int64), xp.zeros(size, dtype=np.float64)
        self.now = xp.zeros(1, dtype=np.int64)
        going = xp.full(size, 1, dtype=np.int64)
        state = (xp.arange(size), xp.zeros(size, dtype=np.int64), going)
        self.slots = slots_of(lib, config, table.dtype, state)

    def run(self) -> tuple[Array, Array, Array]:
        """tokens, log_p, and which sequences have ended with eos."""
        graph: Graph | None = None
        for t in range(self.length):
            graph = self._next(graph)
            if (t + 1) % LOOK == 0 and (count := int(self.slots.going.sum())) < CROWDED * len(self.slots.active):
                if count == 0:
                    break
                self._close_up(count, t + 1)
                graph = None
        return self.tokens, self.log_p, (self.tokens == self.eos).any(axis=1)

    def _next(self, graph: Graph | None) -> Graph | None:
        """One token. The first after a change is launched singly, which compiles and loads all that it needs."""
        if graph is not None:
            graph.launch()
            return graph
        self._token()
        return self.lib.capture(self._token) or Singly(self._token)

    def _token(self) -> None:
        """Launches and products alone, always the same."""
        slots, rows, now = self.slots, self.slots.rows, self.now
        x, columns, config = rows["x"], self.config.emb_dim, self.config
        table = (self.params[EMBEDDING], self.place, slots.last, now)
        self.lib.launch("embed_token", self.kind, x.size, x, *table, x.size, columns)
        for layer, block in enumerate(self.layers):
            self._attend(layer, block)
            self._mlp(block)
        self._norm(self.params[f"{NORM}/scale"], self.params[f"{NORM}/bias"])
        self._product(rows["normed"], self.params[f"{OUTPUT}/kernel"], rows["logits"])
        inputs = (rows["logits"], self.params[f"{OUTPUT}/bias"], self.uniform, slots.active, now)
        outputs = (self.tokens, self.log_p, slots.last, slots.going)
        sizes = (self.length, config.vocab_size, self.eos)
        self.lib.launch("draw_token", self.kind, len(slots.active), *outputs, *inputs, *sizes)
        self.lib.launch("advance", "double", 1, now)

    def _attend(self, layer: int, block: Params) -> None:
        """x += attend(norm(x) W_query, norm(x) W_key, norm(x) W_value) W_out."""
        rows, heads = self.slots.rows, self.config.num_heads
        channels, count = self.config.qkv_dim // heads, len(self.slots.active) * heads
        self._norm(block["LayerNorm_0/scale"], block["LayerNorm_0/bias"])
        self._product(rows["normed"], block["joined"], rows["qkv"])
        sizes = (count, heads, channels, self.length, self.store.shape[2], 1.0 / math.sqrt(channels))
        arrays = (rows["mixed"], self.store[layer], rows["qkv"], self.now)
        self.lib.launch("cached_attention", self.kind, count, *arrays, *sizes)
        self._product(rows["mixed"], block["out"], rows["x"], add=True)

    def _mlp(self, block: Params) -> None:
        """x += relu(norm(x) W_0 + b_0) W_1 + b_1."""
        rows, (scale, bias, kernel_0, bias_0, kernel_1, bias_1) = self.slots.rows, (block[name] for name in MLP)
        self._norm(scale, bias)
        self._product(rows["normed"], kernel_0, rows["hidden"])
        self._act("Relu", rows["hidden"], bias_0)
        self._product(rows["hidden"], kernel_1, rows["x"], add=True)
        self._act("Identity", rows["x"], bias_1)

    def _norm(self, scale: Array, bias: Array) -> None:
        rows, count = self.slots.rows, len(self.slots.active)
        arrays = (rows["normed"], rows["stats"], rows["x"], scale, bias)
        self.lib.launch("layer_norm_forward", self.kind, count, *arrays, count, self.config.emb_dim, EPS)

    def _act(self, act: str, x: Array, bias: Array) -> None:
        """x <- act(x + bias)."""
        self.lib.launch("bias_act_forward", f"{self.kind}, {act}", x.size, x, x, bias, x.size, x.shape[1])

    def _product(self, a: Array, b: Array, out: Array, add: bool = False) -> None:
        self.lib.product(a, b, out, self.precision, add)

    def _layer(self, layer: int) -> Params:
        """The layer's parameters; the kernels of the projections side by side, "joined", and "out" as a matrix."""
        block = dict(layer_params(self.params, layer))
        kernels = [block[f"SelfAttention_0/{part}/kernel"] for part in PROJECTIONS]
        joined = [kernel.reshape(len(kernel), -1) for kernel in kernels]
        out = block["SelfAttention_0/out/kernel"]
        return block | {"joined": self.xp.concatenate(joined, axis=1), "out": out.reshape(-1, out.shape[-1])}

    def _close_up(self, count: int, filled: int) -> None:
        """Those `count` that go on, in their order, in the first slots, with their keys and values so far."""
        slots = self.slots
        kept = self.xp.argsort(1 - slots.going)[:count]  # CuPy's is stable
        self.store[:, :, :count, :, :filled] = self.store[:, :, kept, :, :filled]
        parts = (slots.active[kept], slots.last[kept], slots.going[kept])
        self.slots = slots_of(self.lib, self.config, self.store.dtype, parts)


class Singly:
    """What a graph would do, where there is none: the launches again."""

    def __init__(self, launch: Any) -> None:
        self.launch = launch
