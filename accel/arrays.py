"""The door of every public call: what is no plain array of real numbers, or no integer, gets one clear error.

NumPy would drop a mask or an imaginary part without a word, and read a number out of a string.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

REAL = "buif"  # the kinds of a dtype that are real numbers: booleans, integers, floating-point numbers


def plain_array(name: str, value: Any) -> NDArray[Any]:
    """`value` as an array of any dtype, a device's left where it is; ValueError where masked, or no array."""
    if _is_masked(value):
        raise ValueError(f"{name} must not be masked, got a masked array; leave out what is masked, or fill it")
    if hasattr(getattr(value, "data", None), "ptr"):  # as in buffers.address
        on_device: NDArray[Any] = value
        return on_device
    try:
        return np.asarray(value)
    except (RuntimeError, TypeError, ValueError) as error:
        raise ValueError(f"{name} must be an array, got {type(value).__name__}: {error}") from None


def _is_masked(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return any(_is_masked(part) for part in value)
    return isinstance(value, np.ma.MaskedArray)


def real_array(name: str, value: Any, shape: tuple[int, ...] | None = None) -> NDArray[Any]:
    """`value` as an array of real numbers in its own dtype, of `shape` where given; ValueError otherwise."""
    array = plain_array(name, value)
    if array.dtype.kind not in REAL:
        raise ValueError(f"{name} must be real numbers, got an array of dtype {array.dtype}")
    if shape is not None and array.shape != shape:
        raise ValueError(f"{name} must have shape {shape}, got {array.shape}")
    return array


def finite_array(name: str, value: Any, shape: tuple[int, ...] | None = None) -> NDArray[np.float64]:
    """The same as float64 on the host, every number finite; ValueError otherwise."""
    array = np.asarray(real_array(name, value, shape), dtype=np.float64)
    if not np.isfinite(array).all():
        raise ValueError(f"{name} must be finite, got {array[~np.isfinite(array)].flat[0]}")
    return array


def check_number(name: str, value: Any, least: float = 0.0) -> float:
    """`value` if it is a finite number >= least; ValueError otherwise."""
    array = real_array(name, value)
    if array.shape != ():
        raise ValueError(f"{name} must be a number, got an array of shape {array.shape}")
    if not (math.isfinite(array) and array >= least):
        raise ValueError(f"{name} must be >= {least:g}, got {value}")
    return float(array)


def check_positive(name: str, value: Any) -> float:
    """`value` if it is a finite number > 0; ValueError otherwise."""
    array = real_array(name, value)
    if array.shape != ():
        raise ValueError(f"{name} must be a number, got an array of shape {array.shape}")
    if not (math.isfinite(array) and array > 0):
        raise ValueError(f"{name} must be > 0, got {value}")
    return float(array)


def check_integer(name: str, value: Any, least: float = -math.inf) -> None:
    """ValueError unless value is an integer >= least; True and False are none."""
    if not isinstance(value, int | np.integer) or isinstance(value, bool):
        raise ValueError(f"{name} must be an integer, got {value!r}")
    if value < least:
        raise ValueError(f"{name} must be >= {least}, got {value}")
