"""Unambiguous probabilistic grammars whose sentences have exact probabilities, an exact length law, exact samples.

A grammar is right-linear: a sentence walks over positions (where in a phrase it is) and counts its clauses.
At every position it draws a word class, then a word of that class, and moves on; at the end positions it may
stop instead. No word leaves a position twice, so a sentence has ONE walk and

    log p(x) = sum_t log p(x_t | state_t),        state = (clauses so far, position).

One word is one token, and EOS is a token: |x| counts it. With T(s, s') the probability of one more word that
leads from s to s', and stop(s), the lengths and the samples come from the messages

    remaining_1 = stop,  remaining_r = T remaining_{r-1}:    P(exactly r more tokens | s).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]
Tokens = NDArray[np.int64]

PAD, BOS, EOS = 0, 1, 2
SPECIAL = ("<pad>", "<bos>", "<eos>")
NOWHERE = -1  # the state behind a word that a state does not allow
SMALLEST = 1e-300  # stands in for 0 where a 0 is divided by it


@dataclass(frozen=True)
class Choice:
    """One way on from a position: a word of class `words`, then position `to`.

    weight > 0 is relative to the other choices of the position. clause: a new clause starts behind the word.
    """

    words: str
    weight: float
    to: str
    clause: bool = False


@dataclass(frozen=True)
class Edges:
    """Every choice of every state, one after the other: state, prob (the stops included), words, to: (E,)."""

    state: Tokens
    prob: Array
    words: Tokens
    to: Tokens


@dataclass(frozen=True)
class Tables:
    """What each of S states says of each of V tokens: log_prob (S, V), -inf where impossible, and to (S, V)."""

    log_prob: Array
    to: Tokens


@dataclass(frozen=True, eq=False)
class Grammar:
    """classes: word class -> word -> weight > 0. rules: position -> its choices.

    stop: the probability of stopping at an end position, by the clauses so far: the last one holds for all more.
    ends: the positions where a sentence may stop. start: where it begins.
    ValueError where a name is not defined, a weight is not > 0 and finite, a stop is not in [0, 1), or a word
    leaves a position twice (the grammar would be ambiguous).
    """

    classes: Mapping[str, Mapping[str, float]]
    rules: Mapping[str, Sequence[Choice]]
    stop: Sequence[float]
    ends: frozenset[str]
    start: str

    def __post_init__(self) -> None:
        _check_names(self)
        for name, words in self.classes.items():
            if not words or not all(0 < weight < np.inf for weight in words.values()):
                raise ValueError(f"class {name!r} must have words, each with a weight > 0, got {dict(words)}")
        if not self.stop or not all(0 <= stop < 1 for stop in self.stop):
            raise ValueError(f"stop must lie in [0, 1), one number for each count of clauses, got {self.stop}")
        for position, choices in self.rules.items():
            _check_choices(self, position, choices)

    @cached_property
    def vocabulary(self) -> tuple[str, ...]:
        """Every token by its id: <pad>, <bos>, <eos>, then the words as the classes first name them."""
        words = dict.fromkeys(word for words in self.classes.values() for word in words)
        return SPECIAL + tuple(words)

    @cached_property
    def ids(self) -> dict[str, int]:
        """word -> id; the special tokens are no words."""
        return {word: i for i, word in enumerate(self.vocabulary) if i >= len(SPECIAL)}

    @property
    def free_probabilities(self) -> int:
        """How many numbers the grammar is free to choose: each distribution's size less 1, and the stops."""
        words = sum(len(words) - 1 for words in self.classes.values())
        return words + sum(len(choices) - 1 for choices in self.rules.values()) + len(self.stop)

    @cached_property
    def word_probs(self) -> Array:
        """(classes, V): the probability of each token within each class."""
        probs = np.zeros((len(self.classes), len(self.vocabulary)))
        for row, words in enumerate(self.classes.values()):
            for word, weight in words.items():
                probs[row, self.ids[word]] = weight / sum(words.values())
        return probs

    @property
    def states(self) -> int:
        """S: clause counts times positions; state 0 of the start position is where a sentence begins."""
        return len(self.stop) * len(self.rules)

    @property
    def initial(self) -> int:
        """The state in which a sentence begins."""
        return list(self.rules).index(self.start)

    @cached_property
    def stop_probs(self) -> Array:
        """(S,): the probability that the next token is EOS."""
        at_end = np.array([position in self.ends for position in self.rules], dtype=np.float64)
        return np.outer(self.stop, at_end).ravel()

    @cached_property
    def edges(self) -> Edges:
        """All choices of all states, in the order of the states."""
        position = {name: i for i, name in enumerate(self.rules)}
        word_class = {name: i for i, name in enumerate(self.classes)}
        rows = []
        for clauses in range(len(self.stop)):
            more = min(clauses + 1, len(self.stop) - 1)
            for name, choices in self.rules.items():
                state = clauses * len(position) + position[name]
                share = (1 - self.stop_probs[state]) / sum(choice.weight for choice in choices)
                for choice in choices:
                    to = (more if choice.clause else clauses) * len(position) + position[choice.to]
                    rows.append((state, share * choice.weight, word_class[choice.words], to))
        return Edges(*(np.array(column) for column in zip(*rows, strict=True)))

    @cached_property
    def tables(self) -> Tables:
        """The grammar as an automaton over tokens."""
        prob = np.zeros((self.states, len(self.vocabulary)))
        to = np.full(prob.shape, NOWHERE, dtype=np.int64)
        prob[:, EOS] = self.stop_probs
        for edge in range(len(self.edges.state)):
            words = self.word_probs[self.edges.words[edge]]
            prob[self.edges.state[edge]] += self.edges.prob[edge] * words
            to[self.edges.state[edge], words > 0] = self.edges.to[edge]
        with np.errstate(divide="ignore"):
            return Tables(np.log(prob), to)

    def transfer(self, message: Array) -> Array:
        """(S,) -> (S,): T message, the expectation of message over the state behind the next word."""
        terms = self.edges.prob * message[self.edges.to]
        return np.asarray(np.bincount(self.edges.state, terms, self.states), dtype=np.float64)

    def remaining(self, max_length: int) -> Array:
        """(max_length + 1, S): [r, s] = P(exactly r more tokens, EOS among them | state s)."""
        if max_length < 1:
            raise ValueError(f"max_length must be >= 1, got {max_length}")
        messages = np.zeros((max_length + 1, self.states))
        messages[1] = self.stop_probs
        for r in range(2, max_length + 1):
            messages[r] = self.transfer(messages[r - 1])
        return messages

    def length_law(self, max_length: int) -> Array:
        """(max_length + 1,): [L] = P(|x| = L), not conditioned, so that the sum is P(|x| <= max_length)."""
        return self.remaining(max_length)[:, self.initial]

    def walk(self, tokens: ArrayLike) -> tuple[Tokens, Tokens]:
        """(N, T) -> the tokens checked, and the state before each, (N, T); NOWHERE behind an impossible word."""
        checked = check_tokens(tokens, len(self.vocabulary))
        states = np.empty_like(checked)
        state = np.full(len(checked), self.initial)
        for t in range(checked.shape[1]):
            states[:, t] = state
            state = np.where(state == NOWHERE, NOWHERE, self.tables.to[state, checked[:, t]])
        return checked, states

    def token_log_probs(self, tokens: ArrayLike) -> Array:
        """(N, T) or (T,) -> the same: log p(x_t | x_<t), 0 for PAD, -inf from a word that the grammar excludes.

        Rows end with EOS, then PAD. ValueError for unknown ids, and for rows that do not end so.
        """
        checked, states = self.walk(tokens)
        log_probs = np.where(states == NOWHERE, -np.inf, self.tables.log_prob[states, checked])
        return np.where(checked == PAD, 0.0, log_probs).reshape(np.shape(tokens))

    def log_prob(self, tokens: ArrayLike) -> Array:
        """(N, T) -> (N,), or (T,) -> (): log p(x), -inf for what is not a sentence. Errors: token_log_probs."""
        return np.asarray(self.token_log_probs(tokens).sum(axis=-1))

    def sample_given_length(
        self, lengths: ArrayLike, rng: np.random.Generator, max_length: int | None = None
    ) -> Tokens:
        """(N,) lengths -> (N, max_length): one exact sentence of each length, with EOS, then PAD.

        max_length: by default the largest length. ValueError for a length that the grammar cannot have.
        """
        wanted = np.asarray(lengths, dtype=np.int64)
        width = int(wanted.max(initial=1)) if max_length is None else max_length
        remaining = self.remaining(width)
        for length in np.unique(wanted):
            if not 1 <= length <= width or not remaining[length, self.initial] > 0:
                raise ValueError(f"lengths must be possible and <= {width}, got {length}")
        edges, words = _cumulative(self._edge_probs(remaining)), _cumulative(self.word_probs)
        first = np.searchsorted(self.edges.state, np.arange(self.states + 1))
        tokens = np.full((len(wanted), width), PAD)
        state = np.full(len(wanted), self.initial)
        for t in range(width):
            tokens[wanted == t + 1, t] = EOS
            going = np.flatnonzero(wanted > t + 1)
            here, row = state[going], wanted[going] - t
            edge = _draw(edges, row, first[here], first[here + 1], rng)
            tokens[going, t] = _draw(words, self.edges.words[edge], 0, len(self.vocabulary), rng)
            state[going] = self.edges.to[edge]
        return tokens

    def _edge_probs(self, remaining: Array) -> Array:
        """(max_length + 1, E): the probability of each choice of its state, given exactly r more tokens."""
        probs = np.zeros((len(remaining), len(self.edges.prob)))
        for r in range(2, len(remaining)):
            weights = self.edges.prob * remaining[r - 1, self.edges.to]
            probs[r] = weights / np.maximum(remaining[r], SMALLEST)[self.edges.state]
        return probs

    def text(self, tokens: ArrayLike) -> str:
        """(T,) -> the words with spaces between them, up to EOS. ValueError for unknown ids."""
        row = check_tokens(tokens, len(self.vocabulary))[0]
        return " ".join(self.vocabulary[i] for i in row[: int(np.argmax(row == EOS))])

    def parse(self, text: str) -> Tokens:
        """The inverse of text: (T,) with EOS. ValueError names a word that is not in the vocabulary."""
        for word in text.split():
            if word not in self.ids:
                raise ValueError(f"text must use the grammar's words, got {word!r}")
        return np.array([self.ids[word] for word in text.split()] + [EOS])


