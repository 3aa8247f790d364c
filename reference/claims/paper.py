"""The paper's theorems and equations as claims: each solves its left side, and evaluates its right otherwise."""

from __future__ import annotations

import numpy as np
from scipy import sparse
from scipy.special import expit

from reference import targets
from reference.annotators import Annotator, Population
from reference.claims.claim import FORMULA, SOLVED, Claim, Formula, draw_density, draw_model, draw_proposal
from reference.comparisons import win_matrix
from reference.errors import NotIdentifiableError
from reference.optimum import optimum
from reference.pbde import PBDE, Array, log_mass, normalize


def _learned(preference_prob: Array, rng: np.random.Generator, model: PBDE) -> Array:
    return optimum(win_matrix(preference_prob, draw_proposal(rng, len(preference_prob))), model).log_p


def _gap(left: Array, right: Array) -> float:
    return float(np.abs(left - right).max())


def theorem_1(rng: np.random.Generator, n: int, formula: Formula = lambda log_p: log_p) -> float:
    """The reward learned from Eq. 9, written with densities and no sigmoid, is log p* up to a constant."""
    log_p = draw_density(rng, n)
    p = np.exp(log_p)
    luce = p[:, None] / (p[:, None] + p[None, :])
    reward = optimum(win_matrix(luce, draw_proposal(rng, n)), PBDE.luce()).omega
    expected = formula(log_p)
    return _gap(reward, expected - expected.mean())


def theorem_2(rng: np.random.Generator, n: int, formula: Formula = lambda log_p: log_p) -> float:
    """Annotator and model share f and g: the model becomes p*."""
    log_p, model = draw_density(rng, n), draw_model(rng, n)
    return _gap(_learned(Annotator(log_p, model).preference_prob(), rng, model), formula(log_p))


def equation_12(rng: np.random.Generator, n: int, formula: Formula = lambda log_p: log_p) -> float:
    """Preferences by p^(1 / |x|), literally: the length-normalised model becomes p*."""
    log_p, lengths = draw_density(rng, n), rng.integers(1, 6, n)
    root = np.exp(log_p) ** (1 / lengths)
    prob = root[:, None] / (root[:, None] + root[None, :])
    return _gap(_learned(prob, rng, PBDE.length_normalized(lengths)), formula(log_p))


def equation_14(rng: np.random.Generator, n: int, formula: Formula = targets.kl_control) -> float:
    """Ascent of Eq. 13, E_pi[r] - beta KL(pi || p_pre), along its natural gradient ends at Eq. 14."""
    reward, log_p_pre, beta = rng.normal(size=n), draw_density(rng, n), float(np.exp(rng.uniform(-1, 1)))
    log_pi = draw_density(rng, n)
    for _ in range(80):  # the distance halves each time
        log_pi = normalize(log_pi + (0.5 / beta) * (reward - beta * (log_pi - log_p_pre)))
    return _gap(log_pi, formula(reward, log_p_pre, beta)) / (1 + float(np.abs(log_pi).max()))


def equation_17(rng: np.random.Generator, n: int, formula: Formula = targets.product_of_experts) -> float:
    """DPO taught by a Luce annotator: the product of experts."""
    log_p, log_p_pre = draw_density(rng, n), draw_density(rng, n)
    beta = float(np.exp(rng.uniform(-1, 2)))
    prob = Annotator(log_p, PBDE.luce()).preference_prob()
    return _gap(_learned(prob, rng, PBDE.dpo(beta, log_p_pre)), formula(log_p, log_p_pre, beta))


def equation_19(rng: np.random.Generator, n: int, formula: Formula = targets.geometric_mean) -> float:
    """f = 1 / alpha, g = (1 - 1 / alpha) log p_pre, taught by a Luce annotator: the geometric mean."""
    log_p, log_p_pre = draw_density(rng, n), draw_density(rng, n)
    alpha = float(np.exp(rng.uniform(-2, 1)))
    prob = Annotator(log_p, PBDE.luce()).preference_prob()
    return _gap(_learned(prob, rng, PBDE.geometric(alpha, log_p_pre)), formula(log_p, log_p_pre, alpha))


def general_mismatch(rng: np.random.Generator, n: int, formula: Formula = targets.recovered) -> float:
    """Any f*, g*, p* against any f, g: the optimum is the formula, is normalised, and has Omega* + C."""
    annotator = Annotator(draw_density(rng, n), draw_model(rng, n))
    model = draw_model(rng, n)
    learned = _learned(annotator.preference_prob(), rng, model)
    f, g = model.over(n)
    constant = f * formula(annotator, model) + g - annotator.omega
    spread, mass = float(np.ptp(constant)), abs(log_mass(formula(annotator, model)))
    return max(_gap(learned, formula(annotator, model)), spread, mass)


