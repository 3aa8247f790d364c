"""Sentences that the models write, and what each of them thinks of those: drawn and judged a part at a time."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from accel.buffers import flat_of
from accel.checkpoint import fingerprint
from accel.minimize import host
from accel.ops import Params
from accel.progress import progress_bar
from accel.sampling import sample
from accel.transformer import log_likelihood
from lm.corpora.grammar import EOS, Tokens, sentence_lengths
from lm.corpora.token_store import ids_dtype
from lm.pretrain import pretrained
from lm.run import ANNOTATORS, MODELS, Arrays, Experiment
from lm.streams import Purpose

PART = 4096  # sentences in a file: what a killed run loses at most
AT_ONCE = 1024  # sentences that are drawn together: memory for their keys and values is what it costs


@dataclass(frozen=True, eq=False)
class Written:
    """tokens (N, T). draws: how many were drawn for them, 0 where not known; the others had no end in T tokens."""

    tokens: Tokens
    draws: int

    @property
    def lengths(self) -> Tokens:
        """(N,): |x|, EOS included."""
        return sentence_lengths(self.tokens)

    def first(self, count: int) -> Written:
        """The first `count` of them."""
        return Written(self.tokens[:count], 0)

    def length_law(self) -> NDArray[np.float64]:
        """(T + 1,): the share of each length."""
        counts = np.bincount(self.lengths, minlength=self.tokens.shape[1] + 1)
        return np.asarray(counts / len(self.tokens))


def written(experiment: Experiment, params: Params, name: str, count: int, stream: int) -> Written:
    """`count` sentences of the model with these parameters, as in sec. 5.2: T = 1, unfinished ones drawn again.

    stream: numbers the purpose, so that no two share random numbers.
    """
    model, config = fingerprint(host(flat_of(params))), experiment.config

    def part_of(part: int, size: int) -> Arrays:
        def draw() -> Arrays:
            rng = experiment.rng(Purpose.WRITING, stream, part)
            found = sample(
                experiment.ops, params, config, size, rng, config.max_len, eos=EOS, batch=AT_ONCE, progress=True
            )
            return {"tokens": found.tokens.astype(ids_dtype(config.vocab_size)), "draws": np.array(found.draws)}

        return experiment.kept(f"sentences/{name}-{part:02d}", {"model": model, "size": size}, draw)

    parts = [part_of(part, size) for part, size in enumerate(_sizes(count))]
    tokens = np.concatenate([part["tokens"] for part in parts]).astype(np.int64)
    return Written(tokens, sum(int(part["draws"]) for part in parts))


def judged(experiment: Experiment, model: str, of: Written, name: str) -> NDArray[np.float64]:
    """(N,): the log-likelihoods of sentences under a pretrained model, in nats."""
    params = pretrained(experiment, model)
    judge, found, start = fingerprint(host(flat_of(params))), [], 0
    sizes = _sizes(len(of.tokens))
    for part, size in enumerate(progress_bar(sizes, desc=f"judging by the {model} model", shown=len(sizes) > 1)):
        tokens = of.tokens[start : start + size]
        start += size

        def judge_part(tokens: Tokens = tokens) -> Arrays:
            return {"log_p": host(log_likelihood(experiment.ops, params, tokens, experiment.config))}

        made_of = {"model": judge, "tokens": fingerprint(tokens)}
        found.append(experiment.kept(f"sentences/{name}-{part:02d}-{model}", made_of, judge_part)["log_p"])
    return np.concatenate(found)


def _sizes(count: int) -> list[int]:
    """count as parts of at most PART."""
    return [min(PART, count - start) for start in range(0, count, PART)]


def of_model(experiment: Experiment, model: str) -> Written:
    """What a pretrained model writes: the sentences of Figure 6 (left) and of Table 2."""
    count = experiment.preset.samples
    return written(experiment, pretrained(experiment, model), model, count, MODELS.index(model))


@dataclass(frozen=True, eq=False)
class Pairs:
    """Sentences 2 i and 2 i + 1 of `whole` are pair i; log_ps: of all of them, by annotator."""

    sentences: Written
    log_ps: dict[str, NDArray[np.float64]]


def preference_pairs(experiment: Experiment) -> Pairs:
    """The pairs to adapt on, and behind them those held out, with what both annotators think of them."""
    preset = experiment.preset
    count = 2 * (preset.pairs + preset.held_out * (len(preset.courses) > 1))
    found = written(experiment, pretrained(experiment, "whole"), "pairs", count, len(MODELS))
    return Pairs(found, {name: judged(experiment, name, found, "pairs") for name in ANNOTATORS})


def discarded(sentences: Written) -> float:
    """The share of draws that had no end, and were drawn again."""
    return 1 - len(sentences.tokens) / sentences.draws if sentences.draws else math.nan
