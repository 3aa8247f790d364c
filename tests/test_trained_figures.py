"""Trained figures: targets against published heights, their comparisons, runs that are not made twice."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from accel import get_ops
from accel.losses import logistic
from accel.objectives import dpo
from accel.train import Config, train
from figures import a2_ipo as ipo
from figures import a2_slic as slic
from figures import a3_latent as latent
from figures import density_experiment as training
from figures import fig5_misspecified as annotators
from figures import fig7_reward_log as reward_log
from figures.__main__ import FIGURES, main
from figures.density_experiment import Problem, distances_to, draw_different, exactly
from figures.numbers import Extremum, Settings, dips, load, peaks
from reference import PBDE, optimum, win_matrix
from reference.pbde import log_mass
from reference.univariate import Toy
from tests.checks import CLOSED_FORM, EPS32, FLOAT32_STORED, assert_close

SMALL = ["--ops", "numpy", "--steps", "3"]
HEIGHT = 2e-4  # heights are published to four decimals, some of them at grid points


@pytest.fixture(autouse=True)
def _short_pretraining(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing here waits for a network to be good."""
    short = {
        name: training.Preset(name, points=65, comparisons=512, pretraining_steps=5) for name in training.PRESETS
    }
    monkeypatch.setattr(training, "PRESETS", short)
    monkeypatch.setattr(slic, "SMOOTH_POINTS", 41)
    monkeypatch.setattr(slic, "STEP_POINTS", 41)


