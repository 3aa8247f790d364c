"""accel's ops: every backward against the complex step, Numba against NumPy, and what the interface promises."""

from __future__ import annotations

import inspect
import os
import shutil
import subprocess
import sys
from decimal import Decimal, localcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from accel import Ops, buffers, get_ops
from accel.adam import unbiased
from accel.cpu.ops import NumbaOps
from accel.losses import logistic
from accel.ops import Pairs
from reference.networks import directional_derivative, mlp, mlp_init, softplus
from tests import checks
from tests.backends import OnDevice

ROOT = Path(__file__).parents[1]
NUMPY = Ops()
NUMBA = NumbaOps(2)
BOTH = pytest.mark.usefixtures("ops")  # every backend in turn: tests/backends.py
Array = NDArray[Any]

seeds = st.integers(0, 2**32 - 1)
widths = st.lists(st.integers(1, 19), min_size=1, max_size=4).map(lambda inner: (*inner, 1))
# none, one, a few, around a block of 16, and around four blocks of 64 rows
rows = st.one_of(st.integers(0, 20), st.sampled_from([63, 64, 65, 255, 256, 257, 300]))


def normal(rng: np.random.Generator, shapes: dict[str, tuple[int, ...]]) -> dict[str, Array]:
    return {name: rng.standard_normal(shape) for name, shape in shapes.items()}


def network(rng: np.random.Generator, sizes: tuple[int, ...]) -> dict[str, Array]:
    """Parameters with biases that are not 0."""
    shapes = {name: value.shape for name, value in mlp_init(rng, sizes).items()}
    return {name: value / np.sqrt(len(value)) for name, value in normal(rng, shapes).items()}


def comparisons(rng: np.random.Generator, n: int, d: int) -> tuple[Array, Array, Array]:
    return rng.standard_normal((n, d)), rng.standard_normal((n, d)), rng.integers(0, 3, n) / 2


def as32(*arrays: Array) -> list[Array]:
    return [value.astype(np.float32) for value in arrays]


def magnitudes(params: dict[str, Array], x: Array, dout: Array) -> tuple[float, float]:
    """The largest output and gradient that the terms would add up to without their signs, and with tanh' = 1."""
    inputs, kernels = [], [np.abs(value) for name, value in params.items() if name.endswith("kernel")]
    out = np.abs(x).astype(np.float64)
    for i, kernel in enumerate(kernels):
        inputs.append(np.minimum(out, 1.0) if i else out)
        out = inputs[-1] @ kernel + np.abs(params[f"Dense_{i}/bias"])
    grad, drows = 0.0, np.abs(dout)[:, None]
    for rows_in, kernel in zip(reversed(inputs), reversed(kernels), strict=True):
        grad = max(grad, float((rows_in.T @ drows).max()), float(drows.sum(axis=0).max()))
        drows = drows @ kernel.T
    return float(out.max()), grad


# ----- Every backward against the complex step -----


@BOTH
@given(seed=seeds, n=st.integers(1, 9), d_in=st.integers(1, 7), d_out=st.integers(1, 7))
def test_linear_backward(ops: Ops, seed: int, n: int, d_in: int, d_out: int) -> None:
    """d sum(c (x W + b)), with a second leading axis."""
    rng = np.random.default_rng(seed)
    params = normal(rng, {"x": (n, 2, d_in), "kernel": (d_in, d_out), "bias": (d_out,)})
    direction, c = normal(rng, {k: v.shape for k, v in params.items()}), rng.standard_normal((n, 2, d_out))
    out, cache = ops.linear_forward(**params)
    checks.assert_close(out, params["x"] @ params["kernel"] + params["bias"], checks.CLOSED_FORM)
    grads = dict(zip(params, ops.linear_backward(c, cache), strict=True))
    exact = directional_derivative(lambda p: (c * (p["x"] @ p["kernel"] + p["bias"])).sum(), params, direction)
    checks.assert_derivative(grads, direction, exact)


@BOTH
@given(seed=seeds, n=st.integers(1, 40))
def test_elementwise_backwards(ops: Ops, seed: int, n: int) -> None:
    """d sum(c tanh x) and d log sum e^x."""
    rng = np.random.default_rng(seed)
    x, direction, c = {"x": 3 * rng.standard_normal(n)}, {"x": rng.standard_normal(n)}, rng.standard_normal(n)
    out, cache = ops.tanh_forward(x["x"])
    checks.assert_close(out, np.tanh(x["x"]), checks.CLOSED_FORM)
    exact = directional_derivative(lambda p: (c * np.tanh(p["x"])).sum(), x, direction)
    checks.assert_derivative({"x": ops.tanh_backward(c, cache)}, direction, exact)
    total, cache = ops.log_sum_exp_forward(x["x"] + 800)  # e^800 overflows
    checks.assert_close(total, 800 + np.log(np.exp(x["x"]).sum()), checks.CLOSED_FORM)
    exact = directional_derivative(lambda p: np.log(np.exp(p["x"]).sum()), x, direction)
    checks.assert_derivative({"x": ops.log_sum_exp_backward(np.float64(1.0), cache)}, direction, exact)


