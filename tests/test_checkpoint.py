"""Checkpoints: written whole or not at all, refused where torn or foreign, and resumed to the last bit."""

from __future__ import annotations

import os
import re
import signal
import stat
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from accel import objectives
from accel.backends import get_ops
from accel.checkpoint import CheckpointError, check_same_run, fingerprint, load, save, whole_file
from accel.minimize import Config
from accel.models import MLP
from accel.ops import Ops
from accel.train import Result, train
from tests.test_train import Terminal

OPS = get_ops("numpy")
CONFIG = Config(400, 1e-3, log_every=10, checkpoint_every=50)


def run(path: Path | None, config: Config = CONFIG, g: float = 0.0, ops: Ops = OPS, **options: Any) -> Result:
    """The run that the tests below interrupt: a network, DPO-like comparisons with f over x, float32."""
    rng = np.random.default_rng(7)
    pairs = OPS.pairs(rng.integers(0, 40, 300), rng.integers(0, 40, 300), rng.integers(0, 2, 300), None, 40)
    objective = objectives.pbde(pairs, np.linspace(0.5, 2, 40), g * np.arange(40))
    return train(MLP(np.linspace(-1, 1, 40), (1, 16, 16, 1)), objective, config, ops, checkpoint=path, **options)


def assert_same_bits(got: Result, expected: Result) -> None:
    assert got.steps == expected.steps
    assert got.losses.tobytes() == expected.losses.tobytes()
    assert got.values.tobytes() == expected.values.tobytes()
    for name, value in expected.params.items():
        assert got.params[name].tobytes() == value.tobytes(), name


# ----- The file -----


def test_round_trip(tmp_path: Path) -> None:
    """Arrays keep dtype, shape and bits; the description its values; folders are made; no other file is left."""
    arrays: dict[str, NDArray[Any]] = {
        "params": np.array([1.5, -np.inf, np.nan], np.float32),
        "m": np.zeros((0, 2)),
        "step": np.array(7),
    }
    about = {"step": 3, "rate": 0.1, "name": "é", "nested": {"list": [1, None]}, "count": np.int64(4)}
    path = tmp_path / "new" / "run.npz"
    for _ in range(2):
        save(path, arrays, about)
    found, description = load(path)
    assert description == about
    assert list(found) == list(arrays)
    for name, value in arrays.items():
        assert (found[name].dtype, found[name].shape) == (value.dtype, value.shape)
        assert found[name].tobytes() == value.tobytes()
    assert [file.name for file in path.parent.iterdir()] == ["run.npz"]


