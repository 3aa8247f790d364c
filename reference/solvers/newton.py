"""Newton's method for F(omega) = sum_ij W_ij log(1 + exp(omega_j - omega_i)), with a certificate.

Every pair i, j carries a flow phi_ij (what omega leaves unexplained) and a curvature c_ij:

    phi_ij = W_ij s(omega_j - omega_i) - W_ji s(omega_i - omega_j) = -phi_ji,         s = sigmoid
    c_ij   = (W_ij + W_ji) s(omega_i - omega_j) s(omega_j - omega_i) = c_ji.

-F' = sum_j phi_ij and F'' is the Laplacian of c, so a Newton step d solves an electrical network with
conductances c and sources phi: sum_j c_ij (d_i - d_j) = sum_j phi_ij. Three solvers of the network share one
Newton: conjugate gradients; a sparse factorisation, where those are too slow; and the star-mesh elimination,
which keeps its digits where curvatures span dozens of decades.

The certificate is d itself, gradient over curvature, at the end of the undamped iteration; beside it stands
the floor: the d that the rounding of the flows alone would cause, solved for in the same network. What is
reported is |d| plus a bound of what rounding may hide of it (reference/solvers/rounding.py).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from scipy import sparse
from scipy.sparse.csgraph import breadth_first_order, minimum_spanning_tree

from reference.errors import NotConvergedError
from reference.pbde import Array
from reference.solvers.laplacian import centred, conjugate_gradients, factorization, star_mesh, star_mesh_bound
from reference.solvers.rounding import EPS, TIGHT, largest_response, node_response, of_omega, summation
from reference.solvers.win_pairs import Pairs, summary

STEP_ALLOWED = 1e-11  # a certified Newton step, in nats of omega ...
FLOORS_ALLOWED = 8  # ... or this many times the step that the rounding of the flows alone would cause,
FLOOR_LIMIT = 1e-9  # as long as that rounding floor is itself below this
STAR_MESH_LIMIT = 5000  # items; the elimination holds a few dense (n, n) arrays


def _flows(won: Array, lost: Array, win: Array, lose: Array) -> tuple[Array, Array, Array]:
    """phi, c and |W_ij s| + |W_ji s|, the size of the two terms that phi is the difference of."""
    gained, paid = won * lose, lost * win
    return gained - paid, (won + lost) * (win * lose), gained + paid


def _node_system(pairs: Pairs, omega: Array, sized: bool) -> tuple[Any, Array, Array, Array]:
    """c, dense or sparse; -F' = sum_j phi_ij, (n,); where asked, the sums of both terms of phi and of |phi|."""
    sigmoids = pairs.sigmoids(omega)
    curvature, slope = np.empty_like(pairs.won), np.empty(pairs.n)
    size, absolute = np.zeros(pairs.n), np.zeros(pairs.n)
    for block in pairs.blocks():
        phi, curvature[block], terms = _flows(pairs.won[block], pairs.lost[block], *sigmoids(block))
        at = block if pairs.pattern is None else slice(None)
        slope[at] = pairs.node_sums(phi)
        if sized:
            size[at] = pairs.node_sums(terms)
            absolute[at] = pairs.node_sums(np.abs(phi))
    return pairs.matrix(curvature), slope, size, absolute


def minimize(pairs: Pairs) -> tuple[Array, float, int]:
    """omega (n,) with mean 0, a bound of its error, the Newton steps taken: by the first solver that certifies."""
    start = _log_odds_start(pairs)
    try:
        return _newton(_step_by_conjugate_gradients(pairs), start, limit=50)
    except NotConvergedError:
        if pairs.pattern is None and pairs.n > STAR_MESH_LIMIT:
            raise
    if pairs.pattern is not None:
        try:
            return _newton(_step_by_factorization(pairs), start, limit=100)
        except NotConvergedError:
            if pairs.n > STAR_MESH_LIMIT:
                raise
    pairs = pairs.dense()
    return _newton(_step_by_star_mesh(pairs), _spanning_tree_start(pairs, start), limit=500)


class Step(NamedTuple):
    """A Newton step d; its rounding floor; bound() of what rounding may hide of d, called where d is accepted."""

    d: Array
    floor: float = 0.0
    bound: Callable[[], float] = lambda: np.inf