@BOTH
@given(seed=seeds, n=st.integers(1, 70), sizes=widths)
def test_mlp_backward(ops: Ops, seed: int, n: int, sizes: tuple[int, ...]) -> None:
    """d sum(c mlp(x)) in all parameters at once."""
    rng = np.random.default_rng(seed)
    params, c = network(rng, sizes), rng.standard_normal(n)
    x, direction = rng.standard_normal((n, sizes[0])), normal(rng, {k: v.shape for k, v in params.items()})
    out, cache = ops.mlp_forward(params, x)
    checks.assert_close(out, mlp(params, x).reshape(n), checks.CLOSED_FORM)
    exact = directional_derivative(lambda p: (c * mlp(p, x).reshape(n)).sum(), params, direction)
    checks.assert_derivative(ops.mlp_backward(c, cache), direction, exact)


@BOTH
@given(seed=seeds, n=st.integers(1, 70), sizes=widths)
def test_margin_step(ops: Ops, seed: int, n: int, sizes: tuple[int, ...]) -> None:
    """The mean loss of comparisons, both sides through the network, and its gradient."""
    rng = np.random.default_rng(seed)
    params, (x_a, x_b, y) = network(rng, sizes), comparisons(rng, n, sizes[0])
    direction = normal(rng, {k: v.shape for k, v in params.items()})

    def loss(p: Any) -> Any:
        margin = (mlp(p, x_a) - mlp(p, x_b)).reshape(n)
        return (softplus(margin) - y * margin).mean()

    value, grads = ops.mlp_margin_step(params, x_a, x_b, y, logistic)
    checks.assert_close(value, loss(params), checks.CLOSED_FORM)
    checks.assert_derivative(grads, direction, directional_derivative(loss, params, direction))


@BOTH
@given(seed=seeds, n=st.integers(1, 30), count=st.integers(1, 1200))
def test_margin_loss(ops: Ops, seed: int, n: int, count: int) -> None:
    """The weighted mean of losses of omega_a - omega_b, from comparisons that are not merged."""
    rng = np.random.default_rng(seed)
    (a, b), y, weight = rng.integers(0, n, (2, count)), rng.integers(0, 2, count), rng.random(count) + 0.1
    omega, direction = {"omega": 3 * rng.standard_normal(n)}, {"omega": rng.standard_normal(n)}

    def loss(p: Any) -> Any:
        margin = p["omega"][a] - p["omega"][b]
        return (weight * (softplus(margin) - y * margin)).sum() / weight.sum()

    value, domega = ops.margin_loss(omega["omega"], ops.pairs(a, b, y, weight, n), logistic)
    checks.assert_close(value, loss(omega), checks.CLOSED_FORM)
    # where b = a the terms cancel, to a rounding of what was added
    slack = np.abs(direction["omega"]).sum() * checks.CLOSED_FORM
    exact = directional_derivative(loss, omega, direction)
    assert abs(float(domega @ direction["omega"]) - exact) <= (
        checks.DERIVATIVE * float(np.abs(domega * direction["omega"]).sum()) + slack
    )


# ----- Numba against NumPy -----


@given(seed=seeds, n=rows, sizes=widths)
def test_numba_in_float64(seed: int, n: int, sizes: tuple[int, ...]) -> None:
    """Outputs and gradients, for no row, one row, ragged last blocks, and widths that are no multiple of 4."""
    rng = np.random.default_rng(seed)
    params, x, dout = network(rng, sizes), rng.standard_normal((n, sizes[0])), rng.standard_normal(n)
    (out, cache), (expected, expected_cache) = NUMBA.mlp_forward(params, x), NUMPY.mlp_forward(params, x)
    assert out.shape == (n,)
    assert np.abs(out - expected).max(initial=0) <= checks.BACKENDS * (1 + np.abs(expected).max(initial=0))
    grads, plain = NUMBA.mlp_backward(dout, cache), NUMPY.mlp_backward(dout, expected_cache)
    checks.assert_close(buffers.flat_of(grads), buffers.flat_of(plain), checks.BACKENDS)
    if n:
        x_a, x_b, y = comparisons(rng, n, sizes[0])
        value, grads = NUMBA.mlp_margin_step(params, x_a, x_b, y, logistic)
        expected, plain = NUMPY.mlp_margin_step(params, x_a, x_b, y, logistic)
        checks.assert_close(value, expected, checks.BACKENDS)
        checks.assert_close(buffers.flat_of(grads), buffers.flat_of(plain), checks.BACKENDS)


