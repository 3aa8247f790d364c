"""Fits of observed comparisons: priors, robust errors, predictions, Davidson's ties, partial orders."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy.optimize import minimize
from scipy.stats import binom

from reference import PBDE, Comparisons, NotConvergedError, NotIdentifiableError, covariance, optimum
from reference.__main__ import main
from reference.command_line.diagnose import diagnose
from reference.errors import NoFiniteFitError
from reference.inference.calibration import draw
from reference.inference.covariance import squared_residuals
from reference.inference.davidson import PairCounts, davidson, log_probabilities
from reference.inference.fit import FitOptions, among, fit, partial_order
from tests.checks import CLOSED_FORM, REFERENCE_SOLVER, SOLVED, assert_close
from tests.strategies import counts, models

CITATIONS = str(Path(__file__).parents[1] / "reference" / "data" / "citations.csv")


def of_wins(wins: np.ndarray, ties: np.ndarray | None = None) -> Comparisons:
    """Comparisons that have these wins (n, n), and these ties (n, n) on top."""
    i, j = np.nonzero(wins)
    y, weight = np.ones(len(i)), wins[i, j]
    if ties is not None:
        k, m = np.nonzero(ties)
        i, j = np.concatenate([i, k]), np.concatenate([j, m])
        y, weight = np.concatenate([y, np.full(len(k), 0.5)]), np.concatenate([weight, ties[k, m]])
    return Comparisons(i, j, y, len(wins), weight=weight)


@given(st.data(), st.integers(2, 7))
def test_a_plain_fit_is_the_optimum(data: st.DataObject, n: int) -> None:
    """Density, log-likelihood, saturated likelihood and standard errors of `optimum` and `covariance`."""
    wins, model = data.draw(counts(n)), data.draw(models(n, 0.5))
    found, fitted = optimum(wins, model), fit(of_wins(wins), model)
    assert_close(fitted.log_p, found.log_p, SOLVED)
    assert_close(fitted.log_likelihood, -found.loss, SOLVED)
    assert_close(fitted.saturated - fitted.log_likelihood, found.divergence, SOLVED)
    assert_close(fitted.se_log_p, np.sqrt(np.diag(covariance(wins, found, model))), SOLVED)


@given(st.data(), st.integers(2, 6), st.floats(0.1, 3))
def test_a_prior_is_a_ghost_item(data: st.DataObject, n: int, prior: float) -> None:
    """The maximum of the likelihood with `prior` wins and losses of every item against one more item."""
    wins = data.draw(counts(n)) * (np.arange(n)[:, None] < np.arange(n))  # not strongly connected without it
    assume(wins.sum() > 0)
    fitted = fit(of_wins(wins), PBDE.luce(), prior=prior)

    def loss(ends: np.ndarray) -> float:
        margins = ends[:, None] - ends[None, :]
        ghost = (ends[:, None] - np.array([0.0]))[:, 0]
        data_part = (wins * np.logaddexp(0, -margins)).sum()
        return float(data_part + prior * (np.logaddexp(0, -ghost) + np.logaddexp(0, ghost)).sum())

    slope = np.array([np.imag(_complex_loss(wins, prior, fitted, k)) for k in range(n)])
    assert_close(slope, np.zeros(n), SOLVED, scale=wins.sum() + n * prior)
    ghost = _ghost_of(wins, prior, fitted.omega)
    found = minimize(loss, np.zeros(n), method="BFGS", options={"gtol": 1e-8})
    assert loss(fitted.omega - ghost) <= found.fun + 1e-12 * (1 + abs(found.fun))


def _ghost_of(wins: np.ndarray, prior: float, omega: np.ndarray) -> float:
    """The ghost's omega: its expected wins are half its comparisons, found by bisection."""
    low, high = omega.min() - 1, omega.max() + 1
    for _ in range(200):
        middle = (low + high) / 2
        expected = (1 / (1 + np.exp(omega - middle))).sum()
        low, high = (middle, high) if expected < len(omega) / 2 else (low, middle)
    return float((low + high) / 2)


