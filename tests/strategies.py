"""Hypothesis strategies, named by what they give."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from reference import PBDE
from reference.pbde import normalize

Array = NDArray[np.float64]


@st.composite
def arrays(draw: st.DrawFn, n: int, low: float, high: float) -> Array:
    """(n,) with entries in [low, high]."""
    return np.array(draw(st.lists(st.floats(low, high), min_size=n, max_size=n)), dtype=np.float64)


@st.composite
def log_densities(draw: st.DrawFn, n: int, spread: float = 4.0) -> Array:
    """Normalised log p, (n,)."""
    return normalize(draw(arrays(n, -spread, spread)))


@st.composite
def models(draw: st.DrawFn, n: int, f_low: float = 0.1, f_high: float = 4.0) -> PBDE:
    """A PBDE whose f and g vary over x."""
    return PBDE(np.exp(draw(arrays(n, float(np.log(f_low)), float(np.log(f_high))))), draw(arrays(n, -3.0, 3.0)))


@st.composite
def proposals(draw: st.DrawFn, n: int) -> Array:
    """(n, n): a connected proposal, a random tree and some more pairs."""
    extra = draw(arrays(n * n, 0.0, 1.0)).reshape(n, n)
    pairs = np.where(extra > 0.6, extra, 0.0)
    for child in range(1, n):
        pairs[child, draw(st.integers(0, child - 1))] += 0.3
    return np.asarray(pairs / pairs.sum())


@st.composite
def counts(draw: st.DrawFn, n: int) -> Array:
    """(n, n) integer wins, strongly connected by a cycle."""
    wins = np.array(draw(st.lists(st.integers(0, 9), min_size=n * n, max_size=n * n)), dtype=float).reshape(n, n)
    np.fill_diagonal(wins, 0.0)
    wins[np.arange(n), np.roll(np.arange(n), 1)] += 1
    return wins


sizes = st.integers(2, 9)
