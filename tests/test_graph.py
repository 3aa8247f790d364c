"""Steps of the MLP as a CUDA graph: equal to single steps bit for bit, and nothing of a step comes from the host.

The shim's graphs are records of launches, replayed on the same arrays with the same numbers, so that what a step
would take from the host stays what it was in the first. With a GPU the graphs are CUDA's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest

from accel import Ops, Pairs, buffers, losses, objectives
from accel.cuda import graph
from accel.cuda.ops import CupyOps
from accel.minimize import Config, host
from accel.models import MLP
from accel.train import train
from bench import mlp, mlp_step
from tests import backends
from tests.shim import device
from tests.shim.build import compiler
from tests.shim.examples import network, rng_of
from tests.shim.library import ShimLib

Problem = tuple[str, int, tuple[int, ...]]

RATES = [0.01, 0.02, 0.005, 0.01, 0.03]
# loss, comparisons, widths: one tile, a ragged one, several a block, one layer, many sums of parts
PROBLEMS: list[Problem] = [
    ("logistic", 130, (1, 64, 5, 1)),
    ("squared", 33, (2, 17, 1)),
    ("hinge", 70, (64, 1)),
    ("ranking", 1, (1, 1)),
    ("logistic", 32, (3, 9, 9, 9, 1)),
]


class NoGraphs(ShimLib):
    """A library that cannot capture. calls: every launch, arrays as the place and size of their memory."""

    def __init__(self) -> None:
        super().__init__(backends.shim_folder(), in_turn=True)
        self.calls: list[tuple[Any, ...]] = []

    def capture(self, function: Callable[[], None]) -> None:  # type: ignore[override]
        return None

    def launch(self, name: str, variant: str, items: int, *values: Any) -> None:
        seen = [(value.data.ptr, value.nbytes) if hasattr(value, "nbytes") else value for value in values]
        self.calls.append((name, variant, items, *seen))
        super().launch(name, variant, items, *values)


@pytest.fixture(params=["shim", pytest.param("cupy", marks=pytest.mark.gpu)])
def there(request: pytest.FixtureRequest) -> CupyOps:
    """The ops on a device, with no graph yet."""
    ops = backends.ops_of(request.param, in_turn=True)
    assert isinstance(ops, CupyOps)
    return CupyOps(ops.xp, ops.lib, ops.groups)


def shim_ops(lib: ShimLib | None = None) -> CupyOps:
    if compiler() is None:
        pytest.skip("no g++: the kernels cannot run on this CPU")
    return CupyOps(device.xp, lib or ShimLib(backends.shim_folder(), in_turn=True), groups=3)


class Training:
    """A network, comparisons, moments on the device; `steps` and `singly` go on with it."""

    def __init__(self, ops: CupyOps, problem: Problem, dtype: str = "float64") -> None:
        name, count, widths = problem
        rng, self.ops, self.loss, self.done = rng_of(count), ops, getattr(losses, name), 0
        x = rng.standard_normal((2, count, widths[0]))
        parts = (x[0], x[1], rng.integers(0, 3, count) / 2)
        self.inputs = [ops.xp.asarray(part.astype(dtype)) for part in parts]
        self.flat, self.params = buffers.flatten(network(*widths), ops.xp, dtype)
        self.m, self.v = ops.xp.zeros_like(self.flat), ops.xp.zeros_like(self.flat)
        self.losses: list[Any] = []
        self.constants = (0.8, 0.95, 1e-6)

    def steps(self, rates: list[float], *, singly: bool = False) -> None:
        call: Any = (
            (lambda *values: Ops.mlp_margin_steps(self.ops, *values)) if singly else self.ops.mlp_margin_steps
        )
        moments = (self.m, self.v, self.done + 1)
        self.losses.append(host(call(self.params, *self.inputs, self.loss, *moments, rates, *self.constants)))
        self.done += len(rates)

    def all(self) -> Any:
        """Every number that training made."""
        return np.concatenate([*self.losses, *(host(value) for value in (self.flat, self.m, self.v))])


def trained(
    ops: CupyOps, problem: Problem, cuts: tuple[int, ...] = (), dtype: str = "float64", **how: bool
) -> Any:
    training = Training(ops, problem, dtype)
    for start, end in zip((0, *cuts), (*cuts, len(RATES)), strict=True):
        training.steps(RATES[start:end], **how)
    result = training.all()
    assert result.dtype == dtype
    assert np.all(np.isfinite(result))
    return result


# ----- The steps -----


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("problem", PROBLEMS, ids=str)
def test_a_graph_is_single_steps(there: CupyOps, problem: Problem, dtype: str) -> None:
    """Bit for bit, in one call or in several."""
    expected = trained(there, problem, dtype=dtype, singly=True)
    for cuts in ((), (1, 1, 4)):
        np.testing.assert_array_equal(trained(there, problem, cuts, dtype), expected)


def test_many_sums_of_parts(there: CupyOps) -> None:
    """More blocks than there are warps that add them."""
    ops, problem = CupyOps(there.xp, there.lib, groups=200), ("squared", 32 * 130 + 5, (1, 1))
    np.testing.assert_array_equal(trained(ops, problem), trained(ops, problem, singly=True))


def test_one_capture_one_graph_all_steps() -> None:
    """The first step is launched singly, the other four by the graph; a second call captures nothing."""
    ops = shim_ops()
    lib, training = ops.lib, Training(ops, PROBLEMS[0])
    assert isinstance(lib, ShimLib)
    device.reads.clear()
    for value in (training, training):
        value.steps(RATES)
    assert device.reads == ["get"] * 2  # this test's own, of the losses
    assert lib.captures == 1
    assert lib.launched == [
        (name, "double, Logistic" if name == "mlp_margin_step" else "double")
        for name in ("mlp_margin_step", "adam_scheduled", "record_loss")
    ] * (2 * len(RATES))


def test_no_launch_changes_from_step_to_step() -> None:
    """Every number and address that the host gives is the same in all steps; of Adam singly they are not."""
    lib = NoGraphs()
    training = Training(shim_ops(lib), PROBLEMS[0])
    training.steps(RATES)
    width = len(lib.calls) // len(RATES)
    steps = [tuple(lib.calls[start : start + width]) for start in range(0, len(lib.calls), width)]
    assert (width, len(steps), len(set(steps))) == (3, len(RATES), 1)
    lib.calls.clear()
    training.steps(RATES, singly=True)
    assert len({call for call in lib.calls if call[0] == "adam_step"}) == len(RATES)


def test_without_graphs() -> None:
    """A library that cannot capture: the same bits."""
    expected = trained(shim_ops(), PROBLEMS[1])
    np.testing.assert_array_equal(trained(shim_ops(NoGraphs()), PROBLEMS[1], (2,)), expected)


def test_longer_than_a_schedule(monkeypatch: pytest.MonkeyPatch) -> None:
    """In pieces, the last one shorter."""
    expected = trained(shim_ops(), PROBLEMS[1], singly=True)
    monkeypatch.setattr(graph, "STEPS", 2)
    np.testing.assert_array_equal(trained(shim_ops(), PROBLEMS[1]), expected)


def test_few_graphs_are_kept() -> None:
    """The oldest goes, and comes back right."""
    ops, problems = shim_ops(), [PROBLEMS[1]] * (graph.GRAPHS + 1)
    lib, trainings = ops.lib, [Training(ops, problem) for problem in problems]
    assert isinstance(lib, ShimLib)
    for turn in range(2):
        for training in trainings:
            training.steps(RATES[turn : turn + 1])
    assert lib.captures == 2 * len(problems)  # the one that is needed next has always just gone
    for turn in range(2, len(RATES)):
        for training in trainings[1:]:
            training.steps(RATES[turn : turn + 1])
    assert lib.captures == 2 * len(problems)
    for training in trainings[1:]:
        np.testing.assert_array_equal(training.all(), trained(ops, PROBLEMS[1], singly=True))


def test_what_a_graph_cannot_change() -> None:
    """Other constants, loss, moments, layers, count of comparisons or blocks: another graph, and the right one."""
    lib, found = ShimLib(backends.shim_folder(), in_turn=True), []
    for singly in (False, True):
        ops = shim_ops(lib)
        training = Training(ops, ("logistic", 130, (1, 4, 1)))
        deep = {name: value.shape for name, value in network(1, 2, 2, 1).items()}  # 13 numbers too
        for one, name, value in (
            (training, "constants", (0.8, 0.95, 1e-6)),
            (training, "constants", (0.7, 0.95, 1e-6)),
            (training, "constants", (0.7, 0.95, 1e-3)),
            (training, "loss", losses.hinge),
            (training, "inputs", [part[:99] for part in training.inputs]),
            (training, "m", ops.xp.zeros_like(training.flat)),
            (training, "v", ops.xp.zeros_like(training.flat)),
            (training, "params", buffers.views(training.flat, deep)),
            (ops, "groups", 2),
        ):
            setattr(one, name, value)
            training.steps(RATES[:2], singly=singly)
            training.steps(RATES[2:3], singly=singly)
        found.append(training.all())
    np.testing.assert_array_equal(*found)
    assert lib.captures == 9


def test_other_comparisons_same_graph() -> None:
    """The graph reads copies of x and y: new comparisons of the same shape need no new graph."""
    found = []
    for singly in (False, True):
        ops = shim_ops()
        training = Training(ops, PROBLEMS[1])
        training.steps(RATES[:2], singly=singly)
        x_a, x_b, y = training.inputs
        training.inputs = [x_b + 1.0, x_a * 1.0, 1.0 - y]
        training.steps(RATES[2:], singly=singly)
        found.append(training.all())
        assert isinstance(ops.lib, ShimLib)
        assert ops.lib.captures == (not singly)
    np.testing.assert_array_equal(*found)


def test_what_no_kernel_takes() -> None:
    """Wide networks, float16, a loss of one's own: as the base class does it."""
    ops = shim_ops()
    lib = ops.lib
    assert isinstance(lib, ShimLib)
    wide, half, other = (
        Training(ops, ("squared", 3, widths), dtype)
        for widths, dtype in (
            ((2, 65, 1), "float64"),
            ((2, 5, 1), "float16"),
            ((2, 5, 1), "float64"),
        )
    )
    other.loss = lambda margin, y: losses.squared(margin, y)
    for training in (wide, half, other):
        training.steps(RATES[:2])
        assert training.losses[0].shape == (2,)
    assert lib.captures == 0
    assert "adam_scheduled" not in {name for name, _ in lib.launched}


