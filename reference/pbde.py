"""Preference behavior distribution equations: Omega(x) = f(x) log p(x) + g(x), and back (Eq. 11)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import logsumexp, softmax

from reference.arrays import Array as Array
from reference.arrays import finite_array as finite_array
from reference.arrays import finite_vector, in_range
from reference.arrays import positive as positive

NEWTON_LIMIT = 600  # steps to a normaliser: as many as float64 spans decades
ANCHORS = 10  # outcomes that are tried as the one with all the mass
MASS_TOLERANCE = 1e-6  # a log total mass further from 0 than this is a mistake, not rounding


def log_weights(measure: ArrayLike | None, n: int) -> Array:
    """log of the quadrature weights of n support points: 0 for outcomes that are counted one by one."""
    if measure is None:
        return np.zeros(n)
    weights = finite_array("measure", measure, (n,))
    if not (weights > 0).all():
        raise ValueError(f"measure must be > 0, got {weights.min()}")
    return np.log(weights)


def log_mass(log_p: Array, measure: ArrayLike | None = None) -> float:
    """log sum_x measure(x) p(x), for log_p of shape (n,): 0 for a normalised density."""
    return float(logsumexp(log_p + log_weights(measure, len(log_p))))


def normalize(log_p: ArrayLike, measure: ArrayLike | None = None) -> Array:
    """(n,) -> (n,): log_p less its log total mass, so that sum_x measure(x) p(x) = 1."""
    array = finite_vector("log_p", log_p)
    with np.errstate(over="ignore"):
        return in_range("the normalised log_p", array - log_mass(array, measure))


def check_normalized(name: str, log_p: ArrayLike, measure: ArrayLike | None = None) -> Array:
    """(n,) -> (n,): log_p normalised to the last digit; ValueError where it was not within 1e-6 of it."""
    array = finite_vector(name, log_p)
    mass = log_mass(array, measure)
    if abs(mass) > MASS_TOLERANCE:
        against = "its sum" if measure is None else "its integral against measure"
        raise ValueError(
            f"{name} must be normalised: the log of {against} is {mass:.6g}, not 0; "
            "subtract it (reference.pbde.normalize does), or pass the measure it is normalised against"
        )
    return array - mass


@dataclass(frozen=True, eq=False)
class PBDE:
    """Omega(x) = f(x) log p(x) + g(x), f > 0 (Eq. 11); preferences are sigmoid(Omega(x_a) - Omega(x_b)).

    f, g: scalars or arrays of shape (n,). ValueError where f is not > 0 or anything is not finite.
    """

    f: ArrayLike
    g: ArrayLike

    def __post_init__(self) -> None:
        for name in ("f", "g"):
            array = finite_array(name, getattr(self, name))
            if array.ndim > 1:
                raise ValueError(f"{name} must be a scalar or have shape (n,), got shape {array.shape}")
            object.__setattr__(self, name, array)
        if not (np.asarray(self.f) > 0).all():
            raise ValueError(f"f must be > 0 everywhere, got {np.min(self.f)}")
        try:
            np.broadcast_shapes(np.shape(self.f), np.shape(self.g))
        except ValueError:
            raise ValueError(f"f and g must match, got {np.shape(self.f)} and {np.shape(self.g)}") from None

    @classmethod
    def luce(cls) -> PBDE:
        """The Luce choice rule, Eq. 9: f = 1, g = 0."""
        return cls(1.0, 0.0)

    @classmethod
    def length_normalized(cls, lengths: ArrayLike, scale: float = 1.0) -> PBDE:
        """Eq. 12: f = scale / |x|, g = 0, for lengths > 0 of shape (n,)."""
        array = finite_array("lengths", lengths)
        if not (array > 0).all():
            raise ValueError(f"lengths must be > 0, got {array.min()}")
        with np.errstate(over="ignore"):  # f is then refused
            return cls(positive("scale", scale) / array, 0.0)

    @classmethod
    def dpo(cls, beta: float, log_p_pre: ArrayLike) -> PBDE:
        """Eq. 16: f = beta > 0, g = -beta log p_pre."""
        beta, pre = positive("beta", beta), finite_array("log_p_pre", log_p_pre)
        with np.errstate(over="ignore"):  # g is then refused
            return cls(beta, -beta * pre)

    @classmethod
    def geometric(cls, alpha: float, log_p_pre: ArrayLike) -> PBDE:
        """Eq. 19: f = 1 / alpha, g = (1 - 1 / alpha) log p_pre, alpha > 0 (a weighted mean for alpha <= 1).

        Its limit is a large alpha: g is rounded by eps |log p_pre| / 2, eps = 2.2e-16, and so is omega - g, which
        log_p multiplies by alpha. Where log p_pre reaches -1,000, alpha = 1e6 leaves an error of 1e-7 nats.
        """
        alpha, pre = positive("alpha", alpha), finite_array("log_p_pre", log_p_pre)
        with np.errstate(over="ignore", invalid="ignore"):  # f or g is then refused
            return cls(1 / alpha, (1 - 1 / alpha) * pre)

    def over(self, n: int) -> tuple[Array, Array]:
        """f and g as arrays of shape (n,); ValueError where they belong to another support."""
        for name, array in (("f", np.asarray(self.f)), ("g", np.asarray(self.g))):
            if array.shape not in ((), (1,), (n,)):
                raise ValueError(f"{name} has shape {array.shape}, the support has {n} points")
        return np.broadcast_to(self.f, (n,)), np.broadcast_to(self.g, (n,))

    def omega(self, log_p: ArrayLike) -> Array:
        """(n,) -> (n,): Omega of Eq. 11."""
        array = finite_vector("log_p", log_p)
        f, g = self.over(len(array))
        with np.errstate(over="ignore", invalid="ignore"):
            return in_range("omega", f * array + g)

    def log_p(self, omega: ArrayLike, measure: ArrayLike | None = None) -> Array:
        """(n,) -> (n,): THE normalised log_p with self.omega(log_p) = omega + C for some constant C."""
        array = finite_vector("omega", omega)
        f, g = self.over(len(array))
        log_measure = log_weights(measure, len(array))
        with np.errstate(over="ignore", invalid="ignore"):
            return in_range("log_p", _normalized(array - g, f, log_measure) - log_measure)


def _normalized(x: Array, f: Array, log_measure: Array) -> Array:
    """(n,): z_i = (x_i + C) / f_i + log m_i, with the one C of sum_i e^z_i = 1, however many decades f spans.

    A C in float64 is off by more than a small f_i, and e^z_i with it. So C is counted from the anchor k, the
    outcome that would have all the mass: C = D - x_k - f_k log m_k, and z_i = y_i + D / f_i, with y the z at D = 0
    and y_k = 0 its maximum. Where x_i - x_k is lost in rounding, the anchor is where y is largest.
    """
    k = int(np.argmax(x + f * log_measure))
    for _ in range(ANCHORS):
        y = (x - x[k] - f[k] * log_measure[k]) / f + log_measure
        y[k] = 0.0
        if int(np.argmax(y)) == k:
            break
        k = int(np.argmax(y))
    return np.asarray(y + _normalizing_constant(y, f) / f)


def _normalizing_constant(y: Array, f: Array) -> float:
    """The root D <= 0 of h(D) = log sum_i exp(y_i + D / f_i), where max y = 0; h is convex and increasing.

    h(0) lies in [0, log n]: Newton from there comes down to the root and never passes it. h h' falls by 4 a step:
    in float64, whose numbers span some 600 decades, so many steps are more than any f needs.
    """
    constant = 0.0
    for _ in range(NEWTON_LIMIT):
        z = y + constant / f
        lower = constant - float(logsumexp(z)) / float(softmax(z) @ (1 / f))
        if not lower < constant:
            break
        constant = lower
    return constant