@given(seed=seeds, n=st.integers(1, 300), sizes=widths)
def test_numba_in_float32(seed: int, n: int, sizes: tuple[int, ...]) -> None:
    """No less accurate than plain float32, measured against float64 of the same float32 inputs."""
    rng = np.random.default_rng(seed)
    params = {name: value.astype(np.float32) for name, value in network(rng, sizes).items()}
    exact = {name: value.astype(np.float64) for name, value in params.items()}
    x_a, x_b, y = as32(*comparisons(rng, n, sizes[0]))
    out, values, grads = [], [], []
    for ops, p in ((NUMBA, params), (NUMPY, params), (NUMPY, exact)):
        out.append(ops.mlp_forward(p, x_a)[0])
        value, step_grads = ops.mlp_margin_step(p, x_a, x_b, y, logistic)
        values.append(value)
        grads.append(buffers.flat_of(step_grads))
    assert out[0].dtype == values[0].dtype == grads[0].dtype == np.float32
    slopes = np.full(2 * n, 1 / n)  # of the loss in omega, at most
    out_scale, grad_scale = magnitudes(exact, np.concatenate([x_a, x_b]), slopes)
    checks.assert_float32(out[0], out[1], out[2], out_scale)
    checks.assert_float32(values[0], values[1], values[2], 1 + out_scale)
    checks.assert_float32(grads[0], grads[1], grads[2], grad_scale)


@given(seed=seeds, n=st.integers(2, 40), count=st.integers(1, 1200), spread=st.sampled_from([0.01, 1.0, 30.0]))
def test_margin_loss_in_float32(seed: int, n: int, count: int, spread: float) -> None:
    """The logistic loss that is written anew for float32, in sums over comparisons."""
    rng = np.random.default_rng(seed)
    index, y = rng.integers(0, n, (2, count)), rng.integers(0, 3, count) / 2
    pairs, omega = NUMPY.pairs(index[0], index[1], y, rng.random(count) + 0.1, n), spread * rng.standard_normal(n)
    omega = omega.astype(np.float32)
    fast, plain = NUMBA.margin_loss(omega, pairs, logistic), NUMPY.margin_loss(omega, pairs, logistic)
    exact = NUMPY.margin_loss(omega.astype(np.float64), pairs, logistic)
    assert fast[0].dtype == fast[1].dtype == np.float32
    checks.assert_float32(fast[0], plain[0], exact[0], 1 + spread)
    checks.assert_float32(fast[1], plain[1], exact[1], 1.0)  # weights sum to 1, slopes are at most 1


@given(
    seed=seeds,
    n=st.integers(2, 40),
    count=st.integers(1, 1200),
    components=st.integers(1, 4),
    spread=st.sampled_from([0.01, 1.0, 30.0]),
)
def test_mixture_loss_in_float32(seed: int, n: int, count: int, components: int, spread: float) -> None:
    """No less accurate than plain float32, measured against float64 of the same float32 inputs."""
    rng = np.random.default_rng(seed)
    index, y = rng.integers(0, n, (2, count)), rng.integers(0, 3, count) / 2
    pairs = NUMPY.pairs(index[0], index[1], y, rng.random(count) + 0.1, n)
    r, log_w = as32(spread * rng.standard_normal((components, n)), rng.standard_normal(components))
    fast, plain = NUMBA.mixture_loss(r, log_w, pairs), NUMPY.mixture_loss(r, log_w, pairs)
    exact = NUMPY.mixture_loss(r.astype(np.float64), log_w.astype(np.float64), pairs)
    for got, oracle, truth, scale in zip(fast, plain, exact, (1 + spread, 1.0, 1.0), strict=True):
        assert got.dtype == np.float32
        checks.assert_float32(got, oracle, truth, scale)


@BOTH
@pytest.mark.parametrize("margin", [1.0, 5.0, 16.0, 40.0, 86.0])
def test_logistic_of_a_sure_choice(ops: Ops, margin: float) -> None:
    """log(1 + e^-m) and -1 / (1 + e^m) relative to themselves: not 1 / (1 + e^-m) - 1, which is 0 from 17 on."""
    omega, pairs = np.array([margin, 0.0], np.float32), ops.pairs([0], [1], [1.0], None, 2)
    value, domega = ops.margin_loss(omega, pairs, logistic)
    decay = np.exp(-margin)
    slope = -decay / (1 + decay)
    assert abs(value - np.log1p(decay)) <= 4 * checks.EPS32 * np.log1p(decay)
    checks.assert_close(domega, [slope, -slope], 4 * checks.EPS32, -slope)


