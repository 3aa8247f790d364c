"""Figures 1, 3, 4, 5 and 8 without training: what each objective's optimum is, exactly."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from figures import style
from figures.numbers import Array, Numbers, Panel, Settings, peaks
from reference import PBDE, Annotator, optimum, targets, win_matrix
from reference.univariate import Toy

BETAS = (1, 4, 16)  # Figure 3
ALPHAS = (Fraction(1), Fraction(1, 4), Fraction(1, 16))  # Figure 8
PLACES = (-2.5, -1.5, 0.0, 2.5)  # where the fit of Figure 5 is quoted
PAIRS = ((-2.5, 2.5), (8.0, -8.0), (-8.0, 8.0))  # x_A, x_B: inside the plateaus of Figure 4
NEAR_HALF = 0.15  # preferences this near 1/2 are counted


def compute(settings: Settings) -> Numbers:
    """The exact curves and maps on the grid of reference.univariate; under a second.

    Curves are log densities (n,), maps preference probabilities (n, n). The proposal matters to the
    misspecified fit alone: every other optimum is the same for all of them.
    """
    toy = Toy()
    x, measure = toy.x, toy.measure
    chosen = settings.proposal or "pretrained"
    proposal = toy.mass(toy.log_p_pre) if chosen == "pretrained" else toy.uniform_proposal
    first, second = (np.asarray(annotator.log_p) for annotator in toy.population.annotators)
    arrays = {"x": x, "measure": measure, "proposal": proposal, "pretrained": toy.log_p_pre}
    arrays |= {"annotator": np.asarray(toy.annotator.log_p), "annotator_1": first, "annotator_2": second}
    fit = optimum(win_matrix(toy.population.preference_prob(), proposal), PBDE.luce(), measure)
    fitted = {f"p({place:g})": float(np.exp(fit.log_p[_nearest(x, place)])) for place in PLACES}
    fitted |= {"KL": fit.divergence, "loss": fit.loss}
    panels = []
    for figure, panel, equation, array, log_p in _curves(toy, fit.log_p):
        arrays[array] = log_p
        panels.append(Panel.of_curve(figure, panel, equation, array, x, log_p, fitted if figure == "5" else {}))
    for name, equation, prob in _maps(toy, fit.log_p):
        arrays[f"figure_4_{name}"] = prob
        values = {f"P({a:g}, {b:g})": float(prob[_nearest(x, a), _nearest(x, b)]) for a, b in PAIRS}
        near_half = np.abs(prob - 0.5) < NEAR_HALF
        values[f"share |P - 1/2| < {NEAR_HALF}"] = float(proposal @ near_half @ proposal)
        panels.append(Panel("4", name, equation, f"figure_4_{name}", values=values))
    return Numbers("targets", {"proposal": chosen, "grid_points": toy.n}, panels, arrays)


def _curves(toy: Toy, fit: Array) -> Iterator[tuple[str, str, str, str, Array]]:
    """figure, panel, equation, the array's name and log density (n,) of every exact target, as they are drawn."""
    log_p, pre, measure = np.asarray(toy.annotator.log_p), toy.log_p_pre, toy.measure
    yield "1", "reward", "Th. 1", "figure_1", targets.recovered(toy.annotator, PBDE.luce())
    for beta in BETAS:
        exact = targets.product_of_experts(log_p, pre, beta, measure)
        yield "3", f"beta = {beta}", "Eq. 17", f"figure_3_beta_{beta}", exact
    yield "5", "misspecified fit", "Eq. 8", "figure_5", fit
    for alpha in ALPHAS:
        exact = targets.geometric_mean(log_p, pre, float(alpha), measure)
        yield "8", f"alpha = {alpha}", "Eq. 19", f"figure_8_alpha_1_{alpha.denominator}", exact


def _maps(toy: Toy, fit: Array) -> Iterator[tuple[str, str, Array]]:
    """name, equation and preference probabilities (n, n) of the three maps of Figure 4."""
    yield "single", "Eq. 20", toy.annotator.preference_prob()
    yield "population", "Eq. 21", toy.population.preference_prob()
    yield "fit", "Eq. 8", Annotator(fit, PBDE.luce(), toy.measure).preference_prob()


def _nearest(x: Array, place: float) -> int:
    return int(np.argmin(np.abs(x - place)))


TITLES = {
    "figure_1": r"Figure 1:  reward, $e^{\,r} \propto p^{*}$",
    **{f"figure_3_beta_{beta}": rf"Figure 3:  DPO, $\beta = {beta}$" for beta in BETAS},
    **{f"figure_8_alpha_1_{a.denominator}": rf"Figure 8:  geometric, $\alpha = {a}$" for a in ALPHAS},
    "figure_5": "Figure 5:  misspecified fit",
    "figure_4_single": "Figure 4:  single annotator",
    "figure_4_population": "Figure 4:  two annotators",
    "figure_4_fit": "Figure 4:  misspecified fit",
}
KEY = {
    "annotator": r"annotator, $p^{*}$ or $p_1^{*}$",
    "second annotator": r"annotator 2, $p_2^{*}$",
    "pretrained": r"pretrained, $\pi_{\mathrm{pre}}$",
    "target": "exact target",
}
FIGURE_5 = {"annotator": "annotator_1", "second annotator": "annotator_2"}
Q = {"pretrained": r"q = \pi_{\mathrm{pre}}", "uniform": r"q\ \mathrm{uniform}"}


def draw(numbers: Numbers) -> Figure:
    """Three rows: Figures 1 and 3, Figures 5 and 8, and Figure 4 with the key to all of them."""
    figure = style.new_figure(11.0, 7.8)
    grid = figure.subplots(3, 4)
    q = Q[str(numbers.settings["proposal"])]
    for panel, axes in zip(numbers.panels, grid.flat, strict=False):
        of_fit = panel.array in ("figure_5", "figure_4_fit")
        axes.set_title(TITLES[panel.array] + (f", ${q}$" if of_fit else ""), loc="left")
        first_of_row = axes in grid[:, 0]
        if panel.figure == "4":
            image = style.heat_map(axes, numbers.arrays["x"], numbers.arrays[panel.array], first_of_row)
            for (x_a, x_b), prob in zip(PAIRS, panel.values.values(), strict=False):
                style.mark_value(axes, x_a, x_b, prob)
        else:
            _draw_curves(axes, panel, numbers.arrays)
            style.density_axes(axes, first_of_row)
    style.key(grid[-1, -1], KEY, image)
    return figure


def _draw_curves(axes: Axes, panel: Panel, arrays: dict[str, Array]) -> None:
    shown = {"annotator": "annotator"} if panel.figure != "5" else FIGURE_5
    for role, array in shown.items():
        style.curve(axes, arrays["x"], arrays[array], role)
    if panel.figure != "1":
        style.curve(axes, arrays["x"], arrays["pretrained"], "pretrained")
    style.curve(axes, arrays["x"], arrays[panel.array], "target")
    if panel.figure == "5":
        for role, array in FIGURE_5.items():
            style.mark_peaks(axes, peaks(arrays["x"], arrays[array]), role)
    style.mark_peaks(axes, panel.peaks, "target")
