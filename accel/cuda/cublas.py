"""Matrix products on the tensor cores: a cuBLAS handle of our own, called through ctypes.

CuPy chooses the arithmetic of its products by an environment variable for the whole process, and refuses cuBLAS
while a CUDA graph is captured. Here every product says its arithmetic, on the stream of its choice. Arrays are
float32 in memory; "tf32" and "bfloat16" round what enters a product to 10 or 7 bits behind the point, and add in
float32 (NVIDIA, cuBLAS library, cublasComputeType_t).
"""

from __future__ import annotations

import ctypes
from typing import Any

from accel.buffers import Array, address
from accel.cuda.device import BOTH, line_of
from accel.sequence_ops import Precision

COMPUTE = {"float32": 68, "tf32": 77, "bfloat16": 75}  # CUBLAS_COMPUTE_32F, ..._FAST_TF32, ..._FAST_16BF
DOUBLE = 70  # CUBLAS_COMPUTE_64F
KINDS = {"float32": (0, ctypes.c_float), "float64": (1, ctypes.c_double)}  # CUDA_R_32F, CUDA_R_64F
DEFAULT_ALGORITHM = -1  # CUBLAS_GEMM_DEFAULT
LARGEST = 2**31 - 1  # its sizes are 32-bit integers


def load_cublas() -> Any:
    """The library that CuPy's packages bring; ImportError, one line with the cure, where it is not found."""
    try:
        from cuda.pathfinder import load_nvidia_dynamic_lib

        return ctypes.CDLL(load_nvidia_dynamic_lib("cublas").abs_path)
    except (ImportError, OSError, RuntimeError) as error:
        raise ImportError(f"tf32 and bfloat16 need cuBLAS ({line_of(error)}): {BOTH}") from error


class Cublas:
    """One handle of library. RuntimeError, with the call and its status, where cuBLAS refuses."""

    def __init__(self, library: Any) -> None:
        self._library, self._handle = library, ctypes.c_void_p()
        self._call("cublasCreate_v2", ctypes.byref(self._handle))

    def product(
        self, a: Array, b: Array, out: Array, precision: Precision, stream: int = 0, add: bool = False
    ) -> None:
        """out = a b, or out += a b where add, on a CUDA stream (its address; 0: the default one).

        a (M, K), b (K, N), out (M, N): float32 on the device, or all float64, for which precision does not count;
        rows or columns of a and b contiguous, out both.
        ValueError for other shapes, layouts and dtypes, and for sizes or row lengths of 2^31 or more.
        """
        (m, k), n = a.shape, b.shape[1]
        if b.shape[0] != k or out.shape != (m, n) or not out.flags.c_contiguous:
            raise ValueError(f"out must be contiguous ({m}, {n}) of ({m}, {k}) and {b.shape}, got {out.shape}")
        dtype = str(out.dtype)
        if dtype not in KINDS or {str(a.dtype), str(b.dtype)} != {dtype}:
            raise ValueError(f"a, b, out must all be float32 or float64, got {a.dtype}, {b.dtype}, {out.dtype}")
        if m == 0 or n == 0:
            return
        if k == 0:
            if not add:
                out[...] = 0
            return
        # columns first, out^T = b^T a^T: memory that holds rows of b holds columns of b^T
        (b_turned, b_step), (a_turned, a_step) = layout(b), layout(a)
        if max(m, n, k, a_step, b_step) > LARGEST:
            raise ValueError(f"sizes and steps must be < 2^31, got {m}, {n}, {k}; {a_step}, {b_step}")
        self._call("cublasSetStream_v2", self._handle, ctypes.c_void_p(stream))
        kind, scalar = KINDS[dtype]
        one, kept = scalar(1), scalar(add)
        compute = COMPUTE[precision] if dtype == "float32" else DOUBLE
        # fmt: off
        self._call(
            "cublasGemmEx", self._handle, b_turned, a_turned, n, m, k, ctypes.byref(one),
            ctypes.c_void_p(address(b)), kind, b_step, ctypes.c_void_p(address(a)), kind, a_step,
            ctypes.byref(kept), ctypes.c_void_p(address(out)), kind, n, compute, DEFAULT_ALGORITHM,
        )
        # fmt: on

    def _call(self, name: str, *values: Any) -> None:
        status = getattr(self._library, name)(*values)
        if status:
            raise RuntimeError(f"{name} failed with status {status}")


def layout(array: Array) -> tuple[int, int]:
    """Of a matrix: 0 where its rows are contiguous, 1 where its columns are; numbers from one to the next.

    ValueError where neither is.
    """
    (rows, columns), steps = array.shape, [step // array.itemsize for step in array.strides]
    by_rows, by_columns = steps[0] if rows > 1 else columns, steps[1] if columns > 1 else rows
    if (columns == 1 or steps[1] == 1) and by_rows >= columns:
        return 0, by_rows
    if (rows == 1 or steps[0] == 1) and by_columns >= rows:
        return 1, by_columns
    raise ValueError(f"a matrix must have contiguous rows or columns, got {array.shape} with steps {steps}")
