"""Compiles one kernel source with the shim into a shared library: a trampoline for each variant in the table."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from accel.cuda import kernel_table
from accel.cuda.kernel_table import KERNELS, Kernel

HERE = Path(__file__).parent
FLAGS = ("-O1", "-shared", "-fPIC", "-fno-gnu-unique", "-fvisibility=hidden", "-ffp-contract=off", "-w")
SANITIZE = ("-fsanitize=address,undefined", "-fno-omit-frame-pointer", "-g")
TYPES = ("float", "double")
EXPORT = 'extern "C" __attribute__((visibility("default")))'


def compiler() -> str | None:
    """The path of g++, or None."""
    return shutil.which("g++")


def symbol(name: str, variant: str) -> str:
    """The trampoline's name."""
    return "_".join([name, *variant.split(", ")])


def trampoline(kernel: Kernel, variant: str) -> str:
    """A C function that unpacks pointers to the arguments and runs all threads of all blocks."""
    scalar = variant.split(",")[0]
    types = kernel.arguments.replace("const ", "const-").split()
    types = [word.replace("const-", "const ").replace("T", scalar) for word in types]
    values = ", ".join(f"*({kind}*)((void**)arguments)[{i}]" for i, kind in enumerate(types))
    name = symbol(kernel.name, variant)
    return (
        f"static void body_{name}(void* arguments) {{ {kernel.name}<{variant}>({values}); }}\n"
        f"{EXPORT} int {name}(void** arguments, unsigned blocks, int threads, int order, size_t bytes) {{\n"
        f"    return shim::run(body_{name}, arguments, blocks, threads, order, bytes);\n}}\n"
    )


def program(source: str, code: str, types: Sequence[str]) -> str:
    """The whole C++ text of one library. code: the kernels, such as `kernel_table.code(source)`."""
    kernels = [kernel for kernel in KERNELS.values() if kernel.source == source]
    variants = [(kernel, variant) for kernel in kernels for variant in kernel.variants]
    bodies = [trampoline(*pair) for pair in variants if pair[1].split(", ")[0] in types]
    error = f'{EXPORT} const char* shim_error() {{ return shim::state.error; }}\n#line 1 "trampolines"\n'
    return f'#include "{HERE / "shim.h"}"\n{code}\n{error}{"".join(bodies)}'


def build(
    source: str, folder: Path, code: str | None = None, *, types: Sequence[str] = TYPES, sanitize: bool = False
) -> Path:
    """The library's path in folder. RuntimeError with the compiler's words where it fails."""
    path = folder / f"{source}.so"
    if path.exists():
        return path
    text = program(source, kernel_table.code(source) if code is None else code, types)
    command = [compiler() or "g++", f"-std={kernel_table.DIALECT}", *FLAGS, *(SANITIZE if sanitize else ())]
    done = subprocess.run(
        [*command, "-x", "c++", "-", "-o", str(path)], input=text, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"{source} did not compile for the shim:\n{done.stderr}")
    return path
