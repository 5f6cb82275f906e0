"""Tools that find faults in a Swin: this library's, or your own port of one."""

from swinpy.probe import tap
from swinpy.verify.compare import Diff, Difference, diff
from swinpy.verify.complexity import Complexity, LayerCost, complexity
from swinpy.verify.gradients import GradcheckReport, GradcheckRow, gradcheck_model
from swinpy.verify.kernels import KernelReport, validate_kernels
from swinpy.verify.layouts import windows_to_map
from swinpy.verify.leak import LeakReport, ReceptiveField, leak_test, receptive_field, window_regions
from swinpy.verify.recorder import trace
from swinpy.verify.trace_file import Trace, TraceFileError, fixed_weights
from swinpy.verify.training import decay_faults, drop_rates

__all__ = [
    "Complexity",
    "Diff",
    "Difference",
    "GradcheckReport",
    "GradcheckRow",
    "KernelReport",
    "LayerCost",
    "LeakReport",
    "ReceptiveField",
    "Trace",
    "TraceFileError",
    "complexity",
    "decay_faults",
    "diff",
    "drop_rates",
    "fixed_weights",
    "gradcheck_model",
    "leak_test",
    "receptive_field",
    "tap",
    "trace",
    "validate_kernels",
    "window_regions",
    "windows_to_map",
]
