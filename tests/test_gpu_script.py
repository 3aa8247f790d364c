"""bench/gpu.sh, which waits for a machine with a GPU: its stages, limits and exit status, without one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests import gpu
from tests.shim import examples
from tests.shim.build import compiler

ROOT = Path(__file__).parent.parent
SCRIPT = ROOT / "bench" / "gpu.sh"


def script(out: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """The script in a process of its own, with this interpreter, its results in out."""
    own = {"PYTHON": sys.executable, "OUT": str(out), **variables}
    return subprocess.run(
        [str(SCRIPT), *arguments], env=os.environ | own, capture_output=True, text=True, check=False, timeout=300
    )


def test_a_dry_run(tmp_path: Path) -> None:
    """Every stage runs, on the shim or NumPy, or says by name why it does not."""
    if compiler() is None:
        pytest.skip("no g++: the kernels cannot run on this CPU")
    done = script(tmp_path, "--dry")
    assert done.returncode == 0, done.stdout + done.stderr
    stages = (tmp_path / "stages.txt").read_text(encoding="utf-8")
    assert [line.split()[0] for line in stages.splitlines()] == [
        *("smoke", "tests", "exact", "sanitize", "figure", "mlp_32768")
    ]
    assert "exit 1" not in stages
    assert stages in done.stdout
    assert "1 of 1 right" in (tmp_path / "smoke.log").read_text(encoding="utf-8")
    assert '"name": "accel numpy"' in (tmp_path / "mlp_32768.log").read_text(encoding="utf-8")


def test_a_failure_is_told_and_stops_nothing(tmp_path: Path) -> None:
    done = script(tmp_path, "--dry", "smoke", "exact", PYTHON="false")
    assert done.returncode == 1
    assert (tmp_path / "stages.txt").read_text(encoding="utf-8").count("exit 1 ") == 2


def test_nothing_begins_after_the_end(tmp_path: Path) -> None:
    done = script(tmp_path, "--dry", "smoke", TOTAL="2")
    assert "smoke            skipped: 2 s are over" in done.stdout
    assert done.returncode == 0


def test_an_unknown_stage_is_refused(tmp_path: Path) -> None:
    done = script(tmp_path, "speed")
    assert done.returncode == 2
    assert "no stage speed: smoke, tests" in done.stderr


def test_a_wrong_kernel_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The others are still checked."""
    if compiler() is None:
        pytest.skip("no g++: the kernels cannot run on this CPU")

    def wrong(ops: object) -> None:
        raise AssertionError("off by 1e-3")

    monkeypatch.setattr(examples, "EXAMPLES", {"columns": wrong, "philox": examples.random_numbers})
    assert gpu.main(["launches", "--ops", "shim"]) == 1
    printed = capsys.readouterr().out
    assert "AssertionError: off by 1e-3" in printed
    assert "1 of 2 right" in printed


def test_without_a_gpu_it_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def absent(name: str) -> None:
        raise ImportError(f"the {name} backend needs a GPU")

    monkeypatch.setattr(gpu, "get_ops", absent)
    assert gpu.main(["launches"]) == 2
    assert capsys.readouterr().err == "the cupy backend needs a GPU\n"


def test_no_check_is_a_failure() -> None:
    """A misspelt name must not look like success."""
    assert gpu.main(["launches", "--ops", "shim", "--only", "column"]) == 1
