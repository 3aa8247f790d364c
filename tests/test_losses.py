"""Losses and objectives: every gradient against the complex step of a second, independent formula."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from numpy.typing import NDArray

from accel import buffers, losses, objectives
from accel.backends import get_ops
from accel.losses import MarginLoss
from accel.models import MLP, LatentMixture, LatentValues, Model, Tabular, log_density
from accel.ops import Ops, Pairs
from reference.networks import Loss, directional_derivative, mlp, softplus
from tests.checks import CLOSED_FORM, assert_close, assert_derivative

Array = NDArray[Any]
OPS = get_ops("numpy")
BOTH = pytest.mark.parametrize("ops", [OPS, get_ops("numba", 2)], ids=["numpy", "numba"])
seeds = st.integers(0, 2**32 - 1)

# ----- The same mathematics by another hand, fit for complex numbers -----


def positive_part(x: Array) -> Array:
    return np.where(x.real > 0, x, 0)


WINNER_LOSSES: dict[str, Callable[[Array], Array]] = {  # of the winner's margin
    "logistic": lambda s: softplus(-s),
    "squared": lambda s: (s - 1) ** 2,
    "hinge": lambda s: positive_part(1 - s),
    "ranking": lambda s: positive_part(-s),
}


def log_normalizer(values: Array, measure: Array) -> Any:
    shift = values.real.max()
    return shift + np.log((measure * np.exp(values - shift)).sum())


def mean_loss(omega: Array, pairs: Pairs, winner_loss: Callable[[Array], Array]) -> Any:
    margin = omega[pairs.x_a] - omega[pairs.x_b]
    return (pairs.weight * (pairs.y * winner_loss(margin) + (1 - pairs.y) * winner_loss(-margin))).sum()


def latent_loss(r: Array, prior_logits: Array, pairs: Pairs) -> Any:
    """Straight from Eq. 21: mix the probabilities, then take the log."""
    w = np.exp(prior_logits - log_normalizer(prior_logits, np.ones(len(prior_logits))))
    margin = r[:, pairs.x_a] - r[:, pairs.x_b]
    prob = (w[:, None] / (1 + np.exp(-margin))).sum(axis=0)
    return -(pairs.weight * (pairs.y * np.log(prob) + (1 - pairs.y) * np.log(1 - prob))).sum()


# ----- Random cases -----


def random_pairs(rng: np.random.Generator, n: int) -> Pairs:
    size = int(rng.integers(1, 30))
    y = rng.choice([0.0, 0.3, 0.5, 1.0], size)
    return OPS.pairs(rng.integers(0, n, size), rng.integers(0, n, size), y, rng.uniform(0.1, 2, size), n)


def random_case(rng: np.random.Generator, name: str, n: int) -> tuple[Any, Callable[[Array], Any]]:
    """An objective on n points, and the same loss as a function of (complex) r."""
    pairs, measure = random_pairs(rng, n), rng.uniform(0.2, 3, n)
    f, g, lengths = rng.uniform(0.3, 3, n), rng.normal(size=n), rng.integers(1, 9, n)
    pre = np.asarray(log_density(rng.normal(size=n), measure))
    beta, delta, weight = (float(v) for v in rng.uniform(0.2, 2, 3))

    def chain(winner: str, f: Any, g: Any, likelihood: Any, scale: float = 1.0) -> Callable[[Array], Any]:
        def loss(r: Array) -> Any:
            log_p = r - log_normalizer(r, measure)
            return scale * mean_loss(f * log_p + g, pairs, WINNER_LOSSES[winner]) - (likelihood * log_p).sum()

        return loss

    won = np.zeros(n)
    np.add.at(won, pairs.x_a, pairs.weight * pairs.y)
    np.add.at(won, pairs.x_b, pairs.weight * (1 - pairs.y))
    pre_mass = np.exp(pre) * measure
    cases: dict[str, Callable[[], tuple[Any, Callable[[Array], Any]]]] = {
        "pbde": lambda: (objectives.pbde(pairs, f, g, measure), chain("logistic", f, g, 0)),
        "reward": lambda: (objectives.reward(pairs), chain("logistic", 1, 0, 0)),
        "dpo": lambda: (objectives.dpo(pairs, beta, pre), chain("logistic", beta, -beta * pre, 0)),
        "geometric": lambda: (
            objectives.geometric(pairs, beta, pre),
            chain("logistic", 1 / beta, (1 - 1 / beta) * pre, 0),
        ),
        "rso": lambda: (objectives.rso(pairs, beta, pre), chain("hinge", beta, -beta * pre, 0)),
        "ipo": lambda: (
            objectives.ipo(pairs, beta, pre),
            lambda r: mean_loss(r - pre, pairs, lambda s: (s - 1 / (2 * beta)) ** 2),
        ),
        "slic_hf": lambda: (
            objectives.slic_hf(pairs, delta, weight, pre, measure),
            lambda r: (
                mean_loss(r, pairs, lambda s: positive_part(delta - s))
                - (weight * pre_mass * (r - log_normalizer(r, measure))).sum()
            ),
        ),
        "slic_hf_no_gap": lambda: (
            objectives.slic_hf(pairs, 0.0, weight, pre, measure),
            chain("ranking", 1, 0, weight * pre_mass),
        ),
        "rrhf": lambda: (
            objectives.rrhf(pairs, lengths, measure, weight=weight),
            chain("ranking", 1 / lengths, 0, weight * won),
        ),
        "regression": lambda: (objectives.Regression(pre), lambda r: ((r - pre) ** 2).sum() / n),
    }
    return cases[name]()


NAMES = ["pbde", "reward", "dpo", "geometric", "ipo", "rso", "slic_hf", "slic_hf_no_gap", "rrhf", "regression"]


def check_gradient(
    model: Model, objective: Any, oracle: Loss, rng: np.random.Generator, start: dict[str, Array], ops: Ops = OPS
) -> None:
    """Loss and gradient of objective(model(params)) against the oracle's value and complex step."""
    _, params = buffers.flatten(start)
    values, cache = model.forward(ops, params)
    loss, dvalues = objective.on(ops, "float64")(ops, values, 0)
    grads = buffers.views(model.backward(ops, dvalues, cache), model.shapes)
    assert_close(loss, oracle(dict(params)), CLOSED_FORM)
    for _ in range(2):
        direction = {name: rng.normal(size=np.shape(value)) for name, value in params.items()}
        assert_derivative(grads, direction, directional_derivative(oracle, params, direction))


