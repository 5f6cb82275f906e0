"""Tools that find faults in a Swin: this library's, or your own port of one."""

from swinpy.probe import tap
from swinpy.verify.recorder import trace
from swinpy.verify.trace_file import Trace, TraceFileError, fixed_weights

__all__ = ["Trace", "TraceFileError", "fixed_weights", "tap", "trace"]
