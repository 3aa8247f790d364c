"""From observed comparisons to a density with error bars, a graph at a time."""

from __future__ import annotations

from dataclasses import dataclass, replace
from heapq import heappop, heappush
from typing import Any, Literal

import numpy as np
from scipy import sparse
from scipy.special import expit, log_expit

from reference.annotators import Indices
from reference.arrays import item
from reference.comparisons import Comparisons
from reference.errors import NotConvergedError
from reference.inference.covariance import (
    COVARIANCE_LIMIT,
    NORMAL_95,
    check_size,
    contrast_variances,
    grounded_covariance,
    heaviest,
    log_complement,
    resistances,
    sandwich,
    score_variance,
    squared_residuals,
    standard_errors,
)
from reference.inference.davidson import PairCounts, davidson, log_probabilities, saturated_log_likelihood
from reference.optimum import check_wins, optimum, strong_components
from reference.pbde import PBDE, Array
from reference.solvers.laplacian import centred
from reference.solvers.newton import curvatures
from reference.solvers.win_pairs import Pairs, summary

PRIOR_LIMIT = 1e6  # ghost comparisons: beyond this nothing is left of any data
EXACT_CONTRASTS = 2000  # items: so many have every contrast exactly, in n^3 multiplications, where some cancel

Ties = Literal["half", "davidson"]


@dataclass(frozen=True)
class FitOptions:
    """How to fit. ties: "half" a win each, or "davidson": a parameter fitted along (`davidson.py`).

    prior: this many wins and losses of every item against a ghost item; 0 for maximum likelihood.
    robust: standard errors by the sandwich, right where the choice rule is wrong. Without it they are those of
    tossed coins where all outcomes are 0 or 1, and follow the spread of the outcomes (`score_variance`) where some
    lie between, as ties that count half. ValueError for prior < 0, and for robust together with davidson.
    """

    ties: Ties = "half"
    prior: float = 0.0
    robust: bool = False

    def __post_init__(self) -> None:
        if self.ties not in ("half", "davidson"):
            raise ValueError(f"ties must be 'half' or 'davidson', got {self.ties!r}")
        if not 0 <= self.prior <= PRIOR_LIMIT:
            raise ValueError(f"prior must be >= 0 and at most {PRIOR_LIMIT:g}, got {self.prior}")
        if self.robust and self.ties == "davidson":
            raise ValueError("robust standard errors go with ties 'half' or none, got ties 'davidson'")


@dataclass(frozen=True, eq=False)
class Fit:
    """A fitted graph of n items: log_p (n,), normalised; omega (n,), mean 0; nats, and nats per comparison.

    omega_covariance: (n, n) in that gauge, None above 5,000 items; se_log_p, se_omega and se_logit_p, of log p -
    log(1 - p): standard errors (n,), NaN there. log_likelihood, and `saturated`: what it could be at best, with
    probabilities of its own for every pair. compared: comparisons of each item, (n,). newton_step: the
    certificate, the last Newton step plus a bound of what rounding may hide of it, in nats: omega is computed
    right to this, and log nu. log_nu: Davidson's tie parameter and its standard error, where it was asked for.
    contrasts: (n, n), the variances of omega_i - omega_j, NaN where they are lost in rounding; None above 5,000
    items.
    """

    log_p: Array
    omega: Array
    omega_covariance: Array | None
    se_log_p: Array
    se_omega: Array
    se_logit_p: Array
    log_likelihood: float
    saturated: float
    compared: Array
    newton_step: float
    log_nu: tuple[float, float] | None = None
    contrasts: Array | None = None

    def interval(self) -> tuple[Array, Array]:
        """The 95 % interval of each density, (n,) and (n,): sigmoid(logit p -+ 1.96 standard errors of logit p).

        On the logit scale it stays below 1, and the intervals of two items are each other's mirror image.
        """
        low, high = self._logit_interval()
        return np.asarray(expit(low)), np.asarray(expit(high))

    def log_factor(self) -> Array:
        """(n,): the least F such that the 95 % interval of each density p lies in [p / F, p F], in nats: log F."""
        low, high = map(log_expit, self._logit_interval())
        return np.asarray(np.maximum(self.log_p - low, high - self.log_p))

    def _logit_interval(self) -> tuple[Array, Array]:
        logit, half = self.log_p - log_complement(self.log_p), NORMAL_95 * self.se_logit_p
        return logit - half, logit + half

    def predict(self, a: int, b: int) -> tuple[float, float, float]:
        """Prob(a preferred to b), and its 95 % interval: sigmoid(omega_a - omega_b -+ 1.96 standard errors).

        The interval is NaN where there is no covariance. ValueError unless a and b are items; NotConvergedError
        where the standard error is lost in rounding.
        """
        a, b = (item(name, value, len(self.omega)) for name, value in (("a", a), ("b", b)))
        margin, error = self.omega[a] - self.omega[b], np.nan
        if self.contrasts is not None:
            error = float(np.sqrt(self.contrasts[a, b]))
            if not np.isfinite(error):
                raise NotConvergedError(f"the standard error of omega[{a}] - omega[{b}] is lost in rounding")
        low, high = margin - NORMAL_95 * error, margin + NORMAL_95 * error
        return float(expit(margin)), float(expit(low)), float(expit(high))


