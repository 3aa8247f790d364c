"""Products by cuBLAS: the calls that are made, carried out on this computer's memory by a cuBLAS of the tests."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from accel.cuda import cublas
from accel.cuda.cublas import Cublas, layout
from tests import checks

Array = NDArray[np.float32]


class Library:
    """cuBLAS's three functions as its manual describes them: columns first, leading dimensions, no bounds."""

    def __init__(self, status: int = 0) -> None:
        self.status, self.computes, self.streams = status, list[int](), list[int]()

    def cublasCreate_v2(self, handle: Any) -> int:
        handle._obj.value = 4711
        return self.status

    def cublasSetStream_v2(self, handle: Any, stream: Any) -> int:
        assert handle.value == 4711
        self.streams.append(stream.value or 0)
        return self.status

    def cublasGemmEx(
        self, handle: Any, turn_a: int, turn_b: int, m: int, n: int, k: int, alpha: Any, *rest: Any
    ) -> int:
        a, a_kind, a_step, b, b_kind, b_step, beta, c, c_kind, c_step, compute, algorithm = rest
        assert handle.value == 4711
        kind = ctypes.c_float if a_kind == 0 else ctypes.c_double
        assert a_kind == b_kind == c_kind == (compute == 70)
        assert isinstance(alpha._obj, kind)
        assert isinstance(beta._obj, kind)
        assert algorithm == -1
        self.computes.append(compute)
        left = columns(a, kind, a_step, *((k, m) if turn_a else (m, k)))
        right = columns(b, kind, b_step, *((n, k) if turn_b else (k, n)))
        out = columns(c, kind, c_step, m, n)
        product = (left.T if turn_a else left) @ (right.T if turn_b else right)
        out[...] = alpha._obj.value * product + (beta._obj.value * out if beta._obj.value else 0)
        return self.status


def columns(pointer: Any, kind: Any, step: int, rows: int, count: int) -> Array:
    """The matrix (rows, count) whose columns stand `step` numbers apart at pointer."""
    assert step >= rows
    size = (count - 1) * step + rows
    flat = np.ctypeslib.as_array((kind * size).from_address(pointer.value))
    return np.lib.stride_tricks.as_strided(flat, (rows, count), (flat.itemsize, flat.itemsize * step))


def matrix(rng: np.random.Generator, rows: int, count: int, how: str, dtype: Any = np.float32) -> Array:
    """Values of some memory layout."""
    x = rng.standard_normal((rows, count)).astype(dtype)
    if how == "turned":
        return np.ascontiguousarray(x.T).T
    if how == "part":  # of a larger matrix: rows stand further apart
        larger = np.full((rows + 1, count + 3), np.nan, dtype)
        larger[:rows, 2 : count + 2] = x
        return larger[:rows, 2 : count + 2]
    return x


layouts = st.sampled_from(["plain", "turned", "part"])
sizes = st.integers(1, 7)


@given(seed=st.integers(0, 99), m=sizes, n=sizes, k=st.integers(0, 7), of_a=layouts, of_b=layouts)
def test_every_layout(seed: int, m: int, n: int, k: int, of_a: str, of_b: str) -> None:
    rng = np.random.default_rng(seed)
    a, b = matrix(rng, m, k, of_a), matrix(rng, k, n, of_b)
    out, library = np.full((m, n), np.nan, np.float32), Library()
    Cublas(library).product(a, b, out, "tf32", stream=64)
    exact = a.astype(np.float64) @ b.astype(np.float64)
    checks.assert_float32(out, a @ b, exact, np.abs(a).max(initial=0) * np.abs(b).max(initial=0) * max(k, 1))
    assert library.streams == [64] * (k > 0)


@given(seed=st.integers(0, 99), k=st.integers(0, 7), of_a=layouts, of_b=layouts)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_products_are_added(dtype: Any, seed: int, k: int, of_a: str, of_b: str) -> None:
    """Onto what is there; in float64 by float64's arithmetic, whatever the precision asked for."""
    rng = np.random.default_rng(seed)
    a, b, first = (
        matrix(rng, *shape, how, dtype) for shape, how in (((3, k), of_a), ((k, 2), of_b), ((3, 2), "plain"))
    )
    out, library = first.copy(), Library()
    Cublas(library).product(a, b, out, "tf32", add=True)
    np.testing.assert_allclose(out, first + a @ b, rtol=0, atol=64 * np.finfo(dtype).eps)
    assert library.computes == [70 if dtype == np.float64 else 77] * (k > 0)


@pytest.mark.parametrize(("precision", "compute"), [("float32", 68), ("tf32", 77), ("bfloat16", 75)])
def test_the_arithmetic_is_said_with_every_product(precision: Any, compute: int) -> None:
    library, ones = Library(), np.ones((2, 2), np.float32)
    Cublas(library).product(ones, ones, np.empty((2, 2), np.float32), precision)
    assert library.computes == [compute]


def test_nothing_is_called_for_an_empty_product() -> None:
    library = Library()
    a, b, out = (np.empty(shape, np.float32) for shape in ((0, 3), (3, 2), (0, 2)))
    Cublas(library).product(a, b, out, "tf32")
    assert library.computes == []


def test_wrong_arrays_are_refused() -> None:
    handle, ones = Cublas(Library()), np.ones((2, 3), np.float32)
    with pytest.raises(ValueError, match=r"out must be contiguous \(2, 3\)"):
        handle.product(ones, ones, ones, "tf32")
    with pytest.raises(ValueError, match="must all be float32 or float64, got float64"):
        handle.product(ones.astype(np.float64), ones.T, np.empty((2, 2), np.float32), "tf32")
    with pytest.raises(ValueError, match="must all be float32 or float64, got float32, float32, float64"):
        handle.product(ones, ones.T, np.empty((2, 2)), "tf32")
    for array in (np.ones((4, 6), np.float32)[::2, ::2], ones[::-1], np.broadcast_to(ones[:1], (2, 3))):
        with pytest.raises(ValueError, match="contiguous rows or columns"):
            layout(array)


def test_a_refusal_of_cublas_names_the_call() -> None:
    with pytest.raises(RuntimeError, match="cublasCreate_v2 failed with status 1"):
        Cublas(Library(status=1))


def test_a_missing_library_is_one_line_with_the_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Any:
        raise RuntimeError(f"no lib{name} here\nmore")

    monkeypatch.setattr("cuda.pathfinder.load_nvidia_dynamic_lib", missing)
    with pytest.raises(ImportError, match=r"need cuBLAS \(no libcublas here\): pip install 'pbde\[cuda13\]', or"):
        cublas.load_cublas()
