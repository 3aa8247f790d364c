"""Who allocates for the kernels and runs them: the one seam between `CupyOps` and the machine below it."""

from __future__ import annotations

from typing import Any, Protocol

from accel import kernel_table
from accel.buffers import Array
from accel.kernel_table import KERNELS


class KernelLib(Protocol):
    """What `CupyOps` asks of those who run its kernels."""

    def empty(self, shape: tuple[int, ...], dtype: Any) -> Array:
        """A contiguous array, not filled."""

    def launch(self, name: str, variant: str, items: int, *values: Any) -> None:
        """Run kernel name<variant> over so many items, on arrays and numbers as in the table; nothing for 0."""


class CupyLib:
    """The kernels on this machine's GPU, on CuPy's current stream. NVRTC compiles each when it is first used;
    CuPy keeps it on disk."""

    def __init__(self, cupy: Any) -> None:
        self._cupy = cupy
        self._functions: dict[tuple[str, str], Any] = {}

    def empty(self, shape: tuple[int, ...], dtype: Any) -> Array:
        return self._cupy.empty(shape, dtype)

    def launch(self, name: str, variant: str, items: int, *values: Any) -> None:
        kernel = KERNELS[name]
        blocks, given = kernel.blocks(items), kernel_table.arguments(name, variant, values)
        if blocks:
            self._function(name, variant)((blocks,), (kernel.threads,), tuple(given))

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
