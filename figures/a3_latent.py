"""Appendix A.3: two latent annotators, by the marginal likelihood, and by EM where comparisons say who judged.

The paper gives no settings for A.3. At the notebook's learning rate, from two almost equal networks, 8,192 steps
end before the narrow mode has risen: .41 to .48 over seeds 0 to 3, its own run .39, the truth .638. At Table 1's
rate, from random networks as Figure 1, the same loss comes nearer.
"""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
from matplotlib.figure import Figure
from scipy.special import rel_entr

from accel.em import annotator_types
from accel.models import MLP, LatentMixture
from accel.objectives import latent_mixture
from accel.streams import stream
from figures import style
from figures.curves import caption, trained_name
from figures.density_experiment import PRESETS, Problem, distances_to, draw_different
from figures.numbers import Array, Numbers, Panel, Settings, peaks
from figures.streams import Purpose
from reference.annotators import Indices
from reference.pbde import normalize

CELLS, SEEDS = 41, 8  # EM sees which of 41 equal cells a point is in; means are over 8 samples
RIDGE, ROUGHNESS = 0.01, 0.1  # of EM: enough for cells that were hardly ever compared
RATE, TABLE_1_RATE = (PRESETS[name].learning_rate for name in ("notebook", "paper"))  # in every preset
NOISE = 1e-4  # deviation that tells the components apart at the start, as in the notebook


def trained(problem: Problem, table_1: bool = False) -> tuple[list[Panel], dict[str, Array]]:
    """The mixture trained by the marginal likelihood: panels and log densities (n,) of marginal and components.

    From the pretrained network, twice, at the notebook's rate; table_1: from random ones at Table 1's.
    """
    toy, rng = problem.toy, stream(problem.settings.seed, Purpose.LATENT)
    model = LatentMixture(MLP(toy.x), 2)
    initial = model.init(rng) if table_1 else model.init_near(problem.pretrained.params, rng, NOISE)
    objective = latent_mixture(problem.pairs(toy.population))
    config = replace(problem.config, learning_rate=TABLE_1_RATE if table_1 else RATE)
    result = problem.run(model, objective, config, "figure 11 latent", initial)
    first, second = (normalize(np.asarray(r, dtype=np.float64), toy.measure) for r in result.values.r)
    w = np.exp(normalize(np.asarray(result.values.prior_logits, dtype=np.float64)))
    if toy.x @ (toy.measure * np.exp(first)) > toy.x @ (toy.measure * np.exp(second)):
        first, second, w = second, first, w[::-1]  # labels may swap: the left one is annotator 1's
    learned = {"latent": result.log_p(toy.measure), "latent_1": first, "latent_2": second}
    truths = [np.asarray(annotator.log_p) for annotator in toy.population.annotators]
    wanted = {"latent": np.asarray(toy.annotator.log_p), "latent_1": truths[0], "latent_2": truths[1]}
    arrays, panels = dict(learned), []
    for (array, log_p), name in zip(learned.items(), ("marginal", "component 1", "component 2"), strict=True):
        values = {"weight": float(w[int(array[-1]) - 1])} if array != "latent" else {}
        panel = Panel.of_curve("11", name, "A.3", array, toy.x, log_p, values)
        distances = distances_to(wanted[array], log_p, toy.measure)
        panels.append(panel.trained(*distances, seconds=result.seconds, loss=result.loss))
        arrays[f"{array}_target"] = wanted[array]
    return panels, arrays


def judged(problem: Problem, each: int, rng: np.random.Generator) -> tuple[Indices, Indices, Array, Indices]:
    """x_a, x_b, y and annotator, (N,): comparisons of grid points, `each` by every annotator, of one type each."""
    population = problem.toy.population
    count = problem.preset.comparisons // each
    x_a, x_b = draw_different(problem.q, count * each, rng)
    who = np.repeat(np.arange(count), each)
    kind = rng.choice(len(population.annotators), size=count, p=np.asarray(population.weights))[who]
    y = np.stack([annotator.sample(x_a, x_b, rng) for annotator in population.annotators])
    return x_a, x_b, np.take_along_axis(y, kind[None], axis=0)[0].astype(np.float64), who


def by_cells(problem: Problem, each: int, seed: int) -> tuple[Array, Array, float]:
    """Masses (2, 41) of the two types that EM finds on 41 equal cells, their truths, and the seconds it took.

    Types are named so that both are nearest to their truths: labels may swap.
    """
    toy, rng = problem.toy, stream(problem.settings.seed, Purpose.ANNOTATORS, each, seed)
    cell = np.minimum(((toy.x + 10) / 20 * CELLS).astype(np.intp), CELLS - 1)
    masses = [np.exp(np.asarray(annotator.log_p)) * toy.measure for annotator in toy.population.annotators]
    truth = np.stack([np.bincount(cell, mass, CELLS) for mass in masses]).astype(np.float64)
    x_a, x_b, y, who = judged(problem, each, rng)
    apart = cell[x_a] != cell[x_b]
    start = time.perf_counter()
    found = annotator_types(
        cell[x_a][apart],
        cell[x_b][apart],
        y[apart],
        who[apart],
        CELLS,
        ridge=RIDGE,
        roughness=ROUGHNESS,
        seed=seed,
    )
    seconds = time.perf_counter() - start
    learned = np.exp(found.log_p())
    named = min((learned, learned[::-1]), key=lambda masses: float(np.abs(masses - truth).sum()))
    return named, truth, seconds


