"""Annotator types by EM: the objective rises, is what it says, and known cases come out as they must."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from accel import em, objectives
from accel.backends import get_ops
from accel.em import AnnotatorTypes, annotator_types, bradley_terry, penalty_matrix
from accel.models import LatentValues
from reference import PBDE, optimum
from reference.networks import directional_derivative, softplus
from tests.checks import CLOSED_FORM, SOLVED, TRAINED, assert_close

Array = NDArray[Any]
seeds = st.integers(0, 2**32 - 1)


def random_choices(rng: np.random.Generator, n: int, each: int) -> dict[str, Any]:
    """30 annotators of two random types with `each` comparisons a head; ties and weights among them."""
    size = 30 * each
    x_a = rng.integers(0, n, size)
    x_b = (x_a + rng.integers(1, n, size)) % n
    annotator = np.repeat(rng.permutation(30) + 100, each)
    r = 2 * rng.normal(size=(2, n))[annotator % 2]
    prob = 1 / (1 + np.exp(r[np.arange(size), x_b] - r[np.arange(size), x_a]))
    y = np.where(rng.random(size) < 0.1, 0.5, rng.random(size) < prob)
    return {"x_a": x_a, "x_b": x_b, "y": y, "annotator": annotator, "weight": rng.integers(1, 4, size)}


def plain_penalty(r: Array, ridge: float, roughness: float) -> Any:
    """ridge / 2 |r|^2 + roughness / 2 (sum of squared third differences) of r (n,), point by point."""
    third = [r[i + 3] - 3 * r[i + 2] + 3 * r[i + 1] - r[i] for i in range(len(r) - 3)]
    return (ridge * (r * r).sum() + roughness * sum(d * d for d in third)) / 2


def plain_objective(choices: dict[str, Any], fit: AnnotatorTypes, ridge: float, roughness: float) -> float:
    """L of accel/em.py, annotator by annotator, comparison by comparison."""
    total = -sum(float(plain_penalty(r, ridge, roughness)) for r in fit.r)
    for u in np.unique(choices["annotator"]):
        mine = choices["annotator"] == u
        a, b, y, weight = (choices[name][mine] for name in ("x_a", "x_b", "y", "weight"))
        margin = fit.r[:, a] - fit.r[:, b]
        chosen = weight * (y * softplus(-margin) + (1 - y) * softplus(margin))
        total += float(np.log((fit.weights * np.exp(-chosen.sum(axis=1))).sum()))
    return total


@settings(max_examples=15)
@given(seed=seeds, n=st.integers(2, 7), each=st.integers(1, 5), types=st.integers(1, 4))
def test_every_round_raises_the_objective(seed: int, n: int, each: int, types: int) -> None:
    """L never falls, and it is the sum that its definition says."""
    choices = random_choices(np.random.default_rng(seed), n, each)
    fit = annotator_types(
        **choices, n=n, types=types, ridge=0.05, roughness=0.2, rounds=25, restarts=2, seed=seed % 100
    )
    scale = 1 + np.abs(fit.objective).max()
    assert (np.diff(fit.objective) >= -CLOSED_FORM * scale).all()
    assert_close(fit.objective[-1], plain_objective(choices, fit, 0.05, 0.2), CLOSED_FORM, scale)
    assert_close(fit.responsibilities.sum(axis=1), np.ones(len(fit.annotators)), CLOSED_FORM)
    assert fit.annotators.tolist() == list(range(100, 130))
    assert (np.diff(fit.weights) <= 0).all()


@given(seed=seeds, n=st.integers(2, 8), ridge=st.floats(1e-3, 10.0), roughness=st.floats(0.0, 10.0))
def test_bradley_terry_is_stationary(seed: int, n: int, ridge: float, roughness: float) -> None:
    """No direction changes the penalised objective at its maximum, by the complex step; r has mean 0."""
    rng = np.random.default_rng(seed)
    wins = np.where(rng.random((n, n)) < 0.4, rng.integers(0, 9, (n, n)), 0).astype(float)

    def loss(params: dict[str, Array]) -> Any:
        r = params["r"]
        return (wins * softplus(r[None, :] - r[:, None])).sum() + plain_penalty(r, ridge, roughness)

    r = bradley_terry(wins, penalty_matrix(n, ridge, roughness), rng.normal(size=n))
    scale = 1 + wins.sum() + ridge + roughness
    for direction in np.eye(n):
        assert abs(directional_derivative(loss, {"r": r}, {"r": direction})) <= TRAINED * scale
    assert abs(r.sum()) <= TRAINED * scale / ridge


def test_one_type_is_the_optimum() -> None:
    """K = 1 with a vanishing ridge: the reference's Bradley-Terry fit, whoever judged what."""
    rng = np.random.default_rng(1)
    choices = random_choices(rng, 5, 20)
    wins = np.zeros((5, 5))
    np.add.at(wins, (choices["x_a"], choices["x_b"]), choices["weight"] * choices["y"])
    np.add.at(wins, (choices["x_b"], choices["x_a"]), choices["weight"] * (1 - choices["y"]))
    fit = annotator_types(**choices, n=5, types=1, ridge=1e-12)
    exact = optimum(wins, PBDE.luce())
    assert fit.converged
    assert_close(fit.log_p()[0], exact.log_p, TRAINED)
    assert_close(fit.mixture(), exact.log_p, TRAINED)
    assert_close(-fit.log_likelihood, exact.loss * wins.sum(), SOLVED)


