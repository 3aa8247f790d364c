"""A training step on a GPU as launches that never change, so that one CUDA graph makes step after step.

What differs between steps lies on the device: the step's number, a schedule with a row for each step, and the
losses. The first step is launched kernel by kernel, then captured; all others are the graph's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from threading import Lock
from typing import Any, NamedTuple

import numpy as np

from accel.adam import Adam, constants
from accel.buffers import Array, address
from accel.cuda.kernel_table import TILE, TYPES, WIDE, chunks, walks
from accel.cuda.launcher import Graph, KernelLib

STEPS = 1024  # rows of a schedule: what is longer goes in pieces
GRAPHS = 4  # problems whose buffers and graphs are kept

Call = tuple[Any, ...]  # the arguments of `KernelLib.launch`


@dataclass(frozen=True, eq=False)
class Launches:
    """Kernels one after the other, each with arguments that never change."""

    lib: KernelLib
    calls: tuple[Call, ...]

    def launch(self) -> None:
        for call in self.calls:
            self.lib.launch(*call)


def column_sums(lib: KernelLib, parts: Array, columns: int) -> tuple[Array, tuple[Call, ...]]:
    """The R >= 1 rows of parts (R columns,) -> their sum (columns,), the calls that add them, CHUNK at a time."""
    kind, calls = TYPES[str(parts.dtype)], []
    while (rows := len(parts) // columns) > 1:
        sums = lib.empty((chunks(rows) * columns,), parts.dtype)
        calls.append(("column_sum", kind, walks(rows, columns), sums, parts, rows, columns))
        parts = sums
    return parts, tuple(calls)


class StepKernel(NamedTuple):
    """The kernel of a training step: its name and template arguments, as in `kernel_table.py`."""

    name: str
    variant: str


def margin_gradient(
    lib: KernelLib, kernel: StepKernel, flat: Array, widths: Array, x: Array, y: Array, groups: int
) -> tuple[Array, Array, Call]:
    """The mean loss of B comparisons -> sums of losses (blocks,), parts of the gradient, the call that makes them.

    flat (P,): the parameters. widths: int64. x (2 B, d): the left sides above the right sides. y (B,). The sum of
    the blocks' parts, (blocks P,), is the gradient.
    """
    layers, blocks, count, size = len(widths) - 1, min(-(-len(x) // TILE), groups), len(y), len(flat)
    parts, values = lib.empty((blocks * size,), flat.dtype), lib.empty((blocks,), np.float64)
    scratch = (lib.empty((blocks, layers, TILE, WIDE), flat.dtype),) if kernel.name == "mlp_margin_step" else ()
    inputs = (flat, x[:count], x[count:], y, widths, layers, count, size)
    return values, parts, (*kernel, blocks, parts, values, *scratch, *inputs)


def added(lib: KernelLib, parts: Array, columns: int) -> tuple[Array, Call]:
    """The few rows of parts (R columns,) -> their sum (columns,), the call that adds them."""
    total = lib.empty((columns,), parts.dtype)
    rows = len(parts) // columns
    return total, ("few_rows_sum", TYPES[str(parts.dtype)], columns, total, parts, rows, columns)


def record_loss(losses: Array, step: Array, values: Array, count: int) -> Call:
    """The call that writes the mean loss of count comparisons to losses[step] and adds 1 to step (1,)."""
    return ("record_loss", TYPES[str(losses.dtype)], 1, losses, step, values, len(values), count)


@dataclass(frozen=True, eq=False)
class Problem:
    """What a graph cannot change. params, m, v (P,): changed in place.

    widths: int64, on the device. x (2 B, d): the left sides above the right sides; y (B,).
    constants: as `accel.adam.constants` gives them.
    """

    kernel: StepKernel
    state: tuple[Array, Array, Array]
    widths: Array
    x: Array
    y: Array
    groups: int
    constants: tuple[float, ...]

    @property
    def key(self) -> tuple[Any, ...]:
        """Equal where a graph is the same. x and y are copied: only their shapes count."""
        places = tuple(map(address, (*self.state, self.widths)))
        return self.kernel, places, self.x.shape, self.groups, self.constants


class Steps:
    """Steps of training whose launches never change. losses are of that dtype, the schedule of params' dtype.

    launch: one step, launched singly. On the device lie the number of the step, the schedule with a row
    (lr, 1 / (1 - b1^t), 1 / (1 - b2^t)) for each step, and the losses. The arrays that a graph writes to live as
    long as this.
    """

    launch: Callable[[], None]

    def __init__(self, lib: KernelLib, kind: Any, losses: Any) -> None:
        self._lib = lib
        self.schedule, self.losses = lib.empty((STEPS, 3), kind), lib.empty((STEPS,), losses)
        self.number = lib.empty((1,), np.int64)
        self._graph: Graph | None = None

    def run(self, schedule: Array) -> Array:
        """A step for each row of schedule (n, 3) -> losses (n,)."""
        losses = self._lib.empty((len(schedule),), self.losses.dtype)
        for start in range(0, len(schedule), len(self.losses)):
            rows = schedule[start : start + len(self.losses)]
            self.schedule[: len(rows)] = rows
            self.number.fill(0)
            for _ in range(len(rows)):
                self._next()
            losses[start : start + len(rows)] = self.losses[: len(rows)]
        return losses

    def _next(self) -> None:
        """One step. The first compiles and loads its kernels, which a capture cannot."""
        if self._graph is not None:
            return self._graph.launch()
        self.launch()
        self._graph = self._lib.capture(self.launch) or self
        return None


class MarginSteps(Steps):
    """Steps of Adam on the mean loss of a problem's comparisons."""

    def __init__(self, lib: KernelLib, problem: Problem) -> None:
        flat, count = problem.state[0], len(problem.y)
        super().__init__(lib, flat.dtype, flat.dtype)
        self._x, self._y = lib.empty(problem.x.shape, flat.dtype), lib.empty((count,), flat.dtype)
        inputs = (problem.widths, self._x, self._y, problem.groups)
        values, parts, gradient = margin_gradient(lib, problem.kernel, flat, *inputs)
        adam = scheduled(problem.state, parts, self, problem.constants)
        self.launch = Launches(lib, (gradient, adam, record_loss(self.losses, self.number, values, count))).launch

    def run_on(self, x: Array, y: Array, schedule: Array) -> Array:
        """As `run`, on other comparisons of the same shape."""
        self._x[...], self._y[...] = x, y.reshape(-1)
        return self.run(schedule)