def expectation_maximisation(problem: Problem) -> tuple[list[Panel], dict[str, Array]]:
    """EM for one and for two comparisons an annotator, over eight seeds: panels, and the masses of the first."""
    panels, arrays = [], {}
    for each in (1, 2):
        runs = [by_cells(problem, each, seed) for seed in range(SEEDS)]
        tv = np.array([0.5 * np.abs(learned - truth).sum(axis=1) for learned, truth, _ in runs])
        arrays[f"em_{each}"], arrays["cell_truth"] = runs[0][:2]
        weights = np.asarray(problem.toy.population.weights)
        mixed = [(weights @ learned, weights @ truth) for learned, truth, _ in runs]
        marginal = [0.5 * float(np.abs(learned - truth).sum()) for learned, truth in mixed]
        kl = float(np.mean([rel_entr(truth, learned).sum() for learned, truth in mixed]))
        panel = Panel("11", f"EM, {each} by each annotator", "A.3", f"em_{each}")
        values = {"narrow TV": float(tv[:, 0].mean()), "wide TV": float(tv[:, 1].mean())}
        values |= {"worst narrow TV": float(tv[:, 0].max()), "seeds": float(SEEDS)}
        seconds = sum(seconds for *_, seconds in runs)
        panels.append(replace(panel, tv=float(np.mean(marginal)), kl=kl, seconds=seconds, values=values))
    return panels, arrays


def compute(settings: Settings) -> Numbers:
    """The mixture; EM over seeds, for one and two comparisons an annotator; the mixture as Table 1 trains.

    Arrays: log densities (n,), and masses of cells. The proposal is the pretrained density, as in the notebook,
    unless another is asked for.
    """
    problem = Problem(replace(settings, proposal=settings.proposal or "pretrained"))
    panels, arrays = trained(problem)
    arrays |= {"x": problem.toy.x, "measure": problem.toy.measure, "pretrained": problem.toy.log_p_pre}
    more, masses = expectation_maximisation(problem)
    (marginal, *_), again = trained(problem, table_1=True)
    arrays |= masses | {"latent_table_1": again["latent"], "latent_table_1_target": again["latent_target"]}
    panels += [*more, replace(marginal, panel="marginal, as Table 1", array="latent_table_1")]
    return Numbers("latent", problem.describe() | {"learning_rate": RATE}, panels, arrays)


def draw(numbers: Numbers) -> Figure:
    """Marginal and components beside their truths; below, EM on cells, and the marginal as Table 1 trains."""
    figure = style.new_figure(11.0, 6.4)
    grid = figure.subplots(2, 3)
    x, arrays = numbers.arrays["x"], numbers.arrays
    of_mixture = [*numbers.panels[:3], numbers.panels[-1]]
    for axes, panel in zip((*grid[0], grid[1, 2]), of_mixture, strict=True):
        style.curve(axes, x, arrays[f"{panel.array}_target"], "target")
        style.curve(axes, x, arrays[panel.array], "trained")
        style.mark_peaks(axes, panel.peaks, "trained")
        style.mark_peaks(axes, peaks(x, arrays[f"{panel.array}_target"]), "target")
        axes.set_title(f"A.3:  {panel.panel}", loc="left")
        style.density_axes(axes, labelled=axes is grid[0, 0])
        style.legend(axes, {"trained": trained_name(panel), "target": "truth"})
    width = 20 / CELLS
    centres = -10 + width * (np.arange(CELLS) + 0.5)
    for axes, panel in zip(grid[1], numbers.panels[3:5], strict=False):
        for learned, truth in zip(arrays[panel.array], arrays["cell_truth"], strict=True):
            for mass, role in ((truth, "target"), (learned, "trained")):
                axes.step(centres, mass / width, where="mid", **style.CURVES[role])
        axes.set_title(f"{panel.panel}, on {CELLS} cells (seed 0 of {panel.values['seeds']:.0f})", loc="left")
        style.density_axes(axes, labelled=axes is grid[1, 0])
        named = f"mean TV {panel.values['narrow TV']:.3f}, {panel.values['wide TV']:.3f}"
        style.legend(axes, {"trained": named, "target": "truth"})
    figure.suptitle(caption(numbers), fontsize=8, x=0.01, ha="left")
    return figure
