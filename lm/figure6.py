"""Figure 6 of the paper: the lengths that the models write, before and after they are adapted."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lm.adapt import MIXTURES, adapted
from lm.corpora.tilted import LONG, SHORT, modes, moving_average, shares
from lm.exact_optima import Cells, annotator_mixture, density_mixture, sentence_cells
from lm.generate import of_model, written
from lm.preferences import EQUATIONS
from lm.pretrain import corpus_of
from lm.run import ANNOTATORS, MODELS, Experiment
from reference import Optimum

Array = NDArray[np.float64]
OPTIMA = {"annotator": annotator_mixture, "density": density_mixture}
NUMBERS = "figure6.npz"  # in the run's folder: what its picture is drawn from
STREAM = 10  # of random numbers: the adapted models write with it and the following ones


@dataclass(frozen=True, eq=False)
class Lengths:
    """The length law (T + 1,) of what one model writes, and the exact one where it is known.

    name: whole, short, long, or which mixture it was adapted on; scale: of those, of the choice rule.
    """

    name: str
    scale: float | None
    trained: Array
    exact: Array | None


def total_variation(p: Array, q: Array) -> float:
    """Half the sum of |p - q|."""
    return float(0.5 * np.abs(p - q).sum())


def smoothed_modes(law: Array) -> list[int]:
    """Where a length law, smoothed over 5 tokens, has local maxima above a tenth of the highest."""
    return [int(length) for length in modes(moving_average(law))]


def mean_length(law: Array) -> float:
    """Of a length law (T + 1,)."""
    return float(np.arange(len(law)) @ law)


def pretrained_lengths(experiment: Experiment) -> list[Lengths]:
    """Figure 6, left: whole, short, long."""
    found = []
    for model in MODELS:
        law = corpus_of(experiment, model).exact
        trained = of_model(experiment, model).length_law()
        found.append(Lengths(model, None, trained, None if law is None else law.length_law()))
    return found


def adapted_lengths(experiment: Experiment, scale: float) -> Iterator[Lengths]:
    """Figure 6, right: after adaptation on the annotator mixture and on the density mixture."""
    laws = exact_lengths(experiment, scale)
    for index, mixture in enumerate(MIXTURES):
        model, stream = adapted(experiment, mixture, scale), STREAM + 2 * round(scale) + index
        name = f"{mixture}-x{scale:g}"
        trained = written(experiment, model.params, name, experiment.preset.samples, stream).length_law()
        yield Lengths(mixture, scale, trained, laws.get(mixture))


def exact_lengths(experiment: Experiment, scale: float) -> dict[str, Array]:
    """What Eq. 22 and 23 lead to with the exact laws; empty where these are not known."""
    grammar, length = experiment.corpora.grammar, experiment.corpora.max_length
    corpora = tuple(corpus_of(experiment, model).exact for model in ANNOTATORS)
    if grammar is None or None in corpora:
        return {}
    cells = sentence_cells(grammar, length)

    def law(found: Optimum, cells: Cells) -> Array:
        return cells.length_law(found.log_p, length)

    return {name: law(optimum(cells, corpora, scale), cells) for name, optimum in OPTIMA.items()}  # type: ignore[arg-type]


def half_and_half(pretrained: list[Lengths]) -> Array:
    """The mean of the trained annotators' length laws: what Eq. 23 leads to with them, by Theorem 2."""
    return np.asarray(np.mean([p.trained for p in pretrained if p.name in ANNOTATORS], axis=0))


def listed(found: list[int], most: int = 8) -> str:
    """Modes as a line has room for them: at most so many."""
    shown = ", ".join(map(str, found[:most]))
    return f"[{shown}, ...]" if len(found) > most else f"[{shown}]"


@dataclass(frozen=True)
class Claim:
    """Something the paper says of Figure 6 (right), and whether it came out."""

    text: str
    holds: bool


def claims(pretrained: list[Lengths], adapted: list[Lengths]) -> list[Claim]:
    """What section 5.2 concludes: the density mixture is learned, the annotator mixture is not."""
    law = {found.name: found for found in [*pretrained, *adapted]}
    middle = {name: float(shares(found.trained)[1]) for name, found in law.items()}
    density, annotator = (smoothed_modes(law[name].trained) for name in ("density", "annotator"))
    apart = len(density) == 2 and density[0] <= SHORT and density[1] >= LONG
    return [
        Claim(f"{EQUATIONS['density']}: two modes, <= {SHORT} and >= {LONG}: {listed(density)}", apart),
        Claim(
            f"{EQUATIONS['density']}: P(21-29) {middle['density']:.3f}, at most half of whole's "
            f"{middle['whole']:.3f}",
            middle["density"] <= middle["whole"] / 2,
        ),
        Claim(f"{EQUATIONS['annotator']}: one mode: {listed(annotator)}", len(annotator) == 1),
        Claim(
            f"{EQUATIONS['annotator']}: P(21-29) {middle['annotator']:.3f}, more than short's "
            f"{middle['short']:.3f} and long's {middle['long']:.3f}",
            middle["annotator"] > max(middle["short"], middle["long"]),
        ),
    ]