@pytest.mark.parametrize("name", [name for name in FIGURES if name != "targets"])
def test_every_figure_trains_draws_and_tells(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Three steps of each: the promised keys, normalised densities, a small picture, bit-equal redrawing."""
    assert main([name, *SMALL, "--out", str(tmp_path), "--json"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert all({"figure", "panel", "tv", "kl", "peaks", "seconds"} <= set(row) for row in rows)
    trained = [row for row in rows if row["seconds"] is not None]
    assert trained
    assert all(0 <= row["tv"] <= 1 and row["kl"] >= -1e-6 for row in trained if row["tv"] is not None)
    numbers = load(name, tmp_path)
    for row in trained:
        if f"{row['array']}_target" in numbers.arrays:
            assert_close(log_mass(numbers.arrays[row["array"]], numbers.arrays["measure"]), 0.0, CLOSED_FORM)
    picture = tmp_path / f"{name}.png"
    before = picture.read_bytes()
    assert len(before) < 200_000
    picture.unlink()
    assert main([name, "--out", str(tmp_path), "--redraw"]) == 0
    assert picture.read_bytes() == before


def test_a_run_is_not_made_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """reward-log takes Figure 1's run over; other settings do not."""
    assert main(["reward", *SMALL, "--out", str(tmp_path)]) == 0
    kept = sorted((tmp_path / "runs").iterdir())
    assert main(["reward-log", *SMALL, "--out", str(tmp_path)]) == 0
    assert sorted((tmp_path / "runs").iterdir()) == kept
    left, right = load("reward", tmp_path), load("reward-log", tmp_path)
    assert np.array_equal(left.arrays["reward"], right.arrays["reward"])
    assert main(["reward", *SMALL, "--out", str(tmp_path), "--seed", "1"]) == 0
    assert len(list((tmp_path / "runs").iterdir())) == 2


def test_an_interrupted_figure_ends_bit_for_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed in its third part and started again: the same numbers as without the interruption."""

    def run(folder: Path) -> np.ndarray:
        assert main(["reward", "--ops", "numpy", "--steps", "160", "--out", str(folder)]) == 0
        return load("reward", folder).arrays["reward"]

    class Killed(BaseException):
        pass

    whole = run(tmp_path / "whole")
    calls = []

    class Dying(type(get_ops("numpy"))):  # type: ignore[misc]
        def adam_step(self, *given: object) -> None:
            calls.append(1)
            if len(calls) == 150:
                raise Killed
            super().adam_step(*given)

    with monkeypatch.context() as patched:
        patched.setattr(training, "get_ops", lambda _: Dying())
        often = lambda *given, **named: train(given[0], given[1], _often(given[2]), *given[3:], **named)  # noqa: E731
        patched.setattr(training, "train", often)
        with pytest.raises(Killed):
            run(tmp_path / "cut")
        calls.append(1)
        assert np.array_equal(run(tmp_path / "cut"), whole)
    assert len(calls) < 150 + 1 + 100  # the second part did not begin again


def test_ctrl_c_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """No traceback, the shells' status 130, and what is kept is said."""

    class Interrupted(type(get_ops("numpy"))):  # type: ignore[misc]
        def adam_step(self, *given: object) -> None:
            raise KeyboardInterrupt

    monkeypatch.setattr(training, "get_ops", lambda _: Interrupted())
    with pytest.raises(SystemExit) as stopped:
        main(["reward", "--steps", "5", "--out", str(tmp_path)])
    assert stopped.value.code == 130
    assert capsys.readouterr().err == "interrupted: the same command goes on from the last checkpoint\n"


def _often(config: Config) -> Config:
    return replace(config, checkpoint_every=64)


def test_the_targets_are_the_published_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    """Exact heights of the misspecified fit, IPO and SLiC-HF, each under its proposal."""
    toy = Toy(401)
    q = toy.mass(toy.log_p_pre)
    fit = annotators.misspecified(toy, q)
    assert max(point.height for point in peaks(toy.x, fit)) == pytest.approx(0.1366, abs=HEIGHT)
    # published as .5204; grids of 201, 401 and 1,001 points all give .5207
    for tau, heights in ((0.1, (0.5207, 0.2483)), (0.5, (0.1478, 0.1299)), (1.0, (0.1084, 0.1040))):
        density = np.exp(ipo.borda_tilt(toy, q, tau))
        found = [density[toy.x < 0].max(), density[toy.x > 0].max()]
        assert found == pytest.approx(heights, abs=HEIGHT)
    monkeypatch.setattr(training, "PRESETS", {"quick": training.Preset("quick", points=201)})
    minimum, _ = slic.exact(Problem(Settings("pretrained")), 0.5, 1.0, 201)
    assert minimum.gap < 1e-6
    assert np.exp(minimum.log_p).max() == pytest.approx(0.109, abs=5e-4)


def test_a_target_by_way_of_a_coarser_grid_is_close() -> None:
    """What `exactly` interpolates differs from the direct computation by the curvature between grid points."""
    problem = Problem(Settings("pretrained"))
    direct = annotators.misspecified(problem.toy, problem.q)
    coarse = exactly(problem, annotators.misspecified, points=33)
    tv, _ = distances_to(direct, coarse, problem.toy.measure)
    assert tv is not None
    assert 0 < tv < 5e-3


def test_infinite_data_are_the_win_matrix() -> None:
    """The merged pairs have the reference's expected wins, and Eq. 7 at the optimum is the same number."""
    problem = Problem(Settings("uniform", ops="numpy", infinite=True))
    pairs = problem.pairs(problem.toy.population)
    wins = win_matrix(problem.toy.population.preference_prob(), problem.q)
    n = problem.toy.n
    found = np.zeros((n, n))
    np.add.at(found, (pairs.x_a, pairs.x_b), pairs.weight * pairs.y)
    np.add.at(found, (pairs.x_b, pairs.x_a), pairs.weight * (1 - pairs.y))
    assert_close(found, wins, CLOSED_FORM, scale=wins.max())
    best = optimum(wins, PBDE.luce(), problem.toy.measure)
    loss, _ = problem.ops.margin_loss(best.omega, pairs, logistic)
    assert_close(float(loss), best.loss, CLOSED_FORM)


def test_drawn_pairs_differ_and_follow_the_proposal() -> None:
    """No point meets itself; frequencies are within five standard errors of the mass, given a difference."""
    mass = np.array([0.5, 0.3, 0.15, 0.05])
    x_a, x_b = draw_different(mass, 40_000, np.random.default_rng(0))
    assert (x_a != x_b).all()
    pairs = np.outer(mass, mass)
    np.fill_diagonal(pairs, 0)
    pairs /= pairs.sum()
    frequency = np.zeros((4, 4))
    np.add.at(frequency, (x_a, x_b), 1 / 40_000)
    assert (np.abs(frequency - pairs) <= 5 * np.sqrt(pairs / 40_000)).all()


def test_distances_of_known_densities() -> None:
    """TV and KL of two exponentials of known overlap, and None without a target."""
    x = np.linspace(0, 40, 40_001)
    measure = np.full(x.size, x[1])
    measure[[0, -1]] /= 2
    p, q = -x, np.log(2) - 2 * x  # TV = max gap of the tails = 1/4 at x = log 2; KL(p || q) = 1 - log 2
    tv, kl = distances_to(p, q, measure)
    assert tv == pytest.approx(0.25, abs=1e-5)
    assert kl == pytest.approx(1 - np.log(2), abs=1e-5)
    assert distances_to(None, q, measure) == (None, None)


def test_dpo_takes_the_learned_pretrained_density() -> None:
    """g is the frozen network's own log density, as DPO has it, not the normal that it was fitted to."""
    problem = Problem(Settings("uniform", ops="numpy"))
    objective = dpo(problem.pairs(problem.toy.annotator), 4.0, problem.log_p_pre)
    assert_close(objective.g, -4 * problem.log_p_pre, FLOAT32_STORED)
    assert np.abs(problem.log_p_pre - problem.toy.log_p_pre).max() > 0.01


def test_rounding_makes_no_peaks() -> None:
    """On the paper's 65,536 points neighbours differ by less than float32 can tell: one peak all the same."""
    x = np.linspace(-10, 10, 2**16)
    log_p = (-((x - 1.5) ** 2) / 2 - 0.5 * np.log(2 * np.pi)).astype(np.float32)
    log_p *= 1 + np.random.default_rng(0).integers(-2, 3, x.size).astype(np.float32) * EPS32
    (peak,) = peaks(x, log_p.astype(np.float64))
    assert abs(peak.x - 1.5) < 0.02
    assert abs(peak.height - 1 / np.sqrt(2 * np.pi)) < HEIGHT
    assert dips(x, log_p.astype(np.float64)) == []


def test_a_staircase_has_one_peak() -> None:
    """Its highest plateau, as high as that is and at its middle; steps on the way up are none."""
    log_p = np.repeat([0.0, 1.0, 2.0, 1.0, 0.5], [5, 6, 7, 8, 9])
    (peak,) = peaks(np.arange(35.0), log_p)
    assert peak == Extremum(14.0, float(np.exp(2.0)))
    assert dips(np.arange(35.0), log_p) == []
    assert peaks(np.arange(9.0), np.zeros(9)) == []


def test_latent_components_are_named_by_their_place() -> None:
    """Component 1 is the left one, whatever label training gave it; their weights sum to 1."""
    problem = Problem(Settings("uniform", ops="numpy", steps=3))
    panels, arrays = latent.trained(problem)
    x, measure = problem.toy.x, problem.toy.measure
    means = [measure @ (x * np.exp(arrays[f"latent_{k}"])) for k in (1, 2)]
    assert means[0] <= means[1]
    assert_close(panels[1].values["weight"] + panels[2].values["weight"], 1.0, CLOSED_FORM)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["reward", "--steps", "0"], "steps must be >= 1"),
        (["reward", "--seed", "-1"], "seed must be >= 0"),
        (["reward", "--redraw", "--preset", "paper"], "--redraw keeps the preset"),
        (["reward", "--ops", "abacus"], "abacus"),
    ],
)
def test_wrong_settings(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line, status 2."""
    with pytest.raises(SystemExit) as stopped:
        main([*arguments, "--out", str(tmp_path)])
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


def test_figure_7_keeps_the_reward_as_it_was_trained() -> None:
    """r is the normalised log density plus log Z, so that e^r and e^r / Z stand log10 Z decades apart."""
    numbers = reward_log.compute(Settings("uniform", ops="numpy", steps=3))
    (panel,) = numbers.panels
    apart = numbers.arrays["r"] - numbers.arrays["reward"]
    assert_close(
        apart, np.full(apart.shape, log_mass(numbers.arrays["r"], numbers.arrays["measure"])), CLOSED_FORM
    )
    assert_close(panel.values["log10 Z"], apart.mean() / np.log(10), CLOSED_FORM)
    assert panel.figure == "7"


def test_the_mixture_is_trained_at_the_notebooks_rate(tmp_path: Path) -> None:
    """A.3 at 1e-4 in every preset, and beside it the marginal at Table 1's 5e-4: two runs, two panels."""
    assert main(["latent", *SMALL, "--out", str(tmp_path)]) == 0
    numbers = load("latent", tmp_path)
    assert numbers.settings["learning_rate"] == 1e-4
    assert [panel.array for panel in numbers.panels][-1] == "latent_table_1"
    assert not np.array_equal(numbers.arrays["latent"], numbers.arrays["latent_table_1"])
    assert len(list((tmp_path / "runs").glob("figure-11-latent-*"))) == 2


def test_another_start_is_another_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A version that starts elsewhere trains anew beside the old runs: neither taken over nor refused."""
    weights = []
    for noise in (1e-4, 1e-1):
        monkeypatch.setattr(latent, "NOISE", noise)
        assert main(["latent", *SMALL, "--out", str(tmp_path)]) == 0
        weights.append(load("latent", tmp_path).panels[1].values["weight"])
    assert weights[0] != weights[1]
    assert len(list((tmp_path / "runs").glob("figure-11-latent-*"))) == 3
