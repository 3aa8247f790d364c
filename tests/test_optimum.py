"""The exact optimum: closed forms, invariances, certificates, published fits, and what it refuses."""

from __future__ import annotations

import csv
from fractions import Fraction
from pathlib import Path
from typing import Any

import choix
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import sparse
from scipy.special import expit

from reference import (
    PBDE,
    Annotator,
    Comparisons,
    NotConvergedError,
    NotIdentifiableError,
    covariance,
    optimum,
    targets,
    win_matrix,
)
from reference.inference.covariance import grounded_covariance, omega_covariance
from reference.pbde import normalize
from reference.solvers.laplacian import star_mesh
from reference.solvers.newton import curvatures
from reference.solvers.win_pairs import Pairs, summary
from reference.univariate import Toy
from tests.checks import CLOSED_FORM, EPS64, SATURATED, SOLVED, assert_close
from tests.strategies import arrays, counts, log_densities, models, proposals, sizes

CITATIONS = Path(__file__).parents[1] / "reference" / "data" / "citations.csv"


def loss(wins: Any, omega: Any) -> float:
    """Eq. 7 by its definition, a pair at a time."""
    n = len(wins)
    total = sum(wins[i, j] * np.logaddexp(0, omega[j] - omega[i]) for i in range(n) for j in range(n) if i != j)
    return float(total / wins.sum())


@given(st.data(), sizes)
def test_any_annotator_and_model_reach_the_general_closed_form(data: st.DataObject, n: int) -> None:
    """The optimum is (f* log p* + g* - g + C) / f under any connected proposal (Theorem 2 where f, g agree)."""
    annotator = Annotator(data.draw(log_densities(n, 2.0)), data.draw(models(n)))
    model = data.draw(models(n))
    wins = win_matrix(annotator.preference_prob(), data.draw(proposals(n)))
    assert_close(optimum(wins, model).log_p, targets.recovered(annotator, model), SOLVED)
    assert_close(optimum(wins, annotator.model).log_p, annotator.log_p, SOLVED)


@given(st.data(), sizes, st.floats(0, 60))
def test_a_density_of_any_f_is_normalised(data: st.DataObject, n: int, decades: float) -> None:
    """f over up to 60 decades, with a measure: the mass is 1, and Omega is omega but for a constant."""
    f = 10.0 ** data.draw(arrays(n, -decades / 2, decades / 2))
    g, omega = data.draw(arrays(n, -3.0, 3.0)), data.draw(arrays(n, -100.0, 100.0))
    measure = np.exp(data.draw(arrays(n, -3.0, 3.0)))
    log_p = PBDE(f, g).log_p(omega, measure)
    assert abs(np.log(measure @ np.exp(log_p))) <= 8 * n * EPS64
    k = int(np.argmax(log_p + np.log(measure)))
    apart = f * log_p + g - omega - (f[k] * log_p[k] + g[k] - omega[k])
    terms = f * (np.abs(log_p) + np.abs(np.log(measure)) + 1) + np.abs(g) + np.abs(omega)  # what is rounded
    assert (np.abs(apart) <= 16 * EPS64 * (terms + terms[k])).all()


@given(st.data(), sizes, st.floats(0.2, 8))
def test_equations_17_and_19(data: st.DataObject, n: int, strength: float) -> None:
    """A Luce annotator teaches DPO the product of experts and the geometric PBDE the geometric mean."""
    log_p, log_p_pre = data.draw(log_densities(n)), data.draw(log_densities(n))
    wins = win_matrix(Annotator(log_p, PBDE.luce()).preference_prob(), data.draw(proposals(n)))
    product = log_p_pre + log_p / strength
    assert_close(
        optimum(wins, PBDE.dpo(strength, log_p_pre)).log_p, product - np.log(np.exp(product).sum()), SOLVED
    )
    mean = (1 - strength) * log_p_pre + strength * log_p
    found = optimum(wins, PBDE.geometric(strength, log_p_pre)).log_p
    assert_close(found, mean - np.log(np.exp(mean - mean.max()).sum()) - mean.max(), SOLVED * max(1.0, strength))


