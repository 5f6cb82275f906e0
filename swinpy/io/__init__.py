"""Files that hold weights: every form in common use read without torch, two of them written, durably."""

from swinpy.io.safetensors_file import TensorFileError, read_tensors, write_tensors
from swinpy.io.weights.errors import WeightsFileError
from swinpy.io.weights.read import Checkpoint, read_checkpoint, read_weights
from swinpy.io.weights.write import torch_file_bytes, write_torch_file

__all__ = [
    "Checkpoint",
    "TensorFileError",
    "WeightsFileError",
    "read_checkpoint",
    "read_tensors",
    "read_weights",
    "torch_file_bytes",
    "write_tensors",
    "write_torch_file",
]
