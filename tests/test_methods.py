"""What each method estimates: certified minima of hinge losses, policies, winners, people in a Markov chain."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import sparse
from scipy.optimize import linprog
from scipy.special import expit

from reference import PBDE, Annotator, NotConvergedError, NotIdentifiableError, Population, targets, win_matrix
from reference.claims.methods import draw_transitions, linearized_gain
from reference.markov_chains import cycle_residual, people_chain, stationary, temperature, winner_density
from reference.methods import Minimum, dpo, ilhf, reward, rrhf, rso, slic_hf
from reference.pbde import log_mass, normalize
from reference.policy_gradient import expected_reward, kl_gradient, kl_objective, natural_gradient, policy_gradient
from reference.solvers import hinge
from reference.solvers.hinge import Hinges, _certified, hinge_minimum
from reference.univariate import Toy
from tests.checks import CLOSED_FORM, MINIMISER, MINIMUM, SOLVED, assert_close
from tests.strategies import arrays, counts, log_densities, models, proposals, sizes

Array = NDArray[np.float64]
STEP = 1e-30


@st.composite
def any_counts(draw: st.DrawFn, n: int) -> Array:
    """(n, n) integer wins, at least one: ties, unanimous pairs, items that never win or never play."""
    wins = np.array(draw(st.lists(st.integers(0, 3), min_size=n * n, max_size=n * n)), dtype=float).reshape(n, n)
    np.fill_diagonal(wins, 0.0)
    wins[0, 1] += 1
    return wins


def hinge_loss(wins: Array, omega: Array, delta: float) -> float:
    """sum W max(0, delta - margin) / sum W by its definition, a pair at a time; an item at -inf never wins."""
    n = len(wins)
    pairs = [(i, j) for i in range(n) for j in range(n) if wins[i, j] > 0]
    return float(sum(wins[i, j] * max(0.0, delta - (omega[i] - omega[j])) for i, j in pairs) / wins.sum())


def likelihood_loss(weights: Array, log_p: Array) -> float:
    """-sum c log p, over the outcomes with c > 0."""
    return -float(sum(c * x for c, x in zip(weights, log_p, strict=True) if c > 0))


Loss = Callable[[Array], float]


def cases(data: st.DataObject, n: int) -> list[tuple[Minimum, Loss, tuple[Any, ...]]]:
    """SLiC-HF with and without its likelihood term, RSO and RRHF on one table of wins: minimum, loss, setting."""
    wins, pre = data.draw(any_counts(n)), data.draw(log_densities(n))
    delta, lam, gamma = (data.draw(st.floats(low, 3)) for low in (0.1, 0.05, 0.3))
    lengths = np.array(data.draw(st.lists(st.integers(1, 30), min_size=n, max_size=n)))
    share, p_pre = wins.sum(axis=1) / wins.sum(), np.exp(pre)
    luce, ratio, mean = PBDE.luce(), PBDE.dpo(gamma, pre), PBDE.length_normalized(lengths)

    def slic_loss(log_p: Array) -> float:
        return hinge_loss(wins, log_p, delta) + lam * likelihood_loss(p_pre, log_p)

    def rrhf_loss(log_p: Array) -> float:
        return hinge_loss(wins, log_p / lengths, 0.0) + likelihood_loss(share, log_p)

    return [
        (slic_hf(wins, pre, delta, lam), slic_loss, (wins, luce, delta, lam * p_pre)),
        (
            slic_hf(wins, pre, delta, 0.0),
            lambda log_p: hinge_loss(wins, log_p, delta),
            (wins, luce, delta, 0 * pre),
        ),
        (
            rso(wins, pre, gamma),
            lambda log_p: hinge_loss(wins, gamma * (log_p - pre), 1.0),
            (wins, ratio, 1.0, 0 * pre),
        ),
        (rrhf(wins, lengths), rrhf_loss, (wins, mean, 0.0, share)),
    ]


@given(st.data(), st.integers(2, 6))
def test_hinge_minima_are_minima(data: st.DataObject, n: int) -> None:
    """The loss is the definition's, the gap is small, and no other density has a smaller loss."""
    other = data.draw(log_densities(n))
    for found, loss, _ in cases(data, n):
        scale = 1 + abs(found.loss)
        assert_close(log_mass(found.log_p), 0.0, CLOSED_FORM)
        assert_close(found.loss, loss(found.log_p), CLOSED_FORM)
        assert 0 <= found.gap <= MINIMUM * scale
        for share in (1.0, 0.01):
            near = normalize(np.maximum(found.log_p, -60.0) + share * other)
            assert loss(near) >= found.loss - MINIMUM * scale


