"""The ops on an NVIDIA GPU: CuPy and CUDA kernels. Imported when `get_ops("cupy")` asks for it."""
