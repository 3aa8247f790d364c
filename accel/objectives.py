"""What is minimised: functions from the values on the support to the loss and its gradient there.

A model gives unnormalised log-densities r over n support points; an objective is called as
objective(ops, r, step) -> loss, dr. Comparisons are `Pairs` (from `Ops.pairs`, or `Ops.pairs_of_wins`: infinite
data), and losses are means over them. All but two objectives are one chain:

    log p = r - log Z      omega = f log p + g      loss = scale E[margin loss] - sum_x likelihood(x) log p(x)

Where f varies, a constant added to r changes the loss: the gradient flows through log Z. Where f is constant and
nothing else looks at log p, log Z cancels in every margin and is left out.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from accel.arrays import check_integer, check_number, check_positive, finite_array, real_array
from accel.buffers import Array
from accel.losses import MarginLoss, hinge, logistic, ranking, squared
from accel.models import LatentValues
from accel.ops import Ops, Pairs
from accel.philox import subkey

Values = NDArray[np.float64]


class Objective(Protocol):
    """What `train` asks of an objective."""

    @property
    def same_every_step(self) -> bool:
        """Whether a step is the same launches on the same arrays as the one before: it draws and sorts nothing."""

    def on(self, ops: Ops, dtype: str) -> Self:
        """The same objective with its arrays where ops computes, in that dtype."""

    def __call__(self, ops: Ops, values: Any, step: int) -> tuple[Array, Any]:
        """values -> loss (), gradient (as values). step numbers the draws of objectives that draw."""


@dataclass(frozen=True, eq=False)
class Draws:
    """A likelihood term of fresh draws: weight times the shares of `size` points drawn by mass, at each step.

    cumulative (n,): the mass up to each point and its own, float64. Step s draws with the key of (seed, s): a
    resumed run draws what an uninterrupted one does, and every backend the same.
    """

    cumulative: Array
    size: int
    weight: float
    seed: int = 0

    def on(self, ops: Ops) -> Draws:
        return replace(self, cumulative=ops.xp.asarray(self.cumulative))

    def shares(self, ops: Ops, step: int) -> Array:
        """(n,), where ops computes: weight times the share of each point among the draws of that step."""
        at = ops.uniform(subkey(self.seed, step), 1, self.size)[0] * self.cumulative[-1]
        index = ops.xp.searchsorted(self.cumulative, at, side="right")
        counts = ops.scatter(index, ops.xp.full(self.size, 1.0), len(self.cumulative))
        return counts * (self.weight / self.size)


@dataclass(frozen=True, eq=False)
class PreferenceObjective:
    """The chain above. Made by the functions below, one for each loss.

    f: > 0, a number or (n,). g: a number or (n,). likelihood: (n,) or Draws. log_measure: (n,) or None.
    """

    pairs: Pairs
    loss: MarginLoss
    f: float | Array = 1.0
    g: float | Array = 0.0
    scale: float = 1.0
    likelihood: Array | Draws | None = None
    log_measure: Array | None = None

    @property
    def same_every_step(self) -> bool:
        return not isinstance(self.likelihood, Draws)

    @property
    def needs_log_z(self) -> bool:
        """Whether log Z changes the loss."""
        return not isinstance(self.f, float) or self.likelihood is not None

    def on(self, ops: Ops, dtype: str) -> Self:
        def put(value: Array | Draws) -> Any:
            return value.on(ops) if isinstance(value, Draws) else ops.xp.asarray(value, dtype=dtype)

        arrays = {
            name: put(value)
            for name in ("f", "g", "likelihood", "log_measure")
            if (value := getattr(self, name)) is not None and not isinstance(value, float)
        }
        return replace(self, pairs=_pairs_on(self.pairs, ops, dtype), **arrays)

    def __call__(self, ops: Ops, values: Array, step: int) -> tuple[Array, Array]:
        _check_values(values, self.pairs.n)
        if not self.needs_log_z:
            loss, domega = ops.margin_loss(self.f * values + self.g, self.pairs, self.loss)
            return self.scale * loss, (self.scale * self.f) * domega
        log_mass = values if self.log_measure is None else values + self.log_measure
        log_z, cache = ops.log_sum_exp_forward(log_mass)
        log_p = values - log_z
        loss, domega = ops.margin_loss(self.f * log_p + self.g, self.pairs, self.loss)
        # forward: loss = scale * margin_loss(f * log_p + g)
        loss, dlog_p = self.scale * loss, (self.scale * self.f) * domega
        if self.likelihood is not None:
            likelihood = self.likelihood
            if isinstance(likelihood, Draws):
                likelihood = likelihood.shares(ops, step).astype(values.dtype)
            # forward: loss = loss - sum(likelihood * log_p)
            loss, dlog_p = loss - (likelihood * log_p).sum(), dlog_p - likelihood
        # forward: log_p = values - log_z
        return loss, dlog_p + ops.log_sum_exp_backward(-dlog_p.sum(), cache)


# ----- One function each -----


def pbde(pairs: Pairs, f: ArrayLike, g: ArrayLike, measure: ArrayLike | None = None) -> PreferenceObjective:
    """Eq. 7 with omega = f log p + g (Eq. 11): logistic cross-entropy; p is normalised against measure.

    f > 0 and g: numbers or (n,). measure: (n,) quadrature weights, or None: outcomes counted one by one.
    ValueError where f or measure is not > 0, anything is not finite, or shapes differ.
    """
    f, g = _positive("f", f, pairs.n), _finite("g", g, pairs.n)
    return PreferenceObjective(pairs, logistic, f, g, log_measure=_log_measure(measure, pairs.n))


def reward(pairs: Pairs) -> PreferenceObjective:
    """RLHF's reward model: omega = r, unnormalised; r = log p* + a constant (Theorem 1)."""
    return pbde(pairs, 1.0, 0.0)


