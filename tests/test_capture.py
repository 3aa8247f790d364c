"""Capturing a CUDA graph: the shim's record, which must refuse what CUDA does, and the calls that CuPy gets."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from accel.adam import constants
from accel.cuda.launcher import CupyLib
from tests import backends
from tests.shim import device
from tests.shim.build import compiler
from tests.shim.library import ShimLib


def test_a_record_keeps_the_numbers_of_its_capture() -> None:
    """So a step that took a number from the host would not be replayed right; and a capture runs nothing."""
    if compiler() is None:
        pytest.skip("no g++: the kernels cannot run on this CPU")
    lib = ShimLib(backends.shim_folder(), in_turn=True)
    numbers = iter((1.0, 2.0, 3.0))
    grads, state = device.xp.full(3, 1.0), [device.xp.full(3, 0.0) for _ in range(3)]

    def step() -> None:
        lib.launch("adam_step", "double", 3, *state, grads, 3, next(numbers), *constants(0.0, 0.0, 0.0), 1.0, 1.0)

    graph = lib.capture(step)
    assert not state[0].get().any()
    for i in range(2):
        graph.launch()
        np.testing.assert_array_equal(state[0].get(), -1.0 * (i + 1))
    step()
    np.testing.assert_array_equal(state[0].get(), -4.0)


@pytest.mark.parametrize("what", ["get", "bool", "asarray from the host"])
def test_a_capture_refuses_reads(what: str) -> None:
    """And what comes from the host: CUDA would copy it again from where it lay. Afterwards all is as before."""
    lib, x = ShimLib(backends.shim_folder()), device.xp.full(3, 1.0)
    actions: dict[str, Callable[[], Any]] = {
        "get": lambda: x.get(),
        "bool": lambda: bool(x[0]),
        "asarray from the host": lambda: device.xp.asarray(np.ones(3)),
    }
    with pytest.raises(RuntimeError, match=f"{what} while a graph is captured"):
        lib.capture(actions[what])
    assert lib.captures == 0
    actions[what]()


def test_a_record_computes_again() -> None:
    """Into the same memory, in order, on what is there then; and nothing before."""
    lib, x, out = ShimLib(backends.shim_folder()), device.xp.full(3, 1.0), device.xp.full(2, 0.0)

    def work() -> None:
        x.fill(2.0)
        x[1] = 5.0
        part = (x * 3.0)[1:]
        made = lib.empty((2,), np.float64)
        made[...] = part.sum()
        device.xp.maximum(made, part, out=out)

    graph = lib.capture(work)
    np.testing.assert_array_equal(x.get(), [1, 1, 1])
    for _ in range(2):
        x.fill(0.0)
        graph.launch()
        np.testing.assert_array_equal(x.get(), [2, 5, 2])
        np.testing.assert_array_equal(out.get(), [21, 21])


def stand_in(seen: list[str], refusal: Exception | None = None) -> Any:
    """What `CupyLib.capture` needs of the module cupy."""

    class Stream:
        def __init__(self, *, non_blocking: bool) -> None:
            seen.append(f"stream {non_blocking}")

        def __enter__(self) -> None:
            seen.append("enter")

        def __exit__(self, *error: Any) -> None:
            seen.append("exit")

        def begin_capture(self) -> None:
            seen.append("begin")

        def end_capture(self) -> Any:
            seen.append("end")
            if refusal:
                raise refusal
            return SimpleNamespace(launch=lambda: seen.append("launched"))

    class MemoryPool:
        malloc = "malloc of a new pool"

    @contextmanager
    def using_allocator(allocator: str) -> Iterator[None]:
        seen.append(allocator)
        yield

    cuda = SimpleNamespace(Stream=Stream, MemoryPool=MemoryPool, using_allocator=using_allocator)
    return SimpleNamespace(cuda=cuda)


def test_cupy_captures_on_a_stream_of_its_own() -> None:
    seen: list[str] = []
    graph: Any = CupyLib(stand_in(seen)).capture(lambda: seen.append("launches"))
    graph.launch()
    allocator = "malloc of a new pool"
    assert seen == ["stream True", "enter", allocator, "begin", "launches", "end", "exit", "launched"]


def test_what_cupy_refuses_is_said() -> None:
    """The stream stops capturing, whoever refused; errors that are not CUDA's are raised."""
    seen: list[str] = []

    def raising(error: Exception) -> Callable[[], None]:
        def function() -> None:
            raise error

        return function

    refused = NotImplementedError("calling cuBLAS API during stream capture is currently unsupported")
    with pytest.warns(UserWarning, match=r"no CUDA graph \(calling cuBLAS .*\): kernels are launched singly"):
        assert CupyLib(stand_in(seen)).capture(raising(refused)) is None
    with pytest.raises(TypeError, match="of ours"):
        CupyLib(stand_in(seen)).capture(raising(TypeError("of ours")))
    assert seen == 2 * ["stream True", "enter", "malloc of a new pool", "begin", "end", "exit"]
    invalid = RuntimeError("cudaErrorStreamCaptureInvalidated")
    with pytest.warns(UserWarning, match=r"no CUDA graph \(cudaErrorStreamCaptureInvalidated\)"):
        assert CupyLib(stand_in(seen, invalid)).capture(lambda: None) is None
