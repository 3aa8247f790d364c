"""The test between annotators: by loops, by enumeration, its size, and what diagnose says of it."""

from __future__ import annotations

import json
from itertools import combinations, permutations
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import beta, binom

from reference import Comparisons
from reference.__main__ import main
from reference.command_line.diagnose import verdict_of
from reference.inference.calibration_annotators import ANNOTATOR_DESIGNS, judged, rejections
from reference.inference.exchangeability import LEAST, MOST, Exchangeability, exchangeable
from reference.inference.goodness_of_fit import goodness_of_fit
from reference.inference.monte_carlo import settled
from tests.checks import CLOSED_FORM, assert_close

JUDGES = {  # wins of the first on the pairs 12 13 14 23 24 34, of so many: three judges of different sharpness
    "u": ([8, 9, 10, 8, 9, 8], 10),
    "v": ([11, 12, 11, 9, 11, 10], 20),
    "w": ([9, 10, 12, 11, 9, 11], 20),
}


def three_judges() -> list[tuple[int, int, float, str, int]]:
    """Rows a, b, y, who, weight."""
    pairs = list(combinations(range(4), 2))
    return [
        (i, j, y, who, count)
        for who, (won, total) in JUDGES.items()
        for (i, j), k in zip(pairs, won, strict=True)
        for y, count in ((1.0, k), (0.0, total - k))
    ]


def of_rows(rows: list[tuple[int, int, float, str, int]]) -> Comparisons:
    x_a, x_b, y, who, weight = (np.array(column) for column in zip(*rows, strict=True))
    return Comparisons(x_a, x_b, y, int(max(x_a.max(), x_b.max())) + 1, annotator=who, weight=weight)


def halves(seed: int, annotators: int = 60) -> Comparisons:
    """Two equally large halves with opposite tastes, 10 comparisons each."""
    theta = np.linspace(1.5, -1.5, 6) * np.where(np.arange(annotators) % 2, 1, -1)[:, None]
    return judged(theta, np.full(annotators, 10), np.random.default_rng(seed))


def statistic(data: Comparisons) -> float:
    """T by loops over annotators and items."""
    x_a, x_b, y = (np.asarray(column) for column in (data.x_a, data.x_b, data.y))
    who, n = np.asarray(data.annotator), data.n
    residual, kept = np.zeros(len(y)), np.zeros(len(y), dtype=bool)
    for i, j in combinations(range(n), 2):
        at = ((x_a == i) & (x_b == j)) | ((x_a == j) & (x_b == i))
        won = np.where(x_a[at] == i, y[at], 1 - y[at])
        if len(set(won)) > 1 and len(set(who[at])) > 1:
            residual[at], kept[at] = (won - won.mean()) / won.std() * np.where(x_a[at] == i, 1, -1), True
    total = 0.0
    for u in set(who):
        for item in range(n):
            first, second = (kept & (who == u) & (side == item) for side in (x_a, x_b))
            score = residual[first].sum() - residual[second].sum()
            total += score**2 / (1 + (first.sum() + second.sum()) / 4)
    return float(total)


@given(st.integers(0, 10_000), st.integers(2, 5), st.booleans())
def test_the_statistic_by_loops(seed: int, n: int, ties: bool) -> None:
    """Annotators in any order, sides swapped, ties, pairs that say nothing."""
    rng = np.random.default_rng(seed)
    x_a = rng.integers(0, n, 60)
    x_b = (x_a + rng.integers(1, n, 60)) % n
    y = rng.choice([0.0, 0.5, 1.0] if ties else [0.0, 1.0], 60)
    data = Comparisons(x_a, x_b, y, n, annotator=rng.choice(list("pqrst"), 60))
    found = exchangeable(data, seed)
    assert not found.untested
    assert_close(found.statistic, statistic(data), CLOSED_FORM)
    swapped = exchangeable(Comparisons(x_b, x_a, 1 - y, n, annotator=data.annotator), seed)
    assert_close(swapped.statistic, found.statistic, CLOSED_FORM)


