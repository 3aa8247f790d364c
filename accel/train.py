"""Train a model of a density on an objective: `train(model, objective, Config(...))`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from accel import buffers
from accel.arrays import real_array
from accel.backends import get_ops
from accel.buffers import Array, Shapes
from accel.checkpoint import fingerprint
from accel.minimize import Config, DivergedError, Stopped, Store, check_losses, host, minimize
from accel.models import LatentValues, Model
from accel.objectives import Objective
from accel.ops import Ops
from accel.streams import stream

__all__ = ["Config", "DivergedError", "Result", "evaluate", "train"]


@dataclass(frozen=True, eq=False)
class Result:
    """A trained model. Arrays are NumPy's.

    params: name -> array. values: what the model gives on its support (unnormalised; (n,) for one density).
    losses: (steps,), losses[s] before update s; loss: after the last. steps: updates made; stopped: by "steps" or
    by the "gradient". seconds: of training, over all parts of a resumed run.
    """

    model: Model
    params: dict[str, Array]
    values: Any
    losses: NDArray[np.float64]
    loss: float
    steps: int
    stopped: Stopped
    seconds: float

    def log_p(self, measure: ArrayLike | None = None) -> NDArray[np.float64]:
        """(n,), float64: the log-density learned, normalised against measure (n,); None: points count one each."""
        return self.model.log_p(self.values, measure)


def train(
    model: Model,
    objective: Objective,
    config: Config,
    ops: Ops | None = None,
    *,
    initial: Mapping[str, ArrayLike] | None = None,
    checkpoint: str | Path | None = None,
    resume: bool = True,
    label: str = "training",
    progress: bool = True,
) -> Result:
    """Minimise objective(model(params)) over params, by Adam.

    ops: get_ops("numpy") where it is None. initial: the first parameters; else model.init draws them by
    config.seed. checkpoint: a file; where it exists and resume is true, the run goes on from it, and ends bit for
    bit where an uninterrupted one does (same machine, backend, threads). progress: a bar with the loss and the
    time left, on terminals only.

    Raises DivergedError, naming the step; CheckpointError for a torn file or another run's; ValueError where
    initial does not have the model's shapes.
    """
    ops = get_ops("numpy") if ops is None else ops
    if not isinstance(ops, Ops):
        raise ValueError(f"ops must come from get_ops, got {ops!r}")
    first = model.init(stream(config.seed)) if initial is None else initial
    flat, params = _flat_params(model.shapes, first, ops, config.dtype)
    store = None
    if checkpoint is not None:
        parts = {"model": model, "objective": objective, "first parameters": flat}
        prints = {name: fingerprint(part) for name, part in parts.items()}
        store = Store(Path(checkpoint), {"backend": ops.name, **prints}, resume)
    placed, wanted = model.on(ops, config.dtype), objective.on(ops, config.dtype)

    def gradient(step: int) -> tuple[Array, Array]:
        values, cache = placed.forward(ops, params)
        loss, dvalues = wanted(ops, values, step)
        return loss, placed.backward(ops, dvalues, cache)

    run = partial(minimize, gradient, flat, config, ops, store=store, label=label)
    state = run(progress=progress, same_every_step=wanted.same_every_step)
    with np.errstate(all="ignore"):
        values, _ = placed.forward(ops, params)
        loss = float(wanted(ops, values, state.step)[0])
    losses = state.losses[: state.step]
    check_losses(np.append(losses, loss), state.step, config)
    found = {name: host(value) for name, value in params.items()}
    return Result(model, found, _on_host(values), losses, loss, state.step, state.stopped, state.seconds)


def evaluate(model: Model, params: Mapping[str, ArrayLike], ops: Ops | None = None) -> Any:
    """What model gives with params (of its shapes, in their dtype): values as in `Result`, on the host.

    A network trained at the points of the data is looked at on a grid so: evaluate(MLP(grid), result.params).
    """
    ops = get_ops("numpy") if ops is None else ops
    dtype = str(np.result_type(np.float32, *(np.asarray(value).dtype for value in params.values())))
    _, placed = _flat_params(model.shapes, params, ops, dtype)
    return _on_host(model.on(ops, dtype).forward(ops, placed)[0])


def _flat_params(
    shapes: Shapes, first: Mapping[str, ArrayLike], ops: Ops, dtype: str
) -> tuple[Array, dict[str, Array]]:
    """A new flat buffer with the first parameters in the order of shapes, and its views."""
    for name in {**shapes, **first}:
        got = real_array(f"parameter {name}", first[name]).shape if name in first else "nothing"
        if got != shapes.get(name, "nothing"):
            raise ValueError(f"parameter {name} must have shape {shapes.get(name, 'nothing')}, got {got}")
    return buffers.flatten({name: first[name] for name in shapes}, ops.xp, dtype)


def _on_host(values: Any) -> Any:
    return LatentValues(*map(host, values)) if isinstance(values, LatentValues) else host(values)
