"""CIFAR-10 and CIFAR-100.

`layouts` knows the published archives and their records, `archive` checks and opens them, `download` fetches them, and
`pickled` reads the files of the "python version" without running anything.
"""

from swinpy.data.cifar.layouts import (
    CIFAR10,
    CIFAR100,
    CifarFormat,
    load_cifar,
    read_cifar_binary,
    write_cifar_binary,
)

__all__ = ["CIFAR10", "CIFAR100", "CifarFormat", "load_cifar", "read_cifar_binary", "write_cifar_binary"]
