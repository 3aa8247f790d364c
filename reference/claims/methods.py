"""What each method estimates, as claims: each method's function is checked by a route that it does not take."""

from __future__ import annotations

import numpy as np
from scipy import sparse
from scipy.optimize import linprog

from reference import targets
from reference.annotators import Annotator, Population
from reference.claims.claim import FORMULA, SOLVED, Claim, Formula, draw_density, draw_proposal
from reference.comparisons import win_matrix
from reference.markov_chains import cycle_residual, people_chain, stationary, temperature, winner_density
from reference.methods import dpo, ilhf, reward, rrhf, rso, slic_hf
from reference.pbde import PBDE, Array, normalize
from reference.policy_gradient import kl_gradient, kl_objective, natural_gradient
from reference.solvers.hinge import GAP_ALLOWED

HINGE_N = 8  # outcomes at most, where a linear program checks a hinge loss
STEP = 1e-30  # of a complex step: imag(f(x + i STEP v)) / STEP is f'(x) v to the last digit


def _luce(log_p: Array) -> Array:
    return Annotator(log_p, PBDE.luce()).preference_prob()


def _wins(rng: np.random.Generator, log_p: Array) -> Array:
    return np.asarray(win_matrix(_luce(log_p), draw_proposal(rng, len(log_p))))


def _error(left: Array, right: Array) -> float:
    return float(np.abs(left - right).max())


def _centred(x: Array) -> Array:
    return np.asarray(x - x.mean())


def rlhf(rng: np.random.Generator, n: int, formula: Formula = lambda log_p: log_p) -> float:
    """Two components that are never compared: the reward is log p* + a constant in each, and both are named."""
    log_p, n = draw_density(rng, max(n, 4)), max(n, 4)
    first = rng.permutation(n) < rng.integers(2, n - 1)
    pairs = draw_proposal(rng, n) * (first[:, None] == first[None, :])
    found = reward(win_matrix(_luce(log_p), pairs / pairs.sum()))
    if {frozenset(part.tolist()) for part in found.components} != {
        frozenset(np.flatnonzero(part).tolist()) for part in (first, ~first)
    }:
        return 1.0
    expected = formula(log_p)
    return max(_error(found.reward[part], _centred(expected[part])) for part in (first, ~first))


def ilhf_density(rng: np.random.Generator, n: int, formula: Formula = lambda log_p: log_p) -> float:
    """Two grids of one density, with their measures: ILHF finds p*, as a density, whatever the grid."""
    measure = rng.uniform(0.1, 2.0, n)
    log_p = normalize(rng.normal(0, 1.5, n), measure)
    return _error(ilhf(_wins(rng, log_p - np.log(np.exp(log_p).sum())), measure).log_p, formula(log_p))


def rso_sigmoid_norm(rng: np.random.Generator, n: int, formula: Formula = targets.product_of_experts) -> float:
    """RSO's sigmoid-norm loss, written with density ratios: its derivative is 0 at Eq. 17, where DPO ends."""
    log_p, log_p_pre = draw_density(rng, n), draw_density(rng, n)
    gamma = float(np.exp(rng.uniform(-1, 1)))
    wins, v = _wins(rng, log_p), rng.normal(size=n)
    log_pi = formula(log_p, log_p_pre, gamma)
    h = gamma * (log_pi + 1j * STEP * v - log_p_pre)
    slope = float(np.imag((wins * np.log1p(np.exp(h[None, :] - h[:, None]))).sum()) / STEP)
    return max(abs(slope) / (gamma * float(np.ptp(v))), _error(dpo(wins, log_p_pre, gamma).log_p, log_pi))


def equation_5(rng: np.random.Generator, n: int, formula: Formula = targets.kl_control) -> float:
    """Eq. 5 is the derivative of Eq. 13 by a complex step in every logit, and 0 at Eq. 14."""
    gain, log_p_pre, beta = rng.normal(size=n), draw_density(rng, n), float(np.exp(rng.uniform(-1, 1)))
    logits = rng.normal(size=n)
    steps = logits + 1j * STEP * np.eye(n)
    derivative = np.array([np.imag(kl_objective(step, gain, log_p_pre, beta)) / STEP for step in steps])
    at_rest = kl_gradient(formula(gain, log_p_pre, beta), gain, log_p_pre, beta)
    scale = 1 + float(np.abs(gain).max()) + beta * float(np.abs(log_p_pre).max())
    return (
        max(_error(kl_gradient(logits, gain, log_p_pre, beta), derivative), float(np.abs(at_rest).max())) / scale
    )


