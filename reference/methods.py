"""What each method of learning from preferences estimates: population losses and their exact minimisers.

| method                | function                  | estimates                                              |
|-----------------------|---------------------------|--------------------------------------------------------|
| RLHF reward, Eq. 1-2  | reward                    | log p* + a constant in each component (Luce annotator) |
| ILHF (Xu et al. 2023) | ilhf                      | p* (Luce annotator)                                    |
| DPO, Eq. 16           | dpo                       | p_pre p*^(1 / beta), Eq. 17 (Luce annotator)           |
| RSO, sigmoid-norm     | dpo                       | the same loss, beta = gamma                            |
| RSO, hinge-norm       | rso                       | no density: p_pre times whole powers of e^(1 / gamma)  |
| SLiC-HF               | slic_hf                   | no density: margins up to delta, pulled to p_pre       |
| RRHF                  | rrhf                      | no density: win frequencies, flattened by a hinge      |
| IPO                   | targets.ipo               | p_pre exp(Borda score / tau)                           |
| KL control, Eq. 13    | targets.kl_control        | p_pre exp(r / beta), Eq. 14                            |
| its gradient, Eq. 5   | policies.kl_gradient      | the same                                               |
| natural gradient      | policies.natural_gradient | the same, by a factor |1 - eta beta| a step            |
| Eq. 4, no KL term     | policies.policy_gradient  | no density: the argmax of r                            |
| chain of hindsight    | choices.winner_density    | the winners: p* tempered, times the proposal           |
| MCMC with people      | choices.people_chain      | p* (Luce annotator)                                    |

SLiC-HF: Zhao et al. 2023. RSO: Liu et al. 2023b. RRHF: Yuan et al. 2023. IPO: Azar et al. 2023. DPO: Rafailov et
al. 2023. Chain of hindsight: Liu et al. 2023a. MCMC with people: Sanborn and Griffiths 2007.

Wins are (n, n), dense or sparse: W_ij says how often i was preferred to j, in any unit; losses are per comparison.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy import sparse
from scipy.sparse.csgraph import connected_components

from reference.annotators import Indices
from reference.arrays import finite_array, not_negative, positive
from reference.optimum import Optimum, check_wins, optimum
from reference.pbde import PBDE, Array, check_normalized, log_weights
from reference.solvers.hinge import Hinges, Minimum, hinge_minimum

__all__ = ["Minimum", "Reward", "dpo", "ilhf", "reward", "rrhf", "rso", "slic_hf"]


@dataclass(frozen=True, eq=False)
class Reward:
    """An RLHF reward: (n,) with mean 0 in each component, and the components, lists of indices.

    Between components the comparisons say nothing: each has a constant of its own.
    """

    reward: Array
    components: list[Indices]


def reward(wins: Any) -> Reward:
    """Eq. 1 and 2 converge to log p* + a constant in each component of a Luce annotator's comparisons.

    Raises NotIdentifiableError where a component is linked by wins in one direction only.
    """
    wins = check_wins(wins)
    count, label = connected_components(sparse.csr_array(wins), directed=False)
    values, components = np.zeros(wins.shape[0]), [np.flatnonzero(label == k) for k in range(count)]
    for component in components:
        if len(component) > 1:
            values[component] = optimum(wins[component][:, component], PBDE.luce()).omega
    return Reward(values, components)


def ilhf(wins: Any, measure: ArrayLike | None = None) -> Optimum:
    """ILHF converges to p* of a Luce annotator: Eq. 1 with the reward log pi. Raises as `optimum` does."""
    return optimum(wins, PBDE.luce(), measure)


def dpo(wins: Any, log_p_pre: ArrayLike, beta: float, measure: ArrayLike | None = None) -> Optimum:
    """DPO converges to p_pre p*^(1 / beta) of a Luce annotator, normalised (Eq. 16, 17). Raises as `optimum` does.

    RSO's sigmoid-norm loss, -log sigmoid(gamma (log pi / p_pre)_i - gamma (log pi / p_pre)_j), is this one.
    """
    return optimum(wins, PBDE.dpo(beta, log_p_pre), measure)


def slic_hf(
    wins: Any, log_p_pre: ArrayLike, delta: float, lam: float, measure: ArrayLike | None = None
) -> Minimum:
    """SLiC-HF converges to the minimiser of a hinge on log pi and p_pre's cross-entropy: no density estimate.

    sum_ij W_ij max(0, delta - (log pi_i - log pi_j)) / sum W - lam sum_i p_pre_i log pi_i, delta >= 0, lam >= 0,
    pi normalised. Unique for lam > 0. lam = 0: log pi is delta times whole numbers, up to a constant; often one of
    many.
    """
    wins = check_wins(wins)
    pre = _density("log_p_pre", log_p_pre, wins, measure)
    mass = np.maximum(np.exp(pre + log_weights(measure, len(pre))), np.finfo(np.float64).tiny)  # > 0, as p_pre is
    hinges = Hinges.of(wins, float(wins.sum()))
    return hinge_minimum(
        hinges, PBDE.luce(), not_negative("delta", delta), not_negative("lam", lam) * mass, measure
    )


def rso(wins: Any, log_p_pre: ArrayLike, gamma: float, measure: ArrayLike | None = None) -> Minimum:
    """RSO's hinge-norm loss converges to p_pre times whole powers of e^(1 / gamma), one of its minimisers.

    sum_ij W_ij max(0, 1 - gamma (log pi_i / p_pre_i - log pi_j / p_pre_j)) / sum W, gamma > 0; p_pre is what
    was fine-tuned before. Statistical rejection sampling, the rest of RSO, only changes who is compared.
    """
    wins = check_wins(wins)
    pre = _density("log_p_pre", log_p_pre, wins, measure)
    hinges = Hinges.of(wins, float(wins.sum()))
    return hinge_minimum(hinges, PBDE.dpo(positive("gamma", gamma), pre), 1.0, np.zeros(len(pre)), measure)


def rrhf(wins: Any, lengths: ArrayLike, measure: ArrayLike | None = None) -> Minimum:
    """RRHF converges to the minimiser of a hinge on log pi / |x| and the winners' likelihood: no density of wins.

    sum_ij W_ij [max(0, log pi_j / |j| - log pi_i / |i|) - log pi_i] / sum W over sum pi <= 1, which is tight:
    scaling pi up gains likelihood. Unique. An outcome that never wins gets log pi = -inf, the infimum's limit.
    """
    wins = check_wins(wins)
    n = wins.shape[0]
    total = float(wins.sum())
    share = np.asarray(wins.sum(axis=1)) / total
    model = PBDE.length_normalized(finite_array("lengths", lengths, (n,)))
    weights = np.exp(log_weights(measure, n))
    won = np.flatnonzero(share > 0)
    among = Hinges.of(wins[won][:, won], total)
    found = hinge_minimum(among, PBDE(np.asarray(model.f)[won], 0.0), 0.0, share[won], weights[won])
    log_p = np.full(n, -np.inf)
    log_p[won] = found.log_p
    return Minimum(log_p, found.loss, found.gap, found.unique)


def _density(name: str, log_p: ArrayLike, wins: Any, measure: ArrayLike | None) -> Array:
    return check_normalized(name, finite_array(name, log_p, (wins.shape[0],)), measure)
