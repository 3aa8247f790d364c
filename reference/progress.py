"""How far long work is: a bar on a terminal; elsewhere a line each half minute, and none for what takes less."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

from tqdm import tqdm

HALF_MINUTE = 30.0
LINE, ENDLESS = (
    "{desc}: {n_fmt} of {total_fmt} after {elapsed}, {remaining} left",
    "{desc}: {n_fmt} after {elapsed}",
)


class Lines(tqdm):  # type: ignore[misc]
    """tqdm for a log file: what it says is a line of its own, and nothing is wiped out again."""

    disable: bool

    def __init__(self, iterable: Iterable[Any] | None, **options: Any) -> None:
        often = {"mininterval": HALF_MINUTE, "maxinterval": HALF_MINUTE, "delay": HALF_MINUTE, "miniters": 1}
        super().__init__(iterable, **often, **options)
        self.bar_format = (ENDLESS if self.total is None else LINE) + "{postfix}"

    def display(self, msg: str | None = None, pos: int | None = None) -> bool:
        """One line on stderr."""
        self.fp.write(f"{str(self) if msg is None else msg}\n")
        self.fp.flush()
        return True

    def close(self) -> None:
        """Says nothing."""
        if not self.disable:
            self.disable = True
            self._decr_instances(self)


def progress_bar(
    iterable: Iterable[Any] | None = None,
    *,
    desc: str,
    total: int | None = None,
    initial: int = 0,
    unit: str = "it",
    shown: bool = True,
) -> Any:
    """tqdm over iterable; without one, to be updated by hand. shown: whether anything is said at all."""
    bar = tqdm if sys.stderr.isatty() else Lines
    return bar(iterable, desc=desc, total=total, initial=initial, unit=unit, disable=not shown, leave=False)
