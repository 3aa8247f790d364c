"""What `python -m reference verify` checks: the claims of the paper and of the methods, and their verdicts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from reference.arrays import integer
from reference.claims.claim import Claim, Formula
from reference.claims.methods import ESTIMANDS
from reference.claims.paper import THEOREMS

__all__ = ["CLAIMS", "Claim", "Verdict", "verify"]

CLAIMS: tuple[Claim, ...] = (*THEOREMS, *ESTIMANDS)


@dataclass(frozen=True)
class Verdict:
    """The worst error of a claim over its trials; it holds where that is not above what is allowed."""

    claim: Claim
    worst: float

    @property
    def holds(self) -> bool:
        return self.worst <= self.claim.allowed


def verify(
    claims: Sequence[Claim], largest: int, trials: int, seed: int, formula: Formula | None = None
) -> list[Verdict]:
    """The claims' verdicts over `trials` random cases each, with n = 2..largest outcomes.

    formula: put in the place of every claim's own. ValueError where largest < 2 or trials < 1.
    """
    for name, value, least in (("n", largest, 2), ("trials", trials, 1), ("seed", seed, 0)):
        integer(name, value, least)
    verdicts = []
    for k, claim in enumerate(claims):
        rng = np.random.default_rng([seed, k])
        given = {} if formula is None else {"formula": formula}
        errors = [claim.check(rng, int(rng.integers(2, largest + 1)), **given) for _ in range(trials)]
        verdicts.append(Verdict(claim, float(np.max(errors))))
    return verdicts