def _cumulative(probs: Array) -> Array:
    """(M, E) -> (M, E + 1): sums of the entries before each."""
    return np.pad(np.cumsum(probs, axis=1), ((0, 0), (1, 0)))


def _draw(
    cumulative: Array, row: Tokens, low: Tokens | int, high: Tokens | int, rng: np.random.Generator
) -> Tokens:
    """(N,) columns in [low, high), each in proportion to the step of cumulative[row] at it, by bisection."""
    low, high = np.broadcast_to(low, row.shape), np.broadcast_to(high, row.shape)
    start, stop = cumulative[row, low], cumulative[row, high]
    target = np.minimum(start + rng.random(len(row)) * (stop - start), np.nextafter(stop, start))
    while (high - low > 1).any():  # cumulative[row, low] <= target < cumulative[row, high]
        middle = (low + high) // 2
        above = cumulative[row, middle] > target
        low, high = np.where(above, low, middle), np.where(above, middle, high)
    return np.asarray(low)


def check_tokens(tokens: ArrayLike, size: int) -> Tokens:
    """(N, T) or (T,) -> (N, T) ids below `size`: words, EOS, then PAD only. ValueError otherwise."""
    array = np.asarray(tokens)
    if array.ndim not in (1, 2) or array.size == 0 or not np.issubdtype(array.dtype, np.integer):
        raise ValueError(f"tokens must be integers of shape (N, T) or (T,), got {array.dtype} {array.shape}")
    array = np.atleast_2d(array).astype(np.int64)
    unknown = (array < 0) | (array >= size)
    if unknown.any():
        raise ValueError(f"tokens must be ids in 0..{size - 1}, got {array[unknown][0]}")
    ends = (array == EOS).sum(axis=1)
    if (ends != 1).any():
        raise ValueError(
            f"every sentence must have one EOS ({EOS}), row {np.argmax(ends != 1)} has {ends[ends != 1][0]}"
        )
    behind = np.cumsum(array == EOS, axis=1) - (array == EOS) > 0
    if ((array == PAD) != behind).any():
        raise ValueError(f"a sentence must be words, EOS ({EOS}), then PAD ({PAD}) only")
    return array


