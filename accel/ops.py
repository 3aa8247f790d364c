"""Every op with its hand-written gradient, once for all backends that look like NumPy.

`x_forward(...) -> out, cache` stands next to `x_backward(dout, cache) -> gradients`, in the order of the forward's
arguments. Each gradient line stands under the forward line that it inverts. A cache is private to its pair.
The dtype of the parameters decides: float32 for training, float64 for checks. No op changes its arguments,
`adam_step` excepted. Letters: n inputs, B comparisons in a batch, d input width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from accel import buffers
from accel.adam import Adam, average, unbiased
from accel.arrays import check_integer as check_integer
from accel.arrays import finite_array, plain_array, real_array
from accel.buffers import Array
from accel.losses import MarginLoss
from accel.sequence_ops import Cache, SequenceOps

Params = Mapping[str, Array]


@dataclass(frozen=True, eq=False)
class Pairs:
    """Comparisons of the points 0..n-1 of a support; from `Ops.pairs` or `Ops.pairs_of_wins`.

    x_a, x_b: integer indices (N,). y (N,): 1 where x_a was preferred. weight (N,): > 0, sums to 1.
    total: the sum of the weights as given.
    """

    n: int
    x_a: Array
    x_b: Array
    y: Array
    weight: Array
    total: float


class Ops(SequenceOps):
    """The ops in plain array code: the oracle of every faster backend, and what it falls back on."""

    name = "numpy"

    # ----- Layers -----

    def linear_forward(self, x: Array, kernel: Array, bias: Array) -> tuple[Array, Cache]:
        """x W + b: [..., in], [in, out], [out] -> [..., out], cache."""
        out = x @ kernel + bias
        return out, (x, kernel)

    def linear_backward(self, dout: Array, cache: Cache) -> tuple[Array, Array, Array]:
        """[..., out] -> dx [..., in], dkernel [in, out], dbias [out]."""
        x, kernel = cache
        rows, drows = x.reshape(-1, x.shape[-1]), dout.reshape(-1, dout.shape[-1])
        # forward: out = x @ kernel + bias
        dx, dkernel, dbias = dout @ kernel.T, rows.T @ drows, drows.sum(axis=0)
        return dx, dkernel, dbias

    def tanh_forward(self, x: Array) -> tuple[Array, Cache]:
        """[...] -> [...], cache."""
        out = self.xp.tanh(x)
        return out, out

    def tanh_backward(self, dout: Array, cache: Cache) -> Array:
        """[...] -> dx [...]."""
        out = cache
        # forward: out = tanh(x), whose derivative is 1 - out^2
        return dout * (1.0 - out * out)

    def log_sum_exp_forward(self, values: Array) -> tuple[Array, Cache]:
        """log sum_i e^values_i: (n,) -> (), cache. With values = log p + log measure: the log of the mass."""
        shift = values.max()
        weights = self.xp.exp(values - shift)
        total = weights.sum()
        out = self.xp.log(total) + shift
        return out, (weights, total)

    def log_sum_exp_backward(self, dout: Array, cache: Cache) -> Array:
        """() -> dvalues (n,)."""
        weights, total = cache
        # forward: out = log(sum(exp(values)))
        return dout * (weights / total)

    # ----- The network of the density experiments -----

    def mlp_forward(self, params: Params, x: Array) -> tuple[Array, Cache]:
        """x <- tanh(x) W + b, layer by layer, the first without tanh: x (n,) or (n, d) -> (n,), cache.

        params: Dense_0/kernel (d, out), Dense_0/bias (out,), Dense_1/..., in this order; the last has out = 1.
        Raises ValueError where params or x have other shapes.
        """
        rows = self.mlp_rows(params, x)
        caches = []
        for i in range(len(params) // 2):
            if i:
                rows, cache = self.tanh_forward(rows)
                caches.append(cache)
            rows, cache = self.linear_forward(rows, params[f"Dense_{i}/kernel"], params[f"Dense_{i}/bias"])
            caches.append(cache)
        return rows[:, 0], caches

    def mlp_backward(self, dout: Array, cache: Cache) -> dict[str, Array]:
        """(n,) -> grads: views of one flat buffer, keys in the order of params."""
        grads, drows = [], dout[:, None]
        for i in reversed(range(0, len(cache), 2)):
            # forward: rows = linear(tanh(rows)); the first layer has no tanh
            drows, dkernel, dbias = self.linear_backward(drows, cache[i])
            grads += [(f"Dense_{i // 2}/bias", dbias), (f"Dense_{i // 2}/kernel", dkernel)]
            if i:
                drows = self.tanh_backward(drows, cache[i - 1])
        return buffers.flatten(dict(reversed(grads)), self.xp)[1]

    def mlp_rows(self, params: Params, x: Array) -> Array:
        """x (n,) or (n, d) as rows (n, d) in the dtype of params; ValueError where params are no MLP for x."""
        widths = mlp_widths(params)
        x = self.xp.asarray(x, dtype=params["Dense_0/kernel"].dtype)
        if x.shape[1:] != (widths[0],) and not (x.ndim == 1 == widths[0]):
            also = " or (n,)" if widths[0] == 1 else ""
            raise ValueError(f"x must have shape (n, {widths[0]}){also}, got {x.shape}")
        return x.reshape(-1, widths[0])

    # ----- Comparisons -----

    def pairs(self, x_a: Array, x_b: Array, y: Array, weight: Array | None, n: int) -> Pairs:
        """Comparisons of the points 0..n-1 for `margin_loss`: (N,) each; equal ones (a, b, y) are merged.

        x_a, x_b: indices. y: 1 where x_a was preferred, 0 where x_b was, or the share between. weight: >= 0, not
        all 0; None: all 1. Raises ValueError for other shapes or values.
        """
        a, b, y, w = checked_pairs(x_a, x_b, y, weight, n)
        a, b, y, w = (value[w > 0] for value in (a.astype(np.intp), b.astype(np.intp), y, w))
        order = np.lexsort((y, a, (b - a) % n))  # neighbours share no point: no sum waits for the one before
        a, b, y, w = (value[order] for value in (a, b, y, w))
        first = np.flatnonzero(np.r_[True, (np.diff(a) != 0) | (np.diff(b) != 0) | (np.diff(y) != 0)])
        w, total = np.add.reduceat(w, first), float(w.sum())
        as_array = self.xp.asarray
        return Pairs(n, as_array(a[first]), as_array(b[first]), as_array(y[first]), as_array(w / total), total)

    def pairs_of_wins(self, wins: Array) -> Pairs:
        """The same from (n, n) wins, W_ij = how often i was preferred to j, an array or a SciPy sparse one.

        The diagonal says nothing: dropped. ValueError where wins are not square, finite, >= 0, or all 0 off the
        diagonal.
        """
        wins = wins.tocoo() if hasattr(wins, "tocoo") else finite_array("wins", wins)
        if len(wins.shape) != 2 or wins.shape[0] != wins.shape[1]:
            raise ValueError(f"wins must have shape (n, n), got {wins.shape}")
        x_a, x_b = (wins.row, wins.col) if hasattr(wins, "row") else np.nonzero(wins)
        count = wins.data if hasattr(wins, "row") else wins[x_a, x_b]
        apart = x_a != x_b
        return self.pairs(x_a[apart], x_b[apart], np.ones(int(apart.sum())), count[apart], wins.shape[0])

    def margin_loss(self, omega: Array, pairs: Pairs, loss: MarginLoss) -> tuple[Array, Array]:
        """sum_k weight_k loss(omega[a_k] - omega[b_k], y_k): (n,) -> (), domega (n,).

        Raises ValueError unless omega are floats of shape (pairs.n,).
        """
        check_omega(omega, pairs)
        weight = pairs.weight.astype(omega.dtype)
        margin = omega[pairs.x_a] - omega[pairs.x_b]
        values, slope = loss(margin, pairs.y.astype(omega.dtype))
        value = (weight * values).sum()
        # forward: value = sum(weight * loss(margin))
        dmargin = weight * slope
        # forward: margin = omega[x_a] - omega[x_b]
        domega = self.scatter(pairs.x_a, dmargin, pairs.n) - self.scatter(pairs.x_b, dmargin, pairs.n)
        return value, domega

    def mixture_loss(self, r: Array, log_w: Array, pairs: Pairs) -> tuple[Array, Array, Array]:
        """Cross-entropy of the choices of a mixture: (K, n), (K,) -> (), dr (K, n), dlog_w (K,). Appendix A.3.

        P(a > b) = sum_k w_k sigmoid(l_k), l_k = r_k[a] - r_k[b]; log P = LSE_k (log w_k + log sigmoid(l_k)):
        nothing underflows. Raises ValueError unless r (K, pairs.n) and log_w (K,) are floats of one dtype.
        """
        check_mixture(r, log_w, pairs)
        xp, y, weight = self.xp, pairs.y.astype(r.dtype), pairs.weight.astype(r.dtype)
        margin = xp.take(r, pairs.x_a, axis=1) - xp.take(r, pairs.x_b, axis=1)  # (K, N)
        decay = xp.exp(-xp.abs(margin))
        value, dlog_w, dmargin = 0.0, xp.zeros_like(log_w), xp.zeros_like(margin)
        for sign, chosen in ((1.0, weight * y), (-1.0, weight * (1.0 - y))):  # a was preferred, or b
            won_by = sign * margin
            # w sigmoid(l) = e^(log w + min(l, 0)) / (1 + e^-|l|)
            terms = log_w[:, None] + xp.minimum(won_by, 0.0)
            shift = terms.max(axis=0)
            terms = xp.exp(terms - shift) / (1.0 + decay)
            total = terms.sum(axis=0)
            value = value - chosen @ (shift + xp.log(total))
            # forward: value = value - sum(chosen * log(sum(w * sigmoid(won_by))))
            dlog = terms * (chosen / total)  # terms / total: whose choice it was, given the choice
            dlog_w -= dlog.sum(axis=1)
            # forward: log sigmoid(won_by), whose derivative is sigmoid(-won_by)
            dmargin -= sign * dlog * (xp.maximum(decay, won_by <= 0.0) / (1.0 + decay))
        # forward: margin = r[x_a] - r[x_b]
        rows = [self.scatter(pairs.x_a, row, pairs.n) - self.scatter(pairs.x_b, row, pairs.n) for row in dmargin]
        return value, xp.stack(rows), dlog_w

    def mlp_margin_step(
        self, params: Params, x_a: Array, x_b: Array, y: Array, loss: MarginLoss
    ) -> tuple[Array, dict[str, Array]]:
        """mean_k loss(mlp(x_a_k) - mlp(x_b_k), y_k): (B,) or (B, d), the same, (B,) -> (), grads.

        Both sides of every comparison go through the network: nothing is shared. grads as from `mlp_backward`.
        Raises ValueError for other shapes and for no comparison at all.
        """
        x, y = self.comparisons(params, x_a, x_b, y)
        omega, cache = self.mlp_forward(params, x)
        margin = omega[: len(y)] - omega[len(y) :]
        values, slope = loss(margin, y)
        value = values.mean()
        # forward: value = mean(loss(margin))
        dmargin = slope / len(y)
        # forward: margin = omega of x_a - omega of x_b
        domega = self.xp.concatenate([dmargin, -dmargin])
        return value, self.mlp_backward(domega, cache)

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
        """len(lr) times `mlp_margin_step` and `adam_step`, all on the same comparisons -> (len(lr),), each step's
        loss before its update. IN PLACE on params, which are views of one flat buffer, and on m and v.

        step: the number of the first of these steps; lr: a rate each. A backend may make them all in one call of
        compiled code, which Ctrl-C does not interrupt. Raises ValueError as those two do, and unless m and v are
        like the flat buffer.
        """
        flat = moments_checked(params, m, v)
        losses = self.xp.empty(len(lr), dtype=flat.dtype)
        for i, rate in enumerate(lr):
            losses[i], grads = self.mlp_margin_step(params, x_a, x_b, y, loss)
            self.adam_step(flat, buffers.flat_of(grads), m, v, step + i, rate, b1, b2, eps)
        return losses

    def comparisons(self, params: Params, x_a: Array, x_b: Array, y: Array) -> tuple[Array, Array]:
        """The rows of x_a above those of x_b, (2 B, d), and y (B,), checked and in the dtype of params."""
        a, b = self.mlp_rows(params, x_a), self.mlp_rows(params, x_b)
        y = self.xp.asarray(y, dtype=a.dtype)
        if not (len(a),) == (len(b),) == y.shape or len(a) == 0:
            raise ValueError(f"x_a, x_b, y must be of one length >= 1, got {len(a)}, {len(b)}, {y.shape}")
        return self.xp.concatenate([a, b]), y

    # ----- The optimiser -----

    def gradient_steps(
        self, gradient: Callable[[], tuple[Array, Array]], params: Array, m: Array, v: Array, adam: Adam
    ) -> Callable[[Sequence[float], int], Array] | None:
        """Steps of Adam whose launches are the same each time, in a form that costs the host less; or None.

        gradient() gives the loss and the flat gradient at params. The result takes a rate for each step and the
        number of the first (1, 2, ...); it gives their losses, float64, and changes params, m and v IN PLACE.
        """
        return None

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
        """Step number `step` (the first is 1) of Adam, IN PLACE on params, m and v; all flat, of equal size.

        params -= lr m^ / (sqrt(v^) + eps) with the bias-corrected m^, v^. Source: Kingma and Ba 2015; eps as in
        optax. Raises ValueError for step < 1.
        """
        if step < 1:
            raise ValueError(f"step must be >= 1, got {step}")
        average(m, grads, b1)
        average(v, grads * grads, b2)
        m_hat, v_hat = m / unbiased(b1, step), v / unbiased(b2, step)
        params -= lr * (m_hat / (self.xp.sqrt(v_hat) + eps))


def mlp_widths(params: Params) -> tuple[int, ...]:
    """(d, ..., 1) of the kernels' shapes; ValueError where params are no MLP with one output."""
    return _widths(tuple((name, value.shape) for name, value in params.items()))


