"""What the trained figures share: presets, the toy problem on their grid, comparisons, resumable runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from accel import get_ops
from accel.checkpoint import fingerprint
from accel.models import MLP, LatentMixture
from accel.objectives import Objective, Regression
from accel.ops import Ops, Pairs
from accel.streams import stream
from accel.train import Config, Result, train
from figures.numbers import Array, Numbers, Panel, Proposal, Settings
from figures.streams import Purpose
from reference import Annotator, Population
from reference.annotators import Indices
from reference.pbde import normalize
from reference.univariate import Toy

EXACT_POINTS = 1025  # targets that need all pairs of points are computed on at most so many, and interpolated


@dataclass(frozen=True)
class Preset:
    """How a figure is trained. The steps and the learning rate are Table 1's, unless the notebook says otherwise.

    points: of the support, an even grid on [-10, 10]. proposal: where both sides of a comparison come from.
    pretraining (steps, rate) is the notebook's in all presets: the paper gives none.
    """

    name: str
    points: int
    learning_rate: float = 5e-4
    proposal: Proposal = "uniform"
    comparisons: int = 2**15
    steps: int = 8192
    pretraining_steps: int = 4096
    pretraining_rate: float = 1e-3


PRESETS = {
    "quick": Preset("quick", points=2**10),
    "paper": Preset("paper", points=2**16),
    "notebook": Preset("notebook", points=2**16, learning_rate=1e-4, proposal="pretrained"),
}


@dataclass(frozen=True)
class Case:
    """One panel to train: its objective, who judged, its exact target, and where training starts.

    objective: of the pairs. annotator: whose choices these are. target: log density (n,), None where the
    minimiser is not unique. pretrained: start at the pretrained network; else at random.
    """

    figure: str
    panel: str
    equation: str
    array: str
    objective: Callable[[Pairs], Objective]
    annotator: Annotator | Population
    target: Array | None
    pretrained: bool = True
    values: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Problem:
    """The paper's univariate example under some settings; everything below is computed from these."""

    settings: Settings

    @property
    def preset(self) -> Preset:
        return PRESETS[self.settings.preset]

    @property
    def proposal(self) -> Proposal:
        return self.settings.proposal or self.preset.proposal

    @cached_property
    def toy(self) -> Toy:
        return Toy(self.preset.points)

    @cached_property
    def ops(self) -> Ops:
        return get_ops(self.settings.ops)

    @property
    def q(self) -> Array:
        """(n,): the proposal's mass."""
        return proposal_of(self.toy, self.proposal)

    @property
    def config(self) -> Config:
        """How adaptation runs."""
        steps = self.settings.steps or self.preset.steps
        return Config(steps, self.preset.learning_rate, seed=self.settings.seed)

    def describe(self) -> dict[str, str | int | float]:
        """What the numbers' settings say."""
        settings, preset = self.settings, self.preset
        data = "infinite" if settings.infinite else preset.comparisons
        return {
            "preset": preset.name,
            "points": preset.points,
            "comparisons": data,
            "proposal": self.proposal,
            "steps": self.config.steps,
            "learning_rate": preset.learning_rate,
            "ops": settings.ops,
            "seed": settings.seed,
        }

    def pairs(self, annotator: Annotator | Population) -> Pairs:
        """Comparisons of support points: a sample, or all pairs with their probabilities (infinite data)."""
        if self.settings.infinite:
            return self._all_pairs(annotator)
        rng = stream(self.settings.seed, Purpose.PAIRS)
        x_a, x_b = draw_different(self.q, self.preset.comparisons, rng)
        return self.ops.pairs(x_a, x_b, annotator.sample(x_a, x_b, rng), None, self.toy.n)

    def _all_pairs(self, annotator: Annotator | Population) -> Pairs:
        if self.toy.n > 4096:
            raise ValueError(f"infinite data hold all pairs of points: at most 4096 points, got {self.toy.n}")
        x_a, x_b = np.triu_indices(self.toy.n, 1)
        prob = annotator.preference_prob()[x_a, x_b]
        return self.ops.pairs(x_a, x_b, prob, self.q[x_a] * self.q[x_b], self.toy.n)

    @cached_property
    def pretrained(self) -> Result:
        """The network fitted to log N_truncated(0, 5) by regression on the whole grid, as in the notebook.

        Longer where adaptation is asked to be longer than the preset's: its error is part of what is learned.
        """
        longer = max(1.0, self.config.steps / self.preset.steps)
        steps = round(self.preset.pretraining_steps * longer)
        config = Config(steps, self.preset.pretraining_rate, seed=self.settings.seed)
        return self.run(MLP(self.toy.x), Regression(self.toy.log_p_pre), config, "pretraining")

    @cached_property
    def log_p_pre(self) -> Array:
        """(n,): the log density of the pretrained network."""
        return self.pretrained.log_p(self.toy.measure)

    def run(
        self,
        model: MLP | LatentMixture,
        objective: Objective,
        config: Config,
        label: str,
        initial: Mapping[str, Array] | None = None,
    ) -> Result:
        """One training run, kept beside the numbers: the same run is not trained twice, a killed one goes on.

        Its file's name says what is trained and from where: another version that trains otherwise trains anew.
        """
        initial = model.init(stream(config.seed, Purpose.PARAMETERS)) if initial is None else initial
        told = fingerprint(label, self.describe(), config, self.settings.proposal, objective, initial)
        name = f"{label.replace(' ', '-')}-{told}.npz"
        kept = None if self.settings.folder is None else Path(self.settings.folder) / "runs" / name
        return train(model, objective, config, self.ops, initial=initial, checkpoint=kept, label=label)

    def fit(self, case: Case) -> Result:
        """The training run of a case."""
        initial = self.pretrained.params if case.pretrained else None
        label = f"figure {case.figure} {case.array}"
        return self.run(MLP(self.toy.x), case.objective(self.pairs(case.annotator)), self.config, label, initial)

    def adapt(self, case: Case) -> tuple[Panel, Array]:
        """The panel of a case and the log density (n,) that was learned."""
        result = self.fit(case)
        learned = result.log_p(self.toy.measure)
        return self.panel(case, learned, result), learned

    def panel(self, case: Case, learned: Array, result: Result) -> Panel:
        """What a trained density is known by, in numbers."""
        panel = Panel.of_curve(
            case.figure, case.panel, case.equation, case.array, self.toy.x, learned, dict(case.values)
        )
        distances = distances_to(case.target, learned, self.toy.measure)
        return panel.trained(*distances, seconds=result.seconds, loss=result.loss)


