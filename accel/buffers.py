"""Parameters and gradients as dicts of views into one flat buffer each.

One buffer means that the optimiser is one loop and a checkpoint one array. Keys are Flax paths, in the order
of the layers: "Dense_0/kernel" (in, out), "Dense_0/bias" (out,), "Dense_1/kernel", ...
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

Array = Any  # a numpy or cupy array
Shapes = Mapping[str, tuple[int, ...]]


def size(shapes: Shapes) -> int:
    """How many numbers a buffer of these shapes holds."""
    return sum(math.prod(shape) for shape in shapes.values())


def views(flat: Array, shapes: Shapes) -> dict[str, Array]:
    """flat (size(shapes),) cut into arrays that share its memory, one after the other in the order of shapes.

    Raises ValueError where flat is not one contiguous row of that size.
    """
    if flat.shape != (size(shapes),) or not flat.flags.c_contiguous:
        raise ValueError(f"flat must be contiguous of shape ({size(shapes)},), got {flat.shape}")
    out, start = {}, 0
    for name, shape in shapes.items():
        end = start + math.prod(shape)
        out[name] = flat[start:end].reshape(shape)
        start = end
    return out


def flatten(params: Mapping[str, Array], xp: Any = np, dtype: Any = None) -> tuple[Array, dict[str, Array]]:
    """A new flat buffer with the values of params in their order, and its views. dtype: by default params'."""
    arrays = [xp.asarray(value, dtype=dtype) for value in params.values()]
    flat = xp.concatenate([value.reshape(-1) for value in arrays])
    return flat, views(flat, {name: value.shape for name, value in zip(params, arrays, strict=True)})


def flat_of(params: Mapping[str, Array]) -> Array:
    """The flat buffer under what `views` or `flatten` returned, without a copy.

    Raises ValueError where params are not views that cover one buffer in their order: `flatten` makes them so.
    """
    flat = next(iter(params.values())).base
    if flat is None or flat.ndim != 1 or flat.size != sum(value.size for value in params.values()):
        raise ValueError("params must be views into one flat buffer, got separate arrays: call buffers.flatten")
    end = address(flat)
    for name, value in params.items():
        if address(value) != end:
            raise ValueError(f"params must stand in the order of their buffer, got {name} elsewhere")
        end += value.nbytes
    return flat


def address(array: Array) -> int:
    """Where an array's memory begins."""
    return int(array.data.ptr if hasattr(array.data, "ptr") else array.ctypes.data)