def test_errors_are_the_base_class_s() -> None:
    turned = Training(shim_ops(), ("squared", 3, (1, 1)))
    views = buffers.views(turned.flat, {"Dense_0/bias": (1,), "Dense_0/kernel": (1, 1)})
    turned.params = {name: views[name] for name in ("Dense_0/kernel", "Dense_0/bias")}
    with pytest.raises(ValueError, match="in the order of their buffer"):
        turned.steps(RATES[:2])
    training = Training(shim_ops(), PROBLEMS[1])
    training.steps([])
    assert training.losses[0].shape == (0,)
    cupy_ops: Any = training.ops
    flat = training.flat
    with pytest.raises(ValueError, match="params must be layers of kernel and bias"):
        cupy_ops.mlp_margin_steps({"bias": flat[:]}, *training.inputs, losses.hinge, flat, flat, 1, RATES)
    training.done = -1
    with pytest.raises(ValueError, match="step must be >= 1, got 0"):
        training.steps(RATES)
    training.m = training.m[:-1]
    with pytest.raises(ValueError, match="m must be contiguous"):
        training.steps(RATES)


OBJECTIVES: dict[str, Callable[[Pairs], objectives.Objective]] = {
    "reward": objectives.reward,
    "log Z": lambda pairs: objectives.pbde(pairs, np.linspace(0.5, 2.0, pairs.n), 0.3, np.full(pairs.n, 0.1)),
    "likelihood": lambda pairs: objectives.slic_hf(pairs, 1.0, 0.1, np.full(pairs.n, -np.log(pairs.n))),
    "regression": lambda pairs: objectives.Regression(np.linspace(-1.0, 1.0, pairs.n)),
}