def dpo(pairs: Pairs, beta: float, log_p_pre: ArrayLike) -> PreferenceObjective:
    """Eq. 15: omega = beta (log p - log p_pre). ValueError unless beta > 0."""
    beta = check_positive("beta", beta)
    return pbde(pairs, beta, _scaled(-beta, log_p_pre))


def geometric(pairs: Pairs, alpha: float, log_p_pre: ArrayLike) -> PreferenceObjective:
    """Eq. 19: omega = (1 / alpha) log p + (1 - 1 / alpha) log p_pre. ValueError unless alpha > 0."""
    alpha = check_positive("alpha", alpha)
    return pbde(pairs, 1 / alpha, _scaled(1 - 1 / alpha, log_p_pre))


def ipo(pairs: Pairs, tau: float, log_p_pre: ArrayLike) -> PreferenceObjective:
    """E (h - 1 / (2 tau))^2, h = log (p / p_pre) of the winner less that of the loser. Azar et al. 2023.

    As (1 / (2 tau))^2 E (2 tau h - 1)^2. ValueError unless tau > 0.
    """
    tau = check_positive("tau", tau)
    g = _finite("log_p_pre", _scaled(-2 * tau, log_p_pre), pairs.n)
    return PreferenceObjective(pairs, squared, 2 * tau, g, scale=1 / (4 * tau * tau))


def rso(pairs: Pairs, gamma: float, log_p_pre: ArrayLike) -> PreferenceObjective:
    """E max(0, 1 - gamma h), h as in `ipo`: the "hinge-norm" loss. Liu et al. 2023; "sigmoid-norm" is `dpo`.

    ValueError unless gamma > 0.
    """
    gamma = check_positive("gamma", gamma)
    g = _finite("log_p_pre", _scaled(-gamma, log_p_pre), pairs.n)
    return PreferenceObjective(pairs, hinge, gamma, g)


def slic_hf(
    pairs: Pairs,
    delta: float,
    weight: float,
    log_p_pre: ArrayLike,
    measure: ArrayLike | None = None,
    *,
    draws: int = 0,
    seed: int = 0,
) -> PreferenceObjective:
    """E max(0, delta - h) - weight E_pre[log p], h = log p of the winner less that of the loser. Zhao et al. 2023.

    weight: the paper's lambda. draws: 0 takes E_pre exactly over the support; else so many fresh draws a step.
    ValueError unless delta, weight, draws and seed are >= 0, and seed < 2^64.
    """
    check_integer("draws", draws, 0)
    check_integer("seed", seed, 0)
    if seed >= 1 << 64:
        raise ValueError(f"seed must be < 2^64, got {seed}")
    for name, value in (("delta", delta), ("weight", weight)):
        check_number(name, value)
    log_measure = _log_measure(measure, pairs.n)
    pre = np.asarray(_finite("log_p_pre", log_p_pre, pairs.n, array=True))
    mass = np.exp(pre if log_measure is None else pre + log_measure)
    if abs(mass.sum() - 1) > 1e-5:
        raise ValueError(f"log_p_pre must be normalised, got a mass of {mass.sum():.6g}; give its measure")
    likelihood = None
    if weight > 0:
        likelihood = Draws(np.cumsum(mass), draws, weight, seed) if draws else weight * mass
    if delta > 0:  # max(0, delta - h) = delta max(0, 1 - h / delta)
        return PreferenceObjective(pairs, hinge, 1 / delta, 0.0, delta, likelihood, log_measure)
    return PreferenceObjective(pairs, ranking, 1.0, 0.0, 1.0, likelihood, log_measure)


def rrhf(
    pairs: Pairs, lengths: ArrayLike, measure: ArrayLike | None = None, *, weight: float = 1.0
) -> PreferenceObjective:
    """E max(0, -h) - weight E[log p(winner)]; h = log p / |x| of the winner less that of the loser.

    Source: Yuan et al. 2023. lengths: > 0, a number or (n,). ValueError otherwise, or unless weight >= 0.
    """
    check_number("weight", weight)
    f = 1 / _positive("lengths", lengths, pairs.n)
    likelihood = weight * winner_shares(pairs) if weight > 0 else None
    return PreferenceObjective(pairs, ranking, f, 0.0, 1.0, likelihood, _log_measure(measure, pairs.n))


