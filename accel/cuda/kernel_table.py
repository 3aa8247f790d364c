"""Every CUDA kernel: its source, types, arguments and launch shape, once for all who compile or launch them.

CuPy's modules, the tests' CPU shim and the compile check read this table and nothing else. A kernel is a template
of accel/kernels/SOURCE.cu; a variant is the text of its template arguments, such as "float, Logistic".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from accel.buffers import Array

FOLDER = Path(__file__).parents[1] / "kernels"
DIALECT = "c++17"
TYPES = {"float32": "float", "float64": "double"}  # of the arrays -> of the kernels
LOSSES = {"logistic": "Logistic", "squared": "Squared", "hinge": "Hinge", "ranking": "Ranking"}  # accel/losses.py
PREAMBLE = {
    "margin": ("common.cuh", "losses.cuh"),
    "mlp": ("common.cuh", "losses.cuh"),
    "mlp_tensor": ("common.cuh", "losses.cuh", "tensor.cuh", "tiles.cuh"),
    "attention": ("common.cuh", "heads.cuh"),
    "next_token": ("common.cuh", "draw.cuh"),
    "decode": ("common.cuh", "draw.cuh"),
    "attention_tensor": ("common.cuh", "tensor.cuh", "tiles.cuh", "heads.cuh"),
}
NUMBERS: dict[str, np.dtype[Any]] = {
    "int64": np.dtype(np.int64),
    "uint64": np.dtype(np.uint64),
    "int": np.dtype(np.int32),
    "double": np.dtype(np.float64),
}
LARGEST_GRID = 2**31 - 1
AHEAD = 4  # columns of a thread: token_log_p.cu
CHUNK = 128  # rows of a strip of columns: CHUNK in common.cuh
TILE, WIDE = 64, 64  # rows of a block, widest layer: mlp.cu
MATRIX = 64 * 64  # numbers: tiles.cuh
ATTENTION_BYTES = 4 * 4 * MATRIX  # shared memory of attention_backward_tensor


@dataclass(frozen=True)
class Kernel:
    """A template of one source file.

    arguments: C types in order, T the first template argument; "T*" is written, "const T*" only read. threads: of
    a block. items: how many of those that `launch` counts a block takes. options: the other template arguments.
    types: the first. shared: the bytes of shared memory that a block is given, out of the arguments.
    """

    name: str
    source: str
    arguments: str
    threads: int
    items: int
    options: tuple[str, ...] = ()
    types: tuple[str, ...] = tuple(TYPES.values())
    shared: Callable[[tuple[Any, ...]], int] | None = None

    @property
    def variants(self) -> tuple[str, ...]:
        """Every template argument list that is compiled."""
        if not self.options:
            return self.types
        return tuple(", ".join(pair) for pair in product(self.types, self.options))

    def blocks(self, items: int) -> int:
        """Blocks of a launch; ValueError where the grid cannot be so large."""
        blocks = -(-items // self.items)
        if blocks > LARGEST_GRID:
            raise ValueError(f"{self.name} must have <= {LARGEST_GRID} blocks, got {blocks}: lower the batch")
        return blocks


def tensor_bytes(layers: int) -> int:
    """Shared memory of mlp_margin_tensor: activations of the hidden layers, weights between them, omega."""
    return 4 * ((2 * layers - 3) * MATRIX + TILE)


WARP = 32
STRIP = 256  # threads of a block that walks down a strip of columns; an item is one such walk
ROW_WARPS = 4  # rows of a block that gives each a warp
LOSS_TYPES, ACTS = tuple(LOSSES.values()), ("Relu", "Tanh", "Identity")
# of the float32 products in mlp_margin_tensor, by the precision of the ops
ARITHMETIC = {"float32": "Split", "tf32": "Tf32", "bfloat16": "Tf32"}

KERNELS = {
    kernel.name: kernel
    for kernel in (
        Kernel("column_sum", "columns", "T* const T* int64 int", STRIP, 1),
        Kernel("few_rows_sum", "few_rows", "T* const T* int int", STRIP, WARP),
        Kernel("bias_act_forward", "bias", "T* const T* const T* int64 int", 256, 1024, ACTS),
        Kernel("residual", "bias", "T* const T* const T* const T* int64 int", 256, 1024),
        Kernel("bias_act_backward", "bias", "T* T* const T* const T* int64 int", STRIP, 1, ACTS),
        Kernel("layer_norm_forward", "layer_norm", "T* T* const T* const T* const T* int64 int T", 128, ROW_WARPS),
        Kernel(
            "layer_norm_backward",
            "layer_norm",
            "T* const T* const T* const T* const T* const T* int64 int int",
            128,
            ROW_WARPS,
        ),
        Kernel("layer_norm_params", "layer_norm", "T* const T* const T* const T* int64 int", STRIP, 1),
        Kernel("token_log_p_forward", "token_log_p", "T* T* const T* const T* const int64* int", 256, 1),
        Kernel(
            "token_log_p_backward",
            "token_log_p",
            "T* T* const T* const T* const T* const T* const int64* int64 int",
            STRIP,
            1,
        ),
        Kernel("causal_softmax", "softmax", "T* int64 int", 128, ROW_WARPS),
        Kernel("causal_softmax_backward", "softmax", "T* const T* int64 int", 128, ROW_WARPS),
        Kernel("attention_forward", "attention", "T* const T* const int64* int int T", 256, 1),
        Kernel(
            "attention_backward",
            "attention",
            "T* const T* const T* const int64* int int T",
            256,
            1,
        ),
        Kernel(
            "attention_forward_tensor",
            "attention_tensor",
            "T* const T* const int64* int int T",
            128,
            1,
            ("Split", "Tf32"),
            types=("float",),
            shared=lambda _: ATTENTION_BYTES // 2,
        ),
        Kernel(
            "attention_backward_tensor",
            "attention_tensor",
            "T* const T* const T* const int64* int int T",
            128,
            1,
            ("Split", "Tf32"),
            types=("float",),
            shared=lambda _: ATTENTION_BYTES,
        ),
        Kernel("segment_sum", "segments", "T* const T* const int64* const int64* int64 int64", 128, ROW_WARPS),
        Kernel("embedding_backward", "segments", "T* const T* const int64* const int64* int", 128, 1),
        Kernel("adam_step", "adam", "T* T* T* const T* int64 T T T T T T T T", 256, 256),
        Kernel("adam_scheduled", "adam", "T* T* T* const T* const T* const int64* int int T T T T T", STRIP, WARP),
        Kernel(
            "margin_loss",
            "margin",
            "T* double* const T* const int64* const int64* const T* const T* int64",
            256,
            256,
            LOSS_TYPES,
        ),
        Kernel("mlp_forward", "mlp", "T* T* const T* const T* const int64* int int64", 256, 64),
        Kernel("mlp_backward", "mlp", "T* const T* const T* const T* const int64* int int64 int", 256, 1),
        Kernel(
            "mlp_margin_step",
            "mlp",
            "T* double* T* const T* const T* const T* const T* const int64* int int64 int",
            256,
            1,
            LOSS_TYPES,
        ),
        Kernel(
            "mlp_margin_tensor",
            "mlp_tensor",
            "T* double* const T* const T* const T* const T* const int64* int int64 int",
            128,
            1,
            tuple(", ".join(pair) for pair in product(LOSS_TYPES, ("Split", "Tf32"))),
            types=("float",),
            shared=lambda values: tensor_bytes(values[7]),
        ),
        Kernel("record_loss", "mlp", "T* int64* const double* int int64", 32, 1),
        Kernel("next_token", "next_token", "int64* double* const T* const T* const double* int", 256, 1),
        Kernel("embed_token", "decode", "T* const T* const T* const int64* const int64* int64 int", 256, 256),
        Kernel(
            "cached_attention",
            "decode",
            "T* T* const T* const int64* int64 int int int int64 T",
            128,
            ROW_WARPS,
        ),
        Kernel(
            "draw_token",
            "decode",
            "int64* double* int64* int64* const T* const T* const double* const int64* const int64* int int int64",
            256,
            1,
        ),
        Kernel("advance", "decode", "int64*", 32, 1, types=("double",)),
        Kernel("philox_uniform", "philox", "T* uint64 int64 int", 256, 256, types=("double",)),
    )
}


def chunks(rows: int) -> int:
    """How many parts the sum over so many rows has; one at least."""
    return max(1, -(-rows // CHUNK))


def walks(rows: int, columns: int) -> int:
    """How many walks down a strip of 32 columns and CHUNK rows cover an array."""
    return chunks(rows) * -(-columns // WARP)


def sources() -> tuple[str, ...]:
    """The files that hold kernels, without folder and ending."""
    return tuple(dict.fromkeys(kernel.source for kernel in KERNELS.values()))


def code(source: str, changed: Mapping[str, str] | None = None) -> str:
    """One source with what stands before it, as a compiler takes it; lines keep their file and number.

    changed: other texts of some of the files, by name.
    """
    names = (*PREAMBLE.get(source, ("common.cuh",)), f"{source}.cu")
    texts = {name: (FOLDER / name).read_text(encoding="utf-8") for name in names} | dict(changed or {})
    return "".join(f'#line 1 "{name}"\n{texts[name]}' for name in names)


def expressions(source: str) -> tuple[str, ...]:
    """All instances of a source's kernels, such as "margin_loss<float, Logistic>"."""
    return tuple(
        f"{kernel.name}<{variant}>"
        for kernel in KERNELS.values()
        if kernel.source == source
        for variant in kernel.variants
    )


