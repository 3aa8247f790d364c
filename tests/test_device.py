"""Whole programs on a device: nothing mixes with NumPy's arrays, no step waits for the host, results are NumPy's.

The device is the shim's (tests/shim/device.py), which refuses what CuPy refuses and counts what the host reads;
with a GPU the same runs on it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from accel import (
    MLP,
    Config,
    LatentMixture,
    Ops,
    Tabular,
    buffers,
    get_ops,
    objectives,
    train,
    transformer,
    transformer_params,
)
from accel.cuda import device as device_module
from accel.minimize import Store, host, minimize
from accel.ops import Pairs
from accel.sampling import sample
from accel.transformer_params import TransformerConfig
from tests import backends, checks
from tests.shim import device

N = 40
X = np.linspace(-2.0, 2.0, N)
MEASURE = np.full(N, 4.0 / N)
LOG_P_PRE = -0.5 * X**2 - np.log(np.sum(MEASURE * np.exp(-0.5 * X**2)))
SMALL = TransformerConfig(vocab_size=20, emb_dim=8, num_heads=2, num_layers=2, qkv_dim=6, mlp_dim=12, max_len=70)
OBJECTIVES: dict[str, Callable[[Pairs], Any]] = {
    "pbde": lambda pairs: objectives.pbde(pairs, 1 + X**2, X, MEASURE),
    "dpo": lambda pairs: objectives.dpo(pairs, 0.5, LOG_P_PRE),
    "ipo": lambda pairs: objectives.ipo(pairs, 0.3, LOG_P_PRE),
    "rso": lambda pairs: objectives.rso(pairs, 0.7, LOG_P_PRE),
    "slic_hf": lambda pairs: objectives.slic_hf(pairs, 1.0, 0.1, LOG_P_PRE, MEASURE, draws=32),
    "rrhf": lambda pairs: objectives.rrhf(pairs, 1 + np.arange(N), MEASURE),
    "regression": lambda pairs: objectives.Regression(LOG_P_PRE),
    "latent": objectives.latent_mixture,
}


@pytest.fixture(scope="module", params=["shim", pytest.param("cupy", marks=pytest.mark.gpu)])
def there(request: pytest.FixtureRequest) -> Ops:
    """Ops on a device's own arrays."""
    return backends.ops_of(request.param, in_turn=True)


def some_pairs(ops: Ops) -> Pairs:
    rng = np.random.default_rng(0)
    return ops.pairs(*rng.integers(0, N, (2, 300)), rng.integers(0, 3, 300) / 2, None, N)  # type: ignore[call-arg]


# ----- Training -----


@pytest.mark.parametrize("name", OBJECTIVES)
def test_training(there: Ops, name: str) -> None:
    """A few steps of every objective, in float64: the same losses and values as NumPy's."""
    model = LatentMixture(Tabular(N)) if name == "latent" else MLP(X, (1, 9, 5, 1))
    config, results = Config(5, 0.01, dtype="float64", log_every=2), []
    for ops in (there, get_ops("numpy")):
        initial = model.init(np.random.default_rng(1))
        initial = {
            key: value + 0.1 * np.cos(np.arange(value.size).reshape(value.shape)) for key, value in initial.items()
        }
        results.append(
            train(model, OBJECTIVES[name](some_pairs(ops)), config, ops, initial=initial, progress=False)
        )
    found, expected = results
    checks.assert_close(found.losses, expected.losses, checks.SOLVED)
    checks.assert_close(found.log_p(MEASURE), expected.log_p(MEASURE), checks.SOLVED)
    assert all(type(value) is np.ndarray for value in found.params.values())


def test_no_step_waits_for_the_host() -> None:
    """The host reads the losses once in log_every steps, and nothing else."""
    ops, config = backends.shim_ops(in_turn=True), Config(12, 0.01, log_every=4)
    model, objective = MLP(X, (1, 7, 1)).on(ops, "float32"), OBJECTIVES["pbde"](some_pairs(ops)).on(ops, "float32")
    flat, params = buffers.flatten(model.init(np.random.default_rng(0)), ops.xp, "float32")

    def gradient(step: int) -> tuple[Any, Any]:
        values, cache = model.forward(ops, params)
        loss, dvalues = objective(ops, values, step)
        return loss, model.backward(ops, dvalues, cache)

    device.reads.clear()
    minimize(gradient, flat, config, ops, progress=False)
    assert device.reads == ["get"] * 3


