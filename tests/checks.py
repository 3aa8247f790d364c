"""All tolerances of the tests, each with its reason."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike

CLOSED_FORM = 1e-12  # two routes to one formula in float64: some thousand roundings, relative to the largest value
SOLVED = 1e-10  # a certified optimum (1e-11 in omega) divided by f >= 0.1, in nats of log p
DERIVATIVE = 1e-10  # a hand-written backward against the complex step, both float64: the relative rule
TRAINED = 1e-6  # a tabular model that its gradient stopped, in nats of log p: what training promises
REFERENCE_SOLVER = 1e-9  # what a general quasi-Newton solver leaves in a loss, relative to it
FLOAT32_STORED = 1e-6  # a float64 number that was kept as float32: eps32 = 1.2e-7, relative
SATURATED = 1e-9  # log densities of a thousand nats: the margins themselves are rounded at 1e-13
MINIMUM = 1e-9  # a loss of hinges, relative to 1 + |loss|: duality gaps come down to 1e-13, HiGHS to 1e-10
MINIMISER = 1e-6  # log p of such a minimum: where the loss is smooth, a gap of 1e-13 moves it by the square root
BACKENDS = 1e-13  # two orders of summation in float64, up to some hundred terms, relative to the largest value
ADAM_FLOAT32 = 1e-6  # ten steps of Adam in float32, relative to the largest change: about eight roundings of each
TANH_ULP = 2.0  # the compiled float32 tanh: what its head comment promises
FOURIER = (
    1e-9  # sums of hundreds of nats over a grid whose every place a Fourier transform rounds at 1e-16 .. 1e-12
)
CHANCE = 1e-3  # the p-value below which samples of a fixed seed count as drawn from another law
FLAX_VALUE = 1e-5  # a float32 log-likelihood against Flax's, relative: both carry some hundred roundings (2^-24)
FLAX_GRADIENT = 1e-4  # and a gradient, relative to its tensor's largest: sums over all tokens, of both signs
EPS32 = 2.0**-23
EPS64 = 2.0**-52


def assert_close(actual: ArrayLike, expected: ArrayLike, tolerance: float, scale: float | None = None) -> None:
    """max |actual - expected| <= tolerance * scale; scale: by default 1 + max |expected|."""
    actual, expected = np.asarray(actual, dtype=np.float64), np.asarray(expected, dtype=np.float64)
    assert actual.shape == expected.shape, (actual.shape, expected.shape)
    allowed = tolerance * (1 + float(np.abs(expected).max()) if scale is None else scale)
    error = float(np.abs(actual - expected).max())
    assert np.isfinite(allowed), f"allowed {allowed}: an infinite tolerance checks nothing"
    assert error <= allowed, f"error {error:.3e}, allowed {allowed:.3e}"


def assert_derivative(grads: Mapping[str, ArrayLike], direction: Mapping[str, ArrayLike], exact: float) -> None:
    """|sum_i grad_i v_i - exact| <= DERIVATIVE * sum_i |grad_i v_i|, over all parameters."""
    assert grads.keys() == direction.keys(), (list(grads), list(direction))
    terms = np.concatenate([np.ravel(np.multiply(grads[name], direction[name])) for name in grads])
    error, allowed = abs(float(terms.sum()) - exact), DERIVATIVE * float(np.abs(terms).sum())
    assert np.isfinite(allowed), f"allowed {allowed}: an infinite tolerance checks nothing"
    assert error <= allowed, f"derivative {terms.sum():.15e}, exactly {exact:.15e}, allowed {allowed:.3e}"


def assert_float32(fast: ArrayLike, plain: ArrayLike, exact: ArrayLike, scale: float | None = None) -> None:
    """The error of fast is at most twice that of plain (both float32) plus 4 roundings of scale.

    scale: the size of the terms that were added; by default the largest of exact.
    """
    fast, plain, exact = (np.asarray(value, dtype=np.float64) for value in (fast, plain, exact))
    assert fast.shape == exact.shape, (fast.shape, exact.shape)
    error, honest = np.abs(fast - exact).max(initial=0.0), np.abs(plain - exact).max(initial=0.0)
    allowed = 2 * honest + 4 * EPS32 * (np.abs(exact).max(initial=0.0) if scale is None else scale)
    assert np.isfinite(allowed), f"allowed {allowed}: an infinite tolerance checks nothing"
    assert error <= allowed, f"error {error:.3e}, allowed {allowed:.3e}"
