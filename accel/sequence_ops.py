"""The ops of the Transformer, each with its hand-written gradient, in the form of `accel/ops.py`.

Sequences come packed (`accel/packing.py`): one row a token that is not padding, so that no op but attention knows
of sequences. Letters: R rows, C channels, H heads, D channels of a head, V vocabulary, T positions.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal, get_args

import numpy as np

from accel import philox
from accel.buffers import Array
from accel.packing import Group
from accel.transformer_params import Params, TransformerConfig

Cache = Any
Precision = Literal["float32", "tf32", "bfloat16"]  # what the float32 factors of `product` are rounded to
PRECISIONS = get_args(Precision)

EPS = 1e-6  # of the layer norm; Flax's


class SequenceOps:
    """The pairs in plain array code, for every backend that looks like NumPy."""

    xp: Any = np

    @contextmanager
    def fixed(self) -> Iterator[None]:
        """Inside it no parameter changes: a backend may keep what it makes of kernels until the end."""
        yield

    # ----- Layers -----

    def product(self, a: Array, b: Array) -> Array:
        """a b, of the layers: [R, K], [K, N] -> [R, N]. A backend may compute it in another arithmetic."""
        return a @ b

    def matmul_forward(self, x: Array, kernel: Array) -> tuple[Array, Cache]:
        """x W, a linear layer without bias: [R, in], [in, out] -> [R, out], cache."""
        return self.product(x, kernel), (x, kernel)

    def matmul_backward(self, dout: Array, cache: Cache) -> tuple[Array, Array]:
        """[R, out] -> dx [R, in], dkernel [in, out]."""
        x, kernel = cache
        # forward: out = x @ kernel
        return self.product(dout, kernel.T), self.product(x.T, dout)

    def bias_relu_forward(self, x: Array, bias: Array) -> tuple[Array, Cache]:
        """max(x + b, 0): [R, C], [C] -> [R, C], cache."""
        out = x + bias
        self.xp.maximum(out, 0.0, out=out)
        return out, out

    def bias_relu_backward(self, dout: Array, cache: Cache) -> tuple[Array, Array]:
        """[R, C] -> dx [R, C], dbias [C]. At the kink the slope is 0."""
        out = cache
        # forward: out = max(x + bias, 0)
        dx = dout * (out > 0.0)
        return dx, dx.sum(axis=0)

    def layer_norm_forward(self, x: Array, scale: Array, bias: Array) -> tuple[Array, Cache]:
        """scale (x - mean) / sqrt(var + 1e-6) + bias: [R, C], [C], [C] -> [R, C], cache. Ba et al. 2016."""
        norm = x - x.mean(axis=1, keepdims=True)
        var = self.xp.einsum("rc,rc->r", norm, norm)[:, None] / x.shape[1]
        rstd = 1.0 / self.xp.sqrt(var + EPS)
        norm *= rstd
        out = norm * scale
        out += bias
        return out, (norm, rstd, scale)

    def layer_norm_backward(
        self, dout: Array, cache: Cache, onto: Array | None = None
    ) -> tuple[Array, Array, Array]:
        """[R, C] -> dx [R, C], dscale [C], dbias [C]. onto [R, C] is added to dx: what reaches x on other ways."""
        norm, rstd, scale = cache
        # forward: out = norm * scale + bias
        dnorm, dscale, dbias = dout * scale, self.xp.einsum("rc,rc->c", dout, norm), dout.sum(axis=0)
        # forward: norm = (x - mean) * rstd, where mean and rstd depend on x too
        slope = self.xp.einsum("rc,rc->r", dnorm, norm)[:, None] / norm.shape[1]
        dx = dnorm - dnorm.mean(axis=1, keepdims=True)
        dx -= norm * slope
        dx *= rstd
        return dx if onto is None else dx + onto, dscale, dbias

    def embedding_forward(self, table: Array, tokens: Array) -> tuple[Array, Cache]:
        """The rows of a table: [V, C], tokens [R] -> [R, C], cache."""
        out = table[tokens]
        return out, (tokens, table.shape)

    def embedding_backward(self, dout: Array, cache: Cache) -> Array:
        """[R, C] -> dtable [V, C]."""
        tokens, shape = cache
        dtable = self.xp.zeros(shape, dtype=dout.dtype)
        # forward: out = table[tokens]; a token may stand in many rows
        self.xp.add.at(dtable, tokens, dout)
        return dtable

    # ----- Sums -----

    def residual(self, x: Array, rows: Array, bias: Array) -> Array:
        """x + rows + bias: 2 [R, C], [C] -> [R, C]."""
        return x + rows + bias

    def column_sums(self, x: Array) -> Array:
        """[R, C] -> [C]."""
        return x.sum(axis=0)

    def scatter(self, index: Array, values: Array, n: int) -> Array:
        """(n,): [i] = the sum of values where index is i, added in a fixed order, in float64."""
        return self.xp.bincount(index, weights=values, minlength=n).astype(values.dtype)

    # ----- Parts of a layer: composed here; a backend may make each in one pass over the rows -----

    def norm_matmuls_forward(
        self, x: Array, scale: Array, bias: Array, kernels: Sequence[Array]
    ) -> tuple[list[Array], Cache]:
        """norm(x) W for every W: [R, C], [C], [C], each [C, N] -> each [R, N], cache."""
        normed, norm = self.layer_norm_forward(x, scale, bias)
        outs, products = zip(*(self.matmul_forward(normed, kernel) for kernel in kernels), strict=True)
        return list(outs), (norm, products)

    def norm_matmuls_backward(
        self, douts: Sequence[Array], cache: Cache, onto: Array | None = None
    ) -> tuple[Array, Array, Array, list[Array]]:
        """Each [R, N] -> dx [R, C], onto added, dscale [C], dbias [C], dkernels, each [C, N]."""
        norm, products = cache
        # forward: outs = normed @ kernels
        parts = [self.matmul_backward(dout, product) for dout, product in zip(douts, products, strict=True)]
        dnormed = parts[0][0]
        for drows, _ in parts[1:]:
            dnormed = dnormed + drows
        # forward: normed = norm(x)
        return *self.layer_norm_backward(dnormed, norm, onto), [dkernel for _, dkernel in parts]

    def matmul_add_forward(self, x: Array, rows: Array, kernel: Array) -> tuple[Array, Cache]:
        """x + rows W: [R, C], [R, K], [K, C] -> [R, C], cache."""
        out, cache = self.matmul_forward(rows, kernel)
        return x + out, cache

    def matmul_add_backward(self, dout: Array, cache: Cache) -> tuple[Array, Array, Array]:
        """[R, C] -> dx [R, C], which is dout itself, drows [R, K], dkernel [K, C]."""
        # forward: out = x + rows @ kernel
        return dout, *self.matmul_backward(dout, cache)

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
        """x + relu(norm(x) W_0 + b_0) W_1 + b_1: [R, C], [C], [C], [C, M], [M], [M, C], [C] -> [R, C], cache."""
        normed, norm = self.layer_norm_forward(x, scale, bias)
        hidden, dense_0 = self.matmul_forward(normed, kernel_0)
        hidden, relu = self.bias_relu_forward(hidden, bias_0)
        rows, dense_1 = self.matmul_forward(hidden, kernel_1)
        return self.residual(x, rows, bias_1), (norm, dense_0, relu, dense_1)

    def mlp_block_backward(self, dout: Array, cache: Cache) -> tuple[Array, ...]:
        """[R, C] -> dx, dscale, dbias, dkernel_0, dbias_0, dkernel_1, dbias_1."""
        norm, dense_0, relu, dense_1 = cache
        # forward: out = x + hidden @ kernel_1 + bias_1
        dhidden, dkernel_1 = self.matmul_backward(dout, dense_1)
        # forward: hidden = relu(normed @ kernel_0 + bias_0)
        dhidden, dbias_0 = self.bias_relu_backward(dhidden, relu)
        dnormed, dkernel_0 = self.matmul_backward(dhidden, dense_0)
        # forward: normed = norm(x)
        dx, dscale, dbias = self.layer_norm_backward(dnormed, norm, dout)
        return dx, dscale, dbias, dkernel_0, dbias_0, dkernel_1, self.column_sums(dout)

    # ----- Attention -----

    def attention_forward(
        self, query: Array, key: Array, value: Array, groups: Sequence[Group]
    ) -> tuple[Array, Cache]:
        """softmax(Q K^T / sqrt(D)) V over the rows of a token's sequence up to its own: 3 [R, H, D] -> [R, H, D].

        Sequences of about one length are one block [N, H, T, D]; what a block pads stands after the last token
        of its sequence, where no query that counts can see it.
        """
        out, caches = self.xp.empty_like(value), []
        for group in groups:
            q, k, v = (self.pad(part, group) for part in (query, key, value))
            q = q * (1.0 / math.sqrt(query.shape[2]))
            weights = q @ k.swapaxes(2, 3)
            self.causal_softmax(weights)
            block = weights @ v
            out[group.start : group.stop] = self.unpad(block, group)
            caches.append((q, k, v, weights))
        return out, (caches, groups)

    def attention_backward(self, dout: Array, cache: Cache) -> tuple[Array, Array, Array]:
        """[R, H, D] -> dquery, dkey, dvalue, each [R, H, D]."""
        caches, groups = cache
        dquery, dkey, dvalue = (self.xp.empty_like(dout) for _ in range(3))
        for group, (q, k, v, weights) in zip(groups, caches, strict=True):
            dblock, rows = self.pad(dout, group), slice(group.start, group.stop)
            # forward: block = weights @ v
            dweights, dv = dblock @ v.swapaxes(2, 3), weights.swapaxes(2, 3) @ dblock
            # forward: weights = softmax(scores)
            dscores = dweights
            self.causal_softmax_backward(dscores, weights)
            # forward: scores = q @ k^T
            dq, dk = dscores @ k, dscores.swapaxes(2, 3) @ q
            # forward: q = query / sqrt(D)
            dq *= 1.0 / math.sqrt(dout.shape[2])
            dquery[rows], dkey[rows], dvalue[rows] = (self.unpad(part, group) for part in (dq, dk, dv))
        return dquery, dkey, dvalue

    def causal_softmax(self, scores: Array) -> None:
        """The softmax of [N, H, T, T] over the last axis up to the diagonal, 0 beyond. IN PLACE."""
        length, xp = scores.shape[3], self.xp
        scores += xp.triu(xp.full((length, length), -math.inf, dtype=scores.dtype), 1)
        scores -= scores.max(axis=3, keepdims=True)
        xp.exp(scores, out=scores)
        scores /= scores.sum(axis=3, keepdims=True)

    def causal_softmax_backward(self, dweights: Array, weights: Array) -> None:
        """dweights becomes dscores, [N, H, T, T]. IN PLACE. Of a row with one weight, 1, it is exactly 0."""
        dweights -= (weights * dweights).sum(axis=3, keepdims=True)
        dweights *= weights

    def pad(self, rows: Array, group: Group) -> Array:
        """The group's rows of [R, H, D] as a block [N, H, T, D], 0 where a sequence is shorter than T."""
        rows, shape = rows[group.start : group.stop], (group.count, group.length, *rows.shape[1:])
        if group.slots is None:
            return rows.reshape(shape).swapaxes(1, 2)
        block = self.xp.zeros((group.count * group.length, *rows.shape[1:]), dtype=rows.dtype)
        block[group.slots] = rows
        return block.reshape(shape).swapaxes(1, 2)

    def unpad(self, block: Array, group: Group) -> Array:
        """The rows [., H, D] of a block [N, H, T, D], without what `pad` added."""
        rows = block.swapaxes(1, 2).reshape(-1, block.shape[1], block.shape[3])
        return rows if group.slots is None else rows[group.slots]

    def cached_attention(self, query: Array, keys: Array, values: Array) -> Array:
        """The last position's attention, all positions being its past: [N, H, D], 2 [N, H, T, D] -> [N, H, D]."""
        query = query * (1.0 / math.sqrt(query.shape[2]))
        weights = query[:, :, None] @ keys.swapaxes(2, 3)
        weights -= weights.max(axis=3, keepdims=True)
        self.xp.exp(weights, out=weights)
        weights /= weights.sum(axis=3, keepdims=True)
        return (weights @ values)[:, :, 0]

    # ----- The output -----

    def token_log_p_forward(self, x: Array, kernel: Array, bias: Array, targets: Array) -> tuple[Array, Cache]:
        """log softmax(x W + b)[target] of every row: [R, C], [C, V], [V], [R] -> [R], cache of R V numbers."""
        logits = self.product(x, kernel)
        logits += bias
        logits -= logits.max(axis=1, keepdims=True)
        picked = logits[self.xp.arange(len(x)), targets]
        weights = self.xp.exp(logits, out=logits)
        total = weights.sum(axis=1)
        return picked - self.xp.log(total), (x, kernel, targets, weights, total)

    def token_log_p_backward(self, dout: Array, cache: Cache) -> tuple[Array, Array, Array]:
        """[R] -> dx [R, C], dkernel [C, V], dbias [V]."""
        x, kernel, targets, weights, total = cache
        # forward: out = logits[target] - log(sum(exp(logits)))
        dlogits = weights * (-dout / total)[:, None]
        dlogits[self.xp.arange(len(x)), targets] += dout
        # forward: logits = x @ kernel + bias
        return self.product(dlogits, kernel.T), self.product(x.T, dlogits), dlogits.sum(axis=0)

    # ----- Drawing -----

    def uniform(self, key: int, size: int, length: int) -> Array:
        """(size, length), float64: numbers in [0, 1), the same bits on every backend. `accel/philox.py`.

        Raises ValueError unless 0 <= key < 2^64.
        """
        return philox.uniform(key, size, length)

    def next_token(self, x: Array, kernel: Array, bias: Array, uniform: Array) -> tuple[Array, Array]:
        """The token v where the cumulated softmax of x W + b passes uniform, and its log-probability.

        [R, C], [C, V], [V], uniform [R] in [0, 1) -> [R], integers, and [R], float64.
        """
        logits = self.product(x, kernel)
        logits += bias
        logits -= logits.max(axis=1, keepdims=True)
        cumulative = self.xp.cumsum(self.xp.exp(logits), axis=1, dtype=np.float64)
        total = cumulative[:, -1]
        passed = (cumulative <= (uniform * total)[:, None]).sum(axis=1)
        token = self.xp.minimum(passed, logits.shape[1] - 1)  # uniform * total may round up to total
        return token, logits[self.xp.arange(len(token)), token] - self.xp.log(total)

    def draw_sequences(
        self, params: Params, config: TransformerConfig, uniform: Array, eos: int
    ) -> tuple[Array, Array, Array] | None:
        """As `accel.sampling.draw` describes it, with the numbers of `uniform` (size, max_length): where a backend
        has a way of its own. None: token by token, by the ops above."""
        return None
