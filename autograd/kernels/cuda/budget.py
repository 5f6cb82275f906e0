"""What each compiled kernel may use: the limits that the compile checks hold it to, written beside its launcher.

A launcher module that stands beside a ``*.cu`` file offers two names, which tests/kernels/test_cuda_compile.py reads:

    BUDGETS: dict[str, Budget]           one for each kernel of the file
    def variants() -> list[Program]      the programs to compile: each choice of ``#define``s that differs in code

Every kernel of every variant is compiled for each architecture that it applies to and held to its budget there.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Budget"]


@dataclass(frozen=True)
class Budget:
    """Limits for one kernel, over all variants and architectures.

    Attributes:
        registers: of one thread, at most.
        spill_bytes: of local memory a thread: spilled registers, and arrays that are indexed at run time.
        shared_bytes: of static shared memory a block. Dynamic shared memory is the launch's.
    """

    registers: int
    spill_bytes: int = 0
    shared_bytes: int = 0