def test_no_step_copies_its_draws_from_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    """SLiC-HF's regulariser: a step draws it where it is used, and as NumPy does, to the bit."""
    ops = backends.ops_of("shim", in_turn=True)
    objective = OBJECTIVES["slic_hf"](some_pairs(ops)).on(ops, "float32")
    values = ops.xp.asarray(np.sin(X), dtype="float32")
    monkeypatch.setattr(device, "FROM_HOST", set())  # nothing may come from there from now on
    device.reads.clear()
    losses = [objective(ops, values, step)[0] for step in range(3)]
    shares = objective.likelihood.shares(ops, 2)
    assert device.reads == []
    assert len({float(loss) for loss in losses}) == 3
    plain = OBJECTIVES["slic_hf"](some_pairs(get_ops("numpy"))).likelihood.shares(get_ops("numpy"), 2)
    np.testing.assert_array_equal(host(shares), plain)


def test_no_step_of_the_transformer_reads() -> None:
    ops = backends.shim_ops(in_turn=True)
    params, tokens = language_model(ops)
    device.reads.clear()
    transformer.cross_entropy_step(ops, params, tokens, SMALL)
    transformer.preference_step(ops, params, tokens[:2], tokens[2:4], [1.0, 0.5], SMALL)
    assert device.reads == []


def test_resumed_on_the_device(there: Ops, tmp_path: Path) -> None:
    """Killed after 8 of 12 steps and gone on: the same bits."""
    model, pairs = MLP(X, (1, 5, 1)), some_pairs(there)
    config = Config(12, 0.01, log_every=4, checkpoint_every=4)
    whole = train(model, OBJECTIVES["dpo"](pairs), config, there, progress=False)

    class Killed(Exception):
        pass

    class Dying(type(there)):  # type: ignore[misc]
        def gradient_steps(self, *arguments: Any) -> Any:
            steps = super().gradient_steps(*arguments)

            def killed(rates: Any, step: int) -> Any:
                if step > 8:
                    raise Killed
                return steps(rates, step)

            return killed

    path = tmp_path / "run.npz"
    dying = Dying(there.xp, there.lib)  # type: ignore[attr-defined]
    dying.groups = there.groups  # type: ignore[attr-defined]
    with pytest.raises(Killed):
        train(model, OBJECTIVES["dpo"](pairs), config, dying, checkpoint=path, progress=False)
    resumed = train(model, OBJECTIVES["dpo"](pairs), config, there, checkpoint=path, progress=False)
    np.testing.assert_array_equal(resumed.losses, whole.losses)
    np.testing.assert_array_equal(resumed.values, whole.values)


def test_out_of_memory_keeps_the_checkpoint(tmp_path: Path) -> None:
    """One line that says what to lower; the file holds the steps before."""
    ops, config = get_ops("numpy"), Config(12, 0.01, log_every=4, checkpoint_every=4, dtype="float64")

    def gradient(step: int) -> tuple[Any, Any]:
        if step == 9:
            raise MemoryError("Out of memory allocating 1,024 bytes\nmore")
        return np.float64(1.0), np.ones(3)

    store = Store(tmp_path / "run.npz", {})
    with pytest.raises(
        MemoryError, match=r"after step 8 \(Out of memory allocating 1,024 bytes\): lower .*run\.npz"
    ):
        minimize(gradient, np.zeros(3), config, ops, store=store, progress=False)
    with np.load(tmp_path / "run.npz") as kept:
        assert len(kept["losses"]) == 8


# ----- The Transformer -----


def language_model(ops: Ops) -> tuple[dict[str, Any], Any]:
    """Parameters with noise, on the device; tokens of lengths on both sides of the attention kernels' 64."""
    rng = np.random.default_rng(3)
    first = transformer_params.transformer_init(rng, SMALL, "float64")
    first = {name: value + 0.3 * rng.standard_normal(value.shape) for name, value in first.items()}
    lengths = np.array([70, 3, 64, 1, 66])
    tokens = rng.integers(1, 20, (5, 70)) * (np.arange(70) < lengths[:, None])
    return buffers.flatten(first, ops.xp)[1], tokens


