"""Files that import Numba at their top are not collected (for their doctests) where it is not installed."""

from importlib.util import find_spec

_COMPILED = ["autograd/kernels/cpu/[a-z]*.py", "swinpy/kernels/*_cpu.py"]

collect_ignore_glob = _COMPILED if find_spec("numba") is None else []
