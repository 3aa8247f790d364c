"""NVRTC without a GPU: whether every kernel and type compiles for a real architecture, headers and all absent."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest

from accel.cuda import kernel_table


def nvrtc() -> ModuleType:
    """The compiler's bindings; skips the test, with the reason, where they or their library are missing."""
    bindings: ModuleType = pytest.importorskip("cuda.bindings.nvrtc", reason="needs pip install cuda-bindings")
    try:
        bindings.nvrtcVersion()
    except RuntimeError as error:  # the bindings without the library
        pytest.skip(f"needs pip install nvidia-cuda-nvrtc: {str(error).splitlines()[0]}")
    return bindings


def compiled(source: str, architecture: str, code: str | None = None) -> dict[str, int]:
    """Expression -> bytes of the cubin that holds it. AssertionError with NVRTC's log where it is refused."""
    bindings, names = nvrtc(), kernel_table.expressions(source)
    text = kernel_table.code(source) if code is None else code

    def checked(result: tuple[Any, ...], log: str = "") -> Any:
        assert result[0] == bindings.nvrtcResult.NVRTC_SUCCESS, f"{source} for {architecture}: {result[0]}\n{log}"
        return result[1] if len(result) > 1 else None

    program = checked(bindings.nvrtcCreateProgram(text.encode(), f"{source}.cu".encode(), 0, [], []))
    try:
        for name in names:
            checked(bindings.nvrtcAddNameExpression(program, name.encode()))
        # a quick look at the code: what is asked is whether it compiles
        options = [f"--gpu-architecture={architecture}", f"--std={kernel_table.DIALECT}", "--Ofast-compile=mid"]
        result = bindings.nvrtcCompileProgram(program, len(options), [option.encode() for option in options])
        log = b" " * checked(bindings.nvrtcGetProgramLogSize(program))
        checked(bindings.nvrtcGetProgramLog(program, log))
        checked(result, log.decode())
        assert b"warning" not in log, log.decode()
        size = checked(bindings.nvrtcGetCUBINSize(program))
        cubin = b" " * size
        checked(bindings.nvrtcGetCUBIN(program, cubin))
        for name in names:
            lowered = checked(bindings.nvrtcGetLoweredName(program, name.encode()))
            assert lowered in cubin, name
        return dict.fromkeys(names, size)
    finally:
        checked(bindings.nvrtcDestroyProgram(program))
