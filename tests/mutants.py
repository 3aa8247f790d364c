"""Single-line mutants of `accel`, `lm` and `reference` (tests/mutants_table.py): each must be killed by a test.

python -m tests.mutants            every mutant, each in a copy of the tree; about half an hour on one core
python -m tests.mutants NAME ...   those whose names contain one of the words

First the tests of all of them run on the copy as it is, and must pass. Then one line at a time is changed, and the
tests named beside it must fail. A mutant that changes nothing that can be seen stands there with the reason.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
ROOMS = ("accel", "lm", "reference", "figures", "bench", "tests")
PATIENCE = 600  # seconds: a mutant that takes more never ends, and counts as killed
KILLED, PASSED = 1, 0  # pytest's exit status where a test failed, and where all passed


@dataclass(frozen=True)
class Mutant:
    """`old`, which stands once in `file`, becomes `new`. tests: pytest's node ids, which must fail; or pass, where
    there is a reason why nothing can kill the mutant."""

    name: str
    file: str
    old: str
    new: str
    tests: str
    reason: str = ""

    def text(self, root: Path = ROOT) -> str:
        """The file with the change. ValueError unless `old` stands in it exactly once, within one line."""
        whole = (root / self.file).read_text(encoding="utf-8")
        if whole.count(self.old) != 1 or "\n" in self.old + self.new:
            raise ValueError(
                f"{self.name}: the text to change must be part of one line and unique in {self.file}, "
                f"got {whole.count(self.old)} times {self.old!r}"
            )
        return whole.replace(self.old, self.new)


def judged(how: str, reason: str, done: str = "caught") -> tuple[str, bool]:
    """What a table says of a mutant: what gave it away, or why nothing can; and whether that is as expected."""
    verdict = f"{done}: {how[:60]}" if how else f"harmless: {reason}" if reason else f"NOT {done.upper()}"
    return verdict, bool(how) != bool(reason)


def copied(folder: Path) -> None:
    """What the tests need of the tree, without git and results of runs."""
    for path in ROOT.iterdir():
        if path.name in ROOMS:
            shutil.copytree(path, folder / path.name)
        elif path.is_file():
            shutil.copy2(path, folder / path.name)


def outcome(folder: Path, tests: Sequence[str]) -> tuple[int, str]:
    """pytest's exit status in the copy, and the first test that failed."""
    command = [sys.executable, "-m", "pytest", "-x", "-q", "--no-header", "-rfE", "-p", "no:cacheprovider", *tests]
    environment = os.environ | {"PYTHONDONTWRITEBYTECODE": "1", "HYPOTHESIS_STORAGE_DIRECTORY": str(folder / "h")}
    try:
        ran = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=PATIENCE
        )
    except subprocess.TimeoutExpired:
        return KILLED, f"more than {PATIENCE} s"
    lines = [line for line in ran.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
    return ran.returncode, lines[0].split(" - ")[0].split(" ", 1)[1] if lines else ran.stdout[-300:] + ran.stderr[
        -300:
    ]


def killed(mutant: Mutant, folder: Path) -> str:
    """The test that failed in the copy with the mutant, or ""; RuntimeError where the tests could not run."""
    path = folder / mutant.file
    plain = path.read_text(encoding="utf-8")
    path.write_text(mutant.text(), encoding="utf-8")
    try:
        status, how = outcome(folder, mutant.tests.split())
    finally:
        path.write_text(plain, encoding="utf-8")
    if status not in (KILLED, PASSED):
        raise RuntimeError(f"{mutant.name}: the tests must run, pytest's status is {status}: {how}")
    return how if status == KILLED else ""


def run(table: Sequence[Mutant]) -> int:
    """A line a mutant; 1 where one was not killed, or where a harmless one was."""
    wrong = 0
    with tempfile.TemporaryDirectory(prefix="pbde-mutants-") as name:
        folder = Path(name)
        copied(folder)
        needed = sorted({test for mutant in table for test in mutant.tests.split()})
        status, how = outcome(folder, needed)
        if status != PASSED:
            print(f"the tests fail on the tree as it is: {how}")
            return 1
        for mutant in table:
            verdict, expected = judged(killed(mutant, folder), mutant.reason, "killed")
            wrong += not expected
            print(f"{mutant.name:<34} {mutant.file:<28} {verdict}", flush=True)
    print(f"{len(table)} mutants, {wrong} not as expected")
    return int(wrong > 0)


if __name__ == "__main__":
    from tests.mutants_table import MUTANTS

    words = sys.argv[1:]
    sys.exit(run([mutant for mutant in MUTANTS if not words or any(word in mutant.name for word in words)]))
