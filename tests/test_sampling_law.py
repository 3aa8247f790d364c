"""What `sample` returns, against exact probabilities: by a chi-squared test whose own size and power are tested.

A model of five tokens writes 121 sentences of at most five; their probabilities come from `log_likelihood`, which
does not draw. Lengths, first tokens and the likeliest whole sentences are counted over many small samples, for a
large one hardly ever has more sequences in its last batch than it needs, and those are where a choice could be
made that the sequences themselves decide. How many are drawn for one sample is negative binomial.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from accel import buffers, sampling
from accel.ops import Ops
from accel.sampling import Samples, sample
from accel.transformer import log_likelihood
from accel.transformer_params import TransformerConfig
from tests import backends, checks
from tests.mutants import ROOT
from tests.mutants_table import MUTANTS
from tests.test_sampling import model

Array = NDArray[np.float64]
EOS, PLACES, WORDS = 2, 5, (1, 3, 4)
CONFIG = TransformerConfig(5, 16, 1, 1, 16, 16, PLACES)
PARAMS = model(2, CONFIG, "float64")
COUNT, BATCH = 6, 16  # sentences a sample, and sequences drawn together: up to 16 for the last one
LEAST = 10.0  # expected in a cell, neighbours together: the statistic's law is then that of chi-squared
WHOLE = 12  # of the likeliest sentences are cells of their own


def sentences() -> NDArray[np.int64]:
    """(121, PLACES): every sentence that ends in time."""
    walks = [walk for length in range(PLACES) for walk in itertools.product(WORDS, repeat=length)]
    return np.array([[*walk, EOS, *[0] * (PLACES - 1 - len(walk))] for walk in walks])


@dataclass(frozen=True, eq=False)
class Exact:
    """mass: the probability that a sequence ends in time, without padding. prob (121,): given that it does."""

    tokens: NDArray[np.int64]
    mass: float
    prob: Array

    @property
    def lengths(self) -> NDArray[np.int64]:
        return np.asarray(np.count_nonzero(self.tokens, axis=1))


def exact() -> Exact:
    tokens = sentences()
    prob = np.exp(log_likelihood(Ops(), PARAMS, tokens, CONFIG))
    return Exact(tokens, float(prob.sum()), prob / prob.sum())


EXACT = exact()


def chi_squared(observed: NDArray[Any], expected: NDArray[Any]) -> float:
    """The p-value of counts against what is expected of them: neighbours are one cell until it expects LEAST."""
    cells, room = [np.zeros(2)], float(expected.sum())
    for pair in zip(observed, expected, strict=True):
        if cells[-1][1] >= LEAST and room >= LEAST:
            cells.append(np.zeros(2))
        cells[-1] += pair
        room -= pair[1]
    assert len(cells) > 1
    return float(stats.chisquare(*np.array(cells).T).pvalue)


def p_values(found: list[Samples]) -> dict[str, float]:
    """Of samples of COUNT sentences each: lengths, first tokens, whole sentences, and how many were drawn."""
    tokens = np.concatenate([part.tokens for part in found])
    lengths = np.concatenate([part.lengths for part in found])

    def counts(values: NDArray[Any], exactly: NDArray[Any], size: int) -> float:
        expected = len(tokens) * np.bincount(exactly, EXACT.prob, size)
        return chi_squared(np.bincount(values, minlength=size), expected)

    which = np.argsort(-EXACT.prob)[:WHOLE]
    rank = {EXACT.tokens[i].tobytes(): k for k, i in enumerate(which)}
    number = np.array([rank.get(row.tobytes(), WHOLE) for row in np.ascontiguousarray(tokens, np.int64)])
    exactly = np.array([rank.get(row.tobytes(), WHOLE) for row in EXACT.tokens])
    thrown = np.bincount([max(part.draws - COUNT, 0) for part in found])
    failures = stats.nbinom(COUNT, EXACT.mass).pmf(np.arange(max(len(thrown), 60)))
    thrown = np.pad(thrown, (0, len(failures) - len(thrown)))
    return {
        "lengths": counts(lengths, EXACT.lengths, PLACES + 1),
        "first tokens": counts(tokens[:, 0], EXACT.tokens[:, 0], CONFIG.vocab_size),
        "sentences": counts(number, exactly, WHOLE + 1),
        "draws": chi_squared(np.append(thrown, 0.0), len(found) * np.append(failures, 1 - failures.sum())),
    }


@pytest.mark.parametrize(
    ("name", "samples"),
    [("numpy", 800), ("numba", 800), ("shim", 100), pytest.param("cupy", 300, marks=pytest.mark.gpu)],
)
def test_samples_follow_the_exact_law(name: str, samples: int) -> None:
    """On every backend: at the level CHANCE / 4, four tests of one set of samples."""
    ops, rng = backends.ops_of(name, in_turn=True), np.random.default_rng(11)
    params = buffers.flatten(PARAMS, ops.xp)[1]
    found = [sample(ops, params, CONFIG, COUNT, rng, PLACES, batch=BATCH) for _ in range(samples)]
    for what, p in p_values(found).items():
        assert p > checks.CHANCE / 4, (what, p)


def test_those_that_end_are_kept_in_the_order_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first `count` of all that were drawn and ended, and draws is the number of the last of them."""
    plain, drawn = sampling.draw, []

    def recording(*arguments: Any) -> Any:
        drawn.append(plain(*arguments))
        return drawn[-1]

    monkeypatch.setattr(sampling, "draw", recording)
    for seed in range(20):
        drawn.clear()
        found = sample(Ops(), PARAMS, CONFIG, COUNT, np.random.default_rng(seed), PLACES, batch=BATCH)
        tokens, log_p, ended = (np.concatenate(part) for part in zip(*drawn, strict=True))
        first = np.flatnonzero(ended)[:COUNT]
        np.testing.assert_array_equal(found.tokens, tokens[first])
        np.testing.assert_array_equal(found.log_likelihood, log_p[first])
        assert found.draws == first[-1] + 1


