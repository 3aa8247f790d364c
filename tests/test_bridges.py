"""Bridges and the glued core against plain Newton; the bound of an optimum's error against 60 digits."""

from __future__ import annotations

from decimal import Decimal, localcontext
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse.csgraph import connected_components

from reference import PBDE, optimum
from reference.solvers.bridges import _entries, log_ratio, may_have_bridges, parts_of
from reference.solvers.newton import STEP_ALLOWED, minimize
from reference.solvers.win_pairs import Pairs
from tests.checks import assert_close

Array = NDArray[np.float64]


def random_wins(rng: np.random.Generator, n: int, extra: int, span: float = 1.0) -> Array:
    """(n, n): a random tree and so many more pairs, each with wins and losses that span so many nats."""
    wins = np.zeros((n, n))
    pairs = [(child, int(rng.integers(child))) for child in range(1, n)]
    pairs += [(int(i), int(j)) for i, j in rng.integers(n, size=(extra, 2)) if i != j]
    for i, j in pairs:
        wins[i, j], wins[j, i] = np.exp(span * rng.normal(size=2))
    return wins


def cactus(rng: np.random.Generator, cycles: int) -> Array:
    """Cycles of 3 to 6 items, each hung by one of its items, or by a bridge, to an item before."""
    edges, n = [], 1
    for _ in range(cycles):
        start = int(rng.integers(n))
        if rng.random() < 0.5:
            edges.append((start, n))
            start, n = n, n + 1
        ring = [start, *range(n, n + int(rng.integers(2, 6)))]
        n = ring[-1] + 1
        edges += list(zip(ring, ring[1:] + ring[:1], strict=True))
    wins = np.zeros((n, n))
    for i, j in edges:
        wins[i, j], wins[j, i] = rng.integers(1, 20, size=2)
    return wins


def one_by_one(wins: Array) -> set[tuple[int, int]]:
    """The bridges by their definition: pairs i < j whose removal disconnects the graph."""
    graph = (wins + wins.T > 0).astype(float)
    found = set()
    for i, j in zip(*np.nonzero(np.triu(graph)), strict=True):
        without = graph.copy()
        without[i, j] = without[j, i] = 0
        if connected_components(sparse.csr_array(without), directed=False)[0] > 1:
            found.add((int(i), int(j)))
    return found


@given(seed=st.integers(0, 10**6), n=st.integers(2, 14), extra=st.integers(0, 14))
def test_bridges_are_found_by_their_definition(seed: int, n: int, extra: int) -> None:
    """All of them and no others; and the quick look at the degrees never misses one."""
    wins = random_wins(np.random.default_rng(seed), n, extra)
    both, row = _entries(Pairs.of(wins))
    parts, expected = parts_of(both, row), one_by_one(wins)
    apart = parts.anchor[row] != parts.anchor[both.indices]
    found = {(int(i), int(j)) for i, j in zip(row[apart], both.indices[apart], strict=True) if i < j}
    assert found == expected
    assert may_have_bridges(Pairs.of(wins)) or not expected
    assert may_have_bridges(Pairs.of(sparse.csr_array(wins))) or not expected