class GradientSteps(Steps):
    """Steps of Adam by any gradient() whose launches are the same each time: the loss and a flat gradient."""

    def __init__(
        self,
        lib: KernelLib,
        gradient: Callable[[], tuple[Array, Array]],
        state: tuple[Array, Array, Array],
        adam: Adam,
    ) -> None:
        super().__init__(lib, state[0].dtype, np.dtype(np.float64))

        def launch() -> None:
            loss, grads = gradient()
            update = scheduled(state, grads, self, constants(adam.b1, adam.b2, adam.eps))
            record = record_loss(self.losses, self.number, loss.reshape(1).astype(np.float64), 1)
            Launches(lib, (update, record)).launch()

        self.launch = launch


def scheduled(state: tuple[Array, Array, Array], parts: Array, steps: Steps, constants: tuple[float, ...]) -> Call:
    """The call of Adam on params, m, v by the sum of the gradient's parts, (R P,), with the step's rates."""
    size = len(state[0])
    values = (*state, parts, steps.schedule, steps.number, parts.size // size, size, *constants)
    return ("adam_scheduled", TYPES[str(parts.dtype)], size, *values)


class MarginGraphs:
    """The `MarginSteps` of the problems that were last worked on, at most GRAPHS of them."""

    def __init__(self, lib: KernelLib) -> None:
        self._lib = lib
        self._kept: dict[tuple[Any, ...], MarginSteps] = {}
        self._lock = Lock()

    def run(self, problem: Problem, schedule: Array) -> Array:
        """As `MarginSteps.run_on`, by those of the same key or new ones; one thread after the other."""
        with self._lock:
            steps = self._kept.pop(problem.key, None) or MarginSteps(self._lib, problem)
            self._kept[problem.key] = steps  # the last used stands last
            if len(self._kept) > GRAPHS:
                del self._kept[next(iter(self._kept))]
            return steps.run_on(problem.x, problem.y, schedule)