def train_cases(name: str, problem: Problem, cases: list[Case]) -> Numbers:
    """Every case trained in turn: the numbers of the figure `name`."""
    toy = problem.toy
    arrays = {"x": toy.x, "measure": toy.measure, "annotator": np.asarray(toy.annotator.log_p)}
    arrays["pretrained"] = toy.log_p_pre
    panels = []
    for case in cases:
        panel, learned = problem.adapt(case)
        panels.append(panel)
        arrays[case.array] = learned
        if case.target is not None:
            arrays[f"{case.array}_target"] = case.target
    return Numbers(name, problem.describe(), panels, arrays)


def distances_to(target: Array | None, learned: Array, measure: Array) -> tuple[float | None, float | None]:
    """Total variation and KL(target || learned), of log densities (n,); None without a target."""
    if target is None:
        return None, None
    p = np.exp(target)
    total_variation = 0.5 * float(measure @ np.abs(p - np.exp(learned)))
    return total_variation, float(measure @ (p * (target - learned)))


def proposal_of(toy: Toy, proposal: Proposal) -> Array:
    """(n,): the mass of a proposal on the toy's grid."""
    return toy.mass(toy.log_p_pre) if proposal == "pretrained" else toy.uniform_proposal


def draw_different(mass: Array, size: int, rng: np.random.Generator) -> tuple[Indices, Indices]:
    """x_a, x_b (size,): independent draws by mass (n,), pairs of a point with itself drawn again."""
    x_a, x_b = np.zeros((2, size), dtype=np.intp)
    again = np.ones(size, dtype=bool)
    cumulative = np.cumsum(mass) / mass.sum()
    while again.any():
        drawn = np.searchsorted(cumulative, rng.random((2, int(again.sum()))), side="right")
        x_a[again], x_b[again] = np.minimum(drawn, len(mass) - 1)
        again = x_a == x_b
    return x_a, x_b


def exactly(problem: Problem, target: Callable[[Toy, Array], Array], points: int = EXACT_POINTS) -> Array:
    """target(toy, proposal) (n,) on the problem's grid; by way of a coarser one where that has too many points."""
    if problem.toy.n <= points:
        return target(problem.toy, problem.q)
    coarse = Toy(points)
    log_p = target(coarse, proposal_of(coarse, problem.proposal))
    return normalize(np.interp(problem.toy.x, coarse.x, log_p), problem.toy.measure)
