"""The test of one annotator and the cyclic share: published deviances, other routes, size, and what is printed."""

from __future__ import annotations

import json
from itertools import combinations
from math import comb
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import expit, xlog1py, xlogy
from scipy.stats import binom, chi2

from reference import PBDE, Annotator, Comparisons, Population, optimum
from reference.__main__ import main
from reference.errors import NotConvergedError
from reference.inference.calibration import DESIGNS, calibrate, draw
from reference.inference.deviance import deviance, expected_deviance, moments
from reference.inference.fit import fit
from reference.inference.goodness_of_fit import goodness_of_fit
from reference.inference.hodge_rank import cyclic_share, potentials, worst_triangles
from reference.inference.refit import BATCH_ITEMS, Decisive, refit
from reference.pbde import normalize
from tests.checks import CLOSED_FORM, SOLVED, assert_close
from tests.strategies import arrays, counts
from tests.test_fit import of_wins

CITATIONS = str(Path(__file__).parents[1] / "reference" / "data" / "citations.csv")
SHARED = Path(__file__).parents[2] / "shared" / "data"
CONVARG = ["--a", "arg1", "--b", "arg2", "--y", "choice", "--outcomes", "a1,a2,equal", "--by", "topic"]


def test_the_published_deviance_of_the_citations() -> None:
    """Four statistics journals: 4.293 on 3 degrees of freedom."""
    verdict = goodness_of_fit(Comparisons.from_csv(CITATIONS, weight="weight"))
    assert (round(verdict.statistic, 3), verdict.df, verdict.replicates) == (4.293, 3, 0)
    assert verdict.p_value == pytest.approx(chi2.sf(verdict.statistic, 3), abs=0.02)  # its moments are near those


def test_the_published_deviance_of_the_american_league() -> None:
    """Seven teams: 44.053 with home and away games apart, as published; 15 degrees of freedom with them pooled."""
    path = SHARED / "bradley_terry" / "baseball.csv"
    if not path.exists():
        pytest.skip("the baseball table is not beside the repository")
    header, *lines = path.read_text().splitlines()
    columns = header.split(",")
    rows = [dict(zip(columns, line.split(","), strict=True)) for line in lines]
    names = sorted({row[columns[0]] for row in rows} | {row[columns[1]] for row in rows})
    wins = np.zeros((len(names), len(names)))
    for row in rows:
        home, away = names.index(row[columns[0]]), names.index(row[columns[1]])
        wins[home, away] += float(row[columns[2]])
        wins[away, home] += float(row[columns[3]])
    verdict, fitted = goodness_of_fit(of_wins(wins)), fit(of_wins(wins), PBDE.luce())
    deviance = 0.0
    for row in rows:
        home, away = names.index(row[columns[0]]), names.index(row[columns[1]])
        won, lost = float(row[columns[2]]), float(row[columns[3]])
        prob = fitted.predict(home, away)[0]
        saturated = xlogy(won, won / (won + lost)) + xlogy(lost, lost / (won + lost))
        deviance += 2 * (saturated - won * np.log(prob) - lost * np.log1p(-prob))
    assert deviance == pytest.approx(44.053, abs=5e-4)
    assert verdict.df == 15
    assert verdict.statistic == pytest.approx(2 * wins.sum() * optimum(wins, PBDE.luce()).divergence, rel=1e-9)


@given(st.data(), st.integers(2, 7))
def test_the_statistic_is_twice_the_divergence(data: st.DataObject, n: int) -> None:
    """G^2 = 2 N times Eq. 8 at the optimum; df = E - n + 1; ties change neither."""
    wins = data.draw(counts(n))
    verdict = goodness_of_fit(of_wins(wins, ties=np.triu(np.ones((n, n)), 1)), replicates=0)
    assert_close(verdict.statistic, 2 * wins.sum() * optimum(wins, PBDE.luce()).divergence, SOLVED)
    assert verdict.df == np.count_nonzero(np.triu(wins + wins.T, 1)) - n + 1
    assert verdict.ties == n * (n - 1) / 2
    assert verdict.comparisons == wins.sum()