def fitted(ops: CupyOps, name: str, checkpoint: Any = None) -> Any:
    """Every number that a training run gives."""
    rng, points = np.random.default_rng(3), np.linspace(-2.0, 2.0, 30)
    x_a, x_b = rng.integers(0, 30, (2, 70))
    pairs = Ops().pairs(x_a, x_b, rng.integers(0, 2, 70), None, 30)
    config = Config(steps=9, learning_rate=0.02, log_every=4, checkpoint_every=4, dtype="float64")
    objective = OBJECTIVES[name](pairs)
    result = train(MLP(points, (1, 9, 9, 1)), objective, config, ops, checkpoint=checkpoint, progress=False)
    return np.concatenate([result.losses, *(np.ravel(value) for value in result.params.values())])


@pytest.mark.parametrize("name", OBJECTIVES)
def test_training_by_a_graph_is_single_steps(there: CupyOps, name: str) -> None:
    """Bit for bit; the steps of a run are one graph, captured once."""
    lib = there.lib
    before = lib.captures if isinstance(lib, ShimLib) else 0
    found = fitted(there, name)
    if isinstance(lib, ShimLib):
        assert lib.captures == before + 1
    with patch.object(CupyOps, "gradient_steps", lambda *_: None):
        np.testing.assert_array_equal(found, fitted(there, name))


def test_draws_are_not_captured() -> None:
    """Other numbers in every step: no graph."""
    ops = shim_ops()
    pairs = Ops().pairs([0, 1], [1, 2], [1, 0], None, 3)
    objective = objectives.slic_hf(pairs, 1.0, 0.1, np.full(3, -np.log(3.0)), draws=5)
    assert not objective.same_every_step
    train(MLP(np.arange(3.0), (1, 4, 1)), objective, Config(3, 0.1, dtype="float64"), ops, progress=False)
    assert isinstance(ops.lib, ShimLib)
    assert ops.lib.captures == 0


def test_the_bench_takes_graphs() -> None:
    """python -m bench mlp --ops cupy: its contender's steps."""
    lib, task, first = NoGraphs(), mlp_step.draw_task(3, False, 0), mlp_step.first_params(0)
    found, expected = (mlp.ops_contender(ops, task, first) for ops in (shim_ops(lib), Ops()))
    for k in (1, 2):
        assert abs(found.run(k) - expected.run(k)) < mlp.TENTH_LOSS
    assert [call[0] for call in lib.calls].count("adam_scheduled") == 3
    assert "adam_step" not in {call[0] for call in lib.calls}
