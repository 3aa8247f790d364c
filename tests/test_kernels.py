"""The CUDA kernels: the table, NVRTC's opinion, every launch under the shim, what the shim sees, and mutants."""

from __future__ import annotations

import inspect
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from accel import Ops, losses
from accel.cuda import kernel_table
from accel.cuda.kernel_table import KERNELS, LOSSES
from accel.cuda.launcher import CupyLib
from accel.cuda.ops import CupyOps
from tests import backends, nvrtc
from tests.shim import device, mutants
from tests.shim.build import compiler
from tests.shim.examples import EXAMPLES
from tests.shim.library import KernelError, ShimLib

ROOT = Path(__file__).parents[1]
SOURCES = kernel_table.sources()
needs_compiler = pytest.mark.skipif(compiler() is None, reason="no g++: the kernels cannot run on this CPU")


# ----- The table -----


def test_the_table_lists_every_kernel() -> None:
    """And every file of the folder; every loss that accel/losses.py has."""
    for source in SOURCES:
        text = (kernel_table.FOLDER / f"{source}.cu").read_text(encoding="utf-8")
        listed = [name for name, kernel in KERNELS.items() if kernel.source == source]
        assert sorted(re.findall(r"__global__\s+void\s+(\w+)\(", text)) == sorted(listed)
    assert {path.stem for path in kernel_table.FOLDER.glob("*.cu")} == set(SOURCES) == set(EXAMPLES)
    assert set(LOSSES) == {name for name in vars(losses) if name.islower() and callable(getattr(losses, name))}


def test_the_sources_keep_the_rules() -> None:
    """No headers, no constants that NVRTC lacks, no float atomics; shared memory of a size set at launch by the
    macro of tensor.cuh alone."""
    for path in kernel_table.FOLDER.glob("*.cu*"):
        code = re.sub(r"//.*", "", path.read_text(encoding="utf-8"))
        code = code.replace("#define SHARED_NUMBERS(name) extern __shared__ float name[]", "")
        for forbidden in ("#include", "INFINITY", "NAN", "M_PI", "atomic", "extern"):
            assert forbidden not in code, (path.name, forbidden)


def test_arguments_are_checked() -> None:
    """A kernel cannot tell a wrong array from a right one."""
    x = np.zeros((4, 3))
    with pytest.raises(TypeError, match="column_sum takes 4 arguments, got 2"):
        kernel_table.arguments("column_sum", "double", (x, x))
    for wrong in (x.astype(np.float32), x[:, ::2]):
        with pytest.raises(TypeError, match="argument 1 of column_sum must be contiguous float64"):
            kernel_table.arguments("column_sum", "double", (x, wrong, 4, 3))
    with pytest.raises(ValueError, match="column_sum must have <= 2147483647 blocks"):
        KERNELS["column_sum"].blocks(2**31)


def test_cupy_is_asked_for_what_the_table_says() -> None:
    """The launch through CuPy, with a stand-in for the module: source, expression, grid, typed numbers."""
    seen: list[Any] = []

    class RawModule:
        def __init__(self, **options: Any) -> None:
            seen.append(options)

        def get_function(self, name: str) -> Any:
            return Function(name)

    class Function:
        max_dynamic_shared_size_bytes = 0

        def __init__(self, name: str) -> None:
            self.name = name

        def __call__(self, *launch: Any, shared_mem: int) -> None:
            seen.append((self.name, launch, shared_mem, self.max_dynamic_shared_size_bytes))

    lib, x = CupyLib(type("cupy", (), {"RawModule": RawModule, "empty": np.empty})), np.zeros((300, 40))
    for _ in range(2):
        lib.launch("column_sum", "double", 6, lib.empty((3, 40), np.float64), x, 300, 40)
    lib.launch("column_sum", "double", 0, x, x, 0, 40)
    assert [type(part) for part in seen] == [dict, tuple, tuple]  # compiled once, launched twice
    assert seen[0]["name_expressions"] == ("column_sum<double>",)
    assert seen[0]["code"] == kernel_table.code("columns")
    name, (grid, block, values), *shared = seen[1]
    assert (name, grid, block, shared) == ("column_sum<double>", (6,), (256,), [0, 0])
    assert [value.dtype for value in values] == [np.float64, np.float64, np.int64, np.int32]


