"""Training: trained models meet the exact optimum; runs are deterministic, watched, and stop when they should."""

from __future__ import annotations

import io
import sys
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from accel import objectives
from accel.adam import Adam, learning_rates
from accel.backends import get_ops
from accel.minimize import Config, DivergedError, check_losses, minimize
from accel.mlp import mlp_init
from accel.models import MLP, LatentMixture, Tabular, distinct, log_density
from accel.train import Result, evaluate, train
from reference import PBDE, Annotator, Population, optimum, targets, win_matrix
from reference.univariate import Toy
from tests.checks import CLOSED_FORM, TRAINED, assert_close

Array = NDArray[Any]
OPS = get_ops("numpy")
EXACT = Config(20_000, 0.1, dtype="float64", gradient_tolerance=1e-11)  # stops long before its last step
seeds = st.integers(0, 2**32 - 1)
few = settings(max_examples=12)


def random_model(rng: np.random.Generator, n: int) -> PBDE:
    return PBDE(rng.uniform(0.5, 2, n), rng.normal(size=n))


def random_annotator(rng: np.random.Generator, model: PBDE, n: int) -> Annotator:
    """omega within 6 nats."""
    return Annotator(model.log_p(rng.uniform(-3, 3, n)), model)


def random_proposal(rng: np.random.Generator, n: int) -> Array:
    """Connected: a random tree and some more pairs."""
    pairs = np.where(rng.random((n, n)) < 0.4, rng.random((n, n)), 0.0)
    for child in range(1, n):
        pairs[child, rng.integers(child)] += 0.3
    return np.asarray(pairs / pairs.sum())


def fit(wins: Any, f: Any, g: Any, measure: Any = None) -> Result:
    wins = np.asarray(wins)
    return train(Tabular(len(wins)), objectives.pbde(OPS.pairs_of_wins(wins), f, g, measure), EXACT, OPS)


# ----- Trained = exact -----


@few
@given(seed=seeds, n=st.integers(2, 10), annotators=st.integers(1, 3))
def test_tabular_models_meet_the_optimum(seed: int, n: int, annotators: int) -> None:
    """Infinite data, f and g over x, one annotator or a mixture that no PBDE explains: log p = optimum's."""
    rng = np.random.default_rng(seed)
    model = random_model(rng, n)
    crowd = [random_annotator(rng, model, n) for _ in range(annotators)]
    prob = Population(crowd, rng.dirichlet(np.full(annotators, 2.0))).preference_prob()
    wins = win_matrix(prob, random_proposal(rng, n))
    exact, trained = optimum(wins, model), fit(wins, model.f, model.g)
    assert trained.stopped == "gradient"
    assert_close(trained.log_p(), exact.log_p, TRAINED, scale=1.0)
    assert_close(trained.loss, exact.loss, CLOSED_FORM)


@few
@given(seed=seeds, n=st.integers(2, 9))
def test_observed_comparisons_on_a_grid(seed: int, n: int) -> None:
    """Finite data and quadrature weights: the optimum of the counts, against the same measure."""
    rng = np.random.default_rng(seed)
    wins = rng.integers(1, 9, (n, n)).astype(float)
    model, measure = random_model(rng, n), rng.uniform(0.2, 3, n)
    exact, trained = optimum(wins, model, measure), fit(wins, model.f, model.g, measure=measure)
    assert_close(trained.log_p(measure), exact.log_p, TRAINED, scale=1.0)


class WithoutLogZ(objectives.PreferenceObjective):
    """The mistake itself: r taken for log p."""

    needs_log_z = False


def test_without_log_z_training_misses_the_optimum() -> None:
    """Where f varies and log Z is forgotten, the run ends well, at another density."""
    rng = np.random.default_rng(3)
    model = random_model(rng, 6)
    wins = win_matrix(random_annotator(rng, model, 6).preference_prob(), random_proposal(rng, 6))
    exact = optimum(wins, model).log_p
    right = objectives.pbde(OPS.pairs_of_wins(wins), model.f, model.g)
    wrong = WithoutLogZ(right.pairs, right.loss, right.f, right.g)
    start = {"logits": rng.normal(size=6)}
    found, missed = (train(Tabular(6), objective, EXACT, OPS, initial=start) for objective in (right, wrong))
    assert found.stopped == missed.stopped == "gradient"
    assert_close(found.log_p(), exact, TRAINED, scale=1.0)
    assert np.abs(missed.log_p() - exact).max() > 1e-2


