"""How every trained figure is drawn: a row of panels, each a trained density over its exact target."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from figures import style
from figures.numbers import Array, Numbers, Panel, peaks

NAMES = {
    "annotator": r"annotator, $p^{*}$",
    "pretrained": r"pretrained, $\pi_{\mathrm{pre}}$",
    "trained": "trained",
    "target": "exact target",
}


def draw_row(
    numbers: Numbers,
    titles: Mapping[str, str],
    shown: Sequence[str] = ("annotator", "pretrained"),
    columns: int = 3,
) -> Figure:
    """One panel a trained density, `columns` a row, titles by array. shown: what stands behind, by its role."""
    count = len(numbers.panels)
    rows = -(-count // columns)
    figure = style.new_figure(3.7 * min(columns, count) + (0.8 if count == 1 else 0), 3.1 * rows + 0.35)
    grid = np.atleast_1d(figure.subplots(rows, min(columns, count), squeeze=False))
    for place, axes in enumerate(grid.flat):
        if place >= count:
            axes.set_axis_off()
            continue
        panel = numbers.panels[place]
        axes.set_title(titles[panel.array], loc="left")
        draw_panel(axes, panel, numbers.arrays, shown)
        style.density_axes(axes, labelled=axes in grid[:, 0])
    figure.suptitle(caption(numbers, narrow=count == 1), fontsize=8, x=0.01, ha="left")
    return figure


def draw_panel(axes: Axes, panel: Panel, arrays: Mapping[str, Array], shown: Sequence[str]) -> None:
    """A trained density on the curves behind it, with its distance to the target in the legend."""
    x = arrays["x"]
    for role in shown:
        style.curve(axes, x, arrays[role], role)
    style.curve(axes, x, arrays[panel.array], "trained")
    names = {role: NAMES[role] for role in shown} | {"trained": trained_name(panel)}
    target = arrays.get(f"{panel.array}_target")
    if target is not None:
        style.curve(axes, x, target, "target")
        style.mark_peaks(axes, peaks(x, target), "target")
        names["target"] = NAMES["target"]
    style.legend(axes, names)


def trained_name(panel: Panel) -> str:
    """What the legend calls a trained density: with its total variation to the exact target."""
    return "trained" if panel.tv is None else f"trained, TV {panel.tv:.3f}"


def caption(numbers: Numbers, narrow: bool = False) -> str:
    """The settings, as the picture tells them: in one line, or in two for a picture of one panel."""
    told = numbers.settings
    data = f"{told['comparisons']} comparisons" if told["comparisons"] != "infinite" else "infinite data"
    rate = f"{told['learning_rate']:g}"
    rate += f" (latent {told['latent_learning_rate']:g})" if "latent_learning_rate" in told else ""
    how = f"{told['steps']} steps, learning rate {rate}, {told['ops']}, seed {told['seed']}"
    what = f"preset {told['preset']}: {data}, q {told['proposal']}, {told['points']} points"
    return f"{what},\n{how}" if narrow else f"{what}, {how}"
