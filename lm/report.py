"""What the stages print: tables of at most 100 columns, or the same as JSON lines."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

from accel.checkpoint import save
from lm.adapt import MIXTURES, adapted
from lm.corpora.tilted import shares
from lm.figure6 import (
    NUMBERS,
    Array,
    Lengths,
    adapted_lengths,
    claims,
    half_and_half,
    mean_length,
    pretrained_lengths,
    smoothed_modes,
    total_variation,
)
from lm.generate import discarded, of_model
from lm.preferences import EQUATIONS, PAIRS
from lm.pretrain import corpus_of, distance
from lm.run import MODELS, Experiment
from lm.table2 import table2

EXAMPLES = 2  # sentences shown of each model


@dataclass(frozen=True)
class Line:
    """One line of a table, and what --json prints of it: a dict, or None for headings."""

    text: str
    values: dict[str, Any] | None = None
    failed: bool = field(default=False)


def pretrain_lines(experiment: Experiment) -> Iterator[Line]:
    """The three models and their distance to the exact laws."""
    yield Line(f"{'model':<8}{'held out':>9}{'nats a token':>14}{'nats a sentence':>17}   KL(exact law || model)")
    for model in MODELS:
        found = distance(experiment, model)
        kl = "the law is not known" if found.kl is None else f"{found.kl:.3f} +- {found.kl_error:.3f}"
        numbers = f"{found.sentences:>9,}{found.nats_per_token:>14.4f}{found.nats:>17.3f}"
        yield Line(f"{model:<8}{numbers}   {kl}", {"stage": "pretrain", **asdict(found)})
    law = corpus_of(experiment, "whole").exact
    if law is not None:
        mean, deviation = law.token_moments()
        text = f"exact whole: log p of a token has mean {mean:.3f} and standard deviation {deviation:.3f} nats"
        yield Line(text, {"stage": "pretrain", "token_log_p_mean": mean, "token_log_p_sd": deviation})


def sample_lines(experiment: Experiment) -> Iterator[Line]:
    """What each model writes."""
    yield Line(f"{'model':<8}{'written':>9}{'no end':>8}{'mean |x|':>10}   examples")
    for model in MODELS:
        found = of_model(experiment, model)
        examples = [experiment.corpora.decode(row) for row in found.tokens[:EXAMPLES]]
        lost, mean = discarded(found), mean_length(found.length_law())
        values = {"model": model, "written": len(found.tokens), "discarded": lost, "mean_length": mean}
        text = f"{model:<8}{len(found.tokens):>9,}{lost:>8.2%}{mean:>10.2f}   {_cut(examples[0], 61)}"
        yield Line(text, {"stage": "sample", **values, "examples": examples})
        yield from (Line(f"{'':<38}{_cut(example, 61)}") for example in examples[1:])


def table2_lines(experiment: Experiment) -> Iterator[Line]:
    """Table 2, trained and exact."""
    heads = [f"P({a}>{b})" for a, b in PAIRS]
    exact_heads = "".join(f"{head:>9}" for head in heads)
    yield Line(f"{'annotator':<11}{'rule':<13}{exact_heads}   exactly:{exact_heads}")
    for row in table2(experiment):
        trained = "".join(f"{row.trained[head]:>9.4f}" for head in heads)
        exact = "" if row.exact is None else "".join(f"{row.exact[head]:>9.4f}" for head in heads)
        text = f"{row.annotator:<11}{row.rule:<13}{trained}   {'':<8}{exact}".rstrip()
        yield Line(text, {"stage": "table2", **asdict(row)})


def adapt_lines(experiment: Experiment) -> Iterator[Line]:
    """How `whole` was adapted: the loss on held-out pairs by course."""
    yield Line("preference loss on held-out pairs, nats a pair, by times through the pairs x learning rate")
    for scale in scales(experiment):
        for mixture in MIXTURES:
            found = adapted(experiment, mixture, scale)
            tried = [
                f"{course.epochs} x {course.learning_rate:g}: {loss:.4f}{'*' if course == found.course else ''}"
                for course, loss in found.losses.items()
            ]
            told = f"before: {found.before:.4f}   " + "   ".join(tried) if tried else "one course, not chosen"
            values = {
                "mixture": mixture,
                "scale": scale,
                "before": found.before,
                "courses": [{**asdict(course), "loss": loss} for course, loss in found.losses.items()],
                "chosen": asdict(found.course),
            }
            text = f"{EQUATIONS[mixture]} {mixture:<10} scale {scale:<4g} {told}"
            yield Line(text, {"stage": "adapt", **values})


def figure6_lines(experiment: Experiment) -> Iterator[Line]:
    """Figure 6 in numbers, kept for its picture; and what section 5.2 says of it."""
    head = f"{'mean':>6}{'<= 20':>8}{'21-29':>8}{'>= 30':>8}   {'modes':<18}"
    yield Line(f"{'':<22}{head}TV to: exact  short + long")
    before = pretrained_lengths(experiment)
    yield from (_lengths_line(found, None) for found in before)
    after: list[Lengths] = []
    for scale in scales(experiment):
        for found in adapted_lengths(experiment, scale):
            after.append(found)
            yield _lengths_line(found, half_and_half(before))
            if found.exact is not None:
                yield Line(f"{'  its exact optimum':<22}{_numbers(found.exact)}")
    _keep(experiment, before + after)
    if experiment.corpora.grammar is not None:
        at_scale = [found for found in after if found.scale == experiment.preset.scale]
        for claim in claims(before, at_scale):
            text = f"{claim.text}  {'holds' if claim.holds else 'FAILS'}"
            yield Line(text, {"stage": "figure6", **asdict(claim)}, failed=not claim.holds)
    yield Line(f"picture: python -m figures lengths {experiment.settings.folder}")


def _keep(experiment: Experiment, found: list[Lengths]) -> None:
    """The length laws in one file: NAME, or NAME xSCALE, and "... exact"."""
    arrays, preset = {}, experiment.preset
    for law in found:
        name = law.name if law.scale is None else f"{law.name} x{law.scale:g}"
        arrays[name] = law.trained
        if law.exact is not None:
            arrays[f"{name} exact"] = law.exact
    about = {"preset": preset.name, "corpus": experiment.corpora.name, "seed": experiment.settings.seed}
    save(experiment.settings.folder / NUMBERS, arrays, {**about, "scale": preset.scale, "samples": preset.samples})


def scales(experiment: Experiment) -> tuple[float, ...]:
    """Of the choice rule: the preset's, which is the authors' code's, and 1, which is Eq. 12's."""
    return (experiment.preset.scale, 1.0)


def _lengths_line(found: Lengths, mixed: Array | None) -> Line:
    name = found.name if found.scale is None else f"{EQUATIONS[found.name]} {found.name} x{found.scale:g}"
    exact = None if found.exact is None else total_variation(found.trained, found.exact)
    half = None if mixed is None else total_variation(found.trained, mixed)
    distances = "".join(" " * 11 if tv is None else f"{tv:>11.4f}" for tv in (exact, half))
    values = {"model": found.name, "scale": found.scale, **_described(found.trained)}
    values |= {"tv_exact": exact, "tv_short_and_long": half}
    values["exact"] = None if found.exact is None else _described(found.exact)
    return Line(f"{name:<22}{_numbers(found.trained)}{distances}", {"stage": "figure6", **values})


def _described(law: Array) -> dict[str, Any]:
    """A length law in numbers: its mean, shares of S, M and L, and modes, smoothed over 5 tokens."""
    parts = [float(share) for share in shares(law)]
    return {"mean": mean_length(law), "shares": parts, "modes": smoothed_modes(law)}


def _numbers(law: Array) -> str:
    told = _described(law)
    where = _cut(", ".join(map(str, told["modes"])), 15)
    return f"{told['mean']:>6.2f}" + "".join(f"{share:>8.4f}" for share in told["shares"]) + f"   {where:<15}"


def _cut(text: str, width: int) -> str:
    """At most so many characters, with dots where something is left out."""
    return text if len(text) <= width else text[: width - 3] + "..."


STAGES: dict[str, Callable[[Experiment], Iterator[Line]]] = {
    "pretrain": pretrain_lines,
    "sample": sample_lines,
    "table2": table2_lines,
    "adapt": adapt_lines,
    "figure6": figure6_lines,
}
