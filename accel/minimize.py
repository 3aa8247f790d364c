"""The training loop: Adam on one flat buffer, resumable to the last bit, for any gradient."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from accel.adam import Adam, Schedule, learning_rates
from accel.buffers import Array
from accel.checkpoint import CheckpointError, check_same_run, load, save
from accel.ops import Ops, check_integer

Gradient = Callable[[int], tuple[Array, Array]]  # step -> loss (), flat gradient at the present parameters
Stopped = Literal["", "steps", "gradient"]


class DivergedError(RuntimeError):
    """The loss is not finite, or far above where it began; the message names the step."""


@dataclass(frozen=True)
class Config:
    """How to train. ValueError for values out of range.

    steps: at most so many updates. learning_rate: of the first step; schedule: "cosine" (to 0 over all steps) or
    "constant". dtype: "float32" or "float64". seed: of the first parameters. adam: Optax's constants.
    log_every: the loss is looked at every so many steps, and so is the gradient where gradient_tolerance > 0: the
    run stops at max_i |d loss / d param_i| <= gradient_tolerance. checkpoint_every: steps between checkpoints, in
    whole multiples of log_every. divergence: a loss above first + divergence (1 + |first|), first being that of
    step 0, stops the run.
    """

    steps: int
    learning_rate: float
    schedule: Schedule = "cosine"
    dtype: Literal["float32", "float64"] = "float32"
    seed: int = 0
    adam: Adam = field(default_factory=Adam)
    gradient_tolerance: float = 0.0
    log_every: int = 64
    checkpoint_every: int = 1024
    divergence: float = 100.0

    def __post_init__(self) -> None:
        for name, least in (("steps", 1), ("log_every", 1), ("checkpoint_every", 1), ("seed", 0)):
            check_integer(name, getattr(self, name), least)
        for name in ("learning_rate", "divergence"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be > 0, got {getattr(self, name)}")
        if not 0 <= self.gradient_tolerance < math.inf:
            raise ValueError(f"gradient_tolerance must be >= 0, got {self.gradient_tolerance}")
        if self.dtype not in ("float32", "float64"):
            raise ValueError(f"dtype must be float32 or float64, got {self.dtype!r}")
        learning_rates(self.schedule, self.learning_rate, self.steps)


@dataclass
class State:
    """Where a run is: flat parameters and Adam's moments, on the device; losses (config.steps,), filled so far."""

    params: Array
    m: Array
    v: Array
    losses: NDArray[np.float64]
    step: int = 0
    stopped: Stopped = ""
    seconds: float = 0.0


@dataclass(frozen=True)
class Store:
    """The checkpoint file of one run. run: what must agree between its parts, besides the Config."""

    path: Path
    run: Mapping[str, Any]
    resume: bool = True

    def save(self, state: State, config: Config) -> None:
        """Write the state, whole or not at all."""
        arrays = {name: host(getattr(state, name)) for name in ("params", "m", "v")}
        progress = {"step": state.step, "stopped": state.stopped, "seconds": state.seconds}
        about = {"run": self._settings(config), "progress": progress}
        save(self.path, {**arrays, "losses": state.losses[: state.step]}, about)

    def restore(self, state: State, config: Config, ops: Ops) -> None:
        """Read the state back in place, where there is a file. CheckpointError for a torn one or another run's."""
        if not (self.resume and self.path.exists()):
            return
        arrays, about = load(self.path)
        try:
            run, progress = dict(about["run"]), about["progress"]
            step, seconds, stopped = progress["step"], float(progress["seconds"]), progress["stopped"]
            check_progress(step, seconds, stopped, config.steps)
        except (KeyError, TypeError, ValueError):
            raise CheckpointError(f"{self.path} does not say how far a run is; delete it to start again") from None
        check_same_run(self.path, run, self._settings(config))
        expected = {name: kind_of(getattr(state, name)) for name in ("params", "m", "v")}
        losses = kind_of(state.losses[:step])
        if {name: kind_of(value) for name, value in arrays.items()} != {**expected, "losses": losses}:
            raise CheckpointError(f"{self.path} does not hold the arrays of this run; delete it to start again")
        for name in expected:
            getattr(state, name)[...] = ops.xp.asarray(arrays[name])
        state.losses[:step] = arrays["losses"]
        state.step, state.stopped, state.seconds = step, stopped, seconds

    def _settings(self, config: Config) -> dict[str, Any]:
        settings = asdict(config)
        del settings["checkpoint_every"]  # how often a run is saved does not change it
        return {**settings, **self.run}


