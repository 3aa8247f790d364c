"""Figure 4: who is preferred to whom, by one annotator, by two, and by the two models fitted to those."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from matplotlib.figure import Figure
from scipy.special import expit

from figures import style
from figures.a3_latent import RATE, trained
from figures.curves import caption
from figures.density_experiment import Problem, exactly
from figures.fig5_misspecified import case, misspecified
from figures.numbers import Array, Numbers, Panel, Settings
from reference.univariate import Toy

MAP_POINTS = 401  # of each side of a map
TITLES = {
    "single": "single annotator",
    "population": "two annotators",
    "misspecified": "one model of the two",
    "latent": "two latent annotators",
}


def preferences(log_p: Array) -> Array:
    """(n,) -> (n, n): Prob(i preferred to j) of a Luce annotator."""
    return np.asarray(expit(log_p[:, None] - log_p[None, :]))


def compute(settings: Settings) -> Numbers:
    """Trains (or takes over) the fits of Figure 5 and appendix A.3; four maps (401, 401) and their errors."""
    problem = Problem(replace(settings, proposal=settings.proposal or "pretrained"))
    grid = Toy(MAP_POINTS)
    panel, one = problem.adapt(case(problem))
    latent_panels, latent = trained(problem)
    on_map = {"misspecified": one, **{key: latent[key] for key in ("latent_1", "latent_2")}}
    on_map = {key: np.interp(grid.x, problem.toy.x, log_p) for key, log_p in on_map.items()}
    weight = latent_panels[1].values["weight"]
    exact_fit = np.interp(grid.x, problem.toy.x, exactly(problem, misspecified))
    population = grid.population.preference_prob()
    maps = {
        "single": (grid.annotator.preference_prob(), None),
        "population": (population, None),
        "misspecified": (preferences(on_map["misspecified"]), preferences(exact_fit)),
        "latent": (
            weight * preferences(on_map["latent_1"]) + (1 - weight) * preferences(on_map["latent_2"]),
            population,
        ),
    }
    q = grid.mass(grid.log_p_pre) if problem.proposal == "pretrained" else grid.uniform_proposal
    panels, arrays = [], {"x": grid.x}
    distances = {"misspecified": (panel.tv, panel.kl), "latent": (latent_panels[0].tv, latent_panels[0].kl)}
    spent = {"misspecified": panel.seconds or 0.0, "latent": latent_panels[0].seconds or 0.0}
    for name, (prob, wanted) in maps.items():
        arrays[f"map_{name}"] = prob
        found = Panel("4", TITLES[name], "Eq. 20, 21", f"map_{name}", values=dict(_places(grid, prob)))
        if wanted is not None:
            error = float(q @ np.abs(prob - wanted) @ q)
            found = found.trained(*distances[name], seconds=spent[name], **{"mean |P - exact|": error})
        panels.append(found)
    return Numbers("heatmap", problem.describe() | {"latent_learning_rate": RATE}, panels, arrays)


def _places(grid: Toy, prob: Array) -> Iterator[tuple[str, float]]:
    """The preferences that the plateaus of Figure 4 are known by."""
    for a, b in ((-2.5, 2.5), (8.0, -8.0), (-8.0, 8.0)):
        i, j = (int(np.argmin(np.abs(grid.x - place))) for place in (a, b))
        yield f"P({a:g}, {b:g})", float(prob[i, j])


def draw(numbers: Numbers) -> Figure:
    """Four maps on one scale."""
    figure = style.new_figure(11.6, 3.4)
    grid = figure.subplots(1, 4)
    for axes, panel in zip(grid, numbers.panels, strict=True):
        image = style.heat_map(axes, numbers.arrays["x"], numbers.arrays[panel.array], labelled=axes is grid[0])
        error = panel.values.get("mean |P - exact|")
        axes.set_title(panel.panel + ("" if error is None else f", error {error:.3f}"), loc="left")
    bar = figure.colorbar(image, ax=list(grid), shrink=0.8, pad=0.01, ticks=[0, 0.2, 0.4, 0.6, 0.8, 1])
    bar.set_label(r"$\mathrm{Prob}(x_A \succ x_B)$")
    figure.suptitle("Figure 4.  " + caption(numbers), fontsize=8, x=0.01, ha="left")
    return figure
