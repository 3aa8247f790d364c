"""All tolerances of the tests, each with its reason."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

CLOSED_FORM = 1e-12  # two routes to one formula in float64: some thousand roundings, relative to the largest value
SOLVED = 1e-10  # a certified optimum (1e-11 in omega) divided by f >= 0.1, in nats of log p
SATURATED = 1e-9  # log densities of a thousand nats: the margins themselves are rounded at 1e-13


def assert_close(actual: ArrayLike, expected: ArrayLike, tolerance: float, scale: float | None = None) -> None:
    """max |actual - expected| <= tolerance * scale; scale: by default 1 + max |expected|."""
    actual, expected = np.asarray(actual, dtype=np.float64), np.asarray(expected, dtype=np.float64)
    assert actual.shape == expected.shape, (actual.shape, expected.shape)
    allowed = tolerance * (1 + float(np.abs(expected).max()) if scale is None else scale)
    error = float(np.abs(actual - expected).max())
    assert error <= allowed, f"error {error:.3e}, allowed {allowed:.3e}"
