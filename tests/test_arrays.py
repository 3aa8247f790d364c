"""Public calls refuse what is no plain array of real numbers; no NaN or infinity leaves them without an error."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse

import accel
import reference
from accel import objectives
from reference import (
    PBDE,
    Annotator,
    Comparisons,
    NotIdentifiableError,
    Population,
    covariance,
    methods,
    optimum,
    targets,
    win_matrix,
)
from reference import markov_chains as choices
from reference import policy_gradient as policies
from reference.claims.verify import CLAIMS, verify
from reference.inference.covariance import resistances
from reference.inference.fit import fit
from tests.checks import CLOSED_FORM, SATURATED, assert_close

LUCE, HALF, PROB = PBDE.luce(), np.log([0.5, 0.5]), np.array([[0.5, 0.75], [0.25, 0.5]])
WINS, PAIR = np.array([[0.0, 3.0], [1.0, 0.0]]), np.array([[0.5, 0.5], [0.5, 0.5]])
ONE, VALUES, INDEX = Annotator(HALF, LUCE), np.array([0.5, 0.5]), np.array([0, 1])
OPS = accel.get_ops("numpy")
PAIRS = OPS.pairs(INDEX, INDEX[::-1], VALUES, None, 2)
RNG = np.random.default_rng(0)
TYPES = accel.annotator_types(INDEX, INDEX[::-1], VALUES, INDEX, 2, rounds=2, restarts=1)
TRAINED = accel.train(accel.Tabular(2), objectives.reward(PAIRS), accel.Config(1, 0.1), progress=False)
ARRAYS = ("ArrayLike", "Array")  # annotations that mean an array from outside
UNTYPED = {"wins", "proposal", "x_a", "x_b", "logits"}  # arrays that may be sparse, complex or on a device


def public(module: Any, names: Any = None) -> Iterator[tuple[str, Callable[..., Any]]]:
    """Each public function, and of each class the constructor and public methods, by its qualified name."""
    for name in names or [name for name in vars(module) if not name.startswith("_")]:
        value = getattr(module, name)
        if not getattr(value, "__module__", "").startswith(("reference", "accel")) or inspect.ismodule(value):
            continue
        if names is None and value.__module__ != module.__name__:
            continue
        if inspect.isfunction(value):
            yield f"{module.__name__}.{name}", value
        elif inspect.isclass(value) and not issubclass(value, Exception):
            yield f"{module.__name__}.{name}", value
            for part, method in vars(value).items():
                if not part.startswith("_") and (inspect.isfunction(method) or isinstance(method, classmethod)):
                    yield f"{module.__name__}.{name}.{part}", getattr(value, part)


def array_arguments(call: Callable[..., Any]) -> list[str]:
    return [
        name
        for name, parameter in inspect.signature(call).parameters.items()
        if "ArrayLike" in str(parameter.annotation) or (name in UNTYPED and "Any" in str(parameter.annotation))
    ]


# Every public call with an array argument, with arguments that it takes. A new one must be added here.
CALLS: dict[str, tuple[Callable[..., Any], dict[str, Any]]] = {
    "reference.PBDE": (PBDE, {"f": VALUES, "g": VALUES}),
    "reference.PBDE.length_normalized": (PBDE.length_normalized, {"lengths": VALUES}),
    "reference.PBDE.dpo": (PBDE.dpo, {"beta": 1.0, "log_p_pre": HALF}),
    "reference.PBDE.geometric": (PBDE.geometric, {"alpha": 1.0, "log_p_pre": HALF}),
    "reference.PBDE.omega": (LUCE.omega, {"log_p": HALF}),
    "reference.PBDE.log_p": (LUCE.log_p, {"omega": VALUES, "measure": VALUES}),
    "reference.Annotator": (Annotator, {"log_p": np.zeros(2), "model": LUCE, "measure": VALUES}),
    "reference.Annotator.sample": (ONE.sample, {"x_a": INDEX, "x_b": INDEX[::-1], "rng": RNG}),
    "reference.Population": (Population, {"annotators": [ONE, ONE], "weights": VALUES}),
    "reference.Population.sample": (
        Population([ONE], [1.0]).sample,
        {"x_a": INDEX, "x_b": INDEX[::-1], "rng": RNG},
    ),
    "reference.Comparisons": (
        Comparisons,
        {"x_a": INDEX, "x_b": INDEX[::-1], "y": VALUES, "n": 2, "annotator": INDEX, "weight": VALUES},
    ),
    "reference.win_matrix": (win_matrix, {"preference_prob": PROB, "proposal": VALUES}),
    "reference.optimum": (optimum, {"wins": WINS, "model": LUCE, "measure": VALUES}),
    "reference.covariance": (
        covariance,
        {"wins": WINS, "optimum": optimum(WINS, LUCE), "model": LUCE, "measure": VALUES},
    ),
    "reference.targets.recovered": (targets.recovered, {"annotator": ONE, "model": LUCE, "measure": VALUES}),
    "reference.targets.product_of_experts": (
        targets.product_of_experts,
        {"log_p": np.zeros(2), "log_p_pre": np.zeros(2), "beta": 1.0, "measure": VALUES},
    ),
    "reference.targets.geometric_mean": (
        targets.geometric_mean,
        {"log_p": np.zeros(2), "log_p_pre": np.zeros(2), "alpha": 1.0, "measure": VALUES},
    ),
    "reference.targets.kl_control": (
        targets.kl_control,
        {"reward": VALUES, "log_p_pre": np.zeros(2), "beta": 1.0, "measure": VALUES},
    ),
    "reference.targets.ipo": (
        targets.ipo,
        {"preference_prob": PROB, "proposal": VALUES, "log_p_pre": np.zeros(2), "tau": 1.0, "measure": VALUES},
    ),
    "reference.methods.reward": (methods.reward, {"wins": WINS}),
    "reference.methods.ilhf": (methods.ilhf, {"wins": WINS, "measure": VALUES}),
    "reference.methods.dpo": (
        methods.dpo,
        {"wins": WINS, "log_p_pre": np.zeros(2), "beta": 1.0, "measure": VALUES},
    ),
    "reference.methods.slic_hf": (
        methods.slic_hf,
        {"wins": WINS, "log_p_pre": np.zeros(2), "delta": 1.0, "lam": 1.0, "measure": VALUES},
    ),
    "reference.methods.rso": (
        methods.rso,
        {"wins": WINS, "log_p_pre": np.zeros(2), "gamma": 1.0, "measure": VALUES},
    ),
    "reference.methods.rrhf": (methods.rrhf, {"wins": WINS, "lengths": VALUES, "measure": VALUES}),
    "reference.markov_chains.winner_density": (choices.winner_density, {"wins": WINS, "measure": VALUES}),
    "reference.markov_chains.temperature": (choices.temperature, {"log_p": HALF, "proposal": VALUES}),
    "reference.markov_chains.people_chain": (choices.people_chain, {"preference_prob": PROB, "transitions": PAIR}),
    "reference.markov_chains.stationary": (choices.stationary, {"chain": PAIR}),
    "reference.markov_chains.cycle_residual": (choices.cycle_residual, {"chain": PAIR}),
    "reference.policy_gradient.log_policy": (policies.log_policy, {"logits": VALUES}),
    "reference.policy_gradient.expected_reward": (policies.expected_reward, {"logits": VALUES, "reward": VALUES}),
    "reference.policy_gradient.kl_objective": (
        policies.kl_objective,
        {"logits": VALUES, "reward": VALUES, "log_p_pre": HALF, "beta": 1.0},
    ),
    "reference.policy_gradient.policy_gradient": (policies.policy_gradient, {"logits": VALUES, "reward": VALUES}),
    "reference.policy_gradient.kl_gradient": (
        policies.kl_gradient,
        {"logits": VALUES, "reward": VALUES, "log_p_pre": HALF, "beta": 1.0},
    ),
    "reference.policy_gradient.natural_gradient": (
        policies.natural_gradient,
        {"log_pi": HALF, "reward": VALUES, "log_p_pre": HALF, "beta": 1.0, "eta": 1.0},
    ),
    "accel.MLP": (accel.MLP, {"x": VALUES}),
    "accel.MLP.log_p": (accel.MLP(VALUES).log_p, {"values": VALUES, "measure": VALUES}),
    "accel.Tabular.log_p": (accel.Tabular(2).log_p, {"values": VALUES, "measure": VALUES}),
    "accel.AnnotatorTypes.log_p": (TYPES.log_p, {"measure": VALUES}),
    "accel.AnnotatorTypes.mixture": (TYPES.mixture, {"measure": VALUES}),
    "accel.Result.log_p": (TRAINED.log_p, {"measure": VALUES}),
    "accel.annotator_types": (
        lambda **given: accel.annotator_types(**given, rounds=2, restarts=1),
        {"x_a": INDEX, "x_b": INDEX[::-1], "y": VALUES, "annotator": INDEX, "n": 2, "weight": VALUES},
    ),
    "accel.distinct": (accel.distinct, {"x_a": VALUES, "x_b": VALUES}),
    "accel.objectives.pbde": (objectives.pbde, {"pairs": PAIRS, "f": VALUES, "g": VALUES, "measure": VALUES}),
    "accel.objectives.dpo": (objectives.dpo, {"pairs": PAIRS, "beta": 1.0, "log_p_pre": HALF}),
    "accel.objectives.geometric": (objectives.geometric, {"pairs": PAIRS, "alpha": 1.0, "log_p_pre": HALF}),
    "accel.objectives.ipo": (objectives.ipo, {"pairs": PAIRS, "tau": 1.0, "log_p_pre": HALF}),
    "accel.objectives.rso": (objectives.rso, {"pairs": PAIRS, "gamma": 1.0, "log_p_pre": HALF}),
    "accel.objectives.slic_hf": (
        objectives.slic_hf,
        {"pairs": PAIRS, "delta": 1.0, "weight": 1.0, "log_p_pre": np.zeros(2), "measure": VALUES},
    ),
    "accel.objectives.rrhf": (objectives.rrhf, {"pairs": PAIRS, "lengths": VALUES, "measure": VALUES}),
}
# Those whose arrays have another annotation: dicts, and arrays that may lie on a device.
OTHERS: dict[str, tuple[Callable[..., Any], dict[str, Any]]] = {
    "Ops.pairs": (OPS.pairs, {"x_a": INDEX, "x_b": INDEX[::-1], "y": VALUES, "weight": VALUES, "n": 2}),
    "Ops.pairs_of_wins": (OPS.pairs_of_wins, {"wins": WINS}),
    "objectives.Regression": (objectives.Regression, {"target": VALUES}),
    "evaluate": (lambda p: accel.evaluate(accel.Tabular(2), {"logits": p}), {"p": VALUES}),
    "init_near": (
        lambda p: accel.LatentMixture(accel.Tabular(2)).init_near({"logits": p}, RNG),
        {"p": VALUES},
    ),
    "train": (
        lambda p: accel.train(
            accel.Tabular(2), objectives.reward(PAIRS), accel.Config(1, 0.1), initial={"logits": p}, progress=False
        ),
        {"p": VALUES},
    ),
}
CASES = [
    (name, argument)
    for name, (call, given) in {**CALLS, **OTHERS}.items()
    for argument, value in given.items()
    if isinstance(value, np.ndarray)
]
BROKEN: dict[str, Callable[[Any], Any]] = {
    "masked": lambda x: np.ma.masked_array(x, np.zeros(x.shape, bool)),
    "masked rows": lambda x: [np.ma.masked_array(row, False) for row in x],
    "complex": lambda x: x + 0j,
    "objects": lambda x: x.astype(object),
    "strings": lambda x: x.astype(str),
    "four axes": lambda x: np.broadcast_to(x, (2, 2, *x.shape)),
    "one more": lambda x: np.concatenate([x, x, x]),
    "ragged": lambda x: [[0.5], [0.5, 0.5]],
}
FREE = {  # what a call may be given: ids of any kind, complex logits, arrays that fix n themselves
    *(
        ("reference.policy_gradient." + name, "logits", "complex")
        for name in ("log_policy", "expected_reward", "kl_objective")
    ),
    *((name, "annotator", kind) for name in ("reference.Comparisons", "accel.annotator_types") for kind in BROKEN),
}


def test_every_public_call_is_in_the_table() -> None:
    """A new public call with an array argument is thrown at too, or this fails."""
    found = [
        *public(reference, reference.__all__),
        *public(targets),
        *public(methods, methods.__all__),
        *public(choices),
        *public(policies),
        *public(accel, accel.__all__),
        *public(objectives),
    ]
    named = {name: array_arguments(call) for name, call in found}
    result = ("Optimum", "Minimum", "Reward")  # what calls return
    wanted = {name for name, arguments in named.items() if arguments and not name.endswith(result)}
    wanted -= {"accel.LatentMixture.log_p", "accel.LatentMixture.init_near", "accel.train", "accel.evaluate"}
    assert wanted == set(CALLS)
    for name in wanted:
        assert set(named[name]) <= set(CALLS[name][1]), name


@pytest.mark.parametrize(("name", "argument"), CASES)
def test_no_array_but_a_plain_one_is_taken(name: str, argument: str) -> None:
    """One clear error, with the argument's name, for each kind of array that NumPy would bend into shape."""
    call, given = {**CALLS, **OTHERS}[name]
    call(**given)
    for kind, broken in BROKEN.items():
        if (name, argument, kind) in FREE or (kind == "one more" and not refuses_length(name, argument, given)):
            continue
        with pytest.raises(ValueError, match=r"must|shape|support has|same"):
            call(**{**given, argument: broken(given[argument])})


