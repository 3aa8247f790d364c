"""Interleaved timing: contenders take turns, so that a slow moment of the machine meets all of them."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np

TURNS = 10  # turns of each contender at most
CHECKED = 10  # steps that compile, warm up and are compared, but not timed
PAUSE = 0.005  # seconds before a turn: the threads of the one before stop spinning


@dataclass
class Contender:
    """Something that trains. run(k) makes k steps and returns the loss of the last of them, before its update."""

    name: str
    run: Callable[[int], float]
    seconds: list[float] = field(default_factory=list)  # per step, a number a turn
    first: float = np.nan  # loss of step 1
    tenth: float = np.nan  # loss of step CHECKED
    loss: float = np.nan  # loss of the last step


def interleave(contenders: Sequence[Contender], steps: int) -> None:
    """steps > CHECKED steps of every contender; those after CHECKED are timed, in turns."""
    for contender in contenders:
        contender.first = contender.run(1)
        contender.tenth = contender.run(CHECKED - 1)
    with no_collection():
        for turn in np.array_split(np.arange(CHECKED, steps), min(TURNS, steps - CHECKED)):
            for contender in contenders:
                time.sleep(PAUSE)
                start = time.perf_counter()
                contender.loss = contender.run(len(turn))
                contender.seconds.append((time.perf_counter() - start) / len(turn))


@contextmanager
def no_collection() -> Iterator[None]:
    """Python collects no garbage meanwhile: what it walks through are the objects of all frameworks."""
    was_on = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def disagreement(contenders: Sequence[Contender], first: float, tenth: float) -> str | None:
    """The line that says which losses differ from the last contender's by more than so much, relative to
    1 + |loss|, at step 1 and at step CHECKED; or None."""
    ours = contenders[-1]
    for other in contenders[:-1]:
        for step, a, b, allowed in (
            (1, ours.first, other.first, first),
            (CHECKED, ours.tenth, other.tenth, tenth),
        ):
            if not abs(a - b) <= allowed * (1 + abs(b)):
                return f"step {step}: losses differ: {a:.8f} ({ours.name}), {b:.8f} ({other.name})"
    return None


def fastest(function: Callable[[], object], seconds: float = 0.2) -> float:
    """The shortest time of a call, in seconds, over calls for about so many seconds and three at least."""
    function()
    times: list[float] = []
    while len(times) < 3 or sum(times) < seconds:
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return min(times)
