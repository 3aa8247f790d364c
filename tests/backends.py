"""All backends for the same tests: NumPy, Numba, the CUDA kernels on the CPU, and CuPy where there is a GPU.

The tests speak NumPy. `OnDevice` carries what they pass to an ops' own arrays and what comes back to the host.
"""

from __future__ import annotations

import atexit
import inspect
import os
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from accel import Ops, buffers, get_ops
from accel.cuda.ops import CupyOps
from accel.minimize import host
from accel.ops import Pairs
from accel.packing import Group
from tests.shim import device
from tests.shim.build import compiler
from tests.shim.library import ShimLib

NAMES = ["numpy", "numba", "shim", pytest.param("cupy", marks=pytest.mark.gpu)]
IN_PLACE = {"adam_step", "mlp_margin_steps", "causal_softmax", "causal_softmax_backward"}


class OnDevice:
    """Ops for NumPy arrays. Caches stay where they are; a method in IN_PLACE changes the arrays it was given."""

    xp = np

    def __init__(self, ops: Ops) -> None:
        self.ops, self.name = ops, ops.name

    def __getattr__(self, name: str) -> Any:
        method = getattr(self.ops, name)
        return self._carried(name, method) if callable(method) else method

    def _carried(self, name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            if name in ("pairs", "pairs_of_wins"):
                return method(*arguments, **options)
            bound = inspect.signature(method).bind(*arguments, **options)
            there = {key: self.put(value) for key, value in bound.arguments.items()}
            result = method(**there)
            for key, value in bound.arguments.items():
                self._compare(name in IN_PLACE, value, there[key])
            return (fetch(result[0]), result[1]) if name.endswith("_forward") else fetch(result)

        return call

    def put(self, value: Any) -> Any:
        """value on the device: a copy of an array, params as views of one buffer, pairs and groups with theirs."""
        xp = self.ops.xp
        if isinstance(value, np.ndarray):
            return xp.asarray(value)
        if isinstance(value, Mapping):
            return buffers.flatten(value, xp)[1]
        if isinstance(value, Pairs):
            arrays = {name: xp.asarray(getattr(value, name)) for name in ("x_a", "x_b", "y", "weight")}
            return replace(value, **arrays)
        if isinstance(value, Group):
            slots = None if value.slots is None else xp.asarray(value.slots)
            return replace(value, slots=slots, starts=xp.asarray(value.starts))
        if isinstance(value, tuple | list):
            return type(value)(self.put(part) for part in value)
        return value

    def _compare(self, in_place: bool, here: Any, there: Any) -> None:
        """Arguments that the method may change come back; the others must be as they were."""
        if isinstance(here, Mapping):
            for name, value in here.items():
                self._compare(in_place, value, there[name])
        elif isinstance(here, tuple | list):
            for value, carried in zip(here, there, strict=True):
                self._compare(in_place, value, carried)
        elif isinstance(here, np.ndarray):
            if in_place and here.flags.writeable:
                here[...] = host(there)
            assert np.array_equal(host(there), here, equal_nan=here.dtype.kind == "f")


def fetch(value: Any) -> Any:
    """value on the host: arrays, tuples and lists of them, and gradients as views of one buffer."""
    if isinstance(value, tuple | list):
        return type(value)(fetch(part) for part in value)
    if isinstance(value, Mapping):
        flat, shapes = host(buffers.flat_of(value)), {name: part.shape for name, part in value.items()}
        return buffers.views(flat, shapes)
    return host(value) if hasattr(value, "get") else value


@cache
def shim_folder() -> Path:
    """Where the kernels are built when first used, once for the tests of a process."""
    folder = tempfile.TemporaryDirectory(prefix="pbde-shim-")
    atexit.register(folder.cleanup)
    return Path(folder.name)


@cache
def shim_ops(in_turn: bool = False) -> CupyOps:
    """The whole of CupyOps on the CPU. in_turn: each launch under one schedule, not under all of them."""
    return CupyOps(device.xp, ShimLib(shim_folder(), in_turn=in_turn), groups=3)


def ops_of(name: str, in_turn: bool = False) -> Ops:
    """The backend's own ops. Skips the test where the machine has not what it needs; fails it where that is a GPU
    and PBDE_REQUIRE_GPU=1."""
    if name == "shim":
        if compiler() is None:
            pytest.skip("no g++: the kernels cannot run on this CPU")
        return shim_ops(in_turn)
    try:
        return get_ops(name, 2) if name == "numba" else get_ops(name)
    except ImportError as error:
        if name == "cupy" and os.environ.get("PBDE_REQUIRE_GPU") == "1":
            pytest.fail(f"PBDE_REQUIRE_GPU=1: {error}")
        pytest.skip(str(error))


def backend(name: str, in_turn: bool = False) -> Any:
    """The ops as the tests take them."""
    ops = ops_of(name, in_turn)
    return OnDevice(ops) if name in ("shim", "cupy") else ops
