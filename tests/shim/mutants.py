"""Kernels broken on purpose: without a barrier, with a loop one short, without a guard. Each must be caught.

python -m tests.shim.mutants [FILE ...]       every mutant (of these sources), in child processes
python -m tests.shim.mutants kernels FOLDER   one for each kernel; the right ones are built in FOLDER
python -m tests.shim.mutants sanitize         the whole kernels once under AddressSanitizer and UBSan
"""

from __future__ import annotations

import faulthandler
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accel.cuda import kernel_table
from accel.cuda.kernel_table import KERNELS, PREAMBLE, Kernel
from accel.cuda.ops import CupyOps
from accel.sequence_ops import Precision
from tests.mutants import judged
from tests.shim import device
from tests.shim.examples import EXAMPLES
from tests.shim.library import ShimLib

PATIENCE = 30  # seconds of the processor: a mutant that takes more runs forever
RULES = (  # what is done, where, what stands there then
    ("no barrier", r"__sync(?:threads|warp)\(\);", ";"),
    ("one short", r"(for \([^;]*; \w+(?:\.\w+)? <=? )([^;]+)(;)", r"\1(\2) - 1\3"),
    ("one short", r"(for \([^;]*; \w+ >=? )(\w+)(;)", r"\1(\2) + 1\3"),
    ("no guard", r"if \(\w+ >= \w+\) return;", ";"),
    ("no guard", r"if \((?:\w+ < \w+|strip\.inside)( && [^)]*\(\) == 0)?\)", r"if (1\1)"),
    ("other row", r"(int64 (?:row|slot) = blockIdx\.x)", r"\1 / 2"),
    ("twice", r"\+= 1;", "+= 2;"),
    ("no guard", r"(?<=[ (])\w+(?: \+ \w+)? < (?:count|in|out)(?= \?)", "1"),
)

# Mutants that change nothing that can be seen, by their file and line of text, each with the reason.
HARMLESS: dict[tuple[str, str], str] = {
    (
        "attention.cu",
        "__syncwarp();  // own is read",
    ): "the next row's shuffles wait for all lanes; it orders memory",
    ("attention.cu", "if (t < length)"): "rows of the tile beyond the sequence are never read",
    ("mlp.cu", "for (int begin = 0; begin < TILE; begin += SLICE) {"): "begin goes by SLICE: the same values",
    ("mlp.cu", "if (quad < in) weight += saved[r * WIDE + quad] * shared.omega[r];"): "not put where quad >= in",
    (
        "mlp.cu",
        "multiply_transposed(sums, shared, [&](int r, int k) { return k < in ? saved[r * WIDE + k] : T(0); });",
    ): "rows k >= in of the product are not put",
    ("mlp.cu", "T tanh_of = k < in ? saved[r * WIDE + k] : T(0);"): "columns k >= in of the rows are never read",
}


@dataclass(frozen=True)
class Mutant:
    """A file of accel/kernels with one change. line: its text; kernel: in whose body it stands, or ""."""

    file: str
    number: int
    line: str
    what: str
    text: str
    kernel: str

    def code(self, source: str) -> str:
        """As `kernel_table.code`, with this file in the place of the right one."""
        return kernel_table.code(source, {self.file: self.text})

    def sources(self) -> list[str]:
        """Those that contain this file."""
        if self.file.endswith(".cu"):
            return [self.file.removesuffix(".cu")]
        return [name for name in EXAMPLES if self.file in PREAMBLE.get(name, ("common.cuh",))]


def mutants(file: str) -> Iterator[Mutant]:
    """Every rule at every place where it applies."""
    text = (kernel_table.FOLDER / file).read_text(encoding="utf-8")
    for what, pattern, replacement in RULES:
        for match in re.finditer(pattern, text):
            before, after = text[: match.start()], text[match.end() :]
            number = before.count("\n") + 1
            line = text.splitlines()[number - 1].strip()
            if line.startswith("//"):
                continue
            heads = re.findall(r"__(?:global|device)__[^;{]*?(\w+)\(", before)
            kernel = heads[-1] if heads and heads[-1] in KERNELS else ""
            yield Mutant(file, number, line, what, before + match.expand(replacement) + after, kernel)


def unchanged(source: str) -> Mutant:
    """No mutant at all: what must not be caught."""
    text = (kernel_table.FOLDER / f"{source}.cu").read_text(encoding="utf-8")
    return Mutant(f"{source}.cu", 0, "", "unchanged", text, "")


def one_a_kernel() -> list[Mutant]:
    """The first mutant in each kernel's own body; a missing barrier where there is one."""
    found: dict[str, Mutant] = {}
    for source in kernel_table.sources():
        for mutant in mutants(f"{source}.cu"):
            if mutant.kernel and (mutant.file, mutant.line) not in HARMLESS:
                found.setdefault(mutant.kernel, mutant)
    return list(found.values())