@BOTH
def test_many_comparisons_of_few_points(ops: Ops) -> None:
    """2^20 comparisons of 3 points in float32: their gradients were added one by one, to an error of 1e-4."""
    rng, count = np.random.default_rng(0), 1 << (13 if isinstance(ops, OnDevice) else 20)  # the shim is slow
    x_a = rng.integers(0, 3, count)
    x_b = (x_a + rng.integers(1, 3, count)) % 3
    pairs = Pairs(3, x_a, x_b, rng.random(count), np.full(count, 1 / count), float(count))
    omega = np.array([0.3, -1.0, 0.5], np.float32)
    plain, exact = (NUMPY.margin_loss(omega.astype(dtype), pairs, logistic) for dtype in (np.float32, np.float64))
    found = ops.margin_loss(omega, pairs, logistic)
    checks.assert_float32(found[0], plain[0], exact[0])
    checks.assert_float32(found[1], plain[1], exact[1])
    r, log_w = np.stack([omega, -omega]), np.log(np.array([0.3, 0.7], np.float32))
    mixed = ops.mixture_loss(r, log_w, pairs)
    truths = NUMPY.mixture_loss(r.astype(np.float64), log_w.astype(np.float64), pairs)
    for got, truth in zip(mixed, truths, strict=True):
        checks.assert_close(got, truth, 16 * checks.EPS32, np.abs(truth).max())


@pytest.mark.parametrize("margin", [-86.0, -40.0, -5.0, -1e-3, 0.0, 1e-3, 5.0, 16.0, 200.0])
def test_logistic_tails_in_float32(margin: float) -> None:
    """Where the loss and its slope are tiny, they are accurate relative to themselves."""
    omega, pairs = np.array([margin, 0.0], dtype=np.float32), NUMPY.pairs([0], [1], [0], None, 2)
    value, domega = NUMBA.margin_loss(omega, pairs, logistic)
    exact, expected = NUMPY.margin_loss(omega.astype(np.float64), pairs, logistic)
    assert abs(value - exact) <= 4 * checks.EPS32 * exact
    assert abs(domega[0] - expected[0]) <= 4 * checks.EPS32 * expected[0]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_adam(dtype: Any) -> None:
    """Against the formula in float64, over five steps; m, v and params change in place, grads does not."""
    rng = np.random.default_rng(0)
    start, all_grads = rng.standard_normal(70_000), rng.standard_normal((5, 70_000))
    expected, m, v = start.copy(), 0.0, 0.0
    for t, grads in enumerate(all_grads, start=1):
        m, v = 0.8 * m + 0.2 * grads, 0.9 * v + 0.1 * grads**2
        expected -= 0.01 * (m / (1 - 0.8**t)) / (np.sqrt(v / (1 - 0.9**t)) + 1e-3)
    found = []
    for ops in (NUMBA, NUMPY):
        flat, grads = start.astype(dtype), all_grads.astype(dtype)
        moments = np.zeros((2, flat.size), dtype)
        for t in range(1, 6):
            ops.adam_step(flat, grads[t - 1], moments[0], moments[1], t, 0.01, 0.8, 0.9, 1e-3)
        assert np.array_equal(grads, all_grads.astype(dtype))
        found.append(flat)
        if dtype is np.float64:
            checks.assert_close(flat, expected, checks.CLOSED_FORM)
    if dtype is np.float32:
        checks.assert_float32(found[0], found[1], expected)


def adam_steps(ops: Ops, all_grads: Array, b1: float, b2: float, dtype: Any) -> Array:
    """Where Adam comes to from 0, a row of gradients a step."""
    flat, grads = np.zeros(all_grads.shape[1], dtype), all_grads.astype(dtype)
    moments = np.zeros((2, flat.size), dtype)
    for t, row in enumerate(grads, start=1):
        ops.adam_step(flat, row, moments[0], moments[1], t, 0.01, b1, b2, 1e-8)
    return flat


@BOTH
@pytest.mark.parametrize("rest", [1e-3, 1e-6, 1e-7, 1e-8])
def test_adam_with_long_memory(ops: Ops, rest: float) -> None:
    """float32 with b = 1 - rest: 1 - b of a rounded b was off by 8 % at 1e-7, and 0 at 1e-8."""
    grads = np.random.default_rng(0).standard_normal((10, 300))
    for b1, b2 in ((0.9, 1 - rest), (1 - rest, 0.999)):
        exact = adam_steps(NUMPY, grads, b1, b2, np.float64)
        found = adam_steps(ops, grads, b1, b2, np.float32)
        checks.assert_close(found, exact, checks.ADAM_FLOAT32, np.abs(exact).max())


