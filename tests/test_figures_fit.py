"""`python -m figures fit FILE`: its numbers against the fit they come from, its picture, its errors."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from figures.__main__ import main
from figures.numbers import load
from figures.own_comparisons import draw as draw_picture
from figures.own_comparisons import win_rates
from reference import PBDE, Comparisons
from reference.inference.calibration import draw
from reference.inference.fit import fit
from tests.checks import CLOSED_FORM, SOLVED, assert_close


def written(path: Path, n: int, each: int) -> Path:
    """A file of comparisons of n items by one Luce annotator, with dollar signs in their names."""
    _, data = draw(np.triu(np.full((n, n), float(each)), 1), np.random.default_rng(n))
    columns = (np.asarray(data.x_a), np.asarray(data.x_b), np.asarray(data.y), np.asarray(data.weight))
    lines = [f"item ${i},item ${j},{y:g},{weight:g}" for i, j, y, weight in zip(*columns, strict=True) if weight]
    path.write_text("\n".join(["a,b,y,times", *lines]) + "\n")
    return path


@pytest.mark.parametrize(("n", "each"), [(6, 40), (100, 2)])
def test_the_picture_of_a_file(n: int, each: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Few items and many: the arrays are the fit's, the picture is small, and the bands hold most of the bins."""
    path = written(tmp_path / "games.csv", n, each)
    assert (
        main(["fit", str(path), "--weight", "times", "--bootstrap", "19", "--out", str(tmp_path), "--json"]) == 0
    )
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["panel"] for row in rows] == ["items", "win rates"]
    numbers = load("fit", tmp_path)
    comparisons = Comparisons.from_csv(path, weight="times")
    assert_close(numbers.arrays["log_p"], fit(comparisons, PBDE.luce()).log_p, SOLVED)
    assert rows[1]["values"]["bins in band"] >= 0.8
    assert 0 < (tmp_path / "fit.png").stat().st_size < 200_000


def test_win_rates_pool_every_comparison_once() -> None:
    """Bins hold all comparisons; favourites' wins add up; what the fit predicts adds up to the wins too."""
    _, data = draw(np.triu(np.full((9, 9), 7.0), 1), np.random.default_rng(1))
    fitted = fit(data, PBDE.luce())
    rates = win_rates(data, fitted)
    wins = data.wins().toarray()
    favourite = fitted.omega[:, None] > fitted.omega[None, :]
    assert_close(rates["pooled"].sum(), wins.sum(), CLOSED_FORM)
    assert_close((rates["observed"] * rates["pooled"]).sum(), wins[favourite].sum(), CLOSED_FORM)
    assert (rates["predicted"] >= 0.5).all()
    assert (rates["band_low"] <= rates["predicted"]).all()
    assert (rates["predicted"] <= rates["band_high"]).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--by", "a"], "--by COL and --group VALUE go together"),
        (["--by", "a", "--group", "nobody"], "--group must be one of"),
        (["--y", "nothing"], "column 'nothing' is not there"),
        (["--prior", "-1"], "prior must be >= 0"),
    ],
)
def test_wrong_arguments(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line on stderr, exit status 2, nothing written."""
    path = written(tmp_path / "games.csv", 4, 3)
    with pytest.raises(SystemExit) as stopped:
        main(["fit", str(path), "--out", str(tmp_path / "out"), *arguments])
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out" / "fit.png").exists()


def test_an_undetermined_file_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The cure is named, and works."""
    path = tmp_path / "games.csv"
    path.write_text("a,b,y\nx,z,1\nx,w,1\nz,w,0\n")
    with pytest.raises(SystemExit):
        main(["fit", str(path), "--out", str(tmp_path)])
    assert "--prior 0.5" in capsys.readouterr().err
    assert main(["fit", str(path), "--out", str(tmp_path), "--prior", "0.5"]) == 0


def test_a_missing_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Named in one line."""
    with pytest.raises(SystemExit):
        main(["fit", str(tmp_path / "nowhere.csv"), "--out", str(tmp_path)])
    assert "nowhere.csv: No such file" in capsys.readouterr().err


def test_a_directory_in_place_of_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Named in one line."""
    with pytest.raises(SystemExit):
        main(["fit", str(tmp_path), "--out", str(tmp_path)])
    assert capsys.readouterr().err == f"error: {tmp_path}: Is a directory\n"


@pytest.mark.parametrize("lengths", ["x,1\nz,1\n", "x,1\nz,1e4\n"])
def test_intervals_that_reach_down_to_nothing(lengths: str, tmp_path: Path) -> None:
    """An interval from 0, and a density that is 0 in float64, end where the axis does, without a warning."""
    path, sizes = tmp_path / "games.csv", tmp_path / "sizes.csv"
    path.write_text("a,b,y\nx,z,1\n")
    sizes.write_text(f"item,length\n{lengths}")
    given = ["--prior", "1e-6", "--pbde", "length", "--lengths", str(sizes), "--out", str(tmp_path)]
    assert main(["fit", str(path), *given]) == 0
    numbers = load("fit", tmp_path)
    assert numbers.arrays["low"].min() == 0
    left, right = draw_picture(numbers).axes[0].get_xlim()
    assert 0 < left < right


def test_without_standard_errors_no_interval_is_promised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Above the limit of the covariance the axis names the density alone, and the picture is drawn."""
    monkeypatch.setattr("reference.inference.fit.COVARIANCE_LIMIT", 5)
    path = written(tmp_path / "games.csv", 6, 9)
    assert main(["fit", str(path), "--weight", "times", "--bootstrap", "0", "--out", str(tmp_path)]) == 0
    numbers = load("fit", tmp_path)
    assert np.isnan(numbers.arrays["low"]).all()
    assert draw_picture(numbers).axes[0].get_xlabel() == "implicit preference distribution"
