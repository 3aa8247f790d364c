"""The Transformer's ops compiled with Numba for this CPU.

Widths that are no multiple of WIDTH, and kernels too large for a gradient of every group's own, go to the plain
ops and so to the BLAS.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from threading import local
from typing import Any

import numpy as np

from accel.buffers import Array
from accel.cpu import attention as cpu_attention
from accel.cpu import decoder as cpu_decoder
from accel.cpu import layers as cpu_layers
from accel.cpu import matmul as cpu_matmul
from accel.cpu import output as cpu_output
from accel.cpu.buffer_pool import Pool
from accel.cpu.compile import Crew
from accel.cpu.layers import BLOCK, GROUPS, WIDTH
from accel.packing import Group
from accel.sequence_ops import Cache, SequenceOps
from accel.transformer_params import (
    EMBEDDING,
    NORM,
    OUTPUT,
    PROJECTIONS,
    Params,
    TransformerConfig,
    layer_params,
    positions,
)

LARGEST = 1 << 20  # numbers in a kernel: its gradient is held once a group
ROWS = 8  # of kept keys and values at a time
CHUNK = 1 << 14  # numbers of a gradient that one thread adds up at a time


class Kept(local):
    """made: of kernels inside `fixed`, by the thread that is inside; None outside."""

    made: dict[Any, Any] | None = None


class NumbaSequenceOps(SequenceOps):
    """The part of NumbaOps that serves sequences."""

    _crew: Crew
    _pool: Pool
    _kept: Kept

    @contextmanager
    def fixed(self) -> Iterator[None]:
        kept, outer = self._kept, self._kept.made
        kept.made = {} if outer is None else outer
        try:
            yield
        finally:
            kept.made = outer

    # ----- Layers -----

    def embedding_backward(self, dout: Array, cache: Cache) -> Array:
        tokens, shape = cache
        dtable = np.zeros(shape, dtype=dout.dtype)
        cpu_layers.add_rows(plain(dout), np.ascontiguousarray(tokens, dtype=np.int64), dtable)
        return dtable

    def norm_matmuls_forward(
        self, x: Array, scale: Array, bias: Array, kernels: Sequence[Array]
    ) -> tuple[list[Array], Cache]:
        if not fits(*kernels) or len({kernel.shape for kernel in kernels}) > 1:
            outs, cache = super().norm_matmuls_forward(x, scale, bias, kernels)
            return outs, (None, cache)
        x, scale, bias, kernels = plain(x), plain(scale), plain(bias), [plain(kernel) for kernel in kernels]
        outs = [self._empty((len(x), kernel.shape[1]), x) for kernel in kernels]
        self._rows(cpu_layers.norm_matmuls, x, scale, bias, self._panels(kernels), width(x), tuple(outs))
        return outs, (x, scale, bias, kernels)

    def norm_matmuls_backward(
        self, douts: Sequence[Array], cache: Cache, onto: Array | None = None
    ) -> tuple[Array, Array, Array, list[Array]]:
        if cache[0] is None:
            return super().norm_matmuls_backward(douts, cache[1], onto)
        x, scale, bias, kernels = cache
        dx, shape = self._empty(x.shape, x), kernels[0].shape
        parts = self._parts(x, (len(kernels), kernels[0].size), scale.shape, bias.shape)
        inputs = (
            tuple(plain(dout) for dout in douts),
            x,
            scale,
            bias,
            self._panels(kernels, turned=True),
            width(x),
        )
        self._groups(cpu_layers.norm_matmuls_backward, parts, x, *inputs, dx, *parts)
        dkernels, dscale, dbias = (self._sum(part) for part in parts)
        if onto is not None:
            dx += onto
        return dx, dscale, dbias, [dkernel.reshape(shape) for dkernel in dkernels]

    def matmul_add_forward(self, x: Array, rows: Array, kernel: Array) -> tuple[Array, Cache]:
        if not fits(kernel):
            out, cache = super().matmul_add_forward(x, rows, kernel)
            return out, (None, cache)
        x, rows, kernel = plain(x), plain(rows), plain(kernel)
        out = self._empty(x.shape, x)
        self._rows(cpu_layers.matmul_add, x, rows, self._panels([kernel])[0], width(x), out)
        return out, (rows, kernel)

    def matmul_add_backward(self, dout: Array, cache: Cache) -> tuple[Array, Array, Array]:
        if cache[0] is None:
            return super().matmul_add_backward(dout, cache[1])
        rows, kernel = cache
        drows, (dkernel,) = self._empty(rows.shape, rows), self._parts(rows, (kernel.size,))
        inputs = (plain(dout), rows, self._panels([kernel], turned=True)[0], width(rows))
        self._groups(cpu_layers.matmul_backward, [dkernel], rows, *inputs, drows, dkernel)
        return dout, drows, self._sum(dkernel).reshape(kernel.shape)

    def mlp_block_forward(
        self,
        x: Array,
        scale: Array,
        bias: Array,
        kernel_0: Array,
        bias_0: Array,
        kernel_1: Array,
        bias_1: Array,
    ) -> tuple[Array, Cache]:
        if not fits(kernel_0, kernel_1):
            out, cache = super().mlp_block_forward(x, scale, bias, kernel_0, bias_0, kernel_1, bias_1)
            return out, (None, cache)
        x, *params = map(plain, (x, scale, bias, kernel_0, bias_0, kernel_1, bias_1))
        scale, bias, kernel_0, bias_0, kernel_1, bias_1 = params
        hidden, out = self._empty((len(x), kernel_0.shape[1]), x), self._empty(x.shape, x)
        both = (self._panels([kernel_0])[0], bias_0, self._panels([kernel_1])[0], bias_1)
        self._rows(cpu_layers.mlp_block, x, scale, bias, *both, width(x), hidden, out)
        return out, (x, params, hidden)

    def mlp_block_backward(self, dout: Array, cache: Cache) -> tuple[Array, ...]:
        if cache[0] is None:
            return super().mlp_block_backward(dout, cache[1])
        x, params, hidden = cache
        scale, bias, kernel_0, _, kernel_1, _ = params
        dx, parts = self._empty(x.shape, x), self._parts(x, *((value.size,) for value in params))
        turned = (self._panels([kernel_0], turned=True)[0], self._panels([kernel_1], turned=True)[0])
        inputs = (plain(dout), x, scale, bias, hidden, *turned, width(x))
        self._groups(cpu_layers.mlp_block_backward, parts, x, *inputs, dx, *parts)
        return dx, *(self._sum(part).reshape(value.shape) for part, value in zip(parts, params, strict=True))

    # ----- Attention -----

    def attention_forward(
        self, query: Array, key: Array, value: Array, groups: Sequence[Group]
    ) -> tuple[Array, Cache]:
        if query.shape[2] % WIDTH or not groups:
            out, cache = super().attention_forward(query, key, value, groups)
            return out, (None, cache)
        query, key, value = plain(query), plain(key), plain(value)
        out, (starts, places) = self._empty(value.shape, value), sequences(groups, query.shape[1])
        weights = self._empty((int(places[-1]),), query)
        pointers = (product(query), cpu_output.decay(query.dtype.str))
        inputs = (query, key, value, starts, places, width(query))
        self._crew.run(cpu_attention.attention, len(starts) - 1, *pointers, *inputs, weights, out)
        return out, (query, key, value, starts, places, weights)

    def attention_backward(self, dout: Array, cache: Cache) -> tuple[Array, Array, Array]:
        if cache[0] is None:
            return super().attention_backward(dout, cache[1])
        query, key, value, starts, places, weights = cache
        grads = tuple(self._empty(part.shape, part) for part in (query, key, value))
        inputs = (product(query), plain(dout), query, key, value, starts, places, width(query), weights)
        self._crew.run(cpu_attention.attention_backward, len(starts) - 1, *inputs, *grads)
        return grads

    def cached_attention(self, query: Array, keys: Array, values: Array) -> Array:
        kept = whole(keys), whole(values)
        if kept[0] is None or kept[1] is None or kept[0].shape != kept[1].shape:
            return super().cached_attention(query, keys, values)
        out = np.empty(query.shape, query.dtype)
        pointers = cpu_matmul.matmul(query.dtype.str), cpu_output.decay(query.dtype.str)
        sizes = (keys.shape[2], ROWS)
        self._crew.run(cpu_attention.cached, -(-len(query) // ROWS), *pointers, plain(query), *kept, *sizes, out)
        return out

    # ----- The output -----

    def token_log_p_forward(self, x: Array, kernel: Array, bias: Array, targets: Array) -> tuple[Array, Cache]:
        if len(kernel) % WIDTH or kernel.size > LARGEST:
            out, cache = super().token_log_p_forward(x, kernel, bias, targets)
            return out, (None, cache)
        x, kernel, targets = plain(x), plain(kernel), np.ascontiguousarray(targets, dtype=np.int64)
        packed, longer = self._padded(kernel, plain(bias))
        weights = self._empty((len(x), len(longer)), x)
        total, out = np.empty((2, len(x)), x.dtype)
        inputs = (cpu_output.decay(x.dtype.str), x, packed, longer, targets, width(x))
        self._rows_of(cpu_output.token_log_p, x, *inputs, weights, total, out)
        return out, (x, kernel, targets, weights, total)

    def token_log_p_backward(self, dout: Array, cache: Cache) -> tuple[Array, Array, Array]:
        if cache[0] is None:
            return super().token_log_p_backward(dout, cache[1])
        x, kernel, targets, weights, total = cache
        (c, v), n = kernel.shape, weights.shape[1]
        dx, parts = self._empty(x.shape, x), self._parts(x, (c * n,), (n,))
        turned = self._empty((c * n,), x)
        cpu_output.pack_turned(kernel, width(x), n, turned)
        inputs = (plain(dout), x, turned, targets, weights, total, width(x))
        self._groups(cpu_output.token_log_p_backward, parts, x, *inputs, dx, *parts)
        dkernel, dbias = (self._sum(part) for part in parts)
        return dx, dkernel.reshape(c, n)[:, :v], dbias[:v]

    def next_token(self, x: Array, kernel: Array, bias: Array, uniform: Array) -> tuple[Array, Array]:
        if len(kernel) % WIDTH:
            return super().next_token(x, kernel, bias, uniform)
        x = plain(x)
        token, log_p = np.empty(len(x), np.int64), np.empty(len(x))
        packed = self._padded(plain(kernel), plain(bias))
        inputs = (cpu_output.choose(x.dtype.str), x, *packed, plain(uniform), kernel.shape[1], width(x))
        self._rows_of(cpu_output.next_token, x, *inputs, token, log_p)
        return token, log_p

    def draw_sequences(
        self, params: Params, config: TransformerConfig, uniform: Array, eos: int
    ) -> tuple[Array, Array, Array] | None:
        head, largest = config.qkv_dim // config.num_heads, max(value.size for value in params.values())
        if config.emb_dim % WIDTH or config.mlp_dim % WIDTH or head % WIDTH or largest > LARGEST:
            return None
        model, (size, length) = self._decoder(params, config), uniform.shape
        dtype = model.bias.dtype
        places = cpu_decoder.kept_places(length, dtype.itemsize)
        slots = cpu_decoder.slots(config.num_layers * 2 * places * config.qkv_dim * dtype.itemsize)
        sizes = (config.num_heads, width(model.bias), slots, places, config.vocab_size, eos)
        tokens, log_p, ended = np.zeros((size, length), np.int64), np.zeros(size), np.zeros(size, np.bool_)
        inputs = (cpu_decoder.pointers(dtype.str), model, *sizes, plain(uniform))
        self._crew.run(cpu_decoder.draw, size, *inputs, tokens, log_p, ended)
        return tokens, log_p, ended

    def _decoder(self, params: Params, config: TransformerConfig) -> cpu_decoder.Decoder:
        """The parameters as the compiled loop takes them."""
        layers = [layer_params(params, layer) for layer in range(config.num_layers)]
        wide, tall = (config.emb_dim, -1), (-1, config.emb_dim)

        def together(*names: str) -> Array:
            return np.array([[layer[name] for name in names] for layer in layers])

        def panels(shape: tuple[int, int], *names: str) -> Array:
            kernels = [[plain(layer[name].reshape(shape)) for name in names] for layer in layers]
            return np.array([[self._panels([kernel])[0] for kernel in row] for row in kernels])

        kernel, bias = self._padded(plain(params[f"{OUTPUT}/kernel"]), plain(params[f"{OUTPUT}/bias"]))
        return cpu_decoder.Decoder(
            plain(params[EMBEDDING]),
            positions(config.max_len, config.emb_dim).astype(bias.dtype),
            together(*(f"LayerNorm_{i}/{part}" for i in range(2) for part in ("scale", "bias"))),
            panels(wide, *(f"SelfAttention_0/{part}/kernel" for part in PROJECTIONS)),
            panels(tall, "SelfAttention_0/out/kernel")[:, 0],
            panels(wide, "MlpBlock_0/Dense_0/kernel")[:, 0],
            together("MlpBlock_0/Dense_0/bias")[:, 0],
            panels(tall, "MlpBlock_0/Dense_1/kernel")[:, 0],
            together("MlpBlock_0/Dense_1/bias")[:, 0],
            np.array([params[f"{NORM}/scale"], params[f"{NORM}/bias"]]),
            kernel,
            bias,
        )

    # ----- Pieces -----

    def _rows(self, function: Any, x: Array, *arguments: Any) -> None:
        """A function of x whose pieces are blocks of its rows."""
        self._rows_of(function, x, x, *arguments)

    def _rows_of(self, function: Any, x: Array, *arguments: Any) -> None:
        block = block_rows(len(x))
        self._crew.run(function, -(-len(x) // block), product(x), block, *arguments)

    def _groups(self, function: Any, parts: Sequence[Array], x: Array, *arguments: Any) -> None:
        """A function whose pieces are groups of blocks."""
        self._crew.run(function, len(parts[0]), product(x), *arguments)

    def _parts(self, x: Array, *shapes: tuple[int, ...]) -> list[Array]:
        """Room for gradients of these shapes, once a group of blocks of the rows of x."""
        groups = min(GROUPS, max(1, -(-len(x) // BLOCK)))
        return [self._empty((groups, *shape), x) for shape in shapes]

    def _sum(self, parts: Array) -> Array:
        """The groups' gradients added in their order."""
        out = self._empty(parts.shape[1:], parts)
        rows, flat = parts.reshape(len(parts), -1), out.reshape(-1)
        self._crew.run(cpu_layers.add_parts, -(-flat.size // CHUNK), rows, flat, CHUNK)
        return out

    def _panels(self, kernels: Sequence[Array], turned: bool = False) -> Array:
        """Kernels of one shape, or their transposes, in panels: (kernels, K N)."""
        key = (turned, *(place(kernel) for kernel in kernels))
        if self._kept.made is not None and key in self._kept.made:
            return self._kept.made[key][0]
        out = self._empty((len(kernels), kernels[0].size), kernels[0])
        for kernel, row in zip(kernels, out, strict=True):
            cpu_layers.pack_whole(kernel, turned, width(kernel), row)
        if self._kept.made is not None:
            self._kept.made[key] = out, kernels  # they stay alive, so that no other stands in their place
        return out

    def _padded(self, kernel: Array, bias: Array) -> tuple[Array, Array]:
        """Panels of the output's kernel, and its bias, with the vocabulary padded to whole vectors."""
        key, n = ("padded", place(kernel), place(bias)), len(bias) + -len(bias) % WIDTH
        if self._kept.made is not None and key in self._kept.made:
            panels, longer = self._kept.made[key][0]
            return panels, longer
        panels, longer = self._empty((len(kernel) * n,), kernel), self._empty((n,), kernel)
        cpu_output.pack(kernel, bias, width(kernel), panels, longer)
        if self._kept.made is not None:
            self._kept.made[key] = (panels, longer), (kernel, bias)
        return panels, longer

    def _empty(self, shape: tuple[int, ...], like: Array) -> Array:
        return self._pool.empty(shape, like.dtype)


def place(array: Array) -> tuple[Any, ...]:
    """What tells arrays apart that live at one time."""
    return array.__array_interface__["data"][0], array.shape, array.strides


def fits(*kernels: Array) -> bool:
    """Whether the compiled ops take kernels of these shapes."""
    return all(n % WIDTH == 0 for kernel in kernels for n in kernel.shape) and all(
        kernel.size <= LARGEST for kernel in kernels
    )


def block_rows(rows: int) -> int:
    """Rows of a block: whole tiles of 6, and four blocks where there are so many."""
    return min(BLOCK, 6 * max(1, -(-rows // 24)))


def whole(kept: Array) -> Array | None:
    """The array [N, H, ., D] of whose third axis kept is the beginning; None where it is no such part, or D is no
    multiple of WIDTH."""
    (n, heads, _, d), steps = kept.shape, [step // kept.itemsize for step in kept.strides]
    length = steps[1] // d
    if d % WIDTH or not kept.flags.writeable or steps != [heads * length * d, length * d, d, 1]:
        return None
    return np.lib.stride_tricks.as_strided(kept, (n, heads, length, d))


def width(x: Array) -> int:
    """Numbers of a panel's row."""
    return 2 * cpu_matmul.VECTOR // int(x.itemsize)


def product(x: Array) -> Any:
    return cpu_matmul.product(x.dtype.str)


def plain(array: Array) -> Array:
    """array as the compiled code takes it: contiguous and writeable; copied only where it is not."""
    if array.flags.c_contiguous and array.flags.writeable:
        return array
    return np.require(array, requirements=("C", "W"))


def sequences(groups: Sequence[Group], heads: int) -> tuple[Array, Array]:
    """starts (S + 1,): the first row of every sequence; places (S + 1,): where its heads' weights begin."""
    lengths = [
        np.full(group.count, group.length) if group.slots is None else np.bincount(group.slots // group.length)
        for group in groups
    ]
    length = np.concatenate(lengths).astype(np.int64)
    across = length + -length % WIDTH
    starts, places = np.zeros((2, len(length) + 1), np.int64)
    np.cumsum(length, out=starts[1:])
    np.cumsum(heads * length * across, out=places[1:])
    return starts, places
