"""What a training step of the density experiments' network works on: comparisons and first parameters."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from accel import Ops
from accel.mlp import WIDTHS, mlp_init
from accel.streams import stream
from bench.streams import Purpose

Array = NDArray[np.float32]

POINTS = 1024


@dataclass(frozen=True, eq=False)
class Task:
    """N comparisons. x (rows, 1): the left sides above the right sides, or the points where shared. y (N,).

    x_a, x_b (N,): the rows of x that are compared. weight (N,): of each in the loss, of sum 1. Where shared, N are
    the distinct comparisons in the order of `Ops.pairs`, for every contender: merged before any time is taken.
    """

    x: Array
    x_a: NDArray[np.intp]
    x_b: NDArray[np.intp]
    y: Array
    weight: Array
    shared: bool
    lr: float = 1e-3

    @property
    def flops(self) -> float:
        """Of the matrix products, forward and backward. The first layer needs no gradient of its input."""
        layers = list(pairwise(WIDTHS))
        return float(len(self.x) * sum((4 if i == 0 else 6) * a * b for i, (a, b) in enumerate(layers)))

    @property
    def tanhs(self) -> int:
        return len(self.x) * sum(WIDTHS[1:-1])


def draw_task(pairs: int, shared: bool, seed: int) -> Task:
    """Comparisons of standard normal points (of a grid over [-3, 3] where shared), y drawn by
    Bradley and Terry with omega = sin(2 x)."""
    rng = stream(seed, Purpose.DATA)
    if shared:
        x = np.linspace(-3.0, 3.0, POINTS)
        x_a, x_b = rng.integers(0, POINTS, (2, pairs))
    else:
        x = rng.standard_normal(2 * pairs)
        x_a, x_b = np.arange(pairs), np.arange(pairs, 2 * pairs)
    y = rng.random(pairs) < 1 / (1 + np.exp(np.sin(2 * x[x_b]) - np.sin(2 * x[x_a])))
    weight = np.full(pairs, 1 / pairs)
    if shared:
        merged = Ops().pairs(x_a, x_b, y, None, POINTS)
        x_a, x_b, y, weight = merged.x_a, merged.x_b, merged.y, merged.weight
    y, weight = y.astype(np.float32), weight.astype(np.float32)
    return Task(x[:, None].astype(np.float32), x_a, x_b, y, weight, shared)


def first_params(seed: int) -> dict[str, Array]:
    """The parameters that every contender starts from, float32."""
    drawn = mlp_init(stream(seed, Purpose.PARAMETERS), WIDTHS)
    return {name: value.astype(np.float32) for name, value in drawn.items()}
