"""What a figure computes before anything is drawn: panels (JSON), arrays (npz), and the files that keep them."""

from __future__ import annotations

import json
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from accel.checkpoint import check_numbers, fingerprint, whole_file
from reference.command_line.report import json_line

Array = NDArray[np.float64]
FLAT = 1e-9  # nats: neighbours that differ by less are equally high
PEAK_POINTS = 1024  # of a grid, among which peaks are looked for
Proposal = Literal["pretrained", "uniform"]
PresetName = Literal["quick", "paper", "notebook"]


@dataclass(frozen=True)
class Settings:
    """What a user may choose.

    proposal: where both sides of a comparison are drawn from, independently; None: the figure's or the preset's
    own. preset, ops, seed: of trained figures. infinite: train on all pairs with their probabilities in place of a
    sample. steps: in place of the preset's. folder: where runs are kept, None: nowhere. ValueError where a value
    is not one of these.
    """

    proposal: Proposal | None = None
    preset: PresetName = "quick"
    ops: str = "numba"
    seed: int = 0
    infinite: bool = False
    steps: int | None = None
    folder: Path | None = None

    def __post_init__(self) -> None:
        if self.proposal not in (None, *get_args(Proposal)):
            raise ValueError(f"proposal must be one of {', '.join(get_args(Proposal))}, got {self.proposal!r}")
        if self.preset not in get_args(PresetName):
            raise ValueError(f"preset must be one of {', '.join(get_args(PresetName))}, got {self.preset!r}")
        if self.seed < 0:
            raise ValueError(f"seed must be >= 0, got {self.seed}")
        if self.steps is not None and self.steps < 1:
            raise ValueError(f"steps must be >= 1, got {self.steps}")


@dataclass(frozen=True)
class Extremum:
    """A local maximum or minimum of a density: its place and the density there."""

    x: float
    height: float


@dataclass(frozen=True)
class Panel:
    """One panel of one of the paper's figures, in numbers.

    figure: the paper's number. panel: which of its panels. equation: what the curve or map shows. array: its
    name among the arrays. peaks, dips: of a curve, from left to right. values: whatever else it is known by.
    Of trained panels, tv: total variation, and kl: KL(target || trained) in nats, to the exact target, None where
    the minimiser is not unique; seconds of training.
    """

    figure: str
    panel: str
    equation: str
    array: str
    peaks: list[Extremum] = field(default_factory=list)
    dips: list[Extremum] = field(default_factory=list)
    values: dict[str, float] = field(default_factory=dict)
    tv: float | None = None
    kl: float | None = None
    seconds: float | None = None

    def trained(self, tv: float | None, kl: float | None, seconds: float, **values: float) -> Panel:
        """The same panel with what training adds to it."""
        return replace(self, tv=tv, kl=kl, seconds=seconds, values={**self.values, **values})

    @classmethod
    def of_curve(
        cls, figure: str, panel: str, equation: str, array: str, x: Array, log_p: Array, values: dict[str, float]
    ) -> Panel:
        """The panel of the curve log_p (n,) over the grid x (n,), with its peaks and dips."""
        return cls(figure, panel, equation, array, peaks(x, log_p), dips(x, log_p), values)

    @classmethod
    def from_json(cls, entry: dict[str, Any]) -> Panel:
        """The inverse of dataclasses.asdict."""
        found = {name: [Extremum(**point) for point in entry[name]] for name in ("peaks", "dips")}
        return cls(**{**entry, **found})


@dataclass(frozen=True, eq=False)
class Numbers:
    """All numbers of the figure `name`; a picture is a function of them alone."""

    name: str
    settings: dict[str, str | int | float]
    panels: list[Panel]
    arrays: dict[str, Array]


def peaks(x: Array, log_p: Array) -> list[Extremum]:
    """The local maxima inside an evenly spaced grid: x and log_p of shape (n,).

    Each is the top of the parabola through log p at the highest grid point and its two neighbours: exact for
    a normal density, where the grid point alone is off by up to half a step. A plateau of three points or more is
    one maximum, at its middle. Of grids finer than PEAK_POINTS so many are looked at: between nearer points a
    curve rises by less than the rounding of a trained one.
    """
    stride = max(1, len(x) // PEAK_POINTS)
    x, log_p = x[::stride], log_p[::stride]
    step = np.diff(log_p)
    turns = np.flatnonzero(np.abs(step) > FLAT)  # where the curve rises or falls
    tops = np.flatnonzero((step[turns][:-1] > 0) & (step[turns][1:] < 0))
    return [_top(x, log_p, start + 1, end) for start, end in zip(turns[tops], turns[tops + 1], strict=True)]


def _top(x: Array, log_p: Array, first: int, last: int) -> Extremum:
    """The maximum at the points first..last, which are equally high."""
    if last - first > 1:
        return Extremum(float(x[first] + x[last]) / 2, float(np.exp(log_p[first])))
    left, middle, right = log_p[first - 1 : first + 2]
    rise, bend = (right - left) / 2, left - 2 * middle + right
    place = x[first] - rise / bend * (x[1] - x[0])
    return Extremum(float(place), float(np.exp(middle - rise**2 / bend / 2)))


def dips(x: Array, log_p: Array) -> list[Extremum]:
    """The local minima, found as the peaks of 1 / p."""
    return [Extremum(point.x, 1 / point.height) for point in peaks(x, -log_p)]


def save(numbers: Numbers, folder: Path) -> None:
    """NAME.json, which a person can read, and NAME.npz, the arrays; OSError where they cannot be written."""
    check_numbers(numbers.arrays)
    arrays: dict[str, Any] = dict(numbers.arrays)
    with whole_file(folder / f"{numbers.name}.npz") as file:
        np.savez_compressed(file, **arrays)
    entry = {
        "name": numbers.name,
        "settings": numbers.settings,
        "panels": [asdict(panel) for panel in numbers.panels],
        "arrays": {key: list(array.shape) for key, array in numbers.arrays.items()},
        "fingerprint": fingerprint(numbers.arrays),  # a run killed between the files leaves those of two runs
    }
    with whole_file(folder / f"{numbers.name}.json") as file:
        file.write((json_line(entry, indent=1) + "\n").encode())


def load(name: str, folder: Path) -> Numbers:
    """What `save` wrote; ValueError where it is not there or cannot be read, naming the file."""
    path = folder / f"{name}.json"
    try:
        entry = json.loads(path.read_text(encoding="utf-8"))
        panels = [Panel.from_json(panel) for panel in entry["panels"]]
        path = folder / f"{name}.npz"
        with path.open("rb") as file, np.load(file) as stored:
            arrays = {key: stored[key] for key in entry["arrays"]}
        if fingerprint(arrays) != entry["fingerprint"]:
            raise ValueError("arrays of another run")
        return Numbers(entry["name"], entry["settings"], panels, arrays)
    except FileNotFoundError:
        raise ValueError(f"there are no numbers at {path}; run without --redraw to compute them") from None
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile, zlib.error):
        raise ValueError(f"cannot read {path}; run without --redraw to compute it again") from None


@contextmanager
def read_from(path: Path, cure: str) -> Iterator[None]:
    """What goes wrong in the block, with numbers read from path, becomes ValueError: one line with the cure."""
    try:
        yield
    except Exception as error:
        told = " ".join(f"{type(error).__name__}: {error}".split())
        raise ValueError(f"cannot draw from {path} ({told}); {cure}") from error
