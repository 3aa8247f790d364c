"""Losses of a margin omega_a - omega_b: scalar functions (margin, y) -> (value, slope).

slope = d value / d margin. y is 1 where x_a was preferred and 0 where x_b was (or the share between): all losses
are linear in y, so a share is a weighted sum of both outcomes. NumPy ufuncs and no branches: the same lines work
on arrays of any backend and compile into Numba's loops. At a kink the slope is 0. A parameter scales the margin
and the value from outside: delta max(0, 1 - margin / delta) is `hinge` (accel/objectives.py).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

MarginLoss = Callable[[Any, Any], tuple[Any, Any]]


def logistic(margin: Any, y: Any) -> tuple[Any, Any]:
    """-log of the Bradley-Terry probability of the choice: log(1 + e^margin) - y margin. Eq. 7."""
    decay = np.exp(-np.abs(margin))  # <= 1: no overflow
    positive = margin > 0.0
    # how often the side of the smaller omega was preferred: 1 - y for m > 0, y otherwise
    upset = np.abs(positive - y)
    # log(1 + e^m) - y m = upset |m| + log(1 + e^-|m|)
    value = upset * np.abs(margin) + np.log1p(decay)
    # m > 0: 1 / (1 + e^-m) - y = upset - e^-m / (1 + e^-m), where no difference of numbers near 1 is left
    excess = upset - decay / (1.0 + decay)
    slope = 2.0 * (positive * excess) - excess
    return value, slope


def squared(margin: Any, y: Any) -> tuple[Any, Any]:
    """(s - 1)^2, s the winner's margin: y (margin - 1)^2 + (1 - y) (margin + 1)^2. IPO: Azar et al. 2023."""
    direction = 2.0 * y - 1.0
    value = margin * margin - 2.0 * direction * margin + 1.0
    slope = 2.0 * (margin - direction)
    return value, slope


def hinge(margin: Any, y: Any) -> tuple[Any, Any]:
    """max(0, 1 - s), s the winner's margin. SLiC-HF: Zhao et al. 2023; RSO's "hinge-norm": Liu et al. 2023."""
    value = y * np.maximum(1.0 - margin, 0.0) + (1.0 - y) * np.maximum(1.0 + margin, 0.0)
    slope = (1.0 - y) * (margin > -1.0) - y * (margin < 1.0)
    return value, slope


def ranking(margin: Any, y: Any) -> tuple[Any, Any]:
    """max(0, -s), s the winner's margin: a hinge without a gap. RRHF: Yuan et al. 2023; SLiC-HF with delta = 0."""
    value = y * np.maximum(-margin, 0.0) + (1.0 - y) * np.maximum(margin, 0.0)
    slope = (1.0 - y) * (margin > 0.0) - y * (margin < 0.0)
    return value, slope