@pytest.mark.parametrize("name", ["logistic", "squared", "hinge", "ranking"])
@given(seed=seeds)
def test_slopes(name: str, seed: int) -> None:
    """value and slope of every margin loss, for choices and for shares."""
    rng = np.random.default_rng(seed)
    margin_loss: MarginLoss = getattr(losses, name)
    margin, y = 3 * rng.normal(size=9), rng.choice([0.0, 0.25, 0.5, 1.0], 9)
    value, slope = margin_loss(margin, y)
    stepped = y * WINNER_LOSSES[name](margin + 1e-30j) + (1 - y) * WINNER_LOSSES[name](-margin - 1e-30j)
    assert_close(value, stepped.real, CLOSED_FORM)
    assert_close(slope, stepped.imag / 1e-30, CLOSED_FORM)


@pytest.mark.parametrize("name", ["logistic", "squared", "hinge", "ranking"])
def test_losses_keep_float32_and_survive_large_margins(name: str) -> None:
    """float32 in, float32 out; margins of a thousand nats neither overflow nor warn."""
    margin = np.array([-1000.0, -1.0, 0.0, 1.0, 1000.0], dtype=np.float32)
    for y in (np.zeros(5, np.float32), np.ones(5, np.float32)):
        for out in getattr(losses, name)(margin, y):
            assert out.dtype == np.float32
            assert np.isfinite(out).all()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", ["logistic", "squared", "hinge", "ranking"])
