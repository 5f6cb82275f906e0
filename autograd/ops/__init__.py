"""Every op of the engine, by NumPy's name where NumPy has one, else torch.nn.functional's."""

from autograd.ops import _all
from autograd.ops._all import *  # noqa: F403

__all__ = [name for name in vars(_all) if not name.startswith("_")]
