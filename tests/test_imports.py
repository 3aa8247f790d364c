"""Which room may import what: DESIGN's table, kept by reading the imports."""

from __future__ import annotations

import ast
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NUMERIC = {"numpy", "scipy", "tqdm"}
DRAWN = {*NUMERIC, "matplotlib"}
ROOMS: dict[str, tuple[set[str], set[str], set[str]]] = {  # rooms, packages, packages inside functions only
    "reference": (set(), NUMERIC, set()),
    "accel": (set(), {"numpy", "threadpoolctl", "tqdm"}, {"numba", "cupy", "cuda"}),
    "lm": ({"accel", "reference"}, {"numpy", "tqdm"}, {"sentencepiece", "msgpack"}),
    "figures": ({"reference", "accel", "lm"}, DRAWN, set()),
    "bench": ({"reference", "accel", "lm"}, {*DRAWN, "threadpoolctl"}, {"jax", "torch", "choix"}),
}
# Folders that only a function imports: what may stand inside functions may stand anywhere in them.
LATE = {
    path.relative_to(ROOT).as_posix()
    for folder in ("cpu", "cuda")
    for path in (ROOT / "accel" / folder).glob("*.py")
}
LATE_PACKAGES = {"numba", "llvmlite"}
VAGUE = {"utils", "helpers", "manager", "engine", "common"}


def imported(tree: ast.AST, lazily: bool = False) -> list[tuple[str, bool]]:
    """Every top-level package imported, and whether that happens inside a function."""
    found: list[tuple[str, bool]] = []
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            found += [(alias.name.split(".")[0], lazily) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found.append(("" if node.level else (node.module or "").split(".")[0], lazily))
        found += imported(node, lazily or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))
    return found


def violations(room: str, source: str, late: bool = False) -> list[str]:
    """The imports of a room's source that the table does not allow. late: the file is in LATE."""
    rooms, packages, lazy = ROOMS[room]
    always = rooms | packages | {room} | set(sys.stdlib_module_names) | (LATE_PACKAGES if late else set())
    return [
        name
        for name, inside in imported(ast.parse(source))
        if name not in always and not (inside and name in lazy)
    ]


def sources() -> list[tuple[str, Path]]:
    return [(room, path) for room in ROOMS for path in sorted((ROOT / room).rglob("*.py"))]


@pytest.mark.parametrize(("room", "path"), sources(), ids=lambda value: str(getattr(value, "name", value)))
def test_every_file_keeps_the_table(room: str, path: Path) -> None:
    """No room imports what it may not, has a vague name, or lacks its one-line description."""
    source = path.read_text(encoding="utf-8")
    assert violations(room, source, path.relative_to(ROOT).as_posix() in LATE) == []
    assert path.stem not in VAGUE
    assert ast.get_docstring(ast.parse(source))


def test_late_files_are_imported_late() -> None:
    """Only by each other, or inside a function."""
    names = {path.removesuffix(".py").replace("/", ".") for path in LATE}
    for _, path in sources():
        if path.relative_to(ROOT).as_posix() not in LATE:
            for node in ast.parse(path.read_text(encoding="utf-8")).body:
                if isinstance(node, ast.ImportFrom):
                    full = {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
                    assert not names & full, path
                if isinstance(node, ast.Import):
                    assert not names & {alias.name for alias in node.names}, path


@pytest.mark.parametrize(
    ("room", "source", "found"),
    [
        ("reference", "import numpy\nfrom scipy import sparse\nimport math", []),
        ("reference", "import matplotlib.pyplot", ["matplotlib"]),
        ("reference", "def f():\n    from accel import train", ["accel"]),
        ("accel", "import numba", ["numba"]),
        ("accel", "def f():\n    import numba", []),
        ("accel", "from reference import PBDE", ["reference"]),
        ("figures", "from bench import roofline", ["bench"]),
        ("lm", "from . import corpus", [""]),
    ],
)
def test_the_check_sees_violations(room: str, source: str, found: list[str]) -> None:
    """The check itself: allowed, forbidden, and lazy imports told apart."""
    assert violations(room, source) == found


# ----- Circles -----


def files_imported(path: Path, root: Path = ROOT) -> set[str]:
    """The project's files that a file imports, type-checking and lazy imports counted, as paths from root."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names: list[str] = []
        if isinstance(node, ast.ImportFrom) and node.module:
            whole = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [name if file_of(name, root) else node.module for name in whole]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        found |= {file for name in names if (file := file_of(name, root))}
    return found


def file_of(name: str, root: Path) -> str:
    """accel.cpu.ops -> accel/cpu/ops.py, accel -> accel/__init__.py; nothing where there is no such file."""
    base = name.replace(".", "/")
    return next((path for path in (f"{base}.py", f"{base}/__init__.py") if (root / path).is_file()), "")


def circle(imports: dict[str, set[str]]) -> list[str]:
    """Files of which each imports the next and the last the first; empty where there is none."""
    try:
        list(TopologicalSorter(imports).static_order())
    except CycleError as error:
        return list(error.args[1])
    return []


def test_no_circle() -> None:
    """An __init__ stands for what users import, and does not count as a file of the room's own."""
    paths = [path for _, path in sources() if path.name != "__init__.py"]
    imports = {path.relative_to(ROOT).as_posix(): files_imported(path) for path in paths}
    assert circle({path: found & set(imports) for path, found in imports.items()}) == []


def test_a_circle_is_seen(tmp_path: Path) -> None:
    """Through a type-checking import and one inside a function."""
    (tmp_path / "room").mkdir()
    (tmp_path / "room/a.py").write_text("if TYPE_CHECKING:\n    from room.b import x\n")
    (tmp_path / "room/b.py").write_text("def f():\n    from room import a\n")
    imports = {f"room/{name}.py": files_imported(tmp_path / f"room/{name}.py", tmp_path) for name in "ab"}
    assert imports == {"room/a.py": {"room/b.py"}, "room/b.py": {"room/a.py"}}
    assert set(circle(imports)) == set(imports)
    assert circle({"a": {"b"}, "b": set()}) == []