def _complex_loss(wins: np.ndarray, prior: float, fitted: object, k: int) -> complex:
    """loss(omega + 1e-30j e_k) / 1e-30, all margins by log1p so that the imaginary part lives."""
    omega = fitted.omega - _ghost_of(wins, prior, fitted.omega) + 0j  # type: ignore[attr-defined]
    omega[k] += 1e-30j
    margins = omega[:, None] - omega[None, :]
    total = (wins * np.log1p(np.exp(-margins))).sum()
    return complex((total + prior * (np.log1p(np.exp(-omega)) + np.log1p(np.exp(omega))).sum()) / 1e-30)


def test_the_error_names_the_cure_and_the_cure_works() -> None:
    """A graph that one item always wins has no finite fit; half a win against a ghost makes it finite."""
    wins = np.array([[0.0, 3, 2], [0, 0, 2], [0, 1, 0]])
    with pytest.raises(NotIdentifiableError, match=r"--prior 0\.5"):
        fit(of_wins(wins), PBDE.luce())
    fitted = fit(of_wins(wins), PBDE.luce(), prior=0.5)
    assert np.isfinite(fitted.log_p).all()
    assert fitted.log_p[0] == fitted.log_p.max()


@given(st.data(), st.integers(2, 6))
def test_the_sandwich_is_the_outer_product_of_scores(data: st.DataObject, n: int) -> None:
    """L^+ (sum of g g^T) L^+ with one score g a comparison, written out."""
    wins = data.draw(counts(n))
    comparisons = of_wins(wins)
    plain, robust = fit(comparisons, PBDE.luce()), fit(comparisons, PBDE.luce(), robust=True)
    meat = np.zeros((n, n))
    for i, j in zip(*np.nonzero(wins), strict=True):
        score = np.zeros(n)
        score[i] = 1 - 1 / (1 + np.exp(plain.omega[j] - plain.omega[i]))
        score[j] = -score[i]
        meat += wins[i, j] * np.outer(score, score)
    bread = plain.omega_covariance
    assert bread is not None
    assert robust.omega_covariance is not None
    expected = bread @ meat @ bread
    assert_close(robust.omega_covariance, expected, SOLVED, scale=float(np.abs(expected).max()))


def test_robust_errors_agree_where_the_rule_is_right() -> None:
    """Twenty thousand comparisons of one Luce annotator: the two kinds of error differ by a few per cent."""
    _, comparisons = draw(np.triu(np.full((8, 8), 700.0), 1), np.random.default_rng(3))
    plain, robust = fit(comparisons, PBDE.luce()), fit(comparisons, PBDE.luce(), robust=True)
    ratio = robust.se_log_p / plain.se_log_p
    assert 0.9 < ratio.min() <= ratio.max() < 1.1
    residuals = squared_residuals(comparisons, plain.omega)
    assert_close(residuals, residuals.T, CLOSED_FORM)


def test_predictions_of_the_citations() -> None:
    """Prob = sigmoid of the margin; the interval's ends are margin -+ 1.96 s.e., s.e. published as .0606."""
    comparisons = Comparisons.from_csv(CITATIONS, weight="weight")
    fitted = fit(comparisons, PBDE.luce())
    labels = list(comparisons.labels or ())
    prob, low, high = fitted.predict(labels.index("JASA"), labels.index("Biometrika"))
    margin, ends = np.log(prob / (1 - prob)), np.log([low / (1 - low), high / (1 - high)])
    assert margin == pytest.approx(-0.4796, abs=5e-5)
    assert np.diff(ends)[0] / 2 / 1.959964 == pytest.approx(0.060589, abs=5e-7)
    same, again, once_more = fitted.predict(0, 0)
    assert (same, again, once_more) == (0.5, 0.5, 0.5)