def test_compiled_losses(name: str, dtype: Any) -> None:
    """Numba compiles the same lines: margin_loss as NumPy's, to the last roundings of the dtype."""
    rng = np.random.default_rng(0)
    pairs, omega = random_pairs(rng, 9), rng.normal(size=9).astype(dtype)
    got, expected = (get_ops(ops).margin_loss(omega, pairs, getattr(losses, name)) for ops in ("numba", "numpy"))
    for one, other in zip(got, expected, strict=True):
        assert_close(one, other, 8 * float(np.finfo(dtype).eps))
        assert one.dtype == other.dtype == dtype


@pytest.mark.parametrize("name", NAMES)
@given(seed=seeds, n=st.integers(2, 9))
def test_objectives_on_tabular_models(name: str, seed: int, n: int) -> None:
    """d loss / d logits of every objective, random f, g, measure and comparisons."""
    rng = np.random.default_rng(seed)
    objective, loss = random_case(rng, name, n)
    start = {"logits": 2 * rng.normal(size=n)}
    check_gradient(Tabular(n), objective, lambda params: loss(params["logits"]), rng, start)


@pytest.mark.parametrize("name", NAMES)
@given(seed=seeds, n=st.integers(2, 9), hidden=st.lists(st.integers(1, 6), max_size=4), d=st.integers(1, 2))
def test_objectives_on_networks(name: str, seed: int, n: int, hidden: list[int], d: int) -> None:
    """d loss / d weights through the energy network, against reference.networks.mlp."""
    rng = np.random.default_rng(seed)
    objective, loss = random_case(rng, name, n)
    x = rng.uniform(-3, 3, (n, d))
    model = MLP(x, (d, *hidden, 1))
    start = {key: value + 0.3 * rng.normal(size=value.shape) for key, value in model.init(rng).items()}
    check_gradient(model, objective, lambda params: loss(-mlp(params, x)), rng, start)


@BOTH
@given(seed=seeds, n=st.integers(2, 9), components=st.integers(1, 4), network=st.booleans())
def test_latent_mixture(ops: Ops, seed: int, n: int, components: int, network: bool) -> None:
    """d loss / d (energies and prior logits) of the mixture of annotators, A.3."""
    rng = np.random.default_rng(seed)
    x, pairs = rng.uniform(-3, 3, n), random_pairs(rng, n)
    model = LatentMixture(MLP(x, (1, 5, 1)) if network else Tabular(n), components)
    start = {key: value + rng.normal(size=value.shape) for key, value in model.init(rng).items()}

    def component(params: dict[str, Array], k: int) -> Array:
        own = {key.split("/", 1)[1]: value for key, value in params.items() if key.startswith(f"component_{k}/")}
        return -mlp(own, x) if network else own["logits"]

    def loss(params: dict[str, Array]) -> Any:
        r = np.stack([component(params, k) for k in range(components)])
        return latent_loss(r, params["prior_logits"], pairs)

    check_gradient(model, objectives.latent_mixture(pairs), loss, rng, start, ops)


@BOTH
@pytest.mark.parametrize(("dtype", "exact"), [("float32", 1e-6), ("float64", CLOSED_FORM)])
@pytest.mark.parametrize("y", [1.0, 0.0])
def test_latent_mixture_far_from_any_choice(ops: Ops, dtype: str, exact: float, y: float) -> None:
    """Margins of a thousand nats against the choice: the loss is their size, and nothing is NaN."""
    pairs = OPS.pairs(np.array([0]), np.array([1]), np.array([y]), None, 2)
    r = (2 * y - 1) * np.array([[-500.0, 500.0], [-600.0, 600.0]], dtype)
    values = LatentValues(r, np.zeros(2, dtype))
    loss, gradient = objectives.latent_mixture(pairs).on(ops, dtype)(ops, values, 0)
    assert loss.dtype == gradient.r.dtype == gradient.prior_logits.dtype == dtype
    assert_close(loss, 1000 + np.log(2), exact)
    assert_close(gradient.r, (2 * y - 1) * np.array([[-1.0, 1.0], [0.0, 0.0]]), exact)
    assert_close(gradient.prior_logits, [-0.5, 0.5], exact)


