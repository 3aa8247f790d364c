"""Kelley's cutting-plane method (1960) for a hinge loss of log masses: linear programs, whatever their scale.

    min over z (n,) with sum_i e^z_i <= 1 of sum_k w_k max(0, h_k - (A z)_k) - sum_i c_i z_i, w >= 0, c >= 0.

The masses e^z_i are replaced by t_i >= e^r (1 + z_i - r) for the tangents r so far. Each linear program's optimum
is below the minimum and gives the next tangents; its hinges' prices, 0 <= a <= w, are a flow that proves it.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from scipy import sparse
from scipy.optimize import linprog
from scipy.special import logsumexp

from reference.pbde import Array

FEASIBLE = 1e-10  # the tolerance of the linear programs: the smallest that HiGHS takes
TANGENTS = np.linspace(-30.0, 0.0, 16)  # the first: of masses from 1e-13 to 1
LOWEST = -700.0  # nats: below, a tangent's slope ends in float64; its mass is replaced by 0


def cutting_planes(
    gains: sparse.csr_array, level: Array, weight: Array, likelihood: Array
) -> Iterator[tuple[Array, Array]]:
    """(z, a) of one linear program after another, z (n,) normalised, a (N,); ends where one is not solved.

    gains: A, (N, n). level: h, (N,). weight: w, (N,). likelihood: c, (n,).
    """
    pairs, n = gains.shape
    cost = np.concatenate([-likelihood, np.zeros(n), weight])  # of z, t and the hinges' slacks
    hinges = sparse.hstack([-gains, sparse.csr_array((pairs, n)), -sparse.eye_array(pairs)])
    mass = sparse.csr_array(np.repeat([0.0, 1.0, 0.0], [n, n, pairs])[None])
    tangents = [np.full(n, r) for r in TANGENTS]
    while True:
        cuts, above = _tangents(np.array(tangents), pairs)
        solved = linprog(
            cost,
            A_ub=sparse.vstack([hinges, mass, cuts], format="csc"),
            b_ub=np.concatenate([-level, [1.0], above]),
            bounds=[(None, 0.0)] * n + [(0.0, None)] * (n + pairs),
            method="highs",
            options={"primal_feasibility_tolerance": FEASIBLE, "dual_feasibility_tolerance": FEASIBLE},
        )
        if solved.x is None:
            return
        z = solved.x[:n] - logsumexp(solved.x[:n])
        yield z, np.clip(-solved.ineqlin.marginals[:pairs], 0.0, weight)
        tangents += [solved.x[:n], z]


def _tangents(at: Array, pairs: int) -> tuple[sparse.csr_array, Array]:
    """Rows e^r z_i - t_i <= e^r (r - 1) over (z, t, slacks), for each r = at_ji, at of shape (cuts, n)."""
    n = at.shape[1]
    cut, i = np.nonzero(at > LOWEST)
    r = at[cut, i]
    row, slope = np.arange(len(r)), np.exp(r)
    entries = (np.concatenate([slope, np.full(len(r), -1.0)]), (np.tile(row, 2), np.concatenate([i, n + i])))
    return sparse.csr_array(entries, shape=(len(r), 2 * n + pairs)), slope * (r - 1)