@pytest.mark.parametrize("robust", [False, True])
def test_a_tiny_prior_changes_no_standard_error(robust: bool) -> None:
    """The ghost is then known to 1e7 nats and more, the items as well as without it."""
    comparisons = Comparisons.from_csv(CITATIONS, weight="weight")
    without = fit(comparisons, PBDE.luce(), robust=robust)
    for prior in (1e-15, 1e-300):
        fitted = fit(comparisons, PBDE.luce(), prior=prior, robust=robust)
        assert_close(fitted.se_log_p, without.se_log_p, SOLVED)
        assert_close(fitted.se_omega, without.se_omega, SOLVED)


@pytest.mark.parametrize("bridge", [1e-13, 1e-16, 1e-17])
def test_davidsons_covariance_is_not_given_in_rounding(bridge: float) -> None:
    """Two pairs of items that next to no comparisons hold together: no digit of its variance is left."""
    x_a, x_b, y = np.array([0, 1, 0, 2, 3, 2, 1, 2, 1]), np.array([1, 0, 1, 3, 2, 3, 2, 1, 2]), [1, 1, 0.5] * 3
    weight = np.repeat([1.0, 1.0, bridge], 3)
    comparisons = Comparisons(x_a, x_b, np.array(y), weight=weight, n=4)
    with pytest.raises(NotConvergedError):
        fit(comparisons, PBDE.luce(), ties="davidson")


@given(st.data(), st.integers(2, 5))
def test_davidsons_optimum_against_a_general_solver(data: st.DataObject, n: int) -> None:
    """No other point is likelier, the slope vanishes, and wins and ties match their expectations."""
    wins, ties = data.draw(counts(n)), np.triu(data.draw(counts(n)), 1)
    wins[np.roll(np.arange(n), 1), np.arange(n)] += 1  # both directions: the maximum is finite
    assume(ties.sum() > 0)
    pairs = PairCounts.of(of_wins(wins, ties))
    found = davidson(pairs)

    def loss(point: np.ndarray) -> float:
        return -float((pairs.outcomes * log_probabilities(pairs, point[:-1], float(point[-1]))).sum())

    total = pairs.outcomes.sum(axis=1)
    prob = np.exp(log_probabilities(pairs, found.omega, found.theta))
    assert_close((total * prob[:, 2]).sum(), pairs.outcomes[:, 2].sum(), SOLVED)
    best = loss(np.append(found.omega, found.theta))
    other = minimize(loss, np.zeros(n + 1), method="BFGS")
    assert best <= other.fun + REFERENCE_SOLVER * (1 + abs(other.fun))
    assert_close(best, other.fun, 1e-6)


@pytest.mark.parametrize("counts", [(3, 1, 2e16), (1e15, 3, 5), (30, 10, 1e15)])
def test_davidson_of_two_items_is_their_log_odds(counts: tuple[float, float, float]) -> None:
    """omega_0 - omega_1 = log(wins / losses) exactly, whatever the ties: at the ends of float64 too."""
    found = davidson(PairCounts(np.array([0]), np.array([1]), np.array([counts], dtype=float), 2))
    assert_close(found.omega[0] - found.omega[1], np.log(counts[0] / counts[1]), SOLVED)


@pytest.mark.parametrize("counts", [(7.36e9, 1.527, 5.213e12)])
def test_davidson_refuses_what_it_cannot_know(counts: tuple[float, float, float]) -> None:
    """Counts over so many decades leave the slope too uncertain: no answer rather than a wrong one."""
    with pytest.raises(NotConvergedError, match="missed its certificate"):
        davidson(PairCounts(np.array([0]), np.array([1]), np.array([counts], dtype=float), 2))


def test_davidsons_errors_are_the_curvature() -> None:
    """The covariance inverts the second differences of the log-likelihood."""
    rng = np.random.default_rng(5)
    wins, ties = rng.integers(1, 30, (4, 4)) * 1.0, np.triu(rng.integers(1, 20, (4, 4)) * 1.0, 1)
    np.fill_diagonal(wins, 0)
    pairs = PairCounts.of(of_wins(wins, ties))
    found = davidson(pairs)
    point, h = np.append(found.omega, found.theta), 1e-4

    def log_likelihood(at: np.ndarray) -> float:
        return float((pairs.outcomes * log_probabilities(pairs, at[:-1], float(at[-1]))).sum())

    unit = np.eye(5) * h
    second = np.array(
        [
            [
                log_likelihood(point + a + b) - log_likelihood(point + a - b)
                - log_likelihood(point - a + b) + log_likelihood(point - a - b)
                for b in unit
            ]
            for a in unit
        ]
    ) / (4 * h * h)  # fmt: skip
    assert_close(-second @ found.covariance @ -second, -second, 1e-5, scale=float(np.abs(second).max()))


