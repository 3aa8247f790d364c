"""Extremes of float64: what comes out of a public call is finite, or the call raises one of its errors."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from reference import (
    PBDE,
    Annotator,
    Comparisons,
    NotConvergedError,
    covariance,
    methods,
    optimum,
    targets,
    win_matrix,
)
from reference import markov_chains as choices
from reference import policy_gradient as policies
from reference.inference.covariance import contrast_variances, sandwich
from reference.inference.fit import Fit, fit
from reference.pbde import normalize
from tests.checks import CLOSED_FORM, EPS64, SOLVED, assert_close, assert_derivative

LUCE = PBDE.luce()


def finite(value: Any, of_nothing: bool = False) -> None:
    """Every number of a result and of its fields is finite; of_nothing: or -inf, the log of no mass."""
    if isinstance(value, float | np.ndarray):
        array = np.asarray(value, dtype=np.float64)
        assert (np.isfinite(array) | (of_nothing & (array == -np.inf))).all(), value
    elif isinstance(value, tuple):
        for part in value:
            finite(part, of_nothing)
    elif hasattr(value, "__dict__"):
        for name, part in vars(value).items():
            if not (isinstance(value, Fit) and name == "contrasts"):  # NaN says that it is lost in rounding
                finite(part, of_nothing)


def refused_or_finite(call: Callable[[], Any], of_nothing: bool = False) -> Any:
    """The result, which is finite, or None where the call raises one of its errors."""
    try:
        result = call()
    except (ValueError, NotConvergedError):
        return None
    finite(result, of_nothing)
    return result


def decades(rng: np.random.Generator, shape: int | tuple[int, ...], most: float) -> NDArray[np.float64]:
    """Sizes from 1e-most to 1e+most."""
    return np.asarray(10.0 ** rng.uniform(-most, most, shape))


@given(st.integers(0, 10_000), st.integers(2, 5))
def test_no_nan_leaves_a_public_call(seed: int, n: int) -> None:
    """Counts of 1e-300 to 1e300, spreads of 1,000 nats, proposals with zeros, parameters of all sizes."""
    rng = np.random.default_rng(seed)
    wins = 10.0 ** rng.uniform(-300, 300, (n, n)) * (rng.random((n, n)) < 0.8)
    log_p, pre = (normalize(rng.uniform(-1000, 0, n)) for _ in range(2))
    q = rng.dirichlet(np.ones(n)) * (np.arange(n) != rng.integers(0, 2 * n))
    q /= q.sum()
    size = float(10.0 ** rng.uniform(-300, 300))
    prob = Annotator(log_p, LUCE).preference_prob()
    found = refused_or_finite(lambda: optimum(wins, LUCE))
    if found is not None:
        refused_or_finite(lambda: covariance(wins, found, LUCE))
    for call in (
        lambda: win_matrix(prob, q),
        lambda: optimum(win_matrix(prob, q), LUCE),
        lambda: choices.temperature(log_p, q),
        lambda: targets.ipo(prob, q, pre, size),
        lambda: targets.ipo(prob, np.outer(q, q), pre, size),
        lambda: targets.kl_control(log_p, pre, size),
        lambda: targets.product_of_experts(log_p, pre, size),
        lambda: PBDE.dpo(size, pre).omega(log_p),
        lambda: PBDE.geometric(size, pre).omega(log_p),
        lambda: policies.kl_gradient(log_p, log_p, pre, size),
        lambda: policies.natural_gradient(log_p, size * log_p, pre, 0.0, size, 3),
        lambda: choices.stationary(choices.people_chain(prob, np.full((n, n), 1 / n))),
    ):
        refused_or_finite(call)


@given(st.integers(0, 10_000), st.integers(1, 5), st.sampled_from([300, 30, 5]))
def test_no_nan_leaves_a_density(seed: int, n: int, most: int) -> None:
    """f, g, omega, measures and parameters of all sizes, and densities of 1,000 nats."""
    rng = np.random.default_rng(seed)
    f, measure, lengths = (decades(rng, n, most) for _ in range(3))
    g, omega = (rng.normal(size=n) * decades(rng, n, most) for _ in range(2))
    log_p, pre = (normalize(rng.uniform(-1000, 0, n)) for _ in range(2))
    size, model = float(decades(rng, 1, most)[0]), PBDE(f, g)
    for of in (model, PBDE.dpo(1.0, pre), PBDE.length_normalized(lengths), LUCE):
        refused_or_finite(partial(of.omega, log_p))
        for at in (omega, log_p):
            refused_or_finite(partial(of.log_p, at))
            refused_or_finite(partial(of.log_p, at, measure))
    for call in (
        lambda: PBDE.dpo(size, pre).log_p(omega),
        lambda: PBDE.geometric(size, pre).log_p(log_p),
        lambda: targets.geometric_mean(log_p, pre, size),
        lambda: targets.geometric_mean(normalize(log_p, measure), normalize(pre, measure), size, measure),
        lambda: targets.recovered(Annotator(log_p, LUCE), model),
        lambda: normalize(omega, measure),
    ):
        refused_or_finite(call)


@given(st.integers(0, 10_000), st.integers(2, 5), st.sampled_from([300, 30, 3]))
def test_no_nan_leaves_a_hinge(seed: int, n: int, most: int) -> None:
    """SLiC-HF, RSO and RRHF, which gives outcomes that never win the density 0."""
    rng = np.random.default_rng(seed)
    wins = decades(rng, (n, n), most) * (rng.random((n, n)) < 0.8)
    pre, lengths, measure = normalize(rng.uniform(-1000, 0, n)), decades(rng, n, most), decades(rng, n, most)
    size = float(decades(rng, 1, most)[0])
    for call in (
        lambda: methods.slic_hf(wins, pre, size, 1.0),
        lambda: methods.slic_hf(wins, pre, 1.0, size),
        lambda: methods.slic_hf(wins, pre, size, 0.0),
        lambda: methods.slic_hf(wins, normalize(pre, measure), 1.0, 1.0, measure),
        lambda: methods.rso(wins, pre, size),
        lambda: methods.dpo(wins, pre, size),
        lambda: methods.ilhf(wins, measure),
        lambda: methods.reward(wins),
    ):
        refused_or_finite(call)
    refused_or_finite(lambda: methods.rrhf(wins, lengths), of_nothing=True)


OPTIONS: list[dict[str, Any]] = [
    {},
    {"prior": 0.5},
    {"prior": 1e-300},
    {"robust": True},
    {"ties": "davidson"},
    {"ties": "davidson", "prior": 0.5},
]


@pytest.mark.parametrize("options", OPTIONS)
@given(
    seed=st.integers(0, 10_000),
    n=st.integers(2, 4),
    most=st.sampled_from([300, 30, 3]),
    kinds=st.sampled_from([(1.0,), (0.0, 0.5, 1.0), (0.1, 0.5, 0.7)]),
    luce=st.booleans(),
)
def test_no_nan_leaves_a_fit(
    options: dict[str, Any], seed: int, n: int, most: int, kinds: tuple[float, ...], luce: bool
) -> None:
    """Fits, intervals and predictions, Davidson's too, with ties and graded outcomes, for all f."""
    rng = np.random.default_rng(seed)
    i, j = np.nonzero(1 - np.eye(n))
    y, weight = rng.choice(kinds, len(i)), decades(rng, len(i), most)
    model = LUCE if luce else PBDE(decades(rng, n, most), 0.0)
    found = refused_or_finite(lambda: fit(Comparisons(i, j, y, n, weight=weight), model, **options))
    if found is not None:
        finite((found.interval(), found.log_factor()))
        for a in range(n):
            refused_or_finite(partial(found.predict, a, n - 1 - a))


