"""The compiled sampler against the plain one, token by token, and what it promises."""

from __future__ import annotations

from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from accel import numba_sampling
from accel.ops import Ops
from accel.ops_numba import NumbaOps
from accel.sampling import draw_by_token, sample
from accel.transformer import TransformerConfig, log_likelihood, transformer_init
from tests import checks

PLAIN, FAST = Ops(), NumbaOps(2)
EOS = 2
Array = NDArray[Any]
quick = settings(max_examples=20)
seeds = st.integers(0, 2**32 - 1)


def model(seed: int, config: TransformerConfig, dtype: str) -> dict[str, Array]:
    """Parameters under which sentences end at many lengths."""
    rng = np.random.default_rng(seed)
    params = transformer_init(rng, config, dtype)
    for name, value in params.items():
        if not name.endswith("/kernel"):
            value += (0.3 * rng.standard_normal(value.shape)).astype(dtype)
    params["decoder/logitdense/bias"][EOS] += 1.0
    return params


@st.composite
def configs(draw: st.DrawFn) -> TransformerConfig:
    """Sizes that the compiled sampler takes: whole and broken panels of places, channels and vocabulary."""
    heads = draw(st.sampled_from([1, 2, 3]))
    return TransformerConfig(
        vocab_size=draw(st.sampled_from([3, 5, 16, 33])),
        emb_dim=draw(st.sampled_from([16, 32, 48])),
        num_heads=heads,
        num_layers=draw(st.integers(1, 2)),
        qkv_dim=heads * draw(st.sampled_from([16, 32, 48])),
        mlp_dim=draw(st.sampled_from([16, 64, 80])),
        max_len=draw(st.sampled_from([1, 7, 16, 33, 40])),
    )


@quick
@given(seed=seeds, config=configs(), size=st.sampled_from([1, 2, 11, 25, 60]), threads=st.integers(1, 3))
def test_the_same_numbers_give_the_same_sequences(
    seed: int, config: TransformerConfig, size: int, threads: int
) -> None:
    """In float64, however many at a time: more sequences than slots, or fewer."""
    params, uniform = model(seed, config, "float64"), np.random.default_rng(seed).random((size, config.max_len))
    with patch.object(numba_sampling, "MOST", 2 * numba_sampling.TILE):
        drawn = NumbaOps(threads).draw_sequences(params, config, uniform, EOS)
    assert drawn is not None
    tokens, log_p, ended = draw_by_token(PLAIN, params, config, uniform, EOS)
    np.testing.assert_array_equal(drawn[0], tokens)
    np.testing.assert_array_equal(drawn[2], ended)
    checks.assert_close(drawn[1], log_p, checks.BACKENDS)


@quick
@given(seed=seeds, config=configs())
def test_log_likelihood_in_float32(seed: int, config: TransformerConfig) -> None:
    """Of what was drawn, by the relative rule. (Padding, which `sample` throws away, cannot be drawn here.)"""
    params, uniform = model(seed, config, "float32"), np.random.default_rng(seed).random((40, config.max_len))
    params["decoder/logitdense/bias"][0] = -1e4
    drawn = FAST.draw_sequences(params, config, uniform, EOS)
    assert drawn is not None
    doubles = {name: value.astype(np.float64) for name, value in params.items()}
    plain, exact = (log_likelihood(PLAIN, given, drawn[0], config) for given in (params, doubles))
    checks.assert_float32(drawn[1], plain, exact, 1 + np.abs(exact).max())


SIZES = TransformerConfig(40, 32, 2, 2, 64, 64, 24)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_company_does_not_change_a_bit(dtype: str) -> None:
    """Nor do threads, slots and a second run: a sequence hangs on its own numbers."""
    params, uniform = model(0, SIZES, dtype), np.random.default_rng(1).random((200, 24))
    expected = FAST.draw_sequences(params, SIZES, uniform, EOS)
    assert expected is not None
    assert 20 < np.count_nonzero(expected[2]) < 200  # some end, some do not, and slots change hands
    runs = [NumbaOps(threads).draw_sequences(params, SIZES, uniform, EOS) for threads in (1, 2, 5)]
    with patch.object(numba_sampling, "MOST", 2 * numba_sampling.TILE):
        runs.append(FAST.draw_sequences(params, SIZES, uniform, EOS))
    parts = [FAST.draw_sequences(params, SIZES, part, EOS) for part in (uniform[:7], uniform[7:])]
    runs.append(tuple(np.concatenate(both) for both in zip(*parts, strict=True)))  # type: ignore[arg-type]
    for run in runs:
        assert run is not None
        for found, right in zip(run, expected, strict=True):
            np.testing.assert_array_equal(found, right)


def test_a_model_of_nan_ends_with_an_error() -> None:
    params = model(0, SIZES, "float32")
    params["decoder/logitdense/kernel"][...] = np.nan
    with pytest.raises(RuntimeError, match="must end with token 2 within 24, got 0 of"):
        sample(FAST, params, SIZES, 5, np.random.default_rng(0), 24)


@pytest.mark.parametrize("size", [{"emb_dim": 20}, {"mlp_dim": 20}, {"qkv_dim": 40}])
def test_other_sizes_go_token_by_token(size: dict[str, int]) -> None:
    config = TransformerConfig(**{"vocab_size": 9, "emb_dim": 16, "num_heads": 2, "num_layers": 1, **size})
    params = model(0, config, "float64")
    assert FAST.draw_sequences(params, config, np.zeros((1, 1)), EOS) is None
    drawn, expected = (sample(ops, params, config, 9, np.random.default_rng(0), 6) for ops in (FAST, PLAIN))
    np.testing.assert_array_equal(drawn.tokens, expected.tokens)


def test_large_kernels_go_token_by_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("accel.ops_numba_sequence.LARGEST", 100)
    assert FAST.draw_sequences(model(0, SIZES, "float32"), SIZES, np.zeros((1, 1)), EOS) is None


def test_slots_are_as_many_as_stay_in_cache() -> None:
    """Whole tiles of rows, two at least."""
    assert numba_sampling.slots(1) == numba_sampling.MOST
    assert numba_sampling.slots(numba_sampling.CACHE // 20) == 18
    assert numba_sampling.slots(numba_sampling.CACHE) == 12