def refuses_length(name: str, argument: str, given: dict[str, Any]) -> bool:
    """Not where this array alone says how many outcomes there are."""
    arrays = [key for key, value in given.items() if isinstance(value, np.ndarray)]
    fixes_n = ("PBDE", "MLP", "Tabular.log_p", "Regression", "temperature")
    return len(arrays) > 1 and not name.endswith(fixes_n) and not name.startswith("reference.PBDE")


@pytest.mark.parametrize("n", [2.0, True, "2", np.float64(2)])
def test_sizes_are_integers(n: Any) -> None:
    """n = 2.0 is no size."""
    calls: list[Callable[[], Any]] = [
        lambda: Comparisons([0], [1], [1], n),
        lambda: OPS.pairs(INDEX, INDEX[::-1], VALUES, None, n),
        lambda: accel.annotator_types(INDEX, INDEX[::-1], VALUES, INDEX, n),
        lambda: policies.natural_gradient(HALF, VALUES, HALF, 1.0, 1.0, steps=n),
        lambda: accel.Tabular(n),
        lambda: fit(Comparisons([0, 1], [1, 0], [1, 1], 2), LUCE).predict(n, 0),
        lambda: accel.MLP(VALUES, (1, n, 1)),
    ]
    for call in calls:
        with pytest.raises(ValueError, match="must be an integer"):
            call()