@few
@given(seed=seeds, n=st.integers(2, 9), strength=st.floats(0.3, 3.0))
def test_closed_forms(seed: int, n: int, strength: float) -> None:
    """DPO, the geometric mean and IPO reach Eq. 17, Eq. 19 and the exact IPO optimum."""
    rng = np.random.default_rng(seed)
    annotator = random_annotator(rng, PBDE.luce(), n)
    prob, pre, q = annotator.preference_prob(), log_density(rng.normal(size=n)), rng.dirichlet(np.full(n, 3.0))
    pairs = OPS.pairs_of_wins(win_matrix(prob, q))
    for objective, expected in (
        (objectives.reward(pairs), annotator.log_p),
        (objectives.dpo(pairs, strength, pre), targets.product_of_experts(annotator.log_p, pre, strength)),
        (objectives.geometric(pairs, strength, pre), targets.geometric_mean(annotator.log_p, pre, strength)),
        (objectives.ipo(pairs, strength, pre), targets.ipo(prob, q, pre, strength)),
    ):
        trained = train(Tabular(n), objective, EXACT, OPS)
        assert_close(trained.log_p(), expected, TRAINED, scale=1.0)


def test_slic_hf_meets_known_minimisers() -> None:
    """Peak heights of the exact minimisers on 201 points, proposal p_pre, as published to three digits."""
    toy = Toy(201)
    wins = win_matrix(toy.annotator.preference_prob(), toy.mass(toy.log_p_pre))
    pairs, left = OPS.pairs_of_wins(wins), toy.x < 0
    for delta, weight, heights in ((0.25, 1.0, (0.096, 0.088)), (0.5, 1.0, (0.109, 0.098))):
        objective = objectives.slic_hf(pairs, delta, weight, toy.log_p_pre, toy.measure)
        config = Config(1000, 0.05, dtype="float64")
        density = np.exp(train(Tabular(201), objective, config, OPS).log_p(toy.measure))
        assert np.round([density[left].max(), density[~left].max()], 3).tolist() == list(heights)


def test_rrhf_minimises_its_loss() -> None:
    """No random density near the trained one has a smaller loss (it is convex: so none has)."""
    rng = np.random.default_rng(5)
    wins = rng.uniform(0.2, 1, (6, 6))
    objective = objectives.rrhf(OPS.pairs_of_wins(wins), rng.integers(1, 6, 6))
    trained = train(Tabular(6), objective, Config(4000, 0.05, dtype="float64"), OPS)
    for size in (1e-3, 1e-2, 1e-1, 1.0):
        for _ in range(50):
            moved, _ = objective(OPS, trained.values + size * rng.normal(size=6), 0)
            assert moved > trained.loss - 1e-9


def test_latent_mixture_finds_both_annotators() -> None:
    """n = 7 >= 2 K + 1: two Luce annotators and their weights come back from mixed infinite data."""
    rng = np.random.default_rng(0)
    crowd = [random_annotator(rng, PBDE.luce(), 7) for _ in range(2)]
    population = Population(crowd, [0.35, 0.65])
    prob = population.preference_prob()
    wins = win_matrix(prob, np.full(7, 1 / 7))
    floor = -(wins * np.log(np.where(wins > 0, prob, 1.0))).sum()
    model, objective = LatentMixture(Tabular(7), 2), objectives.latent_mixture(OPS.pairs_of_wins(wins))
    config = Config(6000, 0.1, dtype="float64", gradient_tolerance=1e-11)
    starts = [{name: rng.normal(size=shape) for name, shape in model.shapes.items()} for _ in range(3)]
    runs = [train(model, objective, config, OPS, initial=start) for start in starts]  # the loss has local minima
    trained = min(runs, key=lambda run: run.loss)
    assert_close(trained.loss, floor, CLOSED_FORM)
    weights = np.exp(log_density(trained.values.prior_logits))
    order = np.argsort(weights)
    assert_close(weights[order], [0.35, 0.65], TRAINED)
    for found, annotator in zip(trained.values.r[order], crowd, strict=True):
        assert_close(log_density(found), annotator.log_p, TRAINED)
    assert_close(trained.log_p(), population.density_mixture().log_p, TRAINED)