def _step_by_conjugate_gradients(pairs: Pairs) -> Callable[[Array, bool], Step]:
    """Truncated while far away; to certify, down to a thousandth of the rounding of the slope itself."""

    def step(omega: Array, certify: bool) -> Step:
        curvature, slope, size, absolute = _node_system(pairs, omega, certify)
        degree = np.asarray(curvature.sum(axis=1))
        if not certify:
            scaled = np.abs(slope / degree).max()
            target = np.array([min(0.1, scaled) * scaled])
            return Step(conjugate_gradients(curvature, slope[:, None], target)[:, 0])
        noise = _rounding(size)
        target = np.full(2, 1e-3 * np.abs(noise / degree).max())
        d, floor = conjugate_gradients(curvature, np.stack([slope, noise], axis=1), target).T

        def bound() -> float:
            solve = partial(_loosely, curvature, degree)
            at_nodes = summation(pairs.n) * absolute + target[0] * degree
            all_at_nodes = at_nodes + 3 * EPS * (size + absolute)
            item = int(np.abs(floor).argmax())
            found = node_response(solve, all_at_nodes, item) if np.ptp(omega) <= 600 else np.inf
            if found <= TIGHT:
                return found
            return largest_response(solve, pairs.matrix(_pair_errors(pairs, omega)), at_nodes, item)

        return Step(d, float(np.abs(floor).max()), bound)

    return step


def _loosely(conductance: Any, degree: Array, b: Array) -> Array:
    """(n, r) -> (n, r): L^+ b to some six digits."""
    return conjugate_gradients(conductance, b, 1e-6 * np.abs(b / degree[:, None]).max(axis=0))


def _step_by_factorization(pairs: Pairs) -> Callable[[Array, bool], Step]:
    """Sparse pairs; the rounding of a flow enters at one end and leaves at the other, that of its sum does not."""

    def step(omega: Array, _: bool) -> Step:
        phi, curvature, terms = _flows(pairs.won, pairs.lost, *pairs.sigmoids(omega)(slice(None)))
        noise = _pair_rounding(pairs, omega, curvature, terms)
        noise = pairs.matrix(np.where(pairs.row < pairs.pattern.indices, noise, 0.0))
        slope, absolute = pairs.node_sums(phi), pairs.node_sums(np.abs(phi))
        at_nodes = noise.sum(axis=1) - noise.sum(axis=0) + _rounding(absolute)
        conductance = pairs.matrix(curvature)
        solve = factorization(conductance)
        d, floor = solve(np.stack([slope, at_nodes], axis=1)).T

        def bound() -> float:
            missed = np.abs(slope - (conductance.sum(axis=1) * d - conductance @ d))
            errors = pairs.matrix(_pair_errors(pairs, omega))
            start = int(np.abs(floor).argmax())
            return largest_response(solve, errors, summation(pairs.n) * absolute + missed, start)

        return Step(d, float(np.abs(floor).max()), bound)

    return step


def _step_by_star_mesh(pairs: Pairs) -> Callable[[Array, bool], Step]:
    """Dense pairs, their flows and roundings one by one."""

    def step(omega: Array, _: bool) -> Step:
        phi, curvature, terms = _flows(pairs.won, pairs.lost, *pairs.sigmoids(omega)(slice(None)))
        d, floor = star_mesh(curvature, np.stack([phi, _pair_rounding(pairs, omega, curvature, terms)])).T
        errors = _pair_errors(pairs, omega)
        mixed = EPS * np.sqrt(pairs.n) * np.abs(phi)  # the elimination rounds each flow again and again
        return Step(d, float(np.abs(floor).max()), lambda: star_mesh_bound(curvature, errors + mixed))

    return step


def _pair_errors(pairs: Pairs, omega: Array) -> Array:
    """Bounds of the rounding of every flow at these omega: its terms', the margin's, and underflow."""
    phi, curvature, terms = _flows(pairs.won, pairs.lost, *pairs.sigmoids(omega)(slice(None)))
    omega_i, omega_j = pairs.ends(omega, slice(None))
    tiny = np.nextafter(0, 1) * (1 + pairs.won + pairs.lost) * (curvature > 0)
    return np.asarray(EPS * (3 * (terms + np.abs(phi)) + curvature * np.abs(omega_i - omega_j)) + tiny)