@given(st.data(), sizes, st.floats(-50, 50))
def test_a_shift_of_omega_changes_nothing(data: st.DataObject, n: int, shift: float) -> None:
    """g and g + c are the same PBDE."""
    model, wins = data.draw(models(n)), data.draw(counts(n))
    shifted = PBDE(model.f, np.asarray(model.g) + shift)
    assert_close(optimum(wins, shifted).log_p, optimum(wins, model).log_p, 1e-11)


@given(st.data(), sizes)
def test_permuting_the_items_permutes_the_answer(data: st.DataObject, n: int) -> None:
    """Items have no order."""
    wins, order = data.draw(counts(n)), np.array(data.draw(st.permutations(range(n))))
    assert_close(optimum(wins[order][:, order], PBDE.luce()).omega, optimum(wins, PBDE.luce()).omega[order], 1e-11)


@given(st.data(), sizes)
def test_the_loss_is_below_every_perturbation(data: st.DataObject, n: int) -> None:
    """The optimum minimises Eq. 7, and its loss and divergence are Eq. 7 and Eq. 8."""
    wins = data.draw(counts(n))
    found = optimum(wins, PBDE.luce())
    assert_close(found.loss, loss(wins, found.omega), CLOSED_FORM)
    with np.errstate(divide="ignore", invalid="ignore"):
        share = wins / (wins + wins.T)
        entropy = -np.nansum(np.where(wins > 0, wins * np.log(share), 0.0)) / wins.sum()
    assert_close(found.divergence, found.loss - entropy, CLOSED_FORM)
    step = data.draw(arrays(n, -1.0, 1.0))
    assert loss(wins, found.omega + step) >= found.loss - 1e-14


@given(st.data(), sizes)
def test_sparse_and_dense_wins_agree(data: st.DataObject, n: int) -> None:
    """One object in two layouts."""
    wins = data.draw(counts(n))
    dense, thin = optimum(wins, PBDE.luce()), optimum(sparse.csr_array(wins), PBDE.luce())
    assert_close(thin.omega, dense.omega, 1e-11)
    assert_close([thin.loss, thin.divergence], [dense.loss, dense.divergence], CLOSED_FORM)


@given(st.data(), st.integers(2, 7))
def test_choix_agrees(data: st.DataObject, n: int) -> None:
    """A third opinion: I-LSR of choix reaches the same omega."""
    wins = data.draw(counts(n))
    assert_close(optimum(wins, PBDE.luce()).omega, choix.ilsr_pairwise_dense(wins, tol=1e-12), 1e-7)


@given(st.data(), st.integers(2, 7))
def test_foster(data: st.DataObject, n: int) -> None:
    """Foster: the curvatures times their effective resistances sum to n - 1."""
    wins = data.draw(counts(n))
    found = optimum(wins, PBDE.luce())
    inverse, c = omega_covariance(wins, found), curvatures(wins, found.omega)
    resistance = np.diag(inverse)[:, None] + np.diag(inverse)[None, :] - 2 * inverse
    assert_close((c * resistance).sum() / 2, n - 1, SOLVED)


@given(st.data(), st.integers(2, 6))
def test_matrix_tree(data: st.DataObject, n: int) -> None:
    """Deleting any item from the information's Laplacian leaves the same determinant."""
    wins = data.draw(counts(n))
    c = curvatures(wins, optimum(wins, PBDE.luce()).omega)
    laplacian = np.diag(c.sum(axis=1)) - c
    minors = [np.linalg.det(np.delete(np.delete(laplacian, k, 0), k, 1)) for k in range(n)]
    assert_close(np.array(minors) / minors[0], np.ones(n), 1e-8)


@given(st.data(), st.integers(2, 60))
def test_star_mesh_solves_the_network(data: st.DataObject, n: int) -> None:
    """sum_j c_ij (x_i - x_j) = sum_j flow_ij for the x it returns, over several blocks."""
    rng = np.random.default_rng(data.draw(st.integers(0, 10**6)))
    c = rng.random((n, n))
    c, flow = c + c.T, rng.normal(size=(n, n))
    np.fill_diagonal(c, 0.0)
    flow -= flow.T
    x = star_mesh(c, flow[None], block=7)[:, 0]
    assert_close(c.sum(axis=1) * x - c @ x, flow.sum(axis=1), 1e-11)