def test_networks_learn_the_paper_example() -> None:
    """Pretrained by regression to N(0, 5), then adapted by DPO: total variation to Eq. 17 falls below 3 %."""
    toy = Toy(101)
    model, config = MLP(toy.x, (1, 32, 32, 1)), Config(1500, 1e-2)
    pretrained = train(model, objectives.Regression(toy.log_p_pre), config, OPS)
    assert pretrained.losses.dtype == np.float64
    assert pretrained.params["Dense_1/kernel"].dtype == np.float32
    wins = win_matrix(toy.annotator.preference_prob(), toy.uniform_proposal)
    exact = targets.product_of_experts(toy.annotator.log_p, toy.log_p_pre, 4.0, toy.measure)
    log_p_pre = pretrained.log_p(toy.measure)
    objective = objectives.dpo(OPS.pairs_of_wins(wins), 4.0, log_p_pre)
    adapted = train(model, objective, config, OPS, initial=pretrained.params)
    before, after = (
        0.5 * (np.abs(np.exp(log_p) - np.exp(exact)) * toy.measure).sum()
        for log_p in (log_p_pre, adapted.log_p(toy.measure))
    )
    assert after < 0.03 < 0.2 < before


# ----- Adam -----


@pytest.mark.parametrize("schedule", ["cosine", "constant"])
def test_adam_is_adam(schedule: Any) -> None:
    """Ten steps on a quadratic against Kingma and Ba's Algorithm 1, written out; float64."""
    config = Config(10, 0.3, schedule, "float64", adam=Adam(0.8, 0.95, 1e-3))
    theta, m, v = np.array([1.0, -2.0]), np.zeros(2), np.zeros(2)
    scale = np.array([1.0, 30.0])
    params = theta.copy()
    state = minimize(lambda step: ((scale * params**2).sum() / 2, scale * params), params, config, OPS)
    for t in range(1, 11):
        g = scale * theta
        m, v = 0.8 * m + 0.2 * g, 0.95 * v + 0.05 * g**2
        rate = 0.3 * (0.5 * (1 + np.cos(np.pi * (t - 1) / 10)) if schedule == "cosine" else 1)
        theta = theta - rate * (m / (1 - 0.8**t)) / (np.sqrt(v / (1 - 0.95**t)) + 1e-3)
    assert_close(state.params, theta, CLOSED_FORM)
    assert (state.step, state.stopped) == (10, "steps")


def test_the_cosine_ends_at_zero() -> None:
    """The first step has the whole rate, the middle half, the last almost none."""
    rate = learning_rates("cosine", 2.0, 100)
    assert rate(0) == 2.0
    assert_close(rate(50), 1.0, CLOSED_FORM)
    assert 0 < rate(99) < 1e-3
    assert rate(100) == 0.0


def test_first_parameters_have_flax_scale() -> None:
    """Kernels: mean 0, variance 1 / in, cut at two deviations of the uncut normal; biases 0."""
    params = mlp_init(np.random.default_rng(0), (1, 200, 300, 1))
    kernel = params["Dense_1/kernel"]
    assert abs(kernel.mean()) < 5 / np.sqrt(kernel.size * 200)
    assert abs(kernel.var() * 200 - 1) < 5 * np.sqrt(2 / kernel.size)
    assert np.abs(kernel).max() <= 2 / (0.8796 * np.sqrt(200))
    assert not any(params[f"Dense_{i}/bias"].any() for i in range(3))


# ----- Runs -----


