"""One run of the experiment: its settings, the folder that keeps what is done, and the models' parameters.

Everything that takes long is kept in files, each written whole or not at all and marked with what it was made of.
A run that is killed goes on where it was, and ends with the same bits.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from accel import buffers, get_ops
from accel.buffers import Array
from accel.checkpoint import check_same_run, fingerprint, load, save
from accel.minimize import Config, Store, minimize
from accel.ops import Ops, Params
from accel.streams import stream
from accel.transformer_params import TransformerConfig, transformer_shapes
from lm.corpora.corpus import GRAMMAR, Corpora, load_corpus
from lm.presets import PRESETS, Preset, PresetName
from lm.streams import Purpose

MODELS = ("whole", "short", "long")
ANNOTATORS = ("short", "long")
Arrays = dict[str, NDArray[Any]]
Gradient = Callable[[Params, int], tuple[Array, Array]]


@dataclass(frozen=True)
class Settings:
    """What a user may choose.

    corpus: "grammar", or a text file or folder. vocab_size, sentencepiece (a model file): of text, None: trained
    on it. folder: where the run is kept. ValueError where a value is out of range.
    """

    folder: Path
    corpus: str = GRAMMAR
    preset: PresetName = "quick"
    ops: str = "numba"
    seed: int = 0
    vocab_size: int | None = None
    sentencepiece: Path | None = None

    def __post_init__(self) -> None:
        if self.preset not in get_args(PresetName):
            raise ValueError(f"preset must be one of {', '.join(get_args(PresetName))}, got {self.preset!r}")
        if self.seed < 0:
            raise ValueError(f"seed must be >= 0, got {self.seed}")
        if self.seed >= 1 << 32:
            raise ValueError(f"seed must be < 2^32, got {self.seed}")


@dataclass(frozen=True)
class Experiment:
    """The experiment under some settings; everything below is computed from these."""

    settings: Settings

    @property
    def preset(self) -> Preset:
        return PRESETS[self.settings.preset]

    @cached_property
    def corpora(self) -> Corpora:
        settings = self.settings
        return load_corpus(
            settings.corpus,
            vocab_size=settings.vocab_size,
            model=settings.sentencepiece,
            cache=settings.folder / "corpus",
            seed=settings.seed,
            progress=True,
        )

    @cached_property
    def ops(self) -> Ops:
        return get_ops(self.settings.ops)

    @cached_property
    def config(self) -> TransformerConfig:
        return self.preset.sizes.config(self.corpora.vocab_size, self.corpora.max_length)

    def rng(self, purpose: Purpose, *numbers: int) -> np.random.Generator:
        """The random numbers of one purpose (a `Purpose` and its numbers); no other has them."""
        return stream(self.settings.seed, purpose, *numbers)

    def kept(self, name: str, made_of: Mapping[str, Any], compute: Callable[[], Arrays]) -> Arrays:
        """The arrays of the file NAME.npz; computed, and written, where it is not there.

        made_of: plain values that decide what is in it. CheckpointError where the file is torn or another run's.
        """
        path, about = self._path(name), {**self._described, **made_of}
        if path.exists():
            arrays, found = load(path)
            check_same_run(path, found, about)
            return arrays
        arrays = compute()
        save(path, arrays, about)
        return arrays

    def minimized(
        self, name: str, made_of: Mapping[str, Any], gradient: Gradient, first: Params, config: Config, label: str
    ) -> Params:
        """The parameters at the end of a training run from a copy of `first`; ended once, they are read.

        gradient: params, step -> loss, flat gradient. DivergedError and CheckpointError as accel.minimize.
        """
        flat, params = buffers.flatten(first, self.ops.xp, config.dtype)
        start = {"first parameters": fingerprint(flat)}
        store = Store(self._path(name), {**self._described, **made_of, **start})
        minimize(lambda step: gradient(params, step), flat, config, self.ops, store=store, label=label)
        return params

    def views(self, flat: NDArray[Any]) -> Params:
        """The model's parameters as views of a flat buffer."""
        return buffers.views(self.ops.xp.asarray(flat), transformer_shapes(self.config))

    def _path(self, name: str) -> Path:
        return self.settings.folder / f"{name}.npz"

    @cached_property
    def _described(self) -> dict[str, Any]:
        """What every file of the run says of it."""
        corpora, settings = self.corpora, self.settings
        about = {"corpus": corpora.name, "sentences": corpora.about, "seed": settings.seed, "ops": settings.ops}
        return {**about, **corpora.fingerprints, "preset": settings.preset, **asdict(self.config)}


def batch_of(count: int, size: int, step: int, seed: int) -> NDArray[np.intp]:
    """The rows of batch number `step` out of `count`: all come once each time round, in an order of its own.

    What count leaves over when divided by size waits for the next time round.
    """
    size = min(size, count)
    around, at = divmod(step, count // size)
    return _order(count, around, seed)[at * size : (at + 1) * size]


@lru_cache(maxsize=2)
def _order(count: int, around: int, seed: int) -> NDArray[np.intp]:
    return stream(seed, Purpose.ORDER, around).permutation(count)
