"""Every op alone, on each backend: checked, timed, and set beside the least that its bytes and operations take.

Bytes: every input read once and every output written once. Operations: one for each +, *, exp, tanh and the like.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from accel import Ops, buffers
from accel.losses import logistic
from accel.mlp import WIDTHS, mlp_init
from accel.packing import pack
from bench.roofline import machine, measure, seconds

SIZES = tuple(1 << power for power in (10, 13, 16, 19, 22))  # numbers of the largest array, about
CHANNELS, VOCAB, POINTS, LENGTH, LONG, HEADS = 512, 4096, 1024, 32, 128, 8
EPS = 2.0**-23
WEIGHTS = sum(a * b for a, b in itertools.pairwise(WIDTHS))
UNITS = sum(WIDTHS[1:-1])

Call = Callable[[], Any]


@dataclass(frozen=True, eq=False)
class Case:
    """One op at one size. make(ops, dtype): a call that returns what is checked, its arrays where ops computes."""

    op: str
    size: int
    moved: float
    operations: float
    make: Callable[[Ops, Any], Call]


@dataclass(frozen=True)
class Row:
    """A measurement: seconds of a call, and floor: the least that the backend's machine could need."""

    op: str
    backend: str
    size: int
    moved: float
    operations: float
    seconds: float
    floor: float
    error: float


def cases(sizes: Sequence[int] = SIZES) -> Iterator[Case]:
    """Every op from the smallest size to the largest."""
    for make in (layers, outputs, attentions, comparisons, networks):
        seen: set[tuple[str, int]] = set()  # the smallest sizes may come to the same
        for case in (case for size in sizes for case in make(size)):
            if (case.op, case.size) not in seen:
                seen.add((case.op, case.size))
                yield case


def noise(ops: Ops, dtype: Any, *shape: int, seed: int = 0) -> Any:
    """Standard normal numbers on the device, the same for every backend."""
    values = np.random.default_rng((seed, *shape)).standard_normal(shape, dtype=np.float32)
    return ops.xp.asarray(values.astype(dtype))


def pair(
    name: str, size: int, moved: tuple[float, float], work: tuple[float, float], arrays: Any
) -> Iterator[Case]:
    """x_forward and x_backward. moved, work: numbers (not bytes) and operations of each; arrays(ops, dtype): the
    forward's arguments."""

    def forward(ops: Ops, dtype: Any) -> Call:
        arguments = arrays(ops, dtype)
        return lambda: getattr(ops, f"{name}_forward")(*arguments)[0]

    def backward(ops: Ops, dtype: Any) -> Call:
        out, cache = getattr(ops, f"{name}_forward")(*arrays(ops, dtype))
        dout = noise(ops, dtype, *out.shape, seed=9)
        return lambda: getattr(ops, f"{name}_backward")(dout, cache)

    for kind, make, numbers, operations in zip(
        ("forward", "backward"), (forward, backward), moved, work, strict=True
    ):
        yield Case(f"{name}_{kind}", size, 4 * numbers, operations, make)


