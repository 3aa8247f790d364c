"""How far rounding can move a Newton step: bounds of M = L^+ (B diag(e), diag(v)), in nats.

The flow of every pair is wrong by at most e_ij, entering at one end and leaving at the other (B), and the sum at
every node by at most v_i. So item i is wrong by at most

    sum_{i' < j'} |x_i' - x_j'| e_i'j' + sum_j |x_j| v_j,        x = L^+ (e_i - 1/n),

whatever the signs: row i of |M| summed, one solve per item. The largest row is found by Hager's climb (1984), as
in LAPACK's error bounds: from the row of an item to the signs that make it largest, to the item that these signs
move most, and so on until that is the item itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from scipy import sparse

from reference.pbde import Array

EPS = float(np.finfo(np.float64).eps)
TIGHT = 1e-13  # nats: a bound this small needs no refinement
CLIMBS = 4

Solve = Callable[[Array], Array]  # (n, r) -> (n, r): L^+ b


def summation(n: int) -> float:
    """The rounding of a sum of up to n terms in pairs of blocks of 128, relative to the sum of their sizes."""
    return EPS * (10 + math.log2(n) / 2)


def of_omega(omega: Array) -> float:
    """The rounding of omega itself and of the strengths exp(omega): as if omega were another."""
    return EPS * (1 + 4 * float(np.abs(omega).max()))


def node_response(solve: Solve, nodes: Array, item: int) -> float:
    """This item's row of L^+ diag(nodes), summed: errors of pairs are counted at both their ends."""
    return float(np.abs(solve(_unit(len(nodes), item))[:, 0]) @ nodes)


def largest_response(solve: Solve, pairs: Any, nodes: Array, item: int) -> float:
    """The largest row sum of |M| by a climb from this item; pairs: (n, n), dense or CSR, symmetric, e_ij."""
    worst = 0.0
    for _ in range(CLIMBS):
        x = solve(_unit(len(nodes), item))[:, 0]
        size, signed = _row(x, pairs)
        size += float(np.abs(x) @ nodes)
        if size <= worst:
            break
        worst = size
        moved = np.abs(solve((signed + nodes * np.sign(x))[:, None])[:, 0])
        if moved[item] >= moved.max():
            break
        item = int(moved.argmax())
    return worst


def _unit(n: int, item: int) -> Array:
    """(n, 1): a unit of current into the item, taken out everywhere."""
    b = np.full((n, 1), -1 / n)
    b[item] += 1
    return b


def _row(x: Array, pairs: Any) -> tuple[float, Array]:
    """sum_{i < j} e_ij |x_i - x_j|, and at every node sum_j e_ij sign(x_i - x_j)."""
    if not sparse.issparse(pairs):
        apart = x[:, None] - x
        return float(np.vdot(pairs, np.abs(apart))) / 2, np.asarray((pairs * np.sign(apart)).sum(axis=1))
    apart = np.repeat(x, np.diff(pairs.indptr)) - x[pairs.indices]
    signed = sparse.csr_array((pairs.data * np.sign(apart), pairs.indices, pairs.indptr), shape=pairs.shape)
    return float(pairs.data @ np.abs(apart)) / 2, np.asarray(signed.sum(axis=1))
