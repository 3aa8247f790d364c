"""What all programs share: errors in one line, the version, and output that its reader may stop reading."""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from typing import Any, NoReturn


class Parser(argparse.ArgumentParser):
    """An ArgumentParser whose errors are one line on stderr, and in which words after a single dash are values."""

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        # argparse takes what looks like a negative number for a value; -1,1,0 and an item named -x are values too,
        # for all options but -h begin with two dashes
        self._negative_number_matcher = re.compile(r"-[^-]")

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message}\n")


def package_version() -> str:
    """The installed version, or "source" where nothing is installed."""
    try:
        return version("pbde")
    except PackageNotFoundError:
        return "source"


def until_closed(program: Callable[[], int]) -> int:
    """The exit status of `program`; 0 where the reader of its output has seen enough, as `head` does."""
    try:
        return program()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nothing is left to be flushed to it
        return 0