@BOTH
@pytest.mark.parametrize("b", [0.0, 0.3, 0.999, 1 - 1e-7])
def test_adam_stays_where_it_settles(ops: Ops, b: float) -> None:
    """A constant gradient g leaves m = g, v = g^2 as they are: the weights b and 1 - b add up to 1 exactly."""
    params, grads = np.random.default_rng(0).standard_normal((2, 300)).astype(np.float32)
    m, v = grads.copy(), grads * grads
    for t in range(1000, 1100):
        ops.adam_step(params, grads, m, v, t, 0.01, b, b, 1e-8)
    assert np.array_equal(m, grads)
    assert np.array_equal(v, grads * grads)


def test_unbiased() -> None:
    """1 - b^t against 60 digits, to 4 roundings: t steps of memories from 0 to 10^15."""
    with localcontext(prec=60):
        for b in (0.0, 1e-3, 0.5, 0.9, 0.999, 1 - 1e-8, 1 - 1e-15):
            for t in (1, 2, 1000, 10**7):
                exact = 1 - Decimal(b) ** t
                assert abs(Decimal(unbiased(b, t)) - exact) <= Decimal(4 * 2.0**-53) * exact


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_equal_bit_for_bit(dtype: Any) -> None:
    """From run to run, and for every number of threads; 1,000 comparisons make 32 blocks, the last one ragged."""
    rng = np.random.default_rng(0)
    params = {name: value.astype(dtype) for name, value in network(rng, (2, 33, 20, 1)).items()}
    x_a, x_b, y = (value.astype(dtype) for value in comparisons(rng, 1000, 2))
    index = rng.integers(0, 1000, (2, 9000))
    pairs = NUMPY.pairs(index[0], index[1], index[0] % 2, None, 1000)
    results = []
    for threads in (1, 1, 2, 2, 3):
        ops = NumbaOps(threads)
        value, grads = ops.mlp_margin_step(params, x_a, x_b, y, logistic)
        omega, cache = ops.mlp_forward(params, x_a)
        shared, domega = ops.margin_loss(omega, pairs, logistic)
        again = ops.mlp_backward(domega, cache)
        mixture = ops.mixture_loss(np.stack([omega, -omega]), domega[:2], pairs)
        results.append(b"".join(np.asarray(part).tobytes() for part in (value, omega, shared, domega, *mixture)))
        results[-1] += buffers.flat_of(grads).tobytes() + buffers.flat_of(again).tobytes()
    assert len(set(results)) == 1


def test_tanh() -> None:
    """Every exponent of float32 with many mantissas, and where the formula changes, within 2 units in the last
    place of tanh in float64; signs, zeros, infinities and NaN as they should be."""
    rng = np.random.default_rng(0)
    x = np.ldexp(1 + rng.random((4096, 160)), np.arange(-150, 10)).astype(np.float32).ravel()
    first, end = np.array([0.2, 0.3], dtype=np.float32).view(np.int32)  # where a sweep of all numbers found most
    hardest = np.arange(first, end, 3, dtype=np.int32).view(np.float32)
    x = np.concatenate([x, hardest, np.linspace(0.0, 10.0, 1 << 20, dtype=np.float32)])
    out = NUMBA.tanh_forward(x)[0]
    exact = np.tanh(x.astype(np.float64))
    ulp = np.abs(out - exact) / np.spacing(exact.astype(np.float32))
    assert ulp.max() <= checks.TANH_ULP
    assert np.array_equal(NUMBA.tanh_forward(-x)[0], -out)
    special = np.array([0.0, -0.0, np.inf, -np.inf, np.nan, 50.0], dtype=np.float32)
    out = NUMBA.tanh_forward(special)[0]
    assert out.dtype == np.float32
    assert out.tobytes() == np.array([0.0, -0.0, 1.0, -1.0, np.nan, 1.0], dtype=np.float32).tobytes()


# ----- What the interface promises -----


def test_numba_has_the_same_signatures() -> None:
    for name, method in inspect.getmembers(Ops, inspect.isfunction):
        if not name.startswith("_"):
            assert inspect.signature(getattr(NumbaOps, name)) == inspect.signature(method), name
    added = {name for name in vars(NumbaOps) if not name.startswith("_")} - set(dir(Ops))
    assert added == set()


