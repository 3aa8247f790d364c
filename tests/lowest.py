"""python -m tests.lowest: every dependency of pyproject.toml at its lower bound, as pip's constraints.

`make lowest` installs them into an environment of its own and runs all tests there: a bound that nobody has run is
a guess.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

PROJECT = Path(__file__).parent.parent / "pyproject.toml"
EXTRAS = ("text", "test")  # what the tests use; the GPU's and the peers' are not installed by them


def pins(text: str) -> list[str]:
    """NAME>=VERSION -> NAME==VERSION, of the dependencies and EXTRAS; ValueError for one without a lower bound."""
    project = tomllib.loads(text)["project"]
    wanted = list(project["dependencies"])
    for extra in EXTRAS:
        wanted += project["optional-dependencies"][extra]
    found: dict[str, str] = {}
    for line in wanted:
        match = re.fullmatch(r"([A-Za-z0-9_.-]+)>=([0-9.]+)", line)
        if match is None:
            raise ValueError(f"a dependency must be NAME>=VERSION, got {line}")
        name, version = match.groups()
        if found.setdefault(name, version) != version:
            raise ValueError(f"{name} must have one lower bound, got {found[name]} and {version}")
    return [f"{name}=={version}" for name, version in found.items()]


if __name__ == "__main__":
    print("\n".join(pins(PROJECT.read_text(encoding="utf-8"))))
