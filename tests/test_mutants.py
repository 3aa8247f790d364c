"""The table of mutants fits the code: every line is where it was, and every test that is named is there."""

from __future__ import annotations

import ast

import pytest

from tests.mutants import ROOT, Mutant, judged
from tests.mutants_table import MUTANTS


def test_the_table_is_large_and_names_are_unique() -> None:
    assert len(MUTANTS) >= 60
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS)
    assert {mutant.file.split("/")[0] for mutant in MUTANTS} == {"accel", "lm", "reference"}


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_every_mutant_can_be_made(mutant: Mutant) -> None:
    """Its text is unique, it is still Python and other code, and its tests exist."""
    plain = (ROOT / mutant.file).read_text(encoding="utf-8")
    assert ast.dump(ast.parse(mutant.text())) != ast.dump(ast.parse(plain))
    for test in mutant.tests.split():
        path, _, name = test.partition("::")
        assert f"def {name}" in (ROOT / path).read_text(encoding="utf-8")
    assert mutant.tests


def test_text_that_is_not_unique_is_refused() -> None:
    for old in ("import", "no such text"):
        with pytest.raises(ValueError, match="the text to change must be part of one line and unique"):
            Mutant("wrong", "accel/adam.py", old, "", "tests/test_mutants.py").text()


@pytest.mark.parametrize(
    ("how", "reason", "right"), [("t", "", True), ("", "r", True), ("", "", False), ("t", "r", False)]
)
def test_verdicts(how: str, reason: str, right: bool) -> None:
    """A killed mutant has no reason to be harmless, and one that is not killed has one."""
    assert judged(how, reason)[1] == right
