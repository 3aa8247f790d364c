"""The exact minimiser of a hinge loss of margins, with a duality gap: SLiC-HF, RRHF and RSO are cases of it.

Over normalised densities pi, with omega = f log pi + g, weights w_ij >= 0 and likelihood weights c_i >= 0,

    F(pi) = sum_ij w_ij max(0, delta - (omega_i - omega_j)) - sum_i c_i log pi_i.

F is convex in omega. Its dual has a flow a_ij from every winner to every loser, 0 <= a_ij <= w_ij. Any flow with
y_i = c_i + f_i (sum_j a_ij - sum_j a_ji) >= 0 proves, with m = measure,

    F(pi) >= sum_ij a_ij (delta - g_i + g_j) - sum_i y_i log(y_i / (m_i sum y)),

because max(0, h) >= a h for 0 <= a <= 1, and sum_i y_i log pi_i is largest at pi_i = y_i / (m_i sum y). At the
minimum there is equality. F less this bound is the duality gap; it is evaluated with a flow that is feasible.

c > 0 everywhere: the minimiser is unique, since halfway between two the total mass would be below 1, and scaling
it up again gains likelihood. c = 0: a linear program in omega, whose dual is the largest circulation.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice

import numpy as np
from numpy.typing import ArrayLike
from scipy import sparse
from scipy.linalg import LinAlgError, cho_factor, cho_solve
from scipy.optimize import linprog
from scipy.sparse.csgraph import connected_components
from scipy.special import xlogy

from reference.annotators import Indices
from reference.errors import NotConvergedError
from reference.pbde import PBDE, Array, log_weights
from reference.solvers.cuts import FEASIBLE, cutting_planes

GAP_ALLOWED = 1e-6  # of a minimum, relative to 1 + |loss|
GAP_AIMED = 1e-13  # where the interior-point method stops, if rounding lets it come that far
GAP_OF_CUTS = 1e-9  # and the linear programs
CUTS = 60  # linear programs at most, where the interior-point method fails
CURVED = (0.05, 0.01)  # of the total mass, 1: the most that a step's linearisation may be wrong by, in turn
SMALLEST_MASS = 1e-30  # in the curvature only: below, the step has no other limit than the hinges
NEGLIGIBLE = 1e-10  # of the mean weight: such pairs stay out of the linear program, never out of the loss


@dataclass(frozen=True, eq=False)
class Minimum:
    """A minimiser of a population loss over normalised densities, and how well it is known.

    log_p: (n,), normalised. loss: nats per comparison. gap: loss less a proved lower bound of every loss; the
    certificate, <= 1e-6 (1 + |loss|). unique: False unless log_p is proved to be the only minimiser.
    """

    log_p: Array
    loss: float
    gap: float
    unique: bool


@dataclass(frozen=True, eq=False)
class Hinges:
    """Pairs k = 0..N-1 of a winner and a loser among n outcomes, with their weights: (N,) each."""

    winner: Indices
    loser: Indices
    weight: Array
    n: int

    @classmethod
    def of(cls, wins: sparse.csr_array | Array, total: float) -> Hinges:
        """The pairs of checked wins, their weights W_ij / total."""
        pairs = sparse.coo_array(wins)
        winner, loser = (np.asarray(ends, dtype=np.intp) for ends in (pairs.row, pairs.col))
        return cls(winner, loser, np.asarray(pairs.data / total), pairs.shape[0])

    def margins(self, omega: Array) -> Array:
        """(n,) -> (N,): omega of the winner less omega of the loser."""
        return np.asarray(omega[self.winner] - omega[self.loser])

    def sent(self, flow: Array) -> Array:
        """(N,) -> (n,): the flow out of each outcome as a winner."""
        return np.asarray(np.bincount(self.winner, flow, self.n), dtype=np.float64)

    def taken(self, flow: Array) -> Array:
        """(N,) -> (n,): the flow into each outcome as a loser."""
        return np.asarray(np.bincount(self.loser, flow, self.n), dtype=np.float64)

    def net(self, flow: Array) -> Array:
        """(N,) -> (n,): sent less taken."""
        return self.sent(flow) - self.taken(flow)

    def differences(self, f: Array) -> sparse.csr_array:
        """(n,) -> (N, n): the matrix of margins(f log_p) in log_p."""
        row = np.tile(np.arange(len(self.weight)), 2)
        entries = np.concatenate([f[self.winner], -f[self.loser]])
        return sparse.csr_array(
            (entries, (row, np.concatenate([self.winner, self.loser]))), (len(self.weight), self.n)
        )

    def laplacian(self, conductance: Array) -> Array:
        """(N,) -> (n, n): sum_k conductance_k (e_i - e_j)(e_i - e_j)^T."""
        matrix = np.zeros((self.n, self.n))
        matrix[self.winner, self.loser] = conductance
        matrix += matrix.T
        return np.asarray(np.diag(matrix.sum(axis=1)) - matrix)


def hinge_minimum(
    hinges: Hinges, model: PBDE, delta: float, likelihood: Array, measure: ArrayLike | None = None
) -> Minimum:
    """min of F over normalised pi; likelihood: c of shape (n,), 0 everywhere or > 0 everywhere.

    Raises NotConvergedError where the duality gap stays above 1e-6 (1 + |loss|).
    """
    if likelihood.any():
        with np.errstate(all="ignore"):  # where float64 ends, the best iterate so far is judged by its gap
            for curved in CURVED:
                found = _interior_point(hinges, model, delta, likelihood, measure, curved)
                if _certified(found):
                    break
            else:
                found = _cutting_planes(hinges, model, delta, likelihood, found, measure)
    else:
        found = _linear_program(hinges, model, delta, measure)
    if not _certified(found):
        raise NotConvergedError(
            f"the certificate was missed: the duality gap is {found.gap:.1e}, allowed "
            f"{GAP_ALLOWED * (1 + abs(found.loss)):.1e}; in float64 these wins or this p_pre span too many decades"
        )
    return found


def _certified(found: Minimum) -> bool:
    """Whether the gap is finite and small: an infinite gap is within an infinite tolerance and proves nothing."""
    return bool(np.isfinite([found.loss, found.gap]).all()) and found.gap <= GAP_ALLOWED * (1 + abs(found.loss))


@dataclass(frozen=True, eq=False)
class _Iterate:
    """omega (n,), and for each hinge, (N,): shares a, b > 0 with a + b = 1, slacks s, t > 0 with s - t = z."""

    omega: Array
    a: Array
    b: Array
    s: Array
    t: Array


def _interior_point(
    hinges: Hinges, model: PBDE, delta: float, likelihood: Array, measure: ArrayLike | None, curved: float
) -> Minimum:
    """c > 0: Mehrotra's predictor-corrector method (1992) along the central path a t = b s = mu -> 0.

    A hinge max(0, z), z = delta - margin, carries the flow a w. Its mu is the same whatever its weight w, so wins
    may span many decades. Every iterate is normalised: its log pi is THE density that has its omega.
    """
    f, _ = model.over(hinges.n)
    log_measure = log_weights(measure, hinges.n)
    omega = model.omega(np.log(likelihood / likelihood.sum()) - log_measure)
    z, half = delta - hinges.margins(omega), np.full(len(hinges.weight), 0.5)
    slack = np.maximum(z, 0) + delta + f.mean()  # log pi moves by about 1, so omega by about f
    iterate, stalled = _Iterate(omega, half, half, slack, slack - z), 0
    best = Minimum(model.log_p(omega, measure), np.inf, np.inf, True)
    for _ in range(300):
        log_p = model.log_p(iterate.omega, measure)
        loss = _loss(hinges, iterate.omega, log_p, delta, likelihood)
        gap = loss - _dual_bound(hinges, hinges.weight * iterate.a, model, delta, likelihood, measure)
        allowed = GAP_ALLOWED * (1 + abs(loss))
        stalled = stalled + 1 if 0.9 * best.gap <= gap < allowed else 0
        best = Minimum(log_p, loss, max(gap, 0.0), True) if gap < best.gap else best
        if best.gap <= GAP_AIMED * (1 + abs(loss)) or stalled > 5:
            break
        try:
            iterate = _predictor_corrector(hinges, iterate, np.exp(log_p + log_measure), f, likelihood, curved)
        except (LinAlgError, ValueError):  # not positive definite, or no longer finite
            break
        if not np.isfinite(iterate.omega).all():
            break
    return best


def _predictor_corrector(
    hinges: Hinges, at: _Iterate, p: Array, f: Array, likelihood: Array, curved: float
) -> _Iterate:
    """One step from the masses p = pi m, with the normalisation linearised. May be LinAlgError.

    The likelihood term is stationary along with the normalisation where S p_i / f_i - c_i / f_i is the net flow,
    and a constant in omega moves no flow, so S = sum c / f over sum p / f. In dlog pi = domega / f Newton's step
    keeps sum_i p_i dlog pi_i = 0, and the curvature of S sum_i p_i is the diagonal S p.
    """
    weight, a, b, s, t = hinges.weight, at.a, at.b, at.s, at.t
    total = float((likelihood / f).sum() / (p / f).sum())
    residual = (total * p - likelihood) / f - hinges.net(weight * a)
    conductance = weight / (s / b + t / a)
    matrix = hinges.laplacian(conductance) + np.diag(total * np.maximum(p, SMALLEST_MASS) / f**2)
    size = 1 / np.sqrt(np.diag(matrix))
    factor = cho_factor(matrix * size[:, None] * size)

    def solve(x: Array) -> Array:
        return np.asarray(size * cho_solve(factor, size * x))

    v = p / f
    along = solve(v)

    def newton(of_t: Array, of_s: Array) -> tuple[Array, Array, Array, Array]:
        """domega, da, ds, dt that add of_t to a t and of_s to b s, and remove the residual."""
        push = of_s / b - of_t / a
        d_omega = solve(-residual - hinges.net(conductance * push))
        d_omega -= along * (v @ d_omega) / (v @ along)
        d_a = -(hinges.margins(d_omega) + push) * conductance / weight
        return d_omega, d_a, (of_s + s * d_a) / b, (of_t - t * d_a) / a

    def length(d_a: Array, d_s: Array, d_t: Array) -> float:
        """How far a, b, s and t stay positive: 0.99 of the way, at most 1."""
        steepest = max(np.max(-d_a / a), np.max(d_a / b), np.max(-d_s / s), np.max(-d_t / t))
        return float(min(1.0, 0.99 / max(steepest, 0.99)))

    _, d_a, d_s, d_t = newton(-a * t, -b * s)
    k, mu = length(d_a, d_s, d_t), weight @ (a * t + b * s) / 2
    ahead = weight @ ((a + k * d_a) * (t + k * d_t) + (b - k * d_a) * (s + k * d_s)) / 2
    centre = (ahead / mu) ** 3 * mu / weight.sum()
    d_omega, d_a, d_s, d_t = newton(centre - a * t - d_a * d_t, centre - b * s + d_a * d_s)
    k = length(d_a, d_s, d_t)
    while _curved(p, k * d_omega / f) > curved:
        k *= 0.7
    return _Iterate(at.omega + k * d_omega, a + k * d_a, b - k * d_a, s + k * d_s, t + k * d_t)


def _curved(p: Array, d_log_p: Array) -> float:
    """sum_i p_i (e^d_i - 1 - d_i): by how much the linearised normalisation is wrong."""
    return float(p @ (np.expm1(d_log_p) - d_log_p))


def _cutting_planes(
    hinges: Hinges, model: PBDE, delta: float, likelihood: Array, start: Minimum, measure: ArrayLike | None
) -> Minimum:
    """c > 0: linear programs, for margins so large that Newton's steps lose their digits.

    In z = log pi + log m, omega = f z + (g - f log m). start: what another method found. The best log pi and the
    best bound may be of two programs.
    """
    f, g = model.over(hinges.n)
    log_measure = log_weights(measure, hinges.n)
    level = delta - hinges.margins(g - f * log_measure)
    known = bool(np.isfinite([start.loss, start.gap]).all())
    best = start if known else Minimum(start.log_p, np.inf, np.inf, True)
    bound = best.loss - best.gap if known else -np.inf
    for z, flow in islice(cutting_planes(hinges.differences(f), level, hinges.weight, likelihood), CUTS):
        log_p = z - log_measure
        loss = _loss(hinges, model.omega(log_p), log_p, delta, likelihood)
        bound = max(bound, _dual_bound(hinges, flow, model, delta, likelihood, measure))
        log_p, loss = (log_p, loss) if loss < best.loss else (best.log_p, best.loss)
        best = Minimum(log_p, loss, max(loss - bound, 0.0), True)
        if best.gap <= GAP_OF_CUTS * (1 + abs(loss)):
            break
    return best


def _loss(hinges: Hinges, omega: Array, log_p: Array, delta: float, likelihood: Array) -> float:
    """F at log_p, whose omega may have any constant."""
    return float(hinges.weight @ np.maximum(delta - hinges.margins(omega), 0) - likelihood @ log_p)


def _dual_bound(
    hinges: Hinges, flow: Array, model: PBDE, delta: float, likelihood: Array, measure: ArrayLike | None
) -> float:
    """The lower bound of F that a flow proves, once outcomes with y < 0 take in less; -inf where none is left."""
    f, g = model.over(hinges.n)
    for _ in range(100):
        y = likelihood + f * hinges.net(flow)
        if (y >= 0).all():
            break
        allowed = (likelihood / f + hinges.sent(flow)) * (1 - 1e-15)
        flow = flow * np.minimum(1.0, allowed / np.maximum(hinges.taken(flow), allowed))[hinges.loser]
    else:  # a cycle hands its rounding on and on: a little less of every flow, as none at all has y = c
        flow = flow * np.min(likelihood / (likelihood + 100 * np.maximum(-y, 0)))
        y = likelihood + f * hinges.net(flow)
        if not (y >= 0).all():
            return -np.inf
    entropy = xlogy(y, y / y.sum()) - y * log_weights(measure, hinges.n)
    return float(flow @ (delta - hinges.margins(g)) - entropy.sum())


def _linear_program(hinges: Hinges, model: PBDE, delta: float, measure: ArrayLike | None) -> Minimum:
    """c = 0: the largest circulation sum_k a_k; its potentials are omega / delta, and whole numbers.

    Some minimiser has a range of at most (n - 1) delta, as wider gaps between neighbours can be closed at no loss.
    So a flow of net r proves F >= delta (sum_k a_k - (n - 1) |r|_1 / 2). delta = 0: omega = 0 has no loss.
    """
    n, weight = hinges.n, hinges.weight
    if delta == 0:
        return Minimum(model.log_p(np.zeros(n), measure), 0.0, 0.0, _connected(n, hinges.winner, hinges.loser))
    kept = np.flatnonzero(weight > NEGLIGIBLE * weight.mean())
    scale = weight[kept].mean()
    ends = (np.r_[hinges.winner[kept], hinges.loser[kept]], np.r_[: len(kept), : len(kept)])
    solved = linprog(
        -np.ones(len(kept)),
        A_eq=sparse.csc_array((np.repeat([1.0, -1.0], len(kept)), ends), shape=(n, len(kept))),
        b_eq=np.zeros(n),
        bounds=np.stack([np.zeros(len(kept)), weight[kept] / scale], axis=1),
        method="highs-ds",
        options={"primal_feasibility_tolerance": FEASIBLE, "dual_feasibility_tolerance": FEASIBLE},
    )
    if solved.x is None:
        raise NotConvergedError(f"the linear program was not solved: {solved.message}")
    flow = np.zeros(len(weight))
    flow[kept] = np.clip(solved.x * scale, 0.0, weight[kept])
    level = np.round(-solved.eqlin.marginals)
    margins = hinges.margins(level)
    loss = delta * float(weight @ np.maximum(0.0, 1 - margins))
    bound = delta * float(flow.sum() - (n - 1) * np.abs(hinges.net(flow)).sum() / 2)
    unique = _only_potential(hinges, kept[margins[kept] == 1], flow, 1e3 * FEASIBLE * scale)
    return Minimum(model.log_p(delta * level, measure), loss, max(loss - bound, 0.0), unique)


def _only_potential(hinges: Hinges, tight: Indices, flow: Array, noise: float) -> bool:
    """Whether the potentials of an optimal flow are unique up to a constant, by the hinges with margin = delta.

    The potentials of one optimal flow a are those with margin <= delta where a > 0 and margin >= delta where
    a < w. A direction keeps these if it keeps the tight ones: d_winner <= d_loser where a > 0, and the other way
    round where a < w. Only constants do if, and only if, these inequalities link all outcomes in a cycle.
    """
    flowing = tight[flow[tight] > noise]
    open_ = tight[flow[tight] < hinges.weight[tight] - noise]
    starts = np.r_[hinges.winner[flowing], hinges.loser[open_]]
    return _connected(hinges.n, starts, np.r_[hinges.loser[flowing], hinges.winner[open_]])


def _connected(n: int, starts: Indices, ends: Indices) -> bool:
    graph = sparse.csr_array((np.ones(len(starts)), (starts, ends)), shape=(n, n))
    return bool(connected_components(graph, directed=True, connection="strong")[0] == 1)