@given(st.data(), st.integers(2, 6))
def test_no_linearised_step_gains(data: st.DataObject, n: int) -> None:
    """A second solver, HiGHS, finds no descent from any of the four minima."""
    for found, _, (wins, model, delta, likelihood) in cases(data, n):
        kept = np.isfinite(found.log_p)
        restricted = PBDE(*(values[kept] for values in model.over(n)))
        rest = (restricted, delta, likelihood[kept])
        within = wins[kept][:, kept] / wins.sum()
        assert linearized_gain(within, found.log_p[kept], *rest) <= MINIMUM * (1 + abs(found.loss))


@given(st.data(), st.integers(2, 5))
def test_unique_is_what_the_optimal_face_says(data: st.DataObject, n: int) -> None:
    """lam = 0: unique where, and only where, every omega_i - omega_0 has one value over all minimisers."""
    wins = data.draw(any_counts(n)) if data.draw(st.booleans()) else data.draw(counts(n))
    found = slic_hf(wins, np.full(n, -np.log(n)), 1.0, 0.0)
    i, j = np.nonzero(wins)
    k, weight = np.arange(len(i)), wins[i, j] / wins.sum()
    rows = np.zeros((len(i) + 1, n + len(i)))
    rows[k, i], rows[k, j], rows[k, n + k] = -1, 1, -1
    rows[-1, n:] = weight
    limits = np.r_[-np.ones(len(i)), found.loss + 1e-9]
    widest = 0.0
    for item in range(1, n):
        for sign in (-1, 1):
            objective = np.zeros(n + len(i))
            objective[item] = sign
            solved = linprog(
                objective, A_ub=rows, b_ub=limits, bounds=[(0, 0)] + [(-50, 50)] * (n - 1) + [(0, None)] * len(i)
            )
            reached = sign * solved.fun - (found.log_p[item] - found.log_p[0])
            widest = max(widest, abs(reached))
    assert found.unique == (widest < 1e-4), widest


@given(st.data(), sizes)
def test_units_order_and_layout_change_nothing(data: st.DataObject, n: int) -> None:
    """Wins in any unit, items in any order, dense or sparse: the unique minimisers stay."""
    wins, pre = data.draw(counts(n)), data.draw(log_densities(n))
    lengths, order = np.arange(1, n + 1), np.array(data.draw(st.permutations(range(n))))
    methods: tuple[Callable[[Any, Any], Array], ...] = (
        lambda wins, at: slic_hf(wins, pre[at], 1.0, 0.5).log_p,
        lambda wins, at: rrhf(wins, lengths[at]).log_p,
    )
    for method in methods:
        changed = method(sparse.csr_array(7 * wins[order][:, order]), order)
        assert_close(changed, method(wins, np.arange(n))[order], MINIMISER)


@given(st.floats(0.05, 0.95), st.floats(0.05, 0.95), st.floats(0.0, 3.0), st.floats(0.05, 5))
def test_two_outcomes_of_slic_hf(win: float, first: float, delta: float, lam: float) -> None:
    """lam (sigmoid(h) - p_pre) plus the hinges' slope, -win, 1 - 2 win, 1 - win, is or jumps over 0."""
    found = slic_hf([[0, win], [1 - win, 0]], np.log([first, 1 - first]), delta, lam)
    before, between, after = first + win / lam, first + (2 * win - 1) / lam, first - (1 - win) / lam
    share = max(min(before, expit(-delta)), min(between, expit(delta)), after)
    assert found.unique
    assert_close(found.log_p, np.log([share, 1 - share]), MINIMISER)