def sentence_lengths(tokens: ArrayLike) -> Tokens:
    """(N, T) -> (N,): |x|, the tokens up to EOS, EOS included."""
    return np.asarray((np.asarray(tokens) != PAD).sum(axis=-1))


def _check_names(grammar: Grammar) -> None:
    def known(what: str, names: Iterable[str], defined: Iterable[str]) -> None:
        missing = sorted(set(names) - set(defined))
        if missing:
            raise ValueError(f"{what} must be defined, got {missing[0]!r}")

    choices = [choice for choices in grammar.rules.values() for choice in choices]
    known("start", [grammar.start], grammar.rules)
    known("end positions", grammar.ends, grammar.rules)
    known("next positions", (choice.to for choice in choices), grammar.rules)
    known("word classes", (choice.words for choice in choices), grammar.classes)


def _check_choices(grammar: Grammar, position: str, choices: Sequence[Choice]) -> None:
    """ValueError where a position has no choices, a weight is not > 0 and finite, or a word leaves it twice."""
    if not choices or not all(0 < choice.weight < np.inf for choice in choices):
        raise ValueError(f"position {position!r} must have choices, each with a weight > 0")
    owner: dict[str, str] = {}
    for choice in choices:
        for word in grammar.classes[choice.words]:
            if word in owner:
                raise ValueError(
                    f"position {position!r} must be unambiguous, got {word!r} "
                    f"in both {owner[word]!r} and {choice.words!r}"
                )
            owner[word] = choice.words
