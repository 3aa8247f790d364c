"""What the README shows as Python runs as written and prints what it says."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path

import pytest

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("code", re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL))
def test_every_example_prints_what_it_says(code: str) -> None:
    """Each print gives the comment that stands behind it."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(code, {})
    promised = re.findall(r"^print\(.*\)  # (.*)$", code, flags=re.MULTILINE)
    assert promised
    assert printed.getvalue().splitlines() == promised


def test_every_file_named_exists() -> None:
    """Paths in the README's table are files."""
    for name in re.findall(r"`((?:reference|figures)/[\w/]+\.\w+)`", README):
        assert (Path(__file__).parents[1] / name).is_file(), name