def toy_run(config: Config, **options: Any) -> Result:
    rng = np.random.default_rng(7)
    pairs = OPS.pairs(rng.integers(0, 40, 500), rng.integers(0, 40, 500), rng.integers(0, 2, 500), None, 40)
    model = MLP(np.linspace(-1, 1, 40), (1, 16, 16, 1))
    return train(model, objectives.pbde(pairs, np.linspace(0.5, 2, 40), 0.0), config, OPS, **options)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_determinism(dtype: Any) -> None:
    """The same seed gives the same bits; another seed another model. Nothing is left in float64 but log p."""
    config = Config(100, 1e-3, dtype=dtype)
    first, second, other = toy_run(config), toy_run(config), toy_run(replace(config, seed=1))
    assert first.losses.tobytes() == second.losses.tobytes()
    for name, value in first.params.items():
        assert value.dtype == first.values.dtype == dtype
        assert value.tobytes() == second.params[name].tobytes()
    assert not np.array_equal(first.values, other.values)
    assert first.loss < first.losses[0]
    assert first.steps == len(first.losses) == 100


def test_float32_follows_float64() -> None:
    """Over 50 steps the two precisions stay together, to the rounding of float32."""
    single, double = (toy_run(Config(50, 1e-3, dtype=dtype)) for dtype in ("float32", "float64"))
    assert_close(single.losses, double.losses, 100 * float(np.finfo(np.float32).eps))


def test_the_gradient_stops_a_run() -> None:
    """At the optimum already: no step is made. Else the run ends at a multiple of log_every, gradient small."""
    wins = np.array([[0, 3.0], [1.0, 0]])
    objective = objectives.reward(OPS.pairs_of_wins(wins))
    there = train(Tabular(2), objective, EXACT, OPS, initial={"logits": [np.log(3), 0]})
    assert (there.steps, there.stopped, len(there.losses)) == (0, "gradient", 0)
    found = train(Tabular(2), objective, EXACT, OPS)
    assert found.stopped == "gradient"
    assert 0 < found.steps < EXACT.steps
    assert found.steps % EXACT.log_every == 0
    assert np.abs(objective(OPS, found.values, 0)[1]).max() <= EXACT.gradient_tolerance


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e6])
def test_divergence_names_the_step(bad: float) -> None:
    """A loss that is not finite, or far above the first, ends the run with its step and the cure."""

    def gradient(step: int) -> tuple[Any, Array]:
        return (bad if step == 77 else 0.7), np.zeros(3)

    with pytest.raises(DivergedError) as caught:
        minimize(gradient, np.zeros(3), Config(1000, 0.5), OPS)
    value = f"{bad:.6g}"
    assert str(caught.value) == (
        f"the loss is {value} at step 77 (it began at 0.7); lower learning_rate, which is 0.5"
    )


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_first_loss_that_is_not_finite_is_refused(bad: float) -> None:
    """An infinite first loss allows no infinite ones after it; nor does a gradient of 0 excuse it."""
    with pytest.raises(DivergedError, match="at step 0, before any update"):
        check_losses(np.array([bad, 1.0, 2.0]), 0, Config(3, 0.5))
    for tolerance in (0.0, 1e-9):
        with pytest.raises(DivergedError, match="at step 0, before any update"):
            minimize(
                lambda step: (bad, np.zeros(3)), np.zeros(3), Config(10, 0.5, gradient_tolerance=tolerance), OPS
            )


def test_the_loss_at_a_gradient_stop_is_checked() -> None:
    """A gradient of 0 where the loss is far above the first is no minimum."""
    config = Config(10, 0.5, gradient_tolerance=1e-9, log_every=2)

    def gradient(step: int) -> tuple[Any, Array]:
        return (0.7, np.ones(3)) if step < 4 else (1e6, np.zeros(3))

    with pytest.raises(DivergedError, match="the loss is 1e\\+06 at step 4"):
        minimize(gradient, np.zeros(3), config, OPS)