@pytest.mark.parametrize(
    ("wins", "ties", "message"),
    [
        (
            [[0, 3], [0, 0]],
            [[0, 2], [0, 0]],
            r"no finite fit.*--prior",
        ),  # a wins or ties, never loses: half-win ties would have a fit
        ([[0, 3], [2, 0]], [[0, 0], [0, 0]], "there are no ties"),  # no tie at all: nu = 0
        ([[0, 0], [0, 0]], [[0, 2], [0, 0]], "nothing but ties"),  # nothing but ties: nu infinite
    ],
)
def test_davidson_without_a_finite_fit(wins: list[list[float]], ties: list[list[float]], message: str) -> None:
    """Refused by a linear program, with the cures named; a prior cures what ties can cure."""
    comparisons = of_wins(np.array(wins, dtype=float), np.array(ties, dtype=float))
    with pytest.raises(NoFiniteFitError, match=message):
        fit(comparisons, PBDE.luce(), ties="davidson")
    if np.sum(ties) and np.sum(wins):
        fitted = fit(comparisons, PBDE.luce(), ties="davidson", prior=0.5)
        assert fitted.log_nu is not None
        assert np.isfinite(fitted.log_p).all()


def test_ties_half_drop_and_davidson_differ_as_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Many ties between two items: half draws them together, drop keeps the odds of the decisive ones."""
    path = tmp_path / "games.csv"
    path.write_text("a,b,y,weight\nx,z,1,30\nx,z,0,10\nx,z,0.5,60\n")
    density = {}
    for ties in ("half", "drop", "davidson"):
        assert main(["fit", str(path), "--weight", "weight", "--ties", ties, "--json"]) == 0
        record = json.loads(capsys.readouterr().out)
        density[ties] = np.exp(record["items"][0]["log_p"])
    assert_close([density["half"], density["drop"], density["davidson"]], [0.6, 0.75, 0.75], SOLVED)
    assert record["log_nu"][0] == pytest.approx(np.log(60 / np.sqrt(30 * 10)), rel=1e-9)


@given(st.data(), st.integers(3, 6))
def test_among_keeps_what_is_among_them(data: st.DataObject, n: int) -> None:
    """The wins of a part are the part of the wins."""
    comparisons = of_wins(data.draw(counts(n)))
    items = np.array(sorted(data.draw(st.sets(st.integers(0, n - 1), min_size=1, max_size=n))))
    inner = among(comparisons, items)
    assert_close(inner.wins().toarray(), comparisons.wins().toarray()[np.ix_(items, items)], 0.0)


@given(st.data(), st.integers(2, 7))
def test_the_partial_order_never_contradicts_a_win(data: st.DataObject, n: int) -> None:
    """The components come in an order in which nobody of a later one beat anybody of an earlier one."""
    wins = np.array(data.draw(st.lists(st.integers(0, 1), min_size=n * n, max_size=n * n))).reshape(n, n) * 1.0
    np.fill_diagonal(wins, 0)
    assume(wins.sum() > 0)
    parts, beaten = partial_order(of_wins(wins))
    assert sorted(np.concatenate(parts).tolist()) == list(range(n))
    later = [wins[np.ix_(parts[m], parts[k])].sum() for k in range(len(parts)) for m in range(k + 1, len(parts))]
    assert sum(later) == 0
    expected = {
        (k, m)
        for k in range(len(parts))
        for m in range(len(parts))
        if k != m and wins[np.ix_(parts[k], parts[m])].any()
    }
    assert set(beaten) == expected


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"ties": "third"}, "ties must be"),
        ({"prior": -1.0}, "prior must be >= 0"),
        ({"prior": float("nan")}, "prior must be >= 0"),
        ({"ties": "davidson", "robust": True}, "robust"),
    ],
)
def test_wrong_options(fields: dict[str, object], message: str) -> None:
    """Each with its own rule."""
    with pytest.raises(ValueError, match=message):
        FitOptions(**fields)  # type: ignore[arg-type]


def of_two(won: float, lost: float, tied: float = 0.0) -> Comparisons:
    """Comparisons of two items, the outcomes as weights."""
    return Comparisons([0, 0, 0], [1, 1, 1], [1, 0, 0.5], 2, weight=[won, lost, tied])


@given(st.integers(1, 400), st.integers(1, 400), st.integers(0, 400), st.floats(1e-3, 1e3))
def test_two_items_have_one_interval(won: int, lost: int, tied: int, scale: float) -> None:
    """That of an item is the other's mirror image, and with f = 1 that of `predict`."""
    data = of_two(won, lost, tied)
    for model in (PBDE.luce(), PBDE(np.array([1.0, scale]), 0.0)):
        fitted = fit(data, model)
        low, high = fitted.interval()
        assert (low <= np.exp(fitted.log_p)).all()
        assert (high < 1).all() or scale != 1
        assert_close(low, 1 - high[::-1], SOLVED)
    low, high = fit(data, PBDE.luce()).interval()
    assert_close([low[0], high[0]], fit(data, PBDE.luce()).predict(0, 1)[1:], SOLVED)