def ascent(rng: np.random.Generator, n: int, formula: Formula = targets.kl_control) -> float:
    """A natural-gradient step multiplies what log pi lacks of Eq. 14, up to a constant, by 1 - eta beta."""
    gain, log_p_pre, beta = rng.normal(size=n), draw_density(rng, n), float(np.exp(rng.uniform(-1, 1)))
    log_pi, eta = draw_density(rng, n), float(rng.uniform(0.05, 1.95)) / beta
    end = formula(gain, log_p_pre, beta)
    after = natural_gradient(log_pi, gain, log_p_pre, beta, eta)
    scale = 1 + float(np.abs(end).max()) + float(np.abs(log_pi).max())
    return _error(_centred(after - end), (1 - eta * beta) * _centred(log_pi - end)) / scale


def equation_4(
    rng: np.random.Generator, n: int, formula: Formula = lambda gain: (gain == gain.max()).astype(float)
) -> float:
    """Without the KL term all mass goes to the largest reward, wherever pi and p_pre started."""
    gain = 0.5 * rng.permutation(n) + rng.uniform(0, 0.1, n)  # the best is ahead by 0.4 or more
    pi = np.exp(natural_gradient(draw_density(rng, n), gain, draw_density(rng, n), 0.0, 5.0, steps=40))
    return _error(pi, formula(gain))


def linearized_gain(wins: Array, log_pi: Array, model: PBDE, delta: float, likelihood: Array) -> float:
    """What some l within 1 nat of log pi gains in the hinge loss, on the tangent of sum pi <= 1: 0 at a minimum.

    min over l of sum_ij W_ij max(0, delta - omega_i + omega_j) - sum_i c_i l_i with omega = f l + g and
    sum_i pi_i (l_i - log pi_i) <= 0 is a linear program in l and one slack a pair. The tangent holds more than the
    densities do, so the program bounds every loss from below; its first-order conditions are those of the loss.
    """
    n = len(wins)
    f, g = model.over(n)
    i, j = np.nonzero(wins)
    k = np.arange(len(i))
    omega = model.omega(log_pi)
    loss = float(wins[i, j] @ np.maximum(0, delta - omega[i] + omega[j]) - likelihood @ log_pi)
    rows = sparse.coo_array(  # delta - omega_i + omega_j <= slack
        (np.r_[-f[i], f[j], -np.ones(len(i))], (np.r_[k, k, k], np.r_[i, j, n + k])), shape=(len(i), n + len(i))
    )
    tangent = np.r_[np.exp(log_pi), np.zeros(len(i))]
    solved = linprog(
        np.r_[-likelihood, wins[i, j]],
        A_ub=sparse.vstack([rows, sparse.coo_array(tangent[None])]),
        b_ub=np.r_[g[i] - g[j] - delta, np.exp(log_pi) @ log_pi],
        bounds=[(x - 1, x + 1) for x in log_pi] + [(0, None)] * len(i),
    )
    return loss - float(solved.fun)


def slic(rng: np.random.Generator, n: int, formula: Formula = lambda *given: slic_hf(*given).log_p) -> float:
    """SLiC-HF, half of the trials without the likelihood term."""
    n = min(n, HINGE_N)
    wins, log_p_pre = _wins(rng, draw_density(rng, n)), draw_density(rng, n)
    delta, lam = float(rng.uniform(0.2, 2)), float(rng.integers(0, 2) * np.exp(rng.uniform(-3, 1)))
    log_pi = formula(wins, log_p_pre, delta, lam)
    return linearized_gain(wins, log_pi, PBDE.luce(), delta, lam * np.exp(log_p_pre)) / (1 + lam)


def rrhf_loss(rng: np.random.Generator, n: int, formula: Formula = lambda *given: rrhf(*given).log_p) -> float:
    """RRHF, with lengths between 1 and 30."""
    n = min(n, HINGE_N)
    wins, lengths = _wins(rng, draw_density(rng, n)), rng.integers(1, 31, n)
    model = PBDE.length_normalized(lengths)
    return linearized_gain(wins, formula(wins, lengths), model, 0.0, wins.sum(axis=1))