@given(seed=st.integers(0, 10**6), kind=st.sampled_from(["tree", "graph", "cactus"]), thin=st.booleans())
def test_parts_agree_with_plain_newton(seed: int, kind: str, thin: bool) -> None:
    """Trees, graphs with bridges and cacti: the same omega as Newton over the whole, within both bounds."""
    rng = np.random.default_rng(seed)
    n = int(rng.integers(2, 40))
    wins: Any = cactus(rng, 8) if kind == "cactus" else random_wins(rng, n, 0 if kind == "tree" else n // 4)
    wins = sparse.csr_array(wins) if thin else wins
    found, (plain, error, _) = optimum(wins, PBDE.luce()), minimize(Pairs.of(wins))
    assert np.abs(found.omega - plain).max() <= found.newton_step + error
    assert max(found.newton_step, error) <= 1e-10


def test_a_tree_takes_no_newton_step() -> None:
    """300,000 items in a row and in a star: log odds summed along the way, to the rounding of the sum."""
    rng = np.random.default_rng(0)
    n, k = 300_000, np.arange(299_999)
    won, lost = rng.integers(1, 30, n - 1).astype(float), rng.integers(1, 30, n - 1).astype(float)
    for first in (k, np.zeros_like(k)):
        at = np.r_[k + 1, first], np.r_[first, k + 1]
        found = optimum(sparse.csr_array(sparse.coo_array((np.r_[won, lost], at), shape=(n, n))), PBDE.luce())
        ratio = np.log(won / lost)
        omega = np.r_[0.0, np.cumsum(ratio.astype(np.longdouble)) if first is k else ratio].astype(np.float64)
        assert_close(found.omega, omega - omega.mean(), found.newton_step, scale=1.0)
        assert found.iterations == 0
        assert found.newton_step <= 1e-9


@pytest.mark.parametrize(("won", "lost"), [(1e200, 1e-200), (1e-200, 1e200), (3e-308, 1e-308), (1.0, 1.0 + 1e-15)])
def test_log_ratio_keeps_its_digits(won: float, lost: float) -> None:
    """Also where the quotient overflows, underflows or is close to 1."""
    with localcontext(prec=60), np.errstate(all="ignore"):
        exact = float((Decimal(won) / Decimal(lost)).ln())
        assert_close(log_ratio(np.array([won]), np.array([lost])), [exact], 4e-16 * 800)


def in_digits(wins: Array, omega: Array) -> Array:
    """The minimiser to some 50 digits: Newton in Decimal from omega, mean 0, for a few items."""
    n = len(wins)
    w = [[Decimal(float(value)) for value in row] for row in wins]
    x = [Decimal(float(value)) for value in omega]
    for _ in range(6):
        rows = [[Decimal(0)] * n for _ in range(n)]
        for i in range(n):
            for j in range(n):
                if i != j and w[i][j] + w[j][i]:
                    win = 1 / (1 + (x[j] - x[i]).exp())
                    c = (w[i][j] + w[j][i]) * win * (1 - win)
                    rows[i][i] += c
                    rows[i][j] -= c if j < n - 1 else 0  # the last item is grounded, its column the slope
                    rows[i][n - 1] += w[i][j] * (1 - win) - w[j][i] * win
        for i in range(n - 1):
            for k in range(i + 1, n - 1):
                share = rows[k][i] / rows[i][i]
                rows[k] = [a - share * b for a, b in zip(rows[k], rows[i], strict=True)]
        d = [Decimal(0)] * n
        for i in range(n - 2, -1, -1):
            known = sum((rows[i][j] * d[j] for j in range(i + 1, n - 1)), Decimal(0))
            d[i] = (rows[i][n - 1] - known) / rows[i][i]
        x = [a + b for a, b in zip(x, d, strict=True)]
    mean = sum(x, Decimal(0)) / n
    return np.array([a - mean for a in x], dtype=object)


@given(seed=st.integers(0, 10**6), n=st.integers(2, 6), span=st.sampled_from([1.0, 3.0, 10.0, 25.0]))
def test_the_error_is_below_what_is_reported(seed: int, n: int, span: float) -> None:
    """Against 60 digits; where the wins are benign, what is reported is the step allowed and few roundings."""
    wins = random_wins(np.random.default_rng(seed), n, n, span)
    found = optimum(wins, PBDE.luce())
    with localcontext(prec=60):
        exact = in_digits(wins, found.omega)
        error = max(abs(Decimal(float(a)) - b) for a, b in zip(found.omega, exact, strict=True))
    assert float(error) <= found.newton_step
    assert span > 1 or found.newton_step <= STEP_ALLOWED + 1e-12