def test_transformer_steps(there: Ops) -> None:
    results = []
    for ops in (there, get_ops("numpy")):
        params, tokens = language_model(ops)
        steps = (
            transformer.cross_entropy_step(ops, params, tokens, SMALL, 3),
            transformer.preference_step(ops, params, tokens[:2], tokens[2:4], [1.0, 0.5], SMALL, beta_reg=0.1),
        )
        results.append([host(part) for step in steps for part in step])
        results[-1].append(host(transformer.log_likelihood(ops, params, tokens, SMALL)))
    for found, expected in zip(*results, strict=True):
        checks.assert_close(found, expected, checks.CLOSED_FORM)


def test_samples(there: Ops) -> None:
    """The same random numbers give the same sequences."""
    results = []
    for ops in (there, get_ops("numpy")):
        params, _ = language_model(ops)
        params["decoder/logitdense/bias"][2] += 3.0
        results.append(sample(ops, params, SMALL, 12, np.random.default_rng(0), 20, batch=8))
    found, expected = results
    np.testing.assert_array_equal(found.tokens, expected.tokens)
    checks.assert_close(found.log_likelihood, expected.log_likelihood, checks.CLOSED_FORM)


# ----- What is missing -----


def stand_in(driver: int = 13000, devices: Any = 1, nvrtc: Exception | None = None) -> Any:
    """What `find_cupy` looks at, of a CuPy for CUDA 13.2."""

    def raising(error: Any) -> Any:
        if isinstance(error, Exception):
            raise error
        return error

    runtime = SimpleNamespace(
        driverGetVersion=lambda: driver, runtimeGetVersion=lambda: 13020, getDeviceCount=lambda: raising(devices)
    )
    cuda = SimpleNamespace(runtime=runtime, nvrtc=SimpleNamespace(getVersion=lambda: raising(nvrtc)))
    return SimpleNamespace(cuda=cuda, is_available=lambda: driver >= 13000 and devices == 1)


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (None, r"the cupy backend needs CuPy: pip install 'pbde\[cuda13\]', or 'pbde\[cuda12\]' for a driver of"),
        (stand_in(driver=0), "there is no NVIDIA driver; install one, or use the numba backend"),
        (
            stand_in(driver=12080),
            r"for CUDA 12\.8, this CuPy for CUDA 13\.2; pip uninstall cupy-cuda13x, then pip inst",
        ),
        (
            stand_in(devices=RuntimeError("cudaErrorNoDevice: none")),
            r"none can be used \(cudaErrorNoDevice: none\)",
        ),
        (
            stand_in(nvrtc=RuntimeError("\n***\nno libnvrtc")),
            r"NVRTC \(no libnvrtc\): pip install 'pbde\[cuda13\]'",
        ),
    ],
)
def test_what_is_missing_is_said(module: Any, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In one line with the cure; never another backend in its place."""
    monkeypatch.setitem(sys.modules, "cupy", module)
    monkeypatch.setitem(sys.modules, "cupy.cublas", SimpleNamespace())
    with pytest.raises(ImportError, match=message) as caught:
        get_ops("cupy")
    assert "\n" not in str(caught.value)


def test_a_broken_cupy_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(name: str) -> Any:
        raise ImportError("\n=====\nFailed to import CuPy.\n")

    monkeypatch.setattr(device_module, "import_module", broken)
    with pytest.raises(ImportError, match=r"installed but broken \(Failed to import CuPy\.\): uninstall it, then"):
        get_ops("cupy")


def test_get_ops_gives_cupy(monkeypatch: pytest.MonkeyPatch) -> None:
    module = stand_in()
    monkeypatch.setitem(sys.modules, "cupy", module)
    monkeypatch.setitem(sys.modules, "cupy.cublas", SimpleNamespace())
    ops = get_ops("cupy")
    assert (ops.name, ops.xp) == ("cupy", module)