def test_the_p_value_by_enumeration() -> None:
    """Three pairs of three answers by the same three annotators: all 6^3 ways to deal them out."""
    pairs, who = [(0, 1), (0, 2), (1, 2)], "pqr"
    wins = {(0, 1): (1.0, 1.0, 0.0), (0, 2): (1.0, 0.0, 0.0), (1, 2): (1.0, 0.5, 0.0)}

    def dealt(answers: list[tuple[float, ...]]) -> Comparisons:
        rows = [
            (i, j, y, u, 1)
            for (i, j), y3 in zip(pairs, answers, strict=True)
            for u, y in zip(who, y3, strict=True)
        ]
        return of_rows(rows)

    ways = [list(permutations(wins[pair])) for pair in pairs]
    every = np.array([statistic(dealt([a, b, c])) for a in ways[0] for b in ways[1] for c in ways[2]])
    data = dealt([wins[pair] for pair in pairs])
    exact = np.mean(every >= statistic(data) - 1e-9)
    found = exchangeable(data, 5, level=0.5)
    assert found.permutations >= LEAST
    assert_close(found.expected, every.mean(), 4 * float(every.std()) / np.sqrt(found.permutations), scale=1.0)
    assert abs(found.p_value - exact) <= 4 * np.sqrt(exact * (1 - exact) / found.permutations)


def test_weights_are_answers() -> None:
    """A row of weight 3 is three rows."""
    rows = three_judges()
    spread = [(i, j, y, who, 1) for i, j, y, who, count in rows for _ in range(count)]
    left, right = exchangeable(of_rows(rows)), exchangeable(of_rows(spread))
    assert_close(left.statistic, right.statistic, CLOSED_FORM)
    assert left.answers == right.answers == 300


def test_opposite_halves_are_seen_and_their_pooled_rates_are_not() -> None:
    """theta and -theta in equal numbers; with the ids dealt out anew nothing is left."""
    data = halves(0)
    found = exchangeable(data)
    assert found.p_value == 1 / (found.permutations + 1)
    assert found.settled
    ids = np.random.default_rng(1).permutation(np.asarray(data.annotator))
    assert exchangeable(Comparisons(data.x_a, data.x_b, data.y, data.n, annotator=ids)).p_value > 0.01


@pytest.mark.parametrize("design", ANNOTATOR_DESIGNS[:3], ids=lambda design: design.name)
def test_the_size_at_the_null(design: object) -> None:
    """One annotator's omega, few, many and unequal comparisons: 5 % of 100 data sets but for chance."""
    replications = 100
    rejected = rejections(design, replications, 1)  # type: ignore[arg-type]
    assert binom.sf(rejected * replications - 1, replications, 0.05) > 1e-3


def test_the_p_values_are_uniform() -> None:
    """300 small data sets at the null: P(p <= a) <= a for every level, and not much below."""
    rng = np.random.default_rng(3)
    data = [judged(np.tile(rng.normal(size=5), (8, 1)), np.full(8, 8), rng) for _ in range(300)]
    p_values = np.array([exchangeable(each, seed, level=0.05).p_value for seed, each in enumerate(data)])
    for level in (0.05, 0.2, 0.5):
        assert 1e-3 < binom.cdf(np.sum(p_values <= level), 300, level) < 1 - 1e-3


def test_permutations_until_the_verdict_is_settled() -> None:
    """Far from the level the first ones do; near it they go on; the interval is Clopper and Pearson's."""
    for exceeding, count in ((0, 199), (9, 199), (40, 999), (80, 999), (199, 199)):
        low = beta.ppf(5e-4, exceeding, count - exceeding + 1) if exceeding else 0.0
        high = beta.ppf(1 - 5e-4, exceeding + 1, count - exceeding) if exceeding < count else 1.0
        assert settled(exceeding, count, 0.05) == (not low <= 0.05 <= high)
    data = halves(2, 8)
    first = exchangeable(data, 0, level=0.9)
    at_level = exchangeable(data, 0, level=first.p_value)
    assert at_level.permutations > first.permutations
    assert at_level.permutations == MOST or at_level.settled
    assert at_level.error == pytest.approx(
        np.sqrt(at_level.p_value * (1 - at_level.p_value) / at_level.permutations)
    )


def test_the_same_seed_is_the_same_test() -> None:
    """And another seed another one, on the same side of the level."""
    data = halves(3, 20)
    found = [exchangeable(data, seed) for seed in (0, 0, 1)]
    assert found[0] == found[1]
    assert found[0].statistic == found[2].statistic
    assert found[0].expected != found[2].expected


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        ([(0, 1, 1.0, "u", 1), (0, 1, 0.0, "u", 1), (1, 2, 1.0, "v", 1)], "no pair was answered differently"),
        ([(0, 1, 1.0, "u", 1), (0, 1, 0.0, "v", 1), (1, 2, 1.0, "v", 1)], "no outcome could be rejected"),
        ([(0, 1, 1.0, "u", 1), (0, 1, 0.0, "v", 0)], "no pair was answered differently"),
    ],
)
def test_what_cannot_be_compared_says_why(rows: list[tuple[int, int, float, str, int]], reason: str) -> None:
    """Too little to tell is not the same as alike."""
    found = exchangeable(of_rows(rows))
    assert reason in found.untested
    assert np.isnan(found.p_value)


