"""Who allocates for the kernels and runs them: the one seam between `CupyOps` and the machine below it."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from accel.buffers import Array
from accel.cuda import kernel_table
from accel.cuda.cublas import Cublas
from accel.cuda.device import line_of
from accel.cuda.kernel_table import KERNELS
from accel.sequence_ops import Precision

STATIC_MEMORY = 48 << 10  # bytes of shared memory that every kernel may have; more must be asked for
OLDEST_CORES = 80  # compute capability of the first GPUs whose tensor cores take tf32


class Graph(Protocol):
    """Launches that were captured: on the same arrays with the same numbers, as often as one likes."""

    def launch(self) -> None:
        """Run them all, in their order, after what was launched before."""


class KernelLib(Protocol):
    """What `CupyOps` asks of those who run its kernels."""

    @property
    def tensor_memory(self) -> int:
        """Bytes of shared memory that a block of a kernel for tensor cores may have; 0 where there are none."""

    def empty(self, shape: tuple[int, ...], dtype: Any) -> Array:
        """A contiguous array, not filled."""

    def launch(self, name: str, variant: str, items: int, *values: Any) -> None:
        """Run kernel name<variant> over so many items, on arrays and numbers as in the table; nothing for 0."""

    @property
    def has_products(self) -> bool:
        """Whether there is `product`."""

    def product(self, a: Array, b: Array, out: Array, precision: Precision, add: bool = False) -> None:
        """out = a b, or out += a b, in the arithmetic of precision, as `accel.cuda.cublas.Cublas.product` says."""

    def capture(self, function: Callable[[], None]) -> Graph | None:
        """The launches and products that function makes, not run, as a graph; None where there are no graphs.

        function must not read. It must have run before: what it compiles and loads cannot be captured. The arrays
        that it was given must live as long as the graph; those that it makes do.
        """


@dataclass(frozen=True, eq=False)
class Captured:
    """A CUDA graph, and the memory of the arrays that were made while it was captured: it is nobody else's."""

    graph: Graph
    pool: Any

    def launch(self) -> None:
        self.graph.launch()


class CupyLib:
    """The kernels on this machine's GPU, on CuPy's current stream. NVRTC compiles each when it is first used;
    CuPy keeps it on disk."""

    def __init__(self, cupy: Any, cublas: Cublas | None = None) -> None:
        self._cupy = cupy
        self._functions: dict[tuple[str, str], Any] = {}
        self._cublas = cublas

    def empty(self, shape: tuple[int, ...], dtype: Any) -> Array:
        return self._cupy.empty(shape, dtype)

    def launch(self, name: str, variant: str, items: int, *values: Any) -> None:
        kernel = KERNELS[name]
        blocks, given = kernel.blocks(items), kernel_table.arguments(name, variant, values)
        if blocks == 0:
            return
        function, shared = self._function(name, variant), 0 if kernel.shared is None else kernel.shared(values)
        if shared > STATIC_MEMORY and function.max_dynamic_shared_size_bytes < shared:
            function.max_dynamic_shared_size_bytes = shared
        function((blocks,), (kernel.threads,), tuple(given), shared_mem=shared)

    @property
    def tensor_memory(self) -> int:
        device = self._cupy.cuda.Device()
        cores = int(device.compute_capability) >= OLDEST_CORES
        return int(device.attributes["MaxSharedMemoryPerBlockOptin"]) if cores else 0

    @property
    def has_products(self) -> bool:
        return self._cublas is not None

    def product(self, a: Array, b: Array, out: Array, precision: Precision, add: bool = False) -> None:
        if self._cublas is None:
            raise ValueError(f"products in {precision} need a cuBLAS handle: CupyLib(cupy, Cublas(load_cublas()))")
        self._cublas.product(a, b, out, precision, self._cupy.cuda.get_current_stream().ptr, add)

    def capture(self, function: Callable[[], None]) -> Graph | None:
        """A CUDA graph; CuPy launches it on its current stream. Where that is refused: None, and a warning."""
        try:
            return self._captured(function)
        except RuntimeError as error:
            warnings.warn(f"no CUDA graph ({line_of(error)}): kernels are launched singly", stacklevel=2)
            return None

    def _captured(self, function: Callable[[], None]) -> Graph:
        cuda = self._cupy.cuda
        stream, pool = cuda.Stream(non_blocking=True), cuda.MemoryPool()  # the null stream cannot capture
        with stream, cuda.using_allocator(pool.malloc):
            stream.begin_capture()
            try:
                function()
            finally:  # else the stream would go on capturing
                graph: Graph = stream.end_capture()
        return Captured(graph, pool)

    def _function(self, name: str, variant: str) -> Any:
        if (name, variant) not in self._functions:  # compiled alone: a run needs few of the variants
            expression = f"{name}<{variant}>"
            module = self._cupy.RawModule(
                code=kernel_table.code(KERNELS[name].source),
                options=(f"--std={kernel_table.DIALECT}",),
                name_expressions=(expression,),
            )
            self._functions[name, variant] = module.get_function(expression)
        return self._functions[name, variant]