def test_an_interval_where_a_density_rounds_to_one() -> None:
    """1 - p = 1e-30: the interval of the odds of both items is the one of `predict`, not one of zeros."""
    fitted = fit(of_two(1e30, 1.0), PBDE.luce())
    assert np.isfinite(fitted.se_logit_p).all()
    assert_close(fitted.se_logit_p, np.ones(2), SOLVED)
    low, high = fitted.interval()
    odds = 1e-30 * np.exp(1.959963984540054)
    assert_close(high[1], odds, SOLVED, scale=odds)
    assert low[0] == 1


@given(st.integers(1, 400), st.integers(1, 400))
def test_the_factor_that_diagnose_names_is_the_intervals(won: int, lost: int) -> None:
    """Of 7 : 3 .7000 [.3763, .9002]: a factor of 1.86 (exp(1.96 s.e.) of log p would be 1.50)."""
    data = of_two(won, lost)
    fitted = fit(data, PBDE.luce())
    low, high = fitted.interval()
    p = np.exp(fitted.log_p)
    factor = np.maximum(p / low, high / p)
    assert_close(np.exp(fitted.log_factor()), factor, SOLVED)
    said = diagnose(data, PBDE.luce(), FitOptions(), None).determined
    best, least = np.argmin(factor), np.argmax(factor)
    assert f"within a factor of {factor[best]:.3g} ({best}) to a factor of {factor[least]:.3g} ({least})" in said


def test_the_factor_of_a_density_that_underflows() -> None:
    """p = exp(-919), known to some tenths: in log p, where p and both ends of its interval are 0."""
    fitted = fit(of_two(99e6, 1e6), PBDE(0.005, 0.0))
    assert fitted.interval()[1][1] == np.exp(fitted.log_p[1]) == 0
    assert_close(fitted.log_factor()[1], 1.959963984540054 * fitted.se_logit_p[1], SOLVED)