def test_shared_memory_is_asked_for() -> None:
    """What a launch needs, and beyond what every kernel may have, the leave for it: once, the most so far."""
    numbers, lib = np.zeros(9, np.float32), CupyLib(None)
    function: Any = Launched()
    lib._functions["mlp_margin_tensor", "float, Hinge, Split"] = function
    for layers in (2, 4, 5, 4):
        values = (numbers, np.zeros(1), *[numbers] * 4, np.zeros(layers + 1, np.int64), layers, 1, 9)
        lib.launch("mlp_margin_tensor", "float, Hinge, Split", 1, *values)
    sizes = [kernel_table.tensor_bytes(layers) for layers in (2, 4, 5, 4)]
    assert sizes == [4 * (matrices * 64 * 64 + 64) for matrices in (1, 5, 7, 5)]
    assert function.given == [(sizes[0], 0), (sizes[1], sizes[1]), (sizes[2], sizes[2]), (sizes[3], sizes[2])]


class Launched:
    """A stand-in for CuPy's kernel: what it was given, and might take."""

    max_dynamic_shared_size_bytes = 0

    def __init__(self) -> None:
        self.given: list[tuple[int, int]] = []

    def __call__(self, *launch: Any, shared_mem: int) -> None:
        self.given.append((shared_mem, self.max_dynamic_shared_size_bytes))


def test_cupy_ops_have_the_same_signatures() -> None:
    """And nothing more that is public, but what they run on."""
    for name, method in inspect.getmembers(Ops, inspect.isfunction):
        if not name.startswith("_"):
            assert inspect.signature(getattr(CupyOps, name)) == inspect.signature(method), name
    for part in CupyOps.__mro__[: CupyOps.__mro__.index(Ops)]:
        assert {name for name in vars(part) if not name.startswith("_")} <= set(dir(Ops))


# ----- NVRTC -----


@pytest.mark.parametrize("architecture", ["sm_80", "sm_90"])
@pytest.mark.parametrize("source", SOURCES)
def test_nvrtc_compiles(source: str, architecture: str) -> None:
    """Every kernel and type, without a warning."""
    names = nvrtc.compiled(source, architecture)
    assert set(names) == set(kernel_table.expressions(source))


def test_nvrtc_refuses_what_is_wrong() -> None:
    """The check itself: a constant that only headers define, and more shared memory than a block has."""
    code = kernel_table.code("columns")
    for wrong in (
        code.replace("T sum = 0;", "T sum = INFINITY;"),
        code.replace("lanes[STRIP_WARPS]", "lanes[1000]"),
    ):
        assert wrong != code
        with pytest.raises(AssertionError, match=r"columns for sm_80: .*NVRTC_ERROR"):
            nvrtc.compiled("columns", "sm_80", wrong)


# ----- The shim -----


@needs_compiler
@pytest.mark.parametrize("source", SOURCES)
def test_examples(source: str) -> None:
    """Each kernel of the source is launched, and gives what the plain ops give, under every schedule."""
    lib = ShimLib(backends.shim_folder())
    EXAMPLES[source](CupyOps(device.xp, lib, groups=3))
    launched = {name for name, _ in lib.launched}
    assert launched >= {name for name, kernel in KERNELS.items() if kernel.source == source}


WRONG: dict[str, str | None] = {  # a body of column_sum -> what the shim says of it
    "if (threadIdx.x < 3) __syncthreads(); out[0] = 0;": "divergent barrier",
    "__shared__ T s; if (threadIdx.x == 0) s = 1; if (threadIdx.x == 77) out[0] = s;": "depends on the schedule",
    "out[blockIdx.x * columns + columns] = 1;": "wrote beside argument 0",
    "const_cast<T*>(x)[0] = 2;": "wrote to argument 1",
    "if (threadIdx.x < 8) out[0] = __shfl_xor_sync(ALL_LANES, x[0], 1);": "divergent barrier",
    "__shared__ T s[99]; out[0] = s[threadIdx.x % 99];": None,  # shared memory is full of NaN at first
    "out[0] = x[rows * columns];": None,  # so is what is read behind an array
}


