"""How a file of comparisons is read: what it holds, which columns say what, and what was made of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

Ties = Literal["half", "drop"]

MEANT = {  # columns that look as if they had a meaning, and the option that gives it to them
    "y": ("y", "label", "winner", "outcome", "choice", "preference", "preferred"),
    "weight": ("weight", "count", "times"),
    "annotator": ("annotator", "annotator_id", "worker", "judge", "rater"),
    "": ("margin", "score", "score_chosen", "score_rejected", "chosen_score", "rejected_score", "rating"),
}


class Default(str):
    """A column's name that nobody asked for: Default("y") == "y", and what was asked for is a plain "y"."""

    __slots__ = ()


@dataclass(frozen=True)
class Columns:
    """Where a table keeps what: the names of its columns, and how to read the outcome y.

    y None: a is preferred in every row, as where tables keep a chosen and a rejected item. outcomes: the words
    for "a wins", "b wins" and "tie"; None for numbers in [0, 1] or the winner's name. ties: "half" a win for each
    side, or "drop".
    """

    a: str = Default("a")
    b: str = Default("b")
    y: str | None = Default("y")
    annotator: str | None = None
    weight: str | None = None
    outcomes: Sequence[str] | None = None
    ties: Ties = "half"

    def __post_init__(self) -> None:
        if self.ties not in ("half", "drop"):
            raise ValueError(f"ties must be 'half' or 'drop', got {self.ties!r}")
        if self.outcomes is not None and not (len(self.outcomes) == 3 == len(set(self.outcomes))):
            raise ValueError(f"outcomes must be three different words (a wins, b wins, tie), got {self.outcomes}")
        if self.outcomes is not None and self.y is None:
            raise ValueError("outcomes need a column y that has them, got y None")

    def names(self) -> list[str]:
        """The columns that the table must have."""
        return [name for name in (self.a, self.b, self.y, self.annotator, self.weight) if name is not None]

    def of(self, table: Table) -> Columns:
        """These columns; in a table of chosen and rejected, where neither a nor b was asked for, with those.

        Their outcome is y where y or outcomes were asked for; else chosen is preferred in every row, and a table
        that has a column y all the same is refused (ValueError): it may say the opposite.
        """
        asked = not (isinstance(self.a, Default) and isinstance(self.b, Default))
        if asked or {"a", "b"} & set(table.header) or not {"chosen", "rejected"} & set(table.header):
            return self
        y = self.y
        if isinstance(y, Default) and self.outcomes is None:
            if y in table.header:
                raise ValueError(
                    f"{table.path}, line {table.line}: column {y!r} must be asked for beside chosen and rejected; "
                    f"give --y {y} to take the outcomes from it, or drop it"
                )
            y = None
        return replace(self, a="chosen", b="rejected", y=y)


@dataclass(frozen=True)
class Row:
    """One data row of a file: its line number (the header is line 1) and its fields by column name."""

    line: int
    fields: dict[str, str]


@dataclass(frozen=True)
class Table:
    """What a file holds: the line and the column names of its header, or of its first JSON object; its rows."""

    path: str | Path
    line: int
    header: list[str]
    rows: list[Row]


@dataclass(frozen=True)
class Source:
    """How a file was read: the outcome; the columns of both sides; what turns a number; columns left unread."""

    outcome: str
    sides: tuple[str, str]
    turn: str = ""
    unread: tuple[str, ...] = ()

    @classmethod
    def of(cls, table: Table, columns: Columns, by: str | None = None) -> Source:
        """Of a table that was read by these columns."""
        unread = [name for name in table.header if name not in (*columns.names(), by)]
        meant = tuple(
            f"{name!r} ({f'--{option} {name} reads it' if option else 'every row counts the same'})"
            for name in unread
            for option, names in MEANT.items()
            if name.lower() in names
        )
        a, b, y = columns.a, columns.b, columns.y
        if y is None:
            return cls(f"{a} is preferred in every row", (a, b), "", meant)
        if columns.outcomes is not None:
            first, second, tie = columns.outcomes
            return cls(f"{y} = {first}: {a} is preferred, {second}: {b}, {tie}: a tie", (a, b), "", meant)
        if all(row.fields[y] in (row.fields[a], row.fields[b]) for row in table.rows):
            return cls(f"{y} names the winner", (a, b), "", meant)
        return cls(f"{y} = 1: {a} is preferred", (a, b), f"the other way round: --a {b} --b {a}", meant)