@BOTH
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_arguments_stay_as_they_are(ops: Ops, dtype: Any) -> None:
    """Arrays that cannot be written, or have steps between their elements, are taken; dtypes are params'."""
    rng = np.random.default_rng(0)
    params = {name: value.astype(dtype) for name, value in network(rng, (3, 5, 1)).items()}
    x_a, x_b, y = (np.repeat(value, 2, axis=0)[::2] for value in comparisons(rng, 40, 3))
    for array in (*params.values(), x_a, x_b, y):
        array.flags.writeable = False
    value, grads = ops.mlp_margin_step(params, x_a, x_b, y, logistic)
    omega, cache = ops.mlp_forward(params, x_a)
    omega.flags.writeable = False
    loss, domega = ops.margin_loss(omega, ops.pairs([0, 1], [1, 2], [1, 0], None, 40), logistic)
    domega.flags.writeable = False
    again = ops.mlp_backward(domega, cache)
    r = np.asfortranarray(np.stack([omega, -omega]))
    r.flags.writeable = False
    mixture = ops.mixture_loss(r, omega[:4:2], ops.pairs([0, 1], [1, 2], [1, 0], None, 40))
    found = (value, loss, omega, domega, *mixture, *grads.values(), *again.values())
    assert {np.asarray(part).dtype for part in found} == {np.dtype(dtype)}
    assert list(grads) == list(again) == list(params)
    assert buffers.flat_of(grads).shape == (3 * 5 + 5 + 5 + 1,)


def test_one_input_may_be_a_row() -> None:
    params, x = network(np.random.default_rng(0), (1, 4, 1)), np.linspace(-1, 1, 7)
    for ops in (NUMPY, NUMBA):
        assert np.array_equal(ops.mlp_forward(params, x)[0], ops.mlp_forward(params, x[:, None])[0])


def test_pairs_are_merged() -> None:
    """Equal comparisons become one, with their weights added; weights of 0 go."""
    pairs = NUMPY.pairs([0, 2, 0, 0, 1], [1, 0, 1, 1, 2], [1, 0, 1, 0, 1], [1.0, 2.0, 3.0, 2.0, 0.0], 3)
    assert [list(value) for value in (pairs.x_a, pairs.x_b, pairs.y)] == [[0, 0, 2], [1, 1, 0], [0, 1, 0]]
    assert list(pairs.weight) == [0.25, 0.5, 0.25]
    assert pairs.total == 8.0


@given(seed=seeds, n=st.integers(1, 5), dtype=st.sampled_from([np.int64, np.uint8, np.uint64]))
def test_merged_pairs_are_distinct(seed: int, n: int, dtype: Any) -> None:
    """Whatever integers the indices are: every comparison once, with the weight of all that are equal to it."""
    index, y = np.random.default_rng(seed).integers(0, n, (2, 60)).astype(dtype), np.arange(60) % 2
    pairs = NUMPY.pairs(index[0], index[1], y, None, n)
    rows, counts = np.unique(np.stack([*index, y]).astype(int), axis=1, return_counts=True)
    found = np.stack([pairs.x_a, pairs.x_b, pairs.y, pairs.weight * 60])
    checks.assert_close(found[:, np.lexsort(found[2::-1])], np.vstack([rows, counts]), checks.CLOSED_FORM)


def test_pairs_of_wins() -> None:
    wins = np.array([[7.0, 3.0], [1.0, 0.0]])
    pairs = NUMPY.pairs_of_wins(wins)
    assert [list(value) for value in (pairs.x_a, pairs.x_b, pairs.y)] == [[0, 1], [1, 0], [1, 1]]
    assert list(pairs.weight) == [0.75, 0.25]
    assert wins[0, 0] == 7.0
    sparse = NUMPY.pairs_of_wins(scipy.sparse.csr_array(wins))
    assert all(
        np.array_equal(getattr(sparse, name), getattr(pairs, name)) for name in ("x_a", "x_b", "y", "weight")
    )