@given(st.integers(0, 10_000), st.integers(2, 6), st.floats(0, 9))
def test_the_geometric_mean_of_a_large_alpha(seed: int, n: int, decade: float) -> None:
    """Against fractions: log p is off by at most alpha times two roundings of log p_pre, and some of its own."""
    rng, alpha = np.random.default_rng(seed), 10.0**decade
    log_p = normalize(rng.uniform(-1000, 0, n))
    pre = normalize(log_p + rng.normal(size=n) / alpha)  # so that the result is moderate
    power = Fraction(alpha)
    exact = [float(power * Fraction(p) + (1 - power) * Fraction(q)) for p, q in zip(log_p, pre, strict=True)]
    expected = normalize(np.array(exact))
    found = PBDE.geometric(alpha, pre).log_p(log_p)
    assert_close(found, expected, 2 * EPS64 * (1 + alpha), scale=float(np.abs(pre).max()))


def test_variances_that_are_lost_in_rounding() -> None:
    """A standard error of 83.6 that came out as 0, beside a pair of 1e24 comparisons, is refused."""
    spread = np.diag([7e3, 7e3, 8e17, 7e3, 0.0]) + 6e3 * (1 - np.eye(5))
    spread[4] = spread[:, 4] = 0
    spread[:2, :2] = 7e3
    square = np.zeros((5, 5))
    square[0, 1] = square[1, 0] = 8e23
    square[0, 3] = square[3, 0] = 3.0
    with pytest.raises(NotConvergedError, match="lost in rounding"):
        sandwich(spread, square)
    negative = contrast_variances(np.array([[-3.0, -3.0], [-3.0, -3.1]]))
    assert np.isnan(negative[0, 1])


def test_errors_beyond_float64_are_refused() -> None:
    """f of 1e-200: the variance of log p = omega / f is beyond 1e308."""
    coins = Comparisons([0, 1], [1, 0], [1, 1], 2, weight=[3, 2])
    with pytest.raises(NotConvergedError, match="larger than float64 can hold"):
        fit(coins, PBDE(1e-200, 0.0))


def test_the_extremes_that_were_nan() -> None:
    """One-sided pairs of 1e24, and a temperature whose means underflow."""
    cycle = np.array([[0, 1e24, 0], [0, 0, 1e24], [1e24, 0, 0]])
    assert_close(optimum(cycle, LUCE).divergence, np.log(2), SOLVED)
    i, j = np.nonzero(cycle)
    fitted = fit(Comparisons(i, j, np.ones(3), 3, weight=cycle[i, j]), LUCE)
    assert_close(fitted.saturated, 0.0, CLOSED_FORM)
    assert_close(choices.temperature(np.array([0.0, -800.0]), [1.0, 0.0]), [2.0, 1.0], CLOSED_FORM)
    with pytest.raises(ValueError, match="temperature must fit float64"):
        choices.temperature(np.array([0.0, -800.0]), [0.0, 1.0])


@pytest.mark.parametrize("broken", [np.inf, -np.inf, np.nan])
def test_an_infinite_gradient_agrees_with_nothing(broken: float) -> None:
    """Infinity is not above an infinite tolerance: the check of derivatives refuses it, on either side."""
    assert_derivative({"x": [1.0, 2.0]}, {"x": [1.0, 1.0]}, 3.0)
    with pytest.raises(AssertionError):
        assert_derivative({"x": [broken, 1.0]}, {"x": [1.0, 1.0]}, broken)
    with pytest.raises(AssertionError):
        assert_derivative({"x": [broken, 1.0]}, {"x": [1.0, 1.0]}, 3.0)
    with pytest.raises(AssertionError):
        assert_derivative({"x": [1.0, 2.0]}, {"x": [1.0, 1.0]}, broken)
