"""How every figure looks: the paper's colours and dashes, its x range, its axis labels, small PNG files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Literal

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke

from figures.numbers import Array, Extremum
from figures.png import encode

Place = Literal["upper right", "lower center"]  # of a legend

DPI = 150
X_RANGE = (-10.0, 10.0)
LOW, APART = 0.03, 1.5  # peaks are marked from this height on, and this far from a higher one
TOP = 0.72  # of every density axis: the same scale in all panels
LEVELS = 51  # colours of a heat map, centred on 0, 0.02, ..., 1
INK = "#262626"

CURVES: dict[str, dict[str, Any]] = {
    "annotator": {"color": "#1f77b4", "linestyle": (0, (3.2, 1.3)), "linewidth": 1.9},
    "second annotator": {"color": "#e377c2", "linestyle": (0, (4, 1.3, 1, 1.3)), "linewidth": 1.7},
    "pretrained": {"color": "#ff7f0e", "linestyle": (0, (1, 1.3)), "linewidth": 1.6},
    "trained": {"color": "#2ca02c", "linestyle": "-", "linewidth": 1.8},
    "unnormalised": {"color": "#98d098", "linestyle": "-", "linewidth": 1.4},
    "target": {"color": "#d62728", "linestyle": (0, (7, 1.6, 1.4, 1.6)), "linewidth": 1.3},
}
OUTLINE = [withStroke(linewidth=2.6, foreground="white")]  # of numbers that stand on curves
# light green to dark blue, like the map of the paper's Figure 4
PROBABILITIES = LinearSegmentedColormap.from_list(
    "probabilities", ["#a9d18f", "#75b68c", "#4a9b8e", "#2b7f8f", "#1e618c", "#24427f", "#2c2f6e"], N=LEVELS
)

_PARAMETERS: Any = {
    "font.family": "DejaVu Sans",
    "mathtext.fontset": "cm",
    "font.size": 8.5,
    "axes.titlesize": 9.5,
    "axes.labelsize": 10,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.major.width": 0.7,
    "ytick.major.width": 0.7,
    "xtick.major.size": 3,
    "ytick.major.size": 3,
    "legend.frameon": False,
}


def applied() -> AbstractContextManager[None]:
    """A context in which figures are made AND written: matplotlib looks its settings up at both times."""
    return matplotlib.rc_context(_PARAMETERS)


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of width x height inches, without any global state."""
    return Figure(figsize=(width, height), dpi=DPI, layout="constrained")


def png(figure: Figure) -> bytes:
    """The picture as a PNG file; the same figure always gives the same bytes."""
    canvas: Any = FigureCanvasAgg(figure)
    canvas.draw()
    return encode(np.asarray(canvas.buffer_rgba())[..., :3], DPI)


def curve(axes: Axes, x: Array, log_p: Array, role: str) -> None:
    """The density exp(log_p) over x, both (n,), in the colour and dashes of its role in the paper."""
    axes.plot(x, np.exp(log_p), **CURVES[role])


def mark_peaks(axes: Axes, peaks: Sequence[Extremum], role: str) -> None:
    """The height of each peak, written over it, or at its left side with an arrow where it leaves the axes.

    Of trained curves under it, or at its right side: a target's stands beside it.
    Ripples are not marked: peaks lower than LOW, and those beside a higher one.
    """
    marked: list[Extremum] = []
    for peak in sorted(peaks, key=lambda peak: -peak.height):
        if peak.height >= LOW and all(abs(peak.x - higher.x) >= APART for higher in marked):
            marked.append(peak)
    for peak in marked:
        leaves, trained = peak.height > TOP, role == "trained"
        beside, above = (5, -2) if trained else (-5, -2), (0, -3) if trained else (0, 2.5)
        axes.annotate(
            f"{peak.height:.3f}".removeprefix("0") + (" \N{UPWARDS ARROW}" if leaves else ""),
            (peak.x, min(peak.height, TOP)),
            xytext=beside if leaves else above,
            textcoords="offset points",
            ha=("left" if trained else "right") if leaves else "center",
            va="top" if leaves or trained else "bottom",
            fontsize=7.5,
            color=CURVES[role]["color"],
            path_effects=OUTLINE,
        )


def mark_value(axes: Axes, x: float, y: float, value: float) -> None:
    """A number between 0 and 1, centred on a place of a heat map."""
    label = f"{value:.2f}" if value >= 0.995 else f"{value:.2f}".removeprefix("0")
    axes.annotate(label, (x, y), ha="center", va="center", fontsize=7.5, path_effects=OUTLINE)


def density_axes(axes: Axes, labelled: bool) -> None:
    """x over the paper's range, densities from 0 to TOP; the density's axis `labelled` once a row."""
    axes.set_xlim(*X_RANGE)
    axes.set_ylim(0, TOP)
    axes.set_xticks([-10, -5, 0, 5, 10])
    axes.set_yticks([0, 0.2, 0.4, 0.6])
    axes.set_xlabel("$x$", labelpad=1)
    axes.set_ylabel("$p(x)$" if labelled else "")


def heat_map(axes: Axes, x: Array, prob: Array, labelled: bool) -> AxesImage:
    """prob (n, n), [i, j] = Prob(x_i preferred to x_j): x_A = x_i to the right, x_B = x_j upwards."""
    edge, half = (x[1] - x[0]) / 2, 0.5 / (LEVELS - 1)
    image = axes.imshow(
        prob.T,
        cmap=PROBABILITIES,
        vmin=-half,
        vmax=1 + half,
        origin="lower",
        extent=(x[0] - edge, x[-1] + edge, x[0] - edge, x[-1] + edge),
    )
    axes.set_xlim(*X_RANGE)
    axes.set_ylim(*X_RANGE)
    axes.set_xticks([-10, -5, 0, 5, 10])
    axes.set_yticks([-10, -5, 0, 5, 10])
    axes.set_xlabel("$x_A$", labelpad=1)
    axes.set_ylabel("$x_B$" if labelled else "", labelpad=-2)
    axes.spines[["top", "right"]].set_visible(True)
    return image


def key(axes: Axes, names: Mapping[str, str], image: AxesImage) -> None:
    """What the lines of each role are called, and the colours of a heat map, in place of a panel."""
    axes.set_axis_off()
    lines = [Line2D([], [], **CURVES[role]) for role in names]
    axes.legend(lines, list(names.values()), loc="upper left", handlelength=3, borderaxespad=0)
    scale = axes.inset_axes((0.04, 0.2, 0.92, 0.07))
    bar = axes.figure.colorbar(image, cax=scale, orientation="horizontal", ticks=[0, 0.2, 0.4, 0.6, 0.8, 1])
    bar.outline.set_linewidth(0.7)
    scale.set_title(r"$\mathrm{Prob}(x_A \succ x_B)$")


def legend(axes: Axes, names: Mapping[str, str], place: Place = "upper right") -> None:
    """What each role's line is called, in a small legend where it hides least."""
    lines = [Line2D([], [], **CURVES[role]) for role in names]
    axes.legend(lines, list(names.values()), loc=place, fontsize=7.5, handlelength=2.6, borderaxespad=0.2)
