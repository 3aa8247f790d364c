"""`get_ops`: the backend of that name, or an error that says what is missing. Only here are backends imported."""

from __future__ import annotations

from accel.ops import Ops
from accel.sequence_ops import PRECISIONS, Precision

INSTALL = {"numba": "pip install numba"}


def get_ops(name: str, threads: int | None = None, precision: Precision = "float32") -> Ops:
    """The backend of that name: "numpy", "numba" (compiled for this CPU) or "cupy" (an NVIDIA GPU).

    threads: how many the numba backend uses at most; None: all cores that this process may use. precision: what
    the cupy backend rounds float32 numbers to that enter a product of the Transformer's layers (not attention's):
    "tf32" and "bfloat16" are for the tensor cores; sums stay float32. Raises ImportError with the install line
    where a backend is missing, never another in its place; ValueError for other names, for threads < 1, and for
    threads or a precision with a backend that does not choose them.
    """
    if name not in ("numpy", "numba", "cupy"):
        raise ValueError(f"ops must be numpy, numba or cupy, got {name}")
    if threads is not None and name != "numba":
        raise ValueError(f"threads must go with numba, got {threads} with {name}")
    if precision not in PRECISIONS:
        raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}, got {precision}")
    if precision != "float32" and name != "cupy":
        raise ValueError(f"precision must go with cupy, got {precision} with {name}")
    if name == "numpy":
        return Ops()
    if name == "cupy":
        return cupy_ops(precision)
    try:
        from accel.cpu.ops import NumbaOps
    except ModuleNotFoundError as error:
        if error.name != "numba":
            raise
        raise ImportError(f"the numba backend needs numba: {INSTALL['numba']}") from error
    return NumbaOps(threads)


def cupy_ops(precision: Precision) -> Ops:
    """`get_ops("cupy")`. Where ctypes finds no cuBLAS there is float32 alone, and drawing is slow."""
    from accel.cuda.cublas import Cublas, load_cublas
    from accel.cuda.device import find_cupy
    from accel.cuda.launcher import CupyLib
    from accel.cuda.ops import CupyOps

    cupy = find_cupy()
    try:
        cublas = Cublas(load_cublas())
    except ImportError:
        if precision != "float32":
            raise
        cublas = None
    return CupyOps(cupy, CupyLib(cupy, cublas), precision=precision)
