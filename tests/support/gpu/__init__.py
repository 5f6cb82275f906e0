"""CUDA without a GPU: stand-ins for CuPy and the hardware, what is compiled and launched, and the checks for both."""