class WithoutLogZ(Ops):
    """The mistake itself: log Z as a constant."""

    def log_sum_exp_backward(self, dout: Array, cache: Any) -> Any:
        return 0.0


@given(seed=seeds, n=st.integers(3, 9))
def test_a_forgotten_log_z_is_seen(seed: int, n: int) -> None:
    """Where f varies the gradient must flow through log Z: leaving it out breaks the derivative."""
    rng = np.random.default_rng(seed)
    objective, loss = random_case(rng, "pbde", n)
    params = {"logits": rng.normal(size=n)}
    direction = {"logits": np.ones(n)}  # a constant added to r changes nothing, with log Z
    exact = directional_derivative(lambda p: loss(p["logits"]), params, direction)
    _, right = objective.on(OPS, "float64")(OPS, params["logits"], 0)
    _, wrong = objective.on(OPS, "float64")(WithoutLogZ(), params["logits"], 0)
    scale = np.abs(wrong).sum()
    assume(scale > 0)  # not only comparisons of a point with itself
    assert abs(exact) <= CLOSED_FORM
    assert abs(right.sum()) <= CLOSED_FORM * (1 + scale)
    assert abs(wrong.sum()) > 1e-6 * scale


def test_log_z_only_where_it_matters() -> None:
    """Constant f, also as an array, leaves log Z out; varying f and likelihood terms need it."""
    pairs, pre = OPS.pairs_of_wins([[0, 1.0], [2.0, 0]]), np.log([0.4, 0.6])
    without = [objectives.reward(pairs), objectives.dpo(pairs, 2.0, pre), objectives.ipo(pairs, 2.0, pre)]
    assert not any(objective.needs_log_z for objective in without)
    assert not objectives.pbde(pairs, np.full(2, 3.0), pre).needs_log_z
    assert objectives.pbde(pairs, [1.0, 2.0], 0.0).needs_log_z
    assert objectives.slic_hf(pairs, 1.0, 1.0, pre).needs_log_z
    assert objectives.rrhf(pairs, 2.0).needs_log_z


def test_draws_depend_on_seed_and_step_only() -> None:
    """SLiC-HF's fresh draws: weight in all, another sample at each step, the mass in the mean."""
    pairs, mass = OPS.pairs_of_wins([[0, 1.0, 0], [2.0, 0, 1], [1, 1, 0]]), np.array([0.2, 0.5, 0.3])
    objective = objectives.slic_hf(pairs, 1.0, 0.7, np.log(mass), draws=1000, seed=3)
    draws = objective.likelihood
    assert isinstance(draws, objectives.Draws)
    shares = np.stack([draws.shares(OPS, step) for step in range(400)])
    assert_close(shares.sum(axis=1), np.full(400, 0.7), CLOSED_FORM)
    assert np.array_equal(shares[7], replace(draws).shares(OPS, 7))
    assert not np.array_equal(shares[7], shares[8])
    assert not np.array_equal(shares[7], replace(draws, seed=4).shares(OPS, 7))
    deviation = 0.7 * np.sqrt(mass * (1 - mass) / 400_000)
    assert (np.abs(shares.mean(axis=0) - 0.7 * mass) < 5 * deviation).all()
    exact, drawn = replace(objective, likelihood=0.7 * mass), replace(objective, likelihood=shares[7])
    r = np.array([0.3, -0.2, 1.0])
    assert objective(OPS, r, 7)[0] == drawn(OPS, r, 7)[0] != exact(OPS, r, 7)[0]


