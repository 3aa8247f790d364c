"""The door of every public call: what is no plain array of real numbers, or no integer, gets one clear error.

NumPy would drop a mask or an imaginary part without a word, and read a number out of a string.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import sparse

Array = NDArray[np.float64]
Indices = NDArray[np.intp]

REAL = "buif"  # the kinds of a dtype that are real numbers: booleans, integers, floating-point numbers


def plain_array(name: str, value: Any) -> NDArray[Any]:
    """`value` as an array of any dtype; ValueError where it is masked, or no array at all."""
    if _is_masked(value):
        raise ValueError(f"{name} must not be masked, got a masked array; leave out what is masked, or fill it")
    try:
        return np.asarray(value)
    except (RuntimeError, TypeError, ValueError) as error:
        raise ValueError(f"{name} must be an array, got {type(value).__name__}: {error}") from None


def _is_masked(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return any(_is_masked(part) for part in value)
    return isinstance(value, np.ma.MaskedArray)


def _check_real(name: str, value: Any) -> None:
    if value.dtype.kind not in REAL:
        raise ValueError(f"{name} must be real numbers, got an array of dtype {value.dtype}")


def finite_array(name: str, value: ArrayLike, shape: tuple[int, ...] | None = None) -> Array:
    """`value` as a float64 array of finite real numbers, of `shape` where one is given; ValueError otherwise."""
    array = plain_array(name, value)
    _check_real(name, array)
    if shape is not None and array.shape != shape:
        raise ValueError(f"{name} must have shape {shape}, got {array.shape}")
    with np.errstate(over="ignore"):  # a longdouble beyond float64
        array = np.asarray(array, dtype=np.float64)
    if not np.isfinite(array).all():
        raise ValueError(f"{name} must be finite, got {array[~np.isfinite(array)].flat[0]}")
    return array


def finite_vector(name: str, value: ArrayLike) -> Array:
    """`value` as a float64 array (n,), n >= 1, of finite real numbers; ValueError otherwise."""
    array = finite_array(name, value)
    if array.ndim != 1 or array.size == 0:
        raise ValueError(f"{name} must have shape (n,) with n >= 1, got {array.shape}")
    return array


def finite_sparse(name: str, value: Any) -> sparse.csr_array:
    """A copy of a sparse array as float64 CSR with finite entries, duplicates summed; ValueError otherwise."""
    _check_real(name, value)
    if value.ndim != 2:
        raise ValueError(f"{name} must have shape (n, n), got {value.shape}")
    array = sparse.csr_array(value, dtype=np.float64, copy=True)
    with np.errstate(over="ignore"):
        array.sum_duplicates()
    finite_array(name, array.data)
    return array


def in_range(name: str, result: Array) -> Array:
    """What was computed from finite numbers; ValueError where float64 does not reach that far."""
    if not np.isfinite(result).all():
        raise ValueError(f"{name} must fit float64, got {result[~np.isfinite(result)].flat[0]}: scale the input")
    return result


def positive(name: str, value: Any) -> float:
    """`value` if it is a finite number > 0; ValueError otherwise."""
    number = _number(name, value)
    if not (math.isfinite(number) and number > 0):
        raise ValueError(f"{name} must be > 0, got {value}")
    return number


def not_negative(name: str, value: Any) -> float:
    """`value` if it is a finite number >= 0; ValueError otherwise."""
    number = _number(name, value)
    if not (math.isfinite(number) and number >= 0):
        raise ValueError(f"{name} must be >= 0, got {value}")
    return number


def _number(name: str, value: Any) -> float:
    array = plain_array(name, value)
    _check_real(name, array)
    if array.shape != ():
        raise ValueError(f"{name} must be a number, got an array of shape {array.shape}")
    return float(array)


def integer(name: str, value: Any, least: int) -> int:
    """`value` if it is an integer >= least, and not True, False or a float; ValueError otherwise."""
    if not isinstance(value, int | np.integer) or isinstance(value, bool):
        raise ValueError(f"{name} must be an integer, got {value!r}")
    if value < least:
        raise ValueError(f"{name} must be >= {least}, got {value}")
    return int(value)


def item(name: str, value: Any, n: int) -> int:
    """`value` if it is an integer within 0..n-1; ValueError otherwise."""
    if integer(name, value, 0) >= n:
        raise ValueError(f"{name} must lie in 0..{n - 1}, got {value}")
    return int(value)


def check_indices(name: str, indices: ArrayLike, n: int) -> Indices:
    """`indices` as a 1-D integer array within 0..n-1; ValueError otherwise."""
    array = plain_array(name, indices)
    if array.ndim != 1 or (array.size and not np.issubdtype(array.dtype, np.integer)):
        raise ValueError(f"{name} must be a 1-D array of integers, got {array.dtype} of shape {array.shape}")
    outside = (array < 0) | (array >= n)
    if outside.any():
        raise ValueError(f"{name} must lie in 0..{n - 1}, got {array[outside][0]}")
    return array.astype(np.intp)
