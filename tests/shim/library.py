"""ShimLib: what `CupyOps` needs of a kernel library, on DeviceArrays, with all that a test wants to see."""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from accel.cuda.cublas import layout
from accel.cuda.kernel_table import KERNELS, arguments, parameters
from accel.sequence_ops import Precision
from tests.shim import device
from tests.shim.build import build, symbol
from tests.shim.device import DeviceArray, memory

ORDERS = (0, 1, 2, 3)  # thread-forward, thread-reverse, warp-greedy, warp-greedy-reverse
GUARD = 2048  # numbers before and behind every array

Array = NDArray[Any]


class KernelError(AssertionError):
    """What a kernel did wrong: diverged at a barrier, wrote beside an array, or depends on the schedule."""


class ShimLib:
    """Every launch runs once for each of ORDERS, from the same state, and must give the same bits.

    New arrays are full of NaN (integers: their largest number). Arrays stand between guards: NaN where the
    kernel may only read, so that what is read there shows, else numbers that must be there at the end.

    folder: where the libraries are built when first needed. sources: other texts than the table's, by name. types:
    of the kernels compiled. in_turn: a launch takes only the next of ORDERS. fence: memory that cannot be touched
    behind every array, in place of a guard. sanitize: nothing around them, but the compiler's own checks.
    """

    def __init__(
        self,
        folder: Path,
        *,
        sources: dict[str, str] | None = None,
        types: Sequence[str] = ("float", "double"),
        in_turn: bool = False,
        fence: bool = False,
        sanitize: bool = False,
    ) -> None:
        self.folder, self.sources, self.types, self.sanitize = folder, sources or {}, types, sanitize
        self.in_turn, self.fence = in_turn, fence
        self.front, self.back = (0 if sanitize else GUARD), (0 if sanitize or fence else GUARD)
        self.launched: list[tuple[str, str]] = []
        self.products: list[Precision] = []
        self.captures = 0
        self._libraries: dict[str, ctypes.CDLL] = {}

    def empty(self, shape: tuple[int, ...], dtype: Any) -> DeviceArray:
        return DeviceArray(np.full(shape, poison(np.dtype(dtype)), dtype))

    def launch(self, name: str, variant: str, items: int, *values: Any) -> None:
        """Run the kernel; KernelError where it did wrong."""
        kernel, label, typed = KERNELS[name], f"{name}<{variant}>", arguments(name, variant, values)
        if device.captured:
            device.do(partial(self.launch, name, variant, items, *typed))
            return
        given, roles = memory(typed), parameters(name, variant)
        blocks = kernel.blocks(items)
        if blocks == 0:
            return
        self.launched.append((name, variant))
        orders = [ORDERS[len(self.launched) % len(ORDERS)]] if self.in_turn else ORDERS
        before = [self._guarded(value, *role) for value, role in zip(given, roles, strict=True)]
        kept = [value.tobytes() for value in before]
        outcomes = [self._run(name, variant, blocks, before, order) for order in orders]
        for i, (value, (_, _, written)) in enumerate(zip(given, roles, strict=True)):
            if not written:
                if before[i].tobytes() != kept[i]:
                    raise KernelError(f"{label}: wrote to argument {i}, or beside it, which it may only read")
                continue
            inside = slice(self.front, self.front + value.size)
            sides = (slice(inside.start), slice(inside.stop, None))
            for order, outcome in zip(orders, outcomes, strict=True):
                if any(not np.array_equal(bits(outcome[i][side]), bits(before[i][side])) for side in sides):
                    raise KernelError(f"{label}: wrote beside argument {i}")
                if not np.array_equal(bits(outcome[i]), bits(outcomes[0][i])):
                    raise KernelError(f"{label}: argument {i} depends on the schedule ({order})")
            value[...] = outcomes[0][i][inside].reshape(value.shape)

    tensor_memory = 227 << 10  # bytes, as an H100 has them

    has_products = True

    def product(self, a: Any, b: Any, out: Any, precision: Precision, add: bool = False) -> None:
        """As tensor cores compute it: rounded numbers, their products added in float32."""
        if device.captured:
            device.do(partial(self.product, a, b, out, precision, add))
            return
        left, right, result = memory([a, b, out])
        for array in (left, right):
            layout(array)  # refuses what cuBLAS cannot take
        self.products.append(precision)
        result[...] = rounded(left, precision) @ rounded(right, precision) + (result if add else 0)

    def capture(self, function: Callable[[], None]) -> Recorded:
        """As a CUDA graph: nothing runs, and what reads raises RuntimeError."""
        with device.capture() as calls:
            function()
        self.captures += 1
        return Recorded(tuple(calls))

    def _run(self, name: str, variant: str, blocks: int, before: list[Any], order: int) -> list[Any]:
        """The guarded arrays after the launch: copies of those that the kernel may write."""
        roles = parameters(name, variant)
        after = [self._copied(value) if role[2] else value for value, role in zip(before, roles, strict=True)]
        cells = []  # of each argument, as the kernel gets it
        for value, (dtype, is_array, _) in zip(after, roles, strict=True):
            start = value.ctypes.data + self.front * dtype.itemsize if is_array else 0
            cells.append(np.array(start, np.uintp) if is_array else np.array(value))
        pointers = (ctypes.c_void_p * len(cells))(*(cell.ctypes.data for cell in cells))
        library = self._library(KERNELS[name].source)
        function = getattr(library, symbol(name, variant))
        shared = KERNELS[name].shared
        size = ctypes.c_size_t(0 if shared is None else shared(tuple(before)))
        if function(pointers, ctypes.c_uint(blocks), KERNELS[name].threads, order, size):
            raise KernelError(f"{name}<{variant}>: {library.shim_error().decode()}")
        return after

    def _guarded(self, value: Any, dtype: np.dtype[Any], is_array: bool, written: bool) -> Any:
        """A flat copy of an array between its guards; a number as it is."""
        if not is_array:
            return value
        out = self._new(self.front + value.size + self.back, dtype)
        out[...] = 1e30 + 1e25 * np.arange(out.size) if written and dtype.kind == "f" else poison(dtype)
        out[self.front : self.front + value.size] = value.reshape(-1)
        return out

    def _copied(self, value: Array) -> Array:
        out = self._new(value.size, value.dtype)
        out[...] = value
        return out

    def _new(self, size: int, dtype: np.dtype[Any]) -> Array:
        return fenced(size, dtype) if self.fence else np.empty(size, dtype)

    def _library(self, source: str) -> ctypes.CDLL:
        if source not in self._libraries:
            path = build(source, self.folder, self.sources.get(source), sanitize=self.sanitize, types=self.types)
            self._libraries[source] = library = ctypes.CDLL(str(path))
            library.shim_error.restype = ctypes.c_char_p
        return self._libraries[source]