def _pair_rounding(pairs: Pairs, omega: Array, curvature: Array, terms: Array) -> Array:
    """The rounding of a flow: of its two terms, of the margin, and of a win near the smallest float64."""
    omega_i, omega_j = pairs.ends(np.abs(omega), slice(None))
    tiny = np.nextafter(0, 1) * (curvature > 0)
    return np.asarray(_rounding(terms + curvature * np.maximum(omega_i, omega_j)) + tiny)


def _rounding(size: Array) -> Array:
    """Errors of about one unit in the last place of `size`: random, but always the same."""
    noise = np.random.default_rng(0).standard_normal(size.shape)
    return np.asarray(np.finfo(np.float64).eps * size * noise)


def _log_odds_start(pairs: Pairs) -> Array:
    """Each item's log odds of winning, stretched by k: opponents of variance k^2 v blur them by that much.

    A mean of sigmoids over N(0, s^2) is close to the sigmoid of the mean / sqrt(1 + pi s^2 / 8).
    """
    log_odds = np.log(pairs.node_sums(pairs.won)) - np.log(pairs.node_sums(pairs.lost))
    stretch = 1 / np.sqrt(max(1 - np.pi / 8 * np.var(log_odds), 0.1))
    return np.asarray(stretch * centred(log_odds))


def _newton(step: Callable[[Array, bool], Step], omega: Array, limit: int) -> tuple[Array, float, int]:
    """Damped by t = log(1 + r) / r, with r = max_ij |d_i - d_j|.

    |F'''| <= F'' along every pair, so F(omega + t d) <= F - t m + (e^(t r) - t r - 1) m / r^2 with m = d' F'' d:
    that t minimises the bound, t = 1 still descends for r <= 1, and no loss is ever compared with another.
    """
    certify = False
    for iteration in range(1, limit + 1):
        d, floor, bound = step(omega, certify)
        newton_step, reach = float(np.abs(d).max()), float(np.ptp(d))
        if not np.isfinite(newton_step):
            raise NotConvergedError(f"Newton step {iteration} is not finite")
        omega = centred(omega + d * (1.0 if reach <= 1 else np.log1p(reach) / reach))
        if certify and newton_step <= max(STEP_ALLOWED, FLOORS_ALLOWED * floor):
            error = newton_step + bound() + of_omega(omega)
            if floor > FLOOR_LIMIT or not np.isfinite(error):
                break
            return omega, error, iteration
        certify = reach < 1e-5
    raise NotConvergedError(
        f"the certificate was missed: the last Newton step is {newton_step:.1e} after {iteration} iterations, "
        f"allowed {STEP_ALLOWED:.0e} (rounding floor {floor:.1e}, limit {FLOOR_LIMIT:.0e}); in float64 these wins "
        "pin some differences of omega down by too little"
    )


def _spanning_tree_start(pairs: Pairs, omega: Array) -> Array:
    """Log odds log W_ij / W_ji along the tree of the most informative pairs, where that has no larger loss.

    Exact where one annotator explains everything, however far its omega reach.
    """
    weaker = np.minimum(pairs.won, pairs.lost)
    both = weaker > 0
    depth = np.zeros_like(weaker)
    depth[both] = 1 + np.log(weaker.max()) - np.log(weaker[both])
    tree = minimum_spanning_tree(sparse.csr_array(depth))
    order, parent = breadth_first_order(tree + tree.T, 0, directed=False)
    if len(order) < pairs.n:
        return omega
    along = np.zeros(pairs.n)
    for child in order[1:]:
        up = parent[child]
        along[child] = along[up] + np.log(pairs.won[child, up]) - np.log(pairs.lost[child, up])
    along = centred(along)
    loss_along, loss = summary(pairs, along)[0], summary(pairs, omega)[0]
    return along if loss_along <= loss * (1 + 1e-12) else omega


def curvatures(wins: Any, omega: Array) -> Array:
    """(n, n): c_ij of checked wins at omega, dense: the off-diagonal of -F'', with a plus sign."""
    pairs = Pairs.of(wins).dense()
    return _flows(pairs.won, pairs.lost, *pairs.sigmoids(omega)(slice(None)))[1]
