"""`whole`, adapted on preferences of synthetic annotators (sec. 5.2): Eq. 22 and 23, learned as Eq. 12."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from accel.buffers import Array
from accel.checkpoint import fingerprint
from accel.minimize import Config, host
from accel.ops import Params
from accel.transformer import log_likelihood, preference_step
from lm.corpora.grammar import sentence_lengths
from lm.generate import Pairs, preference_pairs
from lm.preferences import LABELS, Rule, preference_loss
from lm.presets import Course
from lm.pretrain import pretrained
from lm.run import Experiment, batch_of
from lm.streams import Purpose

MIXTURES = tuple(LABELS)


@dataclass(frozen=True, eq=False)
class Adapted:
    """An adapted model. losses: of each course, on held-out pairs, nats a pair; `course` has the least.

    before: that of `whole`, which all courses start from. {} and NaN where there was nothing to choose.
    """

    mixture: str
    scale: float
    params: Params
    course: Course
    losses: dict[Course, float]
    before: float


def labels(experiment: Experiment, pairs: Pairs, mixture: str, scale: float) -> NDArray[np.int8]:
    """(N,): who won, for all pairs, those held out too."""
    rng = experiment.rng(Purpose.LABELS, MIXTURES.index(mixture), round(scale))
    return LABELS[mixture](list(pairs.log_ps.values()), pairs.sentences.lengths, scale, rng)


def adapted(experiment: Experiment, mixture: str, scale: float) -> Adapted:
    """By the course with the least loss on held-out pairs. mixture: "annotator" (Eq. 22) or "density" (Eq. 23).

    At other scales than the preset's, by its first course: nothing is chosen there.
    """
    pairs, courses = preference_pairs(experiment), experiment.preset.courses
    courses = courses if scale == experiment.preset.scale else courses[:1]
    y = labels(experiment, pairs, mixture, scale)
    found = {course: _trained(experiment, pairs, y, mixture, scale, course) for course in courses}
    if len(courses) == 1:
        return Adapted(mixture, scale, found[courses[0]], courses[0], {}, float("nan"))

    def loss(params: Params) -> float:
        return held_out_loss(experiment, params, pairs, y, scale)

    losses = {course: loss(params) for course, params in found.items()}
    best = min(losses, key=lambda course: losses[course])
    return Adapted(mixture, scale, found[best], best, losses, loss(pretrained(experiment, "whole")))


def _trained(
    experiment: Experiment, pairs: Pairs, y: NDArray[np.int8], mixture: str, scale: float, course: Course
) -> Params:
    preset, seed = experiment.preset, experiment.settings.seed
    tokens = pairs.sentences.tokens

    def gradient(params: Params, step: int) -> tuple[Array, Array]:
        rows = batch_of(preset.pairs, preset.batch, step, seed)
        return preference_step(
            experiment.ops,
            params,
            tokens[2 * rows],
            tokens[2 * rows + 1],
            y[rows],
            experiment.config,
            scale=scale,
            beta_reg=preset.beta_reg,
        )

    steps = course.epochs * (preset.pairs // preset.batch)
    config = Config(steps, course.learning_rate, preset.schedule, seed=seed, log_every=16, checkpoint_every=128)
    data = fingerprint(tokens, y, scale)
    name = f"{mixture}-x{scale:g}-{course.epochs}-{course.learning_rate:g}"
    made_of = {"pairs": data, "batch": preset.batch, "beta_reg": preset.beta_reg, **asdict(course)}
    label = f"adapting on the {mixture} mixture, {course.epochs} x {course.learning_rate:g}"
    first = pretrained(experiment, "whole")
    return experiment.minimized(f"adapted/{name}", made_of, gradient, first, config, label)


def held_out_loss(
    experiment: Experiment, params: Params, pairs: Pairs, y: NDArray[np.int8], scale: float
) -> float:
    """The loss of Eq. 7 on the pairs behind those adapted on, in nats a pair."""
    count = experiment.preset.pairs
    tokens = pairs.sentences.tokens[2 * count :]
    log_p = host(log_likelihood(experiment.ops, params, tokens, experiment.config))
    omega = Rule("", scale).omega(log_p, sentence_lengths(tokens))
    return preference_loss(omega[0::2] - omega[1::2], y[count:])