@pytest.mark.parametrize("last", [-np.inf, np.nan])
def test_an_objective_that_is_lost_has_not_converged(last: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fall to -inf is below every tolerance of 1 + |L|: no convergence, and no such start is preferred."""
    real, calls = em._responsibilities, iter(range(10**6))

    def lost(*arguments: Any) -> tuple[Array, float]:
        gamma, log_likelihood = real(*arguments)
        return gamma, last if next(calls) == 2 else log_likelihood  # the second round of the first start

    monkeypatch.setattr(em, "_responsibilities", lost)
    choices = random_choices(np.random.default_rng(1), 5, 4)
    fit = annotator_types(**choices, n=5, restarts=1, tolerance=0.0)
    assert len(fit.objective) == 2
    assert not fit.converged
    calls = iter(range(10**6))
    assert np.isfinite(annotator_types(**choices, n=5, restarts=2).objective).all()


def test_types_that_cannot_be_confused_are_fitted_apart() -> None:
    """Three annotators, one against two, 400 comparisons each: responsibilities 0 and 1, two separate fits."""
    rng = np.random.default_rng(2)
    x_a = rng.integers(0, 5, 1200)
    x_b = (x_a + rng.integers(1, 5, 1200)) % 5
    who = np.repeat(["ann", "bob", "eve"], 400)
    sign = np.where(who == "bob", -1.0, 1.0)
    y = rng.random(1200) < 1 / (1 + np.exp(sign * (x_b - x_a)))
    fit = annotator_types(x_a, x_b, y, who, 5, ridge=0.01)
    assert_close(fit.weights, [2 / 3, 1 / 3], CLOSED_FORM)
    assert fit.annotators.tolist() == ["ann", "bob", "eve"]
    assert_close(fit.responsibilities, [[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]], CLOSED_FORM)
    for k, won in enumerate((who != "bob", who == "bob")):
        wins = np.zeros((5, 5))
        np.add.at(wins, (np.where(y, x_a, x_b)[won], np.where(y, x_b, x_a)[won]), 1.0)
        assert_close(fit.r[k], bradley_terry(wins, penalty_matrix(5, 0.01), np.zeros(5)), TRAINED)


def test_opposite_groups_need_a_second_comparison() -> None:
    """Half judge by th, half by -th: every pair is a coin flip, but four comparisons a head tell th."""
    rng = np.random.default_rng(3)
    theta = np.array([2.0, 0.7, -0.6, -2.1])
    x_a = rng.integers(0, 4, 12_000)
    x_b = (x_a + rng.integers(1, 4, 12_000)) % 4
    who = np.repeat(np.arange(3000), 4)
    sign = np.where(who % 2, 1.0, -1.0)
    y = rng.random(12_000) < 1 / (1 + np.exp(sign * (theta[x_b] - theta[x_a])))
    together = optimum_omega(x_a, x_b, y)
    assert np.abs(together).max() < 0.1
    fit = annotator_types(x_a, x_b, y, who, 4)
    error = min(np.abs(fit.r - s * np.stack([theta, -theta])).max() for s in (1, -1))
    assert error < 0.2
    assert abs(fit.weights[0] - 0.5) < 0.05


def optimum_omega(x_a: Array, x_b: Array, y: Array) -> Array:
    wins = np.zeros((4, 4))
    np.add.at(wins, (np.where(y, x_a, x_b), np.where(y, x_b, x_a)), 1.0)
    return optimum(wins, PBDE.luce()).omega


def test_one_comparison_a_head_is_the_latent_mixture() -> None:
    """m = 1: the log-likelihood is that of appendix A.3, the loss of `latent_mixture`."""
    rng = np.random.default_rng(4)
    x_a = rng.integers(0, 6, 500)
    x_b = (x_a + rng.integers(1, 6, 500)) % 6
    y = rng.integers(0, 2, 500)
    fit = annotator_types(x_a, x_b, y, np.arange(500), 6)
    pairs = get_ops("numpy").pairs(x_a, x_b, y, None, 6)
    loss, _ = objectives.latent_mixture(pairs)(get_ops("numpy"), LatentValues(fit.r, np.log(fit.weights)), 0)
    assert_close(-fit.log_likelihood / 500, loss, CLOSED_FORM)


def test_the_best_restart_is_kept_and_runs_repeat() -> None:
    """More restarts never give less; the same seed gives the same bits."""
    choices = random_choices(np.random.default_rng(5), 6, 2)
    fits = [annotator_types(**choices, n=6, types=3, restarts=restarts) for restarts in (1, 4, 4)]
    assert fits[0].objective[-1] <= fits[1].objective[-1]
    assert fits[1].r.tobytes() == fits[2].r.tobytes()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"types": 0}, "types must be >= 1, got 0"),
        ({"rounds": 1.5}, "rounds must be an integer, got 1.5"),
        ({"tolerance": float("nan")}, "tolerance must be >= 0, got nan"),
        ({"ridge": 0.0}, "ridge must be > 0, got 0.0"),
        (
            {"ridge": 1e-20, "n": 4},
            "ridge must be larger: with so little the Hessian is singular in float64",
        ),
        ({"roughness": -1.0}, "roughness must be >= 0, got -1.0"),
        ({"annotator": [1]}, "annotator must have shape (2,), got (1,)"),
        (
            {"annotator": [1.0, np.nan]},
            "annotator must be known for every comparison, got None or NaN: leave those out",
        ),
        ({"x_a": [], "x_b": [], "y": [], "annotator": []}, "there are no comparisons: x_a is empty"),
        ({"x_a": [1, 0]}, "there are no comparisons of two different points"),
        ({"x_a": [3, 0]}, "x_a must lie in 0..1, got 0..3"),
    ],
)
def test_refusals(change: dict[str, Any], message: str) -> None:
    """Each rule broken once: name, rule, value."""
    fine: dict[str, Any] = {"x_a": [0, 1], "x_b": [1, 0], "y": [1, 0], "annotator": [1, 2], "n": 2}
    call: Callable[..., Any] = annotator_types
    with pytest.raises(ValueError, match=r"must|no comparisons") as caught:
        call(**{**fine, **change})
    assert str(caught.value) == message


def test_roughness_makes_densities_normal() -> None:
    """With all weight on third differences log p is a quadratic through the data; without it is not."""
    rng = np.random.default_rng(4)
    r = -((np.arange(9) - 3.0) ** 2) / 4
    x_a = rng.integers(0, 9, 4000)
    x_b = (x_a + rng.integers(1, 9, 4000)) % 9
    y = rng.random(4000) < 1 / (1 + np.exp(r[x_b] - r[x_a]))
    who = np.zeros(4000, dtype=int)
    third = {
        roughness: np.diff(annotator_types(x_a, x_b, y, who, 9, types=1, ridge=1e-6, roughness=roughness).r[0], 3)
        for roughness in (0.0, 1e6)
    }
    assert np.abs(third[1e6]).max() < 1e-3 < 0.05 < np.abs(third[0.0]).max()
