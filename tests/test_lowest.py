"""The lower bounds of pyproject.toml, as `make lowest` installs them."""

from __future__ import annotations

import pytest

from tests.lowest import PROJECT, pins


def test_every_dependency_has_a_lower_bound() -> None:
    found = pins(PROJECT.read_text(encoding="utf-8"))
    names = [pin.partition("==")[0] for pin in found]
    assert {"numpy", "scipy", "numba", "matplotlib", "pytest"} <= set(names)
    assert len(set(names)) == len(names)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ('["numpy"]', "a dependency must be NAME>=VERSION, got numpy"),
        ('["numpy>=2.1,<3"]', "got numpy>=2.1,<3"),
        ('["numpy>=2.1", "numpy>=2.2"]', "numpy must have one lower bound, got 2.1 and 2.2"),
    ],
)
def test_what_is_no_lower_bound(lines: str, message: str) -> None:
    text = f"[project]\ndependencies = {lines}\n[project.optional-dependencies]\ntext = []\ntest = []\n"
    with pytest.raises(ValueError, match=message):
        pins(text)
