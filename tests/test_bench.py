"""The benchmark: that it checks before it times, what it prints, and how it fails."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from accel import Ops
from accel.sampling import draw
from bench import (
    cases,
    kernels,
    lm,
    lm_peers,
    lm_step,
    mlp,
    mlp_peers,
    mlp_step,
    peers,
    reward,
    roofline,
    sample,
    timing,
)
from bench.__main__ import main
from bench.peers import Place
from bench.timing import Contender
from tests import backends
from tests.checks import CLOSED_FORM, FLOAT32_STORED
from tests.shim.build import compiler

KEYS = {"name", "median_s", "min_s", "max_s", "loss"}


@pytest.fixture(autouse=True)
def _same_cores() -> Iterator[None]:
    """The command keeps its process to some cores; the tests after it need them all."""
    cores = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()
    yield
    if cores:
        os.sched_setaffinity(0, cores)


@pytest.mark.parametrize("shared", [[], ["--shared"]], ids=["apart", "shared"])
def test_both_backends_train_alike(shared: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """The last JSON line has the promised keys; NumPy and Numba reach the same loss."""
    losses = []
    for backend in ("numpy", "numba"):
        command = ["mlp", "--pairs", "40", "--steps", "13", "--threads", "1", "--ops", backend, "--json", *shared]
        assert main(command) == 0
        row = json.loads(capsys.readouterr().out.splitlines()[-1])
        assert row.keys() >= KEYS
        assert row["name"] == f"accel {backend}"
        assert 0 < row["min_s"] <= row["median_s"] <= row["max_s"]
        losses.append(row["loss"])
    assert abs(losses[0] - losses[1]) <= mlp.TENTH_LOSS
    assert losses[0] < np.log(2)


def test_table_fits_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["mlp", "--pairs", "9", "--steps", "11", "--threads", "1", "--ops", "numpy"]) == 0
    printed = capsys.readouterr().out
    assert max(map(len, printed.splitlines())) <= 100
    assert "9 comparisons, both sides through the network; float32, 1 thread\n" in printed
    assert "floor" in printed


def test_missing_peers_are_said(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def absent(name: str) -> None:
        raise ImportError(f"{name} is not installed: {peers.INSTALL[name]}")

    monkeypatch.setattr(peers, "import_peer", absent)
    assert main(["mlp", "--pairs", "9", "--steps", "11", "--threads", "1", "--ops", "numpy", "--peers"]) == 0
    printed = capsys.readouterr().out
    assert "jax is not installed: pip install jax\n" in printed
    assert "torch is not installed: pip install torch\n" in printed


@pytest.mark.parametrize("peer", ["jax", "torch"])
@pytest.mark.parametrize("shared", [False, True])
def test_peers_train_alike(peer: str, shared: bool) -> None:
    """Where they are installed. 2,000 comparisons of few points: some are merged, and weigh more."""
    pytest.importorskip(peer)
    task, first = mlp_step.draw_task(2000 if shared else 50, shared, 0), mlp_step.first_params(0)
    make = mlp_peers.jax_contender if peer == "jax" else mlp_peers.torch_contender
    contenders = [make(task, first, Place(1)), mlp.ops_contender(Ops(), task, first)]
    timing.interleave(contenders, 12)
    assert mlp.disagreement(contenders) is None


@pytest.mark.parametrize(
    ("ours", "theirs", "line"),
    [
        ((0.7, 0.6), (0.7, 0.6), None),
        ((0.7, 0.6), (0.7001, 0.6), "step 1: losses differ"),
        ((0.7, 0.6), (0.7, 0.601), "step 10: losses differ"),
        ((0.7, np.nan), (0.7, 0.6), "step 10: losses differ"),
    ],
)
def test_disagreement_is_seen(ours: tuple[float, float], theirs: tuple[float, float], line: str | None) -> None:
    contenders = [
        Contender(name, lambda steps: 0.0, first=first, tenth=tenth)
        for name, (first, tenth) in (("theirs", theirs), ("ours", ours))
    ]
    found = mlp.disagreement(contenders)
    assert (found is None) if line is None else (found or "").startswith(line)


def test_disagreement_fails(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """No times are printed where the losses differ."""
    wrong = Contender("wrong", lambda steps: 0.25)
    monkeypatch.setattr(mlp_peers, "jax_contender", lambda *_, **__: wrong)
    monkeypatch.setattr(mlp_peers, "torch_contender", lambda *_: wrong)
    assert main(["mlp", "--pairs", "9", "--steps", "11", "--threads", "1", "--ops", "numpy", "--peers"]) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("step 1: losses differ")
    assert printed.err.count("\n") == 1


def test_turns_are_interleaved() -> None:
    """Every contender makes all its steps, and none makes two turns in a row."""
    made: list[tuple[str, int]] = []

    def contender(name: str) -> Contender:
        return Contender(name, lambda steps: made.append((name, steps)) or 0.0)  # type: ignore[func-returns-value]

    contenders = [contender("a"), contender("b")]
    timing.interleave(contenders, 33)
    for one in contenders:
        assert sum(steps for name, steps in made if name == one.name) == 33
        assert len(one.seconds) == timing.TURNS
    timed = [name for name, _ in made[4:]]
    assert timed == ["a", "b"] * timing.TURNS


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (["--pairs", "0"], "pairs must be >= 1, got 0"),
        (["--steps", "10"], "steps must be >= 11, got 10"),
        (["--threads", "0"], "threads must be >= 1, got 0"),
        (["--threads", "100000"], "threads must be <= "),
        (["--seed", "-1"], "seed must be >= 0, got -1"),
    ],
)
def test_errors_are_one_line(option: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["mlp", *option]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith(message)
    assert printed.err.count("\n") == 1


def test_operations_are_counted() -> None:
    """One row of 1-64-64-64-64-1: 3 products of 64 x 64 and one of 64 x 1 forward and backward (three times each),
    one of 1 x 64 without the gradient of its input (twice); 2 operations a term."""
    task = mlp_step.draw_task(1, False, 0)
    assert task.flops == 2 * (2 * (3 * (3 * 64 * 64 + 64) + 2 * 64))
    assert task.tanhs == 2 * 4 * 64
    assert mlp_step.draw_task(5, True, 0).tanhs == mlp_step.POINTS * 4 * 64


def test_reward_prints_a_run_a_seed(capsys: pytest.CaptureFixture[str]) -> None:
    """The same comparisons give the same bits, other seeds others; training lowers the distance to p*."""
    assert main(["reward", "--seeds", "2", "--steps", "30", "--json"]) == 0
    first, other = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert main(["reward", "--seeds", "1", "--steps", "30", "--json"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert (first["tv"], first["loss"]) == (again["tv"], again["loss"]) != (other["tv"], other["loss"])
    assert set(first) == {"name", "seed", "tv", "loss", "seconds"}
    sample = reward.Sample.draw(0)
    assert first["tv"] < sample.distance(np.zeros(reward.POINTS))
    assert sample.distance(np.asarray(sample.toy.annotator.log_p)) < CLOSED_FORM
    assert main(["reward", "--seeds", "0"]) == 2


def test_kernels_of_every_backend(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The smallest size of every op on the backends that there are: a JSON file with all of it, and a picture."""
    monkeypatch.setattr(roofline, "COPIED", 1 << 12)
    monkeypatch.setattr(roofline, "SQUARE", {"cpu": 32, "gpu": 32})
    monkeypatch.setattr(roofline, "CPU_SECONDS", 0.0)
    command = [
        "kernels",
        "--largest",
        "1024",
        "--json",
        "--save",
        str(tmp_path / "a" / "k.json"),
        "--out",
        str(tmp_path),
    ]
    assert main(command) == 0
    results = json.loads(capsys.readouterr().out)
    assert results == json.loads((tmp_path / "a" / "k.json").read_text())
    assert results["machines"].keys() == results["rooflines"].keys() >= {"numpy", "numba"}
    assert results["machines"]["numpy"].keys() >= {"device", "commit", "numpy", "python"}
    assert {row["backend"] for row in results["rows"]} == results["machines"].keys()
    assert all(row["seconds"] > 0 and row["floor"] > 0 and row["moved"] > 0 for row in results["rows"])
    assert (tmp_path / "kernels.png").stat().st_size > 10_000
    assert main(["kernels", "--largest", "1000"]) == 2
    assert main(["kernels", "--largest", "1024", "--out", str(tmp_path / "kernels.png")]) == 2
    assert "kernels.png" in capsys.readouterr().err