def test_covariance_is_the_projected_inverse() -> None:
    """J L^+ J^T = U (U^T D_f L D_f U)^-1 U^T, with U a basis of the directions that keep sum pi = 1."""
    rng = np.random.default_rng(1)
    n = 6
    wins = rng.integers(1, 9, (n, n)).astype(float)
    np.fill_diagonal(wins, 0.0)
    model = PBDE(rng.uniform(0.3, 3, n), rng.normal(size=n))
    found = optimum(wins, model)
    c = curvatures(wins, found.omega)
    laplacian, f = np.diag(c.sum(axis=1)) - c, np.asarray(model.f)
    u = np.linalg.svd(np.exp(found.log_p)[None, :])[2][1:].T
    expected = u @ np.linalg.inv(u.T @ (f[:, None] * laplacian * f) @ u) @ u.T
    assert_close(covariance(wins, found, model), expected, SOLVED)
    assert_close(covariance(wins.tolist(), found, model), expected, SOLVED)


def in_fractions(conductance: NDArray[np.float64], ground: int) -> NDArray[Any]:
    """(n, n): the inverse of the Laplacian without the ground, whose row and column are 0, by Gauss and Jordan."""
    n, others = len(conductance), np.delete(np.arange(len(conductance)), ground)
    c = np.array([[Fraction(value) for value in row] for row in conductance.tolist()], dtype=object)
    one = np.array([[Fraction(int(i == j)) for j in range(n - 1)] for i in range(n - 1)], dtype=object)
    rows = np.hstack([(np.diag(c.sum(axis=1)) - c)[np.ix_(others, others)], one])
    for i in range(n - 1):
        rows[i] /= rows[i, i]
        for k in set(range(n - 1)) - {i}:
            rows[k] -= rows[k, i] * rows[i]
    inverse = np.full((n, n), Fraction(0), dtype=object)
    inverse[np.ix_(others, others)] = rows[:, n - 1 :]
    return inverse


@given(seed=st.integers(0, 10**6), n=st.integers(2, 6), span=st.sampled_from([1.0, 30.0, 300.0]))
def test_every_variance_keeps_its_digits(seed: int, n: int, span: float) -> None:
    """Where information spans hundreds of nats: the covariance of omega entry by entry, the variances of log p."""
    rng = np.random.default_rng(seed)
    log_p = normalize(span * rng.random(n))
    wins = 1e6 * win_matrix(Annotator(log_p, PBDE.luce()).preference_prob(), np.full(n, 1 / n))
    found = optimum(wins, PBDE.luce())
    ground = int(found.log_p.argmax())
    exact = in_fractions(curvatures(wins, found.omega), ground)
    got, expected = grounded_covariance(wins, found, ground), exact.astype(np.float64)
    assert (np.abs(got - expected) <= CLOSED_FORM * expected).all()
    w = np.array([Fraction(value) for value in np.exp(found.log_p).tolist()], dtype=object)
    centred = exact - (w / w.sum()) @ exact
    variances = np.diag(centred - (centred @ (w / w.sum()))[:, None]).astype(np.float64)
    assert (np.abs(np.diag(covariance(wins, found, PBDE.luce())) - variances) <= CLOSED_FORM * variances).all()


def test_covariance_refuses_too_many_items() -> None:
    """Above 5,000 items the error says why."""
    ring = sparse.eye_array(5001, k=1, format="csr") + sparse.eye_array(5001, k=-1, format="csr")
    found = optimum(ring, PBDE.luce())
    with pytest.raises(ValueError, match=r"5001 items is a dense array of 0.2 GB"):
        covariance(ring, found, PBDE.luce())


def test_finite_data_approach_the_optimum_at_the_covariances_rate() -> None:
    """(log p_hat - log p) / s.e. has mean square 1 over 400 samples, within four standard errors of that mean."""
    rng = np.random.default_rng(3)
    n, each, samples = 5, 400, 400
    model = PBDE(rng.uniform(0.5, 2, n), rng.normal(size=n))
    annotator = Annotator(np.log(np.full(n, 1 / n)) + 0.0, model)
    prob = annotator.preference_prob()
    i, j = np.triu_indices(n, 1)
    squares = np.empty(samples)
    for k in range(samples):
        wins = np.zeros((n, n))
        wins[i, j] = rng.binomial(each, prob[i, j])
        wins[j, i] = each - wins[i, j]
        found = optimum(wins, model)
        squares[k] = np.mean(
            (found.log_p - np.asarray(annotator.log_p)) ** 2 / np.diag(covariance(wins, found, model))
        )
    assert abs(squares.mean() - 1) < 4 * squares.std() / np.sqrt(samples)


