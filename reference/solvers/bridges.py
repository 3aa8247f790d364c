"""Bridges of the comparison graph in closed form, and the rest as one smaller network.

A pair is a bridge where nothing else links its two sides. F then depends on the difference of the two sides
through this pair alone, so that at the optimum, exactly and whatever the other comparisons say,

    omega_i - omega_j = log(W_ij / W_ji).

Without its bridges the graph falls into parts that do not depend on each other. One item of every part, its
anchor, is glued to the anchors of all others: a connected network without bridges, in which each part has the
differences that it has by itself. A tree is bridges throughout, and needs no Newton step.
"""

from __future__ import annotations

from itertools import count
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse.csgraph import breadth_first_order

from reference.annotators import Indices
from reference.pbde import Array
from reference.solvers.laplacian import centred
from reference.solvers.newton import minimize
from reference.solvers.rounding import EPS, of_omega
from reference.solvers.win_pairs import Pairs


class Parts(NamedTuple):
    """parent: (n,) in a spanning tree, the root its own; anchor: (n,) the item of each part nearest the root."""

    parent: Indices
    anchor: Indices


def minimize_by_parts(pairs: Pairs) -> tuple[Array, float, int]:
    """omega (n,) with mean 0, a bound of its error in nats, and the Newton steps taken."""
    if not may_have_bridges(pairs):
        return minimize(pairs)
    both, row = _entries(pairs)
    parts = parts_of(both, row)
    anchors = parts.anchor == np.arange(pairs.n)
    if anchors.sum() == 1:
        return minimize(pairs)
    x, error, iterations = np.zeros(pairs.n), 0.0, 0
    if not anchors.all():
        place = np.where(anchors, 0, np.cumsum(~anchors))
        core, error, iterations = minimize(_core(pairs, both, row, parts, place))
        x = core[place]
    bridge = (parts.anchor[row] != parts.anchor[both.indices]) & (parts.parent[row] == both.indices)
    at, up = row[bridge], both.indices[bridge]
    ratio = log_ratio(both.data[bridge].real, both.data[bridge].imag)
    jump, wrong = np.zeros(pairs.n), np.zeros(pairs.n)
    jump[at] = x[up] - x[at] + ratio
    wrong[at] = 2 * error + EPS * (1 + 2 * np.abs(ratio) + np.abs(x[up]) + np.abs(x[at]))
    shift, off = _down_the_tree(parts.parent, jump, wrong)
    omega = centred(x + shift)
    return omega, error + float(off.max() + off.mean()) + of_omega(omega), iterations


def may_have_bridges(pairs: Pairs) -> bool:
    """False only where there is none: the smaller side of a bridge, s items, has s - 1 of degree below s.

    (One item of degree 1 where s = 1.) So without k items of degree <= k for some k < n / 2 there is none.
    """
    if pairs.pattern is None:
        degree = np.count_nonzero((pairs.won > 0) | (pairs.lost > 0), axis=1)
    else:
        degree = np.diff(pairs.pattern.indptr)
    few = np.sort(degree)[: max(1, (pairs.n - 1) // 2)]
    return bool((few <= np.arange(1, len(few) + 1)).any())


def parts_of(both: Any, row: Indices) -> Parts:
    """The parts of a connected graph, given as a symmetric CSR pattern and the row of each entry.

    An edge of a spanning tree is a bridge exactly where no other edge leaves the subtree below it. Each other edge
    carries a random word at both ends: those inside a subtree cancel in its exclusive or, those leaving it do not
    (but for 1 in 2^64). That every other edge then lies within one part proves the bridges found to be bridges.
    """
    n, column = both.shape[0], both.indices
    graph = sparse.csr_array((np.ones(len(row), dtype=np.float64), column, both.indptr), shape=both.shape)
    order, parent = breadth_first_order(graph, 0, directed=True)
    parent[0] = 0
    others = (parent[row] != column) & (parent[column] != row)
    for seed in count():
        word = np.random.default_rng(seed).integers(1 << 63, size=n, dtype=np.uint64) * np.uint64(2) + np.uint64(1)
        word = word[row] * word[column]  # the same word at both ends, ...
        word = (word ^ (word >> np.uint64(32))) * np.uint64(0xD6E8FEB86659FD93) * others  # ... mixed
        leaving = np.bitwise_xor.reduceat(word ^ (word >> np.uint64(32)), both.indptr[:-1]).tolist()
        above = parent.tolist()
        for item in order[:0:-1].tolist():
            leaving[above[item]] ^= leaving[item]
        anchor = np.where(np.array(leaving, dtype=np.uint64) == 0, np.arange(n), parent)
        anchor = _roots(anchor)
        if (anchor[row] == anchor[column])[others].all():
            return Parts(parent, anchor)
    raise AssertionError("unreachable")


def log_ratio(won: Array, lost: Array) -> Array:
    """log(won / lost) to a rounding of 1 + |log|, also where the quotient leaves float64."""
    quotient = won / lost
    ordinary = (quotient > 1e-300) & (quotient < 1e300) & (np.minimum(won, lost) > 1e-300)
    return np.asarray(np.where(ordinary, np.log(quotient), np.log(won) - np.log(lost)))


def _entries(pairs: Pairs) -> tuple[Any, Indices]:
    """W_ij + i W_ji as CSR, and the row of every entry."""
    if pairs.pattern is not None:
        return pairs.pattern, pairs.row
    both = sparse.csr_array(pairs.won + 1j * pairs.lost)
    return both, np.repeat(np.arange(pairs.n), np.diff(both.indptr))


def _core(pairs: Pairs, both: Any, row: Indices, parts: Parts, place: Indices) -> Pairs:
    """The pairs within the parts, all anchors glued into item 0; dense or sparse as the pairs were."""
    within = parts.anchor[row] == parts.anchor[both.indices]
    ends, n = (place[row[within]], place[both.indices[within]]), int(place.max()) + 1
    glued = sparse.csr_array(sparse.coo_array((both.data[within], ends), shape=(n, n)))
    if pairs.pattern is None:
        return Pairs(glued.real.toarray(), glued.imag.toarray(), n)
    return Pairs(
        glued.data.real.copy(),
        glued.data.imag.copy(),
        n,
        glued,
        np.repeat(np.arange(n, dtype=np.int32), np.diff(glued.indptr)),
    )


def _roots(up: NDArray[Any]) -> NDArray[Any]:
    """Where the way up ends, for every item: each round doubles the way."""
    while True:
        further = up[up]
        if (further == up).all():
            return up
        up = further


def _down_the_tree(parent: Indices, jump: Array, wrong: Array) -> tuple[Array, Array]:
    """Sums of jump along the way to the root, and what they are wrong by, given that of every jump.

    Each round adds the sum of twice the way, so that a sum has log2(depth) roundings and not one an edge.
    """
    up, total, off = parent, jump, wrong
    root = _roots(parent)
    while (up != root).any():
        total, off = total + total[up], off + off[up]
        off = off + EPS * np.abs(total)
        up = up[up]
    return total, off