@given(st.data(), st.integers(2, 8), st.booleans())
def test_refitting_in_batches_is_fitting_one_by_one(data: st.DataObject, n: int, connected: bool) -> None:
    """G^2 of a batch of data sets, with and without a finite fit, against a supremum reached slowly."""
    totals = np.triu(data.draw(counts(n)), 1) + np.diag(np.ones(n - 1), 1) * 3
    i, j = np.nonzero(totals)
    rng = np.random.default_rng(data.draw(st.integers(0, 1000)))
    won = rng.binomial(totals[i, j].astype(int), 0.5 if connected else 0.97, (3, len(i))).astype(float)
    design = Decisive(i, j, won[0], totals[i, j], n)
    statistic, centred, df, fitted = refit(design, won)[:4]
    assert_close(statistic - centred, expected_deviance(design.total, fitted), CLOSED_FORM)
    for row in range(3):
        wins = design.wins(won[row]).toarray()
        eps = 1e-9  # so few ghost wins that the likelihood is at its supremum but for some 1e-7
        found = optimum(wins + eps * (totals + totals.T > 0), PBDE.luce())
        margin = found.omega[i] - found.omega[j]
        lost, total = totals[i, j] - won[row], totals[i, j]
        share = won[row] / total
        saturated = xlogy(won[row], share) + xlogy(lost, 1 - share)
        explained = -(won[row] * np.logaddexp(0, -margin) + lost * np.logaddexp(0, margin))
        assert_close(statistic[row], 2 * (saturated - explained).sum(), 1e-5)
        assert_close(fitted[row], expit(margin), 1e-4)
        assert 0 <= df[row] <= len(i) - n + 1


