"""Models of a density over n support points: parameters -> unnormalised log-densities r, and back.

`forward` gives values and a cache, `backward` takes the loss's gradient in the values and gives the flat gradient
in the parameters. A model knows nothing of preferences; an objective (accel/objectives.py) nothing of parameters.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, Protocol, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from accel import buffers
from accel.arrays import check_integer, check_number, finite_array, real_array
from accel.buffers import Array, Shapes
from accel.mlp import WIDTHS, mlp_init, mlp_shapes
from accel.ops import Ops, Params
from accel.sequence_ops import Cache

Density = NDArray[np.float64]


def distinct(x_a: ArrayLike, x_b: ArrayLike) -> tuple[NDArray[Any], NDArray[np.intp], NDArray[np.intp]]:
    """The distinct points of N comparisons, (n,) or (n, d), and the indices of x_a and x_b among them, (N,) each.

    A model over these points evaluates each of them once a step. ValueError where the shapes differ.
    """
    a, b = finite_array("x_a", x_a), finite_array("x_b", x_b)
    if a.shape != b.shape or a.ndim not in (1, 2):
        raise ValueError(f"x_a and x_b must have the same shape (N,) or (N, d), got {a.shape} and {b.shape}")
    x, index = np.unique(np.concatenate([a, b]), axis=0, return_inverse=True)
    return x, index.reshape(-1)[: len(a)], index.reshape(-1)[len(a) :]


class LatentValues(NamedTuple):
    """What a latent mixture gives: r (K, n), a row an annotator type, and the prior's logits (K,)."""

    r: Array
    prior_logits: Array


class Model(Protocol):
    """What `train` asks of a model."""

    @property
    def shapes(self) -> Shapes:
        """Name -> shape of the parameters, in the order of the flat buffer."""

    def init(self, rng: np.random.Generator) -> dict[str, Density]:
        """First parameters, float64."""

    def on(self, ops: Ops, dtype: str) -> Self:
        """The same model with its arrays where ops computes, in that dtype."""

    def forward(self, ops: Ops, params: Params) -> tuple[Any, Cache]:
        """params -> values, cache."""

    def backward(self, ops: Ops, dvalues: Any, cache: Cache) -> Array:
        """The gradient in the values -> the flat gradient in the parameters."""

    def log_p(self, values: Any, measure: ArrayLike | None = None) -> Density:
        """values (NumPy) -> (n,): the normalised log-density."""


@dataclass(frozen=True)
class Tabular:
    """One logit per support point: r = logits, (n,). The first are 0. ValueError unless n >= 1."""

    n: int

    def __post_init__(self) -> None:
        check_integer("n", self.n, 1)

    @property
    def shapes(self) -> Shapes:
        return {"logits": (self.n,)}

    def init(self, rng: np.random.Generator) -> dict[str, Density]:
        return {"logits": np.zeros(self.n)}

    def on(self, ops: Ops, dtype: str) -> Self:
        return self

    def forward(self, ops: Ops, params: Params) -> tuple[Array, Cache]:
        return params["logits"], None

    def backward(self, ops: Ops, dvalues: Array, cache: Cache) -> Array:
        return dvalues

    def log_p(self, values: Any, measure: ArrayLike | None = None) -> Density:
        return log_density(values, measure)


@dataclass(frozen=True, eq=False)
class MLP:
    """An energy network over the support points x, (n,) or (n, d): r = -E(x), (n,). Section 4.4, Table 1.

    widths: input, hidden layers, 1. Each point is evaluated once per step, whatever the number of comparisons.
    ValueError where x does not fit widths.
    """

    x: ArrayLike
    widths: Sequence[int] = WIDTHS

    def __post_init__(self) -> None:
        mlp_shapes(self.widths)
        shape = real_array("x", self.x).shape
        if not shape or shape[0] < 1 or (shape[1:] or (1,)) != (self.widths[0],):
            raise ValueError(f"x must have shape (n, {self.widths[0]}) with n >= 1, got {shape}")
        if not np.isfinite(self.x).all():
            raise ValueError("x must be finite, got NaN or an infinity")

    @property
    def shapes(self) -> Shapes:
        return mlp_shapes(self.widths)

    def init(self, rng: np.random.Generator) -> dict[str, Density]:
        return mlp_init(rng, self.widths)

    def on(self, ops: Ops, dtype: str) -> Self:
        placed = copy(self)  # what was checked on the host is not checked again
        object.__setattr__(placed, "x", ops.xp.asarray(self.x, dtype=dtype))
        return placed

    def forward(self, ops: Ops, params: Params) -> tuple[Array, Cache]:
        energy, cache = ops.mlp_forward(params, self.x)
        return -energy, cache

    def backward(self, ops: Ops, dvalues: Array, cache: Cache) -> Array:
        # forward: values = -energy
        return buffers.flat_of(ops.mlp_backward(-dvalues, cache))

    def log_p(self, values: Any, measure: ArrayLike | None = None) -> Density:
        return log_density(values, measure)


