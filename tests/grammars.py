"""Small grammars, and all their sentences by the definition: the oracle of the exact laws."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from lm import EOS, Choice, Grammar


def little_grammar() -> Grammar:
    """A dog and a cat: two ends, a class in two places, a clause count of two."""
    classes = {
        "article": {"the": 3.0, "a": 1.0},
        "animal": {"cat": 1.0, "dog": 2.0},
        "does": {"sleeps": 5.0, "sees": 1.0},
        "how": {"well": 1.0},
        "and": {"and": 1.0},
    }
    rules = {
        "verb": [Choice("does", 2.0, "end")],
        "begin": [Choice("article", 1.0, "noun"), Choice("animal", 3.0, "verb")],
        "noun": [Choice("animal", 1.0, "verb")],
        "end": [
            Choice("how", 1.0, "late"),
            Choice("and", 2.0, "begin", clause=True),
            Choice("animal", 1.0, "end"),
        ],
        "late": [Choice("and", 1.0, "begin", clause=True)],
    }
    return Grammar(classes, rules, (0.3, 0.6), frozenset({"end", "late"}), "begin")


def sentences(grammar: Grammar, max_length: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """All sentences of at most max_length tokens, (N, max_length), and their probabilities (N,)."""
    found = list(_walks(grammar, grammar.start, 0, max_length))
    tokens = np.zeros((len(found), max_length), dtype=np.int64)
    for row, (words, _) in zip(tokens, found, strict=True):
        row[: len(words) + 1] = [*(grammar.ids[word] for word in words), EOS]
    return tokens, np.array([prob for _, prob in found])


def _walks(grammar: Grammar, position: str, clauses: int, room: int) -> Iterator[tuple[tuple[str, ...], float]]:
    """Every way on from a position, of at most room tokens: its words and its probability."""
    if room < 1:
        return
    stop = grammar.stop[min(clauses, len(grammar.stop) - 1)] if position in grammar.ends else 0.0
    if stop > 0:
        yield (), stop
    choices = grammar.rules[position]
    for choice in choices:
        words = grammar.classes[choice.words]
        behind = list(_walks(grammar, choice.to, clauses + choice.clause, room - 1))
        for word, weight in words.items():
            prob = (1 - stop) * choice.weight / sum(other.weight for other in choices)
            prob *= weight / sum(words.values())
            for rest, then in behind:
                yield (word, *rest), prob * then


@st.composite
def grammars(draw: st.DrawFn) -> Grammar:
    """Grammars of up to three positions, in which every position can lead to an end."""
    weight = st.floats(0.1, 3.0)
    classes = {f"class {k}": {f"w{k}{i}": draw(weight) for i in range(draw(st.integers(1, 2)))} for k in range(3)}
    names = [f"at {k}" for k in range(draw(st.integers(1, 3)))]
    rules = {
        name: [
            Choice(word_class, draw(weight), draw(st.sampled_from(names)), draw(st.booleans()))
            for word_class in draw(st.lists(st.sampled_from(list(classes)), min_size=1, max_size=2, unique=True))
        ]
        for name in names
    }
    stop = draw(st.lists(st.floats(0.05, 0.9), min_size=1, max_size=2))
    ends = frozenset(draw(st.lists(st.sampled_from(names), min_size=1)))
    return Grammar(classes, rules, stop, ends, draw(st.sampled_from(sorted(ends))))
