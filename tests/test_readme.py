"""What the README shows as Python runs as written and prints what it says."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


def test_the_quickstart_prints_what_it_says() -> None:
    """Both prints give the numbers in the comment."""
    (code,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(code, {})
    (promised,) = re.findall(r"# (\[0.*?\])", code)
    assert printed.getvalue().splitlines() == [promised, promised]


def test_every_file_named_exists() -> None:
    """Paths in the README's table are files."""
    for name in re.findall(r"`((?:reference|figures)/[\w/]+\.\w+)`", README):
        assert (Path(__file__).parents[1] / name).is_file(), name
