"""CUDA kernels on a CPU: the same source compiled by g++, a fiber for every CUDA thread."""
