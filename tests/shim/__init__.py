"""The CUDA kernels on the CPU: a `KernelLib` that runs accel/kernels/*.cu, compiled with g++, on NumPy arrays."""
