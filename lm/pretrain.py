"""The three language models, and how far they are from the exact laws."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import cache

import numpy as np

from accel.adam import Adam
from accel.buffers import Array
from accel.minimize import Config, host
from accel.ops import Params
from accel.transformer import cross_entropy_step, log_likelihood
from accel.transformer_params import transformer_init
from lm.corpora.corpus import Corpus
from lm.corpora.grammar import Tokens, sentence_lengths
from lm.run import MODELS, Experiment, batch_of
from lm.streams import Purpose


def corpus_of(experiment: Experiment, model: str) -> Corpus:
    """What the model of that name is trained on."""
    found: Corpus = getattr(experiment.corpora, model)
    return found


def pretrained(experiment: Experiment, model: str) -> Params:
    """The parameters of whole, short or long, trained by maximum likelihood; trained once, then read."""
    preset, index = experiment.preset.pretraining, MODELS.index(model)
    seed = experiment.settings.seed

    @cache
    def sentences() -> Tokens:
        return corpus_of(experiment, model).sample(preset.sentences, experiment.rng(Purpose.SENTENCES, index))

    def gradient(params: Params, step: int) -> tuple[Array, Array]:
        batch = sentences()[batch_of(len(sentences()), preset.batch, step, seed)]
        return cross_entropy_step(experiment.ops, params, batch, experiment.config)

    first = transformer_init(experiment.rng(Purpose.PARAMETERS, index), experiment.config)
    # fmt: off
    config = Config(preset.steps, preset.learning_rate, seed=seed, adam=Adam(b2=preset.b2), log_every=16,
                    checkpoint_every=256)
    # fmt: on
    made_of = {"model": model, **asdict(preset)}
    return experiment.minimized(f"models/{model}", made_of, gradient, first, config, f"pretraining {model}")


@dataclass(frozen=True)
class Distance:
    """How well a model knows its corpus, by `sentences` that it was not trained on.

    nats: -log p a sentence, mean; nats_per_token: the same a token. kl: KL(exact law || model) in nats a sentence
    with its standard error, where the law is known.
    """

    model: str
    sentences: int
    nats: float
    nats_per_token: float
    kl: float | None
    kl_error: float | None


def distance(experiment: Experiment, model: str) -> Distance:
    """Measured on held-out sentences: for the grammar, exact samples."""
    corpus = corpus_of(experiment, model)
    tokens = corpus.held_out(experiment.preset.exact)
    log_p = host(log_likelihood(experiment.ops, pretrained(experiment, model), tokens, experiment.config))
    nats, count = -float(log_p.mean()), int(sentence_lengths(tokens).sum())
    kl = error = None
    if corpus.exact is not None:
        difference = corpus.exact.log_prob(tokens) - log_p
        kl, error = float(difference.mean()), float(difference.std(ddof=1) / np.sqrt(len(tokens)))
    return Distance(model, len(tokens), nats, nats * len(tokens) / count, kl, error)