def equations_20_21(rng: np.random.Generator, n: int, formula: Formula | None = None) -> float:
    """A density mixture (Eq. 20) is learned exactly; of a population (Eq. 21) only its expected wins are.

    The second is the optimum's own first-order condition: sum_b q_ab sigmoid(Omega_a - Omega_b) = sum_b q_ab P_ab,
    relative to the comparisons of a. That no single annotator explains the population is checked too.
    """
    members = [Annotator(draw_density(rng, n), PBDE.luce()) for _ in range(2)]
    population = Population(members, [0.4, 0.6])
    single = population.density_mixture()
    density = np.log(0.4 * np.exp(np.asarray(members[0].log_p)) + 0.6 * np.exp(np.asarray(members[1].log_p)))
    expected = formula(density) if formula else density
    error = _gap(_learned(single.preference_prob(), rng, PBDE.luce()), expected)
    proposal = draw_proposal(rng, n)
    fit = optimum(win_matrix(population.preference_prob(), proposal), PBDE.luce())
    weight = proposal + proposal.T
    np.fill_diagonal(weight, 0.0)
    surplus = weight * (expit(fit.omega[:, None] - fit.omega[None, :]) - population.preference_prob())
    explained = n > 2 and fit.divergence < 1e-9
    return max(error, float(np.abs(surplus.sum(axis=1) / weight.sum(axis=1)).max()), 1.0 if explained else 0.0)


def ipo(rng: np.random.Generator, n: int, formula: Formula = targets.ipo) -> float:
    """IPO's squared loss, as dense least squares over all pairs, for both forms of the proposal."""
    prob, log_p_pre = Annotator(draw_density(rng, n), PBDE.luce()).preference_prob(), draw_density(rng, n)
    tau = float(np.exp(rng.uniform(-2, 1)))
    independent = rng.dirichlet(np.ones(n) * 5)
    a, b = np.triu_indices(n, 1)
    worst = 0.0
    for proposal, pairs in (
        (independent, np.outer(independent, independent)),
        (joint := draw_proposal(rng, n), joint),
    ):
        root = np.sqrt(pairs[a, b] + pairs[b, a])
        design = np.zeros((len(a), n))
        design[np.arange(len(a)), a], design[np.arange(len(a)), b] = root, -root
        d = np.linalg.lstsq(design, root * (2 * prob[a, b] - 1) / (2 * tau), rcond=None)[0]
        worst = max(worst, _gap(normalize(log_p_pre + d), formula(prob, proposal, log_p_pre, tau)))
    return worst


def identifiability(rng: np.random.Generator, n: int, formula: Formula = lambda log_p: log_p) -> float:
    """A random spanning tree of comparisons is enough; one edge fewer is refused, with its two parts named."""
    log_p = draw_density(rng, n)
    child = np.arange(1, n)
    parent = np.array([rng.integers(0, k) for k in child])
    tree = sparse.csr_array((rng.dirichlet(np.ones(n - 1)), (child, parent)), shape=(n, n))
    prob = Annotator(log_p, PBDE.luce()).preference_prob()
    error = _gap(optimum(win_matrix(prob, tree), PBDE.luce()).log_p, formula(log_p))
    if n == 2:
        return error
    cut = tree.toarray()
    edge = int(rng.integers(0, n - 1))
    cut[child[edge], parent[edge]] = 0.0
    below = {int(child[edge])}
    for k in child:
        below |= {int(k)} if int(parent[k - 1]) in below else set()
    try:
        optimum(win_matrix(prob, cut / cut.sum()), PBDE.luce())
    except NotIdentifiableError as refusal:
        parts = {frozenset(part.tolist()) for part in refusal.components}
        return error if parts == {frozenset(below), frozenset(range(n)) - below} else 1.0
    return 1.0


THEOREMS: tuple[Claim, ...] = (
    Claim("Theorem 1", "a Luce reward is log p* + c", SOLVED, theorem_1),
    Claim("Theorem 2", "same PBDE: the model becomes p*", SOLVED, theorem_2),
    Claim("Eq. 12", "length-normalised choices recover p*", SOLVED, equation_12),
    Claim("Eq. 14", "KL control ends at p_pre exp(r / beta)", FORMULA, equation_14),
    Claim("Eq. 17", "product of experts", SOLVED, equation_17),
    Claim("Eq. 19", "geometric mean", SOLVED, equation_19),
    Claim("general", "any mismatch: (f* log p* + g* - g + C) / f", SOLVED, general_mismatch),
    Claim("Eq. 20, 21", "density mixture learned, population not", SOLVED, equations_20_21),
    Claim("IPO", "Borda score; weighted Laplacian", SOLVED, ipo),
    Claim("connected", "a spanning tree identifies p*, less does not", SOLVED, identifiability),
)
