"""The compiled sampler and the device's against the plain one, token by token, and what they promise."""

from __future__ import annotations

from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from accel import buffers
from accel.cpu import decoder as cpu_decoder
from accel.cpu.ops import NumbaOps
from accel.cuda import decoder
from accel.cuda.decoder import LOOK
from accel.cuda.ops import CupyOps
from accel.minimize import host
from accel.ops import Ops
from accel.sampling import draw, draw_by_token, sample
from accel.transformer import log_likelihood
from accel.transformer_params import TransformerConfig, transformer_init
from tests import backends, checks
from tests.shim import device
from tests.shim.build import compiler
from tests.shim.library import ShimLib

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
    with patch.object(cpu_decoder, "MOST", 2 * cpu_decoder.TILE):
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
    with patch.object(cpu_decoder, "MOST", 2 * cpu_decoder.TILE):
        runs.append(FAST.draw_sequences(params, SIZES, uniform, EOS))
    parts = [FAST.draw_sequences(params, SIZES, part, EOS) for part in (uniform[:7], uniform[7:])]
    runs.append(tuple(np.concatenate(both) for both in zip(*parts, strict=True)))  # type: ignore[arg-type]
    for run in runs:
        assert run is not None
        for found, right in zip(run, expected, strict=True):
            np.testing.assert_array_equal(found, right)


@pytest.mark.parametrize("name", list(model(0, SIZES, "float32")))
def test_a_model_of_nan_ends_with_an_error(name: str) -> None:
    """Wherever it stands: no op makes a number of it."""
    params = model(0, SIZES, "float32")
    params[name][...] = np.nan
    with pytest.raises(RuntimeError, match="must end with token 2 within 24, got 0 of"):
        sample(FAST, params, SIZES, 5, np.random.default_rng(0), 24)


def test_what_is_padded_has_no_weight() -> None:
    """Where all scores, or all logits, are below any number that might stand for nothing."""
    params, uniform = model(0, SIZES, "float64"), np.random.default_rng(2).random((30, 24))
    params["decoder/encoderdecoderblock_0/SelfAttention_0/key/kernel"][...] *= 1e40
    drawn = FAST.draw_sequences(params, SIZES, uniform, EOS)
    assert drawn is not None
    np.testing.assert_array_equal(drawn[0], draw_by_token(PLAIN, params, SIZES, uniform, EOS)[0])
    params["decoder/logitdense/bias"][...] = -1e35
    np.testing.assert_array_equal(
        FAST.draw_sequences(params, SIZES, uniform, EOS)[0],  # type: ignore[index]
        draw_by_token(PLAIN, params, SIZES, uniform, EOS)[0],
    )