def rso_hinge(rng: np.random.Generator, n: int, formula: Formula = lambda *given: rso(*given).log_p) -> float:
    """RSO hinge-norm."""
    n = min(n, HINGE_N)
    wins, log_p_pre = _wins(rng, draw_density(rng, n)), draw_density(rng, n)
    gamma = float(np.exp(rng.uniform(-1, 1)))
    return linearized_gain(wins, formula(wins, log_p_pre, gamma), PBDE.dpo(gamma, log_p_pre), 1.0, np.zeros(n))


def hindsight(rng: np.random.Generator, n: int, formula: Formula = temperature) -> float:
    """Winners / q, with self-comparisons, is 2 E p / (p + p'); d log of it = d log p* / tau, by a complex step."""
    log_p, q = draw_density(rng, n), rng.dirichlet(np.ones(n) * 5)
    p = np.exp(log_p)
    moved = (p * np.exp(1j * STEP))[:, None]
    per_draw = 2 * (moved / (moved + p)) @ q
    others = np.exp(winner_density(win_matrix(_luce(log_p), q))) * (1 - q @ q)  # winners against another outcome
    slope = np.imag(np.log(per_draw)) / STEP
    return max(_error((others + q**2) / q, per_draw.real), _error(slope * formula(log_p, q), np.ones(n)))


def draw_transitions(rng: np.random.Generator, n: int) -> Array:
    """T of an MCMC with people, (n, n): symmetric, a tree and some more pairs, rows that sum to 1."""
    t = rng.exponential(size=(n, n)) * (rng.random((n, n)) < 0.3)
    child = np.arange(1, n)
    t[child, [int(rng.integers(0, k)) for k in child]] += 1.0
    t = (t + t.T) * (1 - np.eye(n))
    t /= 1.1 * t.sum(axis=1).max()
    return np.asarray(t + np.diag(1 - t.sum(axis=1)))


def people(rng: np.random.Generator, n: int, formula: Formula = lambda log_p: log_p) -> float:
    """The stationary law of MCMC with one Luce annotator is p*, for any symmetric proposal."""
    log_p = draw_density(rng, n)
    return _error(stationary(people_chain(_luce(log_p), draw_transitions(rng, n))), formula(log_p))


def cycles(rng: np.random.Generator, n: int, formula: Formula = lambda log_p: log_p) -> float:
    """K_ij / K_ji = p_j / p_i on every pair for one annotator; the cycles of a mixture do not close."""
    n = max(n, 3)
    log_p, other = draw_density(rng, n), draw_density(rng, n)
    t = np.full((n, n), 1 / n)
    chain = people_chain(_luce(log_p), t)
    balance = np.log(chain) - np.log(chain.T) - (formula(log_p)[None, :] - formula(log_p)[:, None])
    members = [Annotator(each, PBDE.luce()) for each in (log_p, other)]
    mixed = people_chain(Population(members, [0.4, 0.6]).preference_prob(), t)
    if cycle_residual(mixed) < 1e-6:
        return 1.0
    return max(cycle_residual(chain), float(np.abs(balance).max()))


ESTIMANDS: tuple[Claim, ...] = (
    Claim("RLHF", "reward: log p* + c, in each component", SOLVED, rlhf),
    Claim("ILHF", "p* as a density, on any grid", SOLVED, ilhf_density),
    Claim("RSO sigm.", "sigmoid-norm is DPO: product of experts", SOLVED, rso_sigmoid_norm),
    Claim("Eq. 5", "the derivative of Eq. 13, 0 at Eq. 14", FORMULA, equation_5),
    Claim("ascent", "natural gradient: error times 1 - eta beta", FORMULA, ascent),
    Claim("Eq. 4", "no KL term: the argmax of r, not a density", FORMULA, equation_4),
    Claim("SLiC-HF", f"exact minimum (n <= {HINGE_N}: by HiGHS)", GAP_ALLOWED, slic),
    Claim("RRHF", f"exact minimum (n <= {HINGE_N}: by HiGHS)", GAP_ALLOWED, rrhf_loss),
    Claim("RSO hinge", f"exact minimum (n <= {HINGE_N}: by HiGHS)", GAP_ALLOWED, rso_hinge),
    Claim("hindsight", "winners' score: that of p*, over tau > 1", FORMULA, hindsight),
    Claim("MCMC", "with people: its stationary law is p*", SOLVED, people),
    Claim("cycles", "close for one annotator, not for a mixture", SOLVED, cycles),
)
