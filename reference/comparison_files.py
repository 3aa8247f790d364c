"""Files of comparisons, CSV or JSON lines: columns in, arrays out, and line and column of what cannot be read."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from reference.comparison_columns import Columns, Row, Source, Table

JSON_LINES = (".jsonl", ".ndjson")  # files with these names hold a JSON object a line, all others CSV


def read_table(path: str | Path) -> Table:
    """The table in a file: JSON lines where it is named .jsonl or .ndjson, else CSV with a header.

    A byte-order mark, Windows line ends, blank lines and blanks around the cells of a CSV file are fine.
    ValueError: no rows, a row of another width, a line that is no JSON object, text not UTF-8.
    """
    read = _json_table if Path(path).suffix.lower() in JSON_LINES else _csv_table
    with open(path, newline="", encoding="utf-8-sig", errors="surrogateescape") as file:
        table = read(path, _utf8_lines(path, file))
    if not table.header:
        raise ValueError(f"{path} is empty")
    if not table.rows:
        raise ValueError(f"{path} has a header but no comparisons")
    return table


def _utf8_lines(path: str | Path, file: Iterable[str]) -> Iterator[str]:
    for line, text in enumerate(file, 1):
        if not _encodes(text):  # a byte that is not UTF-8 was read as half a surrogate pair
            raise ValueError(f"{path}, line {line}: not UTF-8 text")
        yield text


def _csv_table(path: str | Path, lines: Iterable[str]) -> Table:
    reader = csv.reader(lines, strict=True)
    try:
        # a blank line has no cell, or one of blanks
        numbered = [(reader.line_num, cells) for cells in reader if len(cells) > 1 or "".join(cells).strip()]
    except csv.Error as error:
        raise ValueError(f"{path}, line {reader.line_num}: {error}") from None
    (first, names), *numbered = numbered or [(1, [])]
    header = [name.strip() for name in names]
    for line, cells in numbered:
        if len(cells) != len(header):
            raise ValueError(f"{path}, line {line}: {len(header)} columns expected, got {len(cells)}")
    rows = [Row(line, dict(zip(header, map(str.strip, cells), strict=True))) for line, cells in numbered]
    return Table(path, first, header, rows)


def _json_table(path: str | Path, lines: Iterable[str]) -> Table:
    rows: list[Row] = []
    first: dict[str, Any] = {}
    for line, text in enumerate(lines, 1):
        if not text.strip():
            continue
        try:
            entry = json.loads(text, parse_constant=lambda _: None, object_pairs_hook=_object)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path}, line {line}: not JSON: {error}") from None
        if not isinstance(entry, dict):
            raise ValueError(f"{path}, line {line}: a JSON object expected, got {text.strip()[:40]}")
        first = first or entry
        # strings and numbers name things; what is neither is as good as absent
        named = {
            k: _name(v) for k, v in entry.items() if isinstance(v, str | int | float) and not isinstance(v, bool)
        }
        if not all(map(_encodes, named.values())):
            raise ValueError(f"{path}, line {line}: text with half a surrogate pair")
        rows.append(Row(line, named))
    # the first object's keys, also those whose value names nothing: check_columns says so
    return Table(path, rows[0].line if rows else 1, list(first), rows)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    entry = dict(pairs)
    if len(entry) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"key {next(name for name in names if names.count(name) > 1)!r} is twice there")
    return entry


def _name(value: str | float) -> str:
    """Ids 7 and 7.0 are one number in JSON, and one item here."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _encodes(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def check_columns(table: Table, needed: Iterable[str]) -> None:
    """ValueError where a column of `needed` is not there, is there twice, or is missing in a row."""
    for name in needed:
        if table.header.count(name) != 1:
            fault, there = "twice" if name in table.header else "not", ", ".join(table.header)
            raise ValueError(
                f"{table.path}, line {table.line}: column {name!r} is {fault} there; the columns are {there}"
            )
        for row in table.rows:
            if name not in row.fields:
                raise ValueError(f"{table.path}, line {row.line}: {name!r} must be a string or a number")


def read_number(
    path: str | Path, row: Row, column: str, rule: str = "a number >= 0", most: float = math.inf
) -> float:
    """The number in a row's column, in [0, most]; ValueError naming file, line, column and rule otherwise."""
    text = row.fields[column]
    try:
        value = math.nan if "_" in text else float(text)  # float reads 1_0 as 10
    except ValueError:
        value = math.nan
    if not (0 <= value <= most and math.isfinite(value)):
        raise ValueError(f"{path}, line {row.line}: {column} must be {rule}, got {text!r}")
    return value


