"""Arrays as strict as a GPU's: NumPy below, and above it what CuPy refuses is refused and what waits is counted.

A `DeviceArray` mixes with no NumPy array but its scalars, becomes one only by get(), and every read of a value by
the host (get, float, int, bool) counts in `reads`. `xp` stands where the module cupy would. While a graph is
captured, only kernels may be launched: all else raises.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.lib.mixins import NDArrayOperatorsMixin

reads: list[str] = []  # one entry a read
capturing: list[bool] = []  # one entry while a graph is captured
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
        return self._view(self._memory[memory(key)])

    def __setitem__(self, key: Any, value: Any) -> None:
        only_launches("an assignment")
        self._memory[memory(key)] = memory(value)

    def __getattr__(self, name: str) -> Any:
        if name not in METHODS:
            raise AttributeError(f"a DeviceArray has no {name}")
        method = getattr(self._memory, name)

        def call(*values: Any, **options: Any) -> DeviceArray:
            only_launches(name)
            return self._view(method(*memory(values), **memory(options)))

        return call

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **options: Any) -> Any:
        if method != "__call__":
            raise TypeError(f"no {method} of {ufunc.__name__} on the device")
        only_launches(ufunc.__name__)
        out = options.pop("out", None)
        result = ufunc(*memory(inputs), **memory(options), **({"out": memory(out)} if out else {}))
        return out[0] if out else device(result)

    def _read(self, how: str) -> Any:
        only_launches(how)
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
            only_launches(name)
            first = values[:1]
            if name in FROM_HOST:
                same = isinstance(first[0], DeviceArray)
                raw = memory(first[0]) if same else np.array(first[0])
                result = function(raw, *values[1:], **options)
                return first[0] if same and result is raw else device(result)
            out = options.get("out")
            if name == "argsort":
                options = {**options, "kind": "stable"}  # CuPy's only one
            result = function(*memory(values), **memory(options))
            return device(result) if out is None else out

        return call


@contextmanager
def capture() -> Iterator[None]:
    """Meanwhile a graph is captured."""
    capturing.append(True)
    try:
        yield
    finally:
        capturing.pop()


def only_launches(what: str) -> None:
    """RuntimeError while a graph is captured: CUDA refuses reads, and a temporary does not outlive the capture."""
    if capturing:
        raise RuntimeError(f"{what} while a graph is captured")


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