@given(seed=seeds, n=st.integers(2, 7))
def test_comparisons_are_their_win_matrix(seed: int, n: int) -> None:
    """The same data one by one and as a win matrix: the same loss and gradient."""
    rng = np.random.default_rng(seed)
    wins = rng.integers(0, 4, (n, n))
    wins[0, 1] += 1
    np.fill_diagonal(wins, 0)
    x_a, x_b = np.nonzero(wins)
    x_a, x_b = (np.repeat(index, wins[x_a, x_b]) for index in (x_a, x_b))
    swap = rng.random(len(x_a)) < 0.5
    y = np.where(swap, 0.0, 1.0)
    one_by_one = OPS.pairs(np.where(swap, x_b, x_a), np.where(swap, x_a, x_b), y, None, n)
    r, f, g = rng.normal(size=n), rng.uniform(0.5, 2, n), rng.normal(size=n)
    got, expected = (objectives.pbde(p, f, g)(OPS, r, 0) for p in (one_by_one, OPS.pairs_of_wins(wins)))
    assert_close(got[0], expected[0], CLOSED_FORM)
    assert_close(got[1], expected[1], CLOSED_FORM)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda p: objectives.pbde(p, [1.0, -1.0], 0.0), "f must be > 0, got -1.0"),
        (lambda p: objectives.pbde(p, 1.0, [1.0, 2.0, 3.0]), "g must be a number or have shape (2,), got (3,)"),
        (lambda p: objectives.pbde(p, 1.0, np.nan), "g must be finite, got nan"),
        (lambda p: objectives.pbde(p, 1.0, 0.0, [1.0, 0.0]), "measure must be > 0, got 0.0"),
        (lambda p: objectives.dpo(p, -1.0, np.zeros(2)), "beta must be > 0, got -1.0"),
        (lambda p: objectives.geometric(p, 0.0, np.zeros(2)), "alpha must be > 0, got 0.0"),
        (lambda p: objectives.ipo(p, 0.0, np.zeros(2)), "tau must be > 0, got 0.0"),
        (lambda p: objectives.slic_hf(p, -1.0, 0.0, np.log([0.5, 0.5])), "delta must be >= 0, got -1.0"),
        (
            lambda p: objectives.slic_hf(p, 1.0, 1.0, np.zeros(2)),
            "log_p_pre must be normalised, got a mass of 2; give its measure",
        ),
        (
            lambda p: objectives.slic_hf(p, 1.0, 1.0, np.log([0.5, 0.5]), draws=-1),
            "draws must be >= 0, got -1",
        ),
        (
            lambda p: objectives.slic_hf(p, 1.0, 1.0, np.log([0.5, 0.5]), draws=2, seed=-1),
            "seed must be >= 0, got -1",
        ),
        (
            lambda p: objectives.slic_hf(p, 1.0, 1.0, np.log([0.5, 0.5]), draws=2, seed=2**64),
            f"seed must be < 2^64, got {2**64}",
        ),
        (lambda p: objectives.rrhf(p, [1.0, 0.0]), "lengths must be > 0, got 0.0"),
        (lambda p: objectives.rrhf(p, 1.0, weight=-1.0), "weight must be >= 0, got -1.0"),
    ],
)
def test_refusals(call: Callable[[Pairs], Any], message: str) -> None:
    """Each rule broken once: name, rule, value."""
    with pytest.raises(ValueError, match="must") as caught:
        call(OPS.pairs_of_wins([[0, 1.0], [2.0, 0]]))
    assert str(caught.value) == message


def test_slopes_at_kinks_are_0() -> None:
    """Of the outcome that has its corner there; the other one's goes on."""
    for loss, corner in ((losses.hinge, 1.0), (losses.ranking, 0.0)):
        margin = np.array([corner, -corner])
        np.testing.assert_array_equal(loss(margin, np.array([1.0, 0.0]))[1], [0.0, 0.0])
        beyond, before = margin * 2 + np.array([1.0, -1.0]), margin - np.array([0.5, -0.5])
        np.testing.assert_array_equal(loss(beyond, np.array([1.0, 0.0]))[1], [0.0, 0.0])
        np.testing.assert_array_equal(loss(before, np.array([1.0, 0.0]))[1], [-1.0, 1.0])
