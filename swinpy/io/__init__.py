"""Files that hold weights: every form in common use read without torch, two of them written, durably.

It knows nothing of Swin and needs nothing of the engine.
"""

from swinpy.io.errors import TensorFileError, WeightsFileError
from swinpy.io.read import Checkpoint, read_checkpoint, read_weights
from swinpy.io.safetensors.read import read_tensors
from swinpy.io.safetensors.write import write_tensors
from swinpy.io.torch.write import torch_file_bytes, write_torch_file
from swinpy.io.write import TORCH_SUFFIXES, has_metadata, write_weights

__all__ = [
    "TORCH_SUFFIXES",
    "Checkpoint",
    "TensorFileError",
    "WeightsFileError",
    "has_metadata",
    "read_checkpoint",
    "read_tensors",
    "read_weights",
    "torch_file_bytes",
    "write_tensors",
    "write_torch_file",
    "write_weights",
]