@pytest.mark.parametrize(("n", "least", "mean"), [(10, 0.925, 0.95), (20, 0.93, 0.95)])
def test_coverage_of_two_items_by_enumeration(n: int, least: float, mean: float) -> None:
    """Every count of wins with its probability, given a finite fit: on the log scale .830 and .831 at the worst p,
    on the logit scale .928 and .936."""
    won = np.arange(1, n)
    low, high = np.array([np.array(fit(of_two(k, n - k), PBDE.luce()).interval())[:, 0] for k in range(1, n)]).T
    p = np.linspace(0.1, 0.9, 801)[:, None]
    weight = binom.pmf(won, n, p)
    covered = (weight * ((low <= p) & (p <= high))).sum(axis=1) / weight.sum(axis=1)
    assert covered.min() > least
    assert covered.mean() > mean
    grid = np.array([0.5, 0.6, 0.7, 0.8])
    assert covered[np.searchsorted(p[:, 0], grid - 1e-9)].min() > 0.955


def test_a_tie_is_not_a_tossed_coin() -> None:
    """6 wins and 30 ties: the spread of the 36 scores, [.52, .64], where coins would say [.42, .73]."""
    scores = np.repeat([1.0, 0.5], [6, 30])
    prob, low, high = fit(of_two(6, 0, 30), PBDE.luce()).predict(0, 1)
    error = scores.std() / np.sqrt(36) / (prob * (1 - prob))
    logit = np.log(prob / (1 - prob))
    assert_close([low, high], 1 / (1 + np.exp(-logit - np.array([-1, 1]) * 1.959963984540054 * error)), SOLVED)
    assert (round(low, 2), round(high, 2)) == (0.52, 0.64)
    # without ties nothing changes, and graded judgments have their own spread too
    assert_close(fit(of_two(7, 3), PBDE.luce()).se_omega, np.full(2, np.sqrt(1 / 2.1) / 2), SOLVED)
    graded = Comparisons([0, 0], [1, 1], [0.6, 0.5], 2, weight=[18, 18])
    assert_close(fit(graded, PBDE.luce()).se_omega, np.full(2, 0.05 / 6 / (0.55 * 0.45) / 2), SOLVED)


def test_ties_alone_leave_doubt() -> None:
    """No score differs from another: as if one comparison were a coin. Likewise for one pair of a graph."""
    assert_close(fit(of_two(0, 0, 30), PBDE.luce()).se_omega, np.full(2, np.sqrt(0.25) / 7.5 / 2), SOLVED)
    graph = Comparisons([0, 0, 1], [1, 2, 2], [0.5, 0.5, 0.5], 3, weight=[10, 5, 5])
    wins = np.array([[0.0, 0, 3], [0, 0, 3], [3, 3, 0]])
    mixed = Comparisons(
        [0, *np.nonzero(wins)[0]], [1, *np.nonzero(wins)[1]], [0.5, *np.ones(4)], 3, weight=[10, *[3.0] * 4]
    )
    for data in (graph, mixed):
        _, low, high = fit(data, PBDE.luce()).predict(0, 1)
        assert low < 0.47
        assert high > 0.53


def test_a_ghosts_comparisons_are_coins_beside_ties() -> None:
    """A prior far stronger than the data: the standard errors are those of its own comparisons."""
    wins, ties = np.array([[0.0, 1, 0], [1, 0, 1], [0, 1, 0]]), np.array([[0.0, 1, 0], [0, 0, 1], [0, 0, 0]])
    plain, tied = (fit(data, PBDE.luce(), prior=1e4) for data in (of_wins(wins), of_wins(wins, ties)))
    assert_close(tied.se_omega, plain.se_omega, 1e-3, scale=float(plain.se_omega.max()))


def test_coverage_beside_ties() -> None:
    """Davidson's ties, 83 % of 36: the spread of the scores covers .92 to .97, coins would cover all."""
    rng, covered = np.random.default_rng(1), []
    nu, margin = 2 * 0.83 / 0.17, 0.4
    chances = np.array([np.exp(margin / 2), np.exp(-margin / 2), nu])
    chances /= chances.sum()
    drawn, times = np.unique(rng.multinomial(36, chances, 4000), axis=0, return_counts=True)
    for outcome in drawn:
        _, low, high = fit(of_two(*outcome), PBDE.luce()).predict(0, 1)
        covered.append(low <= chances[0] + chances[2] / 2 <= high)
    assert 0.92 < np.average(covered, weights=times) < 0.97