def fit(
    comparisons: Comparisons,
    model: PBDE | None = None,
    *,
    ties: Ties = "half",
    prior: float = 0.0,
    robust: bool = False,
) -> Fit:
    """The exact optimum of observed comparisons, with its standard errors.

    Parameters
    ----------
    comparisons : Comparisons
        N comparisons of n items.
    model : PBDE, optional
        The choice rule; `PBDE.luce()` where it is left out.
    ties : "half" or "davidson"
        Half a win for each side, or a parameter for ties that is fitted along (Davidson 1970).
    prior : float
        So many wins and losses of every item against a ghost item; 0 is maximum likelihood.
    robust : bool
        Standard errors by the sandwich.

    Returns
    -------
    Fit
        Densities, log odds omega, their standard errors and intervals, predictions.

    Raises
    ------
    NotIdentifiableError
        The comparisons do not determine the optimum; `prior` > 0 does.
    NotConvergedError
        A certificate was missed.
    NoFiniteFitError
        Davidson's likelihood has no finite maximum.
    ValueError
        An option out of range, no comparisons, one item, or nothing but ties that were left out.
    """
    return fit_with(comparisons, PBDE.luce() if model is None else model, FitOptions(ties, prior, robust))


def fit_with(comparisons: Comparisons, model: PBDE, options: FitOptions) -> Fit:
    """`fit` with its keyword arguments in one."""
    wins = comparisons.wins()
    if comparisons.ties_left_out and not wins.nnz:
        raise ValueError(
            "there must be comparisons besides the ties that are left out (--ties half counts them), got "
            f"{comparisons.ties_left_out:g} ties"
        )
    wins = check_wins(wins)
    compared = np.asarray(wins.sum(axis=0) + wins.sum(axis=1))
    found = _fit_davidson if options.ties == "davidson" else _fit_luce
    with np.errstate(all="ignore"):  # what is not finite is refused
        fields = found(comparisons, wins, model, options)
        log_p, grounded = model.log_p(fields["omega"]), fields.pop("spread")
        return Fit(log_p=log_p, compared=compared, **standard_errors(grounded, log_p, model), **fields)


def _fit_luce(comparisons: Comparisons, wins: Any, model: PBDE, options: FitOptions) -> dict[str, Any]:
    n = comparisons.n
    fitted = with_ghost(wins, options.prior) if options.prior else wins
    found = optimum(fitted, PBDE.luce())
    omega = centred(found.omega[:n])
    spread = contrasts = None
    if n <= COVARIANCE_LIMIT:
        ground = heaviest(model.log_p(omega), model)
        spread = grounded_covariance(fitted, found, ground, COVARIANCE_LIMIT + 1)
        if options.robust:
            spread = sandwich(spread[:n, :n], squared_residuals(comparisons, omega))
        elif not coins(comparisons):
            variance = curvatures(check_wins(fitted), found.omega)  # the ghost's comparisons are coins
            variance[:n, :n] = score_variance(comparisons, omega, variance[:n, :n])
            spread = sandwich(spread, variance)
        spread = spread[:n, :n]
        contrasts = contrast_variances(spread)
        plain = not options.robust and coins(comparisons)
        if plain and np.isnan(contrasts).any() and n <= EXACT_CONTRASTS:
            contrasts = resistances(curvatures(check_wins(fitted), found.omega))[:n, :n]
    loss, divergence, _ = summary(Pairs.of(wins), omega)
    return {
        "omega": omega,
        "spread": spread,
        "contrasts": contrasts,
        "log_likelihood": -loss,
        "saturated": divergence - loss,
        "newton_step": found.newton_step * (2 if options.prior else 1),  # the ghost leaves the mean
    }


