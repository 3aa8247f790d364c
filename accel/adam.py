"""Adam's learning rates: constant, or a cosine that decays to 0 over all steps (Kingma and Ba 2015; Table 1)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from accel.buffers import Array

Schedule = Literal["cosine", "constant"]
SCHEDULES: tuple[Schedule, ...] = ("cosine", "constant")


@dataclass(frozen=True)
class Adam:
    """The optimiser's constants; the defaults are Optax's. ValueError unless 0 <= b1, b2 < 1 and eps > 0.

    m <- b1 m + (1 - b1) g, v <- b2 v + (1 - b2) g^2, params <- params - rate (m / (1 - b1^t)) /
    (sqrt(v / (1 - b2^t)) + eps), t = 1, 2, ...: `Ops.adam_step`.
    """

    b1: float = 0.9
    b2: float = 0.999
    eps: float = 1e-8

    def __post_init__(self) -> None:
        for name in ("b1", "b2"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must lie in [0, 1), got {getattr(self, name)}")
        if not (math.isfinite(self.eps) and self.eps > 0):
            raise ValueError(f"eps must be > 0, got {self.eps}")


def unbiased_rates(lr: Sequence[float], step: int, b1: float, b2: float) -> list[tuple[float, float, float]]:
    """(rate, 1 / (1 - b1^t), 1 / (1 - b2^t)) of the steps t = step, step + 1, ..., one for each rate."""
    return [(rate, 1 / unbiased(b1, t), 1 / unbiased(b2, t)) for t, rate in enumerate(lr, start=step)]


def unbiased(b: float, t: int) -> float:
    """1 - b^t for 0 <= b < 1, t >= 1: what t steps have summed up of the weights of a mean. b^t is not rounded."""
    return -math.expm1(t * math.log(b)) if b > 0 else 1.0


def average(mean: Array, value: Array, b: float) -> None:
    """IN PLACE mean <- b mean + (1 - b) value. Of b and 1 - b the smaller one alone is rounded to the arrays'
    dtype: from a rounded b the other would be off by a relative eps / (1 - b)."""
    if b > 0.5:
        change = value - mean
        change *= 1.0 - b
        mean += change
    else:
        mean -= value
        mean *= b
        mean += value


def constants(b1: float, b2: float, eps: float) -> tuple[float, float, float, float, float]:
    """(b1, 1 - b1, b2, 1 - b2, eps), as the compiled steps take them for `average`: each is rounded by itself."""
    return b1, 1.0 - b1, b2, 1.0 - b2, eps


def cosine_decay(learning_rate: float, steps: int) -> Callable[[int], float]:
    """step -> learning_rate (1 + cos(pi step / steps)) / 2: the whole rate at step 0, 0 at step `steps`."""
    return lambda step: learning_rate * 0.5 * (1 + math.cos(math.pi * step / steps))


def learning_rates(schedule: Schedule, learning_rate: float, steps: int) -> Callable[[int], float]:
    """step (0, 1, ...) -> the learning rate of that step. ValueError for another schedule."""
    if schedule == "cosine":
        return cosine_decay(learning_rate, steps)
    if schedule == "constant":
        return lambda step: learning_rate
    raise ValueError(f"schedule must be one of {', '.join(SCHEDULES)}, got {schedule!r}")