@pytest.mark.parametrize("points", [401, 101])
def test_annotator_1_is_recovered_over_a_thousand_nats(points: int) -> None:
    """N(-2.5, .25) on [-10, 10], uniform proposal: log densities down to -1250 are recovered to 1e-9."""
    toy = Toy(points)
    annotator = toy.population.annotators[0]
    found = optimum(win_matrix(annotator.preference_prob(), toy.uniform_proposal), PBDE.luce(), toy.measure)
    assert_close(found.log_p, annotator.log_p, SATURATED, scale=1.0)
    assert found.newton_step <= 1e-11


@pytest.mark.parametrize("points", [41, 21])
def test_annotator_1_on_coarse_grids_is_right_or_refused(points: int) -> None:
    """Wins between neighbours down to 1e-87: right to 1e-6, or one of the two errors."""
    toy = Toy(points)
    annotator = toy.population.annotators[0]
    wins = win_matrix(annotator.preference_prob(), toy.uniform_proposal)
    try:
        found = optimum(wins, PBDE.luce(), toy.measure)
    except (NotConvergedError, NotIdentifiableError):
        pytest.skip("refused, which is one of the two right outcomes")
    else:
        assert_close(found.log_p, annotator.log_p, 1e-6, scale=1.0)


def test_two_clusters_linked_by_almost_nothing() -> None:
    """A curvature of 1e-96 between two groups does not hide behind the groups' own."""
    omega = np.array([98.0, -6.0, -120.0, 84.0])
    pairs = np.array([[0, 0.4, 0.4, 0.1], [0, 0, 0.3, 0], [0, 0, 0, 0.2], [0, 0, 0, 0]])
    prob = expit(omega[:, None] - omega[None, :])
    found = optimum((pairs + pairs.T) * prob, PBDE.luce())
    assert_close(found.omega, omega - omega.mean(), SATURATED, scale=1.0)


def test_the_misspecified_optimum_depends_on_the_proposal() -> None:
    """PAPER: .1131 nats under the pretrained proposal, .1446 under the uniform one, on 401 points."""
    toy = Toy(401)
    prob = toy.population.preference_prob()
    pre = optimum(win_matrix(prob, toy.mass(toy.log_p_pre)), PBDE.luce(), toy.measure)
    uniform = optimum(win_matrix(prob, toy.uniform_proposal), PBDE.luce(), toy.measure)
    assert pre.divergence == pytest.approx(0.1131, abs=5e-5)
    assert uniform.divergence == pytest.approx(0.1446, abs=5e-5)
    assert np.exp(pre.log_p).max() == pytest.approx(0.1366, abs=1e-4)
    assert np.exp(uniform.log_p).max() == pytest.approx(0.1415, abs=1e-4)


def test_published_fit_of_the_citations() -> None:
    """Stigler 1994: the estimates, deviance and standard errors against Biometrika, to every printed digit."""
    data = Comparisons.from_csv(CITATIONS, weight="weight")
    wins = data.wins()
    found = optimum(wins, PBDE.luce())
    place = {label: k for k, label in enumerate(data.labels or ())}
    base = place["Biometrika"]
    inner = omega_covariance(wins, found)
    expected = {
        "Comm. Statist.": (-2.9491, 0.102545),
        "JASA": (-0.4796, 0.060589),
        "JRSS-B": (0.2690, 0.070830),
    }
    for label, (estimate, error) in expected.items():
        k = place[label]
        assert found.omega[k] - found.omega[base] == pytest.approx(estimate, abs=5e-5)
        assert np.sqrt(inner[k, k] + inner[base, base] - 2 * inner[k, base]) == pytest.approx(error, abs=5e-7)
    assert wins.sum() == 3727
    assert 2 * 3727 * found.divergence == pytest.approx(4.293, abs=5e-4)


