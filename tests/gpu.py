"""The first things to run on a GPU: does it compile, is every kernel right, are graphs and tensor cores right?

python -m tests.gpu [--ops cupy | shim] [--save FILE] [compile | launches | graphs | precision ...]

A line a check, with its seconds; what fails does not stop the others. --save keeps them as JSON, with the machine.
The tests marked gpu say more; this says within seconds whether they are worth running. compute-sanitizer watches
`launches --no-pool`, where every array is an allocation of its own.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from accel import Ops, buffers, get_ops, losses
from accel.cuda.cublas import Cublas, load_cublas
from accel.cuda.graph import added
from accel.cuda.kernel_table import KERNELS
from accel.cuda.launcher import CupyLib
from accel.cuda.ops import CupyOps
from accel.minimize import host
from accel.mlp import WIDTHS, mlp_init
from accel.sequence_ops import Precision
from bench.roofline import machine
from tests import backends
from tests.shim import examples

Check = tuple[str, Callable[[], Any]]  # a name, and what raises where it is wrong or returns what is worth telling

UNITS: dict[Precision, float] = {"float32": 2.0**-24, "tf32": 2.0**-11, "bfloat16": 2.0**-8}
WORKERS = 12


def raw_ops(name: str) -> CupyOps:
    """The backend's own ops; ImportError where there is none."""
    if name == "shim":
        return backends.shim_ops(in_turn=True)
    ops = get_ops(name)
    assert isinstance(ops, CupyOps)
    return ops


# ----- Compiling -----


def compile_kernel(name: str) -> str:
    """NVRTC's work on all variants of a kernel, into CuPy's cache on disk. In a process of its own."""
    ops = raw_ops("cupy")
    assert isinstance(ops.lib, CupyLib)
    for variant in KERNELS[name].variants:
        ops.lib._function(name, variant)
    return name


def compiling(ops: CupyOps) -> Iterator[Check]:
    """Every kernel, many at once."""

    def everything() -> str:
        if ops.xp is not sys.modules.get("cupy"):
            return "the shim compiles what it needs"
        with ProcessPoolExecutor(WORKERS, mp_context=get_context("spawn")) as pool:
            return f"{len(list(pool.map(compile_kernel, KERNELS)))} kernels"

    yield "all kernels", everything


# ----- Right -----


def launches(ops: CupyOps) -> Iterator[Check]:
    """A few launches of every kernel against NumPy, in float64."""
    for source, example in examples.EXAMPLES.items():
        yield source, partial(example, ops)


def trained(ops: CupyOps, pairs: int, *, singly: bool) -> Any:
    """Losses and parameters of some steps of the density experiments' network in float32."""
    rng, xp = np.random.default_rng(pairs), ops.xp
    flat, params = buffers.flatten(mlp_init(rng, WIDTHS), xp, "float32")
    m, v = xp.zeros_like(flat), xp.zeros_like(flat)
    x = xp.asarray(rng.standard_normal((2, pairs, 1), dtype=np.float32))
    y = xp.asarray(rng.integers(0, 2, pairs).astype(np.float32))
    steps = partial(Ops.mlp_margin_steps, ops) if singly else ops.mlp_margin_steps
    values = steps(params, x[0], x[1], y, losses.logistic, m, v, 1, [1e-3] * 5)
    return np.concatenate([host(values), host(flat)])


def graphs(ops: CupyOps, sizes: Sequence[int] = (33, 1024, 40_000)) -> Iterator[Check]:
    """Steps as a graph against steps kernel by kernel, to the bit; and that there is a graph."""

    def alike(pairs: int) -> None:
        np.testing.assert_array_equal(trained(ops, pairs, singly=False), trained(ops, pairs, singly=True))

    def is_one() -> None:
        step = partial(ops.lib.launch, *added(ops.lib, ops.xp.zeros(256), 32)[1])
        step()
        assert ops.lib.capture(step) is not None

    yield "a capture", is_one
    for pairs in sizes:
        yield f"{pairs} comparisons", partial(alike, pairs)


