"""Random streams: no two meet, and every room draws from named ones."""

from __future__ import annotations

import itertools
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import accel.em
import bench.lm_step
import bench.mlp_step
import bench.reward
import bench.streams
import figures.streams
import lm.streams
from accel.streams import EM_STARTS, PARAMETERS, stream
from accel.transformer_params import TransformerConfig
from lm.run import batch_of

ROOT = Path(__file__).parents[1]
PURPOSES = [bench.streams.Purpose, figures.streams.Purpose, lm.streams.Purpose]
BARE = {  # what draws by itself: a matrix to be timed, and an algorithm's own starts
    "accel/streams.py", "bench/cases.py", "bench/mlp.py", "bench/roofline.py",
}  # fmt: skip


def first_number(rng: np.random.Generator) -> int:
    return int(rng.integers(1 << 63))


@pytest.mark.parametrize("purposes", PURPOSES, ids=lambda found: found.__module__)
def test_no_two_meet(purposes: type) -> None:
    """Seeds, purposes and numbers, 0 and the largest among them: the first 63 bits of all streams differ."""
    words = (0, 1, 2, 3, 2**32 - 1)
    streams = list(itertools.product(words, list(purposes), words, words))  # type: ignore[call-overload]
    assert len({first_number(stream(*each)) for each in streams}) == len(streams)


def test_accel_s_own_purpose_is_no_room_s() -> None:
    """EM's starts are drawn from no stream of the experiments that call it, whatever their seed."""
    assert EM_STARTS not in {int(purpose) for purposes in PURPOSES for purpose in purposes}
    assert EM_STARTS != PARAMETERS


def test_em_starts_come_from_its_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, ...]] = []

    def recorded(*words: int) -> np.random.Generator:
        asked.append(words)
        return stream(*words)

    monkeypatch.setattr(accel.em, "stream", recorded)
    x_a, x_b, y, annotator = np.arange(4) % 2, 1 - np.arange(4) % 2, np.ones(4), np.arange(4) // 2
    accel.em.annotator_types(x_a, x_b, y, annotator, 2, seed=9)
    assert set(asked) == {(9, EM_STARTS)}


def test_words_are_not_mixed_up() -> None:
    """What does not fit into its word is refused: a seed of 2^33 would be the words (0, 2)."""
    for words in ((2**32,), (-1,), (0, 2**32), (0, 0, -1), (0.0,), (0, 1, 2, 3, 4)):
        with pytest.raises(ValueError, match=r"must be an integer in 0..2|at most two numbers"):
            stream(*words)
    assert first_number(stream(5)) == first_number(stream(5, 0, 0, 0))


def test_orders_meet_nothing() -> None:
    """The order of a time round is drawn for nothing else: not with the numbers of sentences or parameters."""
    orders = [batch_of(60, 60, around, 7).tolist() for around in range(4)]
    assert batch_of(60, 60, 0, 8).tolist() not in orders
    for purpose, number, last in itertools.product(lm.streams.Purpose, range(4), range(2)):
        if purpose != lm.streams.Purpose.ORDER:
            assert stream(7, purpose, number, last).permutation(60).tolist() not in orders


@pytest.mark.parametrize("room", ["lm", "figures", "bench"])
def test_a_purpose_is_drawn_for_at_one_place(room: str) -> None:
    """What is drawn twice for one purpose is one stream: two places could not be told apart."""
    modules = {"lm": lm.streams, "figures": figures.streams, "bench": bench.streams}
    purposes = {purpose.name for purpose in modules[room].Purpose}
    named = [
        name
        for path in sorted((ROOT / room).rglob("*.py"))
        for name in re.findall(r"\bPurpose\.([A-Z_]+)", path.read_text(encoding="utf-8"))
    ]
    assert set(named) == purposes
    if room == "lm":  # a corpus of text and one of a grammar hold out sentences each
        assert sorted(named) == sorted([*purposes, "HELD_OUT"])


@pytest.mark.parametrize("module", [bench.lm_step, bench.mlp_step, bench.reward], ids=lambda found: found.__name__)
def test_bench_draws_data_and_parameters_apart(module: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of one seed, from two streams."""
    drawn = []

    def recorded(*words: int) -> np.random.Generator:
        drawn.append(first_number(stream(*words)))
        return stream(*words)

    monkeypatch.setattr(module, "stream", recorded)
    config = TransformerConfig(11, 8, 2, 1, 8, 8, 8)
    if module is bench.reward:
        bench.reward.Sample.draw(3)
    elif module is bench.mlp_step:
        bench.mlp_step.draw_task(64, False, 3)
        bench.mlp_step.first_params(3)
    else:
        bench.lm_step.draw_task(config, "pref", 4, 3)
        bench.lm_step.first_params(config, 3)
    assert len(set(drawn)) == 2


def test_generators_come_from_one_place() -> None:
    """No other file of accel, lm, figures and bench makes generators from seeds."""
    found = {
        path.relative_to(ROOT).as_posix()
        for room in ("accel", "lm", "figures", "bench")
        for path in (ROOT / room).rglob("*.py")
        if re.search(r"default_rng\(|SeedSequence\(|RandomState\(", path.read_text(encoding="utf-8"))
    }
    assert found == BARE
