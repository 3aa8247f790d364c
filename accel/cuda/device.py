"""CuPy with a GPU below it, or one line that says what is missing and what to install."""

from __future__ import annotations

from importlib import import_module
from typing import Any

BOTH = "pip install 'pbde[cuda13]', or 'pbde[cuda12]' for a driver of CUDA 12"
OTHERWISE = "or use the numba backend"


def find_cupy() -> Any:
    """The module cupy, when it can compute. ImportError, one line with the cure, where CuPy is missing or broken,
    there is no driver, one of another CUDA, no GPU, no cuBLAS or no NVRTC."""
    try:
        cupy = import_module("cupy")
    except ModuleNotFoundError as error:
        if error.name != "cupy":
            raise
        raise ImportError(f"the cupy backend needs CuPy: {BOTH}") from error
    except ImportError as error:
        raise ImportError(f"CuPy is installed but broken ({line_of(error)}): uninstall it, then {BOTH}") from error
    if not cupy.is_available():
        raise ImportError(f"the cupy backend needs a GPU: {no_device(cupy.cuda.runtime)}")
    major = cupy.cuda.runtime.runtimeGetVersion() // 1000
    try:
        import_module("cupy.cublas")
        cupy.cuda.nvrtc.getVersion()
    except (ImportError, RuntimeError) as error:
        missing = f"CuPy does not find cuBLAS or NVRTC ({line_of(error)})"
        raise ImportError(f"{missing}: pip install 'pbde[cuda{major}]', which has them") from error
    return cupy


def no_device(runtime: Any) -> str:
    """Why CuPy's runtime has no device, and the cure."""
    driver, needed = runtime.driverGetVersion(), runtime.runtimeGetVersion()
    if driver == 0:
        return f"there is no NVIDIA driver; install one, {OTHERWISE}"
    if driver // 1000 < needed // 1000:
        other = f"pip uninstall cupy-cuda{needed // 1000}x, then pip install 'pbde[cuda{driver // 1000}]'"
        return (
            f"the driver is for CUDA {version(driver)}, this CuPy for CUDA {version(needed)}; {other}, "
            "or update the driver"
        )
    try:
        found = f"{runtime.getDeviceCount()} are visible"
    except RuntimeError as error:
        found = line_of(error)
    return f"none can be used ({found}); look at nvidia-smi and CUDA_VISIBLE_DEVICES, {OTHERWISE}"


def version(number: int) -> str:
    """12080 -> 12.8."""
    return f"{number // 1000}.{number % 1000 // 10}"


def line_of(error: Exception) -> str:
    """The first line of an error that has words, at most 100 characters."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip(" *=-")]
    return lines[0][:100] if lines else type(error).__name__
