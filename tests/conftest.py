"""Hypothesis runs the same examples every time; `--hypothesis-profile explore` draws new ones.

A test file that needs a package which is not there is skipped and says which: so the tests of a GPU run with the
interpreter that a machine with one has.
"""

from __future__ import annotations

import ast
import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import backends

try:
    from hypothesis import settings
except ModuleNotFoundError:
    pass
else:
    settings.register_profile("fixed", derandomize=True, deadline=None, max_examples=40)
    settings.register_profile("explore", deadline=None, max_examples=500)
    settings.load_profile("fixed")


class Lacking(pytest.Module):
    """A test file that cannot be imported here."""

    package = ""

    def collect(self) -> Iterator[Any]:
        pytest.skip(f"needs {self.package}", allow_module_level=True)


def pytest_pycollect_makemodule(module_path: Path, parent: pytest.Collector) -> pytest.Module | None:
    """`Lacking` where something that the file imports, or what that imports, is missing."""
    for node in ast.parse(module_path.read_text(encoding="utf-8")).body:
        names = [node.module] if isinstance(node, ast.ImportFrom) else []
        names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        for name in names:
            try:
                importlib.import_module(name or "tests")
            except ModuleNotFoundError as error:
                module: Lacking = Lacking.from_parent(parent, path=module_path)
                module.package = str(error.name)
                return module
    return None


@pytest.fixture(scope="session", params=backends.NAMES)
def ops(request: pytest.FixtureRequest) -> Any:
    """Every backend in turn, for NumPy arrays."""
    return backends.backend(request.param)


@pytest.fixture(scope="session", params=backends.NAMES)
def network_ops(request: pytest.FixtureRequest) -> Any:
    """The same for tests of whole networks: each launch of a kernel under one schedule, the next in turn."""
    return backends.backend(request.param, in_turn=True)