@lru_cache(maxsize=64)
def _widths(shapes: tuple[tuple[str, tuple[int, ...]], ...]) -> tuple[int, ...]:
    if len(shapes) < 2 or len(shapes) % 2 or shapes[0][1] == () or shapes[-1][1] != (1,):
        raise ValueError(f"params must be layers of kernel and bias, the last with one output, got {dict(shapes)}")
    widths = [shapes[0][1][0]]
    for i, (name, shape) in enumerate(shapes):
        layer, part = divmod(i, 2)
        expected, size = f"Dense_{layer}/{'bias' if part else 'kernel'}", (widths[-1], *shape[1:])
        if name != expected or len(shape) != 2 - part or shape != size[: 2 - part]:
            raise ValueError(f"params must go on with {expected} of {widths[-1]} rows, got {name}, {shape}")
        if not part:
            widths.append(shape[1])
    return tuple(widths)


def checked_pairs(x_a: Any, x_b: Any, y: Any, weight: Any, n: int) -> tuple[NDArray[Any], ...]:
    """x_a, x_b, y and weight (None: all 1) as arrays, y and weight float64; ValueError as `check_pairs`, and
    where one is no plain array of real numbers."""
    check_integer("n", n, 1)
    a, b = plain_array("x_a", x_a), plain_array("x_b", x_b)
    y = np.asarray(real_array("y", y), dtype=np.float64)
    w = np.ones(a.shape) if weight is None else np.asarray(real_array("weight", weight), dtype=np.float64)
    check_pairs(a, b, y, w, n)
    return a, b, y, w