def test_two_processes_may_save_one_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While one has its file written and not yet renamed, another saves: both succeed, and the file is whole."""
    path, plain, depth = tmp_path / "run.npz", os.replace, 0

    def replace_late(source: Path, target: Path) -> None:
        nonlocal depth
        depth += 1
        if depth == 1:
            monkeypatch.setattr(os, "getpid", lambda: 2)
            save(path, {"params": np.full(2, 2.0)}, {})
        plain(source, target)

    monkeypatch.setattr(os, "getpid", lambda: 1)
    monkeypatch.setattr(os, "replace", replace_late)
    save(path, {"params": np.full(2, 1.0)}, {})
    assert load(path)[0]["params"].tolist() == [1.0, 1.0]
    assert [file.name for file in tmp_path.iterdir()] == ["run.npz"]


def test_bytes_are_on_the_disk_before_the_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file is forced there whole, then renamed, then the folder that has the name: else a power cut may leave
    a name without the bytes."""
    done: list[str] = []
    sync, plain, path = os.fsync, os.replace, tmp_path / "run.npz"

    def fsync(descriptor: int) -> None:
        is_folder = stat.S_ISDIR(os.fstat(descriptor).st_mode)
        done.append("folder" if is_folder else f"file of {os.fstat(descriptor).st_size}")
        sync(descriptor)

    def rename(source: Path, target: Path) -> None:
        done.append("rename")
        plain(source, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", rename)
    save(path, {"params": np.arange(5.0)}, {})
    assert done == [f"file of {path.stat().st_size}", "rename", "folder"]


def test_a_setting_that_only_one_side_has_is_a_difference(tmp_path: Path) -> None:
    for found, expected in (({"a": 1, "b": 2}, {"a": 1}), ({"a": 1}, {"a": 1, "b": 2})):
        with pytest.raises(CheckpointError, match=r"belongs to another run: b is (2|nothing) there and"):
            check_same_run(tmp_path / "run.npz", found, expected)


def test_every_torn_file_is_one_clear_error(tmp_path: Path) -> None:
    """Cut after any number of bytes, or a byte flipped anywhere: one line of error, or the very same content."""
    path = tmp_path / "run.npz"
    arrays = {"params": np.arange(5.0), "losses": np.ones(3, np.float32)}
    save(path, arrays, {"step": 3})
    whole = path.read_bytes()
    flipped = [whole[:i] + bytes([whole[i] ^ 0x41]) + whole[i + 1 :] for i in range(0, len(whole), 3)]
    refused = 0
    for damaged in [whole[:size] for size in range(0, len(whole), 7)] + flipped:
        path.write_bytes(damaged)
        content, error = attempt(path)
        refused += error is not None
        assert content == {"params": np.arange(5.0).tobytes(), "losses": np.ones(3, np.float32).tobytes()} or error
        assert error is None or re.fullmatch(rf"{path} is not .* delete it to start again, or .*", error)
    assert refused > len(whole) // 7 + len(flipped) // 2


def attempt(path: Path) -> tuple[dict[str, bytes], str | None]:
    try:
        return {name: value.tobytes() for name, value in load(path)[0].items()}, None
    except CheckpointError as error:
        return {}, str(error)


def test_other_files(tmp_path: Path) -> None:
    """No file is FileNotFoundError; text and foreign .npz files are refused; the reserved name too."""
    with pytest.raises(FileNotFoundError):
        load(tmp_path / "none.npz")
    (tmp_path / "text.npz").write_text("hello")
    np.savez(tmp_path / "foreign.npz", a=np.zeros(2))
    for name in ("text.npz", "foreign.npz"):
        with pytest.raises(CheckpointError, match="is not a whole checkpoint"):
            load(tmp_path / name)
    with pytest.raises(ValueError, match='no array may be called "about"'):
        save(tmp_path / "run.npz", {"about": np.zeros(2)}, {})
    with pytest.raises(ValueError, match='no array may be called "file"'):
        save(tmp_path / "run.npz", {"file": np.zeros(2)}, {})
    with pytest.raises(ValueError, match="a must hold numbers, got object"):
        save(tmp_path / "run.npz", {"a": np.array([None])}, {})
    with pytest.raises(TypeError, match="about must hold plain values, got object"):
        save(tmp_path / "run.npz", {}, {"what": object()})


def test_fingerprints_tell_data_apart() -> None:
    """Equal data, equal text; another value, dtype, shape or loss function, another text."""
    base = fingerprint(np.arange(6.0))
    assert base == fingerprint(np.arange(6.0))
    others = [np.arange(6.0)[::-1], np.arange(6.0, dtype=np.float32), np.arange(6.0).reshape(2, 3), list(range(6))]
    assert len({base, *map(fingerprint, others)}) == 5
    zeros = [np.zeros(4), np.zeros(4, np.int64), np.zeros((2, 2))]  # the same bytes
    assert len(set(map(fingerprint, zeros))) == 3
    pairs = OPS.pairs_of_wins([[0, 1.0], [2.0, 0]])
    pre = np.log([0.5, 0.5])
    three = [objectives.reward(pairs), objectives.ipo(pairs, 0.5, pre), objectives.dpo(pairs, 1.0, pre)]
    assert len({fingerprint(objective) for objective in three}) == 3


# ----- Runs that end and go on -----


class Interrupted(Exception):
    """Stands for whatever ends a run."""


@pytest.mark.parametrize(
    ("backend", "at"), [(OPS, at) for at in (49, 50, 51, 123, 399)] + [(get_ops("numba", 1), 123)]
)
def test_a_resumed_run_ends_bit_for_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, backend: Ops, at: int
) -> None:
    """Stopped in the middle of update number `at`, then run again: as if nothing had happened."""
    path, taken = tmp_path / "run.npz", 0
    plain = backend.adam_step

    def adam_step(*arguments: Any) -> None:
        nonlocal taken
        if taken == at:
            raise Interrupted
        taken += 1
        plain(*arguments)

    monkeypatch.setattr(backend, "adam_step", adam_step)
    with pytest.raises(Interrupted):
        run(path, ops=backend)
    monkeypatch.undo()
    assert load(path)[1]["progress"]["step"] == at // 50 * 50
    assert_same_bits(run(path, ops=backend), run(None, ops=backend))
    finished = path.read_bytes()
    assert_same_bits(run(path, ops=backend), run(None, ops=backend))  # a finished run is only read
    assert path.read_bytes() == finished