def test_a_rate_far_too_large_diverges() -> None:
    """The real thing: regression with a learning rate of 1e30; also when the last step breaks it."""
    model, target = MLP(np.linspace(-1, 1, 9), (1, 4, 1)), objectives.Regression(np.zeros(9))
    for steps in (1, 100):
        with pytest.raises(DivergedError, match="at step 1 "):
            train(model, target, Config(steps, 1e30), OPS)
    with pytest.raises(DivergedError, match="the loss is nan at step 0, before any update: look at the data"):
        train(Tabular(2), objectives.Regression(np.zeros(2)), EXACT, OPS, initial={"logits": [np.nan, 0.0]})


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_the_bar_shows_loss_and_time_left_on_terminals_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Standard error stays empty elsewhere, and with progress=False."""
    for stream, progress, shown in (
        (Terminal(), True, True),
        (io.StringIO(), True, False),
        (Terminal(), False, False),
    ):
        monkeypatch.setattr(sys, "stderr", stream)
        toy_run(Config(1500, 1e-3, log_every=10), progress=progress, label="reward")
        monkeypatch.undo()
        text = stream.getvalue()
        assert bool(text) == shown
        if shown:
            assert "reward" in text
            assert "loss 0." in text
            assert "<" in text  # elapsed < left


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": 0}, "steps must be >= 1, got 0"),
        ({"steps": 1.5}, "steps must be an integer, got 1.5"),
        ({"log_every": True}, "log_every must be an integer, got True"),
        ({"seed": -1}, "seed must be >= 0, got -1"),
        ({"learning_rate": 0.0}, "learning_rate must be > 0, got 0.0"),
        ({"learning_rate": float("nan")}, "learning_rate must be > 0, got nan"),
        ({"schedule": "linear"}, "schedule must be one of cosine, constant, got 'linear'"),
        ({"dtype": "float16"}, "dtype must be float32 or float64, got 'float16'"),
        ({"gradient_tolerance": -1.0}, "gradient_tolerance must be >= 0, got -1.0"),
        ({"gradient_tolerance": float("inf")}, "gradient_tolerance must be >= 0, got inf"),
    ],
)
def test_config_refusals(change: dict[str, Any], message: str) -> None:
    """Each rule broken once: name, rule, value."""
    with pytest.raises(ValueError, match="must") as caught:
        Config(**{"steps": 10, "learning_rate": 1e-3, **change})
    assert str(caught.value) == message


def test_each_distinct_point_is_evaluated_once() -> None:
    """Continuous points: the support is what occurs; the trained network is then looked at on any grid."""
    rng = np.random.default_rng(0)
    x_a, x_b = rng.integers(0, 9, 400) / 3, rng.integers(0, 9, 400) / 3
    x, a, b = distinct(x_a, x_b)
    assert x.tolist() == (np.arange(9) / 3).tolist()
    assert np.array_equal(x[a], x_a)
    assert np.array_equal(x[b], x_b)
    rows, a2, b2 = distinct(np.stack([x_a, -x_a], axis=1), np.stack([x_b, -x_b], axis=1))
    assert rows.shape == (9, 2)
    assert np.array_equal(rows[a2, 0], x_a)
    assert np.array_equal(rows[b2, 1], -x_b)
    objective = objectives.reward(OPS.pairs(a, b, np.where(x_a > x_b, 1.0, 0.0), None, 9))
    result = train(MLP(x, (1, 8, 1)), objective, Config(100, 1e-2), OPS)
    assert_close(evaluate(MLP(x, (1, 8, 1)), result.params), result.values, 0.0)
    on_a_grid = evaluate(MLP(np.linspace(0, 3, 50), (1, 8, 1)), result.params)
    assert on_a_grid.shape == (50,)
    assert on_a_grid.dtype == np.float32
    assert on_a_grid[-1] > on_a_grid[0]


def test_latent_mixtures_start_near_one_model_and_mix_densities() -> None:
    """A.3's start: both components at the pretrained parameters, 1e-4 apart, equal weights; p = sum w_k p_k."""
    rng, x, measure = np.random.default_rng(0), np.linspace(-1, 1, 60), np.full(60, 1 / 30)
    component = MLP(x, (1, 40, 1))
    model, params = LatentMixture(component, 3), component.init(rng)
    start = model.init_near(params, rng)
    assert list(start) == list(model.shapes)
    assert start["prior_logits"].tolist() == [0.0] * 3
    noise = np.stack([start[f"component_{k}/Dense_0/kernel"] - params["Dense_0/kernel"] for k in range(3)])
    assert abs(noise.std() / 1e-4 - 1) < 5 / np.sqrt(2 * noise.size)
    values = evaluate(model, {**start, "prior_logits": np.log([0.2, 0.3, 0.5])})
    expected = sum(w * np.exp(log_density(r, measure)) for w, r in zip([0.2, 0.3, 0.5], values.r, strict=True))
    assert_close(np.exp(model.log_p(values, measure)), expected, CLOSED_FORM)
    assert_close((np.exp(model.log_p(values, measure)) * measure).sum(), 1.0, CLOSED_FORM)