def check_pairs(x_a: Array, x_b: Array, y: Array, weight: Array, n: int) -> None:
    """ValueError unless x_a, x_b are indices below n, y in [0, 1] and weight >= 0, all of one shape (N,)."""
    if x_a.size == 0:
        raise ValueError("there are no comparisons: x_a is empty")
    for name, index in (("x_a", x_a), ("x_b", x_b)):
        if index.ndim != 1 or not np.issubdtype(index.dtype, np.integer):
            raise ValueError(f"{name} must be integers of shape (N,), got {index.dtype}, {index.shape}")
        if index.size and not (index.min() >= 0 and index.max() < n):
            raise ValueError(f"{name} must lie in 0..{n - 1}, got {index.min()}..{index.max()}")
    for name, value, top in (("y", y, 1.0), ("weight", weight, np.inf)):
        if value.shape != x_a.shape or x_b.shape != x_a.shape:
            raise ValueError(f"x_a, x_b, y, weight must have one shape, got {x_a.shape} and {value.shape}")
        if value.size and not (np.all(np.isfinite(value)) and value.min() >= 0 and value.max() <= top):
            raise ValueError(f"{name} must be finite in [0, {top:g}], got {value.min()}..{value.max()}")
    if not weight.sum() > 0:
        raise ValueError("weight must have a sum > 0, got no comparison or weights of 0 only")


