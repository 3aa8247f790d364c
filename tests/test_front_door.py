"""`import pbde` and the `pbde` command, here and as `pip install .` leaves them."""

from __future__ import annotations

import importlib
import os
import pkgutil
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path
from types import ModuleType

import pytest

import pbde
import reference

ROOT = Path(__file__).parents[1]


def test_it_has_the_calls_of_the_reference() -> None:
    """All of them, and no submodule."""
    names = {name for name in reference.__all__ if not isinstance(getattr(reference, name), ModuleType)}
    assert set(pbde.__all__) == names
    assert all(getattr(pbde, name) is getattr(reference, name) for name in names)
    assert not any(isinstance(getattr(pbde, name), ModuleType) for name in pbde.__all__)


@pytest.mark.parametrize("room", ["reference", "accel", "lm"])
def test_no_export_hides_a_submodule(room: str) -> None:
    """`optimum` apart, whose name is fixed: a module and the function that it is for; accel's train beside it."""
    package = importlib.import_module(room)
    modules = {module.name for module in pkgutil.iter_modules(package.__path__)}
    hidden = {
        name for name in modules & set(package.__all__) if not isinstance(getattr(package, name), ModuleType)
    }
    assert hidden <= {"optimum", "train"}


def test_its_docstring_is_true(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The lines that it shows run."""
    (tmp_path / "games.csv").write_text("home,visitor,winner\nA,B,A\nB,A,A\nA,B,B\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    code = (pbde.__doc__ or "").partition("\n\n")[2]
    found: dict[str, object] = {}
    exec(code, found)
    assert isinstance(found["fitted"], pbde.Fit)


def test_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert pbde.main(["--version"]) == 0
    assert capsys.readouterr().out == f"pbde {pbde.__version__}\n"
    assert pbde.main(["--help"]) == 0
    text = capsys.readouterr().out
    assert all(f"\n  {name} " in text for name in (*pbde.EXACT, "figures", "lm", "bench"))
    assert pbde.main([]) == 2
    capsys.readouterr()
    assert pbde.main(["verfy"]) == 2
    assert capsys.readouterr().err.startswith("error: no command verfy: one of verify, fit")
    with pytest.raises(SystemExit):
        pbde.main(["fit", "--help"])
    assert capsys.readouterr().out.startswith("usage: pbde fit ")
    assert pbde.main(["verify", "--n", "3", "--trials", "1", "--json"]) == 0


def test_it_imports_the_reference_alone() -> None:
    """What is slow or optional is imported by the command that needs it."""
    code = "import sys, pbde; print(sorted({'accel', 'numba', 'matplotlib', 'figures', 'lm'} & set(sys.modules)))"
    assert run([sys.executable, "-c", code], ROOT).stdout == "[]\n"


def run(command: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    """A process in folder that succeeds."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def test_an_installed_wheel(tmp_path: Path) -> None:
    """Built here, installed alone into a fresh environment that sees the packages of this one, run elsewhere."""
    pytest.importorskip("pip")
    pip, empty, fresh = [sys.executable, "-m", "pip"], tmp_path / "empty", tmp_path / "fresh"
    empty.mkdir()
    ignored = shutil.ignore_patterns(".*", "__pycache__", "*.egg-info", "build", "out", "tests")
    shutil.copytree(ROOT, tmp_path / "tree", ignore=ignored)
    run([*pip, "wheel", "-q", "--no-build-isolation", "--no-deps", "-w", str(tmp_path), "./tree"], tmp_path)
    (wheel,) = tmp_path.glob("pbde-*.whl")
    venv.create(fresh, with_pip=False)
    python = fresh / ("Scripts" if os.name == "nt" else "bin") / "python"
    run([*pip, "--python", str(python), "install", "-q", "--no-deps", str(wheel)], tmp_path)
    (site,) = fresh.rglob("site-packages")
    (site / "packages.pth").write_text(f"{sysconfig.get_path('purelib')}\n", encoding="utf-8")
    where = run([str(python), "-c", "import pbde, lm, figures, accel; print(pbde.__file__)"], empty).stdout
    assert Path(where.strip()) == site / "pbde.py"
    door = str(python.with_name("pbde"))
    verified = run([door, "verify", "--n", "9", "--trials", "3"], empty).stdout
    assert " hold (" in verified.splitlines()[-1]
    command = ["fit", str(site / "reference" / "data" / "citations.csv"), "--weight", "weight"]
    assert "Biometrika" in run([door, *command], empty).stdout
    assert not (site / "bench").exists()
    refused = subprocess.run([door, "bench"], cwd=empty, capture_output=True, text=True, check=False)
    assert refused.returncode == 2
    assert refused.stderr == "error: pbde bench runs from a checkout: python -m bench in its folder\n"
    assert list((site / "accel" / "kernels").glob("*.cu"))