def test_other_refusals() -> None:
    """Parameters of another model, points that do not fit a network, empty models, Adam's constants."""
    pairs = OPS.pairs_of_wins(np.ones((2, 2)))
    reward = objectives.reward(pairs)
    for call, message in (
        (lambda: train(Tabular(2), reward, EXACT, initial={"logits": [0.0]}), "must have shape (2,), got (1,)"),
        (lambda: train(Tabular(2), reward, EXACT, initial={}), "must have shape (2,), got nothing"),
        (lambda: MLP(np.zeros((3, 2))), "x must have shape (n, 1) with n >= 1, got (3, 2)"),
        (
            lambda: MLP(np.zeros(3), (1, 4, 2)),
            "widths must be two or more numbers >= 1 and end in 1, got (1, 4, 2)",
        ),
        (lambda: MLP([0.0, np.nan]), "x must be finite, got NaN or an infinity"),
        (lambda: MLP([0, 1]).log_p(np.zeros(2), [1.0, -1.0]), "measure must be > 0, got -1"),
        (lambda: evaluate(MLP([0, 1]), {}), "parameter Dense_0/kernel must have shape (1, 64), got nothing"),
        (lambda: train(Tabular(2), reward, EXACT, "numpy"), "ops must come from get_ops, got 'numpy'"),  # type: ignore[arg-type]
        (lambda: train(Tabular(3), reward, EXACT), "the model must be one density over 2 points, got one density"),
        (
            lambda: train(LatentMixture(Tabular(2)), reward, EXACT),
            "the model must be one density over 2 points, got a LatentMixture with values of shape (2, 2)",
        ),
        (
            lambda: train(Tabular(2), objectives.latent_mixture(pairs), EXACT),
            "the model must be a LatentMixture over 2 points, got one density with values of shape (2,)",
        ),
        (
            lambda: train(LatentMixture(Tabular(3)), objectives.latent_mixture(pairs), EXACT),
            "the model must be a LatentMixture over 2 points, got a LatentMixture with values of shape (2, 3)",
        ),
        (
            lambda: train(Tabular(3), objectives.Regression(np.zeros(2)), EXACT),
            "the model must be one density over 2 points, got one density with values of shape (3,)",
        ),
        (lambda: distinct(np.zeros(2), np.zeros(3)), "x_a and x_b must have the same shape (N,) or (N, d)"),
        (lambda: Tabular(0), "n must be >= 1, got 0"),
        (lambda: LatentMixture(Tabular(2), 0), "components must be >= 1, got 0"),
        (lambda: Adam(b1=1.0), "b1 must lie in [0, 1), got 1.0"),
        (lambda: Adam(eps=0.0), "eps must be > 0, got 0.0"),
    ):
        with pytest.raises(ValueError, match="must") as caught:
            call()
        assert message in str(caught.value)


@pytest.mark.parametrize("first", [-1e6, -3.0, 0.0, 0.5, 1e6])
def test_divergence_is_relative_to_the_first_loss(first: float) -> None:
    """A loss above first + divergence (1 + |first|) stops a run, one just below does not; nor NaN."""
    config = Config(10, 1e-3, divergence=2.0)
    allowed = first + 2.0 * (1 + abs(first))
    check_losses(np.array([first, allowed]), 0, config)
    for wrong in (allowed + 1e-9 * (1 + abs(first)), np.nan, np.inf):
        with pytest.raises(DivergedError, match="at step 1"):
            check_losses(np.array([first, wrong]), 0, config)


def test_the_largest_part_of_the_gradient_stops_a_run() -> None:
    """Not its mean: one parameter that still moves is enough to go on."""
    parts = np.array([1e-3] + [0.0] * 999)
    for tolerance, stopped in ((0.9e-3, "steps"), (1.1e-3, "gradient")):
        config = Config(3, 1e-3, gradient_tolerance=tolerance, log_every=1, dtype="float64")
        state = minimize(lambda step: (np.float64(1.0), parts), np.zeros(1000), config, get_ops("numpy"))
        assert state.stopped == stopped