@BOTH
def test_bad_arguments(ops: Ops) -> None:
    """One line each: name, rule, value."""
    params = network(np.random.default_rng(0), (2, 3, 1))
    x, y = np.zeros((4, 2)), np.zeros(4)
    two_outputs = network(np.random.default_rng(0), (2, 3, 1)) | {"Dense_1/bias": np.zeros(2)}
    pairs = ops.pairs([0], [1], [1], None, 2)
    for call, message in [
        (lambda: ops.mlp_forward(params, np.zeros(4)), r"x must have shape \(n, 2\), got \(4,\)"),
        (lambda: ops.mlp_forward(two_outputs, x), "params must be layers .* the last with one output"),
        (lambda: ops.mlp_forward(dict(reversed(params.items())), x), "params must"),
        (lambda: ops.mlp_margin_step(params, x, x[:3], y, logistic), "must be of one length >= 1, got 4, 3"),
        (lambda: ops.mlp_margin_step(params, x[:0], x[:0], y[:0], logistic), "must be of one length >= 1"),
        (lambda: ops.mlp_margin_step(params, x, x, y[:, None], logistic), r"one length >= 1, got 4, 4, \(4, 1\)"),
        (
            lambda: ops.margin_loss(np.zeros(3), pairs, logistic),
            r"omega must be floats of shape \(2,\), got .*\(3,\)",
        ),
        (lambda: ops.margin_loss(np.zeros(2, int), pairs, logistic), "omega must be floats .* got int64"),
        (lambda: ops.mixture_loss(np.zeros((1, 2), int), np.zeros(1), pairs), "floats of one dtype, got int64"),
        (lambda: ops.mixture_loss(np.zeros((2, 3)), np.zeros(2), pairs), r"r must have shape \(K, 2\).*\(2, 3\)"),
        (lambda: ops.mixture_loss(np.zeros((2, 2)), np.zeros(3), pairs), r"log_w \(K,\), .* and \(3,\)"),
        (lambda: ops.mixture_loss(np.zeros((0, 2)), np.zeros(0), pairs), r"K >= 1, got \(0, 2\)"),
        (lambda: ops.adam_step(y, y, y, y, 0, 0.1), "step must be >= 1, got 0"),
        (lambda: ops.pairs([0.5], [1], [1], None, 2), "x_a must be integers"),
        (lambda: ops.pairs([0], [2], [1], None, 2), r"x_b must lie in 0..1, got 2..2"),
        (lambda: ops.pairs([0], [1], [2], None, 2), r"y must be finite in \[0, 1\]"),
        (lambda: ops.pairs([0], [1], [1], [np.nan], 2), "weight must be finite"),
        (lambda: ops.pairs([0], [1], [1], [0.0], 2), "weight must have a sum > 0"),
        (lambda: ops.pairs([0], [1, 0], [1], None, 2), "must have one shape"),
        (lambda: ops.pairs_of_wins(np.zeros((2, 3))), r"wins must have shape \(n, n\), got \(2, 3\)"),
        (lambda: ops.pairs_of_wins(np.eye(2)), "there are no comparisons"),
    ]:
        with pytest.raises(ValueError, match=message):
            call()  # type: ignore[no-untyped-call]


def test_buffers() -> None:
    flat, params = buffers.flatten({"a": np.arange(6.0).reshape(2, 3), "b": np.ones(2)}, dtype=np.float32)
    assert flat.dtype == np.float32
    assert buffers.flat_of(params) is flat
    params["b"][0] = 9
    assert list(flat) == [0, 1, 2, 3, 4, 5, 9, 1]
    with pytest.raises(ValueError, match=r"flat must be contiguous of shape \(8,\), got \(7,\)"):
        buffers.views(flat[1:], {"a": (2, 3), "b": (2,)})
    with pytest.raises(ValueError, match=r"separate arrays: call buffers\.flatten"):
        buffers.flat_of({"a": np.ones(2), "b": np.ones(3)})
    with pytest.raises(ValueError, match="in the order of their buffer, got b elsewhere"):
        buffers.flat_of({"b": params["b"], "a": params["a"]})


def test_get_ops(monkeypatch: pytest.MonkeyPatch) -> None:
    """By name, and never another backend in the place of a missing one."""
    assert (get_ops("numpy").name, get_ops("numba", 1).name) == ("numpy", "numba")
    with pytest.raises(ValueError, match="ops must be numpy, numba or cupy, got torch"):
        get_ops("torch")
    with pytest.raises(ImportError, match=r"pbde\[cuda12\]"):
        get_ops("cupy")
    for name, threads in (("numba", 0), ("numba", 1.5), ("numpy", 1)):
        with pytest.raises(ValueError, match="threads must"):
            get_ops(name, threads)  # type: ignore[arg-type]
    for module in [name for name in sys.modules if name.startswith("accel.cpu.")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "numba", None)
    with pytest.raises(ImportError, match="pip install numba"):
        get_ops("numba")


