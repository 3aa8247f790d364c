"""Figure 6: lengths of what the language models write, before and after they are adapted (`python -m lm all`)."""

from __future__ import annotations

import zipfile
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from accel.checkpoint import CheckpointError, load
from figures import style
from figures.numbers import Array, Extremum, Numbers, Panel, read_from
from lm.corpora.tilted import LONG, SHORT, modes, moving_average, shares
from lm.figure6 import NUMBERS, total_variation

LEFT = {"whole": "pretrained", "short": "annotator", "long": "second annotator"}
RIGHT = {
    "annotator": ("trained", "annotator mixture, Eq. 22"),
    "density": ("annotator", "density mixture, Eq. 23"),
}


def compute(run: Path) -> Numbers:
    """The length laws (T + 1,) that `python -m lm figure6` left in the folder `run`.

    ValueError where there are none, or something else: `python -m lm all` makes them.
    """
    try:
        arrays, about = load(run / NUMBERS)
    except FileNotFoundError:
        raise ValueError(f"there are no numbers at {run / NUMBERS}; make them with python -m lm all") from None
    except (CheckpointError, zipfile.BadZipFile) as error:
        raise ValueError(str(error)) from None
    with reading(run):
        panels = [_panel(name, law, arrays.get(f"{name} exact")) for name, law in arrays.items() if _trained(name)]
        lengths = np.arange(len(arrays["whole"]), dtype=float)
        return Numbers("lengths", about, panels, {"length": lengths, **arrays})


def reading(run: Path) -> AbstractContextManager[None]:
    """Within it, a file that holds something else is ValueError in one line."""
    return read_from(run / NUMBERS, "make it again with python -m lm figure6")


def _trained(name: str) -> bool:
    return not name.endswith(" exact")


def _panel(name: str, law: Array, exact: Array | None) -> Panel:
    """Peaks of the law smoothed over 5 tokens, shares of S, M and L, total variation to the exact law."""
    smooth = moving_average(law)
    peaks = [Extremum(float(length), float(smooth[length])) for length in modes(smooth)]
    values = dict(zip(("S", "M", "L"), map(float, shares(law)), strict=True))
    tv = None if exact is None else total_variation(law, exact)
    side = "left" if name in LEFT else "right"
    equation = {"annotator": "Eq. 22", "density": "Eq. 23"}.get(name.split()[0], "sec. 5.2")
    return Panel("6", f"{side}: {name}", equation, name, peaks, [], values, tv)


def draw(numbers: Numbers) -> Figure:
    """Two panels: the three models; `whole` adapted at the preset's scale, on its exact optima where known."""
    figure = style.new_figure(8.2, 3.3)
    left, right = figure.subplots(1, 2, sharey=True)
    arrays, scale = numbers.arrays, float(numbers.settings["scale"])
    tv = {panel.array: panel.tv for panel in numbers.panels}
    for name, role in LEFT.items():
        _steps(left, arrays[name], role, _named(name, tv[name]))
        _curve(left, arrays.get(f"{name} exact"))
    for name, (role, label) in RIGHT.items():
        array = f"{name} x{scale:g}"
        _steps(right, arrays[array], role, _named(label, tv[array]))
        _curve(right, arrays.get(f"{array} exact"))
    for axes, title in ((left, "Figure 6, left:  before"), (right, "Figure 6, right:  whole, adapted")):
        axes.set_title(title, loc="left")
        axes.set_xlim(0, len(arrays["length"]) - 1)
        axes.set_ylim(bottom=0)
        axes.set_xlabel(r"$|x|$, tokens", labelpad=1)
        axes.axvspan(SHORT + 0.5, LONG - 0.5, color="#eeeeee", zorder=0)
        if "whole exact" in arrays:
            axes.plot([], [], **style.CURVES["target"], label="exact law")
        axes.legend(fontsize=7.5, loc="upper right", borderaxespad=0.2)
    left.set_ylabel(r"$P(|x|)$")
    told = numbers.settings
    caption = f"preset {told['preset']}, corpus {told['corpus']}, {told['samples']:,} sentences a histogram, "
    figure.suptitle(f"{caption}choice rule times {scale:g}", fontsize=8, x=0.01, ha="left")
    return figure


def _named(label: str, tv: float | None) -> str:
    return label if tv is None else f"{label}, TV {tv:.3f}"


def _steps(axes: Axes, law: Array, role: str, label: str) -> None:
    """A histogram of lengths as steps, lightly filled."""
    color = style.CURVES[role]["color"]
    edges = np.arange(len(law) + 1) - 0.5
    axes.stairs(law, edges, color=color, linewidth=1.4, label=label)
    axes.stairs(law, edges, color=color, alpha=0.12, fill=True)


def _curve(axes: Axes, law: Array | None) -> None:
    if law is not None:
        axes.plot(np.arange(len(law)), law, **style.CURVES["target"])
