"""Comparisons: proposals and win matrices (infinite data), observed comparisons and files (finite data)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import sparse

from reference.annotators import Indices, check_index_pairs
from reference.arrays import Array, finite_array, finite_sparse, integer, not_negative, plain_array
from reference.comparison_columns import Columns, Default, Source, Ties
from reference.comparison_files import read_comparisons


def pair_proposal(proposal: Any, n: int) -> Any:
    """The probability q(x_a, x_b) of drawing each ordered pair, given that the two outcomes differ: (n, n).

    proposal: mass that sums to 1, of shape (n,) for two independent draws, or (n, n), dense or
    scipy.sparse (then so is the result). ValueError where it is negative, does not sum to 1, or only
    ever pairs outcomes with themselves.
    """
    if sparse.issparse(proposal):
        pairs = finite_sparse("proposal", proposal)
        shape, lowest, total = pairs.shape, min(pairs.data.min(initial=0.0), 0.0), pairs.sum()
    else:
        dense = finite_array("proposal", proposal)
        shape, lowest, total = dense.shape, dense.min(initial=0.0), dense.sum()
        pairs = np.outer(dense, dense) if dense.ndim == 1 else dense.copy()
    if shape not in ((n,), (n, n)):
        raise ValueError(f"proposal must have shape ({n},) or ({n}, {n}), got {shape}")
    if lowest < 0:
        raise ValueError(f"proposal must be >= 0, got {lowest}")
    if abs(total - 1) > 1e-6:
        raise ValueError(f"proposal is probability mass and must sum to 1, got {total:.6g}; divide by its sum")
    if sparse.issparse(proposal):
        pairs.setdiag(0.0)
        pairs.eliminate_zeros()
    else:
        np.fill_diagonal(pairs, 0.0)
    if not pairs.sum() > 0:
        raise ValueError("proposal never draws two different outcomes")
    return pairs / pairs.sum()


def win_matrix(preference_prob: ArrayLike, proposal: Any) -> Any:
    """(n, n): [i, j] = how often i is compared with j and wins, per comparison; infinite data as one object.

    W_ij = (q_ij + q_ji) Prob(i preferred to j): Eq. 6, where the order within a pair does not matter. Pairs of
    an outcome with itself say nothing and are left out; the rest sums to 1. proposal: as in pair_proposal.
    ValueError where preference_prob is outside [0, 1] or P_ij + P_ji is not 1.
    """
    prob = check_preferences(preference_prob)
    pairs = pair_proposal(proposal, len(prob))
    either_order = pairs + pairs.T
    return sparse.csr_array(either_order.multiply(prob)) if sparse.issparse(pairs) else either_order * prob


def check_preferences(preference_prob: ArrayLike) -> Array:
    """The probabilities as an array (n, n); ValueError outside [0, 1], and where P_ij + P_ji is not 1."""
    prob = finite_array("preference_prob", preference_prob)
    if prob.ndim != 2 or prob.shape[0] != prob.shape[1]:
        raise ValueError(f"preference_prob must have shape (n, n), got {prob.shape}")
    if (prob < 0).any() or (prob > 1).any():
        raise ValueError(f"preference_prob must lie in [0, 1], got {prob.min()} to {prob.max()}")
    gap = np.abs(prob + prob.T - 1)
    np.fill_diagonal(gap, 0.0)
    if (gap > 1e-9).any():
        i, j = np.unravel_index(np.argmax(gap), gap.shape)
        raise ValueError(
            f"preference_prob[i, j] + preference_prob[j, i] must be 1, got {1 + gap[i, j]} at {i}, {j}"
        )
    return prob


def draw_pairs(proposal: Any, size: int, n: int, rng: np.random.Generator) -> tuple[Indices, Indices]:
    """`size` ordered pairs of different outcomes from the proposal: x_a and x_b of shape (size,)."""
    pairs = sparse.coo_array(pair_proposal(proposal, integer("n", n, 1)))
    drawn = rng.choice(pairs.nnz, size=integer("size", size, 0), p=pairs.data / pairs.data.sum())
    return pairs.row[drawn].astype(np.intp), pairs.col[drawn].astype(np.intp)


@dataclass(frozen=True, eq=False)
class Comparisons:
    """N observed comparisons of n items.

    x_a, x_b: (N,) item indices. y: (N,) in [0, 1], 1 where x_a is preferred, 0.5 for a tie. annotator: (N,)
    ids, where known. weight: (N,) >= 0, how often each was observed. labels: the n items' names.
    Comparisons of an item with itself are dropped and counted in `dropped`; `ties` is the weight of the
    comparisons with y = 0.5, `ties_left_out` of those that reading left out; source: how a file was read.
    ValueError where shapes differ or values are out of range.
    """

    x_a: ArrayLike
    x_b: ArrayLike
    y: ArrayLike
    n: int
    annotator: ArrayLike | None = None
    weight: ArrayLike | None = None
    labels: Sequence[str] | None = None
    ties_left_out: float = 0.0
    source: Source | None = None
    dropped: int = field(init=False)

    def __post_init__(self) -> None:
        x_a, x_b = check_index_pairs(self.x_a, self.x_b, integer("n", self.n, 0))
        y = finite_array("y", self.y, x_a.shape)
        if ((y < 0) | (y > 1)).any():
            raise ValueError(f"y must lie in [0, 1], got {y[(y < 0) | (y > 1)][0]}")
        weight = finite_array("weight", np.ones(len(y)) if self.weight is None else self.weight, x_a.shape)
        if (weight < 0).any():
            raise ValueError(f"weight must be >= 0, got {weight.min()}")
        with np.errstate(over="ignore"):
            total = float(weight.sum())
        if np.isinf(total):
            raise ValueError(f"weight must be finite in sum, got weights up to {weight.max():.3g}; rescale them")
        if self.labels is not None and len(self.labels) != self.n:
            raise ValueError(f"labels must name all {self.n} items, got {len(self.labels)}")
        annotator = None if self.annotator is None else plain_array("annotator", self.annotator)
        if annotator is not None and annotator.shape != x_a.shape:
            raise ValueError(f"annotator must have shape {x_a.shape}, got {annotator.shape}")
        not_negative("ties_left_out", self.ties_left_out)
        differ = x_a != x_b
        kept = {"x_a": x_a, "x_b": x_b, "y": y, "weight": weight, "annotator": annotator}
        for name, array in kept.items():
            object.__setattr__(self, name, None if array is None else array[differ])
        object.__setattr__(self, "dropped", int((~differ).sum()))

    def __len__(self) -> int:
        return len(np.asarray(self.y))

    @property
    def ties(self) -> float:
        """The weight of the comparisons with y = 0.5."""
        return float(np.asarray(self.weight)[np.asarray(self.y) == 0.5].sum())

    def wins(self) -> sparse.csr_array:
        """(n, n) counts: [i, j] = how often i was preferred to j; a tie is half a win for each."""
        x_a, x_b, y = np.asarray(self.x_a), np.asarray(self.x_b), np.asarray(self.y)
        weight = np.asarray(self.weight)
        won = np.concatenate([weight * y, weight * (1 - y)])
        at = (np.concatenate([x_a, x_b]), np.concatenate([x_b, x_a]))
        wins = sparse.csr_array(sparse.coo_array((won, at), shape=(self.n, self.n)))
        wins.eliminate_zeros()
        return wins

    def only(self, keep: NDArray[np.bool_]) -> Comparisons:
        """The comparisons marked in keep (N,), over the same n items."""
        columns: dict[str, Any] = {
            name: None if getattr(self, name) is None else np.asarray(getattr(self, name))[keep]
            for name in ("x_a", "x_b", "y", "weight", "annotator")
        }
        return replace(self, **columns)

    @classmethod
    def from_csv(
        cls,
        path: str | Path,
        *,
        a: str = Default("a"),
        b: str = Default("b"),
        y: str | None = Default("y"),
        annotator: str | None = None,
        weight: str | None = None,
        outcomes: Sequence[str] | None = None,
        ties: Ties = "half",
    ) -> Comparisons:
        """Comparisons from a CSV file with a header line; items are numbered as they first appear.

        a, b, y, annotator, weight: column names. y is a number in [0, 1], or the winner's name, or one of
        outcomes = (word for a wins, word for b wins, word for a tie); None where a is always the preferred one.
        Where neither a nor b is named, columns chosen and rejected are found too: chosen is the preferred one, or
        y or outcomes are named and say which. ties: "half" a win each, or "drop". A file named .jsonl or .ndjson
        holds a JSON object a line in place of a row. ValueError names the file, the line and the column of what
        cannot be read.
        """
        return cls(**read_comparisons(path, Columns(a, b, y, annotator, weight, outcomes, ties))[""])

    @classmethod
    def by_group(cls, path: str | Path, columns: Columns, by: str) -> dict[str, Comparisons]:
        """As from_csv: one Comparisons for each value of the column `by`, each over its own items."""
        return {group: cls(**arguments) for group, arguments in read_comparisons(path, columns, by).items()}