def test_published_fit_of_the_baseball_season() -> None:
    """Agresti, American League East 1987, without home advantage; skipped where the table is absent."""
    path = Path(__file__).parents[2] / "shared" / "data" / "bradley_terry" / "baseball.csv"
    if not path.exists():
        pytest.skip("the published table is not beside the repository")
    with open(path, newline="") as file:
        rows = list(csv.DictReader(file))
    teams = sorted({row["home.team"] for row in rows})
    wins = np.zeros((7, 7))
    for row in rows:
        home, away = teams.index(row["home.team"]), teams.index(row["away.team"])
        wins[home, away] += float(row["home.wins"])
        wins[away, home] += float(row["away.wins"])
    found = optimum(wins, PBDE.luce())
    gap = dict(zip(teams, found.omega - found.omega[teams.index("Baltimore")], strict=True))
    published = {"Boston": 1.1077, "Cleveland": 0.6839, "Detroit": 1.4364, "Milwaukee": 1.5814}
    for team, estimate in {**published, "New York": 1.2476, "Toronto": 1.2945}.items():
        assert gap[team] == pytest.approx(estimate, abs=5e-5)


def test_a_long_chain_takes_the_sparse_factorisation() -> None:
    """20,000 items in a row, each compared with the next: recovered, with no dense array."""
    rng = np.random.default_rng(0)
    n = 20_000
    omega = np.cumsum(rng.normal(0, 0.05, n))
    prob, k = expit(np.diff(omega)), np.arange(n - 1)
    won, at = np.concatenate([prob, 1 - prob]), (np.r_[k + 1, k], np.r_[k, k + 1])
    found = optimum(sparse.csr_array(sparse.coo_array((won, at), shape=(n, n))), PBDE.luce())
    assert_close(found.omega, omega - omega.mean(), SATURATED)


def test_summary_by_margins_agrees_with_strengths() -> None:
    """Beyond 600 nats the losses come from margins: the same number as by definition."""
    omega = np.array([0.0, -300.0, -700.0])
    wins = np.array([[0, 1, 1], [1e-3, 0, 1], [0, 1e-3, 0]])
    assert_close(summary(Pairs.of(wins), omega)[0], loss(wins, omega), CLOSED_FORM)


def test_components_are_named() -> None:
    """Items that never win, or are never compared, are components of their own."""
    wins = np.zeros((5, 5))
    wins[0, 1] = wins[1, 0] = wins[0, 2] = wins[2, 3] = wins[3, 2] = 1
    with pytest.raises(NotIdentifiableError, match="1 never compared, the first is 4") as refusal:
        optimum(wins, PBDE.luce())
    assert [part.tolist() for part in refusal.value.components] == [[0, 1], [2, 3], [4]]


@pytest.mark.parametrize(
    ("wins", "message"),
    [
        (np.zeros((3, 3)), "no comparisons"),
        (np.eye(3), "no comparisons"),
        (sparse.csr_array((3, 3)), "no comparisons"),
        (np.ones((1, 1)), "at least two items"),
        (np.ones((2, 3)), r"shape \(n, n\)"),
        (np.array([[0, -1.0], [1, 0]]), "wins must be >= 0"),
        (np.array([[0, np.nan], [1, 0]]), "wins must be finite"),
    ],
)
def test_bad_wins(wins: Any, message: str) -> None:
    """Each with its own words, and not as NotIdentifiableError."""
    with pytest.raises(ValueError, match=message) as refusal:
        optimum(wins, PBDE.luce())
    assert not isinstance(refusal.value, NotIdentifiableError)


def test_a_model_of_another_support_is_refused() -> None:
    """f, g and measure must have the wins' n."""
    wins = np.ones((3, 3))
    with pytest.raises(ValueError, match="support has 3 points"):
        optimum(wins, PBDE(np.ones(4), 0.0))
    with pytest.raises(ValueError, match="measure must have shape"):
        optimum(wins, PBDE.luce(), np.ones(4))


@pytest.mark.parametrize("sparse_wins", [False, True])
@pytest.mark.parametrize("turned", [False, True])
def test_links_are_needed_in_both_directions(sparse_wins: bool, turned: bool) -> None:
    """The first item reaches all others by wins but none wins against it; or the other way round."""
    wins = np.array([[0.0, 2.0, 0.0], [0.0, 0.0, 1.0], [0.0, 3.0, 0.0]])
    wins = wins.T if turned else wins
    with pytest.raises(NotIdentifiableError) as caught:
        optimum(sparse.csr_array(wins) if sparse_wins else wins, PBDE.luce())
    assert [component.tolist() for component in caught.value.components] == [[0], [1, 2]]
