"""Memory that is used again: fresh pages from the system cost more than the numbers written to them."""

from __future__ import annotations

import math
import weakref
from collections import defaultdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

LINE = 64  # bytes of a cache line: arrays begin with one
MOST = 1 << 30  # bytes that may lie unused
LEAST = 1 << 16  # bytes: smaller arrays are NumPy's own business


class Pool:
    """Arrays that, once nobody holds them or a view of them, give their memory to the next of about their size.

    It keeps as much as was held at once, `room` by room: batches of many sizes share few of those. Where more than
    `most` bytes lie unused, all of them go back to the system: the work has changed. Threads may share it: what is
    unused is found by trying, and counted anew, so that no number can be out of date. (No lock: memory can come
    back at any moment, in a thread that would hold it.)
    """

    def __init__(self, most: int = MOST) -> None:
        self._free: defaultdict[int, list[NDArray[np.uint8]]] = defaultdict(list)
        self._most = most

    def empty(self, shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
        """An array, not filled, that begins with a cache line."""
        size = math.prod(shape) * np.dtype(dtype).itemsize
        if size < LEAST:
            small: NDArray[Any] = _aligned(np.empty(size + LINE, np.uint8), size).view(dtype)
            return small.reshape(shape)
        try:
            memory = self._free[room(size)].pop()
        except IndexError:
            memory = np.empty(room(size) + LINE, np.uint8)
        # an array over a buffer that is no array is the base of all its views: it goes when the last of them goes
        array: NDArray[Any] = np.frombuffer(_aligned(memory, size).data, dtype)
        weakref.finalize(array, self._take_back, memory, room(size)).atexit = False
        return array.reshape(shape)

    def _take_back(self, memory: NDArray[np.uint8], size: int) -> None:
        unused = sum(each * len(free) for each, free in list(self._free.items()))
        if unused + size > self._most:
            self._free.clear()
        self._free[size].append(memory)


def room(size: int) -> int:
    """size >= 1 rounded up to 4, 5, 6 or 7 times a power of two: by less than a quarter."""
    step = 1 << max(0, size.bit_length() - 3)
    return -(-size // step) * step


def _aligned(memory: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    start = -memory.__array_interface__["data"][0] % LINE
    return memory[start : start + size]
