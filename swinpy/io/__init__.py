"""Files that hold weights: the safetensors format, and the durable writing that it and the snapshots share."""

from swinpy.io.files import read_weights, write_weights
from swinpy.io.safetensors_file import TensorFileError, read_tensors, write_tensors

__all__ = ["TensorFileError", "read_tensors", "read_weights", "write_tensors", "write_weights"]