@needs_compiler
@pytest.mark.parametrize("body", WRONG)
def test_the_shim_sees(body: str, tmp_path: Path) -> None:
    """Divergence, races, writes and reads beside an array: where not an error, then NaN."""
    head = "template <typename T> __global__ void column_sum(T* out, const T* x, int64 rows, int columns)"
    code = f"{(kernel_table.FOLDER / 'common.cuh').read_text()}\n{head} {{ {body} }}\n"
    lib, x = ShimLib(tmp_path, sources={"columns": code}, types=("double",)), device.xp.asarray(np.ones((4, 1)))
    out = lib.empty((1, 1), np.float64)
    message = WRONG[body]
    if message is None:
        lib.launch("column_sum", "double", 1, out, x, 4, 1)
        assert np.isnan(out.get()).all()
    else:
        with pytest.raises(KernelError, match=message):
            lib.launch("column_sum", "double", 1, out, x, 4, 1)


@needs_compiler
def test_atomics_and_shuffles_of_the_shim(tmp_path: Path) -> None:
    """Every thread adds 1 to one number; lanes move their values as CUDA's shuffles do."""
    body = """
        __shared__ int count;
        if (threadIdx.x == 0) count = 0;
        __syncthreads();
        atomicAdd(&count, 1);
        if (threadIdx.x == 5) atomicCAS(&count, -1, 7);
        int lane = lane_of_thread(), down = __shfl_down_sync(ALL_LANES, lane, 3);
        bool right = down == (lane < 29 ? lane + 3 : lane) && __shfl_sync(ALL_LANES, lane, 9) == 9;
        __syncthreads();
        if (threadIdx.x == 0) out[0] = right ? count : -1;
    """
    head = "template <typename T> __global__ void column_sum(T* out, const T* x, int64 rows, int columns)"
    code = f"{(kernel_table.FOLDER / 'common.cuh').read_text()}\n{head} {{ {body} }}\n"
    lib, x = ShimLib(tmp_path, sources={"columns": code}, types=("double",)), device.xp.asarray(np.ones((4, 1)))
    out = lib.empty((1, 1), np.float64)
    lib.launch("column_sum", "double", 1, out, x, 4, 1)
    assert out.get() == 256


# ----- Mutants -----


@pytest.fixture(scope="module")
def told() -> dict[str, str]:
    """What gave a mutant of each kernel away; in a process of its own, which may fork: this one has threads."""
    if compiler() is None:
        pytest.skip("no g++: the kernels cannot run on this CPU")
    command = [sys.executable, "-m", "tests.shim.mutants", "kernels", str(backends.shim_folder())]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return dict(json.loads(done.stdout))


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_mutant_of_each_kernel_is_caught(kernel: str, told: dict[str, str]) -> None:
    """`make mutants` runs them all."""
    assert told[kernel]


@pytest.mark.parametrize("source", ["columns", "mlp"])
def test_what_is_right_is_not_caught(source: str, told: dict[str, str]) -> None:
    assert told[source] == ""


def test_mutants_cover_every_barrier_and_kernel() -> None:
    barriers = sum(
        len(re.findall(r"__sync\w+\(\);", path.read_text())) for path in kernel_table.FOLDER.glob("*.cu*")
    )
    found = [one for path in kernel_table.FOLDER.glob("*.cu*") for one in mutants.mutants(path.name)]
    assert sum(one.what == "no barrier" for one in found) == barriers
    assert {one.kernel for one in mutants.one_a_kernel()} == set(KERNELS)
    places = {(one.file, one.line) for one in found}
    assert set(mutants.HARMLESS) <= places
