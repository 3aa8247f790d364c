"""Compiling with Numba, functions that compiled code can call, and the threads that run it."""

# mypy: disable-error-code="no-untyped-call"
from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from platform import machine
from typing import Any

import numba
import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, register_jitable

from accel.losses import MarginLoss, logistic

LINE = 64  # bytes of a cache line: a vector that lies in two of them is slow to load
OPTIONS: dict[str, Any] = {
    "error_model": "numpy",
    "fastmath": {"contract"},
}  # a * b + c in one rounding; no reordering


def compiled(function: Callable[..., Any], **options: Any) -> Any:
    """Numba's njit without the GIL, cached on disk where a folder for that can be written, else in memory only.

    The cache looks at the function's own file. Functions of other files come as `Pointer`s for that reason; what
    is inlined from them (intrinsics such as `take` and `numba_matmul.tile`, constants, `decay_32`) is not looked
    at: who changes those deletes accel/__pycache__.
    """
    options = OPTIONS | options
    try:
        return numba.njit(function, cache=True, nogil=True, **options)
    except RuntimeError:  # neither the package's folder nor the user's cache can be written
        return numba.njit(function, nogil=True, **options)


def compiled_sum(function: Callable[..., Any]) -> Any:
    """The same for a function that adds up one row: in an order that the compiler chose once, by vectors."""
    return compiled(function, fastmath={"contract", "reassoc", "nsz"})


class Pointer:
    """A compiled function that other compiled functions are given and call, so that they are compiled once for
    all such functions. (Numba types its own function pointers anew at every call, which takes longer.)"""

    def __init__(self, cfunc: Any) -> None:
        self._cfunc = cfunc  # kept alive
        self._numba_type_ = numba.typeof(cfunc)

    def __wrapper_address__(self) -> int:
        return int(self._cfunc.address)


def pointer(signature: Any, function: Callable[..., Any]) -> Pointer:
    """function compiled for this signature; cached as `compiled` does."""
    try:
        return Pointer(numba.cfunc(signature, cache=True, **OPTIONS)(function))
    except RuntimeError:
        return Pointer(numba.cfunc(signature, **OPTIONS)(function))


@lru_cache(maxsize=64)
def compiled_loss(loss: MarginLoss, dtype: str) -> Pointer:
    """loss over arrays: (margin, y, value, slope) -> None, which fills the last two.

    Not cached on disk: a stale loss would train the wrong model.
    """
    scalar = register_jitable(loss)
    if loss is logistic and np.dtype(dtype) == np.float32:
        from accel.numba_losses import logistic_32 as scalar  # as accurate, in a twentieth of the time

    def over_arrays(margin, y, value, slope):  # type: ignore[no-untyped-def]
        for i in range(margin.size):
            value[i], slope[i] = scalar(margin[i], y[i])

    array = types.Array(numba.from_dtype(np.dtype(dtype)), 1, "C")
    return Pointer(numba.cfunc(types.void(array, array, array, array), **OPTIONS)(over_arrays))


@intrinsic
def take(typing, counter):  # type: ignore[no-untyped-def]
    """The number in counter (1,) int64, which is then one more; whatever other threads do, each gets its own."""

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        data = cgutils.create_struct_proxy(signature.args[0])(context, builder, args[0]).data
        return builder.atomic_rmw("add", data, ir.IntType(64)(1), "acq_rel")

    return types.int64(counter), codegen


@intrinsic
def look(typing, counter):  # type: ignore[no-untyped-def]
    """The number in counter (1,) int64; what other threads wrote before they took it is then seen."""

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        data = cgutils.create_struct_proxy(signature.args[0])(context, builder, args[0]).data
        return builder.load_atomic(data, "acquire", 8)

    return types.int64(counter), codegen


@intrinsic
def pause(typing):  # type: ignore[no-untyped-def]
    """A moment's rest of this core, for a loop that waits; on processors other than x86, nothing."""

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        if machine() in ("x86_64", "AMD64"):
            nothing = ir.FunctionType(ir.VoidType(), [])
            builder.call(cgutils.get_or_insert_function(builder.module, nothing, "llvm.x86.sse2.pause"), [])
        return context.get_dummy_value()

    return types.void(), codegen


@intrinsic
def give_way(typing):  # type: ignore[no-untyped-def]
    """Lets another thread have this core, where the system has a call for that."""

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        if os.name == "posix":
            signature = ir.FunctionType(ir.IntType(32), [])
            builder.call(cgutils.get_or_insert_function(builder.module, signature, "sched_yield"), [])
        return context.get_dummy_value()

    return types.void(), codegen


@register_jitable
def aligned(size, like):  # type: ignore[no-untyped-def]
    """An array (size,) of like's type, not filled, that begins with a cache line; for compiled code."""
    raw = np.empty(size + LINE // like.itemsize, like.dtype)
    start = -raw.ctypes.data % LINE // like.itemsize
    return raw[start : start + size]


class Crew:
    """Threads that share numbered pieces of work, each taking the next one when it is free.

    The calling thread works too, and waits for no thread that has not begun: on a busy machine, or after a fork,
    it does all by itself.
    """

    def __init__(self, threads: int) -> None:
        self._helpers = ThreadPoolExecutor(threads - 1, "accel") if threads > 1 else None
        self.threads = threads

    def run(self, function: Callable[..., Any], pieces: int, *arguments: Any) -> None:
        """function(counter, *arguments), compiled, in as many threads as there are, or pieces."""
        counter = np.zeros(1, dtype=np.int64)
        begun = []
        if self._helpers:
            for _ in range(min(self.threads, pieces) - 1):
                begun.append(self._helpers.submit(function, counter, *arguments))
        function(counter, *arguments)
        for future in begun:
            if not future.cancel():
                future.result()
