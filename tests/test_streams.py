"""Random streams: no two meet, and every room draws from named ones."""

from __future__ import annotations

import itertools
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import bench.lm_step
import bench.mlp_step
import bench.reward
import bench.streams
import figures.streams
import lm.streams
from accel.streams import stream
from accel.transformer_params import TransformerConfig
from lm.run import batch_of

ROOT = Path(__file__).parents[1]
PURPOSES = [bench.streams.Purpose, figures.streams.Purpose, lm.streams.Purpose]
BARE = {  # what draws by itself: a matrix to be timed, and an algorithm's own starts
    "accel/em.py", "accel/streams.py", "bench/cases.py", "bench/mlp.py", "bench/roofline.py",
}  # fmt: skip


def first_number(rng: np.random.Generator) -> int:
    return int(rng.integers(1 << 63))


@pytest.mark.parametrize("purposes", PURPOSES, ids=lambda found: found.__module__)
def test_no_two_meet(purposes: type) -> None:
    """Seeds, purposes and numbers, 0 and the largest among them: the first 63 bits of all streams differ."""
    words = (0, 1, 2, 3, 2**32 - 1)
    streams = list(itertools.product(words, list(purposes), words, words))  # type: ignore[call-overload]
    assert len({first_number(stream(*each)) for each in streams}) == len(streams)


def test_words_are_not_mixed_up() -> None:
    """What does not fit into its word is refused: a seed of 2^33 would be the words (0, 2)."""
    for words in ((2**32,), (-1,), (0, 2**32), (0, 0, -1), (0.0,), (0, 1, 2, 3, 4)):
        with pytest.raises(ValueError, match=r"must be an integer in 0..2|at most two numbers"):
            stream(*words)
    assert first_number(stream(5)) == first_number(stream(5, 0, 0, 0))


def test_orders_meet_nothing() -> None:
    """The order of a time round is drawn for nothing else: not with the numbers of sentences or parameters."""
    orders = [batch_of(60, 60, around, 7).tolist() for around in range(4)]
    for purpose, number, last in itertools.product(lm.streams.Purpose, range(4), range(2)):
        if purpose != lm.streams.Purpose.ORDER:
            assert stream(7, purpose, number, last).permutation(60).tolist() not in orders


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