def precisions(ops: CupyOps) -> Iterator[Check]:
    """Products by our own cuBLAS handle: their errors, and the same bits from a graph."""
    rng = np.random.default_rng(0)
    a, b = (rng.standard_normal(shape, dtype=np.float32) for shape in ((257, 512), (512, 384)))
    exact = a.astype(np.float64) @ b
    lib = CupyLib(ops.xp, Cublas(load_cublas())) if isinstance(ops.lib, CupyLib) else ops.lib

    def error(precision: Precision) -> str:
        out = ops.xp.zeros(exact.shape, dtype=np.float32)
        lib.product(ops.xp.asarray(a), ops.xp.asarray(b), out, precision)
        # a sum of 512 products of rounded standard normals: their errors add like a random walk
        found = float(np.sqrt(np.mean((host(out) - exact) ** 2)) / np.sqrt(512))
        unit = UNITS[precision]
        assert found <= 2 * unit + 32 * UNITS["float32"], f"root mean square error {found:.1e}"
        assert precision == "float32" or found >= 0.05 * unit, f"error {found:.1e}: not the arithmetic asked for"
        return f"root mean square error {found:.1e} of a term"

    def graphed(precision: Precision) -> str:
        left, right, outs = ops.xp.asarray(a), ops.xp.asarray(b), []
        for capture in (False, True):
            out = ops.xp.zeros(exact.shape, dtype=np.float32)
            product = partial(lib.product, left, right, out, precision)
            product()
            if capture:
                graph = lib.capture(product)
                assert graph is not None
                out.fill(0)
                graph.launch()
            outs.append(host(out))
        np.testing.assert_array_equal(*outs)
        return "same bits"

    for precision in UNITS:
        yield f"error of {precision}", partial(error, precision)
    if isinstance(lib, CupyLib):  # the shim's products are NumPy's, which it cannot record
        for precision in UNITS:
            yield f"graph of {precision}", partial(graphed, precision)


# ----- The command -----

PARTS = {"compile": compiling, "launches": launches, "graphs": graphs, "precision": precisions}


def run(part: str, check: Check) -> dict[str, Any]:
    """One check, timed; prints its line, and the traceback of what failed."""
    name, action = check
    start, told = time.perf_counter(), None
    try:
        told = action()
        failure = None
    except Exception as error:
        traceback.print_exc()
        failure = f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]
    seconds = time.perf_counter() - start
    print(f"{part:<10}{name:<22}{seconds:>7.2f} s  {failure or told or 'right'}", flush=True)
    return {"part": part, "check": name, "seconds": seconds, "failure": failure, "told": told}


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.gpu", description=__doc__.partition("\n")[0])
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)} (default: all)")
    parser.add_argument("--ops", choices=["cupy", "shim"], default="cupy", help="default cupy")
    parser.add_argument("--only", nargs="+", metavar="CHECK", help="only checks of these names")
    parser.add_argument("--no-pool", action="store_true", help="an allocation of its own for every array")
    parser.add_argument("--save", type=Path, metavar="FILE", help="write the results there as JSON")
    arguments = parser.parse_args(argv)
    if unknown := set(arguments.parts) - set(PARTS):
        parser.error(f"no such part: {', '.join(sorted(unknown))}")
    try:
        ops = raw_ops(arguments.ops)
    except ImportError as error:
        print(error, file=sys.stderr)
        return 2
    if arguments.no_pool and arguments.ops == "cupy":
        ops.xp.cuda.set_allocator(None)
    told = machine(ops if arguments.ops == "cupy" else Ops())
    print(*(f"{name} {value}" for name, value in told.items()), sep=", ")
    checks_of = [(part, check) for part in arguments.parts or PARTS for check in PARTS[part](ops)]
    rows = [run(part, check) for part, check in checks_of if check[0] in (arguments.only or [check[0]])]
    failed = sum(row["failure"] is not None for row in rows)
    print(f"{len(rows) - failed} of {len(rows)} right")
    if arguments.save:
        arguments.save.write_text(json.dumps({"machine": told, "rows": rows}, indent=1) + "\n", encoding="utf-8")
    return 1 if failed or not rows else 0


if __name__ == "__main__":
    sys.exit(main())
