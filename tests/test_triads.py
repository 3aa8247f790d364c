"""Cyclic triads of pairs compared once: counted one by one, tournaments of given wins, size, power, and words."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations, product
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.special import expit
from scipy.stats import chisquare

from reference import Comparisons
from reference.__main__ import main
from reference.command_line.diagnose import verdict_of
from reference.inference.exchangeability import Exchangeability
from reference.inference.goodness_of_fit import goodness_of_fit
from reference.inference.orientations import beaten, moved
from reference.inference.triads import TRIAD_ITEMS, Triads, cyclic_triads
from tests.checks import CHANCE, CLOSED_FORM, assert_close

LEVEL = 0.05
Pairs = tuple[NDArray[np.intp], NDArray[np.intp]]


def some_pairs(n: int, share: float, rng: np.random.Generator) -> Pairs:
    """Some of all pairs i < j of n items."""
    i, j = np.triu_indices(n, 1)
    kept = rng.random(len(i)) < share
    return i[kept], j[kept]


def across(size: int) -> Pairs:
    """Three groups of so many items: the pairs of items of different groups."""
    i, j = np.triu_indices(3 * size, 1)
    kept = i // size != j // size
    return i[kept], j[kept]


def hubs(count: int) -> Pairs:
    """Two items that meet each other and each of `count` others."""
    others = np.arange(2, count + 2)
    return np.concatenate([[0], 0 * others, 0 * others + 1]), np.concatenate([[1], others, others])


def judged(pairs: Pairs, omega: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
    """Outcomes by one Luce annotator."""
    i, j = pairs
    return np.asarray(rng.random(len(i)) < expit(omega[i] - omega[j]), np.float64)


def counted(pairs: Pairs, won: NDArray[np.float64], n: int) -> tuple[int, int]:
    """Triads and cyclic ones, one by one."""
    first = {frozenset(pair): pair[0] if y else pair[1] for *pair, y in zip(*pairs, won, strict=True)}
    triads = [[frozenset(pair) for pair in combinations(triple, 2)] for triple in combinations(range(n), 3)]
    triads = [sides for sides in triads if all(side in first for side in sides)]
    return len(triads), sum(len({first[side] for side in sides}) == 3 for sides in triads)


@given(st.integers(0, 10_000), st.integers(3, 9), st.sampled_from([0.6, 1.0]))
def test_triads_are_counted(seed: int, n: int, share: float) -> None:
    """Against all triples; without any there is no test."""
    rng = np.random.default_rng(seed)
    pairs = some_pairs(n, share, rng)
    won = rng.integers(0, 2, len(pairs[0])).astype(np.float64)
    triads, cyclic = counted(pairs, won, n)
    found = cyclic_triads(*pairs, won, n, 0, LEVEL)
    assert (found is None) == (triads == 0)
    if found is not None:
        assert (found.triads, found.cyclic) == (triads, cyclic)
        assert found.coins or share < 1


def tournaments(n: int) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """The wins (2^E, n) of every tournament on all pairs of n items, and their cyclic triads."""
    i, j = np.triu_indices(n, 1)
    won = np.array(list(product((0.0, 1.0), repeat=len(i))))
    wins = np.zeros((len(won), n))
    for e in range(len(i)):
        wins[:, i[e]] += won[:, e]
        wins[:, j[e]] += 1 - won[:, e]
    return wins, np.array([counted((i, j), row, n)[1] for row in won])


@pytest.mark.parametrize("n", [3, 4, 5])
def test_one_annotator_makes_no_more_cycles_than_coins(n: int) -> None:
    """All tournaments: wins determine T, and P(T >= t) is largest at omega = 0, whatever t."""
    wins, cyclic = tournaments(n)
    assert_close(n * (n - 1) * (n - 2) / 6 - (wins * (wins - 1) / 2).sum(axis=1), cyclic, CLOSED_FORM)
    i, j = np.triu_indices(n, 1)
    for seed in range(200):
        rng = np.random.default_rng(seed)
        omega = rng.normal(size=n) * 10 ** rng.uniform(-2, 1)
        weight = np.exp(wins @ omega - np.logaddexp(omega[i], omega[j]).sum())
        for t in range(1, cyclic.max() + 1):
            assert weight[cyclic >= t].sum() <= np.mean(cyclic >= t) * (1 + CLOSED_FORM)


def test_moves_keep_wins_and_pairs_and_reach_every_tournament() -> None:
    """Seven pairs of five items: each tournament with the same wins comes as often."""
    pairs = np.array([0, 0, 0, 1, 1, 2, 3]), np.array([1, 2, 3, 2, 4, 3, 4])
    won = np.array([1.0, 0, 0, 1, 0, 1, 1])
    every = np.array(list(product((0.0, 1.0), repeat=7)))
    scores = np.array([beaten(*pairs, row, 5)[1] for row in every])
    losers, wins = beaten(*pairs, won, 5)
    same = every[(scores == wins).all(axis=1)]
    assert len(same) > 3
    drawn = moved(np.repeat(losers[None], 4000, axis=0), wins, 12, np.random.default_rng(0))
    item, slot = np.nonzero(np.arange(losers.shape[1]) < wins[:, None])
    beats = np.zeros((4000, 5, 5))
    beats[np.arange(4000)[:, None], item, drawn[:, item, slot]] = 1
    index = (same[None] == beats[:, pairs[0], pairs[1]][:, None]).all(axis=2)
    assert (index.sum(axis=1) == 1).all()
    assert (beats.sum(axis=2) == wins).all()
    assert ((beats + beats.transpose(0, 2, 1)).sum(axis=(1, 2)) == 14).all()
    assert chisquare(index.sum(axis=0)).pvalue > CHANCE


def drawn(kind: str, spread: float, rng: np.random.Generator) -> tuple[Pairs, NDArray[np.float64]]:
    """The pairs of a design, and omega."""
    if kind == "hubs":
        return hubs(60), spread * np.append([-1.0, 1.0], np.zeros(60))
    n, share = (8, 1.0) if kind == "all" else (14, 0.5)
    return some_pairs(n, share, rng), spread * rng.normal(size=n)


@pytest.mark.parametrize(
    ("kind", "spread"), [("all", 0.0), ("all", 0.5), ("half", 0.0), ("half", 0.5), ("hubs", 0.5)]
)
def test_the_size_of_the_triads(kind: str, spread: float) -> None:
    """One annotator: at most 5 %, and three standard errors of it. Coins would reject 18 % for the hubs."""
    rejected = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        pairs, omega = drawn(kind, spread, rng)
        found = cyclic_triads(*pairs, judged(pairs, omega, rng), len(omega), seed, LEVEL)
        assert found is not None
        rejected += found.p_value < LEVEL
    assert rejected / 200 <= LEVEL + 3 * np.sqrt(LEVEL * (1 - LEVEL) / 200)


def test_three_groups_in_a_circle_are_rejected() -> None:
    """Pairs across three groups only, each group better than the next: all triads are cyclic."""
    i, j = across(3)
    found = cyclic_triads(i, j, ((j // 3 - i // 3) % 3 == 1).astype(np.float64), 9, 0, LEVEL)
    assert isinstance(found, Triads)
    assert (found.triads, found.cyclic, found.coins) == (27, 27, False)
    assert found.expected < 15
    assert found.p_value < 0.01


def test_what_no_number_of_triads_could_show() -> None:
    """One triangle is cyclic once in four tournaments; where triangles share a corner, wins tell which are."""
    found = cyclic_triads(np.array([0, 0, 1]), np.array([1, 2, 2]), np.array([1.0, 0, 1]), 3, 0, LEVEL)
    assert isinstance(found, Triads)
    assert (found.triads, found.cyclic, found.coins, found.expected) == (1, 1, True, 0.25)
    assert np.isnan(found.p_value)
    fan = np.array([0, 0, 1, 0, 0, 3]), np.array([1, 2, 2, 3, 4, 4])
    found = cyclic_triads(*fan, np.array([1.0, 0, 1, 1, 0, 1]), 5, 0, LEVEL)
    assert isinstance(found, Triads)
    assert (found.cyclic, found.coins, found.expected) == (2, False, 2.0)
    assert np.isnan(found.p_value)
    many = some_pairs(TRIAD_ITEMS + 1, 1.0, np.random.default_rng(0))
    assert cyclic_triads(*many, np.ones(len(many[0])), TRIAD_ITEMS + 1, 0, LEVEL) is None


# ------------------------------------------------------------------------------------------- in the verdict


def once(n: int, seed: int, annotators: int | None = None) -> Comparisons:
    """Coins on every pair of n items, once; judged by so many annotators in turn."""
    i, j = np.triu_indices(n, 1)
    won = np.random.default_rng(seed).integers(0, 2, len(i)).astype(np.float64)
    return Comparisons(i, j, won, n, annotator=None if annotators is None else np.arange(len(i)) % annotators)


def test_triads_that_do_not_reject_are_no_yes() -> None:
    """They see so little that only a rejection counts."""
    verdict = goodness_of_fit(once(9, 0))
    assert verdict.triads is not None
    assert verdict.pooled_p == verdict.triads.p_value > LEVEL
    assert verdict_of(verdict, None) is None
    assert verdict_of(replace(verdict, triads=replace(verdict.triads, p_value=0.04)), None) is False
    assert verdict_of(replace(verdict, triads=None), None) is None


def test_triads_are_one_of_two_tests_whatever_they_say() -> None:
    """Beside the test between annotators each has 2.5 %, so that both together reject in at most 5 %."""
    verdict = goodness_of_fit(once(9, 0))
    between = Exchangeability(2, 20, 5, p_value=0.03)
    assert verdict.triads is not None
    assert verdict_of(verdict, between) is True
    assert verdict_of(verdict, replace(between, p_value=0.02)) is False
    assert verdict_of(replace(verdict, triads=None), between) is False
    assert verdict_of(replace(verdict, triads=replace(verdict.triads, p_value=0.04)), between) is True


def test_triads_stand_in_only_where_no_outcome_could_be_tested() -> None:
    """A graph whose repeated pairs lie on a cycle has no triads tested, also where these have no finite fit."""
    i, j = np.triu_indices(6, 1)
    weight = np.where(i == 0, 2.0, 1.0)
    coins = Comparisons(i, j, np.random.default_rng(1).integers(0, 2, len(i)), 6, weight=weight)
    order = Comparisons(i, j, np.ones(len(i)), 6, weight=weight)
    assert goodness_of_fit(coins).triads is None
    assert goodness_of_fit(order).triads is None
    assert np.isnan(goodness_of_fit(order).p_value)


def test_how_many_pairs_carry_the_test(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A ring of five pairs, two of them repeated, with one degree of freedom; a sixth item always won."""
    ring = ["a,b,1", "a,b,0", "b,c,1", "c,d,1", "c,d,1", "d,e,1", "e,a,1", "f,a,1", "f,a,1"]
    path = tmp_path / "games.csv"
    path.write_text("\n".join(["a,b,y", *ring]) + "\n")
    verdict = goodness_of_fit(Comparisons.from_csv(str(path)))
    assert (verdict.pairs, verdict.repeated, verdict.carried) == (6, 2, 1)
    text = "the test rests on 2 of 6 pairs, those compared more than once that have a finite fit: 1 df"
    for command in (["fit", "--prior", "0.5"], ["diagnose"]):
        assert main([command[0], str(path), *command[1:]]) == 0
        assert text in " ".join(capsys.readouterr().out.split())
    path.write_text("\n".join(["a,b,y", *ring, "e,d,1"]) + "\n")
    assert main(["fit", str(path), "--prior", "0.5"]) == 0
    assert "rests on" not in capsys.readouterr().out
