"""What comparisons can and cannot tell, in plain words, with the numbers behind them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from reference.comparisons import Comparisons
from reference.davidson import NoFiniteFitError
from reference.fit import NORMAL_95, Fit, Options, fit, partial_order
from reference.optimum import NotIdentifiableError, check_wins, strong_components
from reference.pbde import PBDE
from reference.report import shortened, triangle_text, untestable
from reference.verdict import GoodnessOfFit

LEVEL = 0.05  # of the test
FACTOR_LIMIT = np.log(1e6)  # nats: a density that is known no better is as good as unknown


@dataclass(frozen=True)
class Diagnosis:
    """Four answers about one graph, each a text; compatible: None where that cannot be tested."""

    determined: str
    one_annotator: str
    evidence: str
    unknowable: str
    is_determined: bool
    compatible: bool | None

    def answers(self) -> list[tuple[str, str]]:
        """Each question with its answer."""
        return [
            ("Is the optimum determined?", self.determined),
            ("Can one annotator have judged?", self.one_annotator),
            ("How strong is the evidence?", self.evidence),
            ("What can comparisons not tell?", self.unknowable),
        ]


def diagnose(
    graph: Comparisons, model: PBDE, options: Options, verdict: GoodnessOfFit | None, untested: str = ""
) -> Diagnosis:
    """The four answers. verdict None: not tested, for the reason `untested`. Raises as `fit` does, except that an
    undetermined optimum is an answer."""
    labels = graph.labels or tuple(map(str, range(graph.n)))
    fitted: Fit | None = None
    try:
        fitted = fit(graph, model, options)
        determined = _determined(graph, fitted, options, labels)
    except NotIdentifiableError:
        determined = _undetermined(graph, labels)
    except NoFiniteFitError as error:
        determined = f"No: {error}."
    return Diagnosis(
        determined,
        _one_annotator(verdict, untested),
        _evidence(graph, fitted, verdict, labels),
        _unknowable(fitted, model, labels),
        fitted is not None,
        None if verdict is None or np.isnan(verdict.p_value) else verdict.p_value >= LEVEL,
    )


def _determined(graph: Comparisons, fitted: Fit, options: Options, labels: Sequence[str]) -> str:
    counted = f"({np.asarray(graph.weight).sum():g} comparisons of {graph.n} items)"
    text = f"Yes: every item wins against every other, directly or through others {counted}."
    if len(strong_components(check_wins(graph.wins()))) > 1:
        text = (
            f"Only with the ghost item (prior {options.prior:g}): the comparisons alone do not link all items by "
            f"wins in both directions, and how far apart the groups are is the prior's choice {counted}."
        )
    if fitted.omega_covariance is None:
        return text + " How well was not computed: above 5,000 items the covariance is too large an array."
    ends = (int(np.argmin(fitted.se_log_p)), int(np.argmax(fitted.se_log_p)))
    best, least = (_factor(fitted.se_log_p[k], shortened(labels[k], 29)) for k in ends)
    return f"{text} Densities are known within {best} to {least}, 95 % intervals."


def _factor(error: float, label: str) -> str:
    nats = NORMAL_95 * error
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


def _one_annotator(verdict: GoodnessOfFit | None, untested: str) -> str:
    same = "The answer is the same for every PBDE, whatever f and g: see the last question."
    if verdict is None:
        return f"Not tested: {untested}. {same}"
    if np.isnan(verdict.p_value):
        return f"It cannot be tested: {untestable(verdict)}. {same}"
    by = "the chi-squared law"
    if verdict.replicates:
        by = f"a bootstrap of {verdict.replicates}, in which one annotator shows {verdict.expected:.1f}"
    numbers = f"G2 = {verdict.statistic:.1f} on {verdict.df} degrees of freedom, p = {verdict.p_value:.3g} by {by}"
    if verdict.p_value >= LEVEL:
        return f"Yes, as far as these data can tell ({numbers}). {same}"
    return f"No, at the 5 % level ({numbers}): the win rates of pairs contradict every single omega. {same}"


def _evidence(graph: Comparisons, fitted: Fit | None, verdict: GoodnessOfFit | None, labels: Sequence[str]) -> str:
    sentences = []
    if fitted is not None:
        coin = np.log(0.5)
        if graph.ties == 0 and fitted.saturated > coin + 1e-9:
            share = (fitted.log_likelihood - coin) / (fitted.saturated - coin)
            sentences.append(
                f"The fit explains {share:z.0%} of what a probability of its own for every pair could."
            )
    if verdict is None or np.isnan(verdict.p_value):
        return " ".join([*sentences, "Against one annotator there is none, for there is no test."])
    words = ((0.001, "very strong"), (0.01, "strong"), (0.05, "moderate"), (0.1, "weak"), (np.inf, "no"))
    word = next(word for limit, word in words if verdict.p_value < limit)
    sentences.append(
        f"There is {word} evidence against one annotator: beyond noise it misses about "
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


def _unknowable(fitted: Fit | None, model: PBDE, labels: Sequence[str]) -> str:
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
    return text + (
        " Nor can they tell one annotator from groups whose disagreements cancel: two equally large groups with "
        "opposite tastes look like one that tosses coins. Several comparisons by each annotator could."
    )