@dataclass(frozen=True, eq=False)
class Recorded:
    """A graph: what was done while it was captured, on the same arrays with the same numbers."""

    calls: tuple[Callable[[], object], ...]

    def launch(self) -> None:
        for call in self.calls:
            call()


def rounded(array: Array, precision: Precision) -> Array:
    """float32 numbers with 10 (tf32) or 7 (bfloat16) bits behind the point: the nearest, ties to even."""
    dropped = {"float32": 0, "tf32": 13, "bfloat16": 16}[precision]
    if dropped == 0 or array.dtype != np.float32:
        return array
    bits, one = np.ascontiguousarray(array).view(np.uint32), np.uint32(1)
    bits = bits + ((bits >> np.uint32(dropped)) & one) + np.uint32((1 << (dropped - 1)) - 1)
    return np.asarray((bits >> np.uint32(dropped) << np.uint32(dropped)).view(np.float32))


def poison(dtype: np.dtype[Any]) -> Any:
    return np.iinfo(dtype).max if dtype.kind == "i" else np.nan


def fenced(size: int, dtype: np.dtype[Any]) -> Array:
    """An array whose end is the end of the memory that may be touched: one number further, the process dies."""
    page = mmap.PAGESIZE
    length = -(-size * dtype.itemsize // page) * page
    memory = mmap.mmap(-1, length + page)
    raw = np.frombuffer(memory, np.uint8)
    if ctypes.CDLL(None).mprotect(ctypes.c_void_p(raw.ctypes.data + length), ctypes.c_size_t(page), 0):
        raise OSError("mprotect failed")
    return raw[length - size * dtype.itemsize : length].view(dtype)


def bits(array: Array) -> Array:
    """Every number as its bits: NaN equals NaN."""
    return array.view(f"u{array.itemsize}")
