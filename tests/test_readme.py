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


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "bench/GPU.md"])
def test_every_file_named_exists(page: str) -> None:
    """Paths, and pictures and pages that are linked."""
    root = Path(__file__).parents[1]
    text = (root / page).read_text(encoding="utf-8")
    named = re.findall(r"`((?:reference|accel|lm|figures|bench|tests)/[\w./-]+\.\w+)`", text)
    linked = re.findall(r"\]\((?!http)([\w./-]+)\)", text)
    assert named or linked or page == "bench/GPU.md"
    for name in (*named, *linked):
        assert (root / name).is_file() or name == "accel/kernels/NAME.cu", name
