"""The wins of every pair of items side by side, dense or sparse, and the losses that they give an omega."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import sparse
from scipy.special import expit

from reference.pbde import Array

TINY = 1e-300  # stands for a win count of 0 under a logarithm that is then multiplied by 0


@dataclass(frozen=True, eq=False)
class Pairs:
    """W_ij and W_ji side by side: dense (n, n), or for each stored entry i, j of a symmetric CSR pattern."""

    won: Array
    lost: Array
    n: int
    pattern: Any = None
    row: Any = None

    @classmethod
    def of(cls, wins: Any) -> Pairs:
        if not sparse.issparse(wins):
            return cls(wins, np.ascontiguousarray(wins.T), len(wins))
        both = sparse.csr_array(wins + 1j * wins.T)  # one pattern for W_ij (real) and W_ji (imaginary)
        row = np.repeat(np.arange(wins.shape[0], dtype=np.int32), np.diff(both.indptr))
        return cls(both.data.real.copy(), both.data.imag.copy(), wins.shape[0], both, row)

    def blocks(self) -> list[Any]:
        """Slices of rows (dense) that stay in cache, or all stored entries at once (sparse)."""
        if self.pattern is not None:
            return [slice(None)]
        rows = max(1, 32768 // self.n)
        return [slice(start, start + rows) for start in range(0, self.n, rows)]

    def ends(self, x: Array, block: Any) -> tuple[Array, Array]:
        """x_i and x_j of every pair in the block, for x of shape (n,)."""
        return (x[block, None], x) if self.pattern is None else (x[self.row], x[self.pattern.indices])

    def sigmoids(self, omega: Array) -> Callable[[Any], tuple[Array, Array]]:
        """block -> s(omega_i - omega_j) and s(omega_j - omega_i), each to full relative precision."""
        if np.ptp(omega) > 600:

            def of_margins(block: Any) -> tuple[Array, Array]:
                omega_i, omega_j = self.ends(omega, block)
                return expit(omega_i - omega_j), expit(omega_j - omega_i)

            return of_margins
        strength = np.exp(omega - (omega.max() + omega.min()) / 2)

        def of_strengths(block: Any) -> tuple[Array, Array]:
            strength_i, strength_j = self.ends(strength, block)
            share = 1 / (strength_i + strength_j)
            return strength_i * share, strength_j * share

        return of_strengths

    def node_sums(self, values: Array) -> Array:
        """sum_j of every item, for the values of a block."""
        if self.pattern is None:
            return np.asarray(values.sum(axis=1))
        some = np.diff(self.pattern.indptr) > 0  # reduceat gives an empty row its neighbour's value
        sums = np.zeros(self.n)
        sums[some] = np.add.reduceat(values, self.pattern.indptr[:-1][some])
        return sums

    def matrix(self, values: Array) -> Any:
        """A value for every pair as an (n, n) array, dense or CSR as the wins were."""
        if self.pattern is None:
            return values
        return sparse.csr_array((values, self.pattern.indices, self.pattern.indptr), shape=(self.n, self.n))

    def dense(self) -> Pairs:
        """The same pairs as dense arrays."""
        return self if self.pattern is None else Pairs.of(self.matrix(self.won).toarray())


def summary(pairs: Pairs, omega: Array) -> tuple[float, float, float]:
    """Eq. 7 and Eq. 8 in nats per comparison, and max_i |F'_i| / comparisons of i."""
    sigmoids = pairs.sigmoids(omega)
    loss = divergence = worst = 0.0
    for block in pairs.blocks():
        won, lost = pairs.won[block], pairs.lost[block]
        win, lose = sigmoids(block)
        omega_i, omega_j = pairs.ends(omega, block)
        log_win = -np.logaddexp(0, omega_j - omega_i) if np.ptp(omega) > 600 else np.log(win)
        total = won + lost
        log_share = np.log(np.maximum(won / np.maximum(total, TINY), TINY))  # 0 wins of 1e24 have no log
        loss -= float(np.vdot(won, log_win))
        divergence += float(np.vdot(won, log_share - log_win))
        phi = pairs.node_sums(won * lose - lost * win)
        worst = max(worst, float(np.max(np.abs(phi) / np.maximum(pairs.node_sums(total), TINY))))
    comparisons = float(pairs.won.sum())
    return loss / comparisons, max(divergence / comparisons, 0.0), worst