def kind_of(array: Array) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Shape and dtype, which a stored array must share with the one that it fills."""
    return array.shape, array.dtype


def check_progress(step: Any, seconds: float, stopped: Any, steps: int) -> None:
    """ValueError unless a run of at most `steps` steps can have come so far: by its steps it stops at the last."""
    check_integer("step", step, 0)
    at_end = step == steps
    if step > steps or (stopped == "steps") != at_end or stopped not in get_args(Stopped):
        raise ValueError(f"step must be <= {steps}, and a run stopped where it says, got {step}, {stopped!r}")
    if not 0 <= seconds < math.inf:
        raise ValueError(f"seconds must be >= 0, got {seconds}")


def minimize(
    gradient: Gradient,
    params: Array,
    config: Config,
    ops: Ops,
    *,
    store: Store | None = None,
    label: str = "training",
    progress: bool = True,
    same_every_step: bool = False,
) -> State:
    """Adam's steps from params, flat and changed in place, until config says stop.

    gradient(step) gives the loss and the flat gradient at the present params; what it draws, it draws by step.
    same_every_step: it draws nothing, and computes on the same arrays each time; on a GPU a step can then be one
    CUDA graph.
    The loss leaves the device once in log_every steps. Raises DivergedError, with the step; the checkpoint, if
    there is one, is then still the last good one. The same holds for MemoryError, which says what to lower.
    CheckpointError as Store.restore.
    """
    from accel.progress import progress_bar  # here: tqdm is a third of the time that `import accel` would take

    zeros = ops.xp.zeros_like
    state = State(params, zeros(params), zeros(params), np.full(config.steps, np.nan))
    if store is not None:
        store.restore(state, config, ops)
        if state.step == 0:
            store.save(state, config)  # a folder that cannot be written is better known now
    rate = learning_rates(config.schedule, config.learning_rate, config.steps)
    steps = None
    if same_every_step:
        steps = ops.gradient_steps(lambda: gradient(0), state.params, state.m, state.v, config.adam)
    bar = progress_bar(desc=label, total=config.steps, initial=state.step, shown=progress)
    with bar, np.errstate(all="ignore"):  # what overflows ends as a loss that is not finite, and is refused
        while not state.stopped:
            start = state.step
            try:
                _some_steps(gradient, state, config, ops, rate, steps)
            except MemoryError as error:
                cure = "lower the number of points or comparisons"
                if store is not None:
                    cure += f"; {store.path} is as it was saved last, and the run can go on from it"
                raise MemoryError(out_of_memory(error, cure, f" after step {start}")) from error
            check_losses(state.losses[: state.step], start, config)
            bar.set_postfix_str(f"loss {state.losses[max(state.step - 1, 0)]:.5g}", refresh=False)
            bar.update(state.step - start)
            due = state.step // config.checkpoint_every > start // config.checkpoint_every
            if store is not None and (due or state.stopped):
                store.save(state, config)
    return state


def out_of_memory(error: MemoryError, cure: str, when: str = "") -> str:
    """What a program says of it, in one line. An error that `minimize` raised gives way to what raised that."""
    told = str(error.__cause__ or error).splitlines() or ["no more memory"]
    return f"out of memory{when} ({told[0]}): {cure}"


def _some_steps(
    gradient: Gradient,
    state: State,
    config: Config,
    ops: Ops,
    rate: Callable[[int], float],
    steps: Callable[[Sequence[float], int], Array] | None,
) -> None:
    """At most log_every steps, up to the next multiple of it; the gradient is looked at before the first.

    steps: as `Ops.gradient_steps` gives them, or None.
    """
    began, start = time.perf_counter(), state.step
    stop = min(start - start % config.log_every + config.log_every, config.steps)
    if _at_minimum(gradient, state, config):
        state.stopped, stop = "gradient", start
    rates = [rate(step) for step in range(start, stop)]
    losses = steps(rates, start + 1) if steps else _single_steps(gradient, state, config.adam, ops, rates)
    state.losses[start:stop] = host(losses)
    state.step = stop
    if not state.stopped and stop == config.steps:
        state.stopped = "steps"
    state.seconds += time.perf_counter() - began


def _at_minimum(gradient: Gradient, state: State, config: Config) -> bool:
    """Whether no part of the gradient exceeds the tolerance; DivergedError where the loss is not as it must be."""
    if config.gradient_tolerance == 0:
        return False
    loss, grads = gradient(state.step)
    if float(abs(grads).max()) > config.gradient_tolerance:
        return False
    check_losses(np.append(state.losses[: state.step], float(loss)), state.step, config)
    return True


def _single_steps(gradient: Gradient, state: State, adam: Adam, ops: Ops, rates: Sequence[float]) -> Array:
    """A step for each rate -> the losses, float64."""
    losses = ops.xp.empty(len(rates), dtype=np.float64)
    for i, rate in enumerate(rates):
        step = state.step + i
        losses[i], grads = gradient(step)
        ops.adam_step(state.params, grads, state.m, state.v, step + 1, rate, adam.b1, adam.b2, adam.eps)
    return losses


def check_losses(losses: NDArray[np.float64], since: int, config: Config) -> None:
    """DivergedError where one of losses[since:] is not finite, or above the first by the rule of Config."""
    first = losses[0] if len(losses) else 0.0
    recent = losses[since:]
    with np.errstate(invalid="ignore"):  # a first loss of -inf
        bad = ~(np.isfinite(recent) & (recent <= first + config.divergence * (1 + abs(first))))
    if bad.any():
        step = since + int(np.argmax(bad))
        if step == 0:
            raise DivergedError(
                f"the loss is {first:.6g} at step 0, before any update: look at the data and parameters"
            )
        raise DivergedError(
            f"the loss is {losses[step]:.6g} at step {step} (it began at {first:.6g}); "
            f"lower learning_rate, which is {config.learning_rate:g}"
        )


def host(array: Array) -> Array:
    """The same array as a NumPy array: copied where it lies on another device."""
    return array.get() if hasattr(array, "get") else np.asarray(array)