def test_sparse_wins_are_real() -> None:
    """An imaginary part of sparse wins is not dropped either."""
    for call in (lambda w: optimum(w, LUCE), lambda w: win_matrix(PROB, w)):
        with pytest.raises(ValueError, match="must be real numbers, got an array of dtype complex128"):
            call(sparse.csr_array(PAIR * (1 + 0j)))


def test_ipo_refuses_what_is_never_drawn() -> None:
    """Independent draws that never draw one outcome are the same proposal as their (n, n) form."""
    prob, pre, q = np.full((3, 3), 0.5), np.log(np.full(3, 1 / 3)), np.array([0.5, 0.0, 0.5])
    for proposal in (q, np.outer(q, q)):
        with pytest.raises(NotIdentifiableError, match="got 2 components") as refused:
            targets.ipo(prob, proposal, pre, 1.0)
        assert [part.tolist() for part in refused.value.components] == [[0, 2], [1]]


def test_hindsight_sees_winner_density(monkeypatch: pytest.MonkeyPatch) -> None:
    """The claim fails where winner_density is off by a hundredth of a nat."""
    claim = [claim for claim in CLAIMS if claim.name == "hindsight"]
    assert verify(claim, 12, 8, 1)[0].holds
    right = choices.winner_density
    monkeypatch.setattr("reference.claims.methods.winner_density", lambda wins: 1.01 * right(wins))
    assert not verify(claim, 12, 8, 1)[0].holds


