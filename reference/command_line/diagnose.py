"""What comparisons can and cannot tell, in plain words, with the numbers behind them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from reference.command_line.report import carried_text, p_text, shortened, triads_text, triangle_text, untestable
from reference.comparisons import Comparisons
from reference.errors import NoFiniteFitError, NotIdentifiableError
from reference.inference.exchangeability import Exchangeability
from reference.inference.fit import Fit, FitOptions, fit_with, partial_order
from reference.inference.goodness_of_fit import GoodnessOfFit
from reference.optimum import check_wins, strong_components
from reference.pbde import PBDE

LEVEL = 0.05  # of all tests of one annotator together
WORDS = ((0.001, "very strong"), (0.01, "strong"), (0.05, "moderate"), (0.1, "weak"), (np.inf, "no"))
FACTOR_LIMIT = np.log(1e6)  # nats: a density that is known no better is as good as unknown


@dataclass(frozen=True)
class Diagnosis:
    """Four answers about one graph, each a text.

    one_annotator: False where a test rejects one annotator at 5 %; True where none does; None where there is no
    test, or where annotators are given and cannot be compared. compatible: by the pooled win rates alone.
    annotators_differ: the test between annotators, None where no annotators are given or there is but one.
    """

    determined: str
    annotator: str
    evidence: str
    unknowable: str
    is_determined: bool
    compatible: bool | None
    one_annotator: bool | None
    annotators_differ: Exchangeability | None

    def answers(self) -> list[tuple[str, str]]:
        """Each question with its answer."""
        return [
            ("Is the optimum determined?", self.determined),
            ("Can one annotator have judged?", self.annotator),
            ("How strong is the evidence?", self.evidence),
            ("What can comparisons not tell?", self.unknowable),
        ]


def diagnose(
    graph: Comparisons,
    model: PBDE,
    options: FitOptions,
    verdict: GoodnessOfFit | None,
    untested: str = "",
    between: Exchangeability | None = None,
) -> Diagnosis:
    """The four answers. verdict None: not tested, for the reason `untested`. between: the test between annotators,
    where there are several. Raises as `fit` does, except that an undetermined optimum is an answer."""
    labels = graph.labels or tuple(map(str, range(graph.n)))
    fitted: Fit | None = None
    try:
        fitted = fit_with(graph, model, options)
        determined = _determined(graph, fitted, options, labels)
    except NotIdentifiableError:
        determined = _undetermined(graph, labels)
    except NoFiniteFitError as error:
        determined = f"No: {error}."
    return Diagnosis(
        determined,
        _one_annotator(verdict, untested, between),
        _evidence(graph, fitted, verdict, between, labels),
        _unknowable(fitted, model, labels, between),
        fitted is not None,
        verdict_of(verdict, None),
        verdict_of(verdict, between),
        between,
    )


def verdict_of(verdict: GoodnessOfFit | None, between: Exchangeability | None) -> bool | None:
    """`Diagnosis.one_annotator`: of up to two tests, each at 5 % over their number. Triads by themselves say no or
    nothing."""
    p_values = _p_values(verdict, between)
    if any(p < LEVEL / len(p_values) for p in p_values):
        return False
    missing = verdict is None or np.isnan(verdict.p_value) if between is None else bool(between.untested)
    return None if missing else True


def _p_values(verdict: GoodnessOfFit | None, between: Exchangeability | None) -> list[float]:
    found = [np.nan if verdict is None else verdict.pooled_p, np.nan if between is None else between.p_value]
    return [p for p in found if not np.isnan(p)]


def _determined(graph: Comparisons, fitted: Fit, options: FitOptions, labels: Sequence[str]) -> str:
    counted = f"({np.asarray(graph.weight).sum():g} comparisons of {graph.n} items)"
    text = f"Yes: every item wins against every other, directly or through others {counted}."
    if len(strong_components(check_wins(graph.wins()))) > 1:
        text = (
            f"Only with the ghost item (prior {options.prior:g}): the comparisons alone do not link all items by "
            f"wins in both directions, and how far apart the groups are is the prior's choice {counted}."
        )
    if fitted.omega_covariance is None:
        return text + " How well was not computed: above 5,000 items the covariance is too large an array."
    nats = fitted.log_factor()
    ends = (int(np.argmin(nats)), int(np.argmax(nats)))
    best, least = (_factor(nats[k], shortened(labels[k], 29)) for k in ends)
    return f"{text} Densities are known within {best} to {least}, 95 % intervals."


def _factor(nats: float, label: str) -> str:
    return f"{f'a factor of {np.exp(nats):.3g}' if nats <= FACTOR_LIMIT else 'no useful factor'} ({label})"


def _undetermined(graph: Comparisons, labels: Sequence[str]) -> str:
    parts, beaten = partial_order(graph)
    alone = sum(len(part) == 1 for part in parts)
    first = ", ".join(shortened(labels[i], 20) for i in parts[0][:4]) + (", ..." if len(parts[0]) > 4 else "")
    order = "the groups were never compared with each other"
    if beaten:
        order = f"{len(beaten)} pairs of groups are ordered, for one side won all their comparisons"
    return (
        f"No: the {graph.n} items fall into {len(parts)} groups ({alone} of a single item) that are not linked by "
        f"wins in both directions, so the gaps between them are not finite; {order}. The first group: {first}. "
        "Within a group all is determined: `fit` shows it. Cures: comparisons across the groups, or --prior 0.5."
    )


def _one_annotator(verdict: GoodnessOfFit | None, untested: str, between: Exchangeability | None) -> str:
    same = "The answer is the same for every PBDE, whatever f and g: see the last question."
    pooled, compared = _pooled(verdict, untested), "" if between is None else annotators_text(between)
    answer, count = verdict_of(verdict, between), len(_p_values(verdict, between))
    each = ", each of two tests at 2.5 %" if count == 2 else ""
    if between is None:
        if answer is None:
            return f"{pooled}. {same}"
        if answer:
            return f"Yes, as far as pooled win rates can tell ({pooled}). {same}"
        return f"No, at the 5 % level ({pooled}): the win rates of pairs contradict every single omega. {same}"
    start = "Not known"
    if answer is not None:
        start = "Yes, as far as these data can tell" if answer else f"No, at the 5 % level{each}"
    return f"{start}. Pooled win rates against one omega: {pooled}. Between annotators: {compared}. {same}"


def _pooled(verdict: GoodnessOfFit | None, untested: str) -> str:
    """The test of the win rates of pairs."""
    if verdict is None:
        return f"Not tested: {untested}"
    if np.isnan(verdict.p_value):
        return "; ".join([f"It cannot be tested by G2: {untestable(verdict)}", *triads_text(verdict)])
    by = "the chi-squared law"
    if verdict.replicates:
        by = f"a bootstrap of {verdict.replicates}, in which one annotator shows {verdict.expected:.1f}"
    found = f"G2 = {verdict.statistic:.1f} on {verdict.df} degrees of freedom, p = {p_text(verdict)} by {by}"
    return "; ".join([found, *carried_text(verdict)])


def _evidence(
    graph: Comparisons,
    fitted: Fit | None,
    verdict: GoodnessOfFit | None,
    between: Exchangeability | None,
    labels: Sequence[str],
) -> str:
    sentences = []
    if fitted is not None:
        coin = np.log(0.5)
        if graph.ties == 0 and fitted.saturated > coin + 1e-9:
            share = (fitted.log_likelihood - coin) / (fitted.saturated - coin)
            sentences.append(
                f"The fit explains {share:z.0%} of what a probability of its own for every pair could."
            )
    if between is not None and not between.untested:
        sentences.append(f"Between annotators there is {_word(between.p_value)} evidence of differences.")
    if verdict is None or np.isnan(verdict.pooled_p):
        where = " in the pooled win rates" if between is not None else ""
        return " ".join([*sentences, f"Against one annotator{where} there is none, for there is no test."])
    where = "In the pooled win rates there" if between is not None else "There"
    if np.isnan(verdict.p_value):
        return " ".join([*sentences, f"{where} is {_word(verdict.pooled_p)} evidence against one annotator."])
    sentences.append(
        f"{where} is {_word(verdict.p_value)} evidence against one annotator: beyond noise it misses about "
        f"{max(verdict.excess, 0.0):.4f} nats a comparison ({verdict.comparisons} decisive ones"
        f"{f'; {verdict.ties:g} ties say nothing here' if verdict.ties else ''})."
    )
    cyclic = f"The cyclic share is {verdict.cyclic_share:.3f}"
    if not np.isnan(verdict.cyclic_share_median):
        cyclic += f"; {verdict.cyclic_share_median:.3f} is what one annotator and noise would show"
    sentences.append(cyclic + ".")
    if verdict.triangles:
        sentences.append(f"Least consistent, the worst of all triangles: {triangle_text(verdict, 0, labels)}.")
    return " ".join(sentences)


def _word(p_value: float) -> str:
    return next(word for limit, word in WORDS if p_value < limit)


def annotators_text(between: Exchangeability) -> str:
    """The test between annotators in words: what it takes, its p-value and how sure that is."""
    if between.untested:
        return f"They cannot be compared: {between.untested}"
    unsure = "" if between.settled else f", not settled at the level by {between.permutations} permutations"
    return (
        f"who gave which answer to a pair, permuted {between.permutations} times ({between.annotators} "
        f"annotators, {between.answers} answers to {between.pairs} pairs), p = {between.p_value:.3g} "
        f"(Monte Carlo s.e. {between.error:.1g}){unsure}"
    )


def _unknowable(fitted: Fit | None, model: PBDE, labels: Sequence[str], between: Exchangeability | None) -> str:
    text = (
        "f, g and p by themselves. Comparisons show Omega = f log p + g up to a constant, nothing else: all "
        "(f, g, p) with this Omega give the same data, and p = exp((Omega - g + C) / f) follows from the f and g "
        "that you assume."
    )
    if fitted is not None:
        top = int(np.argmax(fitted.log_p))
        f, g = model.over(len(fitted.log_p))
        others = [float(np.exp(PBDE(f * k, g).log_p(fitted.omega)[top])) for k in (0.5, 2.0)]
        text += (
            f" Here {shortened(labels[top], 29)} has density {np.exp(fitted.log_p[top]):.3f}; with half that f it "
            f"would have {others[0]:.3f}, with twice that f {others[1]:.3f}."
        )
    if between is not None and not between.untested:
        return text + " Groups whose disagreements cancel are seen here, for it is known who judged."
    return text + (
        " Nor can they tell one annotator from groups whose disagreements cancel: two equally large groups with "
        "opposite tastes look like one that tosses coins. Several comparisons by each annotator could."
    )
