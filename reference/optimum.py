"""The exact minimiser of Eq. 8 over normalised densities, for any win matrix.

Eq. 8 depends on the model only through omega = f log pi + g, and up to a constant it is

    F(omega) = sum_ij W_ij log(1 + exp(omega_j - omega_i)),

convex in omega. So an optimum is two steps: Newton's method finds omega (`solvers/newton.py`; for pairs that alone
link two sides of the graph in closed form, `solvers/bridges.py`), and `model.log_p` turns omega into THE density
that has it. F has a minimiser, unique up to a constant, exactly where the graph of wins is strongly connected.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import sparse
from scipy.sparse.csgraph import connected_components

from reference.annotators import Indices
from reference.arrays import finite_array, finite_sparse
from reference.errors import NotConvergedError, NotIdentifiableError
from reference.pbde import PBDE, Array, log_weights
from reference.solvers.bridges import minimize_by_parts
from reference.solvers.win_pairs import Pairs, summary

__all__ = [
    "NotConvergedError",
    "NotIdentifiableError",
    "Optimum",
    "check_wins",
    "optimum",
    "strong_components",
]


LEAST_TOTAL = 1e-290  # comparisons: below, float64 has few digits left or none


@dataclass(frozen=True, eq=False)
class Optimum:
    """The minimiser of Eq. 8 and how well it is known.

    log_p: (n,), normalised. omega: (n,), mean 0. loss: Eq. 7 and divergence: Eq. 8, in nats per comparison.
    newton_step: the certificate, the largest component of the last undamped Newton step in omega plus a bound of
    what rounding may hide of it (reference/solvers/rounding.py), in nats: omega is right to this.
    gradient_norm: max_i |dF / d omega_i| / comparisons of i. iterations: Newton steps.
    """

    log_p: Array
    omega: Array
    loss: float
    divergence: float
    newton_step: float
    gradient_norm: float
    iterations: int


def optimum(wins: Any, model: PBDE, measure: ArrayLike | None = None) -> Optimum:
    """min over normalised pi of Eq. 8: (n, n) wins, W_ij = how often i was preferred to j, dense or sparse.

    Raises NotIdentifiableError where the wins do not connect all items strongly; NotConvergedError where the
    certificate is missed; ValueError for wins that are no square matrix of finite numbers >= 0, for a single
    item, and where there are no comparisons at all. The diagonal says nothing and is ignored.
    """
    wins = check_wins(wins)
    n = wins.shape[0]
    model.over(n)
    log_weights(measure, n)
    check_identifiable(wins)
    pairs = Pairs.of(wins)
    with np.errstate(all="ignore"):  # what overflows ends as a step that is not finite, and is refused as such
        omega, newton_step, iterations = minimize_by_parts(pairs)
    loss, divergence, gradient_norm = summary(pairs, omega)
    return Optimum(model.log_p(omega, measure), omega, loss, divergence, newton_step, gradient_norm, iterations)


def check_wins(wins: Any) -> Any:
    """wins as a float64 array or CSR array with an empty diagonal; ValueError where they are no win matrix."""
    if sparse.issparse(wins):
        checked = finite_sparse("wins", wins)
        values = checked.data
    else:
        values = checked = finite_array("wins", wins)
    if checked.ndim != 2 or checked.shape[0] != checked.shape[1]:
        raise ValueError(f"wins must have shape (n, n), got {checked.shape}")
    if values.size and values.min() < 0:
        raise ValueError(f"wins must be >= 0, got {values.min()}")
    if checked.shape[0] < 2:
        raise ValueError(f"an optimum needs at least two items, got {checked.shape[0]}")
    if checked.diagonal().any():
        checked = checked.copy()
        checked.setdiag(0.0) if sparse.issparse(checked) else np.fill_diagonal(checked, 0.0)
    if sparse.issparse(checked):
        checked.eliminate_zeros()
    with np.errstate(over="ignore"):
        total = float(checked.sum())
    if not total > 0:
        raise ValueError("there are no comparisons of two different items")
    if not LEAST_TOTAL <= total < np.inf:
        raise ValueError(
            f"wins must sum to at least {LEAST_TOTAL:g} and be finite in sum, got {total:.3g}; rescale them"
        )
    return checked


def strong_components(wins: Any) -> list[Indices]:
    """The sets of items that win against each other, directly or through others: by their smallest item."""
    graph = wins if sparse.issparse(wins) else sparse.csr_array(wins > 0)
    count, label = connected_components(graph, directed=True, connection="strong")
    first = np.full(count, len(label))
    np.minimum.at(first, label, np.arange(len(label)))
    rank = np.argsort(np.argsort(first))[label]
    return np.split(np.argsort(rank, kind="stable"), np.cumsum(np.bincount(rank))[:-1])


def check_identifiable(wins: Any) -> None:
    """NotIdentifiableError where the wins (checked) are not strongly connected (Zermelo 1929, Ford 1957)."""
    if not sparse.issparse(wins) and _reaches_all(wins > 0) and _reaches_all((wins > 0).T):
        return
    components = strong_components(wins)
    if len(components) == 1:
        return
    compared = np.asarray(wins.sum(axis=0) + wins.sum(axis=1)) > 0
    never = "" if compared.all() else f"; {(~compared).sum()} never compared, the first is {np.argmin(compared)}"
    sizes = ", ".join(str(len(component)) for component in components[:8]) + (
        ", ..." if len(components) > 8 else ""
    )
    raise NotIdentifiableError(
        f"the wins do not determine the optimum: {len(components)} groups of items (sizes {sizes}) are not linked "
        f"by wins in both directions{never}; add comparisons that link them, fit each group by itself, or give "
        "every item half a win and half a loss against a ghost item (--prior 0.5)",
        components,
    )


def _reaches_all(beats: NDArray[np.bool_]) -> bool:
    reached = np.zeros(len(beats), dtype=bool)
    frontier = np.array([0])
    while frontier.size:
        reached[frontier] = True
        frontier = np.flatnonzero(beats[frontier].any(axis=0) & ~reached)
    return bool(reached.all())