def layers(size: int) -> Iterator[Case]:
    """Rows of CHANNELS numbers."""
    rows = max(1, size // CHANNELS)
    n = rows * CHANNELS

    def of(*shapes: tuple[int, ...]) -> Callable[[Ops, Any], Any]:
        return lambda ops, dtype: [noise(ops, dtype, *shape, seed=i) for i, shape in enumerate(shapes)]

    row = (CHANNELS,)
    yield from pair("tanh", n, (2 * n, 3 * n), (n, 3 * n), of((rows, CHANNELS)))
    yield from pair("bias_relu", n, (2 * n, 3 * n), (2 * n, 2 * n), of((rows, CHANNELS), row))
    yield from pair("layer_norm", n, (2 * n, 3 * n), (8 * n, 12 * n), of((rows, CHANNELS), row, row))

    def embedding(ops: Ops, dtype: Any) -> Any:
        tokens = np.random.default_rng(1).integers(0, VOCAB, rows)
        return noise(ops, dtype, VOCAB, CHANNELS), ops.xp.asarray(tokens)

    table = VOCAB * CHANNELS
    yield from pair("embedding", n, (2 * n, n + table), (0, n), embedding)

    def adam(ops: Ops, dtype: Any) -> Call:
        params, grads, m, v = (noise(ops, dtype, n, seed=i) for i in range(4))
        v *= v

        def step() -> Any:
            ops.adam_step(params, grads, m, v, 1, 1e-8)
            return params

        return step

    yield Case("adam_step", n, 4 * 7 * n, 13 * n, adam)


def outputs(size: int) -> Iterator[Case]:
    """The output layer, 64 channels to VOCAB logits a row, and its log-probabilities."""
    rows, channels = max(1, size // VOCAB), 64
    n = rows * VOCAB

    def arrays(ops: Ops, dtype: Any) -> Any:
        shapes = ((rows, channels), (channels, VOCAB), (VOCAB,))
        targets = np.random.default_rng(2).integers(0, VOCAB, rows)
        return *(noise(ops, dtype, *shape, seed=3) for shape in shapes), ops.xp.asarray(targets)

    weights, products = channels * VOCAB, 2.0 * n * channels
    moved = (weights + rows * channels, 2 * weights + 2 * rows * channels)
    yield from pair("token_log_p", n, moved, (products + 4 * n, 2 * products + 4 * n), arrays)


def attentions(size: int) -> Iterator[Case]:
    """Sequences of LENGTH tokens, and of LONG, which a GPU takes by products; HEADS heads of 64 channels."""
    for length in (LENGTH, LONG):
        count = max(1, size // (length * HEADS * 64))
        n = count * length * HEADS * 64

        def arrays(ops: Ops, dtype: Any, count: int = count, length: int = length) -> Any:
            groups = pack(np.ones((count, length), np.int64), 2, length, xp=ops.xp).groups
            return *(noise(ops, dtype, count * length, HEADS, 64, seed=i) for i in range(3)), groups

        seen = n * (length + 1) / 2  # products of a query's channel with the keys up to it
        for case in pair("attention", n, (4 * n, 7 * n), (4 * seen, 10 * seen), arrays):
            yield replace(case, op=f"{case.op}{f'_{LONG}' * (length == LONG)}")


def comparisons(size: int) -> Iterator[Case]:
    """size comparisons of POINTS points."""
    index = np.random.default_rng(4).integers(0, POINTS, (2, size))

    def margin_loss(ops: Ops, dtype: Any) -> Call:
        y = np.random.default_rng(5).integers(0, 2, size)
        pairs, omega = ops.pairs(index[0], index[1], y, None, POINTS), noise(ops, dtype, POINTS)
        return lambda: ops.margin_loss(omega, pairs, logistic)

    def scatter(ops: Ops, dtype: Any) -> Call:
        where, values = ops.xp.asarray(index[0]), noise(ops, dtype, size)
        return lambda: ops.scatter(where, values, POINTS)

    distinct = len(np.unique(index[0] * POINTS + index[1]))
    yield Case("margin_loss", size, 24.0 * distinct + 8 * POINTS, 14.0 * distinct, margin_loss)
    yield Case("scatter", size, 12.0 * size + 4 * POINTS, float(size), scatter)


def networks(size: int) -> Iterator[Case]:
    """The network of the density experiments, size / 64 rows."""
    rows = max(2, size // 64)

    def params(ops: Ops, dtype: Any) -> Any:
        return buffers.flatten(mlp_init(np.random.default_rng(6), WIDTHS), ops.xp, dtype)[1]

    def arrays(ops: Ops, dtype: Any) -> Any:
        return params(ops, dtype), noise(ops, dtype, rows, 1)

    def step(ops: Ops, dtype: Any) -> Call:
        first, x = params(ops, dtype), noise(ops, dtype, rows // 2, 2)
        y = ops.xp.asarray(np.arange(rows // 2) % 2, dtype=dtype)
        return lambda: ops.mlp_margin_step(first, x[:, 0], x[:, 1], y, logistic)

    forward, backward = 2.0 * rows * WEIGHTS, 4.0 * rows * WEIGHTS
    tanhs = float(rows * UNITS)
    moved, n = (2 * rows + WEIGHTS, rows * (UNITS + 1) + 2 * WEIGHTS), rows * 64
    yield from pair("mlp", n, moved, (forward + tanhs, backward + 3 * tanhs), arrays)
    yield Case("mlp_margin_step", n, 8.0 * WEIGHTS + 6 * rows, forward + backward + 4 * tanhs, step)


# ----- Checked, then timed -----


def flat(ops: Ops, result: Any) -> Any:
    """All numbers of a result, float64, on the host."""
    if isinstance(result, dict):
        result = tuple(result.values())
    if isinstance(result, tuple):
        return np.concatenate([flat(ops, part) for part in result])
    host = result.get() if hasattr(result, "get") else np.asarray(result)
    return host.astype(np.float64).reshape(-1)


def error_of(ops: Ops, case: Case) -> float:
    """The largest error against NumPy in float64, in parts of the largest number. ValueError where it is more than
    twice that of NumPy in float32 and 64 roundings."""
    plain = Ops()
    exact = flat(plain, case.make(plain, np.float64)())
    scale = float(np.abs(exact).max())
    found, honest = (
        float(np.abs(flat(each, case.make(each, np.float32)()) - exact).max()) / scale for each in (ops, plain)
    )
    if not found <= 2 * honest + 64 * EPS:
        raise ValueError(f"{case.op} of {case.size} on {ops.name} must be right, got an error of {found:.1e}")
    return found


def run(
    backends: Sequence[Ops], sizes: Sequence[int] = SIZES, say: Callable[[Row], None] = lambda row: None
) -> Any:
    """Everything: {"machines": ..., "rooflines": ..., "rows": ...}; each row is said as it comes."""
    roofs = {ops.name: measure(ops) for ops in backends}
    rows = []
    for case in cases(sizes):
        for ops in backends:
            error, call = error_of(ops, case), case.make(ops, np.float32)
            floor = roofs[ops.name].seconds(case.moved, case.operations)
            taken = seconds(ops, call)
            rows.append(Row(case.op, ops.name, case.size, case.moved, case.operations, taken, floor, error))
            say(rows[-1])
    return {
        "machines": {ops.name: machine(ops) for ops in backends},
        "rooflines": {name: asdict(roof) for name, roof in roofs.items()},
        "rows": [asdict(row) for row in rows],
    }


def line(row: Row) -> str:
    """A row of the table."""
    rates = f"{row.moved / row.seconds / 1e9:>9.2f}{row.operations / row.seconds / 1e9:>10.2f}"
    return f"{row.op:<22}{row.backend:<7}{row.size:>9}{row.seconds * 1e6:>13.1f}{row.floor * 1e6:>11.1f}{rates}"


HEAD = f"{'':<22}{'':<7}{'numbers':>9}{'us a call':>13}{'floor us':>11}{'GB/s':>9}{'GFLOP/s':>10}"


def save(results: Any, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


def draw(results: Any, path: Path) -> None:
    """Time against size for every op, log-log, each backend with the floor of its machine."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows, colours = results["rows"], {"numpy": "#1f77b4", "numba": "#ff7f0e", "cupy": "#2ca02c"}
    names = list(dict.fromkeys(row["op"] for row in rows))
    figure = Figure(figsize=(12, 2.4 * -(-len(names) // 4)), layout="constrained")
    axes = list(figure.subplots(-(-len(names) // 4), 4, squeeze=False, sharex=True).flat)
    for axis, name in zip(axes, names, strict=False):
        for backend in results["machines"]:
            own = [row for row in rows if (row["op"], row["backend"]) == (name, backend)]
            size, taken, floor = (np.array([row[key] for row in own]) for key in ("size", "seconds", "floor"))
            axis.loglog(size, taken * 1e6, "o-", color=colours[backend], markersize=3, label=backend)
            axis.loglog(size, floor * 1e6, "--", color=colours[backend], linewidth=0.9, label=f"{backend} floor")
        axis.set_title(name, fontsize=9)
        axis.tick_params(which="both", labelsize=6, labelbottom=True)
    for axis in axes[len(names) :]:
        axis.remove()
    figure.supxlabel("numbers of the largest array", fontsize=10)
    figure.supylabel("microseconds a call", fontsize=10)
    axes[0].legend(fontsize=6)
    path.parent.mkdir(parents=True, exist_ok=True)
    FigureCanvasAgg(figure).print_figure(str(path), dpi=110)
