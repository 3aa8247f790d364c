"""Solvers of an electrical network: potentials x with sum_j c_ij (x_i - x_j) = b_i, for conductances c >= 0.

The matrix is the graph Laplacian of c, singular in the direction of the ones: x is found up to a constant.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from scipy import sparse
from scipy.linalg import solve_triangular
from scipy.sparse.linalg import splu

from reference.errors import NotConvergedError
from reference.pbde import Array


def conjugate_gradients(conductance: Any, b: Array, tolerance: Array, limit: int = 1000) -> Array:
    """(n, n) dense or sparse, (n, r), (r,) -> (n, r): Jacobi-preconditioned CG, a system for each column of b.

    Stops where max_i |residual_i| / D_i <= tolerance, with D the conductance at each node: a norm would not see
    the nodes of small D. NotConvergedError after `limit` steps, or where the matrix is not positive in float64.
    """
    degree = _degrees(conductance)
    if not (degree > 0).all():
        raise NotConvergedError("the curvature at an item underflows")
    residual = np.ascontiguousarray(centred(b).T)  # (r, n): a system lies in one piece, and its sums are fast
    x, direction = np.zeros_like(residual), residual / degree
    scaled, norm = direction, _dots(residual, direction)
    for _ in range(limit):
        if (np.abs(scaled).max(axis=1) <= tolerance).all():
            return centred(x.T)
        flow = degree * direction
        flow -= (conductance @ np.ascontiguousarray(direction.T)).T
        curvature = _dots(direction, flow)
        if not (curvature > 0).all():
            break
        step = norm / curvature
        x += step * direction
        residual -= step * flow
        residual -= residual.mean(axis=1, keepdims=True)
        scaled = residual / degree
        norm, last = _dots(residual, scaled), norm
        direction = scaled + norm / last * direction
    raise NotConvergedError(f"conjugate gradients missed {tolerance.max():.1e} in {limit} steps")


def factorization(conductance: Any) -> Callable[[Array], Array]:
    """(n, n) sparse -> a solver, (n, r) -> (n, r): sparse LU of the Laplacian with its last node grounded."""
    laplacian = sparse.diags_array(_degrees(conductance)) - conductance
    try:
        grounded = splu(
            sparse.csc_array(laplacian)[:-1, :-1], permc_spec="MMD_AT_PLUS_A", options={"SymmetricMode": True}
        )
    except RuntimeError as error:
        raise NotConvergedError(f"the Laplacian is singular in float64: {error}") from None
    return lambda b: centred(np.vstack([grounded.solve(centred(b)[:-1]), np.zeros(b.shape[1])]))


def star_mesh(conductance: Array, flows: Array, block: int = 48) -> Array:
    """(n, n), (r, n, n) -> (n, r): x with sum_j c_ij (x_i - x_j) = sum_j flow_ij, for antisymmetric flows.

    Eliminates node after node as in circuit theory, conductances AND flows: with S = sum_k c_mk,

        c_jk <- c_jk + c_mj c_mk / S,    flow_jk <- flow_jk + (c_mj flow_mk - c_mk flow_mj) / S.

    No conductance is ever subtracted, and each pair's flow is only combined with flows weighted by conductance.
    So the error of x stays near the rounding of flow_ij / c_ij, even where conductances differ by 1e-80, as long
    as the flows themselves are given pair by pair and not as sums at nodes. (For the matrix alone this is the
    elimination of Grassmann, Taksar and Heyman 1985.) Only what lies right of the diagonal is used.
    """
    return centred(_grounded_star_mesh(conductance, flows, block, sign=-1.0))


def star_mesh_bound(conductance: Array, errors: Array, block: int = 48) -> float:
    """max_i of the largest |x_i| that flows |flow_ij| <= errors_ij = errors_ji >= 0 could cause, or above it.

    The elimination of `star_mesh` with all its terms added: what each of them is at most, however the signs fall.
    """
    x = _grounded_star_mesh(conductance, errors[None], block, sign=1.0)
    return float(x.max() + x.mean())


def _grounded_star_mesh(conductance: Array, flows: Array, block: int, sign: float) -> Array:
    """(n, r): x with x[-1] = 0, for flow_ji = sign flow_ij."""
    c, flow = conductance.copy(), flows.copy()
    total = _eliminate(c, flow, block, sign)
    x = np.zeros((len(c), len(flow)))
    for m in range(len(c) - 2, -1, -1):
        x[m] = (c[m, m + 1 :] @ x[m + 1 :] + flow[:, m, m + 1 :].sum(axis=1)) / total[m]
    return x


def grounded_inverse(conductance: Array) -> Array:
    """(n, n) -> (n - 1, n - 1): the inverse of the Laplacian without its last row and column, all entries >= 0.

    As U^-1 D^-1 U^-T with U = I - S, S_mk = c_mk / D_m after the elimination of `star_mesh`, D_m its S of node m.
    Nothing is subtracted: each entry is right to some roundings, whatever the conductances (Alfa, Xue, Ye 2002).
    """
    c, n = conductance.copy(), len(conductance)
    total = _eliminate(c, np.empty((0, n, n)), block=48)[:-1]
    inner = solve_triangular(np.eye(n - 1) - np.triu(c[:-1, :-1], 1) / total[:, None], np.eye(n - 1))
    return np.asarray((inner / total) @ inner.T)


def _eliminate(c: Array, flow: Array, block: int, sign: float = -1.0) -> Array:
    """The elimination of `star_mesh`, in place right of the diagonals: what each node is joined by, S, (n,)."""
    n, total = len(c), np.full(len(c), np.nan)
    for start in range(0, n, block):
        stop = min(start + block, n)
        for m in range(start, min(stop, n - 1)):
            total[m] = c[m, m + 1 :].sum()
            if not total[m] > 0:
                raise NotConvergedError("the curvature at an item underflows")
            share = c[m, m + 1 :] / total[m]
            within = slice(m + 1, stop)
            to_m = c[m, within, None]
            flow[:, within, m + 1 :] += (
                to_m * (flow[:, m, None, m + 1 :] / total[m]) + sign * flow[:, m, within, None] * share
            )
            c[within, m + 1 :] += to_m * share
        if stop < n:
            eliminated = c[start:stop, stop:]
            share = eliminated / total[start:stop, None]
            for layer in flow:
                combined = share.T @ layer[start:stop, stop:]
                layer[stop:, stop:] += combined + sign * combined.T
            c[stop:, stop:] += share.T @ eliminated
    return total


def centred(x: Array) -> Array:
    """(n, ...) -> (n, ...): x less its mean over the n items."""
    return np.asarray(x - x.mean(axis=0))


def _dots(x: Array, y: Array) -> Array:
    """(r, n), (r, n) -> (r, 1): the inner product of every row."""
    return np.asarray((x * y).sum(axis=1, keepdims=True))


def _degrees(conductance: Any) -> Array:
    return np.asarray(conductance.sum(axis=1))
