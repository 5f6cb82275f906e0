"""The resources that a compiled kernel may use. Limits stand beside the launcher, and compile checks hold kernels to
them.

A launcher's module defines two names beside its ``*.cu`` file, which tests/kernels/test_cuda_compile.py reads:

    BUDGETS: dict[str, Budget]           one for each kernel of the file
    def variants() -> list[Program]      the programs to compile: each choice of ``#define``s that differs in code

Every kernel of every variant is compiled for each architecture that it runs on, and compared with its budget there.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Budget"]


@dataclass(frozen=True)
class Budget:
    """Limits for one kernel, over all variants and architectures.

    Attributes:
        registers: per thread.
        spill_bytes: of local memory per thread: spilled registers, and arrays that are indexed at run time.
        shared_bytes: of static shared memory per block. Dynamic shared memory is up to the launch.
        older_spill_bytes: in place of ``spill_bytes``, if more, for NVRTC 12.9 and 13.0, which keep fewer values in
            registers than 13.5.
    """

    registers: int
    spill_bytes: int = 0
    shared_bytes: int = 0
    older_spill_bytes: int = 0
