"""The paper's models trained fast: ops with hand-written gradients, one interface for every backend.

ops = get_ops("numba")
pairs = ops.pairs(x_a, x_b, y, None, n)                # or ops.pairs_of_wins(wins): infinite data
objective = objectives.pbde(pairs, f, g, measure)      # or dpo, geometric, ipo, rso, slic_hf, rrhf, ...
result = train(MLP(x), objective, Config(steps=8192, learning_rate=5e-4), ops, checkpoint="out/run.npz")
log_p = result.log_p(measure)
"""

from accel import objectives
from accel.backends import get_ops
from accel.em import AnnotatorTypes, annotator_types
from accel.models import MLP, LatentMixture, Tabular, distinct
from accel.ops import Ops, Pairs
from accel.train import Config, DivergedError, Result, evaluate, train

__all__ = [
    "MLP",
    "AnnotatorTypes",
    "Config",
    "DivergedError",
    "LatentMixture",
    "Ops",
    "Pairs",
    "Result",
    "Tabular",
    "annotator_types",
    "distinct",
    "evaluate",
    "get_ops",
    "objectives",
    "train",
]
