"""Arrays as strict as a GPU's: NumPy below, and above it what CuPy refuses is refused and what waits is counted.

A `DeviceArray` mixes with no NumPy array but its scalars, becomes one only by get(), and every read of a value by
the host (get, float, int, bool) counts in `reads`. `xp` stands where the module cupy would. While a graph is
captured, reads raise, and what is computed is kept, to be computed again into the same memory with every launch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
from numpy.lib.mixins import NDArrayOperatorsMixin

reads: list[str] = []  # one entry a read
captured: list[list[Callable[[], object]]] = []  # one entry while a graph is captured: what it does, in order
METHODS = {
    *("all", "any", "argmax", "astype", "copy", "cumsum", "fill", "max", "mean", "min", "ravel"),
    *("reshape", "sum", "swapaxes", "transpose"),
}
FUNCTIONS = {
    *("abs", "arange", "argsort", "asarray", "ascontiguousarray", "bincount", "concatenate", "cumsum", "einsum"),
    *("empty", "empty_like", "exp", "full", "full_like", "log", "maximum", "minimum", "searchsorted", "sqrt"),
    *("stack", "take", "tanh", "triu", "where", "zeros", "zeros_like"),
}
FROM_HOST = {"asarray", "ascontiguousarray"}  # may take a NumPy array: a copy to the device


class DeviceArray(NDArrayOperatorsMixin):
    """An array that only `xp` and `memory` look into."""

    def __init__(self, memory: Any, base: DeviceArray | None = None) -> None:
        self._memory, self.base = np.asarray(memory), base

    dtype = property(lambda self: self._memory.dtype)
    shape = property(lambda self: self._memory.shape)
    ndim = property(lambda self: self._memory.ndim)
    size = property(lambda self: self._memory.size)
    nbytes = property(lambda self: self._memory.nbytes)
    strides = property(lambda self: self._memory.strides)
    flags = property(lambda self: self._memory.flags)
    T = property(lambda self: self._view(self._memory.T))
    data = property(lambda self: Pointer(self._memory.ctypes.data))

    def get(self) -> Any:
        return self._read("get").copy()

    def item(self) -> Any:
        return self._read("item").item()

    def __float__(self) -> float:
        return float(self._read("float"))

    def __int__(self) -> int:
        return int(self._read("int"))

    def __index__(self) -> int:
        return int(self._read("index"))

    def __bool__(self) -> bool:
        return bool(self._read("bool"))

    def __array__(self, *arguments: Any, **options: Any) -> Any:
        raise TypeError("implicit conversion to a NumPy array is not allowed: use get()")

    def __len__(self) -> int:
        return len(self._memory)

    def __iter__(self) -> Iterator[DeviceArray]:
        return (self[i] for i in range(len(self)))

    def __getitem__(self, key: Any) -> DeviceArray:
        return self._view(made(partial(self._memory.__getitem__, memory(key)), self._memory))

    def __setitem__(self, key: Any, value: Any) -> None:
        do(partial(self._memory.__setitem__, memory(key), memory(value)))

    def __getattr__(self, name: str) -> Any:
        if name not in METHODS:
            raise AttributeError(f"a DeviceArray has no {name}")
        method = getattr(self._memory, name)

        def call(*values: Any, **options: Any) -> DeviceArray | None:
            again = partial(method, *memory(values), **memory(options))
            return do(again) if name == "fill" else self._view(made(again, self._memory))

        return call

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **options: Any) -> Any:
        if method != "__call__":
            raise TypeError(f"no {method} of {ufunc.__name__} on the device")
        out = options.pop("out", None)
        again = partial(ufunc, *memory(inputs), **memory(options))
        if not out:
            return device(made(again, *memory(inputs)))
        do(partial(again, out=memory(out)))
        return out[0]

    def _read(self, how: str) -> Any:
        if captured:
            raise RuntimeError(f"{how} while a graph is captured")
        reads.append(how)
        return self._memory

    def _view(self, result: Any) -> DeviceArray:
        """result with its base, where it shares this array's memory."""
        shared = isinstance(result, np.ndarray) and np.may_share_memory(result, self._memory)
        return DeviceArray(result, (self if self.base is None else self.base) if shared else None)


class Pointer:
    """What `array.data` is in CuPy."""

    def __init__(self, ptr: int) -> None:
        self.ptr = ptr


class DeviceModule:
    """numpy for DeviceArrays: the functions that accel may use, by CuPy's rules."""

    def __init__(self) -> None:
        self.used: set[str] = set()

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name not in FUNCTIONS:
            raise AttributeError(f"no function {name} on the device: add it where CuPy has it")
        self.used.add(name)
        function = getattr(np, name)

        def call(*values: Any, **options: Any) -> Any:
            first = values[:1]
            if name in FROM_HOST:
                if isinstance(first[0], DeviceArray):
                    raw = memory(first[0])
                    result = made(partial(function, raw, *values[1:], **options), raw)
                    return first[0] if result is raw else device(result)
                if captured:
                    raise RuntimeError(f"{name} from the host while a graph is captured")
                return device(function(np.array(first[0]), *values[1:], **options))
            if name == "argsort":
                options = {**options, "kind": "stable"}  # CuPy's only one
            again = partial(function, *memory(values), **memory(options))
            if "out" in options:
                do(again)
                return options["out"]
            return device(made(again, *memory(values)))

        return call


@contextmanager
def capture() -> Iterator[list[Callable[[], object]]]:
    """Meanwhile a graph is captured, which does what is in the list."""
    captured.append([])
    try:
        yield captured[-1]
    finally:
        captured.pop()


def do(call: Callable[[], object]) -> Any:
    """What changes memory: now, or with every launch of the graph that is captured."""
    if captured:
        captured[-1].append(call)
    else:
        call()


def made(call: Callable[[], Any], *inputs: Any) -> Any:
    """A result, of such inputs. While a graph is captured its numbers come with the launches, into the same
    memory; what shares memory with an input is a view, and has no numbers of its own."""
    if not captured:
        return call()
    with np.errstate(all="ignore"):
        result = call()
    if any(np.may_share_memory(result, value) for value in inputs if isinstance(value, np.ndarray)):
        return result
    result = np.array(result)
    captured[-1].append(lambda: np.copyto(result, call()))
    return result


def memory(value: Any) -> Any:
    """What is below: DeviceArrays as NumPy's, in tuples, lists and dicts too. TypeError for NumPy arrays."""
    if isinstance(value, DeviceArray):
        return value._memory
    if isinstance(value, np.ndarray):
        raise TypeError("a NumPy array does not mix with the device's: use xp.asarray")
    if isinstance(value, tuple | list):
        return type(value)(memory(part) for part in value)
    if isinstance(value, dict):
        return {name: memory(part) for name, part in value.items()}
    return value


def device(value: Any) -> Any:
    """A result as the device gives it: no NumPy scalar, but an array of shape ()."""
    return DeviceArray(value) if isinstance(value, np.ndarray | np.generic) else value


xp = DeviceModule()