def test_wrong_arguments() -> None:
    """Weights of half an answer are no answers; ids are needed."""
    data = of_rows(three_judges())
    halved = Comparisons(
        data.x_a, data.x_b, data.y, 4, annotator=data.annotator, weight=np.asarray(data.weight) / 4
    )
    assert "whole numbers" in exchangeable(halved).untested
    with pytest.raises(ValueError, match="annotator None"):
        exchangeable(Comparisons(data.x_a, data.x_b, data.y, 4))
    with pytest.raises(ValueError, match="seed must be >= 0"):
        exchangeable(data, -1)
    with pytest.raises(ValueError, match=r"level in \(0, 1\)"):
        exchangeable(data, 0, 1.0)


# ------------------------------------------------------------------------------------------- the command line


def write(path: Path, data: Comparisons) -> str:
    columns = (data.x_a, data.x_b, data.y, data.annotator, data.weight)
    rows = zip(*(np.asarray(column).tolist() for column in columns), strict=True)
    path.write_text("a,b,y,who,w\n" + "".join(f"i{a},i{b},{y:g},j{who},{w:g}\n" for a, b, y, who, w in rows))
    return str(path)


@pytest.mark.parametrize("data", [of_rows(three_judges()), halves(1)], ids=["three judges", "opposite halves"])
def test_annotators_who_differ_are_not_called_one(
    data: Comparisons, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """G2 sees nothing, and without ids says so; with ids the answer is No."""
    path = write(tmp_path / "judged.csv", data)
    arguments = ["diagnose", path, "--weight", "w", "--annotator", "who"]
    assert main([*arguments, "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["compatible"] is True
    assert record["verdict"]["p_value"] > 0.05
    assert record["one_annotator"] is False
    assert record["annotators_differ"]["p_value"] < 0.01
    assert main(arguments) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "Can one annotator have judged? No, at the 5 % level" in text
    assert "Between annotators: who gave which answer to a pair, permuted" in text
    assert "Nor can they tell one annotator from groups" not in text
    assert main([*arguments[:4], "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert (record["one_annotator"], record["annotators_differ"]) == (True, None)


def test_the_answer_is_yes_no_or_not_known(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Alike: Yes, with both tests named. Ids that never meet: not known, whatever G2 says."""
    alike = judged(np.tile(np.linspace(1, -1, 5), (12, 1)), np.full(12, 20), np.random.default_rng(0))
    apart = Comparisons(alike.x_a, alike.x_b, alike.y, 5, annotator=np.arange(len(alike)))
    for data, answer, p_known in ((alike, True, True), (apart, None, False)):
        path = write(tmp_path / "judged.csv", data)
        assert main(["diagnose", path, "--annotator", "who", "--json"]) == 0
        record = json.loads(capsys.readouterr().out)
        assert record["one_annotator"] is answer
        assert (record["annotators_differ"]["p_value"] is not None) == p_known
    assert record["compatible"] is True
    assert main(["diagnose", path, "--annotator", "who"]) == 0
    assert "Not known. Pooled win rates against one omega" in " ".join(capsys.readouterr().out.split())


def test_fit_says_so_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A line below the pooled test, and the numbers in JSON."""
    path = write(tmp_path / "judged.csv", of_rows(three_judges()))
    assert main(["fit", path, "--weight", "w", "--annotator", "who"]) == 0
    out = capsys.readouterr().out
    assert "between annotators: who gave which answer to a pair, permuted" in out
    assert max(map(len, out.splitlines())) <= 100
    assert main(["fit", path, "--weight", "w", "--annotator", "who", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["annotators_differ"]["p_value"] < 0.01


def test_two_tests_reject_one_annotator_as_often_as_one_would() -> None:
    """The pooled test (p = .86 here) and the one between annotators, each at half the level; one alone at 5 %."""
    pooled = goodness_of_fit(of_rows(three_judges()))
    answers = [verdict_of(pooled, of_p_value(p)) for p in (0.02, 0.03, 0.06)]
    assert answers == [False, True, True]
    answers = [verdict_of(None, of_p_value(p)) for p in (0.02, 0.03, 0.06)]
    assert answers == [False, False, True]
    assert verdict_of(None, None) is None
    assert verdict_of(None, Exchangeability(0, 0, 0, untested="too few")) is None
    assert verdict_of(pooled, Exchangeability(0, 0, 0, untested="too few")) is None
    assert verdict_of(pooled, None) is True


def of_p_value(p_value: float) -> Exchangeability:
    return Exchangeability(2, 9, 3, p_value=p_value)