@lru_cache(maxsize=256)
def parameters(name: str, variant: str) -> tuple[tuple[np.dtype[Any], bool, bool], ...]:
    """Of each argument: its dtype, whether it is an array, and whether the kernel writes it."""
    number: dict[str, np.dtype[Any]] = {
        **NUMBERS,
        "T": np.dtype(np.float32 if variant.startswith("float") else np.float64),
    }
    words = KERNELS[name].arguments.replace("const ", "const-").split()
    bare = [word.removeprefix("const-") for word in words]
    return tuple(
        (number[kind.removesuffix("*")], kind.endswith("*"), kind.endswith("*") and kind == word)
        for word, kind in zip(words, bare, strict=True)
    )


def arguments(name: str, variant: str, values: tuple[Any, ...]) -> list[Array | np.generic]:
    """values as the kernel takes them: arrays as they are, numbers in the argument's dtype.

    TypeError where their number, an array's dtype or its memory layout are not the table's: a kernel cannot tell.
    """
    expected = parameters(name, variant)
    if len(values) != len(expected):
        raise TypeError(f"{name} takes {len(expected)} arguments, got {len(values)}")
    out: list[Array | np.generic] = []
    for i, (value, (dtype, is_array, _)) in enumerate(zip(values, expected, strict=True)):
        if not is_array:
            out.append(dtype.type(value))
        elif value.dtype != dtype or not value.flags.c_contiguous:
            raise TypeError(
                f"argument {i} of {name} must be contiguous {dtype}, got {value.dtype}, {value.strides}"
            )
        else:
            out.append(value)
    return out
