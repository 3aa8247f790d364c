"""What a machine can do at best, measured: the rate of copying large arrays and of large matrix products."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from accel import Ops
from bench.timing import fastest

WARM_UP, BATCHES, BATCH_SECONDS = 3, 5, 0.02  # of a timing on a GPU: launches before it, batches, length of one
COPIED = 1 << 25  # numbers: 128 MB in float32, more than caches hold
CPU_SECONDS = 0.1  # a timing on a CPU, three calls at least
SQUARE = {"cpu": 1024, "gpu": 8192}


@dataclass(frozen=True)
class Roofline:
    """bandwidth: bytes a second, read and written; flops: operations a second of float32 products."""

    bandwidth: float
    flops: float

    def seconds(self, moved: float, operations: float) -> float:
        """The least time for so many bytes and operations, were they from and to memory."""
        return max(moved / self.bandwidth, operations / self.flops)


def on_gpu(ops: Ops) -> bool:
    return ops.name == "cupy"


def seconds(ops: Ops, call: Callable[[], object]) -> float:
    """Of one call: the fastest on a CPU; on a GPU the median of batches between two events on its stream."""
    if not on_gpu(ops):
        return fastest(call, CPU_SECONDS)
    cuda: Any = ops.xp.cuda
    stream, times = cuda.get_current_stream(), []
    for _ in range(WARM_UP):
        call()
    repeats = 1
    for batch in range(BATCHES + 1):
        first, last = cuda.Event(), cuda.Event()
        first.record(stream)
        for _ in range(repeats):
            call()
        last.record(stream)
        last.synchronize()
        times.append(cuda.get_elapsed_time(first, last) * 1e-3 / repeats)
        if batch == 0:  # says how many calls make a batch
            repeats = max(1, round(BATCH_SECONDS / max(times[0], 1e-7)))
    return float(np.median(times[1:]))


def product_rate(ops: Ops) -> float:
    """Operations a second of a large square matrix product, in the arithmetic of ops' own products."""
    side = SQUARE["gpu" if on_gpu(ops) else "cpu"]
    square = ops.xp.asarray(np.random.default_rng(0).standard_normal((side, side), dtype=np.float32))
    return 2 * side**3 / seconds(ops, lambda: ops.product(square, square))


def measure(ops: Ops) -> Roofline:
    """The machine below ops. A CPU copies with all its cores."""
    source, target = ops.xp.zeros(COPIED, np.float32), ops.xp.empty(COPIED, np.float32)
    if on_gpu(ops):
        copy = seconds(ops, lambda: ops.xp.copyto(target, source))
    else:
        parts = [slice(a[0], a[-1] + 1) for a in np.array_split(np.arange(COPIED), cores())]
        with ThreadPoolExecutor(len(parts)) as pool:
            copy = seconds(ops, lambda: list(pool.map(lambda part: np.copyto(target[part], source[part]), parts)))
    return Roofline(2 * 4 * COPIED / copy, product_rate(ops))


def machine(ops: Ops) -> dict[str, str]:
    """Device, driver, versions and commit: what a result must say of where it is from."""
    told = {"backend": ops.name, "python": platform.python_version(), "commit": commit()}
    told["device"] = f"{processor()}, {cores()} cores"
    if on_gpu(ops):
        runtime: Any = ops.xp.cuda.runtime
        told["device"] = runtime.getDeviceProperties(ops.xp.cuda.Device().id)["name"].decode()
        told["driver"], told["cuda"] = str(runtime.driverGetVersion()), str(runtime.runtimeGetVersion())
    for package in ("numpy", "numba", "cupy-cuda12x", "cupy-cuda13x"):
        try:
            told[package] = version(package)
        except PackageNotFoundError:
            continue
    return told


def cores() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def processor() -> str:
    """The CPU's name, as far as the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def commit() -> str:
    """Of this copy of the source, with + where files differ from it; "unknown" outside a repository."""
    told = []
    for command in (["git", "rev-parse", "--short", "HEAD"], ["git", "status", "--porcelain", "-uno"]):
        try:
            done = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=True)
        except (OSError, subprocess.CalledProcessError):
            return "unknown"
        told.append(done.stdout.strip())
    return told[0] + "+" * bool(told[1])
