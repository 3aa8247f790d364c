"""ShimLib: what `CupyOps` needs of a kernel library, on DeviceArrays, with all that a test wants to see."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from accel.kernel_table import KERNELS, arguments, parameters
from tests.shim.build import build, symbol
from tests.shim.device import DeviceArray, memory

ORDERS = (0, 1, 2, 3)  # thread-forward, thread-reverse, warp-greedy, warp-greedy-reverse
GUARD = 2048  # numbers before and behind every array that no kernel may write

Array = NDArray[Any]


class KernelError(AssertionError):
    """What a kernel did wrong: diverged at a barrier, wrote beside an array, or depends on the schedule."""


class ShimLib:
    """Every launch runs once for each of `orders`, from the same state, and must give the same bits.

    New arrays are full of NaN (integers: their largest number). Arrays stand between guards: full of NaN, so that
    what is read there shows, and unchanged at the end. folder: where the libraries are built when first needed;
    sources: other texts than the table's, by name. in_turn: a launch takes only the next of the orders.
    """

    def __init__(
        self,
        folder: Path,
        *,
        sources: dict[str, str] | None = None,
        sanitize: bool = False,
        in_turn: bool = False,
    ) -> None:
        self.folder, self.sources, self.sanitize, self.in_turn = folder, sources or {}, sanitize, in_turn
        self.launched: list[tuple[str, str]] = []
        self._libraries: dict[str, ctypes.CDLL] = {}

    def empty(self, shape: tuple[int, ...], dtype: Any) -> DeviceArray:
        return DeviceArray(np.full(shape, poison(np.dtype(dtype)), dtype))

    def launch(self, name: str, variant: str, items: int, *values: Any) -> None:
        """Run the kernel; KernelError where it did wrong."""
        kernel, label = KERNELS[name], f"{name}<{variant}>"
        given, roles = memory(arguments(name, variant, values)), parameters(name, variant)
        blocks = kernel.blocks(items)
        if blocks == 0:
            return
        self.launched.append((name, variant))
        orders = [ORDERS[len(self.launched) % len(ORDERS)]] if self.in_turn else ORDERS
        before = [guard(value) if role[1] else value for value, role in zip(given, roles, strict=True)]
        kept = [value.tobytes() for value in before]
        outcomes = [self._run(name, variant, blocks, before, order) for order in orders]
        for i, (value, (_, _, written)) in enumerate(zip(given, roles, strict=True)):
            if not written:
                if before[i].tobytes() != kept[i]:
                    raise KernelError(f"{label}: wrote to argument {i}, or beside it, which it may only read")
                continue
            for order, outcome in zip(orders, outcomes, strict=True):
                if not np.array_equal(bits(outcome[i][:GUARD]), bits(before[i][:GUARD])) or not np.array_equal(
                    bits(outcome[i][-GUARD:]), bits(before[i][-GUARD:])
                ):
                    raise KernelError(f"{label}: wrote beside argument {i}")
                if not np.array_equal(bits(outcome[i]), bits(outcomes[0][i])):
                    raise KernelError(f"{label}: argument {i} depends on the schedule ({order})")
            value[...] = outcomes[0][i][GUARD:-GUARD].reshape(value.shape)

    def _run(self, name: str, variant: str, blocks: int, before: list[Any], order: int) -> list[Any]:
        """The guarded arrays after the launch: copies of those that the kernel may write."""
        roles = parameters(name, variant)
        after = [value.copy() if written else value for value, (_, _, written) in zip(before, roles, strict=True)]
        cells = []  # of each argument, as the kernel gets it
        for value, (dtype, is_array, _) in zip(after, roles, strict=True):
            inside = value.ctypes.data + GUARD * dtype.itemsize if is_array else 0
            cells.append(np.array(inside, np.uintp) if is_array else np.array(value))
        pointers = (ctypes.c_void_p * len(cells))(*(cell.ctypes.data for cell in cells))
        library = self._library(KERNELS[name].source)
        function = getattr(library, symbol(name, variant))
        if function(pointers, ctypes.c_uint(blocks), KERNELS[name].threads, order):
            raise KernelError(f"{name}<{variant}>: {library.shim_error().decode()}")
        return after

    def _library(self, source: str) -> ctypes.CDLL:
        if source not in self._libraries:
            path = build(source, self.folder, self.sources.get(source), sanitize=self.sanitize)
            self._libraries[source] = library = ctypes.CDLL(str(path))
            library.shim_error.restype = ctypes.c_char_p
        return self._libraries[source]


def poison(dtype: np.dtype[Any]) -> Any:
    return np.iinfo(dtype).max if dtype.kind == "i" else np.nan


def guard(array: Array) -> Array:
    """A flat copy with GUARD poisoned numbers on either side."""
    out = np.full(array.size + 2 * GUARD, poison(array.dtype), array.dtype)
    out[GUARD:-GUARD] = array.reshape(-1)
    return out


def bits(array: Array) -> Array:
    """Every number as its bits: NaN equals NaN."""
    return array.view(f"u{array.itemsize}")
