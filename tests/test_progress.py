"""What long work says: a bar on a terminal, elsewhere a line each half minute. The clock is a number."""

from __future__ import annotations

import io
from contextlib import suppress
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from tqdm import tqdm

from accel import MLP, Config, Ops, get_ops, objectives, train
from accel.progress import progress_bar as of_accel
from reference.progress import progress_bar as of_reference

ROOT = Path(__file__).parents[1]


class Clock:
    """seconds: what time it is."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.seconds = 1000.0
        monkeypatch.setattr("tqdm.std.time", lambda: self.seconds)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


@pytest.mark.parametrize("progress_bar", [of_reference, of_accel])
def test_a_line_each_half_minute(progress_bar: Any, clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    """On stderr, with what is left; the last step needs none."""
    for _ in progress_bar(range(10), desc="fitting"):
        clock.seconds += 13
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.splitlines() == [
        "fitting: 3 of 10 after 00:39, 01:31 left",
        "fitting: 6 of 10 after 01:18, 00:52 left",
        "fitting: 9 of 10 after 01:57, 00:13 left",
    ]


@pytest.mark.parametrize("progress_bar", [of_reference, of_accel])
def test_updated_by_hand(progress_bar: Any, clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    """A run that was resumed, with its loss; work of unknown length; and what fails says no more."""
    with progress_bar(desc="training", total=1000, initial=100) as bar:
        for loss in range(4):
            clock.seconds += 20
            bar.set_postfix_str(f"loss {loss}", refresh=False)
            bar.update(100)
    work = progress_bar(desc="encoding")
    with suppress(OSError), work:
        clock.seconds += 31
        work.update(7)
        raise OSError("the disk is full")
    work.update(1)
    assert capsys.readouterr().err.splitlines() == [
        "training: 300 of 1000 after 00:40, 02:20 left, loss 1",
        "training: 500 of 1000 after 01:20, 01:40 left, loss 3",
        "encoding: 7 after 00:31",
    ]


@pytest.mark.parametrize("progress_bar", [of_reference, of_accel])
def test_short_work_says_nothing(progress_bar: Any, clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    """Nor does what is not to be shown."""
    for _ in progress_bar(range(29), desc="fitting"):
        clock.seconds += 1
    for _ in progress_bar(range(29), desc="fitting", shown=False):
        clock.seconds += 100
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("progress_bar", [of_reference, of_accel])
def test_a_terminal_gets_a_bar(progress_bar: Any) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    with patch("sys.stderr", Terminal()) as terminal:
        bar = progress_bar(range(3), desc="fitting")
        assert type(bar) is tqdm
        assert list(bar) == [0, 1, 2]
        assert "fitting" in terminal.getvalue()


def test_a_long_training_says_so(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    """With the loss; with progress=False nothing."""
    ops, target = get_ops("numpy"), np.linspace(0.0, 1.0, 5)

    class Slow(objectives.Regression):
        def __call__(self, ops: Ops, values: Any, step: int) -> Any:
            clock.seconds += 10
            return super().__call__(ops, values, step)

    model, config = MLP(np.arange(5.0), (1, 3, 1)), Config(8, 0.1, log_every=2)
    train(model, Slow(target), config, ops, label="a network")
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(" after")[0] for line in lines] == ["a network: 4 of 8", "a network: 8 of 8"]
    assert "loss 0." in lines[0]
    train(model, Slow(target), config, ops, progress=False)
    assert capsys.readouterr().err == ""


def test_both_rooms_say_it_alike() -> None:
    """Neither may import the other."""
    texts = {(ROOT / room / "progress.py").read_text(encoding="utf-8") for room in ("reference", "accel")}
    assert len(texts) == 1
