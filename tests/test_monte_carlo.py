"""p-values by simulation: when the drawing stops, how far off they are, and that the seed does not decide."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import binom

from reference import Comparisons
from reference.__main__ import main
from reference.inference.goodness_of_fit import goodness_of_fit
from reference.inference.monte_carlo import exceeding, rejectable, settled, simulated_p_value
from reference.inference.refit import Decisive, refit
from tests.checks import CLOSED_FORM, assert_close

LEVEL = 0.05
CYCLE = "a,b,y,times\nx,y,1,8\nx,y,0,3\ny,z,1,7\ny,z,0,2\nz,x,1,6\nz,x,0,5\n"  # 8 : 3, 7 : 2, 6 : 5 in a circle


def uniform(seed: int) -> Callable[[int], np.ndarray]:
    """Draws uniform statistics, of which 1 - p is exceeded with probability p."""
    return np.random.default_rng(seed).random


def every(k: int, counts: list[int]) -> Callable[[int], np.ndarray]:
    """Draws 0, but for a 1 every k-th time; notes how many in counts."""

    def draw(count: int) -> np.ndarray:
        before = sum(counts)
        counts.append(count)
        return np.array((before + np.arange(count)) % k == 0, dtype=np.float64)

    return draw


@pytest.mark.parametrize(("k", "drawn"), [(2, [99]), (9, [99, 100]), (20, [99, 100, 200, 101])])
def test_the_drawing_ends_where_the_side_is_clear(k: int, drawn: list[int]) -> None:
    """p = 1/2 is clear at once, 1/9 after as many draws again and one, and 1/20 never: then at the most, 500."""
    counts: list[int] = []
    found = simulated_p_value(every(k, counts), 1.0, LEVEL, 99, 500)
    assert counts == drawn
    assert found.settled == (k < 20)
    assert_close(found.p_value, (1 + found.null.sum()) / (1 + sum(drawn)), CLOSED_FORM)


def test_no_more_is_drawn_than_the_most() -> None:
    """Also where that is less than the first draws."""
    assert len(simulated_p_value(uniform(1), 0.5, LEVEL, 99, 50).null) == 50


def test_the_error_is_the_spread_over_seeds() -> None:
    """2,000 p-values of 199 draws: their standard deviation, within four of its own errors of 1.6 %."""
    found = [simulated_p_value(uniform(seed), 0.7, LEVEL, 199, 199) for seed in range(2000)]
    spread = np.std([one.p_value for one in found])
    assert spread == pytest.approx(np.mean([one.error for one in found]), rel=0.064)
    assert_close(np.mean([one.p_value for one in found]), (1 + 199 * 0.3) / 200, 4 * spread / np.sqrt(2000), 1.0)


@pytest.mark.parametrize("p", [0.001, 0.03, 0.045, 0.055, 0.08])
def test_a_settled_verdict_is_that_of_every_seed(p: float) -> None:
    """Of 40 seeds all say on which side of the level p is: 7 looks at intervals that miss in one of 1,000."""
    found = [simulated_p_value(uniform(seed), 1 - p, LEVEL, 199, 255_999) for seed in range(40)]
    assert all(one.settled for one in found)
    assert {one.p_value < LEVEL for one in found} == {p < LEVEL}


def test_equal_but_for_rounding_is_as_large() -> None:
    """Also negative statistics, and large ones in their last digits."""
    assert exceeding(np.array([1.0, 1.0 - 1e-12, 0.9]), 1.0) == 2
    assert exceeding(np.array([-5.0, -5.0 - 1e-12, -6.0, 1.0]), -5.0) == 3
    assert exceeding(np.array([1e6 * (1 - 1e-12), 1e6 - 1.0]), 1e6) == 1


def test_whether_anything_could_be_rejected() -> None:
    """A largest statistic that comes once in 40 could be rejected at 5 %, one that comes once in 8 could not."""
    null = np.arange(400.0)
    assert rejectable(np.minimum(null, 390.0), 0.0, LEVEL)
    assert not rejectable(np.minimum(null, 350.0), 0.0, LEVEL)
    assert rejectable(np.zeros(400), 1.0, LEVEL)
    assert not settled(0, 50, LEVEL)


def test_the_bootstrap_of_a_cycle_near_the_level(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """p by summing over all outcomes: each seed comes within four errors, and rejects."""
    path = tmp_path / "games.csv"
    path.write_text(CYCLE)
    data = Comparisons.from_csv(str(path), weight="times")
    design = Decisive.of(data)
    fitted = refit(design, design.won[None])
    outcomes = np.array(list(product(*(range(int(n) + 1) for n in design.total))), dtype=np.float64)
    weight = binom.pmf(outcomes, design.total, fitted.fitted[0]).prod(axis=1)
    exact = weight[refit(design, outcomes, fitted.fitted[0]).centred >= fitted.centred[0] - 1e-9].sum()
    assert exact == pytest.approx(0.0476, abs=5e-5)
    for seed in range(4):
        verdict = goodness_of_fit(data, seed=seed)
        assert abs(verdict.p_value - exact) <= 4 * verdict.error
        assert verdict.p_value < LEVEL
        assert verdict.settled
        assert 199 < verdict.replicates < 255_999
    assert main(["fit", str(path), "--weight", "times"]) == 0
    verdict = goodness_of_fit(data)
    line = f"p = {verdict.p_value:.3g} +- {verdict.error:.1g} (bootstrap of {verdict.replicates}"
    assert line in capsys.readouterr().out


def test_a_bootstrap_that_is_not_settled_says_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With no more than the first 199 data sets, another seed may say otherwise."""
    monkeypatch.setattr("reference.inference.goodness_of_fit.MOST_REPLICATES", 199)
    path = tmp_path / "games.csv"
    path.write_text(CYCLE)
    for command in ("fit", "diagnose"):
        assert main([command, str(path), "--weight", "times"]) == 0
        assert "not settled at 5 %: another seed may say otherwise" in " ".join(capsys.readouterr().out.split())
