"""Compiling with Numba, functions that compiled code can call, and the threads that run it."""

# mypy: disable-error-code="no-untyped-call"
from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache, partial
from pathlib import Path
from platform import machine
from tempfile import TemporaryFile
from threading import Lock
from typing import Any

import numba
import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, register_jitable

CONFIG: Any = numba.config
NUMBA_CACHE = CONFIG.CACHE_DIR  # as the user set it
CACHE_LOCK = Lock()
LINE = 64  # bytes of a cache line: a vector that lies in two of them is slow to load
OPTIONS: dict[str, Any] = {
    "error_model": "numpy",
    "fastmath": {"contract"},
}  # a * b + c in one rounding; no reordering


# ----- The cache on disk -----


@lru_cache(maxsize=1)
def sources_hash() -> str:
    """Of everything that compiled code is made of: the sources here, the losses, Numba's version."""
    folder, digest = Path(__file__).parent, hashlib.sha256(numba.__version__.encode())
    for path in (*sorted(folder.glob("*.py")), folder.parent / "losses.py"):
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()[:16]


@lru_cache(maxsize=1)
def cache_folder() -> str:
    """Where compiled code is kept: a folder for each `sources_hash`; "" where none can be written.

    Numba looks only at the file of the function that it compiles. Here any edit of any source, inlined helpers and
    constants included, is a new folder, and all is compiled anew. NUMBA_CACHE_DIR, if set, holds the folder; else
    __pycache__ beside this file, whose older folders go, or the user's cache.
    """
    own, name = Path(__file__).with_name("__pycache__"), f"numba-{sources_hash()}"
    user = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pbde"
    for base in [Path(NUMBA_CACHE)] if NUMBA_CACHE else [own, user]:
        try:
            (base / name).mkdir(parents=True, exist_ok=True)
            with TemporaryFile(dir=base / name):
                pass
        except OSError:
            continue
        if base == own:
            for older in own.glob("numba-*"):
                if older.name != name:
                    shutil.rmtree(older, ignore_errors=True)
        return str(base / name)
    return ""


def decorated(decorate: Callable[..., Any], function: Callable[..., Any], **options: Any) -> Any:
    """decorate(cache=True, **options)(function), with Numba's cache in `cache_folder` meanwhile."""
    if not cache_folder():
        return decorate(**options)(function)
    with CACHE_LOCK:  # the setting is the whole process's
        before = CONFIG.CACHE_DIR
        CONFIG.CACHE_DIR = cache_folder()
        try:
            return decorate(cache=True, **options)(function)
        finally:
            CONFIG.CACHE_DIR = before


# ----- Compiling -----


def compiled(function: Callable[..., Any], **options: Any) -> Any:
    """Numba's njit without the GIL, cached on disk in `cache_folder`, or in memory only where there is none."""
    return decorated(numba.njit, function, nogil=True, **(OPTIONS | options))


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
    return Pointer(decorated(partial(numba.cfunc, signature), function, **OPTIONS))


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