def run_python(code: str, folder: Path = ROOT, **environment: str) -> str:
    """What code prints, run in folder."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_accel_does_not_import_numba() -> None:
    code = "import sys, accel; print(sorted({'numba', 'llvmlite', 'scipy', 'cupy', 'tqdm'} & set(sys.modules)))"
    assert run_python(code) == "[]\n"


def test_no_folder_for_the_cache(tmp_path: Path) -> None:
    """A package folder and a home that cannot be written: compiled in memory, same numbers."""
    shutil.copytree(ROOT / "accel", tmp_path / "accel", ignore=shutil.ignore_patterns("__pycache__"))
    for folder in ("accel", "accel/cpu"):
        (tmp_path / folder / "__pycache__").write_text("a file, so that no folder can be made here\n")
    code = (
        "import numpy as np, accel; ops = accel.get_ops('numba', 1); p = np.ones(2); m = np.zeros((2, 2))\n"
        "ops.adam_step(p, np.array([1.0, -1.0]), m[0], m[1], 1, 0.5); print(accel.__file__, p.round(6))"
    )
    nowhere = str(tmp_path / "accel" / "__pycache__" / "none")
    printed = run_python(
        code, tmp_path, HOME=nowhere, XDG_CACHE_HOME=nowhere, LOCALAPPDATA=nowhere, NUMBA_CACHE_DIR=nowhere
    )
    assert printed == f"{tmp_path / 'accel' / '__init__.py'} [0.5 1.5]\n"


def test_an_inlined_helper_of_another_file_compiles_anew(tmp_path: Path) -> None:
    """Numba's own cache would not look at it: `tanh` stands in vector_math.py, what inlines it in mlp.py."""
    shutil.copytree(ROOT / "accel", tmp_path / "accel", ignore=shutil.ignore_patterns("__pycache__"))
    helper = tmp_path / "accel" / "cpu" / "vector_math.py"
    code = (
        "import numpy as np, accel; ops = accel.get_ops('numba', 1)\n"
        "from accel.cpu import compile; x = ops.tanh_forward(np.full(9, 0.5, np.float32))[0]\n"
        "from accel.cpu import mlp; hits = sum(mlp.tanh_of.stats.cache_hits.values())\n"
        "import numba; print(round(float(x[0]), 3), hits, numba.config.CACHE_DIR == '')"
    )
    source = helper.read_text(encoding="utf-8")
    assert source.count("return math.copysign(base - base") == 1
    changed = source.replace("return math.copysign(base - base", "return math.copysign(base + ONE - base")
    for text, printed in ((source, "0.462 0"), (source, "0.462 1"), (changed, "1.462 0"), (source, "0.462 0")):
        helper.write_text(text, encoding="utf-8")
        assert run_python(code, tmp_path) == f"{printed} True\n"
        assert len(list((tmp_path / "accel" / "cpu" / "__pycache__").glob("numba-*"))) == 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_works_after_a_fork() -> None:
    """A child has none of its parent's threads: it does the work alone."""
    code = (
        "import os, numpy as np, accel; ops = accel.get_ops('numba', 2); x = np.ones(1 << 17, np.float32)\n"
        "ops.tanh_forward(x); child = os.fork()\n"
        "if not child: os._exit(int(ops.tanh_forward(x)[0].sum() < 9))\n"
        "print(os.waitpid(child, 0)[1])"
    )
    assert run_python(code) == "0\n"


@settings(max_examples=10)
@given(seed=seeds)
def test_a_loss_of_ones_own(seed: int) -> None:
    """Any scalar function of ufuncs compiles, one that is a closure too."""
    scale = 0.5

    def squared(margin: Any, y: Any) -> tuple[Any, Any]:
        return scale * (margin - y) ** 2, 2 * scale * (margin - y)

    rng = np.random.default_rng(seed)
    omega, index = rng.standard_normal(20), rng.integers(0, 20, (2, 50))
    pairs = NUMPY.pairs(index[0], index[1], index[0] % 2, None, 20)
    for got, expected in zip(
        NUMBA.margin_loss(omega, pairs, squared), NUMPY.margin_loss(omega, pairs, squared), strict=True
    ):
        checks.assert_close(got, expected, checks.BACKENDS)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("n", [1, 40, 1000])
def test_steps_in_one_call(dtype: Any, n: int) -> None:
    """Equal bit for bit to single steps, split over calls as one likes, for 1, 2, 3 threads; near NumPy's."""
    rng = np.random.default_rng(0)
    first = {name: value.astype(dtype) for name, value in network(rng, (2, 33, 20, 1)).items()}
    x_a, x_b, y = (value.astype(dtype) for value in comparisons(rng, n, 2))
    lr = [0.01, 0.02, 0.01, 0.005, 0.01]

    def trained(steps: Any, cuts: tuple[int, ...]) -> Array:
        flat, params = buffers.flatten(first)
        moments = np.zeros((2, flat.size), dtype)
        ends = (*cuts, len(lr))
        losses = [
            steps(params, x_a, x_b, y, logistic, *moments, start + 1, lr[start:end])
            for start, end in zip((0, *cuts), ends, strict=True)
        ]
        return np.concatenate([*losses, flat, *moments])

    singly = trained(lambda *arguments: Ops.mlp_margin_steps(NUMBA, *arguments), ())
    assert singly.dtype == dtype
    for threads, cuts in ((1, ()), (2, ()), (3, ()), (2, (1, 1, 4))):
        assert np.array_equal(trained(NumbaOps(threads).mlp_margin_steps, cuts), singly)
    plain = trained(NUMPY.mlp_margin_steps, ())
    if dtype is np.float64:
        assert np.abs(singly[: len(lr)] - plain[: len(lr)]).max() <= checks.BACKENDS
