"""figures --redraw and figures lengths on files that can be read and hold something else: one line, status 2."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from accel.checkpoint import save
from figures import exact_targets as targets
from figures.__main__ import main
from figures.numbers import Settings, load
from figures.numbers import save as save_numbers
from lm.figure6 import NUMBERS

CURE = "run without --redraw to compute it again"
Entry = dict[str, Any]
LAWS = ("whole", "short", "long", "annotator x50", "density x50")


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that `python -m figures targets` leaves."""
    folder = tmp_path_factory.mktemp("drawn")
    assert main(["targets", "--out", str(folder)]) == 0
    return folder


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """The one line on stderr of a command that must exit with status 2."""
    with pytest.raises(SystemExit) as stopped:
        main(words)
    assert stopped.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


def without_array(entry: Entry) -> None:
    del entry["arrays"]["figure_4_fit"]


def without_panels(entry: Entry) -> None:
    entry["panels"] = []


def without_settings(entry: Entry) -> None:
    entry["settings"] = {}


def listed_settings(entry: Entry) -> None:
    entry["settings"] = [1]


def worded_distance(entry: Entry) -> None:
    entry["panels"][0]["tv"] = "x"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (without_array, "cannot read"),
        (without_panels, "cannot draw from"),
        (without_settings, "cannot draw from"),
        (listed_settings, "cannot draw from"),
        (worded_distance, "cannot draw from"),
    ],
)
def test_wrong_numbers_are_one_line(
    change: Callable[[Entry], None], says: str, drawn: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without an array, panels, settings; with a list for a dict, a word for a number. The old picture stays."""
    for path in drawn.glob("targets.*"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    path = tmp_path / "targets.json"
    entry = json.loads(path.read_text())
    change(entry)
    path.write_text(json.dumps(entry))
    line = refused(capsys, "targets", "--redraw", "--out", str(tmp_path))
    assert re.fullmatch(rf"error: {says} {tmp_path}/targets\.\w+( \(\w+: .*\))?; {CURE}", line)
    assert (tmp_path / "targets.png").read_bytes() == (drawn / "targets.png").read_bytes()


def test_files_of_two_runs_are_refused(
    drawn: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Killed between the two files: the arrays are new, and JSON would tell of the old ones."""
    save_numbers(load("targets", drawn), tmp_path)
    plain = os.replace

    def replace_or_die(source: Path, target: Path) -> None:
        if target.suffix == ".json":
            raise KeyboardInterrupt
        plain(source, target)

    monkeypatch.setattr(os, "replace", replace_or_die)
    with pytest.raises(KeyboardInterrupt):
        save_numbers(targets.compute(Settings("uniform")), tmp_path)
    line = refused(capsys, "targets", "--redraw", "--out", str(tmp_path))
    assert line == f"error: cannot read {tmp_path / 'targets.npz'}; {CURE}"


def laws(*names: str) -> dict[str, Any]:
    return {name: np.full(51, 1 / 51) for name in names}


ABOUT = {"preset": "quick", "corpus": "grammar", "seed": 0, "scale": 50.0, "samples": 4}


def test_lengths_of_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What `python -m lm figure6` leaves is drawn: a panel a law."""
    save(tmp_path / NUMBERS, laws(*LAWS), ABOUT)
    assert main(["lengths", str(tmp_path), "--out", str(tmp_path), "--json"]) == 0
    assert [json.loads(line)["array"] for line in capsys.readouterr().out.splitlines()] == list(LAWS)
    assert 0 < (tmp_path / "lengths.png").stat().st_size < 200_000


@pytest.mark.parametrize(
    ("names", "about"),
    [((), ABOUT), (("weight",), ABOUT), (LAWS[:3], ABOUT), (LAWS, {}), (LAWS, {**ABOUT, "samples": "few"})],
)
def test_lengths_of_something_else(
    names: tuple[str, ...], about: Entry, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Another file of this package, such as a checkpoint, under that name."""
    save(tmp_path / NUMBERS, laws(*names), about)
    line = refused(capsys, "lengths", str(tmp_path), "--out", str(tmp_path))
    told = rf"error: cannot draw from {tmp_path / NUMBERS} \(\w+: .*\); make it again with python -m lm figure6"
    assert re.fullmatch(told, line)