def test_winners_of_the_docstring() -> None:
    """p = (.6, .3, .1), q = (.2, .3, .5): winners / q = (2 E s - q) / (1 - sum q^2)."""
    p, q = np.array([0.6, 0.3, 0.1]), np.array([0.2, 0.3, 0.5])
    s = p[:, None] / (p[:, None] + p)
    winners = np.exp(choices.winner_density(win_matrix(Annotator(np.log(p), LUCE).preference_prob(), q)))
    assert_close(winners / q, (2 * s @ q - q) / (1 - q @ q), CLOSED_FORM)


@pytest.mark.parametrize(
    ("prior", "far"), [(1e-12, False), (1e-15, False), (1e-18, False), (1e-100, False), (1e-12, True)]
)
def test_contrasts_keep_their_digits(prior: float, far: bool) -> None:
    """A and B at 50:50 have s.e. .2, and so have C and D, which B always beats: a tiny ghost changes neither."""
    x_a, x_b, weight = [0, 1, 1], [1, 0, 2], [50, 50, 40]
    if far:
        x_a, x_b, weight = [*x_a, 2, 3], [*x_b, 3, 2], [*weight, 50, 50]
    fitted = fit(Comparisons(x_a, x_b, np.ones(len(x_a)), 4 if far else 3, weight=weight), LUCE, prior=prior)
    for a, b in ((0, 1), (2, 3)) if far else ((0, 1),):
        assert fitted.contrasts is not None
        assert_close(np.sqrt(fitted.contrasts[a, b]), 0.2, SATURATED)


@given(st.integers(0, 1000), st.integers(2, 8))
def test_resistances(seed: int, n: int) -> None:
    """Series and parallel over 60 decades: those of a path add up, and a ring's are of two paths side by side."""
    r = 10.0 ** np.random.default_rng(seed).uniform(-30, 30, n)
    conductance = np.zeros((n + 1, n + 1))
    at = np.arange(n)
    conductance[at, at + 1] = conductance[at + 1, at] = 1 / r
    along = np.array([[r[min(i, j) : max(i, j)].sum() for j in range(n + 1)] for i in range(n + 1)])
    found = resistances(conductance)
    np.testing.assert_allclose(found, along, rtol=CLOSED_FORM)
    if n > 1:
        conductance[0, n] = conductance[n, 0] = 1 / r.max()
        whole = along[0, n] + r.max()
        ring = along * (np.abs(whole - along) / whole)
        assert_close(resistances(conductance)[0, n], ring[0, n], CLOSED_FORM, scale=ring[0, n])