def test_ties_and_unanimous_wins() -> None:
    """Ties leave a segment and 0/1 preferences a cone of minimisers; 3 to 1 leaves one, delta apart."""
    half = np.log([0.5, 0.5])
    tie = slic_hf([[0, 1], [1, 0]], half, 1.0, 0.0)
    assert (tie.loss, tie.unique) == (1.0, False)
    assert abs(np.ptp(tie.log_p)) <= 1
    order = slic_hf(np.triu(np.ones((4, 4)), 1), np.log(np.full(4, 0.25)), 2.0, 0.0)
    assert (order.loss, order.gap, order.unique) == (0.0, 0.0, False)
    apart = slic_hf([[0, 3], [1, 0]], half, 0.7, 0.0)
    assert apart.unique
    assert_close(apart.log_p[0] - apart.log_p[1], 0.7, CLOSED_FORM)
    assert slic_hf([[0, 3], [1, 0]], half, 0.0, 0.0).unique
    assert not slic_hf([[0, 3], [0, 0]], half, 0.0, 0.0).unique


def test_rrhf_gives_nothing_to_what_never_wins() -> None:
    """Its density is the limit of ever rarer wins; a lone winner takes all of the support's mass."""
    wins = np.array([[0, 2, 3.0], [1, 0, 2], [0, 0, 0]])
    found = rrhf(wins, [3, 1, 2])
    assert found.log_p[2] == -np.inf
    wins[2] = [1e-9, 0, 0]
    assert_close(rrhf(wins, [3, 1, 2]).log_p[:2], found.log_p[:2], MINIMISER)
    lone = rrhf([[0, 1], [0, 0]], [1, 1], measure=[0.5, 2.0])
    assert_close(lone.log_p[0], np.log(2), CLOSED_FORM)
    assert_close(lone.loss, -np.log(2), CLOSED_FORM)


@given(st.data(), sizes)
def test_hinge_minima_on_grids(data: st.DataObject, n: int) -> None:
    """A measure is a change of variables: log_p + log measure is the minimum over counted outcomes."""
    wins, pre = data.draw(counts(n)), data.draw(log_densities(n))
    measure = np.exp(data.draw(arrays(n, -2.0, 2.0)))
    plain = hinge_minimum(
        Hinges.of(wins, float(wins.sum())), PBDE(1.0, -np.log(measure)), 1.0, 0.5 * np.exp(pre), None
    )
    grid = slic_hf(wins, pre - np.log(measure), 1.0, 0.5, measure)
    assert_close(grid.log_p + np.log(measure), plain.log_p, MINIMISER)


# The exact heights of the left and the right mode on 201 points, with p_pre as proposal. Pairs of a point with
# itself are counted there, with a loss of delta whatever pi is: so the others weigh 1 - sum q^2.
HEIGHTS = {0.25: ("0.096", "0.088"), 0.5: ("0.109", "0.098"), 1: ("0.129", "0.118"), 2: ("0.150", "0.133")}
LEFT_WITHOUT_LAM = {0.25: "0.170", 0.5: "0.278", 1: "0.528", 2: "1.10"}


def toy_slic(delta: float, lam: float) -> tuple[Minimum, float, float]:
    """The minimum on the toy, and its greatest heights left and right of the dip at -1.4."""
    toy = Toy(201)
    q = toy.mass(toy.log_p_pre)
    wins = win_matrix(toy.annotator.preference_prob(), q)
    found = slic_hf(wins, toy.log_p_pre, delta, lam / float(1 - q @ q), toy.measure)
    height = np.exp(found.log_p)
    return found, height[toy.x < -1.4].max(), height[toy.x > -1.4].max()


@pytest.mark.parametrize("delta", [0, *HEIGHTS])
def test_slic_hf_on_the_toy(delta: float) -> None:
    """lam = 1: every printed digit. delta = 0 is a plateau of .0724 (printed .073), certified by its gap."""
    found, left, right = toy_slic(delta, 1.0)
    assert found.unique
    assert found.gap <= MINIMUM * found.loss
    if delta:
        assert (f"{left:.3f}", f"{right:.3f}") == HEIGHTS[delta]
    else:
        assert_close([left, right], [0.07242, 0.07242], 5e-6, scale=1.0)