def moments_checked(params: Params, m: Array, v: Array) -> Array:
    """The flat buffer of params; ValueError unless there is one, and m and v are contiguous and like it."""
    flat = buffers.flat_of(params)
    for name, value in (("m", m), ("v", v)):
        if value.shape != flat.shape or value.dtype != flat.dtype or not value.flags.c_contiguous:
            raise ValueError(
                f"{name} must be contiguous {flat.dtype} of shape {flat.shape}, got {value.dtype} of {value.shape}"
            )
    return flat


def check_omega(omega: Array, pairs: Pairs) -> None:
    """ValueError unless omega are floats of shape (pairs.n,)."""
    if omega.shape != (pairs.n,) or omega.dtype.kind != "f":
        raise ValueError(f"omega must be floats of shape ({pairs.n},), got {omega.dtype}, {omega.shape}")


def check_mixture(r: Array, log_w: Array, pairs: Pairs) -> None:
    """ValueError unless r are floats of shape (K, pairs.n) and log_w (K,) of its dtype, K >= 1."""
    if r.ndim != 2 or r.shape[1] != pairs.n or log_w.shape != r.shape[:1] or len(log_w) == 0:
        raise ValueError(
            f"r must have shape (K, {pairs.n}) and log_w (K,), K >= 1, got {r.shape} and {log_w.shape}"
        )
    if r.dtype.kind != "f" or log_w.dtype != r.dtype:
        raise ValueError(f"r and log_w must be floats of one dtype, got {r.dtype} and {log_w.dtype}")