def test_the_sparse_route_is_the_dense_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Above BATCH_ITEMS every data set is refitted by itself: the same G^2."""
    _, comparisons = draw(np.triu(np.full((9, 9), 4.0), 1), np.random.default_rng(0))
    design = Decisive.of(comparisons)
    won = np.random.default_rng(1).binomial(4, 0.5, (5, len(design.i))).astype(float)
    dense = refit(design, won)
    monkeypatch.setattr("reference.inference.refit.BATCH_ITEMS", 2)
    alone = refit(design, won)
    assert BATCH_ITEMS > 2
    for left, right in zip(dense, alone, strict=True):
        assert_close(left, right, SOLVED)


@given(st.data(), st.integers(3, 7))
def test_hodge_rank_against_dense_least_squares(data: st.DataObject, n: int) -> None:
    """The gradient part and the cyclic share by lstsq on the incidence matrix; a gradient has no cyclic share."""
    total = np.triu(data.draw(counts(n)), 1) + np.diag(np.ones(n - 1), 1)
    i, j = np.nonzero(total)
    weight, won = total[i, j], np.random.default_rng(0).binomial(total[i, j].astype(int), 0.6).astype(np.float64)
    incidence = np.zeros((len(i), n))
    incidence[np.arange(len(i)), i], incidence[np.arange(len(i)), j] = 1, -1
    flow = 2 * won / weight - 1
    root = np.sqrt(weight)
    s = np.linalg.lstsq(root[:, None] * incidence, root * flow, rcond=None)[0]
    rest = flow - incidence @ s
    expected = (weight * rest**2).sum() / (weight * flow**2).sum() if flow.any() else 0.0
    assert_close(cyclic_share(i, j, weight, won[None], n)[0], expected, CLOSED_FORM * 100)
    ramp = data.draw(arrays(n, -1.0, 1.0))
    found = potentials(i, j, weight, (incidence @ ramp)[None], n)[0]
    assert_close(found - found[0], ramp - ramp[0], CLOSED_FORM * 100)


@given(st.data(), st.integers(3, 6))
def test_the_worst_triangles_are_the_worst_of_all(data: st.DataObject, n: int) -> None:
    """Every triple in both directions, one by one."""
    total = np.triu(data.draw(counts(n)), 1) + np.triu(np.ones((n, n)), 1)
    i, j = np.nonzero(total)
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    won, fitted = rng.binomial(total[i, j].astype(int), 0.5).astype(np.float64), rng.uniform(0.2, 0.8, len(i))
    rate, model, count = np.zeros((n, n)), np.zeros((n, n)), total + total.T
    rate[i, j], model[i, j] = won / total[i, j], fitted
    rate[j, i], model[j, i] = 1 - rate[i, j], 1 - fitted
    scores = []
    for triple in combinations(range(n), 3):
        for a, b, c in (triple, triple[::-1]):
            edges = [(a, b), (b, c), (c, a)]
            spread = sum(model[e] * (1 - model[e]) / count[e] for e in edges)
            scores.append(sum(rate[e] - model[e] for e in edges) / np.sqrt(spread))
    found = worst_triangles(i, j, total[i, j], won, fitted, n)
    expected = [score for score in sorted(scores, reverse=True)[:3] if score > 0]
    assert_close([t.z for t in found], expected, CLOSED_FORM)
    if not found:
        return
    a, b, c = found[0].items
    assert_close(np.array(found[0].won) / found[0].total, [rate[a, b], rate[b, c], rate[c, a]], CLOSED_FORM)


def test_a_population_is_rejected_and_its_mixture_density_is_not() -> None:
    """Two annotators that disagree leave cycles (Eq. 21); one annotator with the mixture density none (Eq. 20)."""
    rng = np.random.default_rng(0)
    members = [Annotator(normalize(rng.normal(0, 2.5, 10)), PBDE.luce()) for _ in range(2)]
    population = Population(members, [0.5, 0.5])
    x_a, x_b = (pair.repeat(300) for pair in np.triu_indices(10, 1))
    judged = {}
    for name, who in (("population", population), ("mixture", population.density_mixture())):
        y = who.sample(x_a, x_b, rng)
        judged[name] = goodness_of_fit(Comparisons(x_a, x_b, y, 10))
    assert judged["population"].p_value < 1e-3
    assert judged["mixture"].p_value > 0.01
    assert judged["population"].excess > 10 * abs(judged["mixture"].excess)


def test_the_bootstrap_is_seeded_and_counts_ties_in_the_statistic() -> None:
    """Same seed, same p; p = (1 + exceedances) / (B + 1) lies on the grid of 1 / (B + 1)."""
    _, comparisons = draw(np.triu(np.full((6, 6), 3.0), 1), np.random.default_rng(4))
    first, again, other = (goodness_of_fit(comparisons, 49, seed) for seed in (1, 1, 2))
    assert first.replicates == 49
    assert first == again
    assert first != other
    assert_close(first.p_value * 50, round(first.p_value * 50), CLOSED_FORM)
    assert 0 < first.p_value <= 1
    assert_close(first.expected, first.statistic - first.surplus, CLOSED_FORM)


def test_without_a_finite_fit_the_supremum_stands_in() -> None:
    """An item that always wins adds pairs that are explained perfectly: G^2 and df are those of the rest."""
    inner = np.array([[0.0, 5, 9], [8, 0, 2], [4, 7, 0]])
    wins = np.pad(inner, ((1, 0), (1, 0)))
    wins[0, 1:] = 6
    with_top, alone = goodness_of_fit(of_wins(wins)), goodness_of_fit(of_wins(inner))
    assert not with_top.finite
    assert alone.finite
    assert_close(with_top.statistic, alone.statistic, SOLVED)
    assert (with_top.df, alone.df) == (1, 1)


def test_the_size_of_the_test_and_the_coverage() -> None:
    """A small run of `calibrate`: neither far off; the published tables are of 1,000 data sets."""
    found = calibrate(DESIGNS[0], 60, 0)
    assert found.rejected <= 0.15  # binomial: .05 -+ 3.5 standard errors of .028
    assert 0.92 <= found.covered <= 0.98


@given(st.integers(1, 12), st.floats(0, 1))
def test_the_expected_deviance_of_a_pair(n: int, p: float) -> None:
    """Summed over all outcomes of a binomial, one by one; 0 where the outcome is sure."""
    expected = 0.0
    for k in range(n + 1):
        weight = comb(n, k) * p**k * (1 - p) ** (n - k)
        if weight > 0:
            share = k / n
            best = xlogy(k, share) + xlogy(n - k, 1 - share)
            expected += weight * 2 * float(best - xlogy(k, p) - xlog1py(n - k, -p))
    found = expected_deviance(np.array([float(n)]), np.array([[p]]))
    assert_close(found, [expected], 1e-9)


def test_the_expected_deviance_of_large_totals() -> None:
    """The binomial sum hands over to the Poisson one and that to 1, each within a hundredth."""
    for n, p in ((201.0, 0.01), (201.0, 0.09), (201.0, 0.5), (5000.0, 0.003), (5000.0, 0.2)):
        k = np.arange(int(n) + 1)
        at_p = xlogy(k, p) + xlog1py(n - k, -p)
        exact = float(binom.pmf(k, n, p) @ (2 * (xlogy(k, k / n) + xlogy(n - k, 1 - k / n) - at_p)))
        assert expected_deviance(np.array([n]), np.array([[p]]))[0] == pytest.approx(exact, abs=0.02)


def test_single_comparisons_do_not_reject_one_annotator() -> None:
    """600 comparisons of 60 items, nearly all pairs once: p is spread out; G^2 as it is would reject most."""
    p_values = []
    for seed in range(12):
        rng = np.random.default_rng(seed)
        omega, x_a = rng.normal(size=60), rng.integers(0, 60, 600)
        x_b = (x_a + rng.integers(1, 60, 600)) % 60
        y = (rng.random(600) < expit(omega[x_a] - omega[x_b])).astype(float)
        p_values.append(goodness_of_fit(Comparisons(x_a, x_b, y, 60), 49).p_value)
    assert np.sum(np.array(p_values) <= 0.05) <= 3  # P(more of 12 at 5 %) = .0002
    assert np.median(p_values) > 0.1


def test_perfect_agreement_has_p_one() -> None:
    """Wins in exact proportion: G^2 is 0 but for rounding, and every simulated one is at least that."""
    strength = np.array([1.0, 2.0, 3.0, 4.0])
    wins = np.where(np.eye(4) > 0, 0.0, strength[:, None] * np.ones(4))
    verdict = goodness_of_fit(of_wins(wins))
    assert verdict.replicates == 199
    assert 0 <= verdict.statistic < 1e-12
    assert verdict.p_value > 0.9


def test_long_chains_and_huge_counts() -> None:
    """A chain of a thousand to one (a tree: nothing to test) and a pair of 10^9 to 1 beside small ones."""
    steps = np.arange(150)
    chain = Comparisons(
        np.tile(steps, 2),
        np.tile(steps + 1, 2),
        np.repeat([1.0, 0.0], 150),
        151,
        weight=np.repeat([1000.0, 1.0], 150),
    )
    verdict = goodness_of_fit(chain)
    assert verdict.df == verdict.cycles == 0
    assert np.isnan(verdict.p_value)
    huge = of_wins(np.array([[0.0, 1e9, 2], [1, 0, 3], [1, 2, 0]]))
    assert goodness_of_fit(huge, 19).df == 1


def test_an_order_without_a_cycle_of_wins() -> None:
    """a > b > c and a > c: one cycle of pairs, but every order of these items fits perfectly."""
    verdict = goodness_of_fit(of_wins(np.triu(np.ones((3, 3)), 1)))
    assert (verdict.cycles, verdict.df, verdict.statistic) == (1, 0, 0.0)


def test_large_graphs_by_conjugate_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    """Above FACTORED_ITEMS the same cyclic shares without a factorisation, an item never compared among them."""
    rng = np.random.default_rng(3)
    i, j = np.nonzero(np.triu(rng.random((30, 30)) < 0.3, 1))
    kept = (i != 7) & (j != 7)
    i, j = i[kept], j[kept]
    total = rng.integers(1, 5, len(i)).astype(float)
    won = rng.binomial(total.astype(int), 0.5, (4, len(i))).astype(float)
    factored = cyclic_share(i, j, total, won, 30)
    monkeypatch.setattr("reference.inference.hodge_rank.FACTORED_ITEMS", 5)
    assert_close(cyclic_share(i, j, total, won, 30), factored, 1e-7)


@given(st.integers(1, 150), st.floats(0.001, 0.999))
def test_the_moments_of_a_pair(n: int, p: float) -> None:
    """Mean, variance and both covariances against sums over all outcomes."""
    k = np.arange(n + 1.0)
    weight, x = binom.pmf(k, n, p), k - n * p
    d = 2 * (xlogy(k, k / n) + xlogy(n - k, 1 - k / n) - xlogy(k, p) - xlog1py(n - k, -p))
    mean = weight @ d
    expected = [mean, weight @ d**2 - mean**2, weight @ (d * x), weight @ (d * x**2) - mean * n * p * (1 - p)]
    found = moments(np.array([float(n)]), np.array([[p]]))
    assert_close([float(part[0, 0]) for part in found], expected, 1e-9)


def test_many_pairs_of_one_annotator_are_not_rejected() -> None:
    """60 items, 1,770 pairs of about 20: plain chi-squared rejects most of these."""
    p_values = []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        _, comparisons = draw(np.triu(rng.poisson(20.0, (60, 60)).astype(float), 1), rng)
        p_values.append(goodness_of_fit(comparisons).p_value)
    assert np.sum(np.array(p_values) <= 0.05) <= 4  # P(more of 20 at 5 %) = .0026


def test_every_pair_once_cannot_be_tested(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The most cyclic tournament of 11 items: G2 is its own mean, whatever the data, but its triads are not."""
    i, j = np.triu_indices(11, 1)
    verdict = goodness_of_fit(Comparisons(i, j, (j - i <= 5).astype(float), 11))
    assert (verdict.repeated, verdict.carried, verdict.df) == (0, 0, 45)
    assert np.isnan(verdict.p_value)
    path = tmp_path / "games.csv"
    path.write_text("a,b,y\n" + "".join(f"x{a},x{b},{int(b - a <= 5)}\n" for a, b in zip(i, j, strict=True)))
    assert main(["diagnose", str(path)]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert (
        "Can one annotator have judged? No, at the 5 % level (It cannot be tested by G2: no cycle has a pair"
        in out
    )
    assert (
        "55 of 165 triads are cyclic, 41.2 are expected by coins, and no more by one annotator: p = 0.001" in out
    )
    assert "There is strong evidence against one annotator." in out
    assert main(["fit", str(path)]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "one annotator: cannot be tested by G2, no cycle has a pair that was compared twice" in out
    assert "55 of 165 triads are cyclic" in out
    assert main(["diagnose", str(path), "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert (record["one_annotator"], record["compatible"]) == (False, False)
    assert record["verdict"]["triads"]["cyclic"] == 55


def test_a_long_ring_is_tested() -> None:
    """2,500 items: conjugate gradients miss the tolerance of the cyclic share, a factorisation does not."""
    x = np.arange(2500)
    ring = Comparisons(
        np.tile(x, 2),
        np.tile((x + 1) % 2500, 2),
        np.repeat([1.0, 0.0], 2500),
        2500,
        weight=np.repeat([6.0, 5.0], 2500),
    )
    verdict = goodness_of_fit(ring, 0)
    assert verdict.df == 1
    assert 0 <= verdict.cyclic_share <= 1


def test_the_share_does_not_take_the_verdict_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """G2 and p without the cyclic share, where that misses its tolerance."""
    _, comparisons = draw(np.triu(np.full((6, 6), 40.0), 1), np.random.default_rng(4))
    whole = goodness_of_fit(comparisons)

    def missed(*_: object) -> None:
        raise NotConvergedError("missed")

    monkeypatch.setattr("reference.inference.goodness_of_fit.cyclic_share", missed)
    alone = goodness_of_fit(comparisons)
    assert np.isnan(alone.cyclic_share)
    assert (alone.statistic, alone.p_value) == (whole.statistic, whole.p_value)


def test_a_bootstrap_that_cannot_reject_is_refused() -> None:
    """1 / (B + 1) is its least p-value: 18 replicates never reach 5 %."""
    _, comparisons = draw(np.triu(np.full((6, 6), 3.0), 1), np.random.default_rng(4))
    with pytest.raises(ValueError, match="take at least 19"):
        goodness_of_fit(comparisons, 18)
    assert goodness_of_fit(comparisons, 19).replicates == 19


def test_the_deviance_keeps_its_digits() -> None:
    """5e14 comparisons a pair, each off by z standard errors: z^2 but for z^3 / sqrt(n)."""
    total, z = 5e14, np.array([0.5, -1.0, 2.0])
    won = np.round(total / 2 + z * np.sqrt(total) / 2)
    exact = ((won - total / 2) / (np.sqrt(total) / 2)) ** 2
    assert_close(deviance(won, np.full(3, total), np.zeros(3)), exact, 1e-7)


@pytest.mark.parametrize(
    ("y", "weight", "message"),
    [
        ([1.0, 0.3], [1, 1], "outcomes of 0, 0.5 or 1"),
        ([1.0, 0.0], [1, 1.5], "whole numbers"),
        ([0.5, 0.5], [1, 1], "decisive"),
    ],
)
def test_what_cannot_be_tested_says_why(y: list[float], weight: list[float], message: str) -> None:
    """The test needs counts of decisive comparisons."""
    with pytest.raises(ValueError, match=message):
        goodness_of_fit(Comparisons(np.array([0, 1]), np.array([1, 0]), y, 2, weight=weight))


# ------------------------------------------------------------------------------------------- the command line


def test_fit_prints_and_dumps_the_verdict(capsys: pytest.CaptureFixture[str]) -> None:
    """The same numbers in the table and in JSON; no line is longer than 100 columns."""
    assert main(["fit", CITATIONS, "--weight", "weight", "--predict", "JASA", "JRSS-B"]) == 0
    out = capsys.readouterr().out
    assert "one annotator: G2 = 4.3 on 3 df, p = 0.242 (chi-squared)" in out
    assert "JASA over JRSS-B: probability 0.3211" in out
    assert main(["fit", CITATIONS, "--weight", "weight", "--predict", "JASA", "JRSS-B", "--json"]) == 0
    graph = json.loads(capsys.readouterr().out)
    assert graph["verdict"]["df"] == 3
    assert graph["verdict"]["triangles"][0]["items"][0] == "Comm. Statist."
    assert graph["predict"]["probability"] == pytest.approx(0.3211, abs=5e-5)


@pytest.mark.parametrize(
    ("names", "message"), [(["JASA", "Nature"], "no item is named 'Nature'"), (["x", "y"], "no item is named 'x'")]
)
def test_predict_names_what_is_missing(names: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Before anything is fitted."""
    assert main(["fit", CITATIONS, "--weight", "weight", "--predict", *names]) == 2
    assert message in capsys.readouterr().err


def test_one_bad_graph_of_several_does_not_end_the_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its line says why; the others are fitted; exit status 1."""
    path = tmp_path / "games.csv"
    path.write_text("g,a,b,y\n1,x,x,1\n2,x,z,1\n2,z,x,1\n")
    assert main(["fit", str(path), "--by", "g"]) == 1
    out = capsys.readouterr().out
    assert "1: not fitted: an optimum needs at least two items" in out
    assert "2: 2 items" in out


def test_diagnose_answers_four_questions(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """For a good graph, an undetermined one, a tree, and one that cannot be tested."""
    path = tmp_path / "games.csv"
    rows = ["good,x,y,1", "good,y,z,1", "good,z,x,1", "good,y,x,1", "top,x,y,1", "tree,x,y,1", "tree,y,x,1"]
    path.write_text("\n".join(["g,a,b,y", *rows, "soft,x,y,0.7"]) + "\n")
    assert main(["diagnose", str(path), "--by", "g"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert out.count("Is the optimum determined?") == out.count("What can comparisons not tell?") == 4
    assert "No: the 2 items fall into 2 groups" in out
    assert "form no cycle" in out
    assert "by a bootstrap of 199, in which one annotator shows" in out
    assert "Not tested: the test needs outcomes of 0, 0.5 or 1, got 0.7" in out
    assert main(["diagnose", str(path), "--by", "g", "--json"]) == 0
    records = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [record["is_determined"] for record in records] == [True, False, True, True]
    assert records[0]["compatible"] is True
    assert records[2]["compatible"] is None


def test_diagnose_convarg(capsys: pytest.CaptureFixture[str]) -> None:
    """Several of the 32 topics contradict one annotator; skipped where the data are absent."""
    path = SHARED / "convarg" / "judgments.csv"
    if not path.exists():
        pytest.skip("the convarg data set is not beside the repository")
    assert main(["diagnose", str(path), *CONVARG, "--bootstrap", "99"]) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    rejected = int(last.split()[0])
    assert "of 32 graphs that can be tested contradict one annotator" in last
    assert 3 <= rejected <= 13


def test_a_prior_with_an_item_that_lost_all_its_comparisons(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Only compared with itself: the ghost still places it, between the others."""
    path = tmp_path / "games.csv"
    path.write_text("a,b,y\nx,y,1\ny,x,1\nx,y,1\nz,z,1\n")
    assert main(["fit", str(path), "--prior", "0.5", "--json"]) == 0
    items = {item["item"]: item["omega"] for item in json.loads(capsys.readouterr().out)["items"]}
    assert items["y"] < items["z"] < items["x"]
    assert main(["diagnose", str(path), "--prior", "0.5"]) == 0
    assert "Only with the ghost item (prior 0.5)" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    "rows",
    [
        ["x,y,1", "y,z,1", "x,z,1", "y,x,0.5"],
        ["x,y,1", "y,x,1", "y,z,1", "z,y,0", *["x,z,0.5"] * 5],
        [f"{'long name ' * 9}{k},{'another name ' * 9}{k % 3},{k % 2}" for k in range(40)],
    ],
)
@pytest.mark.parametrize("ties", ["half", "drop", "davidson"])
def test_no_line_is_longer_than_100_columns(
    rows: list[str], ties: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whatever the graph, the labels and the ties."""
    path = tmp_path / "games.csv"
    path.write_text("\n".join(["a,b,y", *rows]) + "\n")
    for command in ("fit", "diagnose"):
        assert main([command, str(path), "--ties", ties]) in (0, 1)
        out = capsys.readouterr().out
        assert max(map(len, out.splitlines())) <= 100
        assert "nan" not in out


def test_davidson_without_ties_says_so_and_exits_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A line of the output, as for other graphs without a finite fit; diagnose answers No."""
    path = tmp_path / "games.csv"
    path.write_text("a,b,y\nx,y,1\ny,x,1\n")
    assert main(["fit", str(path), "--ties", "davidson"]) == 1
    assert "there are no ties; take --ties half" in capsys.readouterr().out
    assert main(["diagnose", str(path), "--ties", "davidson"]) == 0
    assert "No: Davidson's tie parameter is not finite" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    "arguments", [["--bootstrap", "x"], ["--bootstrap", "-1"], ["--seed", "-1"], ["--prior", "x"]]
)
def test_wrong_numbers_are_one_line(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """argparse's own errors too."""
    try:
        status = main(["fit", CITATIONS, "--weight", "weight", *arguments])
    except SystemExit as stopped:
        status = int(stopped.code or 0)
    assert status == 2
    assert capsys.readouterr().err.count("\n") == 1