KILLED = """
import os, signal, sys
from pathlib import Path
from accel.ops import Ops
from tests.test_checkpoint import run

where, path = sys.argv[1], Path(sys.argv[2])
plain = {"adam_step": Ops.adam_step, "replace": os.replace}
calls = {"adam_step": 0, "replace": 0}

def killing(name, last):
    def call(*arguments):
        calls[name] += 1
        if calls[name] > last:
            os.kill(os.getpid(), signal.SIGKILL)
        return plain[name](*arguments)
    return call

if where == "training":
    Ops.adam_step = killing("adam_step", 180)
else:
    os.replace = killing("replace", 3)
run(path)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")
@pytest.mark.parametrize("where", ["training", "saving"])
def test_kill_9(tmp_path: Path, where: str) -> None:
    """A process killed between steps, or with a checkpoint half made, leaves a whole one, which is resumed."""
    path = tmp_path / "run.npz"
    child = subprocess.run(
        [sys.executable, "-c", KILLED, where, str(path)], cwd=Path(__file__).parents[1], check=False, timeout=120
    )
    assert child.returncode == -signal.SIGKILL
    _, about = load(path)
    assert about["progress"]["step"] == (150 if where == "training" else 100)
    assert_same_bits(run(path), run(None))


def test_the_bar_of_a_resumed_run_starts_where_it_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A finished run shows all its steps at once."""
    run(tmp_path / "run.npz")
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    run(tmp_path / "run.npz")
    assert "400/400" in terminal.getvalue()


def test_other_runs_are_refused(tmp_path: Path) -> None:
    """Another rate, seed or other data: refused, and the difference named. resume=False starts anew."""
    path = tmp_path / "run.npz"
    run(path)
    other_rate, other_start = replace(CONFIG, learning_rate=0.5), replace(CONFIG, seed=1)
    changes: list[tuple[dict[str, Any], str]] = [
        ({"config": other_rate}, "belongs to another run: learning_rate is 0.001 there and 0.5 here"),
        ({"config": other_start}, "belongs to another run: seed is 0 there and 1 here"),
        ({"g": 1.0}, "belongs to another run: objective is "),
    ]
    for change, message in changes:
        with pytest.raises(CheckpointError) as caught:
            run(path, **change)
        assert message in str(caught.value)
        assert "\n" not in str(caught.value)
    assert_same_bits(run(path, other_start, resume=False), run(None, other_start))
    assert_same_bits(run(path, replace(other_start, checkpoint_every=20)), run(None, other_start))


def test_a_torn_checkpoint_stops_training(tmp_path: Path) -> None:
    """A file cut in half: one line that says what to do, and the file is left as it is."""
    path = tmp_path / "run.npz"
    run(path)
    half = path.read_bytes()[:-1000]
    path.write_bytes(half)
    with pytest.raises(CheckpointError, match="it was torn or damaged; delete it to start again"):
        run(path)
    assert path.read_bytes() == half


