"""Table 2 of the paper: how often synthetic annotators prefer short sentences to long ones, by Eq. 9 and 12."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from lm.exact_optima import log_density, sentence_cells
from lm.generate import judged, of_model
from lm.preferences import PAIRS, RULES, table_2
from lm.pretrain import corpus_of
from lm.run import MODELS, Experiment

BUCKETS = 96  # of per-token likelihood at each length: the table moves by less than 1e-4 from 48 on


@dataclass(frozen=True)
class Row:
    """P(S > M), P(S > L), P(M > L) of one annotator by one rule: the trained model's, and the exact ones."""

    annotator: str
    rule: str
    trained: dict[str, float]
    exact: dict[str, float] | None


def table2(experiment: Experiment) -> Iterator[Row]:
    """A row for each model and rule, over what `whole` writes; exact ones over the law of the corpus."""
    sentences = of_model(experiment, "whole").first(experiment.preset.judged)
    grammar = experiment.corpora.grammar
    cells = None if grammar is None else sentence_cells(grammar, experiment.corpora.max_length, BUCKETS)
    for model in MODELS:
        log_p = judged(experiment, model, sentences, "whole")
        law = corpus_of(experiment, model).exact
        for rule in RULES:
            trained = table_2(rule.omega(log_p, sentences.lengths), sentences.lengths)
            exact = None
            if cells is not None and law is not None:
                omega = rule.omega(log_density(cells, law), cells.lengths)
                exact = _named(table_2(omega, cells.lengths, cells.mass))
            yield Row(model, rule.name, _named(trained), exact)


def _named(values: object) -> dict[str, float]:
    return {f"P({a}>{b})": float(value) for (a, b), value in zip(PAIRS, values, strict=True)}  # type: ignore[call-overload]