@dataclass(frozen=True, eq=False)
class LatentMixture:
    """K models of one kind and a learned prior over them: w = softmax(prior_logits) (appendix A.3).

    Parameters: component_0/..., component_1/..., then prior_logits (K,), which start at 0.
    p(x) = sum_k (w_k / Z_k) exp(r_k(x)). ValueError unless components >= 1.
    """

    component: Tabular | MLP
    components: int = 2
    _names: tuple[dict[str, str], ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        check_integer("components", self.components, 1)
        names = tuple(
            {name: f"component_{k}/{name}" for name in self.component.shapes} for k in range(self.components)
        )
        object.__setattr__(self, "_names", names)

    @property
    def shapes(self) -> Shapes:
        shapes = {own: self.component.shapes[name] for names in self._names for name, own in names.items()}
        return {**shapes, "prior_logits": (self.components,)}

    def init(self, rng: np.random.Generator) -> dict[str, Density]:
        return self._joined([self.component.init(rng) for _ in self._names])

    def init_near(
        self, params: Mapping[str, ArrayLike], rng: np.random.Generator, deviation: float = 1e-4
    ) -> dict[str, Density]:
        """Every component at the params of one (pretrained) model, plus N(0, deviation^2): enough to differ."""

        check_number("deviation", deviation)

        def near(name: str, value: ArrayLike) -> Density:
            first = finite_array(name, value, self.component.shapes.get(name))
            return first + deviation * rng.standard_normal(np.shape(value))

        return self._joined([{name: near(name, value) for name, value in params.items()} for _ in self._names])

    def on(self, ops: Ops, dtype: str) -> Self:
        return replace(self, component=self.component.on(ops, dtype))

    def forward(self, ops: Ops, params: Params) -> tuple[LatentValues, Cache]:
        rows, caches = [], []
        for names in self._names:
            row, cache = self.component.forward(ops, {name: params[own] for name, own in names.items()})
            rows.append(row)
            caches.append(cache)
        return LatentValues(ops.xp.stack(rows), params["prior_logits"]), caches

    def backward(self, ops: Ops, dvalues: LatentValues, cache: Cache) -> Array:
        grads = [self.component.backward(ops, dr, own) for dr, own in zip(dvalues.r, cache, strict=True)]
        return ops.xp.concatenate([*grads, dvalues.prior_logits])

    def log_p(self, values: Any, measure: ArrayLike | None = None) -> Density:
        log_w = log_density(values.prior_logits)
        return log_sum_exp(np.stack([w + log_density(r, measure) for w, r in zip(log_w, values.r, strict=True)]))

    def _joined(self, components: Sequence[Mapping[str, Density]]) -> dict[str, Density]:
        pairs = zip(self._names, components, strict=True)
        params = {own: part[name] for names, part in pairs for name, own in names.items()}
        return {**params, "prior_logits": np.zeros(self.components)}


def log_sum_exp(values: Density) -> Density:
    """log of the sum of e^values over the first axis, in float64."""
    shift = values.max(axis=0)
    return np.asarray(shift + np.log(np.exp(values - shift).sum(axis=0)))


def log_density(values: ArrayLike, measure: ArrayLike | None = None) -> Density:
    """(n,) -> (n,): r - log Z in float64, with Z = sum_x measure(x) e^r(x) (on a grid the trapezoid rule)."""
    r = finite_array("values", values)
    if r.ndim != 1 or r.size == 0:
        raise ValueError(f"values must have shape (n,) with n >= 1, got {r.shape}")
    if measure is None:
        return np.asarray(r - log_sum_exp(r))
    weights = finite_array("measure", measure, r.shape)
    if not weights.min() > 0:
        raise ValueError(f"measure must be > 0, got {weights.min()}")
    return np.asarray(r - log_sum_exp(r + np.log(weights)))