@pytest.mark.parametrize(
    "change",
    [
        {"progress": None},
        {"progress": {"step": 400}},
        {"progress": {"step": None, "stopped": "steps", "seconds": 1.0}},
        {"run": [1]},
        {"run": None},
    ],
)
def test_a_checkpoint_of_something_else_stops_training(tmp_path: Path, change: dict[str, Any]) -> None:
    """A whole file with another description: one line, not the error of whatever is missing."""
    path = tmp_path / "run.npz"
    run(path)
    arrays, about = load(path)
    save(path, arrays, about | change)
    with pytest.raises(CheckpointError, match=r"run\.npz does not say how far a run is; delete it to start again"):
        run(path)
    save(path, arrays, {key: value for key, value in about.items() if key not in change})
    with pytest.raises(CheckpointError, match="does not say how far a run is"):
        run(path)


def test_a_description_must_be_a_dict(tmp_path: Path) -> None:
    """What `save` never writes."""
    path = tmp_path / "run.npz"
    described = np.frombuffer(b'{"about": 3, "arrays": []}', dtype=np.uint8)
    np.savez(path, about=described)
    with pytest.raises(CheckpointError, match=r"is not a whole checkpoint \(TypeError\)"):
        load(path)


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    """A block that fails leaves what was there, and nothing beside it; one that ends replaces it."""
    path = tmp_path / "kept"
    path.write_bytes(b"old")

    def fail() -> None:
        with whole_file(path) as file:
            file.write(b"half")
            assert path.read_bytes() == b"old"
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert path.read_bytes() == b"old"
    with whole_file(path) as file:
        file.write(b"new")
    assert [(found.name, found.read_bytes()) for found in tmp_path.iterdir()] == [("kept", b"new")]


@pytest.mark.parametrize(
    ("progress", "dtype"),
    [
        ({"step": 50.0}, "float32"),
        ({"step": -1}, "float32"),
        ({"step": 500}, "float32"),
        ({"stopped": "steps"}, "float32"),
        ({"stopped": "tired"}, "float32"),
        ({"stopped": None}, "float32"),
        ({"seconds": float("nan")}, "float32"),
        ({"seconds": -1.0}, "float32"),
        ({}, "float64"),
        ({}, "int32"),
        ({}, "one number"),
    ],
)
def test_what_no_run_can_have_written(tmp_path: Path, progress: dict[str, Any], dtype: str) -> None:
    """A step, an end, a time or a dtype that is not this run's is refused, not taken over."""
    path = tmp_path / "run.npz"
    half = run(tmp_path / "half.npz", replace(CONFIG, steps=100, schedule="constant"))
    config = replace(CONFIG, schedule="constant")
    run(path, config)
    arrays, about = load(tmp_path / "half.npz")
    about["run"], about["progress"]["stopped"] = load(path)[1]["run"], ""
    save(path, arrays, about)
    assert run(path, config).losses[:100].tobytes() == half.losses.tobytes()  # so far it is what this run writes
    about["progress"] |= progress
    wanted = arrays["params"][:1] if dtype == "one number" else arrays["params"].astype(dtype)
    arrays["params"] = wanted  # one number would be written to all
    step = about["progress"]["step"]
    arrays["losses"] = np.resize(arrays["losses"], max(0, int(step)))
    save(path, arrays, about)
    with pytest.raises(CheckpointError, match=r"how far a run is|the arrays of this run"):
        run(path, config)


def test_other_first_parameters_are_another_run(tmp_path: Path) -> None:
    """A run from other first parameters does not go on from the checkpoint."""
    model = MLP(np.linspace(-1, 1, 40), (1, 16, 16, 1))
    first, other = (model.init(np.random.default_rng(seed)) for seed in (1, 2))
    run(tmp_path / "run.npz", initial=first)
    assert run(tmp_path / "run.npz", initial=first).steps == CONFIG.steps
    with pytest.raises(CheckpointError, match="belongs to another run: first parameters"):
        run(tmp_path / "run.npz", initial=other)