def _fit_davidson(comparisons: Comparisons, wins: Any, model: PBDE, options: FitOptions) -> dict[str, Any]:
    check_size(wins)
    observed = PairCounts.of(comparisons)
    found = davidson(observed.with_ghost(options.prior) if options.prior else observed)
    omega, total = centred(found.omega[: comparisons.n]), observed.outcomes.sum()
    spread = found.covariance[: comparisons.n, : comparisons.n]
    log_likelihood = float((observed.outcomes * log_probabilities(observed, omega, found.theta)).sum())
    return {
        "omega": omega,
        "spread": spread,
        "contrasts": contrast_variances(spread),
        "log_likelihood": log_likelihood / total,
        "saturated": saturated_log_likelihood(observed) / total,
        "newton_step": found.newton_step * (2 if options.prior else 1),  # the ghost leaves the mean
        "log_nu": (found.theta, float(np.sqrt(found.covariance[-1, -1]))),
    }


def coins(comparisons: Comparisons) -> bool:
    """Whether every outcome is 0 or 1, so that its variance is P (1 - P)."""
    y, weight = np.asarray(comparisons.y), np.asarray(comparisons.weight)
    return bool(np.isin(y[weight > 0], (0.0, 1.0)).all())


def with_ghost(wins: Any, prior: float) -> sparse.csr_array:
    """(n + 1, n + 1): a last item that wins and loses `prior` comparisons with every other."""
    column = np.full((wins.shape[0], 1), prior)
    return sparse.csr_array(sparse.block_array([[sparse.csr_array(wins), column], [column.T, None]]))


def restricted(model: PBDE, items: Indices, n: int) -> PBDE:
    """The PBDE over a part of its n outcomes."""
    f, g = model.over(n)
    return PBDE(f[items], g[items])


def partial_order(comparisons: Comparisons) -> tuple[list[Indices], list[tuple[int, int]]]:
    """What a graph without a finite optimum does determine: its strong components, the strongest first, and
    the pairs (k, l) of them in which k won every comparison with l."""
    wins = check_wins(comparisons.wins())
    components = strong_components(wins)
    label = np.empty(comparisons.n, dtype=int)
    for k, component in enumerate(components):
        label[component] = k
    entries = wins.tocoo()
    beaten = {(int(k), int(m)) for k, m in zip(label[entries.row], label[entries.col], strict=True) if k != m}
    waiting = np.bincount([m for _, m in beaten], minlength=len(components))
    below: dict[int, list[int]] = {}
    for k, m in beaten:
        below.setdefault(k, []).append(m)
    ready = [k for k in range(len(components)) if not waiting[k]]
    place: dict[int, int] = {}
    while ready:  # Kahn's topological order, the smallest item first
        top = heappop(ready)
        place[top] = len(place)
        for m in below.get(top, ()):
            waiting[m] -= 1
            if not waiting[m]:
                heappush(ready, m)
    return [components[k] for k in place], sorted((place[k], place[m]) for k, m in beaten)


def among(comparisons: Comparisons, items: Indices) -> Comparisons:
    """The comparisons of these items with each other, over these items alone, renumbered in their order."""
    place = np.full(comparisons.n, -1)
    place[items] = np.arange(len(items))
    x_a, x_b = place[np.asarray(comparisons.x_a)], place[np.asarray(comparisons.x_b)]
    labels = None if comparisons.labels is None else tuple(comparisons.labels[i] for i in items)
    # over the larger n first: -1 is no index
    inside = comparisons.only((x_a >= 0) & (x_b >= 0))
    x_a, x_b = place[np.asarray(inside.x_a)], place[np.asarray(inside.x_b)]
    return replace(inside, x_a=x_a, x_b=x_b, n=len(items), labels=labels)