@pytest.mark.parametrize("delta", LEFT_WITHOUT_LAM)
def test_slic_hf_on_the_toy_without_likelihood(delta: float) -> None:
    """lam = 0: the loss is delta times one number, log pi delta times whole numbers, the left mode as printed."""
    found, left, right = toy_slic(delta, 0.0)
    assert_close(found.loss / delta, toy_slic(1.0, 0.0)[0].loss, SOLVED)
    level = (found.log_p - found.log_p.min()) / delta
    assert_close(level, np.round(level), SOLVED)
    printed = LEFT_WITHOUT_LAM[delta]
    assert f"{left:.{len(printed) - 2}f}" == printed
    assert_close(np.log(left / right) / delta, 1.0, SOLVED)


@pytest.mark.parametrize("gap", [1e-5, np.inf, np.nan])
def test_a_missed_gap_raises(gap: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer whose gap is above 1e-6 (1 + |loss|), from every solver in turn: refused."""
    wins, pre = np.array([[0, 2, 6], [3, 0, 1], [7, 1, 0.0]]), np.log([0.5, 0.3, 0.2])
    found = slic_hf(wins, pre, 1.0, 0.5)
    for solver in ("_interior_point", "_cutting_planes"):
        monkeypatch.setattr(hinge, solver, lambda *_: dataclasses.replace(found, gap=gap))
    with pytest.raises(NotConvergedError, match=r"the duality gap is .*, allowed"):
        slic_hf(wins, pre, 1.0, 0.5)


def wide_case(seed: int) -> tuple[Array, Array, float, float]:
    """wins, log p_pre, delta and lam of 2 to 6 outcomes, over many decades."""
    rng = np.random.default_rng(seed)
    n = int(rng.integers(2, 7))
    wins = rng.integers(0, 8, (n, n)).astype(float)
    wins *= rng.random((n, n)) < rng.choice([0.4, 1])
    if rng.random() < 0.2:
        wins *= 10.0 ** rng.integers(-8, 8, (n, n))
    np.fill_diagonal(wins, 0)
    wins[0, 1] += 1
    pre = normalize(rng.normal(size=n) * rng.choice([0.5, 2, 10]))
    delta = 10 ** rng.uniform(-2, 4) if rng.random() < 0.9 else 10 ** rng.uniform(4, 8)
    return wins, pre, delta, 10 ** rng.uniform(-6, 3)


@pytest.mark.parametrize("seed", [20, 22, 59, 208, 390, 461, 1071])
def test_slic_hf_of_any_scale_is_solved(seed: int) -> None:
    """Margins of up to 1e7 nats, lam down to 1e-6: certified, and no move nearby has less loss."""
    wins, pre, delta, lam = wide_case(seed)
    found = slic_hf(wins, pre, delta, lam)

    def loss(log_p: Array) -> float:
        margins = log_p[:, None] - log_p[None, :]
        return float((wins * np.maximum(0, delta - margins)).sum() / wins.sum() - lam * np.exp(pre) @ log_p)

    assert_close(loss(found.log_p), found.loss, CLOSED_FORM)
    rng = np.random.default_rng(0)
    for size in (1e-6, 1e-3, 1.0, 0.1 * delta):
        for move in rng.normal(size=(50, len(pre))) * size:
            assert loss(normalize(found.log_p + move)) >= found.loss - found.gap - CLOSED_FORM * (1 + found.loss)


@pytest.mark.parametrize(
    ("delta", "lam", "loss"), [(1000, 0.01, 905.0069314718), (300, 0.1, 285.0693147181), (30, 0.1, 28.5693147181)]
)
def test_large_margins_are_solved(delta: float, lam: float, loss: float) -> None:
    """Item 0 falls delta below the two others, which share the mass: the loss by hand, the gap finite."""
    wins = np.array([[0, 2, 6], [3, 0, 1], [7, 1, 0.0]])
    found = slic_hf(wins, np.log([0.5, 0.3, 0.2]), delta, lam)
    assert_close(found.loss, loss, MINIMUM)
    assert found.gap <= MINIMUM * (1 + found.loss)


def test_an_infinite_gap_is_no_certificate() -> None:
    """Infinity is not above an infinite tolerance: a minimum must be finite to be certified."""
    assert not _certified(Minimum(HALF, np.inf, np.inf, True))
    assert not _certified(Minimum(HALF, np.inf, 0.0, True))
    assert _certified(Minimum(HALF, 1.0, 1e-7, True))


def test_a_mean_of_equals_is_what_they_are() -> None:
    """p_pre^(1 - alpha) p^alpha with p = p_pre is p, whatever alpha."""
    log_p = normalize(np.array([0.3, -2.0, 1.0]))
    for alpha in (0.5, 1e14, 1e16):
        assert_close(targets.geometric_mean(log_p, log_p, alpha), log_p, CLOSED_FORM)


@given(st.data(), sizes, st.sampled_from([1e-16, 1e-6, 1.0, 1e6, 1e16]), st.floats(0, 1e8))
def test_a_tilt_of_any_rate_keeps_its_digits(data: st.DataObject, n: int, rate: float, constant: float) -> None:
    """p_pre e^(rate r): the log odds against the likeliest outcome, exactly; a constant of r changes nothing."""
    pre, gain = data.draw(log_densities(n, 100.0)), data.draw(arrays(n, -3.0, 3.0)) + constant
    found = targets.kl_control(gain, pre, 1 / rate)
    z = [Fraction(a) + Fraction(b) / Fraction(1 / rate) for a, b in zip(pre, gain, strict=True)]
    k = max(range(n), key=z.__getitem__)
    odds = np.array([float(value - z[k]) for value in z])
    np.testing.assert_array_less(np.abs(found - found[k] - odds), CLOSED_FORM * (1 + 200 + np.abs(odds)))
    assert_close(found[k], -np.log(np.exp(odds).sum()), CLOSED_FORM)


def test_a_policy_gradient_sees_no_constant_of_the_reward() -> None:
    """Rewards of 1e8 and of 0, the likeliest outcome with all the mass but e^-40 or e^-300."""
    for far in (40.0, 300.0):
        logits, gain = np.array([0.0, -far, -far - 1]), np.array([0.5, 1.25, -0.75])
        found = policy_gradient(logits, gain)
        exact = np.exp(-far) * np.array([-(0.75 - 1.25 * np.exp(-1)), 0.75, -1.25 * np.exp(-1)])
        assert_close(found, exact, CLOSED_FORM, float(np.abs(exact).max()))
        assert_close(policy_gradient(logits, gain + 2.0**27), exact, CLOSED_FORM, float(np.abs(exact).max()))


@given(st.data(), st.integers(4, 9))
def test_reward_is_log_p_in_each_component(data: st.DataObject, n: int) -> None:
    """Two components and a lone item: log p* less its mean in each of them."""
    log_p, cut = data.draw(log_densities(n)), data.draw(st.integers(2, n - 2))
    proposal = np.zeros((n, n))
    parts = [np.arange(cut), np.arange(cut, n - 1), np.array([n - 1])]
    for part in parts:
        if len(part) > 1:
            proposal[np.ix_(part, part)] = data.draw(proposals(len(part)))
    found = reward(win_matrix(Annotator(log_p, PBDE.luce()).preference_prob(), proposal / proposal.sum()))
    assert sorted(map(tuple, found.components)) == sorted(map(tuple, parts))
    for part in parts:
        assert_close(found.reward[part], log_p[part] - log_p[part].mean(), SOLVED)
    with pytest.raises(NotIdentifiableError):
        reward([[0, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 1], [0, 0, 1, 0]])


@given(st.data(), sizes, st.floats(0.2, 5))
def test_ilhf_dpo_and_the_sigmoid_norm(data: st.DataObject, n: int, gamma: float) -> None:
    """ILHF finds p*, DPO Eq. 17; RSO's sigmoid-norm loss, from density ratios, is least at DPO's optimum."""
    log_p, pre, other = (data.draw(log_densities(n)) for _ in range(3))
    wins = win_matrix(Annotator(log_p, PBDE.luce()).preference_prob(), data.draw(proposals(n)))
    assert_close(ilhf(wins).log_p, log_p, SOLVED)
    found = dpo(wins, pre, gamma)
    assert_close(found.log_p, targets.product_of_experts(log_p, pre, gamma), SOLVED)

    def sigmoid_norm(log_pi: Array) -> float:
        ratio = (np.exp(log_pi) / np.exp(pre)) ** gamma
        return float((wins * np.log1p(ratio[None, :] / ratio[:, None])).sum())

    assert_close(sigmoid_norm(found.log_p), found.loss, CLOSED_FORM)
    assert sigmoid_norm(other) >= found.loss - CLOSED_FORM


@given(st.data(), sizes, st.floats(0.1, 5))
def test_policy_gradients_are_derivatives(data: st.DataObject, n: int, beta: float) -> None:
    """Eq. 4 is the complex-step derivative of Eq. 3, Eq. 5 that of Eq. 13, and Eq. 5 vanishes at Eq. 14."""
    gain, logits, v = (data.draw(arrays(n, -3.0, 3.0)) for _ in range(3))
    pre = data.draw(log_densities(n))
    scale = (1 + beta) * (1 + float(np.abs(v).sum())) * 10
    along = np.imag(expected_reward(logits + 1j * STEP * v, gain)) / STEP
    assert_close(policy_gradient(logits, gain) @ v, along, CLOSED_FORM, scale)
    along = np.imag(kl_objective(logits + 1j * STEP * v, gain, pre, beta)) / STEP
    assert_close(kl_gradient(logits, gain, pre, beta) @ v, along, CLOSED_FORM, scale)
    assert_close(
        kl_gradient(targets.kl_control(gain, pre, beta), gain, pre, beta), np.zeros(n), CLOSED_FORM, scale
    )


@given(st.data(), sizes, st.floats(0.1, 5), st.floats(0.05, 1.95))
def test_natural_gradient_contracts(data: st.DataObject, n: int, beta: float, speed: float) -> None:
    """k steps leave (1 - eta beta)^k of the error in log pi, up to a constant."""
    gain, pre, start = data.draw(arrays(n, -3.0, 3.0)), data.draw(log_densities(n)), data.draw(log_densities(n))
    end = targets.kl_control(gain, pre, beta)
    after = natural_gradient(start, gain, pre, beta, speed / beta, steps=3) - end
    left = (1 - speed) ** 3 * (start - end)
    assert_close(after - after.mean(), left - left.mean(), CLOSED_FORM, scale=100 * (1 + 3 / beta))


@given(st.data(), sizes)
def test_without_kl_control_the_argmax_takes_all(data: st.DataObject, n: int) -> None:
    """Eq. 4's ascent ends on the argmax of r, in the start's proportions; plain ascent never lowers E[r]."""
    gain = np.array(data.draw(st.lists(st.integers(0, 3), min_size=n, max_size=n)), dtype=float)
    start, pre = data.draw(log_densities(n)), data.draw(log_densities(n))
    best = np.where(gain == gain.max(), np.exp(start), 0.0)
    assert_close(np.exp(natural_gradient(start, gain, pre, 0.0, 2.0, steps=30)), best / best.sum(), CLOSED_FORM)
    logits = start
    for _ in range(20):
        ahead = logits + 0.2 * policy_gradient(logits, gain)
        assert expected_reward(ahead, gain) >= expected_reward(logits, gain) - CLOSED_FORM
        logits = ahead


def log_p_of_place(x: Any) -> Any:
    """log of a mixture of two normal densities in the plane, up to a constant: (..., 2), real or complex."""
    first, second = (x - np.array([-1.0, 0.5])) ** 2, (x - np.array([1.5, -0.5])) ** 2
    return np.log(0.4 * np.exp(-first.sum(axis=-1)) + 0.6 * np.exp(-second @ np.array([0.5, 2.0])))


@given(st.data(), st.integers(3, 12))
def test_the_winners_score_is_collinear(data: st.DataObject, n: int) -> None:
    """In the plane: the score of p* is tau times that of winners / proposal, in both directions, and tau > 1."""
    places = data.draw(arrays(2 * n, -2.0, 2.0)).reshape(n, 2)
    q, log_p = np.exp(data.draw(log_densities(n, 2.0))), log_p_of_place(places)
    steps = 1j * STEP * np.eye(2)
    moved = log_p_of_place(places[:, None, :] + steps)  # (n, 2): one place, moved in one direction
    score = np.imag(moved) / STEP
    winners = np.log((q / (1 + np.exp(log_p - moved[:, :, None]))).sum(axis=-1))
    tau = temperature(log_p, q)
    assert_close(tau[:, None] * np.imag(winners) / STEP, score, CLOSED_FORM, scale=float(tau.max()) * 100)
    assert (tau > 1).all()


@given(st.data(), sizes)
def test_winner_density(data: st.DataObject, n: int) -> None:
    """Winners per draw from q are twice E_q Prob(x preferred to x'), x' other than x; -inf for what never wins."""
    log_p, q = data.draw(log_densities(n)), np.exp(data.draw(log_densities(n, 2.0)))
    prob = Annotator(log_p, PBDE.luce()).preference_prob()
    share = q * ((prob - 0.5 * np.eye(n)) @ q)
    measure = np.exp(data.draw(arrays(n, -2.0, 2.0)))
    found = winner_density(win_matrix(prob, q), measure)
    assert_close(np.exp(found) * measure, share / share.sum(), CLOSED_FORM)
    assert winner_density([[0, 1], [0, 0]]).tolist() == [0.0, -np.inf]


@given(st.data(), sizes, st.integers(0, 1000))
def test_mcmc_with_people(data: st.DataObject, n: int, seed: int) -> None:
    """Stationary at p* for Luce, at e^omega for any choice rule; detailed balance; every cycle closes."""
    t = draw_transitions(np.random.default_rng(seed), n)
    log_p = data.draw(log_densities(n))
    for model in (PBDE.luce(), data.draw(models(n))):
        annotator = Annotator(log_p, model)
        chain = people_chain(annotator.preference_prob(), t)
        law = stationary(chain)
        assert_close(chain.sum(axis=1), np.ones(n), CLOSED_FORM)
        assert_close(law, normalize(annotator.omega), SOLVED)
        assert_close(np.exp(law) @ chain, np.exp(law), CLOSED_FORM)
        assert_close(cycle_residual(chain), 0.0, SOLVED)


@pytest.mark.parametrize("order", [[0, 1, 2], [2, 1, 0]])
def test_people_who_never_choose_one_of_two(order: list[int]) -> None:
    """Preferences of 0 and 1: the chain ends in its best outcome, has no other law, and no step is taken back."""
    prob = np.array([[0.5, 1, 1], [0, 0.5, 1], [0, 0, 0.5]])[order][:, order]
    chain = people_chain(prob, np.full((3, 3), 1 / 3))
    assert chain[order.index(0), order.index(0)] == 1.0
    assert cycle_residual(chain) == np.inf
    with pytest.raises(ValueError, match="chain must be irreducible, got 3 classes"):
        stationary(chain)


def test_one_state_has_no_cycle() -> None:
    """n = 1: nothing to leave, nothing to close."""
    assert (cycle_residual([[1.0]]), stationary([[1.0]]).tolist()) == (0.0, [0.0])


def test_a_mixture_breaks_detailed_balance() -> None:
    """A fixed mixture on a triangle: the residual is that of its one cycle; on a path of three there is none."""
    members = [Annotator(normalize(np.array(x)), PBDE.luce()) for x in ([2.0, 0.0, -1.0], [-1.0, 2.0, 0.0])]
    prob = Population(members, [0.4, 0.6]).preference_prob()
    odds = np.log(prob) - np.log(prob.T)
    triangle = np.full((3, 3), 1 / 3)
    assert_close(
        cycle_residual(people_chain(prob, triangle)), abs(odds[0, 1] + odds[1, 2] + odds[2, 0]), CLOSED_FORM
    )
    assert cycle_residual(people_chain(prob, triangle)) > 0.1
    path = np.array([[0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]])
    assert_close(cycle_residual(people_chain(prob, path)), 0.0, CLOSED_FORM)
    assert cycle_residual([[0.5, 0.5, 0], [0, 0.5, 0.5], [0.5, 0, 0.5]]) == np.inf


HALF, WINS = np.log([0.5, 0.5]), [[0, 1], [1, 0]]
BAD: list[tuple[Any, str]] = [
    (lambda: slic_hf(WINS, HALF, -1, 1), "delta must be >= 0, got -1"),
    (lambda: slic_hf(WINS, HALF, 1, float("nan")), "lam must be >= 0, got nan"),
    (lambda: slic_hf(WINS, [0.0, 0.0], 1, 1), "log_p_pre must be normalised"),
    (lambda: slic_hf(WINS, [0.0], 1, 1), r"log_p_pre must have shape \(2,\)"),
    (lambda: rso(WINS, HALF, 0), "gamma must be > 0"),
    (lambda: rrhf(WINS, [1, 0]), "lengths must be > 0"),
    (lambda: rrhf(WINS, [1]), r"lengths must have shape \(2,\)"),
    (lambda: rrhf(np.zeros((2, 2)), [1, 1]), "no comparisons"),
    (lambda: natural_gradient(HALF, [0, 1], HALF, 1.0, 2.0), "eta beta must be < 2, got 2.0"),
    (lambda: natural_gradient(HALF, [0, 1], HALF, 1.0, 0.0), "eta must be > 0"),
    (lambda: natural_gradient(HALF, [0, 1], HALF, -1.0, 1.0), "beta must be >= 0"),
    (lambda: kl_gradient(HALF, [0, 1], HALF, 0.0), "beta must be > 0"),
    (lambda: people_chain(np.full((2, 2), 0.5), [[0.5, 0.5], [0.4, 0.6]]), "transitions must be symmetric"),
    (lambda: people_chain(np.full((2, 2), 0.5), np.eye(2)), "irreducible"),
    (lambda: people_chain(np.full((2, 2), 0.5), np.ones((2, 2))), "rows that sum to 1"),
    (lambda: people_chain([[0.5, 0.9], [0.9, 0.5]], np.full((2, 2), 0.5)), "must be 1, got 1.8"),
    (lambda: people_chain([[0.5, 2], [-1, 0.5]], np.full((2, 2), 0.5)), r"preference_prob must lie in \[0, 1\]"),
    (lambda: people_chain(np.full((3, 3), 0.5), np.eye(2)), r"one shape \(n, n\)"),
    (lambda: stationary(np.eye(2)), "chain must be irreducible"),
    (lambda: stationary([[1.0, 0.0], [0.5, 0.5]]), "chain must be irreducible, got 2 classes"),
    (lambda: stationary([[0.5, 0.5], [1.0, 0.0], [0.0, 1.0]]), r"chain must have shape \(n, n\)"),
    (lambda: cycle_residual([[0.5, 0.6], [0.5, 0.5]]), "chain must be >= 0 with rows that sum to 1"),
    (lambda: temperature(HALF, [0.0, 0.0]), "proposal must be >= 0 and sum to 1"),
    (lambda: natural_gradient(HALF, [0, 1], HALF, 1.0, 1.0, steps=-1), "steps must be >= 0, got -1"),
    (lambda: slic_hf([[0, 1.7e308], [1.7e308, 0]], HALF, 1, 1), "wins must sum to .* got inf"),
    (lambda: cycle_residual(np.eye(2)), "chain must be connected"),
]


@pytest.mark.parametrize(("call", "message"), BAD, ids=[message for _, message in BAD])
def test_bad_input(call: Any, message: str) -> None:
    """Name, rule and value, as a ValueError."""
    with pytest.raises(ValueError, match=message):
        call()