def read_outcomes(path: str | Path, rows: Sequence[Row], columns: Columns) -> list[float]:
    """y of every row, in [0, 1]: by the words of columns.outcomes, as the winner's name, or as a number."""
    if columns.y is None:
        return [1.0] * len(rows)
    words = [row.fields[columns.y] for row in rows]
    if columns.outcomes is not None:
        value_of = dict(zip(columns.outcomes, (1.0, 0.0, 0.5), strict=True))
        for row, word in zip(rows, words, strict=True):
            if word not in value_of:
                expected = ", ".join(columns.outcomes)
                raise ValueError(f"{path}, line {row.line}: {columns.y} must be one of {expected}, got {word!r}")
        return [value_of[word] for word in words]
    sides = [(row.fields[columns.a], row.fields[columns.b]) for row in rows]
    named = [word in pair for word, pair in zip(words, sides, strict=True)]
    if all(named):
        if all(word in ("0", "1") for word in words):
            both = " and ".join(sorted(set(words)))
            raise ValueError(
                f"{path}: {columns.y} must be numbers or winners' names, got {both}, which may be either; "
                "give --outcomes 1,0,0.5 for numbers, or rename the items"
            )
        return [float(word == a) for word, (a, _) in zip(words, sides, strict=True)]
    rule = "a number in [0, 1], or the winner's name in every row"
    order = sorted(range(len(rows)), key=named.__getitem__)  # a row that is neither is the one to name
    value = {k: read_number(path, rows[k], columns.y, rule, most=1.0) for k in order}
    return [value[k] for k in range(len(rows))]


def read_comparisons(path: str | Path, columns: Columns, by: str | None = None) -> dict[str, dict[str, Any]]:
    """{group: the arguments of Comparisons}, a group for each value of the column `by`; one, "", without it.

    Items are numbered as they first appear in their group.
    """
    table = read_table(path)
    rows, columns = table.rows, columns.of(table)
    check_columns(table, columns.names() if by is None else [*columns.names(), by])
    for row in rows:
        for name in (columns.a, columns.b):
            if not row.fields[name].strip():
                raise ValueError(f"{path}, line {row.line}: {name} is empty")
    values = read_outcomes(path, rows, columns)
    weights = [1.0] * len(rows)
    if columns.weight is not None:
        weights = [read_number(path, row, columns.weight) for row in rows]
    members: dict[str, list[int]] = {}
    for k, row in enumerate(rows):
        members.setdefault("" if by is None else row.fields[by], []).append(k)
    source = Source.of(table, columns, by)
    return {
        group: _arguments([rows[k] for k in at], np.array(values)[at], np.array(weights)[at], columns)
        | {"source": source}
        for group, at in members.items()
    }


def _arguments(rows: list[Row], y: Any, weight: Any, columns: Columns) -> dict[str, Any]:
    number: dict[str, int] = {}
    sides = np.array(
        [[number.setdefault(row.fields[name], len(number)) for name in (columns.a, columns.b)] for row in rows]
    )
    # an item's comparison with itself is no tie: Comparisons counts it
    kept = (y != 0.5) | (sides[:, 0] == sides[:, 1]) | (columns.ties != "drop")
    who = None if columns.annotator is None else np.array([row.fields[columns.annotator] for row in rows])[kept]
    return {
        "x_a": sides[kept, 0],
        "x_b": sides[kept, 1],
        "y": y[kept],
        "n": len(number),
        "annotator": who,
        "weight": weight[kept],
        "labels": tuple(number),
        "ties_left_out": float(weight[~kept].sum()),
    }


def read_lengths(path: str | Path, labels: Sequence[str]) -> Any:
    """Lengths > 0 of the named items, from a CSV file with the columns item and length: (n,).

    ValueError as in read_table, and where lengths are missing, not > 0, or differ between rows of one item.
    """
    table = read_table(path)
    check_columns(table, ["item", "length"])
    length: dict[str, float] = {}
    for row in table.rows:
        item, value = row.fields["item"], read_number(path, row, "length", "a number > 0")
        if value == 0:
            raise ValueError(f"{path}, line {row.line}: length must be > 0, got 0")
        if length.setdefault(item, value) != value:
            raise ValueError(
                f"{path}, line {row.line}: length of {item!r} must be {length[item]:g} as before, got {value:g}"
            )
    missing = [label for label in labels if label not in length]
    if missing:
        raise ValueError(
            f"{path}: no length for {len(missing)} of {len(labels)} items, the first is {missing[0]!r}"
        )
    return np.array([length[label] for label in labels])