# ----- The test itself -----


def imitation(
    _ops: Any, _params: Any, _config: Any, size: int, rng: np.random.Generator, *_: Any
) -> sampling.Drawn:
    """`draw`, by the exact law in place of the model: so fast that the test itself can be looked at often."""
    prob = np.append(EXACT.mass * EXACT.prob, 1 - EXACT.mass)
    which = rng.choice(len(prob), size, p=prob / prob.sum())
    unfinished = np.full((1, PLACES), WORDS[0])
    tokens = np.concatenate([EXACT.tokens, unfinished])[which]
    return tokens, np.zeros(size), which < len(EXACT.prob)


def imitated(text: str) -> Callable[..., Samples]:
    """`sample` of another text of accel/sampling.py, with draws by the exact law."""
    names = dict(vars(sampling))
    exec(compile(text, "accel/sampling.py", "exec"), names)
    names |= {"draw": imitation, "check_params": lambda *_: None}
    found: Callable[..., Samples] = names["sample"]
    return found


def rejected(text: str, seeds: int, samples: int, level: float) -> dict[str, float]:
    """The share of seeds at which each test rejects `sample` of that text."""
    function, found = imitated(text), []
    for seed in range(seeds):
        rng = np.random.default_rng((77, seed, 1))
        found.append(
            p_values([function(None, None, CONFIG, COUNT, rng, PLACES, batch=BATCH) for _ in range(samples)])
        )
    return {what: sum(p[what] < level for p in found) / seeds for what in found[0]}


def of_table(name: str) -> str:
    return next(mutant for mutant in MUTANTS if mutant.name == name).text()


def test_size() -> None:
    """At the level of 10 % about 10 % of right samples are rejected: within 3.3 standard errors."""
    seeds, level = 200, 0.1
    for what, share in rejected((ROOT / "accel" / "sampling.py").read_text(), seeds, 100, level).items():
        assert abs(share - level) < 3.3 * np.sqrt(level * (1 - level) / seeds), (what, share)


@pytest.mark.parametrize(
    ("name", "seen"),
    [
        ("sample: the shortest of a batch", ["lengths", "sentences"]),
        ("sample: the last of a batch", ["draws"]),
        ("sample: draws of whole batches", ["draws"]),
    ],
)
def test_power(name: str, seen: list[str]) -> None:
    """The mutants are rejected at the level of the test above, at each of ten seeds, by 800 samples.

    The last sequences of a batch are distributed as the first are: only how many were drawn gives them away.
    """
    shares = rejected(of_table(name), 10, 800, checks.CHANCE / 4)
    assert all(shares[what] == 1.0 for what in seen), shares