class Mixed:
    """The mutant's library for the sources that contain it, or for one kernel alone; the right one otherwise."""

    def __init__(self, right: ShimLib, wrong: ShimLib, sources: list[str], kernel: str) -> None:
        self.right, self.wrong, self.sources, self.kernel = right, wrong, sources, kernel

    def empty(self, shape: tuple[int, ...], dtype: Any) -> Any:
        return self.right.empty(shape, dtype)

    def launch(self, name: str, variant: str, items: int, *values: Any) -> None:
        broken = name == self.kernel if self.kernel else KERNELS[name].source in self.sources
        (self.wrong if broken else self.right).launch(name, variant, items, *values)

    has_products = True

    def product(self, a: Any, b: Any, out: Any, precision: Precision, add: bool = False) -> None:
        self.right.product(a, b, out, precision, add)

    @property
    def tensor_memory(self) -> int:
        return self.right.tensor_memory

    def capture(self, function: Callable[[], None]) -> None:
        """No graphs: each launch is looked at."""


def kernels_of(source: str) -> list[Kernel]:
    return [kernel for kernel in KERNELS.values() if kernel.source == source]


def caught(mutant: Mutant, right: ShimLib) -> str:
    """What gave the mutant away, or "". In a child process, which may crash or never end."""
    sys.stdout.flush()
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        faulthandler.disable()  # a crash is what is asked for
        signal.setitimer(signal.ITIMER_PROF, PATIENCE)
        os.write(writer, failure(mutant, right).encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        said = pipe.read().decode()
    status = os.waitpid(child, 0)[1]
    return f"signal {os.WTERMSIG(status)}" if os.WIFSIGNALED(status) else said


def failure(mutant: Mutant, right: ShimLib) -> str:
    """The first error of the examples of every source with the mutant, or ""."""
    with tempfile.TemporaryDirectory(prefix="pbde-mutant-") as folder:
        for source in mutant.sources():
            code = {source: mutant.code(source)}
            types = ("double",) if any("double" in kernel.types for kernel in kernels_of(source)) else ("float",)
            wrong = ShimLib(Path(folder), sources=code, types=types, fence=True)
            lib = Mixed(right, wrong, [source], mutant.kernel)
            try:
                EXAMPLES[source](CupyOps(device.xp, lib, groups=3))
            except Exception as error:
                return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    return ""


def run_all(files: Sequence[str] = ()) -> int:
    """A line a mutant of the files, or of all; 1 where one was not caught, or where a harmless one was."""
    wrong = total = 0
    with tempfile.TemporaryDirectory(prefix="pbde-shim-") as folder:
        right = ShimLib(Path(folder))
        for source in EXAMPLES:
            if how := caught(unchanged(source), right):
                print(f"{source}: the examples fail on the kernels as they are: {how}")
                return 1
        for file in files or sorted(path.name for path in kernel_table.FOLDER.glob("*.cu*")):
            for mutant in mutants(file):
                total += 1
                reason, how = HARMLESS.get((mutant.file, mutant.line), ""), caught(mutant, right)
                verdict, expected = judged(how, reason)
                wrong += not expected
                print(f"{file}:{mutant.number}: {mutant.what:<10} {mutant.line[:60]:<60} {verdict}", flush=True)
    print(f"{total} mutants, {wrong} not as expected")
    return int(wrong > 0)


def run_kernels(folder: str) -> int:
    """A JSON object: what is right, by source, and a mutant of every kernel -> what gave it away, or ""."""
    right = ShimLib(Path(folder))
    told = {source: caught(unchanged(source), right) for source in ("columns", "mlp")}
    told |= {mutant.kernel: caught(mutant, right) for mutant in one_a_kernel()}
    print(json.dumps(told))
    return 0


def sanitize() -> int:
    """All examples in a Python that runs under AddressSanitizer; its status."""
    path = subprocess.run(["g++", "-print-file-name=libasan.so"], capture_output=True, text=True, check=True)
    environment = os.environ | {
        "LD_PRELOAD": path.stdout.strip(),
        "ASAN_OPTIONS": "detect_leaks=0:detect_stack_use_after_return=0",
        "UBSAN_OPTIONS": "halt_on_error=1:print_stacktrace=1",
        "PYTHONMALLOC": "malloc",
        "OPENBLAS_NUM_THREADS": "1",
    }
    command = [sys.executable, "-m", "tests.shim.mutants", "sanitized"]
    return subprocess.run(command, env=environment, check=False).returncode


def sanitized() -> int:
    with tempfile.TemporaryDirectory(prefix="pbde-asan-") as folder:
        lib = ShimLib(Path(folder), sanitize=True)
        for source, example in EXAMPLES.items():
            example(CupyOps(device.xp, lib, groups=3))
            print(f"{source}: clean", flush=True)
    return 0


if __name__ == "__main__":
    if sys.argv[1:2] == ["kernels"]:
        sys.exit(run_kernels(sys.argv[2]))
    other = {"sanitize": sanitize, "sanitized": sanitized}.get(" ".join(sys.argv[1:]))
    sys.exit(other() if other else run_all(sys.argv[1:]))