def test_all_get_the_same_comparisons(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """With --shared: the merged ones, which `Ops.pairs` leaves as they are, so that nobody has less work; and the
    first line says so."""
    monkeypatch.setattr(mlp_step, "POINTS", 16)
    task = mlp_step.draw_task(2000, True, 0)
    again = Ops().pairs(task.x_a, task.x_b, task.y, task.weight, len(task.x))
    assert len(task.y) < 2 * 16 * 16
    for found, given in zip((again.x_a, again.x_b, again.y), (task.x_a, task.x_b, task.y), strict=True):
        np.testing.assert_array_equal(found, given)
    np.testing.assert_allclose(again.weight, task.weight, rtol=FLOAT32_STORED)
    np.testing.assert_allclose(task.weight.sum(dtype=np.float64), 1.0, rtol=FLOAT32_STORED)
    command = ["mlp", "--pairs", "2000", "--shared", "--steps", "11", "--threads", "1", "--ops", "numpy"]
    assert main(command) == 0
    assert f"merged to {len(task.y):,} beforehand, for all; float32" in capsys.readouterr().out


def test_every_op_has_a_row() -> None:
    """Every pair of the ops, and the other hot ones; linear layers and products are the BLAS's, and the parts of a
    layer are composed of the pairs."""
    pairs = {name for name in dir(Ops) if name.endswith(("_forward", "_backward"))}
    others = {"adam_step", "margin_loss", "mixture_loss", "scatter", "mlp_margin_step", "uniform", "next_token"}
    composed = ("norm_matmuls", "matmul_add", "mlp_block")
    products = ("linear", "matmul", "log_sum_exp")
    left_out = {f"{name}_{way}" for name in products + composed for way in ("forward", "backward")}
    measured = {case.op for case in cases.cases((1024,))}
    long = {"attention_forward_128", "attention_backward_128"}  # by causal_softmax_backward too
    assert measured == (pairs | others | long) - left_out - {"causal_softmax_backward"}


def test_kernels_are_right_on_a_device() -> None:
    """What the benchmark calls runs on a device's own arrays, and is as accurate as float32 can be."""
    if compiler() is None:
        pytest.skip("no g++: the kernels cannot run on this CPU")
    for case in cases.cases((1024,)):
        kernels.error_of(backends.shim_ops(in_turn=True), case)


@pytest.mark.parametrize("shared", [False, True])
def test_a_step_is_timed_on_a_device(shared: bool) -> None:
    """`bench mlp` puts its arrays where the backend computes: NumPy's losses."""
    if compiler() is None:
        pytest.skip("no g++: the kernels cannot run on this CPU")
    task, first = mlp_step.draw_task(50, shared, 0), mlp_step.first_params(0)
    contenders = [mlp.ops_contender(ops, task, first) for ops in (backends.shim_ops(in_turn=True), Ops())]
    for contender in contenders:
        contender.first, contender.tenth = contender.run(1), contender.run(9)
    assert mlp.disagreement(contenders) is None


SMALLEST = tuple(cases.cases((1024,)))
Breaks = Callable[
    [Any, tuple[Any, ...]], Any
]  # what the right op returns, and its arguments -> what a broken one does


def scaled(number: int) -> Breaks:
    """The part of that number of a result is off by a factor of 1.001; a token by one."""

    def breaks(result: Any, _: Any) -> Any:
        if isinstance(result, dict):
            return {name: value * 1.001 for name, value in result.items()}
        if isinstance(result, tuple):
            return (*result[:number], breaks(result[number], _), *result[number + 1 :])
        return result * 1.001 if np.asarray(result).dtype.kind == "f" else result ^ 1

    return breaks


def nothing(result: Any, _: Any) -> Any:
    """Memory that was never written, as long as it is zeros."""
    if isinstance(result, dict):
        return {name: np.zeros_like(value) for name, value in result.items()}
    return tuple(nothing(part, _) for part in result) if isinstance(result, tuple) else np.zeros_like(result)


def inputs(result: Any, arguments: tuple[Any, ...]) -> Any:
    """An argument of the same shape, unchanged, or the first array as long as it goes."""
    if isinstance(result, dict):
        return {name: inputs(value, arguments) for name, value in result.items()}
    if isinstance(result, tuple):
        return tuple(inputs(part, arguments) for part in result)
    flat = [value for value in arguments if isinstance(value, np.ndarray)] or [np.ones(1)]
    same = [value for value in flat if value.shape == np.shape(result)]
    return same[0] if same else np.resize(flat[0], np.shape(result))


def broken(case: cases.Case, breaks: Breaks) -> Ops:
    """Ops of which one is broken: the case's."""
    name = case.op.removesuffix(f"_{cases.LONG}")
    forward = name.endswith("_forward")

    class Broken(Ops):
        pass

    def method(self: Ops, *arguments: Any, **options: Any) -> Any:
        result = getattr(Ops, name)(self, *arguments, **options)
        return (breaks(result[0], arguments), result[1]) if forward else breaks(result, arguments)

    setattr(Broken, name, method)
    return Broken()


def refuses(case: cases.Case, ops: Ops) -> None:
    with pytest.raises(
        ValueError, match=rf"{case.op} of {case.size} on numpy must be right, got an error of \d\.\d"
    ):
        kernels.error_of(ops, case)


@pytest.mark.parametrize("case", [case for case in SMALLEST if case.op != "adam_step"], ids=lambda case: case.op)
def test_wrong_results_are_not_timed(case: cases.Case) -> None:
    """Of every op: one that does nothing, returns its arguments, or is off by a thousandth in any one result."""
    result = case.make(Ops(), np.float32)()
    for breaks in (nothing, inputs, *map(scaled, range(len(result) if isinstance(result, tuple) else 1))):
        refuses(case, broken(case, breaks))
    assert kernels.error_of(broken(case, lambda result, _: result), case) < 64 * kernels.EPS


@pytest.mark.parametrize("wrong", ["nothing", "gradient", "rate", "m", "v", "uncorrected"])
def test_wrong_steps_of_adam_are_not_timed(wrong: str) -> None:
    """It works in place: one that does nothing, goes by the gradient, or leaves a moment as it was."""

    class Wrong(Ops):
        def adam_step(self, params: Any, grads: Any, m: Any, v: Any, step: int, lr: float, *others: Any) -> None:
            if wrong == "gradient":
                params += 5 * lr * grads
            if wrong in ("nothing", "gradient"):
                return
            m_before, v_before = m.copy(), v.copy()
            late, rate = step + 1000 * (wrong == "uncorrected"), lr * (1.001 if wrong == "rate" else 1)
            super().adam_step(params, grads, m, v, late, rate, *others)
            if wrong == "m":
                m[...] = m_before
            if wrong == "v":
                v[...] = v_before

    refuses(next(case for case in SMALLEST if case.op == "adam_step"), Wrong())


def test_a_gpu_is_timed_by_its_events() -> None:
    """Batches between two events; the first only says how long a batch is."""
    recorded: list[int] = []

    class Event:
        def record(self, stream: str) -> None:
            recorded.append(len(calls))

        def synchronize(self) -> None:
            pass

    calls: list[int] = []
    cuda = SimpleNamespace(get_current_stream=lambda: "stream", Event=Event, get_elapsed_time=lambda a, b: 4.0)
    ops = SimpleNamespace(name="cupy", xp=SimpleNamespace(cuda=cuda))
    taken = roofline.seconds(ops, lambda: calls.append(1))  # type: ignore[arg-type]
    sizes = np.diff(recorded)[::2]
    assert list(sizes) == [1] + [5] * roofline.BATCHES
    assert taken == pytest.approx(4e-3 / 5)


# ----- The language model -----


@pytest.mark.parametrize("task", ["ce", "pref"])
def test_language_model_prints_its_keys(task: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The two backends train alike; the table fits a terminal."""
    losses = []
    for backend in ("numpy", "numba"):
        command = ["lm", "--task", task, "--batch", "2", "--steps", "12", "--threads", "1", "--ops", backend]
        assert main([*command, "--json"]) == 0
        row = json.loads(capsys.readouterr().out.splitlines()[-1])
        assert row.keys() >= KEYS
        assert row["name"] == f"accel {backend}"
        losses.append(row["loss"])
    assert abs(losses[0] - losses[1]) <= lm.STEPPED * lm.ROUNDINGS[task] * (1 + losses[0])
    assert main(command) == 0
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 100


@pytest.mark.parametrize("peer", ["jax", "torch"])
@pytest.mark.parametrize("loss", ["ce", "pref"])
def test_language_model_peers_train_alike(peer: str, loss: lm_step.Loss) -> None:
    """Where they are installed."""
    pytest.importorskip(peer)
    config, _ = lm_step.CONFIGS["tiny"]
    task, first = lm_step.draw_task(config, loss, 3, 0), lm_step.first_params(config, 0)
    make = lm_peers.jax_contender if peer == "jax" else lm_peers.torch_contender
    contenders = [make(task, first, Place(1)), lm.ops_contender(Ops(), task, first)]
    timing.interleave(contenders, 12)
    assert lm.disagreement(contenders, loss) is None


def test_language_model_operations_are_counted() -> None:
    """Every matrix product of the tiny network: 3 projections, output, MLP, attention to 16.5 tokens on average,
    and the logits; each forward once and backward twice."""
    config, _ = lm_step.CONFIGS["tiny"]
    layer = 3 * 64 * 64 + 64 * 64 + 2 * 64 * 256 + 2 * 16.5 * 64
    assert lm_step.draw_task(config, "ce", 5, 0).flops == 3 * 2 * 5 * 32 * (2 * layer + 64 * 256)
    assert lm_step.draw_task(config, "pref", 5, 0).flops == 2 * lm_step.draw_task(config, "ce", 5, 0).flops


def test_sampling_prints_its_keys(capsys: pytest.CaptureFixture[str]) -> None:
    command = ["sample", "--config", "tiny", "--count", "5", "--batch", "3", "--turns", "2", "--threads", "1"]
    assert main([*command, "--json"]) == 0
    row = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert row.keys() >= KEYS | {"tokens_per_s"}
    assert row["tokens_per_s"] == pytest.approx(5 * 32 / row["median_s"])
    assert main(command) == 0
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 100


def test_wrong_samples_are_seen(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A loop that gives other log-likelihoods than the network's is not timed."""

    def wrong(*arguments: Any) -> Any:
        tokens, log_p, ended = draw(*arguments)
        return tokens, 1.01 * log_p, ended

    monkeypatch.setattr(sample, "draw", wrong)
    assert main(["sample", "--config", "tiny", "--count", "2", "--turns", "1", "--threads", "1"]) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "log-likelihoods of the loop and the network differ" in printed.err