def winner_shares(pairs: Pairs) -> Values:
    """(n,): the share of comparisons that each point wins; they sum to 1."""
    x_a, x_b, y, weight = (_host(value) for value in (pairs.x_a, pairs.x_b, pairs.y, pairs.weight))
    won = np.bincount(x_a, weights=weight * y, minlength=pairs.n)
    return np.asarray(won + np.bincount(x_b, weights=weight * (1 - y), minlength=pairs.n))


# ----- The other two -----


@dataclass(frozen=True, eq=False)
class LatentMixtureObjective:
    """Marginal cross-entropy of a mixture of annotators (appendix A.3): P(a > b) = sum_k w_k sigmoid(l_k).

    l_k = r_k(a) - r_k(b), w = softmax(prior_logits). No Z enters: it cancels in every l_k.
    """

    pairs: Pairs
    same_every_step = False  # `Ops.mixture_loss` sorts

    def on(self, ops: Ops, dtype: str) -> Self:
        return replace(self, pairs=_pairs_on(self.pairs, ops, dtype))

    def __call__(self, ops: Ops, values: LatentValues, step: int) -> tuple[Array, LatentValues]:
        _check_values(values, self.pairs.n, latent=True)
        log_w = values.prior_logits - ops.log_sum_exp_forward(values.prior_logits)[0]
        loss, dr, dlog_w = ops.mixture_loss(values.r, log_w, self.pairs)
        # forward: log_w = prior_logits - LSE(prior_logits)
        return loss, LatentValues(dr, dlog_w - ops.xp.exp(log_w) * dlog_w.sum())


def latent_mixture(pairs: Pairs) -> LatentMixtureObjective:
    """The objective of `LatentMixture`: preferences of a mixture of Luce annotators, its weights learned."""
    return LatentMixtureObjective(pairs)


@dataclass(frozen=True, eq=False)
class Regression:
    """mean_x (r(x) - target(x))^2: pretraining, with target = log of the density to start from, (n,)."""

    target: Array
    same_every_step = True

    def __post_init__(self) -> None:
        if real_array("target", self.target).ndim != 1:
            raise ValueError(f"target must have shape (n,), got {np.shape(self.target)}")

    def on(self, ops: Ops, dtype: str) -> Self:
        return replace(self, target=ops.xp.asarray(self.target, dtype=dtype))

    def __call__(self, ops: Ops, values: Array, step: int) -> tuple[Array, Array]:
        _check_values(values, len(self.target))
        error = values - self.target
        # forward: loss = mean(error^2)
        return (error * error).sum() / len(error), error * (2.0 / len(error))


# ----- Pieces -----


def _check_values(values: Any, n: int, latent: bool = False) -> None:
    """ValueError unless a model gave the values of one density over n points, or of a latent mixture."""
    mixture = isinstance(values, LatentValues)
    shape = np.shape(values.r) if mixture else np.shape(values)
    if mixture != latent or shape[mixture:] != (n,):
        wanted, got = ("a LatentMixture" if kind else "one density" for kind in (latent, mixture))
        raise ValueError(f"the model must be {wanted} over {n} points, got {got} with values of shape {shape}")


def _pairs_on(pairs: Pairs, ops: Ops, dtype: str) -> Pairs:
    as_array = ops.xp.asarray
    return replace(
        pairs,
        x_a=as_array(pairs.x_a),
        x_b=as_array(pairs.x_b),
        y=as_array(pairs.y, dtype=dtype),
        weight=as_array(pairs.weight, dtype=dtype),
    )


def _host(array: Array) -> Array:
    return array.get() if hasattr(array, "get") else np.asarray(array)


def _finite(name: str, value: ArrayLike, n: int, *, array: bool = False) -> Any:
    """value as a float where it is one number (also n times the same one, unless array), else as (n,)."""
    values = finite_array(name, value)
    if values.shape not in ((), (n,)):
        raise ValueError(f"{name} must be a number or have shape ({n},), got {values.shape}")
    if array:
        return np.broadcast_to(values, (n,))
    return float(values.flat[0]) if np.all(values == values.flat[0]) else values


def _scaled(factor: float, log_p_pre: ArrayLike) -> Values:
    """factor log_p_pre; what overflows is refused with g."""
    with np.errstate(over="ignore"):
        return np.asarray(factor * finite_array("log_p_pre", log_p_pre))


def _positive(name: str, value: ArrayLike, n: int) -> Any:
    values = _finite(name, value, n)
    if not np.min(values) > 0:
        raise ValueError(f"{name} must be > 0, got {np.min(values)}")
    return values


def _log_measure(measure: ArrayLike | None, n: int) -> Values | None:
    if measure is None:
        return None
    values = _finite("measure", measure, n, array=True)
    if not values.min() > 0:
        raise ValueError(f"measure must be > 0, got {values.min()}")
    return np.asarray(np.log(values))
