"""The network of the density experiments: its shapes and its first parameters (Table 1)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from accel.arrays import check_integer

Array = NDArray[np.float64]

WIDTHS = (1, 64, 64, 64, 64, 1)  # Table 1: four hidden layers of width 64, tanh
CUT_OFF_SD = 0.87962566103423978  # standard deviation of a standard normal that is cut off at -2 and 2


def mlp_shapes(widths: Sequence[int] = WIDTHS) -> dict[str, tuple[int, ...]]:
    """Name -> shape of the parameters, in the order of the layers: Dense_0/kernel (in, out), Dense_0/bias (out,).

    ValueError unless widths are two or more numbers >= 1, the last of them 1.
    """
    for width in widths:
        check_integer("widths", width, 1)
    if len(widths) < 2 or min(widths) < 1 or widths[-1] != 1:
        raise ValueError(f"widths must be two or more numbers >= 1 and end in 1, got {tuple(widths)}")
    shapes: dict[str, tuple[int, ...]] = {}
    for i, (d_in, d_out) in enumerate(pairwise(widths)):
        shapes |= {f"Dense_{i}/kernel": (d_in, d_out), f"Dense_{i}/bias": (d_out,)}
    return shapes


def mlp_init(rng: np.random.Generator, widths: Sequence[int] = WIDTHS) -> dict[str, Array]:
    """First parameters, float64: biases 0; kernels "lecun normal", which is N(0, 1) cut off at 2 standard
    deviations and scaled to variance 1 / in (Flax's default). ValueError as `mlp_shapes`."""
    params = {}
    for name, shape in mlp_shapes(widths).items():
        if name.endswith("bias"):
            params[name] = np.zeros(shape)
        else:
            params[name] = _cut_off_normal(rng, shape) / (CUT_OFF_SD * math.sqrt(shape[0]))
    return params


def _cut_off_normal(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    values = rng.standard_normal(shape)
    while (outside := np.abs(values) > 2.0).any():
        values[outside] = rng.standard_normal(int(outside.sum()))
    return values