def test_a_token_without_weight_is_not_drawn() -> None:
    """By the largest numbers below 1 neither, where two orders of one sum differ by a rounding."""
    rng, v = np.random.default_rng(4), 33
    shapes = ((1920, 16), (16, v), (v,))
    x, kernel, bias = (rng.standard_normal(shape).astype(np.float32) for shape in shapes)
    bias[v - v // 3 :] = -1e4
    token, _ = FAST.next_token(x, kernel, bias, rng.choice([1 - 2.0**-53, 1 - 2.0**-52], len(x)))
    assert token.max() < v - v // 3


def test_any_layout_of_parameters() -> None:
    params, uniform = model(0, SIZES, "float64"), np.random.default_rng(3).random((9, 10))
    turned = {name: np.asfortranarray(value) for name, value in params.items()}
    drawn, expected = (FAST.draw_sequences(given, SIZES, uniform, EOS) for given in (turned, params))
    assert drawn is not None
    assert expected is not None
    np.testing.assert_array_equal(drawn[0], expected[0])


@pytest.mark.parametrize("size", [{"emb_dim": 20}, {"mlp_dim": 20}, {"qkv_dim": 40}])
def test_other_sizes_go_token_by_token(size: dict[str, int]) -> None:
    config = TransformerConfig(**{"vocab_size": 9, "emb_dim": 16, "num_heads": 2, "num_layers": 1, **size})
    params = model(0, config, "float64")
    assert FAST.draw_sequences(params, config, np.zeros((1, 1)), EOS) is None
    drawn, expected = (sample(ops, params, config, 9, np.random.default_rng(0), 6) for ops in (FAST, PLAIN))
    np.testing.assert_array_equal(drawn.tokens, expected.tokens)


def test_large_kernels_go_token_by_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("accel.cpu.sequence_ops.LARGEST", 100)
    assert FAST.draw_sequences(model(0, SIZES, "float32"), SIZES, np.zeros((1, 1)), EOS) is None


def test_slots_are_as_many_as_stay_in_cache() -> None:
    """Whole tiles of rows, two at least."""
    assert cpu_decoder.slots(1) == cpu_decoder.MOST
    assert cpu_decoder.slots(cpu_decoder.CACHE // 20) == 18
    assert cpu_decoder.slots(cpu_decoder.CACHE) == 12


# ----- On a device -----

few = settings(max_examples=10)


@pytest.fixture(scope="module", params=["shim", pytest.param("cupy", marks=pytest.mark.gpu)])
def there(request: pytest.FixtureRequest) -> Ops:
    """Ops on a device's own arrays."""
    return backends.ops_of(request.param, in_turn=True)


def drawn_there(
    there: Ops, params: dict[str, Array], config: TransformerConfig, uniform: Array, eos: int = EOS
) -> Any:
    """What `draw_sequences` gives, on the host."""
    on_device = buffers.flatten(params, there.xp)[1]
    drawn = there.draw_sequences(on_device, config, there.xp.asarray(uniform), eos)
    assert drawn is not None
    return tuple(host(part) for part in drawn)


@few
@given(seed=seeds, rows=st.integers(0, 9), vocab=st.integers(2, 1100))
def test_next_token_of_the_device(there: Ops, seed: int, rows: int, vocab: int) -> None:
    """In float64 the plain token, near 0 and near 1 too; its log-probability by the relative rule in float32."""
    rng = np.random.default_rng(seed)
    x: Array = rng.standard_normal((rows, 4))
    kernel: Array = rng.standard_normal((4, vocab))
    bias: Array = rng.standard_normal(vocab)
    uniform = rng.choice([0.0, 1.0 - 2.0**-53, *rng.random(8)], rows)
    on_device = backends.OnDevice(there)
    found, expected = (ops.next_token(x, kernel, bias, uniform) for ops in (on_device, PLAIN))
    np.testing.assert_array_equal(found[0], expected[0])
    checks.assert_close(np.r_[0.0, found[1]], np.r_[0.0, expected[1]], checks.BACKENDS)
    x, kernel, bias = (value.astype(np.float32) for value in (x, kernel, bias))
    token, log_p = on_device.next_token(x, kernel, bias, uniform)
    plain = PLAIN.token_log_p_forward(x, kernel, bias, token)[0]
    x, kernel, bias = (value.astype(np.float64) for value in (x, kernel, bias))
    exact = PLAIN.token_log_p_forward(x, kernel, bias, token)[0]
    checks.assert_float32(log_p, plain, exact, 1 + np.abs(exact).max(initial=0.0))


@few
@given(seed=seeds, config=configs(), size=st.integers(1, 12), look=st.sampled_from([1, 3, LOOK]))
def test_the_device_draws_the_same_sequences(
    there: Ops, seed: int, config: TransformerConfig, size: int, look: int
) -> None:
    """In float64, however often the host looks and closes up the slots."""
    params, uniform = model(seed, config, "float64"), np.random.default_rng(seed).random((size, config.max_len))
    with patch.object(decoder, "LOOK", look):
        found = drawn_there(there, params, config, uniform)
    tokens, log_p, ended = draw_by_token(PLAIN, params, config, uniform, EOS)
    np.testing.assert_array_equal(found[0], tokens)
    np.testing.assert_array_equal(found[2], ended)
    checks.assert_close(found[1], log_p, checks.BACKENDS)


@few
@given(seed=seeds, config=configs())
def test_log_likelihood_of_the_device_in_float32(there: Ops, seed: int, config: TransformerConfig) -> None:
    """Of what was drawn, by the relative rule."""
    params, uniform = model(seed, config, "float32"), np.random.default_rng(seed).random((9, config.max_len))
    params["decoder/logitdense/bias"][0] = -1e4
    drawn = drawn_there(there, params, config, uniform)
    doubles = {name: value.astype(np.float64) for name, value in params.items()}
    plain, exact = (log_likelihood(PLAIN, given, drawn[0], config) for given in (params, doubles))
    checks.assert_float32(drawn[1], plain, exact, 1 + np.abs(exact).max())


def test_all_backends_draw_the_same_from_one_generator(there: Ops) -> None:
    """Which is asked for one number a draw."""
    params = model(3, SIZES, "float64")
    on_device, results = buffers.flatten(params, there.xp)[1], []
    for ops, values in ((PLAIN, params), (FAST, params), (there, on_device)):
        rng = np.random.default_rng(5)
        results.append((*draw(ops, values, SIZES, 20, rng, 24, EOS), rng.integers(1 << 64, dtype=np.uint64)))
    assert len(np.unique(results[0][0], axis=0)) > 10
    for tokens, log_p, ended, after in results[1:]:
        np.testing.assert_array_equal(tokens, results[0][0])
        checks.assert_close(log_p, results[0][1], checks.BACKENDS)
        np.testing.assert_array_equal(ended, results[0][2])
        assert after == results[0][3]


@pytest.mark.parametrize(("bias", "looks"), [(-1e4, 3), (1e4, 1)])
def test_the_host_looks_once_in_a_while(bias: float, looks: int) -> None:
    """One number in LOOK tokens, until nothing goes on: with no end in 24 tokens, and with one at once."""
    ops, params = backends.ops_of("shim", in_turn=True), model(0, SIZES, "float64")
    params["decoder/logitdense/bias"][[0, EOS]] = -1e4, bias
    on_device, uniform = buffers.flatten(params, ops.xp)[1], ops.uniform(7, 6, 24)
    ops.lib.launched.clear()  # type: ignore[attr-defined]
    device.reads.clear()
    tokens, _, ended = ops.draw_sequences(on_device, SIZES, uniform, EOS)  # type: ignore[misc]
    assert device.reads == ["int"] * looks
    assert sum(name == "draw_token" for name, _ in ops.lib.launched) == looks * LOOK  # type: ignore[attr-defined]
    assert np.count_nonzero(host(tokens)) == (6 if bias > 0 else 6 * 24)
    assert host(ended).all() == (bias > 0)


class Counting(ShimLib):
    """slots: of every token drawn. graphs: whether it can capture."""

    def __init__(self, graphs: bool) -> None:
        super().__init__(backends.shim_folder(), in_turn=True)
        self.graphs, self.slots = graphs, list[int]()

    def launch(self, name: str, variant: str, items: int, *values: Any) -> None:
        if name == "draw_token" and not device.captured:
            self.slots.append(items)
        super().launch(name, variant, items, *values)

    def capture(self, function: Any) -> Any:
        return super().capture(function) if self.graphs else None


def test_slots_of_the_ended_are_closed_up() -> None:
    """At a look where a quarter has ended: later tokens are drawn in fewer slots. Graphs, one for each number of
    slots, give the bits that single launches do."""
    if compiler() is None:
        pytest.skip("no g++: the kernels cannot run on this CPU")
    params, uniform = model(0, SIZES, "float64"), np.random.default_rng(2).random((40, 24))
    libs = [Counting(graphs) for graphs in (True, False)]
    drawn = [drawn_there(CupyOps(device.xp, lib), params, SIZES, uniform) for lib in libs]
    for found, expected in zip(*drawn, strict=True):
        np.testing.assert_array_equal(found, expected)
    tokens = drawn[0][0]
    going = [np.count_nonzero(((tokens[:, :t] != EOS) & (tokens[:, :t] > 0)).all(axis=1)) for t in (8, 16)]
    assert 0 < going[1] < 0.75 * going[0] < 0.75**2 * 40
    for lib in libs:
        assert lib.slots == [40] * LOOK + [going[0]] * LOOK + [going[1]] * LOOK
    assert libs[0].captures == 3


def test_without_products_of_its_own() -> None:
    """A machine on which ctypes finds no cuBLAS, and heads that no kernel takes: token by token."""
    ops = backends.ops_of("shim", in_turn=True)
    assert isinstance(ops, CupyOps)
    uniform = ops.xp.asarray(np.zeros((1, 1)))
    wide = TransformerConfig(9, 80, 1, 1, 80, 8, 4)
    for config, has_products in ((SIZES, False), (wide, True)):
        with patch.object(ShimLib, "has_products", has_products):
            on_device = buffers.flatten(model(0, config, "float64"), ops.xp)[1]
            assert ops.draw_sequences(on_device, config, uniform, EOS) is None


def test_nan_is_token_0_on_the_device(there: Ops) -> None:
    """As in the plain loop: nothing ends, and `sample` says so."""
    params = model(0, SIZES, "float32")
    params["decoder/logitdense/kernel"][...] = np.nan
    found = drawn_there(there, params, SIZES, np.full((3, 24), 0.5))
    expected = draw_by_token(PLAIN, params, SIZES, np.full((3, 24), 0.5), EOS)
    for part, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(part, other)
    assert not found[0].any()
